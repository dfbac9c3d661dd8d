"""Shared by routes: the way to them, parts of the application, caller, addresses, JSON answers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bentos.recordings.job_queue import JobQueue
from bentos.runtime.limits.caller import Caller
from bentos.runtime.predictor import Runtime
from bentos.wire.problems import LOG_UNAVAILABLE, ProblemError
from ecg_lib.errors import PredictionLogError

LOOK_UP_S: Final = 8.0
"""Longest wait for the prediction log."""

T = TypeVar("T")
Handler = Callable[[Request, Exception], Awaitable[Response]]

_CALLER: Final = "ecg.caller"
_PREFIX: Final = "ecg.prefix"


class DirectRoutes:
    """Calls the endpoints that take nothing but the request, and leaves all others to FastAPI.

    FastAPI passes six layers and a search on the way to an endpoint, and solves its dependencies:
    a tenth of the time of a request that costs 3 ms, for endpoints that have none of it. Errors go
    to the same handlers. Answers are the same, as the tests of both ways show.

    Parameters
    ----------
    app : FastAPI
        With all of its routes.

    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._routes: dict[tuple[str, str], APIRoute] = {}
        for route in app.routes:
            if isinstance(route, APIRoute) and _takes_the_request_alone(route):
                for method in route.methods or ():
                    self._routes.setdefault((method, route.path), route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or open a WebSocket."""
        route = None
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["app"], scope["route"] = self._app, route
        request = Request(scope, receive, send)
        failure = None
        try:
            response = await route.endpoint(request)
        except Exception as error:  # noqa: BLE001  each kind has a handler, and a bug is raised
            response = await self._handler_of(error)(request, error)
            is_handled = self._handler_of(error) is not self._app.exception_handlers[Exception]
            failure = None if is_handled else error
        await response(scope, receive, send)
        if failure is not None:
            raise failure  # as Starlette does, once it is answered

    def _handler_of(self, error: Exception) -> Handler:
        handlers: Mapping[Any, Handler] = self._app.exception_handlers  # type: ignore[assignment]  # ours
        return next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)


def _takes_the_request_alone(route: APIRoute) -> bool:
    parameters = inspect.signature(route.endpoint, eval_str=True).parameters.values()
    return (
        "{" not in route.path
        and inspect.iscoroutinefunction(route.endpoint)
        and [one.annotation for one in parameters] == [Request]
    )


def runtime_of(request: Request) -> Runtime:
    """Return the runtime of the application that a request came to."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def recordings_of(request: Request) -> JobQueue:
    """Return the recordings of the application that a request came to."""
    recordings: JobQueue = request.app.state.recordings
    return recordings


def note_caller(scope: Scope, caller: Caller, *, prefix: str) -> None:
    """Note who sends a request, and the path below which a proxy serves this service."""
    scope[_CALLER], scope[_PREFIX] = caller, prefix


def caller_of(request: Request) -> Caller:
    """Return who sends a request, as the guard found out."""
    return caller_of_scope(request.scope)


def caller_of_scope(scope: Scope) -> Caller:
    """Return who opened a connection, as the guard found out."""
    caller: Caller = scope[_CALLER]
    return caller


def locate(request: Request, path: str) -> str:
    """Return the address of an object without a host, below the prefix that a proxy states."""
    return f"{request.scope[_PREFIX]}{path}"


def answer_json(
    body: bytes,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a body that is JSON already."""
    return Response(body, status_code=status, headers=headers, media_type="application/json")


async def look_up(runtime: Runtime, work: Callable[[], T]) -> T:
    """Do what may wait for the prediction log.

    Raises
    ------
    ProblemError
        If the log cannot be read in time.

    """
    future = asyncio.get_running_loop().run_in_executor(runtime.look_up, work)
    try:
        return await asyncio.wait_for(future, LOOK_UP_S)
    except (TimeoutError, PredictionLogError) as error:
        raise ProblemError(LOG_UNAVAILABLE, "the prediction log cannot be read now") from error
