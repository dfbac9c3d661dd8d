"""Recordings of a directory or a store in batches, on the processes of a Dask cluster."""
