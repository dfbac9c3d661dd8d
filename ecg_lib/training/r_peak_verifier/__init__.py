"""The network of the R-peak detector: what it learns from, and its fit."""
