"""Limits of one client: requests, connections, memory, and turns at the processor."""
