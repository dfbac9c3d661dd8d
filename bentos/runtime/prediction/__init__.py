"""One prediction: what is computed, where, and whose patient it is."""
