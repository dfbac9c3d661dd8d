"""Drift checks and test traffic."""
