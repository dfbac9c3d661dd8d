"""Connections of clients that send too much before they are known, too slowly, or nothing at all.

uvicorn bounds neither the bytes of a request's head nor the time until it is whole, and a client
needs no key to send one. Behind :mod:`bentos.worker` this protocol does; ``bentoml serve`` runs
uvicorn as it is, so a proxy must bound both there.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

MAX_HEAD_BYTES: Final = 32 * 2**10
"""Bytes of request line and headers; of trailers and of what separates chunks too."""

HEAD_S: Final = 10.0
"""Time until the head of a request is whole, from the first byte or the connection on."""

_STALLED_S: Final = 60.0
"""Time in which a client must take the 48 KiB between uvicorn's high and low water marks."""

_OVERHEAD: Final = 8
"""Bytes around each byte of a body that comes in chunks; chunks of one byte have five."""

_PINGS_AT_ONCE: Final = 60
"""Pings of a client in a minute, each of which is answered."""

_MOST_FRAGMENTS: Final = 1024
"""Fragments of one WebSocket message."""

_LARGE_BYTES: Final = 4 * 2**10
_MOST_WAITING: Final = 8
"""WebSocket messages that wait for the application before no more are read."""

_MOST_CLOSING: Final = 256
"""WebSockets that wait for the client to confirm their end; it has 10 s for it."""

_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_PIECE_BYTES: Final = 16 * 2**10
_CHECK_S: Final = 1.0
_MINUTE_S: Final = 60.0
_SPARE_DESCRIPTORS: Final = 256
_MOST_DESCRIPTORS: Final = 2**16
_MOST_CONNECTIONS: Final = 4096
_MOST_OF_AN_ADDRESS: Final = 512

_logger = logging.getLogger(__name__)


def raise_descriptor_limit() -> int:
    """Raise the limit of open files as far as the system allows; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)


def make_protocol(descriptors: int) -> type[HttpToolsProtocol]:
    """Make the protocol of a process that may open so many files."""
    most = max(1, min(_MOST_CONNECTIONS, descriptors - _SPARE_DESCRIPTORS))
    return type("GuardedProtocol", (GuardedProtocol,), {"registry": Connections(most)})


class Connections:
    """The connections of a process, by address; idle ones make room for new ones.

    Parameters
    ----------
    most : int
        Connections in all.
    most_of_an_address : int

    """

    def __init__(self, most: int, *, most_of_an_address: int = _MOST_OF_AN_ADDRESS) -> None:
        self._most = most
        self._most_of_an_address = most_of_an_address
        self._open: dict[GuardedProtocol, str] = {}  # the one that sent last comes last
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: GuardedProtocol, address: str) -> bool:
        """Add a connection; return whether there is room, which an idle one may have to give."""
        if self._by_address[address] >= self._most_of_an_address:
            has_room = self._drop_idle(address)
        else:
            has_room = len(self._open) < self._most or self._drop_idle(None)
        if has_room:
            self._open[connection] = address
            self._by_address[address] += 1
        return has_room

    def touch(self, connection: GuardedProtocol) -> None:
        """Note that a connection sent something."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._open[connection] = address

    def remove(self, connection: GuardedProtocol) -> None:
        """Forget a connection that is closed."""
        address = self._open.pop(connection, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def _drop_idle(self, address: str | None) -> bool:
        """Close the connection that has been idle longest, of an address or of all."""
        for connection, its_address in self._open.items():
            if connection.is_idle and address in {None, its_address}:
                self.remove(connection)
                connection.transport.abort()
                return True
        return False


class GuardedProtocol(HttpToolsProtocol):
    """HTTP of uvicorn, with limits of the head of a request."""

    registry: Connections

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._waiting_since: float | None = None
        self._paused_since: float | None = None
        self._received = self._of_body = 0
        self._check: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """True while no request of the connection is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or close it when there are too many."""
        super().connection_made(cast("asyncio.Transport", transport))
        if not self.registry.admit(self, self.client[0] if self.client else ""):
            self.transport.abort()
            return
        self._waiting_since = self.loop.time()
        self._check = self.loop.call_later(_CHECK_S, self._check_times)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._check is not None:
            self._check.cancel()
        self.registry.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came piece by piece, as long as its head is not too large."""
        self.registry.touch(self)
        if self._waiting_since is None and self.is_idle:
            self._waiting_since = self.loop.time()
        for start in range(0, len(data), _PIECE_BYTES):
            if self.transport.is_closing():
                return
            piece = data[start : start + _PIECE_BYTES]
            self._received += len(piece)
            super().data_received(piece)
            overhead = self._received - self._of_body
            if overhead > MAX_HEAD_BYTES + _PIECE_BYTES + _OVERHEAD * self._of_body:
                self._reject("431 Request Header Fields Too Large", "The head is too large")
                return

    def on_message_begin(self) -> None:
        """Begin to count the head of a request."""
        super().on_message_begin()
        self._received = self._of_body = 0
        self._waiting_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Let the application answer, which has limits of its own."""
        self._waiting_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count the body apart."""
        self._of_body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing any more."""
        if self.is_idle:
            self._waiting_since = None
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to :class:`GuardedWebSocket`, which has limits of its own."""
        if self._check is not None:
            self._check.cancel()
        self.registry.remove(self)
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """Note that the client does not take what is sent."""
        self._paused_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client takes it."""
        self._paused_since = None
        super().resume_writing()

    def _check_times(self) -> None:
        now_s = self.loop.time()
        if self._paused_since is not None and now_s - self._paused_since > _STALLED_S:
            self.transport.abort()
        elif (
            self.is_idle
            and self._waiting_since is not None
            and now_s - self._waiting_since > HEAD_S
        ):
            self._reject("408 Request Timeout", "The request did not come in time")
        else:
            self._check = self.loop.call_later(_CHECK_S, self._check_times)

    def _reject(self, status: str, title: str) -> None:
        """Answer a request that has no application yet, and close the connection."""
        if self.is_idle and not self.transport.is_closing():
            kind = status.partition(" ")[2].lower().replace(" ", "-")
            body = f'{{"type":"/problems/{kind}","title":"{title}","status":{status[:3]}}}'
            self.transport.write(
                f"HTTP/1.1 {status}\r\nContent-Type: application/problem+json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
            )
            self.transport.close()
        else:
            self.transport.abort()


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """WebSockets of uvicorn, with limits for clients that send too much or do not read."""

    closing: ClassVar[dict[GuardedWebSocket, None]] = {}
    """Those that the service has ended and the client has not; the oldest comes first."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn's own logger writes the address and query of each connection.
        self.logger = self.conn.logger = _logger
        self._stalled: asyncio.TimerHandle | None = None
        self._pings: deque[float] = deque(maxlen=_PINGS_AT_ONCE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self.closing.pop(self, None)
        super().connection_lost(exc)

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message; keep few of the connections that their clients do not end after it.

        Their streams have ended, so that no other limit counts them.
        """
        await super().send(message)
        if self.close_timer is None or self.disconnected:
            return
        self.closing[self] = None
        if len(self.closing) > _MOST_CLOSING:
            oldest = next(iter(self.closing))
            del self.closing[oldest]
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse frames; answer a head that uvicorn took and the WebSocket library does not."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_initiated = True
            self.transport.write(_BAD_REQUEST)
            self.transport.close()

    def handle_parser_exception(self) -> None:
        """Close a connection with an invalid frame, with a reason if it is open."""
        if self.conn.close_sent is None:  # a frame before the handshake
            self.transport.abort()
        else:
            super().handle_parser_exception()
        # To the application, which may be at work on an earlier message, the client is gone;
        # uvicorn calls what it sends from here on a mistake of the application.
        self.disconnected = True

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment, unless there are too many: empty ones count in no limit of bytes."""
        if len(self.frames) >= _MOST_FRAGMENTS:
            self.transport.abort()
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Pass a message on; read no more when many wait, or a large one does.

        uvicorn stops reading at each message, which takes two system calls. It also logs an error
        with its stack for a text that is not UTF-8, which is the client's mistake.
        """
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            self.frames = []
            if not self.close_sent:
                self.conn.send_close(CloseCode.INVALID_DATA)
                self.handle_parser_exception()
            return
        was_paused = self.read_paused
        reads_on = self.queue.qsize() < _MOST_WAITING and sum(map(len, self.frames)) <= _LARGE_BYTES
        self.read_paused = was_paused or reads_on
        super().send_receive_event_to_app()
        if reads_on:
            self.read_paused = was_paused

    def pause_writing(self) -> None:
        """Drop the client if it does not read what is sent."""
        self._stalled = self.loop.call_later(_STALLED_S, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        self._stop_waiting()
        super().resume_writing()

    def handle_ping(self) -> None:
        """Answer a ping, unless there are too many."""
        now_s = self.loop.time()
        if len(self._pings) == _PINGS_AT_ONCE and now_s - self._pings[0] < _MINUTE_S:
            self.transport.abort()
            return
        self._pings.append(now_s)
        super().handle_ping()

    def _stop_waiting(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
