"""Signatures, notes and aliases of releases, and checks of all stores against each other."""
