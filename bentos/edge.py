"""What surrounds every request: its id, API key, count, access log line, and the end of draining.

Plain ASGI, and no Starlette application on purpose: BentoML then leaves every path that is not
its own to it, so that an unknown path and a wrong method are answered with our problems too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from time import perf_counter
from typing import Final

import orjson
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from bentos.api_keys import HEADER, is_accepted
from bentos.problems import KEY_REQUIRED, ProblemError
from bentos.runtime import Runtime

ACCESS_LOGGER: Final = "bentos.access"

_REQUEST_ID: Final = b"x-request-id"
_ACCEPTED_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_DRAIN_BYTES: Final = 16 * 2**20
_DRAIN_S: Final = 2.0
_GUARDED: Final = ("/api/", "/metrics")

_logger = logging.getLogger(__name__)
_access = logging.getLogger(ACCESS_LOGGER)


class Edge:
    """Wraps the application."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        runtime: Runtime = self.app.state.runtime
        headers = dict(scope["headers"])
        request_id = _choose_id(headers.get(_REQUEST_ID))
        start, status, is_answered = perf_counter(), 500, False
        runtime.metrics.in_flight.inc()
        body = _Body(receive, announced=int(headers.get(b"content-length", b"0")))

        async def send_on(message: Message) -> None:
            nonlocal status, is_answered
            if message["type"] == "http.response.start":
                # A client that is still sending would see its connection reset, and no answer.
                await body.drain()
                status, is_answered = message["status"], True
                message["headers"] = [*message.get("headers", []), (_REQUEST_ID, request_id)]
                if runtime.is_draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if _is_refused(runtime, scope["path"], headers.get(HEADER)):
                problem = ProblemError(KEY_REQUIRED, "the header X-API-Key must hold a valid key")
                runtime.metrics.count_refusal(problem.kind.name)
                await problem.respond()(scope, body.receive, send_on)
            else:
                await self.app(scope, body.receive, send_on)
        except Exception:
            if not is_answered:
                raise
            # Starlette answered and raises on; uvicorn would close the connection upon it, under
            # the client's next request.
            _logger.exception("request %s failed", request_id.decode())
        finally:
            seconds = perf_counter() - start
            runtime.metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            runtime.metrics.count_request(route, scope["method"], status, seconds)
            if _access.isEnabledFor(logging.INFO):
                _access.info(_line(route, scope["method"], status, seconds, request_id))


class _Body:
    """The body of a request, of which the application may leave a part unread."""

    def __init__(self, receive: Receive, *, announced: int) -> None:
        self._receive = receive
        # Nobody waits for what is too much anyway.
        self._is_over = announced > _DRAIN_BYTES

    async def receive(self) -> Message:
        """Receive as the application does."""
        message = await self._receive()
        self._is_over = self._is_over or not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Receive what was left unread, within limits of size and time."""
        received = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not self._is_over and received <= _DRAIN_BYTES:
                    received += len((await self.receive()).get("body", b""))


def _choose_id(given: bytes | None) -> bytes:
    if given is not None and _ACCEPTED_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex.encode()


def _is_refused(runtime: Runtime, path: str, key: bytes | None) -> bool:
    return (
        runtime.api_keys is not None
        and path.startswith(_GUARDED)
        and not is_accepted(key, runtime.api_keys)
    )


def _line(route: str, method: str, status: int, seconds: float, request_id: bytes) -> str:
    # The route and not the path: a path holds whatever a client writes into it.
    return orjson.dumps(
        {
            "event": "request",
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1e3, 2),
            "request_id": request_id.decode(),
        }
    ).decode()
