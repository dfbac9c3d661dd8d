"""The routes of the service, as a FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import bentoml._internal.server
import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from bentos import VERSION
from bentos.pages import add_viewer
from bentos.problems import (
    INTERNAL,
    LOG_UNAVAILABLE,
    MEDIA_TYPE,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    WRONG_MEDIA_TYPE,
    ProblemError,
    ProblemKind,
)
from bentos.runtime import Runtime
from bentos.schemas import (
    NOTICE,
    Feedback,
    FeedbackRequest,
    Health,
    ModelCard,
    Prediction,
    PredictionRequest,
    Problem,
)
from ecg_lib.errors import PredictionLogError
from ecg_lib.simulator import StripKind, simulate_strip

MAX_PREDICTION_BYTES: Final = 16 * 2**20
MAX_FEEDBACK_BYTES: Final = 2**20

T = TypeVar("T")

_LOOK_UP_S: Final = 8.0
_EXAMPLE_FS_HZ: Final = 100.0
_SWAGGER: Final = Path(bentoml._internal.server.__file__).parent / "static_content"  # noqa: SLF001  BentoML's copy is served: no page comes from elsewhere
_REF: Final = "#/components/schemas/{model}"


def make_app() -> FastAPI:
    """Make the application; ``app.state.runtime`` is to be set before the first request."""
    app = FastAPI(
        title="ECG beat service",
        version=VERSION,
        description=f"Ventricular beats in an ECG, beat by beat. {NOTICE}",
        docs_url=None,
        redoc_url=None,
    )
    app.mount("/static_content", StaticFiles(directory=_SWAGGER), name="static_content")
    _add_api(app)
    _add_pages(app)
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(Exception, _answer_failure)
    app.openapi = lambda: _describe_api(app)  # type: ignore[method-assign]  # FastAPI's own way
    return app


def _add_api(app: FastAPI) -> None:
    app.add_api_route(
        "/api/v1/predictions/",
        _create_prediction,
        methods=["POST"],
        status_code=HTTPStatus.CREATED,
        summary="Classify the beats of a signal",
        tags=["predictions"],
        responses={201: {"model": Prediction}, **_problems(400, 413, 415, 422, 503)},
        openapi_extra=_body_of(PredictionRequest),
    )
    app.add_api_route(
        "/api/v1/predictions/{prediction_id}",
        _read_prediction,
        methods=["GET"],
        summary="Read a stored prediction",
        tags=["predictions"],
        responses={200: {"model": Prediction}, **_problems(404, 503)},
    )
    app.add_api_route(
        "/api/v1/feedback/",
        _create_feedback,
        methods=["POST"],
        status_code=HTTPStatus.CREATED,
        summary="Tell the classes that a reader gives to beats",
        tags=["feedback"],
        responses={201: {"model": Feedback}, **_problems(400, 404, 413, 415, 422)},
        openapi_extra=_body_of(FeedbackRequest),
    )
    app.add_api_route(
        "/api/v1/model/",
        _read_model,
        methods=["GET"],
        summary="Read the card of the model that answers",
        tags=["model"],
        responses={200: {"model": ModelCard}, **_problems(503)},
    )
    app.add_api_route(
        "/api/v1/examples/{kind}",
        _read_example,
        methods=["GET"],
        summary="Get a simulated strip as a request",
        tags=["predictions"],
        responses={200: {"model": PredictionRequest}, **_problems(404)},
    )


def _add_pages(app: FastAPI) -> None:
    app.add_api_route(
        "/health",
        _read_health,
        methods=["GET"],
        summary="Tell how the service is",
        tags=["operations"],
        responses={200: {"model": Health}, 503: {"model": Health}},
    )
    app.add_api_route(
        "/metrics",
        _read_metrics,
        methods=["GET"],
        summary="Metrics for Prometheus",
        tags=["operations"],
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    add_viewer(app)
    app.add_api_route("/docs", _show_docs, methods=["GET"], include_in_schema=False)


async def _create_prediction(request: Request) -> Response:
    """Find and classify the beats of one lead, and tell what rhythm they make."""
    runtime = _runtime_of(request)
    runtime.require_model()
    body = await _read_json(request, MAX_PREDICTION_BYTES)
    created = await asyncio.get_running_loop().run_in_executor(
        runtime.compute, runtime.predict, body
    )
    location = {"Location": f"/api/v1/predictions/{created.prediction_id}"}
    return _json(created.body, HTTPStatus.CREATED, location)


async def _read_prediction(request: Request, prediction_id: str) -> Response:
    """Give the answer that was given when the prediction was made."""
    runtime = _runtime_of(request)
    found = await _look_up(runtime, lambda: runtime.find_prediction(prediction_id))
    return _json(orjson.dumps(found))


async def _create_feedback(request: Request) -> Response:
    """Keep a reader's classes; monitoring measures the model against them."""
    runtime = _runtime_of(request)
    body = await _read_json(request, MAX_FEEDBACK_BYTES)
    return _json(await _look_up(runtime, lambda: runtime.take_feedback(body)), HTTPStatus.CREATED)


async def _read_model(request: Request) -> Response:
    """Give the figures, constants and origin of the model that answers."""
    model = _runtime_of(request).require_model()
    bundle = model.bundle
    card = {
        "model": model.info,
        "created_at": bundle.provenance.created_at,
        "metrics": bundle.metrics,
        "config": asdict(bundle.config),
        "library_versions": bundle.provenance.library_versions,
        "model_card": bundle.model_card,
        "notice": NOTICE,
    }
    return _json(orjson.dumps(card))


async def _read_example(kind: str) -> Response:
    """Give a request as the predictions route wants it, of a strip whose rhythm is known."""
    if kind not in set(StripKind):
        known = ", ".join(StripKind)
        raise ProblemError(NOT_FOUND, f"the example must be one of {known}")
    return _json(orjson.dumps(_example(StripKind(kind))))


async def _read_health(request: Request) -> Response:
    """Tell whether a model is loaded, which, and what release was refused; 503 without a model."""
    runtime = _runtime_of(request)
    model, refusal = runtime.live.current, runtime.live.refusal
    is_loaded = model is not None
    health = {
        "status": "draining" if runtime.is_draining else "ok" if is_loaded else "starting",
        "version": VERSION,
        "model_loaded": is_loaded,
        "timestamp": datetime.now(UTC),
        "model": model.info if model else None,
        "refused": asdict(refusal) if refusal else None,
        "prediction_log": {
            "waiting": len(runtime.spool),
            "lost": runtime.spool.lost,
            "problem": runtime.spool.problem,
        },
    }
    return _json(
        orjson.dumps(health), HTTPStatus.OK if is_loaded else HTTPStatus.SERVICE_UNAVAILABLE
    )


async def _read_metrics(request: Request) -> Response:
    """Give the metrics of this process."""
    return Response(_runtime_of(request).metrics.write(), media_type="text/plain; version=0.0.4")


async def _show_docs() -> Response:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="ECG beat service",
        swagger_js_url="/static_content/swagger-ui-bundle.js",
        swagger_css_url="/static_content/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


def _runtime_of(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def _json(
    body: bytes, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    return Response(body, status_code=status, headers=headers, media_type="application/json")


async def _read_json(request: Request, max_bytes: int) -> bytes:
    """Read a body of JSON, and stop where it is too large.

    Raises
    ------
    ProblemError
        If the media type is another, or the body too large.

    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ProblemError(WRONG_MEDIA_TYPE, "Content-Type must be application/json")
    too_large = ProblemError(TOO_LARGE, f"the body must have at most {max_bytes} bytes")
    # uvicorn has refused a Content-Length that is no number.
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


async def _look_up(runtime: Runtime, work: Callable[[], T]) -> T:
    """Do what may wait for the prediction log.

    Raises
    ------
    ProblemError
        If the log cannot be read in time.

    """
    future = asyncio.get_running_loop().run_in_executor(runtime.look_up, work)
    try:
        return await asyncio.wait_for(future, _LOOK_UP_S)
    except (PredictionLogError, TimeoutError) as error:
        raise ProblemError(LOG_UNAVAILABLE, "the prediction log cannot be read now") from error


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)  # noqa: S101  Starlette's handlers are typed so
    _runtime_of(request).metrics.count_refusal(error.kind.name)
    return error.respond()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  Starlette's handlers are typed so
    kind = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(
        error.status_code, ProblemKind("http-error", error.status_code, error.detail)
    )
    _runtime_of(request).metrics.count_refusal(kind.name)
    headers = dict(error.headers) if error.headers else None
    return ProblemError(kind, kind.title).respond(headers)


async def _answer_failure(request: Request, _error: Exception) -> Response:
    _runtime_of(request).metrics.count_refusal(INTERNAL.name)
    return ProblemError(INTERNAL, "the service failed; its log says why").respond()


@lru_cache
def _example(kind: StripKind) -> dict[str, Any]:
    strip = simulate_strip(kind, fs=_EXAMPLE_FS_HZ, seed=1)
    return {
        "signal_data": [round(sample, 3) for sample in strip.signal_mv().tolist()],
        "sampling_rate": _EXAMPLE_FS_HZ,
        "derivation": "MLII",
    }


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": _REF.format(model="Problem")}
    problem = {"content": {MEDIA_TYPE: {"schema": schema}}}
    documented: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, **problem} for status in statuses
    }
    return {**documented, "default": {"description": "Another problem", **problem}}


def _body_of(model: type[PredictionRequest | FeedbackRequest]) -> dict[str, Any]:
    """Document a body that the route reads itself, which FastAPI does not see."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _describe_api(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        bodies = (PredictionRequest, FeedbackRequest)
        _, schemas = models_json_schema(
            [*((body, "validation") for body in bodies), (Problem, "serialization")],
            ref_template=_REF,
        )
        described["components"]["schemas"].update(schemas["$defs"])
        for path, example in _examples().items():
            content = described["paths"][path]["post"]["requestBody"]["content"]
            content["application/json"]["example"] = example
        app.openapi_schema = described
    return app.openapi_schema


def _examples() -> dict[str, dict[str, Any]]:
    return {
        "/api/v1/predictions/": _example(StripKind.ISOLATED_PVC),
        "/api/v1/feedback/": {
            "prediction_id": "4b1f7a3e-6d0c-4c1e-9f43-0d1a2b3c4d5e",
            "labels": [{"beat_index": 3, "arrhythmia_type": "V"}],
            "annotator": "reader 1",
        },
    }
