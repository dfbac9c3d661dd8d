"""Drawings and pages of every written report."""
