"""Packaging, release and rollback."""
