"""How many bytes of bodies a process holds at a time, in all and for one client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bentos.wire.problems import OVERLOADED, ProblemError

_ALL_BYTES: Final = 192 * 2**20
_OWN_BYTES: Final = 64 * 2**20
"""Four bodies of the greatest size."""

_FREE_BYTES: Final = 2**20
"""A client that holds no more than this is always let in, whatever others hold."""


class MemoryBudget:
    """The memory that bodies hold; for the event loop's thread alone."""

    def __init__(self) -> None:
        self._all = 0
        self._own: Counter[str] = Counter()

    @contextmanager
    def open_share(self, client: str) -> Iterator[MemoryShare]:
        """Give the share of a request, which is given back at the end of the block."""
        share = MemoryShare(self, client)
        try:
            yield share
        finally:
            self.add(client, -share.held)
            if not self._own[client]:
                del self._own[client]

    def add(self, client: str, n_bytes: int) -> None:
        """Count bytes of a client.

        Raises
        ------
        ProblemError
            If the client, or all together, would hold too much.

        """
        own, everything = self._own[client] + n_bytes, self._all + n_bytes
        if n_bytes > 0 and own > _FREE_BYTES and (own > _OWN_BYTES or everything > _ALL_BYTES):
            raise ProblemError(
                OVERLOADED,
                f"the bodies of a client may have {_OWN_BYTES} bytes at a time, and those of all "
                f"clients {_ALL_BYTES}; send fewer at a time",
                retry_after_s=1,
            )
        self._own[client], self._all = own, everything


class MemoryShare:
    """The bytes that one request holds."""

    def __init__(self, budget: MemoryBudget, client: str) -> None:
        self._budget = budget
        self._client = client
        self.held = 0

    def grow_to(self, n_bytes: int) -> None:
        """Hold at least so many bytes.

        Raises
        ------
        ProblemError
            If the client, or all together, would hold too much.

        """
        if n_bytes > self.held:
            self._budget.add(self._client, n_bytes - self.held)
            self.held = n_bytes
