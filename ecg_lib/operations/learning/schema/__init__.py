"""The schema of the monitoring database: its tables and their migrations."""
