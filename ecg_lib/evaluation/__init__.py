"""EC57 scores of beats, runs and R-peaks, with intervals."""
