"""Routes of predictions, feedback and example strips."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final

import orjson
from fastapi import Request
from starlette.responses import Response

from bentos.routes.routing import (
    T,
    answer_json,
    caller_of,
    locate,
    look_up,
    recordings_of,
    runtime_of,
)
from bentos.runtime.limits.bodies import read_body
from bentos.runtime.limits.caller import Caller
from bentos.runtime.limits.turns import SHORT
from bentos.runtime.prediction.feedback import (
    check_feedback,
    describe_marks_of_prediction,
    describe_queue,
    find_marked,
    take_feedback,
    withdraw_feedback,
)
from bentos.wire.api_examples import MEDIA_TYPE_OF, ExampleFormat, write_body
from bentos.wire.inputs import JSON, MEDIA_TYPES, estimate_samples, parse, parse_query
from bentos.wire.problems import (
    INVALID_REQUEST,
    LOG_UNAVAILABLE,
    NOT_FOUND,
    ProblemError,
)
from bentos.wire.schemas import FeedbackRequest, ReviewQuery
from ecg_lib.records.simulation.simulator import StripKind

MAX_PREDICTION_BYTES: Final = 16 * 2**20
MAX_FEEDBACK_BYTES: Final = 2**20


async def create_prediction(request: Request) -> Response:
    """Find and classify the beats of one lead, and describe the rhythm."""
    runtime = runtime_of(request)
    runtime.require_model()
    caller, query = caller_of(request), request.query_params.multi_items()
    with runtime.memory.open_share(caller.name) as share:
        media_type, body = await read_body(
            request, MAX_PREDICTION_BYTES, accepted=MEDIA_TYPES, share=share
        )
        samples = estimate_samples(body, media_type=media_type)
        created = await _compute(
            request,
            lambda: runtime.predict(
                body,
                media_type=media_type,
                query=query,
                caller=caller,
                is_long=samples > SHORT,
            ),
            samples=samples,
        )
    location = {"Location": locate(request, f"/api/v1/predictions/{created.prediction_id}")}
    return answer_json(created.body, HTTPStatus.CREATED, location)


async def read_prediction(request: Request, prediction_id: str) -> Response:
    """Give the answer that was given when the prediction was made."""
    runtime, caller = runtime_of(request), caller_of(request)
    found = await look_up(runtime, lambda: runtime.find_prediction(prediction_id, caller))
    return answer_json(orjson.dumps(found))


async def create_feedback(request: Request) -> Response:
    """Submit a reader's labels; monitoring scores the model against them."""
    runtime, caller = runtime_of(request), caller_of(request)
    with runtime.memory.open_share(caller.name) as share:
        _, body = await read_body(request, MAX_FEEDBACK_BYTES, accepted=(JSON,), share=share)
        feedback = await _compute(
            request, lambda: parse(FeedbackRequest, body), samples=body.count(b",")
        )

    def find_results(job_id: str, caller: Caller) -> Path:
        return recordings_of(request).find_results(job_id, caller)

    def check() -> None:
        check_feedback(feedback, find_marked(runtime, feedback, caller, find_results))

    is_verified = True
    try:
        await look_up(runtime, check)
    except ProblemError as error:
        # With keys it cannot be checked whose prediction it is.
        if error.kind is not LOG_UNAVAILABLE or caller.asks_keys:
            raise
        is_verified = False
    # Nothing comes between storing it and the answer: a client that sees an error sends it again.
    stored = take_feedback(runtime, feedback, is_verified=is_verified, owner=caller.owner)
    return answer_json(stored, HTTPStatus.CREATED)


async def withdraw(request: Request, feedback_id: str) -> Response:
    """Take feedback back: it stays stored with its withdrawal, and counts no longer."""
    runtime, caller = runtime_of(request), caller_of(request)
    await look_up(runtime, lambda: withdraw_feedback(runtime, feedback_id, caller))
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def read_marks(request: Request, prediction_id: str) -> Response:
    """Give the marks that readers made on a prediction, and the beats as these correct them."""
    runtime, caller = runtime_of(request), caller_of(request)
    return answer_json(
        await look_up(runtime, lambda: describe_marks_of_prediction(runtime, prediction_id, caller))
    )


async def read_review_queue(request: Request) -> Response:
    """List the predictions without labels that are most worth a look: the random sample first."""
    query = parse_query(ReviewQuery, request.query_params.multi_items())
    runtime, caller = runtime_of(request), caller_of(request)
    since = datetime.now(UTC) - timedelta(days=query.days)
    found = await look_up(
        runtime, lambda: describe_queue(runtime, caller, since=since, limit=query.limit)
    )
    return answer_json(orjson.dumps({"predictions": found}))


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


async def _compute(request: Request, work: Callable[[], T], *, samples: int) -> T:
    """Run what takes the processor, in the client's turn; `samples` says how much it is.

    Raises
    ------
    ProblemError
        If too much waits already.

    """
    runtime = runtime_of(request)
    # The thread logs and traces as this task does.
    context = contextvars.copy_context()
    turn = runtime.turns.submit(
        lambda: context.run(work), client=caller_of(request).name, cost=samples
    )
    return await asyncio.wrap_future(turn)
