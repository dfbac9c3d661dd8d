"""Locks that show which workers of a sweep live; a lock falls with its process."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

_WORKERS: Final = "workers"


@contextmanager
def present(sweep: Path) -> Iterator[str]:
    """Be a worker of a sweep; yields its name.

    The lock file stays, so that others see that its process has ended: those with the same
    directory, which is of the sweep itself on the machine that leads it. On others only heartbeats
    tell whether the worker lives.
    """
    worker = f"{socket.gethostname()}-{uuid4().hex[:8]}"
    (sweep / _WORKERS).mkdir(parents=True, exist_ok=True)
    with (sweep / _WORKERS / worker).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield worker


def is_gone(sweep: Path, worker: str) -> bool:
    """Check whether a worker has ended; False when its lock is on another machine."""
    try:
        with (sweep / _WORKERS / worker).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return False
    return True


def forget_gone(sweep: Path) -> None:
    """Remove the locks of workers that have ended; no trial may name one of them."""
    for path in (sweep / _WORKERS).glob("*"):
        if is_gone(sweep, path.name):
            path.unlink(missing_ok=True)


def has_workers(sweep: Path) -> bool:
    """Check whether a worker of this machine lives."""
    return any(not is_gone(sweep, path.name) for path in (sweep / _WORKERS).glob("*"))
