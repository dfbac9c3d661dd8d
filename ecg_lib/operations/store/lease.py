"""A lease in the store, so that one machine at a time releases or rolls back.

It expires some minutes after its machine has died. That a slow machine may lose its lease is safe:
each write of the served release names the version that it replaces.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_lib.operations.store.objects import ConflictError, ObjectStore, StoreError

KEY: Final = "serving/lease.json"
LEASE_S: Final = 300.0
"""Longer than a release takes to copy its files and wait for the service."""

_SKEW_S: Final = 60.0
"""Largest difference between clocks; a lease that ends later than that allows is invalid."""

_NO_VERSION: Final = f'"{"0" * 32}"'
"""An ETag that no object has."""

_POLL_S: Final = 0.5

_logger = logging.getLogger(__name__)


class LeaseHeldError(StoreError):
    """Another machine releases or rolls back."""


class Lease(BaseModel):
    """The home that may release, and until when. Clocks of machines must agree to some seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: str
    token: str
    until_s: float
    """Seconds since 1970."""


@contextmanager
def leased(
    store: ObjectStore,
    *,
    owner: str,
    wait_s: float,
    now: Callable[[], float] = time.time,
) -> Iterator[None]:
    """Hold the lease.

    Parameters
    ----------
    store : ObjectStore
    owner : str
        Names the home. A home takes over its own lease at once: the caller holds the lock of the
        home, so the process that had the lease has ended.
    wait_s : float
        How long to wait for another machine.
    now : callable
        The clock, in seconds since 1970.

    Raises
    ------
    LeaseHeldError
        If another machine holds it for too long.
    StoreError
        If the store cannot be reached, or has no conditional writes.

    """
    deadline_s = time.monotonic() + wait_s
    while (version := _take(store, owner, now)) is None:
        if time.monotonic() >= deadline_s:
            held = _read(store)
            holder = "another machine" if held is None else held.owner
            msg = f"only one machine may release at a time, and {holder} does; try again later"
            raise LeaseHeldError(msg)
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        ended = Lease(owner=owner, token=secrets.token_hex(8), until_s=0.0)
        try:
            store.replace(KEY, _dump(ended), expected=version)
        except ConflictError:
            pass  # it had expired, and another machine has it
        except StoreError as error:
            _logger.warning("the lease was not given back and expires in some minutes: %s", error)


def _take(store: ObjectStore, owner: str, now: Callable[[], float]) -> str | None:
    """Write the lease if it is free, and return its version."""
    found = store.read(KEY)
    wanted = Lease(owner=owner, token=secrets.token_hex(8), until_s=now() + LEASE_S)
    try:
        if found is None:
            version = store.replace(KEY, _dump(wanted), expected=None)
        else:
            held = _parse(found.content)
            is_valid = held is not None and 0 < held.until_s - now() <= LEASE_S + _SKEW_S
            if held is not None and held.owner != owner and is_valid:
                return None
            version = store.replace(KEY, _dump(wanted), expected=found.version)
    except ConflictError:
        return None
    _check_conditions(store, wanted)
    return version


def _check_conditions(store: ObjectStore, lease: Lease) -> None:
    """Reject a store that ignores the condition of a write."""
    other = lease.model_copy(update={"token": secrets.token_hex(8)})
    for condition, expected in (("If-None-Match", None), ("If-Match", _NO_VERSION)):
        try:
            store.replace(KEY, _dump(other), expected=expected)
        except ConflictError:
            continue
        msg = (
            f"the store must have conditional writes ({condition}), it ignores them; two machines "
            "could then serve different releases"
        )
        raise StoreError(msg)


def _read(store: ObjectStore) -> Lease | None:
    found = store.read(KEY)
    return None if found is None else _parse(found.content)


def _parse(content: bytes) -> Lease | None:
    """Parse a lease; None for a damaged one, which is replaced."""
    try:
        return Lease.model_validate_json(content)
    except ValidationError:
        return None


def _dump(lease: Lease) -> bytes:
    return lease.model_dump_json(indent=2).encode()
