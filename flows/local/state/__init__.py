"""The state of a home in one file: backup and restore."""
