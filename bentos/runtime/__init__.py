"""What a worker holds: the model, the spool, metrics, keys and traces."""
