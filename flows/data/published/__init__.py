"""Published SHA-256 hashes and sizes of the files of databases, for ``sha256sum -c``."""
