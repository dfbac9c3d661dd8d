"""The store that several machines share: an S3 API, or a folder."""
