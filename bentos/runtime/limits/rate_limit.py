"""How many requests a client may send in a minute, counted over all workers of a host.

The counts of this minute and the last are kept in a table that the workers share (a file mapped
into memory). The last minute counts by the part of it that lies less than a minute back, so a
client that waits for the minute to turn gains nothing. Two workers that count one client at the
same moment may lose one of both; nobody waits for a lock.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final, NamedTuple

TABLE_VARIABLE: Final = "ECG_RATE_LIMIT_FILE"
"""Names the file of the table to workers; set by the host."""

_SLOT: Final = struct.Struct("<QIII4x")  # who, minute, requests in it, requests in the one before
_SLOTS: Final = 2**15
_PROBES: Final = 8
_MINUTE_S: Final = 60.0
_TINY_S: Final = 1e-6


class _Slot(NamedTuple):
    who: int
    minute: int
    n_now: int
    n_before: int


def open_rate_limit(per_minute: int) -> RateLimit | None:
    """Open the table of this host's workers; None when there is no limit."""
    if per_minute == 0:
        return None
    path = os.environ.get(TABLE_VARIABLE)
    return RateLimit(per_minute, path=Path(path) if path else None)


def open_table(path: Path | None, n_bytes: int) -> mmap.mmap:
    """Map a file into memory for all workers of a host, made when missing; else memory alone."""
    if path is None:
        return mmap.mmap(-1, n_bytes)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, n_bytes)
        return mmap.mmap(descriptor, n_bytes)
    finally:
        os.close(descriptor)


class RateLimit:
    """A table of clients and their requests.

    Parameters
    ----------
    per_minute : int
        Requests that a client may send.
    path : Path, optional
        File of the table, which is made when there is none; without it the table is that of
        this process alone.

    """

    def __init__(self, per_minute: int, *, path: Path | None = None) -> None:
        self._per_minute = per_minute
        self._table = open_table(path, _SLOTS * _SLOT.size)

    def take(self, client: bytes, *, now_s: float | None = None) -> int:
        """Count a request.

        Parameters
        ----------
        client : bytes
            Who sends it.
        now_s : float, optional
            Time since some moment that all workers share.

        Returns
        -------
        int
            0 when it is within the limit, else the seconds after which the next one will be.

        """
        # The system's monotonic clock is one for all processes.
        now_s = time.monotonic() if now_s is None else now_s
        minute, past_s = divmod(now_s + _MINUTE_S, _MINUTE_S)  # minute 0 is an empty slot's
        who = int.from_bytes(hashlib.blake2b(client, digest_size=8).digest(), "little")
        offset, slot = self._find(who, int(minute))
        past = past_s / _MINUTE_S
        wait_s = _MINUTE_S * self._wait(slot, past)
        if wait_s >= 0:
            return math.floor(wait_s + _TINY_S) + 1
        _SLOT.pack_into(self._table, offset, who, slot.minute, slot.n_now + 1, slot.n_before)
        return 0

    def _wait(self, slot: _Slot, past: float) -> float:
        """Minutes after which the sum of the last minute is below the limit; negative if it is."""
        room = self._per_minute - slot.n_now
        if room <= 0:
            # Not before the minute turns; then this one's count shrinks from all to nothing.
            return 1 - past + 1 - self._per_minute / slot.n_now
        return 1 - room / slot.n_before - past if slot.n_before else -1.0

    def _find(self, who: int, minute: int) -> tuple[int, _Slot]:
        """Find the slot of a client, or the one that is missed least."""
        oldest, place = minute + 1, 0
        for probe in range(_PROBES):
            offset = (who + probe) % _SLOTS * _SLOT.size
            slot = _Slot(*_SLOT.unpack_from(self._table, offset))
            if slot.who == who:
                return offset, _turn(slot, minute)
            if slot.minute < oldest:
                oldest, place = slot.minute, offset
        return place, _Slot(who, minute, 0, 0)


def _turn(slot: _Slot, minute: int) -> _Slot:
    """The slot as of this minute."""
    if slot.minute == minute:
        return slot
    before = slot.n_now if slot.minute == minute - 1 else 0
    return _Slot(slot.who, minute, 0, before)
