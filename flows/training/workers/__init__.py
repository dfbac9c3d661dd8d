"""Several flow runs that work on one sweep."""
