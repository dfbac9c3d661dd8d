"""One lock between those who add prepared records and those who delete them.

A dataset version names its records when all of them are prepared. Until then, nothing tells that
those which an earlier run had prepared are needed again.
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
    """Let nobody delete prepared records within the block; several processes may add some."""
    datasets_dir.mkdir(parents=True, exist_ok=True)
    with (datasets_dir / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def deleting_records(datasets_dir: Path) -> Iterator[bool]:
    """Let nobody add prepared records within the block; gives whether they may be deleted.

    They may not while another process adds or deletes some.
    """
    datasets_dir.mkdir(parents=True, exist_ok=True)
    with (datasets_dir / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
