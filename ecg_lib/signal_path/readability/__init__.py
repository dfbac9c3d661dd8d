"""Readable stretches of a signal, and findings that are not beats."""
