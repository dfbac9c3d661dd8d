"""The loop that learns, shown end to end on simulated people in a home of its own."""
