"""The routes of the service, as a FastAPI application."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from bentos import VERSION
from bentos.routes.api_description import describe_api, document_problems, document_query
from bentos.routes.edge import allow_scripts
from bentos.routes.live import add_live
from bentos.routes.pages.cockpit import add_cockpit
from bentos.routes.pages.rollout import add_rollout
from bentos.routes.pages.viewer import add_viewer
from bentos.routes.predictions import (
    create_feedback,
    create_prediction,
    read_example,
    read_marks,
    read_prediction,
    read_review_queue,
    withdraw,
)
from bentos.routes.recordings import add_routes
from bentos.routes.routing import answer_json, caller_of, runtime_of
from bentos.wire.problems import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ProblemError,
    ProblemKind,
)
from bentos.wire.schemas import (
    Feedback,
    Health,
    Marks,
    ModelCard,
    Prediction,
    PredictionRequest,
    ReviewQuery,
    ReviewQueue,
)
from ecg_lib.operations.processes.helper_states import list_degraded, read_helper_states
from ecg_lib.rhythm.risk import NOTICE

_SWAGGER: Final = Path(__file__).parents[1] / "wire" / "swagger"

CLIENT_GONE: Final = 499
"""Status in the counts of a client that goes away in the middle of its request."""


def make_app() -> FastAPI:
    """Make the application; ``app.state.runtime`` is to be set before the first request."""
    app = FastAPI(
        title="ECG beat service",
        version=VERSION,
        description=f"Ventricular beats in an ECG, beat by beat. {NOTICE}",
        docs_url=None,
        redoc_url=None,
        # A redirect would name the host as the service, and not its client, sees it.
        redirect_slashes=False,
        servers=[{"url": ".", "description": "Where this description comes from."}],
        # Its own message would show the whole address, which may hold a patient's identifier.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.mount("/static_content", StaticFiles(directory=_SWAGGER), name="static_content")
    _add_api(app)
    add_routes(app)
    add_live(app)
    _add_pages(app)
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_gone_client)
    app.add_exception_handler(Exception, _answer_failure)
    _add_bare_paths(app)
    app.openapi = lambda: describe_api(app)  # type: ignore[method-assign]  # FastAPI's own way
    return app


def _add_bare_paths(app: FastAPI) -> None:
    """Answer a path that ends with a slash without the slash too."""
    for route in [route for route in app.routes if isinstance(route, APIRoute)]:
        if route.path != "/" and route.path.endswith("/"):
            app.add_api_route(
                route.path.rstrip("/"),
                route.endpoint,
                methods=list(route.methods or ()),
                status_code=route.status_code,
                include_in_schema=False,
            )


def _add_api(app: FastAPI) -> None:
    app.add_api_route(
        "/api/v1/predictions/",
        create_prediction,
        methods=["POST"],
        status_code=HTTPStatus.CREATED,
        summary="Classify the beats of a signal",
        tags=["predictions"],
        responses={
            201: {"model": Prediction},
            **document_problems(400, 401, 408, 413, 415, 422, 429, 503, 504),
        },
    )
    app.add_api_route(
        "/api/v1/predictions/{prediction_id}",
        read_prediction,
        methods=["GET"],
        summary="Read a stored prediction",
        tags=["predictions"],
        responses={200: {"model": Prediction}, **document_problems(404, 503)},
    )
    app.add_api_route(
        "/api/v1/feedback/",
        create_feedback,
        methods=["POST"],
        status_code=HTTPStatus.CREATED,
        summary="Submit a reader's labels of beats",
        tags=["feedback"],
        responses={
            201: {"model": Feedback},
            **document_problems(400, 404, 409, 413, 415, 422, 503),
        },
    )
    app.add_api_route(
        "/api/v1/feedback/{feedback_id}",
        withdraw,
        methods=["DELETE"],
        status_code=HTTPStatus.NO_CONTENT,
        summary="Withdraw feedback",
        tags=["feedback"],
        responses={204: {"description": "Withdrawn"}, **document_problems(404, 503)},
    )
    app.add_api_route(
        "/api/v1/predictions/{prediction_id}/feedback",
        read_marks,
        methods=["GET"],
        summary="Read the marks of readers on a prediction",
        tags=["feedback"],
        responses={200: {"model": Marks}, **document_problems(404, 503)},
    )
    app.add_api_route(
        "/api/v1/review-queue/",
        read_review_queue,
        methods=["GET"],
        summary="List the predictions that are most worth a look",
        tags=["feedback"],
        responses={200: {"model": ReviewQueue}, **document_problems(422, 503)},
        openapi_extra={"parameters": document_query(ReviewQuery)},
    )
    app.add_api_route(
        "/api/v1/model/",
        _read_model,
        methods=["GET"],
        summary="Read the card of the model that answers",
        tags=["model"],
        responses={200: {"model": ModelCard}, **document_problems(503)},
    )
    app.add_api_route(
        "/api/v1/examples/{kind}",
        read_example,
        methods=["GET"],
        summary="Get a simulated strip as a request",
        tags=["predictions"],
        responses={200: {"model": PredictionRequest}, **document_problems(404, 422)},
    )


def _add_pages(app: FastAPI) -> None:
    app.add_api_route(
        "/health",
        _read_health,
        methods=["GET"],
        summary="Report the state of the service",
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
    add_cockpit(app)
    add_rollout(app)
    add_viewer(app)
    app.add_api_route("/docs", _show_docs, methods=["GET"], include_in_schema=False)


async def _read_model(request: Request) -> Response:
    """Give the figures, constants and origin of the model that answers."""
    model = runtime_of(request).require_model()
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
    return answer_json(orjson.dumps(card))


async def _read_health(request: Request) -> Response:
    """Report whether a model is loaded, which, and what release was refused; 503 without a model.

    `degraded` names the helpers of the platform (Prefect, MLflow, worker) that do not run; answers
    depend on none of them. While workers switch one after the other, the model is the one that is
    on its way out. Where API keys are asked for, requests without one get the status alone.
    """
    runtime, caller = runtime_of(request), caller_of(request)
    refusal = runtime.live.refusal
    is_open = not caller.asks_keys or caller.key is not None
    is_loaded = runtime.live.current is not None
    helpers = read_helper_states(runtime.helpers_path)
    problem = runtime.spool.problem
    health = {
        "status": runtime.status,
        "version": VERSION,
        "model_loaded": is_loaded,
        "timestamp": datetime.now(UTC),
        "model": runtime.live.info if is_open else None,
        "refused": asdict(refusal) if refusal and is_open else None,
        "prediction_log": {
            "waiting": len(runtime.spool),
            "lost": runtime.spool.lost,
            "problem": problem if is_open else None,
        },
        "degraded": list_degraded(helpers),
    }
    return answer_json(
        orjson.dumps(health), HTTPStatus.OK if is_loaded else HTTPStatus.SERVICE_UNAVAILABLE
    )


async def _read_metrics(request: Request) -> Response:
    """Give the metrics of all workers together."""
    runtime = runtime_of(request)
    text = await asyncio.get_running_loop().run_in_executor(runtime.look_up, runtime.metrics.write)
    return Response(text, media_type="text/plain; version=0.0.4")


async def _show_docs() -> Response:
    page = get_swagger_ui_html(
        # Relative, so that they lead to the service below whatever path a proxy serves it.
        openapi_url="openapi.json",
        title="ECG beat service",
        swagger_js_url="static_content/swagger-ui-bundle.js",
        swagger_css_url="static_content/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    page.headers["content-security-policy"] = allow_scripts(bytes(page.body))
    return page


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)  # noqa: S101  Starlette's handlers are typed so
    runtime_of(request).metrics.count_refusal(error.kind.name)
    return error.respond()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  Starlette's handlers are typed so
    kind = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(
        error.status_code, ProblemKind("http-error", error.status_code, error.detail)
    )
    runtime_of(request).metrics.count_refusal(kind.name)
    headers = dict(error.headers) if error.headers else None
    return ProblemError(kind, kind.title).respond(headers)


async def _answer_gone_client(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _answer_failure(request: Request, _error: Exception) -> Response:
    runtime_of(request).metrics.count_refusal(INTERNAL.name)
    return ProblemError(INTERNAL, "the service failed; the reason is in its log").respond()
