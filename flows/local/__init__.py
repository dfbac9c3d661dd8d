"""The command line and the processes of a local platform."""
