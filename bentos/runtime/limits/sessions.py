"""Let only the latest connection of a live session go on, over all workers of a host.

The workers share a table (a file mapped into memory) with a random number for the latest connection
of each session. An older connection, in any worker, finds another number there and closes. When the
table is full, old entries are overwritten; the connections of these sessions go on.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from pathlib import Path
from typing import Final

from bentos.runtime.limits.rate_limit import open_table

SESSIONS_VARIABLE: Final = "ECG_LIVE_SESSIONS_FILE"
"""Variable with the file of the table; the host sets it for its workers."""

_SLOT: Final = struct.Struct("<QQ")  # session, connection
_SLOTS: Final = 2**15
_PROBES: Final = 8


class Sessions:
    """A table of sessions and their latest connections.

    Parameters
    ----------
    path : Path, optional
        File of the table, made when missing; without it the table is of this process alone.

    """

    def __init__(self, path: Path | None = None) -> None:
        self._table = open_table(path, _SLOTS * _SLOT.size)

    def claim(self, session: str) -> int:
        """Register a new connection of a session; return its number."""
        who, connection = _hash(session), secrets.randbits(63) + 1
        places = self._places(who)
        empty = [place for place, slot in places if slot[0] == 0]
        place = next((place for place, slot in places if slot[0] == who), None)
        if place is None:
            place = empty[0] if empty else places[0][0]
        _SLOT.pack_into(self._table, place, who, connection)
        return connection

    def holds(self, session: str, connection: int) -> bool:
        """Return whether no later connection has claimed the session."""
        who = _hash(session)
        return all(slot[0] != who or slot[1] == connection for _, slot in self._places(who))

    def release(self, session: str, connection: int) -> None:
        """Forget a connection, unless a later one has claimed its session."""
        who = _hash(session)
        for place, slot in self._places(who):
            if slot == (who, connection):
                _SLOT.pack_into(self._table, place, 0, 0)

    def _places(self, who: int) -> list[tuple[int, tuple[int, int]]]:
        places = [(who + probe) % _SLOTS * _SLOT.size for probe in range(_PROBES)]
        return [(place, _SLOT.unpack_from(self._table, place)) for place in places]


def _hash(session: str) -> int:
    digest = hashlib.blake2b(session.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
