"""The beat classifier and the bundle that holds it."""
