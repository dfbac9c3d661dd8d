"""The parts of a worker: the model, the spool, metrics, keys and traces."""
