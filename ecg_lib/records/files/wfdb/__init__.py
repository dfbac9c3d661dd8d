"""Read WFDB records, and write annotations."""
