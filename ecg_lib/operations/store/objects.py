"""The interface of an object store, and how to open one by its URL.

Where two machines could write the same object, the write is conditional: it names the version that
it replaces, and fails if the object has another one. All other objects are written once, under a
name made from their content, or by one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from ecg_lib.errors import EcgError

MOST_READ_BYTES: Final = 64 * 1024**2
"""Largest object that is read into memory: a pointer, a lease, the ledger."""

MOST_FILE_BYTES: Final = 2 * 1024**3
"""Largest object that is written to a file: code or bundle of a release."""

_S3: Final = "s3"
_FOLDER: Final = "file"


class StoreError(EcgError):
    """The store cannot be reached, or rejects a request."""


class ConflictError(StoreError):
    """Another machine has written an object meanwhile."""


class Stored(NamedTuple):
    """A small object."""

    content: bytes
    version: str
    """Changes when the content does."""


class Listed(NamedTuple):
    """An object of a listing."""

    key: str
    modified_s: float
    """When it was written, by the clock of the store, in seconds since 1970."""


class ObjectStore(Protocol):
    """Objects by key, such as ``serving/current.json``; each is written whole or not at all.

    Each method raises :class:`StoreError` if the store cannot be reached or rejects the request.
    """

    def read(self, key: str, *, most_bytes: int = MOST_READ_BYTES) -> Stored | None:
        """Read an object of up to `most_bytes`; None if there is none."""

    def find_version(self, key: str) -> str | None:
        """Return the version of an object without reading it; None if there is none."""

    def replace(self, key: str, content: bytes, *, expected: str | None) -> str:
        """Write an object if it has the expected version, or if None is expected and it is missing.

        Returns the new version. Raises :class:`ConflictError` otherwise.
        """

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, replacing any other."""

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, replacing any other."""

    def download(self, key: str, path: Path, *, most_bytes: int = MOST_FILE_BYTES) -> bool:
        """Write an object to a file; False if there is none.

        An object that is too large for `most_bytes` or the disk is rejected before it is copied.
        """

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""

    def list_objects(self, prefix: str) -> Iterator[Listed]:
        """List the objects below a prefix that ends with a slash, in no order."""


def check_size(key: str, n_bytes: int, *, most_bytes: int) -> None:
    """Reject an object that is too large.

    Raises
    ------
    StoreError

    """
    if n_bytes > most_bytes:
        msg = f"{key} of the store must have at most {most_bytes:,} bytes, it has {n_bytes:,}"
        raise StoreError(msg)


def open_store(url: str) -> ObjectStore:
    """Open a store by its URL: ``s3://bucket/prefix``, or ``file:///folder``.

    Parameters
    ----------
    url : str
        As :attr:`ecg_lib.operations.settings.Settings.store_url`, which checks its form.

    Raises
    ------
    StoreError
        If it has another scheme.

    """
    parts = urlsplit(url)
    if parts.scheme == _S3:
        from ecg_lib.operations.store.s3_objects import S3Objects  # noqa: PLC0415  half a second

        return S3Objects(parts.netloc, parts.path.strip("/"))
    if parts.scheme == _FOLDER:
        from ecg_lib.operations.store.folder_objects import FolderObjects  # noqa: PLC0415

        return FolderObjects(Path(parts.path))
    msg = f"a store must be s3://BUCKET/PREFIX or file:///FOLDER, got {parts.scheme}://"
    raise StoreError(msg)
