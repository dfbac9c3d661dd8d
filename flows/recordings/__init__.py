"""Batches of long recordings."""
