"""Endpoints that are called directly answer as they do on FastAPI's way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bentos.routes.app import make_app
from bentos.routes.guard import check_request
from bentos.routes.routing import DirectRoutes
from bentos.wire.problems import NOT_READY, ProblemError
from tests.bentos.conftest import Service

FAILURES: dict[str, Callable[[], Exception]] = {
    "problem": lambda: ProblemError(NOT_READY, "not now", retry_after_s=3),
    "http": lambda: HTTPException(405, "no", {"Allow": "GET"}),
    "gone": ClientDisconnect,
    "bug": lambda: ZeroDivisionError("a secret"),
}


def guarded(app: ASGIApp, service: Service) -> ASGIApp:
    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        check_request(service.runtime, scope)
        await app(scope, receive, send)

    return run


async def ask(app: ASGIApp, method: str, url: str, **fields: Any) -> httpx.Response:  # noqa: ANN401  any body
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.request(method, url, **fields)


@pytest.fixture
def ways(service: Service) -> tuple[ASGIApp, ASGIApp]:
    """The application as it is, and with endpoints that are called directly."""
    app = make_app()
    app.state.runtime, app.state.recordings = service.runtime, service.recordings

    async def fail(request: Request) -> Response:
        make_error = FAILURES[request.query_params["how"]]
        raise make_error()

    app.add_api_route("/fail", fail, methods=["GET"])
    return guarded(app, service), guarded(DirectRoutes(app), service)


@pytest.mark.parametrize("how", FAILURES)
def test_errors_are_answered_alike(ways: tuple[ASGIApp, ASGIApp], how: str) -> None:
    answers = [asyncio.run(ask(way, "GET", f"/fail?how={how}")) for way in ways]
    assert answers[0].status_code == answers[1].status_code >= 400
    assert answers[0].content == answers[1].content
    assert answers[0].headers == answers[1].headers
    assert b"secret" not in answers[0].content


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/predictions/", b"{"),
        ("POST", "/api/v1/predictions", b'{"signal_data": [1, 2]}'),
        ("POST", "/api/v1/feedback/", b"{}"),
        ("GET", "/api/v1/predictions/", b""),
        ("PUT", "/api/v1/predictions/", b""),
        ("GET", "/api/v1/model/", b""),
        ("GET", "/api/v1/review-queue/?limit=0", b""),
        ("GET", "/nowhere", b""),
        ("OPTIONS", "/health", b""),
    ],
)
def test_requests_are_answered_alike(
    ways: tuple[ASGIApp, ASGIApp], method: str, path: str, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answers = [asyncio.run(ask(way, method, path, content=body, headers=headers)) for way in ways]
    assert answers[0].status_code == answers[1].status_code
    assert answers[0].content == answers[1].content
    assert answers[0].headers == answers[1].headers


def test_a_bug_is_raised_once_it_is_answered(service: Service) -> None:
    app = FastAPI()
    app.state.runtime = service.runtime
    sent: list[dict[str, Any]] = []

    async def fail(_request: Request) -> Response:
        raise ZeroDivisionError

    async def answer(_request: Request, _error: Exception) -> Response:
        return Response(status_code=500)

    async def send(message: Any) -> None:  # noqa: ANN401  ASGI's
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    app.add_api_route("/fail", fail, methods=["GET"])
    app.add_exception_handler(Exception, answer)
    scope = {"type": "http", "method": "GET", "path": "/fail", "headers": [], "query_string": b""}
    with pytest.raises(ZeroDivisionError):
        asyncio.run(DirectRoutes(app)(scope, receive, send))
    assert sent[0]["status"] == 500


def test_below_a_prefix_fastapi_finds_the_route(service: Service) -> None:
    app, found = make_app(), []
    app.state.runtime = service.runtime

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        scope["root_path"] = "/ecg"
        check_request(service.runtime, scope)
        await DirectRoutes(app)(scope, receive, send)
        found.append(scope["route"].path)

    assert asyncio.run(ask(run, "GET", "/ecg/health")).status_code in {200, 503}
    assert found == ["/health"]
