"""The interface of a store of objects, which is opened by its URL.

A write is conditional where two machines could write the same object: it names the version that it
replaces, and fails when another one is there. Everything else is written once, under a name that
is made of its content, or by one machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from ecg_lib.errors import EcgError

MOST_READ_BYTES: Final = 64 * 1024**2
"""Of an object that is read into memory: a pointer, a lease, the ledger."""

MOST_FILE_BYTES: Final = 2 * 1024**3
"""Of an object that is written to a file: code or bundle of a release."""

_S3: Final = "s3"
_FOLDER: Final = "file"


class StoreError(EcgError):
    """The store cannot be reached, or refuses what was asked."""


class ConflictError(StoreError):
    """An object has another version than the one to replace: another machine wrote it."""


class Stored(NamedTuple):
    """A small object."""

    content: bytes
    version: str
    """Changes when the content does."""


class ObjectStore(Protocol):
    """Objects by key, such as ``serving/current.json``; whole or not at all.

    Each method raises :class:`StoreError` when the store cannot be reached or refuses.
    """

    def read(self, key: str, *, most_bytes: int = MOST_READ_BYTES) -> Stored | None:
        """Read a small object, refuse a larger one; None when there is none."""

    def find_version(self, key: str) -> str | None:
        """Return the version of an object without its content; None when there is none."""

    def replace(self, key: str, content: bytes, *, expected: str | None) -> str:
        """Write an object if it still has the expected version; None where there must be none.

        Returns the new version. Raises :class:`ConflictError` when there is another one.
        """

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whatever is there."""

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, whatever is there."""

    def download(self, key: str, path: Path, *, most_bytes: int = MOST_FILE_BYTES) -> bool:
        """Write an object to a file; False when there is none.

        An object that is larger, or for which the disk has no room, is refused before it is copied.
        """

    def list_keys(self, prefix: str) -> list[str]:
        """List the keys that begin with a prefix, sorted."""


def check_size(key: str, n_bytes: int, *, most_bytes: int) -> None:
    """Refuse an object that is larger than such an object can be.

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
        Of :attr:`ecg_lib.operations.settings.Settings.store_url`, which checks its form.

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
