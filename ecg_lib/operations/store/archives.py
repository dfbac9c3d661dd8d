"""Directories as archives of the store, packed and unpacked within limits."""

from __future__ import annotations

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ecg_lib.operations.store.objects import MOST_FILE_BYTES, ObjectStore, StoreError

_MOST_FILES: Final = 100_000
_COMPRESSION: Final = 6
_MOST_PADDING: Final = 2**20


class DamagedArchiveError(StoreError):
    """An archive of the store that cannot be unpacked."""


def upload_directory(
    store: ObjectStore,
    directory: Path,
    key: str,
    *,
    leave_out: str | None = None,
    compression: int = _COMPRESSION,
) -> None:
    """Write a directory to the store as a packed archive.

    Parameters
    ----------
    store : ObjectStore
    directory : Path
    key : str
        Object that is written.
    leave_out : str, optional
        Name of the folders that are left out, wherever they are.
    compression : int
        Level of gzip.

    Raises
    ------
    StoreError
        If the store cannot be reached, or a file cannot be read.

    """

    def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if leave_out in Path(member.name).parts else member

    with tempfile.TemporaryDirectory(prefix="ecg-upload-") as draft:
        archive = Path(draft) / "archive.tar.gz"
        try:
            with tarfile.open(archive, "w:gz", compresslevel=compression) as packed:
                packed.add(directory, arcname=".", filter=keep)
        except OSError as error:
            msg = f"{directory.name} cannot be packed for the store: {error.strerror or error}"
            raise StoreError(msg) from error
        store.upload(archive, key)


def pack_files(directory: Path, names: Sequence[str], archive: Path) -> None:
    """Pack files of a directory, with their times of change.

    Raises
    ------
    OSError
        If a file cannot be read.

    """
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        for name in names:
            packed.add(directory / name, arcname=name, recursive=False)


def download_directory(
    store: ObjectStore, key: str, draft: Path, *, most_bytes: int = MOST_FILE_BYTES
) -> bool:
    """Unpack an archive of the store into a directory that does not exist yet.

    Parameters
    ----------
    store : ObjectStore
    key : str
        Object that is read.
    draft : Path
        The archive is copied beside it. If this fails, parts of it may be there.
    most_bytes : int
        Greatest size of the archive, and of its files together.

    Returns
    -------
    bool
        False if there is no such object.

    Raises
    ------
    StoreError
        If the store cannot be reached, or the archive is too large.
    DamagedArchiveError
        If the archive is damaged, or has members outside its directory.

    """
    archive = draft.with_name(f"{draft.name}.tar.gz")
    try:
        if not store.download(key, archive, most_bytes=most_bytes):
            return False
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
            packed.extractall(draft, members=_bounded(packed, key, most_bytes), filter="data")
            _check_end(stream)
        archive.unlink()
    except (gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error) as error:
        msg = f"{key} of the store cannot be unpacked: {error}"
        raise DamagedArchiveError(msg) from error
    except OSError as error:
        msg = f"{key} of the store cannot be unpacked: {error}"
        raise StoreError(msg) from error
    return True


def _check_end(stream: gzip.GzipFile) -> None:
    """Read what pads the archive, after which gzip compares the checksum of the whole."""
    if len(stream.read(_MOST_PADDING)) == _MOST_PADDING:
        msg = f"more than {_MOST_PADDING} bytes follow its last file"
        raise gzip.BadGzipFile(msg)


def _bounded(packed: tarfile.TarFile, key: str, most_bytes: int) -> Iterator[tarfile.TarInfo]:
    n_bytes = 0
    for number, member in enumerate(packed):
        n_bytes += member.size
        if n_bytes > most_bytes or number >= _MOST_FILES:
            msg = (
                f"{key} of the store must have at most {most_bytes / 2**30:g} GiB and "
                f"{_MOST_FILES} files"
            )
            raise StoreError(msg)
        yield member
