"""The frame of every request: its guard, id, time limit, headers, trace, count and log line.

Plain ASGI, and no Starlette application on purpose: BentoML then leaves every path that is not
its own to it, so that an unknown path and a wrong method are answered with our problems too.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import uuid
from collections.abc import Callable
from functools import cached_property
from time import perf_counter
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bentos.routes.guard import GUARDED, check_request
from bentos.routes.recordings import SIGNAL_HEADERS
from bentos.routes.routing import DirectRoutes
from bentos.runtime.logs import ACCESS_LOGGER, request_id
from bentos.runtime.predictor import Runtime
from bentos.wire.problems import BODY_STALLED, TIME_LIMIT, ProblemError

BODY_GRACE_S: Final = 30.0
SLOWEST_BYTES_PER_S: Final = 50_000
"""A body must come at this speed, after some seconds of grace."""

_REQUEST_ID: Final = b"x-request-id"
_ACCEPTED_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_DRAIN_BYTES: Final = 16 * 2**20
_DRAIN_S: Final = 2.0

_PAGES: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_NO_PAGES: Final = "default-src 'none'; frame-ancestors 'none'"
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

_logger = logging.getLogger(__name__)
_access = logging.getLogger(ACCESS_LOGGER)


def allow_scripts(page: bytes) -> str:
    """Write the content security policy of a page whose own scripts, and no others, may run."""
    hashes = [
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    ]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"{_PAGES}; script-src 'self' {allowed}"


class Edge:
    """Wraps the application."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._routes = DirectRoutes(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await self._run_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Exchange(self.app.state.runtime, scope, receive, send).run(self._answer)

    async def _run_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a WebSocket behind the guard, count and log it; its route has limits of its own."""
        runtime: Runtime = self.app.state.runtime
        own_id, start, status = (
            _choose_id(dict(scope["headers"]).get(_REQUEST_ID)),
            perf_counter(),
            403,
        )

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
                message["headers"] = [*message.get("headers", []), (_REQUEST_ID, own_id.encode())]
            elif message["type"] == "websocket.http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (_REQUEST_ID, own_id.encode()),
                    *_HEADERS,
                ]
            await send(message)

        token = request_id.set(own_id)
        try:
            await self._guard(scope, receive, send_on)
        finally:
            _note(runtime, scope, "WEBSOCKET", status, perf_counter() - start)
            request_id.reset(token)

    @cached_property
    def _answer(self) -> ASGIApp:
        """The application behind its guard; pages of other sites may call it if settings say so."""
        origins = self.app.state.runtime.settings.allowed_origins
        if not origins:
            return self._guard
        return CORSMiddleware(
            self._guard,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Location", "Retry-After", "X-Request-ID", *SIGNAL_HEADERS],
        )

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime: Runtime = self.app.state.runtime
        try:
            check_request(runtime, scope)
        except ProblemError as problem:
            runtime.metrics.count_refusal(problem.kind.name)
            await problem.respond()(scope, receive, send)
        else:
            await self._routes(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, runtime: Runtime, scope: Scope, receive: Receive, send: Send) -> None:
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._runtime = runtime
        self._scope = scope
        self._send = send
        self._id = _choose_id(self._headers.get(_REQUEST_ID))
        self._start = perf_counter()
        self._status = 500
        self._is_answered = False
        self._limit: asyncio.Timeout = asyncio.timeout(None)
        self._body = _Body(receive, self._headers, when_over=self._begin_answer)

    async def run(self, answer: ASGIApp) -> None:
        """Answer within limits of time, count and log."""
        token = request_id.set(self._id)
        self._runtime.metrics.in_flight.inc()
        try:
            if self._runtime.tracing is None:
                await self._run_limited(answer)
            else:
                with self._runtime.tracing.request(self._scope["method"], self._headers) as span:
                    try:
                        await self._run_limited(answer)
                    finally:
                        span.note(
                            route=_route_of(self._scope), status=self._status, request_id=self._id
                        )
        finally:
            seconds = perf_counter() - self._start
            _note(self._runtime, self._scope, self._scope["method"], self._status, seconds)
            self._runtime.metrics.in_flight.dec()
            request_id.reset(token)

    async def _run_limited(self, answer: ASGIApp) -> None:
        try:
            async with self._limit:
                if self._body.is_over:
                    self._begin_answer()
                await answer(self._scope, self._receive, self._send_on)
        except TimeoutError:
            if self._is_answered or not self._limit.expired():
                raise
            await self._refuse_late()
        except Exception:
            if not self._is_answered:
                raise
            # Starlette answered and raises on; uvicorn would then close the connection, under
            # the client's next request.
            _logger.exception("the request failed")

    async def _receive(self) -> Message:
        if not self._body.is_over:
            self._set_limit(self._body.deadline())
        return await self._body.receive()

    def _begin_answer(self) -> None:
        limit_s = self._runtime.settings.answer_limit_s
        self._set_limit(asyncio.get_running_loop().time() + limit_s)

    def _set_limit(self, when: float | None) -> None:
        if not self._limit.expired():
            self._limit.reschedule(when)

    async def _refuse_late(self) -> None:
        if self._body.is_over:
            limit_s = self._runtime.settings.answer_limit_s
            problem = ProblemError(TIME_LIMIT, f"the answer must be there within {limit_s:g} s")
        else:
            problem = ProblemError(
                BODY_STALLED,
                f"the body must come within {BODY_GRACE_S:g} s and a second for every "
                f"{SLOWEST_BYTES_PER_S} bytes",
            )
        self._runtime.metrics.count_refusal(problem.kind.name)
        # The rest of the body does not come: the connection cannot go on.
        headers = {} if self._body.is_over else {"Connection": "close"}
        self._body.is_left = True
        await problem.respond(headers)(self._scope, self._receive, self._send_on)

    async def _send_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._set_limit(None)
            # A client that is still sending would see its connection reset, and no answer.
            await self._body.drain()
            self._status, self._is_answered = message["status"], True
            message["headers"] = [*message.get("headers", []), *self._more_headers(message)]
        await self._send(message)

    def _more_headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        given = dict(message.get("headers", []))
        more = [(_REQUEST_ID, self._id.encode()), *_HEADERS]
        if b"content-security-policy" not in given:
            is_page = given.get(b"content-type", b"").startswith(b"text/html")
            more.append((b"content-security-policy", (_PAGES if is_page else _NO_PAGES).encode()))
        if b"cache-control" not in given and self._scope["path"].startswith(GUARDED):
            more.append((b"cache-control", b"no-store"))
        if self._runtime.is_draining:
            more.append((b"connection", b"close"))
        return more


class _Body:
    """The body of a request, of which the application may leave a part unread."""

    def __init__(
        self, receive: Receive, headers: dict[bytes, bytes], *, when_over: Callable[[], None]
    ) -> None:
        announced = int(headers.get(b"content-length", b"0"))
        self.is_over = announced == 0 and b"transfer-encoding" not in headers
        """True when nothing of it is to come any more."""
        self._receive = receive
        self._when_over = when_over
        self.is_left = announced > _DRAIN_BYTES
        """True when nobody waits for the rest, as it is too much anyway or does not come."""
        self._received = 0
        self._start_s = asyncio.get_running_loop().time()

    def deadline(self) -> float:
        """When more of it must have come, in the time of the event loop."""
        return self._start_s + BODY_GRACE_S + self._received / SLOWEST_BYTES_PER_S

    async def receive(self) -> Message:
        """Receive as the application does."""
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if not self.is_over and not message.get("more_body", False):
            self.is_over = True
            self._when_over()
        return message

    async def drain(self) -> None:
        """Receive what was left unread, within limits of size and time."""
        stop = self._received + _DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not self.is_over and not self.is_left and self._received <= stop:
                    await self.receive()


def _note(runtime: Runtime, scope: Scope, method: str, status: int, seconds: float) -> None:
    """Count a request that ended, and log it."""
    route = _route_of(scope)
    runtime.metrics.count_request(route, method, status, seconds)
    if _access.isEnabledFor(logging.INFO):
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1e3, 2),
        }
        _access.info("request", extra={"fields": fields})


def _route_of(scope: Scope) -> str:
    # The route and not the path: a path holds whatever a client writes into it.
    route: str = getattr(scope.get("route"), "path", "other")
    return route


def _choose_id(given: bytes | None) -> str:
    if given is not None and _ACCEPTED_ID.fullmatch(given):
        return given.decode()
    return uuid.uuid4().hex
