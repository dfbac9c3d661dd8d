"""Functions that routes share: parts of the application, caller, addresses, JSON answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Scope

from bentos.recordings.job_queue import JobQueue
from bentos.runtime.limits.caller import Caller
from bentos.runtime.predictor import Runtime
from bentos.wire.problems import LOG_UNAVAILABLE, ProblemError
from ecg_lib.errors import PredictionLogError

LOOK_UP_S: Final = 8.0
"""Longest wait for the prediction log."""

T = TypeVar("T")

_CALLER: Final = "ecg.caller"
_PREFIX: Final = "ecg.prefix"


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
