"""A lock that keeps retention from deleting prepared records that an ingest is about to use.

A dataset version names its records only when all of them are prepared. Until then, records that an
earlier run has prepared look unused.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOCK: Final = "records.lock"


@contextmanager
def adding_records(datasets_dir: Path) -> Iterator[None]:
    """Prevent the deletion of prepared records in the block; several processes may add records."""
    datasets_dir.mkdir(parents=True, exist_ok=True)
    with (datasets_dir / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def deleting_records(datasets_dir: Path) -> Iterator[bool]:
    """Prevent adding prepared records in the block; yield whether records may be deleted.

    That is False while another process adds or deletes records.
    """
    datasets_dir.mkdir(parents=True, exist_ok=True)
    with (datasets_dir / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
