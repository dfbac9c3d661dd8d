"""The report of a recording as HTML and PDF."""
