"""Retention: deletion store by store, and the flow that runs all of it."""
