"""The states of the processes of the platform, and the socket of the service."""
