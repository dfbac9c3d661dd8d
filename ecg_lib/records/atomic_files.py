"""Write a file whole or not at all, and leave room on the disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LEAST_FREE_BYTES: Final = 2**30
"""Free space that is left for databases, logs and a rollback."""


def require_room(directory: Path, *, n_bytes: int = 0) -> None:
    """Check that the disk of a directory keeps enough free space when something is written.

    Parameters
    ----------
    directory : Path
        Target; if it is missing, the nearest parent that exists.
    n_bytes : int
        Bytes to write, if known.

    Raises
    ------
    OSError
        ENOSPC, if less than :data:`LEAST_FREE_BYTES` would stay free.

    """
    there = next(
        one for one in (directory.absolute(), *directory.absolute().parents) if one.exists()
    )
    free = shutil.disk_usage(there).free
    if free < n_bytes + LEAST_FREE_BYTES:
        msg = (
            f"{n_bytes + LEAST_FREE_BYTES:,} bytes of the disk of {directory} must be free, "
            f"{free:,} are"
        )
        raise OSError(errno.ENOSPC, msg)


@contextmanager
def replacing(path: Path, *, is_durable: bool = False) -> Iterator[Path]:
    """Yield the path of a draft, which replaces a file when the block ends without an error.

    After an error the draft is removed and the file stays as it was. Each process has its own
    draft, in the directory of the file. A durable file survives the loss of power.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        yield draft
        if is_durable:
            _sync(draft)
        draft.replace(path)
        if is_durable:
            _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, in UTF-8."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_durably(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, so that it also survives the loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, is_durable=True) as draft:
        draft.write_text(text, encoding="utf-8")


def state_of(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file does; None for one that is missing or cannot be looked at.

    Its mode and its owner count too: the time of the last change of status goes with them.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
