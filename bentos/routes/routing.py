"""What the routes share: the runtime that answers, and answers as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response

from bentos.runtime.predictor import Runtime


def runtime_of(request: Request) -> Runtime:
    """The runtime of the application that a request came to."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def answer_json(
    body: bytes,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a body that is JSON already."""
    return Response(body, status_code=status, headers=headers, media_type="application/json")


T = TypeVar("T")
