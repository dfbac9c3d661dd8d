"""The schema of the monitoring database: its tables, and the way from one version to the next."""
