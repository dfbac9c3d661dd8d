"""The arithmetic of the signal path in C, and the door to it."""
