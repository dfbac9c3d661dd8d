"""The state of the platform, computed once for the operations page and for its JSON.

The service depends on nothing but its bundle: each part is read by itself, and one that cannot be
read is named with the reason. Nothing here asks Prefect or MLflow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from bentos import VERSION
from bentos.recordings.job_queue import JobQueue
from bentos.routes.pages.rollout import describe_rollout
from bentos.routes.routing import look_up
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from bentos.wire.cockpit_answers import (
    DriftCheck,
    DriftDecision,
    Figure,
    LabelState,
    Link,
    Overview,
    Pipeline,
    ReleaseEvent,
    Served,
)
from bentos.wire.problems import ProblemError
from bentos.wire.rollout_answers import Rollout
from bentos.wire.schemas import ModelInfo, RefusedRelease, SpoolState
from ecg_lib.classifier.bundle import DataSource
from ecg_lib.operations.learning.log_counts import (
    DecisionState,
    count_labels,
    read_decision_states,
)
from ecg_lib.operations.learning.pipeline_run import FILE as PIPELINE
from ecg_lib.operations.learning.pipeline_run import PipelineRun, read_pipeline_run
from ecg_lib.operations.learning.rollout.candidate import (
    CANDIDATE,
    CandidateError,
    read_candidate,
)
from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.operations.processes.helper_states import list_degraded, read_helper_states
from ecg_lib.operations.releases import NOTES, read_release_notes
from ecg_lib.operations.settings import Settings

REVIEW_DAYS: Final = 14.0
"""How far back predictions are counted; what the review queue looks at by itself."""

EVIDENTLY: Final = "-evidently"
"""Part of the name of Evidently's page, next to that of the verdict."""

_N_CHECKS: Final = 12
_N_DECISIONS: Final = 10
_N_EVENTS: Final = 10
_DECISION: Final = "-decision"
_LOOPBACK: Final = "127.0.0.1"
_FIGURES: Final = (
    ("V-F1", "oof_v_f1"),
    ("V-F1 of 10 s strips", "oof_strips_10s_v_f1"),
    ("Sensitivity of V", "oof_v_se"),
    ("Positive predictivity of V", "oof_v_ppv"),
    ("Accuracy of N and V", "oof_accuracy"),
)
_DATA: Final = {
    DataSource.MITDB: "the development records of MIT-BIH",
    DataSource.RECORDS: "the development records of several databases",
    DataSource.SIMULATED: "SIMULATED patients, which says nothing about people",
}


class _Part(NamedTuple):
    """A part that was read, or why it was not."""

    content: Any
    problem: str | None


class _MissingError(Exception):
    """A part that is not there yet."""


async def describe_platform(runtime: Runtime, recordings: JobQueue) -> Overview:
    """Describe the platform as far as it can be read."""
    settings = runtime.settings
    readers: dict[str, Callable[[], Any]] = {
        "served": lambda: _describe_served(runtime.live.current),
        "drift": lambda: _read_drift(runtime),
        "decisions": lambda: _read_decisions(runtime),
        "rollout": lambda: _read_rollout(runtime),
        "releases": lambda: _read_releases(settings),
        "pipeline": lambda: _read_pipeline(settings),
        "labels": lambda: _count_labels(runtime),
        "recordings": recordings.count_jobs,
    }
    parts = dict(
        zip(
            readers,
            await asyncio.gather(*(_read(runtime, reader) for reader in readers.values())),
            strict=True,
        )
    )
    refusal, problem = runtime.live.refusal, runtime.spool.problem
    helpers = read_helper_states(runtime.helpers_path)
    unknown = {name: one.problem for name, one in parts.items() if one.problem is not None}
    if not helpers:
        unknown["helpers"] = "no supervisor watches them"
    return Overview(
        timestamp=datetime.now(UTC),
        version=VERSION,
        status=runtime.status,
        refused=None
        if refusal is None
        else RefusedRelease(bento_tag=refusal.bento_tag, reason=refusal.reason),
        prediction_log=SpoolState(
            waiting=len(runtime.spool), lost=runtime.spool.lost, problem=problem
        ),
        degraded=list_degraded(helpers),
        links=_list_links(settings, runtime.live.info),
        unknown=unknown,
        **{name: one.content for name, one in parts.items()},
    )


async def _read(runtime: Runtime, reader: Callable[[], Any]) -> _Part:
    """Read a part; what a store that is gone, locked or torn raises becomes its problem."""
    try:
        return _Part(await look_up(runtime, reader), None)
    except ProblemError as error:
        return _Part(None, error.detail)
    except _MissingError as error:
        return _Part(None, str(error))
    except CandidateError as error:
        return _Part(None, str(error))
    except OSError as error:
        return _Part(None, f"it cannot be read: {error.strerror or type(error).__name__}")
    except (ValueError, KeyError, TypeError) as error:
        return _Part(None, f"it was written by another version or is torn: {type(error).__name__}")


def _describe_served(model: LoadedModel | None) -> Served:
    if model is None:
        msg = "no model is loaded yet"
        raise _MissingError(msg)
    bundle, release = model.bundle, model.release
    return Served(
        model=ModelInfo(**model.info),
        released_at=None if release is None else release.released_at,
        created_at=bundle.provenance.created_at,
        figures=[
            Figure(
                name=name,
                value=bundle.metrics[key],
                low=bundle.metrics.get(f"{key}_low"),
                high=bundle.metrics.get(f"{key}_high"),
            )
            for name, key in _FIGURES
            if key in bundle.metrics
        ],
        figures_of=(
            f"Out of fold on {_DATA[bundle.provenance.data_source]}, {len(bundle.folds)} people, "
            f"dataset {bundle.provenance.dataset_version}: metrics.json of the bundle."
        ),
    )


def _read_drift(runtime: Runtime) -> list[DriftCheck]:
    checks = _read_checks(runtime, limit=_N_CHECKS)
    if not checks:
        msg = "no drift check was made yet"
        raise _MissingError(msg)
    return checks


def _read_rollout(runtime: Runtime) -> Rollout | None:
    candidate = read_candidate(runtime.settings.serving_dir / CANDIDATE)
    return None if candidate is None else describe_rollout(runtime, candidate)


def _read_decisions(runtime: Runtime) -> list[DriftCheck]:
    """Read the checks that asked for a run: checks are made often, and most ask for nothing."""
    return _read_checks(runtime, limit=_N_DECISIONS, are_decisions=True)


def _read_checks(runtime: Runtime, *, limit: int, are_decisions: bool = False) -> list[DriftCheck]:
    log, directory = runtime.log, runtime.settings.reports_dir / "drift"
    checks = log.read_drift_checks(limit=limit, are_decisions=are_decisions)
    with log.open_transaction() as connection:
        decisions = read_decision_states(connection, [row.check_id for row in checks])
    return [
        _describe_check(row, decisions.get(row.check_id), directory, runtime.settings)
        for row in checks
    ]


def _describe_check(
    row: DriftCheckRow, decision: DecisionState | None, directory: Path, settings: Settings
) -> DriftCheck:
    summary: Mapping[str, Any] = row.summary
    name = str(summary.get("report") or "").removesuffix(".html")
    report = name.removesuffix(_DECISION) + EVIDENTLY
    report += _DECISION if name.endswith(_DECISION) else ""
    return DriftCheck(
        check_id=row.check_id,
        created_at=row.created_at,
        action=row.action,
        is_conclusive=summary["is_conclusive"],
        is_breach=summary["is_breach"],
        is_candidate=row.is_candidate,
        bento_tag=summary["bento_tag"],
        reasons=summary.get("reasons", []),
        page=name if name and (directory / f"{name}.html").is_file() else None,
        report=report if name and (directory / f"{report}.html").is_file() else None,
        decision=None
        if decision is None
        else DriftDecision(
            deployment=decision.deployment,
            state=decision.state,
            run_url=_run_url(settings, decision.run_id),
        ),
    )


def _read_releases(settings: Settings) -> list[ReleaseEvent]:
    notes = read_release_notes(settings.ledger_dir / NOTES)
    if notes is None:
        msg = "nothing was released by this version yet; `ecg releases` lists the ledger"
        raise _MissingError(msg)
    names = ReleaseEvent.model_fields
    return [ReleaseEvent(**note.model_dump(include=set(names))) for note in notes[:_N_EVENTS]]


def _read_pipeline(settings: Settings) -> Pipeline:
    run = read_pipeline_run(settings.serving_dir / PIPELINE)
    if run is None:
        msg = "no pipeline of this version has run yet"
        raise _MissingError(msg)
    return Pipeline(
        outcome=_name_outcome(run),
        why=run.why,
        started_at=run.started_at,
        finished_at=run.finished_at,
        stage=run.stage,
        stages=run.stages,
        failure=run.failure,
        version=run.version,
        reasons=list(run.reasons),
        run_url=_run_url(settings, run.flow_run_id),
    )


def _name_outcome(run: PipelineRun) -> str:
    if run.failure is not None:
        return "failed"
    if run.finished_at is None or run.is_promoted is None:
        return "running"
    return "promoted" if run.is_promoted else "not promoted"


def _count_labels(runtime: Runtime) -> LabelState:
    since = datetime.now(UTC) - timedelta(days=REVIEW_DAYS)
    with runtime.log.open_transaction() as connection:
        counts = count_labels(connection, since=since)
    return LabelState(days=REVIEW_DAYS, **counts._asdict())


def _list_links(settings: Settings, model: Mapping[str, str] | None) -> list[Link]:
    links = [Link(name="Prefect", url=_prefect_url(settings))]
    mlflow = _mlflow_url(settings)
    if mlflow is None:
        return links
    links.append(Link(name="MLflow", url=mlflow))
    if model is not None and model["version"].isdecimal():
        number = model["version"]
        links.append(
            Link(name=f"Model {number} in MLflow", url=f"{mlflow}/#/models/ecg/versions/{number}")
        )
    return links


def _prefect_url(settings: Settings) -> str:
    return f"http://{_LOOPBACK}:{settings.prefect_port}"


def _mlflow_url(settings: Settings) -> str | None:
    """Address of MLflow, without the login in it; None where the setting has no valid address."""
    try:
        address = urlsplit(settings.mlflow_tracking_uri or "")
        host, port = address.hostname, address.port
    except ValueError:  # a wrong port, or brackets that are not closed
        return None
    if address.scheme not in {"http", "https"} or not host:
        return f"http://{_LOOPBACK}:{settings.mlflow_port}"
    host = f"[{host}]" if ":" in host else host
    suffix = "" if port is None else f":{port}"
    return f"{address.scheme}://{host}{suffix}{address.path.rstrip('/')}"


def _run_url(settings: Settings, run_id: str | None) -> str | None:
    return None if run_id is None else f"{_prefect_url(settings)}/runs/flow-run/{run_id}"
