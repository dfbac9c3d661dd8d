"""Readers of recording files: WFDB, EDF, CSV, NPY and archives of them."""
