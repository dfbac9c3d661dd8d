"""A WebSocket for one lead that streams: samples come, beats go back.

``docs/reference/live-protocol.md`` describes the messages. A connection keeps nothing that the
client does not have: after a break, of the network or of this process, the client says up to where
it holds final beats, and sends the samples again that the beats after them depend on. So any
process of any machine may go on, nothing of a signal is written to a disk, and no beat is told
twice as final.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic
from typing import Final

from fastapi import FastAPI
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from bentos.routes.routing import caller_of_scope
from bentos.runtime.limits.caller import Caller
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from bentos.wire.live_messages import (
    SUBPROTOCOL,
    Finish,
    Gap,
    Start,
    read_message,
    read_piece,
    write_beats,
    write_finished,
    write_model,
    write_problem,
    write_started,
)
from bentos.wire.problems import (
    INTERNAL,
    INVALID_REQUEST,
    KEY_REQUIRED,
    NOT_READY,
    STREAM_IDLE,
    STREAM_REPLACED,
    TOO_MANY_REQUESTS,
    UNDECLARED_GAP,
    ProblemError,
    explain_signal_error,
)
from ecg_lib.classifier.live.beats import LiveBeats, Mark
from ecg_lib.classifier.live.live_lead import LiveConfig, LiveLead, needed_from
from ecg_lib.errors import InvalidSamplingRateError, InvalidSignalError
from ecg_lib.signal_path.readability.findings import PACED

PATH: Final = "/api/v1/live/"

CONFIG: Final = LiveConfig()

IDLE_S: Final = 30.0
"""A connection without a message for so long is closed."""

SEND_S: Final = 30.0
"""A client must take a message within this time."""

MESSAGES_PER_S: Final = 50.0
MESSAGES_AT_ONCE: Final = 1000
"""Messages that a client may send at once, after a break; then so many in a second."""

_LOOK_S: Final = 1.0

_CLOSE_CODES: Final = {503: 1012, 500: 1011}
"""Codes of RFC 6455 and its registry: the service restarts, it failed. Others are 4000 + status."""

_MAX_REASON_BYTES: Final = 123

_logger = logging.getLogger(__name__)


def add_live(app: FastAPI) -> None:
    """Add the route, with and without the slash at its end."""
    app.add_api_websocket_route(PATH, stream_lead)
    app.add_api_websocket_route(PATH.rstrip("/"), stream_lead)


def close_code(problem: ProblemError) -> int:
    """Return the code that a connection is closed with because of a problem."""
    return _CLOSE_CODES.get(problem.kind.status, 4000 + problem.kind.status)


async def stream_lead(socket: WebSocket) -> None:
    """Take the samples of one lead, and tell its beats."""
    runtime: Runtime = socket.app.state.runtime
    caller = caller_of_scope(socket.scope)
    try:
        _require_staying(runtime)
        runtime.require_model()
        runtime.streams.enter()
    except ProblemError as problem:
        runtime.metrics.count_refusal(problem.kind.name)
        await socket.send_denial_response(problem.respond())
        return
    runtime.metrics.live_leads.inc()
    try:
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        await _serve(socket, runtime, caller)
    finally:
        runtime.metrics.live_leads.dec()
        runtime.streams.leave()


def _require_staying(runtime: Runtime) -> None:
    """Reject leads when this process is about to end.

    Raises
    ------
    ProblemError

    """
    if runtime.is_draining:
        raise ProblemError(NOT_READY, "this process ends; connect again", retry_after_s=1)


async def _serve(socket: WebSocket, runtime: Runtime, caller: Caller) -> None:
    """Serve a connection until it ends, and say why when it is this side that ends it."""
    try:
        await _Stream(socket, runtime, caller).run()
    except WebSocketDisconnect:
        return
    except TimeoutError:
        # Nothing can be sent to a client that takes nothing; the protocol drops the connection.
        runtime.metrics.count_refusal("stream-stalled")
        return
    except (InvalidSignalError, InvalidSamplingRateError) as error:
        problem = explain_signal_error(error)
    except ProblemError as error:
        problem = error
    except Exception:
        _logger.exception("a stream failed")
        problem = ProblemError(INTERNAL, "the service failed; its log says why")
    else:
        return
    runtime.metrics.count_refusal(problem.kind.name)
    reason = f"{problem.kind.name}: {problem.detail}".encode()[:_MAX_REASON_BYTES]
    with contextlib.suppress(TimeoutError, WebSocketDisconnect):
        async with asyncio.timeout(SEND_S):
            await socket.send_text(write_problem(problem))
            await socket.close(close_code(problem), reason.decode(errors="ignore"))


class _Stream:
    """One connection."""

    def __init__(self, socket: WebSocket, runtime: Runtime, caller: Caller) -> None:
        self._socket = socket
        self._runtime = runtime
        self._caller = caller
        self._allowed = _Allowance()
        self._session = ""
        self._connection = 0

    async def run(self) -> None:
        """Take messages until the client has finished.

        Raises
        ------
        ProblemError, InvalidSignalError, InvalidSamplingRateError
            If the connection must be closed.
        TimeoutError
            If the client takes nothing.
        WebSocketDisconnect
            If the client is gone.

        """
        start = read_message(_text_of(await self._receive()))
        if not isinstance(start, Start):
            raise ProblemError(INVALID_REQUEST, "the first message must have the type start")
        sessions = self._runtime.streams.sessions
        # Of another key it is another session.
        self._session = f"{self._caller.owner or ''}:{start.session}"
        self._connection = sessions.claim(self._session)
        try:
            await self._run(start)
        finally:
            sessions.release(self._session, self._connection)

    async def _run(self, start: Start) -> None:
        model = self._runtime.require_model()
        mark = Mark(start.mark.block, start.mark.position)
        lead, missing = _open_lead(start, mark, model)
        send_from = lead.received_to + missing
        await self._send(
            write_started(
                start, send_from=send_from, mark=mark, model=model.info, config=lead.config
            )
        )
        if missing:
            await self._compute(lead, lambda: lead.append_gap(missing))
        async for message in self._messages():
            model = await self._follow_model(lead, model)
            if message.get("bytes") is not None:
                await self._take(lead, message["bytes"], start)
                continue
            said = read_message(_text_of(message))
            if isinstance(said, Gap):
                await self._take_gap(lead, said)
            elif isinstance(said, Finish):
                await self._compute(lead, lead.finish)
                await self._send(write_finished(lead.received_to))
                await self._socket.close()
                return
            else:
                raise ProblemError(INVALID_REQUEST, "the connection has started already")

    async def _take(self, lead: LiveLead, content: bytes, start: Start) -> None:
        """Add samples, less those that came before, and look when it is time to."""
        piece = read_piece(content, start)
        n_known = _count_known(lead, piece.position)
        samples_mv = piece.samples_mv[n_known:]
        if len(samples_mv) == 0:
            return
        lead.append(samples_mv)
        if lead.is_due or lead.will_be_late(len(samples_mv)):
            await self._compute(lead, lead.settle, looks=True)

    async def _take_gap(self, lead: LiveLead, gap: Gap) -> None:
        n_known = _count_known(lead, gap.position)
        if gap.samples > n_known:
            await self._compute(lead, lambda: lead.append_gap(gap.samples - n_known))

    async def _compute(
        self, lead: LiveLead, settle: Callable[[], Iterator[LiveBeats]], *, looks: bool = False
    ) -> None:
        """Analyse what is due in the thread for it, and send what that gives.

        A block takes long: what it gives is sent before the next one begins, and other leads come
        in between.
        """
        blocks = settle()
        while await self._tell(lead, lambda: next(blocks, None)):
            pass
        if looks:
            await self._tell(lead, lead.look)

    async def _tell(self, lead: LiveLead, analyze: Callable[[], LiveBeats | None]) -> bool:
        """Analyse one window and send its beats, if it gives any; return whether it does."""

        def work() -> tuple[LiveBeats, str] | None:
            beats = analyze()
            if beats is None:
                return None
            received_to, needed = lead.received_to, lead.needed_from
            return beats, write_beats(beats, received_to=received_to, needed_from=needed)

        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._runtime.streams.executor, work)
        if made is None:
            return False
        beats, text = made
        await self._send(text)
        if beats.is_final:
            self._count(beats)
        return True

    def _count(self, beats: LiveBeats) -> None:
        has_class, is_paced = beats.has_class, beats.quality == PACED
        self._runtime.metrics.count_live_beats(
            normal=int((has_class & ~beats.is_v).sum()),
            ventricular=int((has_class & beats.is_v).sum()),
            paced=int(is_paced.sum()),
            unreadable=int((~has_class & ~is_paced).sum()),
        )

    async def _follow_model(self, lead: LiveLead, model: LoadedModel) -> LoadedModel:
        """Classify with the model that is served now, and tell when it is another."""
        current = self._runtime.require_model()
        if current is not model:
            lead.classifier = current.classifier
            await self._send(write_model(current.info))
        return current

    async def _messages(self) -> AsyncIterator[Message]:
        while True:
            yield await self._receive()

    async def _receive(self) -> Message:
        """Receive a message; look at each, and once a second, whether the connection may go on."""
        deadline = monotonic() + IDLE_S
        while monotonic() < deadline:
            message: Message | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    message = await self._socket.receive()
            if message is not None and message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
            self._check()
            if message is not None:
                self._allowed.take()
                return message
        raise ProblemError(
            STREAM_IDLE, f"a message must come within {IDLE_S:g} s; declare a gap to go on without"
        )

    def _check(self) -> None:
        """Check whether the connection may go on.

        Raises
        ------
        ProblemError
            If not.

        """
        _require_staying(self._runtime)
        if self._caller.asks_keys and self._caller.key not in (self._runtime.api_keys or ()):
            raise ProblemError(KEY_REQUIRED, "the API key is not valid any more")
        sessions = self._runtime.streams.sessions
        if self._connection and not sessions.holds(self._session, self._connection):
            raise ProblemError(STREAM_REPLACED, "another connection has opened this session")

    async def _send(self, text: str) -> None:
        async with asyncio.timeout(SEND_S):
            await self._socket.send_text(text)


class _Allowance:
    """The messages that a client may send now."""

    def __init__(self) -> None:
        self._left = float(MESSAGES_AT_ONCE)
        self._at_s = monotonic()

    def take(self) -> None:
        """Count a message.

        Raises
        ------
        ProblemError
            If there are too many.

        """
        now_s = monotonic()
        self._left += (now_s - self._at_s) * MESSAGES_PER_S
        self._left, self._at_s = min(self._left, MESSAGES_AT_ONCE) - 1, now_s
        if self._left < 0:
            raise ProblemError(
                TOO_MANY_REQUESTS,
                f"a connection may send {MESSAGES_PER_S:g} messages a second; "
                "send more samples in each",
            )


def _open_lead(start: Start, mark: Mark, model: LoadedModel) -> tuple[LiveLead, int]:
    """Make the lead, and tell how many samples after the mark the client has not any more."""
    fs = start.sampling_rate
    send_from = max(start.position, needed_from(mark, fs=fs, config=CONFIG))
    begin = min(send_from, mark.position)
    lead = LiveLead(model.classifier, fs=fs, start=begin, mark=mark, config=CONFIG)
    return lead, send_from - begin


def _count_known(lead: LiveLead, position: int) -> int:
    """Count the samples from a position on that have come already.

    Raises
    ------
    ProblemError
        If samples before the position have not come.

    """
    if position > lead.received_to:
        raise ProblemError(
            UNDECLARED_GAP,
            f"the next sample must be that of position {lead.received_to}, got {position}; "
            "send what lies between, or declare it as a gap",
        )
    return lead.received_to - position


def _text_of(message: Message) -> str:
    text: str | None = message.get("text")
    if text is None:
        raise ProblemError(INVALID_REQUEST, "a message other than samples must be JSON in text")
    return text
