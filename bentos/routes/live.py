"""The WebSocket of a live lead: the client sends samples, the service sends beats.

``docs/reference/live-protocol.md`` describes the messages. The client holds the state of a stream.
After a break it connects again with the mark of its last final beats, and sends the samples again
on which later beats depend. So any process on any machine can continue a stream, no signal is
written to a disk, and each final beat is sent once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
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
"""A connection is closed after this time without a message."""

SEND_S: Final = 30.0
"""A client must take a message within this time."""

MESSAGES_PER_S: Final = 50.0
MESSAGES_AT_ONCE: Final = 1000
"""Messages that a client may send at once, as after a break, beyond those of each second."""

_WATCH_S: Final = 1.0

_CLOSE_CODES: Final = {503: 1012, 500: 1011}
"""Close codes of RFC 6455 and its registry, by HTTP status; any other is 4000 + status."""

_MAX_REASON_BYTES: Final = 123

_logger = logging.getLogger(__name__)


def add_live(app: FastAPI) -> None:
    """Add the route, with and without the slash at its end."""
    app.add_api_websocket_route(PATH, stream_lead)
    app.add_api_websocket_route(PATH.rstrip("/"), stream_lead)


def close_code(problem: ProblemError) -> int:
    """Return the WebSocket close code of a problem."""
    return _CLOSE_CODES.get(problem.kind.status, 4000 + problem.kind.status)


async def stream_lead(socket: WebSocket) -> None:
    """Receive the samples of one lead, and send its beats."""
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
    """Reject a lead while this process is shutting down.

    Raises
    ------
    ProblemError

    """
    if runtime.is_draining:
        raise ProblemError(
            NOT_READY, "this process is shutting down; connect again", retry_after_s=1
        )


async def _serve(socket: WebSocket, runtime: Runtime, caller: Caller) -> None:
    """Serve a connection until it ends; give the reason if the service ends it."""
    try:
        await _Stream(socket, runtime, caller).run()
    except WebSocketDisconnect:
        return
    except TimeoutError:
        # No reason can be sent to a client that does not read; the protocol drops the connection.
        runtime.metrics.count_refusal("stream-stalled")
        return
    except (InvalidSignalError, InvalidSamplingRateError) as error:
        problem = explain_signal_error(error)
    except ProblemError as error:
        problem = error
    except Exception:
        _logger.exception("a stream failed")
        problem = ProblemError(INTERNAL, "the service failed; the reason is in its log")
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
        self._looked_at_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._watch: asyncio.TimerHandle = self._loop.call_later(_WATCH_S, self._check)
        self._problem: ProblemError | None = None
        self._receiving_since: float | None = None
        self._sending_since: float | None = None

    async def run(self) -> None:
        """Handle messages until the client has finished.

        Raises
        ------
        ProblemError, InvalidSignalError, InvalidSamplingRateError
            If the connection must be closed.
        TimeoutError
            If the client does not read.
        WebSocketDisconnect
            If the client is gone.

        """
        try:
            async with self._limit:
                await self._run()
        except TimeoutError:
            if self._problem is None:
                raise
            raise self._problem from None
        finally:
            self._watch.cancel()

    async def _run(self) -> None:
        start = read_message(_text_of(await self._receive()))
        if not isinstance(start, Start):
            raise ProblemError(INVALID_REQUEST, "the first message must have the type start")
        sessions = self._runtime.streams.sessions
        # The same name under another API key is another session.
        self._session = f"{self._caller.owner or ''}:{start.session}"
        self._connection = sessions.claim(self._session)
        try:
            await self._serve(start)
        finally:
            sessions.release(self._session, self._connection)

    async def _serve(self, start: Start) -> None:
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
            await self._settle(lead, lead.append_gap(missing))
        while True:
            message = await self._receive()
            current = self._runtime.require_model()
            if current is not model:
                model, lead.classifier = current, current.classifier
                await self._send(write_model(model.info))
            content = message.get("bytes")
            if content is not None:
                await self._take(lead, content, start)
                continue
            said = read_message(_text_of(message))
            self._require_going_on(self._loop.time())
            if isinstance(said, Gap):
                await self._take_gap(lead, said)
            elif isinstance(said, Finish):
                await self._settle(lead, lead.finish())
                await self._send(write_finished(lead.received_to))
                await self._socket.close()
                return
            else:
                raise ProblemError(INVALID_REQUEST, "start must be the first message and sent once")

    async def _take(self, lead: LiveLead, content: bytes, start: Start) -> None:
        """Add samples, except those that came before, and analyse what is due."""
        piece = read_piece(content, start)
        n_known = _count_known(lead, piece.position)
        samples_mv = piece.samples_mv[n_known:] if n_known else piece.samples_mv
        if len(samples_mv) == 0:
            return
        lead.append(samples_mv)
        if lead.is_due or lead.will_be_late(len(samples_mv)):
            if lead.is_block_due:
                await self._settle(lead, lead.settle())
            # A client that sends what it has kept does not wait for other leads.
            waits = self._loop.time() - self._looked_at_s > lead.config.look_every_s / 2
            await self._report(lead, lead.look, waits=waits)
            self._looked_at_s = self._loop.time()

    async def _take_gap(self, lead: LiveLead, gap: Gap) -> None:
        n_known = _count_known(lead, gap.position)
        if gap.samples > n_known:
            await self._settle(lead, lead.append_gap(gap.samples - n_known))

    async def _settle(self, lead: LiveLead, blocks: Iterator[LiveBeats]) -> None:
        """Analyse blocks, and send the beats of each before the next one starts."""
        while await self._report(lead, lambda: next(blocks, None), is_long=True):
            pass

    async def _report(
        self,
        lead: LiveLead,
        analyze: Callable[[], LiveBeats | None],
        *,
        is_long: bool = False,
        waits: bool = False,
    ) -> bool:
        """Analyse one window and send its beats; return False if it had no result."""

        def work() -> tuple[LiveBeats, str] | None:
            beats = analyze()
            if beats is None:
                return None
            received_to, needed = lead.received_to, lead.needed_from
            return beats, write_beats(beats, received_to=received_to, needed_from=needed)

        made = await self._runtime.streams.batches.run(work, is_long=is_long, waits=waits)
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

    async def _receive(self) -> Message:
        self._receiving_since = self._loop.time()
        message = await self._socket.receive()
        self._receiving_since = None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
        self._allowed.take()
        return message

    async def _send(self, text: str) -> None:
        self._sending_since = self._loop.time()
        await self._socket.send_text(text)
        self._sending_since = None

    def _check(self) -> None:
        """Check once a second whether the connection may go on; end it if not."""
        now_s, sending_since = self._loop.time(), self._sending_since
        try:
            self._require_going_on(now_s)
        except ProblemError as problem:
            self._problem = problem
        if self._problem is not None or (
            sending_since is not None and now_s - sending_since > SEND_S
        ):
            self._limit.reschedule(now_s)
        else:
            self._watch = self._loop.call_later(_WATCH_S, self._check)

    def _require_going_on(self, now_s: float) -> None:
        """Reject a connection that may not go on.

        Raises
        ------
        ProblemError

        """
        _require_staying(self._runtime)
        if self._caller.asks_keys and self._caller.key not in (self._runtime.api_keys or ()):
            raise ProblemError(KEY_REQUIRED, "the API key is no longer valid")
        sessions = self._runtime.streams.sessions
        if self._connection and not sessions.holds(self._session, self._connection):
            raise ProblemError(STREAM_REPLACED, "another connection has opened this session")
        since = self._receiving_since
        if since is not None and now_s - since > IDLE_S:
            raise ProblemError(
                STREAM_IDLE,
                f"a message must come within {IDLE_S:g} s; declare a gap while nothing is recorded",
            )


class _Allowance:
    """The number of messages that a client may still send."""

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
    """Make the lead; return how many samples after the mark the client no longer holds."""
    fs = start.sampling_rate
    send_from = max(start.position, needed_from(mark, fs=fs, config=CONFIG))
    begin = min(send_from, mark.position)
    lead = LiveLead(model.classifier, fs=fs, start=begin, mark=mark, config=CONFIG)
    return lead, send_from - begin


def _count_known(lead: LiveLead, position: int) -> int:
    """Count the samples from a position on that were received before.

    Raises
    ------
    ProblemError
        If samples before the position are missing.

    """
    if position > lead.received_to:
        raise ProblemError(
            UNDECLARED_GAP,
            f"the next sample must have the position {lead.received_to}, got {position}; "
            "send the samples in between, or declare a gap",
        )
    return lead.received_to - position


def _text_of(message: Message) -> str:
    text: str | None = message.get("text")
    if text is None:
        raise ProblemError(INVALID_REQUEST, "a message other than samples must be JSON in text")
    return text
