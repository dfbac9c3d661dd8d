"""Promotion and the EC57 report."""
