"""A candidate beside the served model: loading, shadow comparisons, and the end at once."""
