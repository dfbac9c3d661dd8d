"""Start processes, watch, restart and end them."""
