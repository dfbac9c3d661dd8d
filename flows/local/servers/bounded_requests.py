"""Bounds of a request's head: its bytes, and the time until it is whole.

A client needs no login to send a head, and uvicorn alone waits for the rest without limit.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState


class BoundedProtocol(H11Protocol):
    """HTTP of uvicorn that closes a connection whose client does not finish the head of a request.

    The time runs from the connection on, and again from the first byte of each later request. Until
    that byte uvicorn's own time of a connection that is kept alive applies.
    """

    head_s: float = 10.0
    """Time until the head is whole."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and wait for the rest of a head."""
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        is_answering = cycle is not None and not cycle.response_complete
        is_websocket = self.transport.get_protocol() is not self
        if is_answering or is_websocket:
            self._stop_waiting()
        elif self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


BOUNDED: Final[dict[str, Any]] = {
    "http": BoundedProtocol,
    "h11_max_incomplete_event_size": 32 * 2**10,
    "ws_max_size": 4 * 2**20,
}
"""Options of uvicorn that bound the head of a request and a message; Prefect's have 1.5 MB."""
