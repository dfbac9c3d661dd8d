"""The pages of operators and readers: ``/ops``, ``/ops/review``, drift checks and evaluations.

``/ops`` and ``/ops/review`` hold no data, as the viewer: their scripts ask for it with the key that
the user enters. The reports are files of ``monitor-drift`` and ``evaluate-champion``, and guarded
themselves.
"""

from __future__ import annotations

import logging
import re
from functools import partial
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from bentos.routes.api_description import document_problems
from bentos.routes.pages.ops_page import write_ops_page
from bentos.routes.pages.overview import EVIDENTLY, describe_platform
from bentos.routes.routing import answer_json, caller_of, recordings_of, runtime_of
from bentos.wire.cockpit_answers import Overview
from bentos.wire.problems import NOT_FOUND, NOT_READY, ProblemError
from ecg_lib.operations.keys.api_keys import Scope
from ecg_lib.operations.learning.drifted_beats import path_beside, show_drifted_beats
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.settings import Settings

_DRIFT_PAGE: Final = re.compile(r"\d{8}T\d{12}Z(-evidently)?(-decision)?")

_EVALUATION: Final = re.compile(r"[0-9a-f]{12}-[\w-][\w.-]{0,100}\.(html|json)")

_NO_EVALUATION: Final = "there is no evaluation report with this name"

_NO_PAGE: Final = "there is no page of a drift check with this name"

_HEADERS: Final = {
    "Cache-Control": "no-cache",
    # A page of a drift check, which has its styles in itself, is shown in a frame of this one.
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}

_REPORT_HEADERS: Final = {
    # Evidently's page is one large script. In a sandbox it has no origin, so that it reaches
    # neither this service nor what the viewer stores, and it may load nothing.
    "Content-Security-Policy": (
        "sandbox allow-scripts allow-popups; default-src 'none'; "
        "script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; frame-ancestors 'none'"
    ),
}

logger = logging.getLogger(__name__)


def add_cockpit(app: FastAPI) -> None:
    """Serve the operations page with its JSON, the review queue, and reports."""
    app.add_api_route(
        "/api/v1/ops/",
        read_overview,
        methods=["GET"],
        summary="Describe the platform: release, drift, pipeline, labels",
        tags=["operations"],
        responses={200: {"model": Overview}, **document_problems(401, 403)},
    )
    app.add_api_route("/ops", _show_cockpit, methods=["GET"], include_in_schema=False)
    app.add_api_route("/ops/review", _show_review, methods=["GET"], include_in_schema=False)
    app.add_api_route("/ops/drift/{name}", _show_drift, methods=["GET"], include_in_schema=False)
    app.add_api_route(
        "/ops/evaluation/{name}", _show_evaluation, methods=["GET"], include_in_schema=False
    )


async def read_overview(request: Request) -> Response:
    """Describe what is served, drift, releases, the last pipeline, labels and recordings.

    A part that cannot be read is null, and `unknown` says why.
    """
    overview = await describe_platform(runtime_of(request), recordings_of(request))
    return answer_json(overview.model_dump_json().encode())


async def _show_cockpit() -> Response:
    return HTMLResponse(write_ops_page("cockpit"), headers=_HEADERS)


async def _show_review() -> Response:
    return HTMLResponse(write_ops_page("review"), headers=_HEADERS)


def _read_page(path: Path, settings: Settings, *, has_strips: bool) -> bytes:
    """Read the page of a check, with strips of those of its beats whose signals are still kept.

    As on the page of a rollout, signals need the scopes `label` and `operate` where keys are on.
    """
    page = path.read_bytes()
    if EVIDENTLY in path.stem or not has_strips:
        return page
    store = SignalStore(settings.signals_dir, settings.signal_key_path)
    return show_drifted_beats(page, path_beside(path), store)


async def _show_drift(request: Request, name: str) -> Response:
    """Give the page of a drift check; the name may have its suffix, as links between pages do.

    Retention may delete the page at any time, so it is read whole before the answer starts.
    """
    stem = name.removesuffix(".html")
    runtime = runtime_of(request)
    path = runtime.settings.reports_dir / "drift" / f"{stem}.html"
    if not _DRIFT_PAGE.fullmatch(stem):
        raise ProblemError(NOT_FOUND, _NO_PAGE)
    try:
        has_strips = caller_of(request).may(Scope.LABEL)
        page = await run_in_threadpool(
            partial(_read_page, path, runtime.settings, has_strips=has_strips)
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ProblemError(NOT_FOUND, _NO_PAGE) from error
    except OSError as error:
        logger.warning("the page %s of a drift check cannot be read: %s", stem, error)
        raise ProblemError(NOT_READY, "the page of this drift check cannot be read now") from error
    headers = _REPORT_HEADERS if EVIDENTLY in stem else None
    return Response(page, headers=headers, media_type="text/html; charset=utf-8")


async def _show_evaluation(request: Request, name: str) -> Response:
    """Give an evaluation report: its page or, where the name ends so, its JSON."""
    file = name if name.endswith((".html", ".json")) else f"{name}.html"
    if not _EVALUATION.fullmatch(file):
        raise ProblemError(NOT_FOUND, _NO_EVALUATION)
    path = runtime_of(request).settings.reports_dir / "evaluation" / file
    try:
        content = await run_in_threadpool(path.read_bytes)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ProblemError(NOT_FOUND, _NO_EVALUATION) from error
    except OSError as error:
        logger.warning("the evaluation report %s cannot be read: %s", file, error)
        raise ProblemError(NOT_READY, "this evaluation report cannot be read now") from error
    if file.endswith(".json"):
        return Response(content, media_type="application/json")
    return Response(content, headers=_REPORT_HEADERS, media_type="text/html; charset=utf-8")
