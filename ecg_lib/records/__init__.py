"""Records, their annotations, noise and limits, and the files that hold them."""
