"""The contract of the wire: requests, answers and problems."""
