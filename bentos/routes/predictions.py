"""Routes of predictions, feedback and example strips."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

import orjson
from fastapi import Request
from starlette.responses import Response

from bentos.routes.routing import T, answer_json, runtime_of
from bentos.runtime.predictor import Runtime
from bentos.wire.api_examples import MEDIA_TYPE_OF, ExampleFormat, write_body
from bentos.wire.inputs import JSON, MEDIA_TYPES, parse
from bentos.wire.problems import (
    INVALID_REQUEST,
    LOG_UNAVAILABLE,
    NOT_FOUND,
    OVERLOADED,
    TOO_LARGE,
    WRONG_MEDIA_TYPE,
    ProblemError,
)
from bentos.wire.schemas import (
    FeedbackRequest,
)
from ecg_lib.errors import PredictionLogError
from ecg_lib.records.simulation.simulator import StripKind

MAX_PREDICTION_BYTES: Final = 16 * 2**20


MAX_FEEDBACK_BYTES: Final = 2**20


_LOOK_UP_S: Final = 8.0


_MAX_WAITING: Final = 64


async def create_prediction(request: Request) -> Response:
    """Find and classify the beats of one lead, and tell what rhythm they make."""
    runtime = runtime_of(request)
    runtime.require_model()
    media_type, body = await _read_body(request, MAX_PREDICTION_BYTES, accepted=MEDIA_TYPES)
    query = request.query_params.multi_items()
    created = await _compute(
        runtime, lambda: runtime.predict(body, media_type=media_type, query=query)
    )
    location = {"Location": f"/api/v1/predictions/{created.prediction_id}"}
    return answer_json(created.body, HTTPStatus.CREATED, location)


async def read_prediction(request: Request, prediction_id: str) -> Response:
    """Give the answer that was given when the prediction was made."""
    runtime = runtime_of(request)
    try:
        found = await _look_up(runtime, lambda: runtime.find_prediction(prediction_id))
    except PredictionLogError as error:
        raise ProblemError(LOG_UNAVAILABLE, "the prediction log cannot be read now") from error
    return answer_json(orjson.dumps(found))


async def create_feedback(request: Request) -> Response:
    """Keep a reader's classes; monitoring measures the model against them."""
    runtime = runtime_of(request)
    _, body = await _read_body(request, MAX_FEEDBACK_BYTES, accepted=(JSON,))
    feedback = await _compute(runtime, lambda: parse(FeedbackRequest, body))
    try:
        await _look_up(runtime, lambda: runtime.check_feedback(feedback))
        is_verified = True
    except PredictionLogError:
        is_verified = False
    # Nothing comes between keeping it and the answer: who is told of an error may send it again.
    return answer_json(runtime.take_feedback(feedback, is_verified=is_verified), HTTPStatus.CREATED)


async def read_example(request: Request, kind: str) -> Response:
    """Give a body as the predictions route wants it, of a strip whose rhythm is known.

    `format` is json, float32 or npy; the last two are to be sent with `sampling_rate=100`.
    """
    if kind not in set(StripKind):
        known = ", ".join(StripKind)
        raise ProblemError(NOT_FOUND, f"the example must be one of {known}")
    form = request.query_params.get("format", ExampleFormat.JSON)
    if form not in set(ExampleFormat):
        reason = f"must be one of {', '.join(ExampleFormat)}"
        raise ProblemError(INVALID_REQUEST, f"format {reason}", errors=[("format", reason)])
    body = write_body(StripKind(kind), ExampleFormat(form))
    return Response(body, media_type=MEDIA_TYPE_OF[ExampleFormat(form)])


async def _read_body(
    request: Request, max_bytes: int, *, accepted: Sequence[str]
) -> tuple[str, bytes]:
    """Read the media type and a body of one of those accepted; stop where it is too large.

    Raises
    ------
    ProblemError
        If the media type is another, or the body too large.

    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in accepted:
        raise ProblemError(WRONG_MEDIA_TYPE, f"Content-Type must be {' or '.join(accepted)}")
    too_large = ProblemError(TOO_LARGE, f"the body must have at most {max_bytes} bytes")
    # uvicorn has refused a Content-Length that is no number.
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return media_type, bytes(body)


async def _compute(runtime: Runtime, work: Callable[[], T]) -> T:
    """Do what takes the processor, unless much of it waits already.

    Raises
    ------
    ProblemError
        If it does.

    """
    if runtime.waiting >= _MAX_WAITING:
        raise ProblemError(
            OVERLOADED, f"{runtime.waiting} predictions wait already", retry_after_s=1
        )
    runtime.waiting += 1
    try:
        # The thread logs and traces as this task does.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(runtime.compute, context.run, work)
    finally:
        runtime.waiting -= 1


async def _look_up(runtime: Runtime, work: Callable[[], T]) -> T:
    """Do what may wait for the prediction log.

    Raises
    ------
    PredictionLogError
        If the log cannot be read in time.

    """
    future = asyncio.get_running_loop().run_in_executor(runtime.look_up, work)
    try:
        return await asyncio.wait_for(future, _LOOK_UP_S)
    except TimeoutError as error:
        msg = f"the prediction log must be read within {_LOOK_UP_S:g} s, it was not"
        raise PredictionLogError(msg) from error
