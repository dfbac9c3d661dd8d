"""Keep a second run from writing to an output: by a file lock here, by Prefect for a store."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from flows.recordings.analyzed_files import AnalysisError
from flows.recordings.batches.places import Place

LEASE_S: Final = 60.0
"""Time after which Prefect's server takes the slot of a killed run back; Prefect allows no less."""

_WAIT_S: Final = 1.5 * LEASE_S
"""Time that a run waits for the slot: longer than that of a run which was killed just now."""


def only_run_on(output: Place) -> AbstractContextManager[None]:
    """Be the only run that writes to an output.

    The lock of a directory falls with its process. A store has no locks, so there Prefect's server
    leases a slot to one run at a time, and takes it back a minute after a run was killed.

    Raises:
        AnalysisError: If another run writes to it.
    """
    return _by_file(output) if output.is_local else _by_lease(output)


@contextmanager
def _by_file(output: Place) -> Iterator[None]:
    lock = output.below("_state", "lock").as_path()
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refuse(output) from error
        yield


@contextmanager
def _by_lease(output: Place) -> Iterator[None]:
    name = f"recordings-{hashlib.sha256(output.url.encode()).hexdigest()[:16]}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, limit=1)
    with ExitStack() as stack:
        try:
            stack.enter_context(
                concurrency(name, timeout_seconds=_WAIT_S, lease_duration=LEASE_S, strict=True)
            )
        except TimeoutError as error:
            raise _refuse(output) from error
        yield


def _refuse(output: Place) -> AnalysisError:
    return AnalysisError(
        f"one run at a time may write to {output.url}, and another one does; wait for its end, or "
        "name another output_dir"
    )
