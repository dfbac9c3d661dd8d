"""Pages: the viewer, and those of operators and readers."""
