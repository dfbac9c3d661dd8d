"""The page of a gradual rollout, ``/ops/rollout``, and its JSON.

The page holds no data, as that of operations: its script asks for it with the key of the user.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

from bentos.routes.api_description import document_problems
from bentos.routes.pages.ops_page import write_ops_page
from bentos.routes.routing import answer_json, look_up, runtime_of
from bentos.runtime.predictor import Runtime
from bentos.wire.problems import NOT_FOUND, NOT_READY, ProblemError
from bentos.wire.rollout_answers import (
    Bound,
    DisagreeingBeat,
    Disagreement,
    Rollout,
    RolloutStage,
    RolloutView,
    SignalPart,
)
from ecg_lib.errors import ConfigurationError, SignalStoreError
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.learning.rollout.candidate import (
    CANDIDATE,
    Candidate,
    CandidateError,
    read_candidate,
)

_N_SHOWN: Final = 30
_AROUND_S: Final = 2.0
"""Signal that is shown on each side of the first beat that differs."""

_NO_SIGNAL: Final = "no signal is kept of such a strip on which both models differ"

_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
}

logger = logging.getLogger(__name__)


def add_rollout(app: FastAPI) -> None:
    """Serve the page of a rollout and its JSON."""
    app.add_api_route(
        "/api/v1/ops/rollout/",
        read_rollout,
        methods=["GET"],
        summary="Describe the candidate that is tried, and where it differs",
        tags=["operations"],
        responses={200: {"model": RolloutView}, **document_problems(401, 403, 503)},
    )
    app.add_api_route(
        "/api/v1/ops/rollout/signals/{prediction_id}",
        read_signal,
        methods=["GET"],
        summary="Give the signal around the first beat that differs",
        tags=["operations"],
        responses={200: {"model": SignalPart}, **document_problems(401, 403, 404, 503)},
    )
    app.add_api_route("/ops/rollout", _show_page, methods=["GET"], include_in_schema=False)


async def read_rollout(request: Request) -> Response:
    """Describe the stage, comparisons and bounds, and the latest strips that differ.

    Without a candidate `rollout` is null.
    """
    runtime = runtime_of(request)
    view = await look_up(runtime, lambda: describe_view(runtime))
    return answer_json(view.model_dump_json().encode())


async def read_signal(request: Request, prediction_id: str) -> Response:
    """Give two seconds of the signal on each side of the first beat that differs.

    Only of a strip of the present candidate whose signal is kept: with consent, and labelled or
    drawn for review. Where keys are on, a key needs `label` and `operate`.
    """
    runtime = runtime_of(request)
    part = await look_up(runtime, lambda: find_signal(runtime, prediction_id))
    return answer_json(part.model_dump_json().encode())


async def _show_page() -> Response:
    return HTMLResponse(write_ops_page("rollout"), headers=_HEADERS)


def describe_view(runtime: Runtime) -> RolloutView:
    """Describe the rollout with its disagreements.

    Raises
    ------
    PredictionLogError
        If the log cannot be read.

    """
    now = datetime.now(UTC)
    try:
        candidate = read_candidate(runtime.settings.serving_dir / CANDIDATE)
    except CandidateError as error:
        return RolloutView(timestamp=now, rollout=None, problem=str(error), disagreements=[])
    if candidate is None:
        return RolloutView(timestamp=now, rollout=None, problem=None, disagreements=[])
    return RolloutView(
        timestamp=now,
        rollout=describe_rollout(runtime, candidate),
        problem=None,
        disagreements=_list_disagreements(runtime, candidate),
    )


def describe_rollout(runtime: Runtime, candidate: Candidate) -> Rollout:
    """Describe the candidate, what was compared, and how its bounds stand."""
    # Imported with the first look: with the database they take half a second.
    from ecg_lib.operations.learning.rollout.comparison_log import read_compared  # noqa: PLC0415
    from ecg_lib.operations.learning.rollout.judgement import judge  # noqa: PLC0415

    compared = read_compared(runtime.log, candidate.id)
    seconds = sum(group.seconds for group in compared.groups.values())
    runs = {
        "champion": sum(group.runs_champion for group in compared.groups.values()),
        "candidate": sum(group.runs_candidate for group in compared.groups.values()),
    }
    bounds = candidate.plan.bounds
    return Rollout(
        bento_tag=candidate.release.bento_tag,
        version=candidate.release.model_version,
        champion=candidate.champion.bento_tag,
        why=candidate.why,
        who=candidate.who,
        started_at=candidate.started_at,
        stage_since=candidate.stage_since,
        stages=[
            RolloutStage(
                name=stage.name,
                is_current=stage is candidate.current_stage,
                **stage.model_dump(),
            )
            for stage in candidate.plan.stages
        ],
        share=candidate.share,
        problem=runtime.trial.candidate.problem,
        strips=compared.strips,
        people=len(compared.groups),
        beats=compared.beats,
        v_runs_per_hour={
            who: round(3600 * n / seconds, 3) if seconds else None for who, n in runs.items()
        },
        failed=compared.failed,
        champion_refused=compared.champion_refused,
        bounds=[
            Bound(
                name=finding.name,
                value=finding.value,
                bound=finding.bound,
                n=finding.n,
                text=finding.text,
            )
            for finding in judge(compared, bounds, looks=candidate.looks).findings
        ],
        false_return_chance=bounds.false_return_chance,
    )


def _list_disagreements(runtime: Runtime, candidate: Candidate) -> list[Disagreement]:
    from ecg_lib.operations.learning.rollout.comparison_log import read_disagreements  # noqa: PLC0415

    settings = runtime.settings
    signals = SignalStore(settings.signals_dir, settings.signal_key_path)
    stages = candidate.plan.stages
    return [
        Disagreement(
            prediction_id=row.prediction_id,
            created_at=row.created_at,
            stage=stages[min(row.stage, len(stages) - 1)].name,
            answered_by=row.answered_by,
            duration_s=row.duration_s,
            n_beats=row.n_disagreements,
            beats=[DisagreeingBeat(**beat) for beat in row.beats],
            has_signal=row.patient_key is not None
            and signals.is_kept(row.patient_key, row.prediction_id),
        )
        for row in read_disagreements(runtime.log, candidate.id, limit=_N_SHOWN)
    ]


def find_signal(runtime: Runtime, prediction_id: str) -> SignalPart:
    """Cut the signal around the first beat that differs.

    Raises
    ------
    ProblemError
        If there is no such strip, its signal is not kept or cannot be read.
    PredictionLogError
        If the log cannot be read.

    """
    from ecg_lib.operations.learning.rollout.comparison_log import find_disagreement  # noqa: PLC0415

    settings = runtime.settings
    try:
        candidate = read_candidate(settings.serving_dir / CANDIDATE)
    except CandidateError as error:
        raise ProblemError(NOT_FOUND, str(error)) from error
    row = None if candidate is None else find_disagreement(runtime.log, candidate.id, prediction_id)
    if row is None or row.patient_key is None or not row.beats:
        raise ProblemError(NOT_FOUND, _NO_SIGNAL)
    signals = SignalStore(settings.signals_dir, settings.signal_key_path)
    try:
        kept = signals.read(row.patient_key, prediction_id, may_wait=False)
    except (SignalStoreError, ConfigurationError, OSError) as error:
        logger.warning("the signal of a disagreement cannot be shown: %s", error)
        raise ProblemError(NOT_READY, "the signal cannot be read now") from error
    if kept is None:
        raise ProblemError(NOT_FOUND, _NO_SIGNAL)
    around = round(_AROUND_S * kept.fs)
    start = max(int(row.beats[0]["position_sample"]) - around, 0)
    part = kept.signal_mv[start : start + 2 * around]
    return SignalPart(
        fs=kept.fs,
        start_sample=start,
        samples_mv=[round(float(sample), 4) for sample in part],
    )
