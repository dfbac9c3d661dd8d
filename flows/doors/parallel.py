"""Run jobs in a few processes; the only door to joblib."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from joblib import Parallel, delayed

N_PROCESSES: Final = 2
"""Processes that prepare, fit and score at a time: the work is meant for two cores."""

T = TypeVar("T")


def run_in_processes(jobs: Iterable[Callable[[], T]], *, is_ordered: bool = True) -> Iterator[T]:
    """Run jobs, and yield their results as they come.

    Args:
        jobs: What to run; each must be picklable.
        is_ordered: Yield in the order of the jobs; else each result as soon as it is there.
    """
    order = "generator" if is_ordered else "generator_unordered"
    yield from Parallel(n_jobs=N_PROCESSES, return_as=order)(delayed(job)() for job in jobs)


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process or thread is in a block of this lock file.

    The lock ends with its process; its file stays.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
