"""R-peak detection and matching."""
