"""Deletes, store by store, what the settings keep no longer, and the flow that does all of it."""
