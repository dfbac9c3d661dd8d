"""Read recordings in text files."""
