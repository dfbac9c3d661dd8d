"""The sweep and its parts."""
