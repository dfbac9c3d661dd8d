"""What can be read of a signal, and findings that are not beats."""
