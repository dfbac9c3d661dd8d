"""What one client may take: requests, connections, memory, and turns at the processor."""
