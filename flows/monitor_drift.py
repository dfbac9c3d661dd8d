"""Flow ``monitor-drift``: see whether traffic is still what the served model was made for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.states import Completed
from pydantic import Field

from ecg_lib.bundle import Bundle, read_bundle
from ecg_lib.comparison import (
    Comparison,
    ObservedBeats,
    ObservedStrip,
    compare_beats,
    gather_strips,
    match_lengths,
    read_reference,
)
from ecg_lib.drift import (
    DriftAction,
    DriftDecision,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
    confirm_after,
    decide_action,
)
from ecg_lib.errors import BundleIntegrityError
from ecg_lib.evaluation import BeatCounts, add_up
from ecg_lib.live_performance import (
    ReviewedStrip,
    count_reviewed,
    estimate_performance,
    measure_performance,
)
from ecg_lib.prediction_log import PredictionLog
from ecg_lib.prediction_rows import DriftCheckRow, PredictionRow
from ecg_lib.releases import Release
from ecg_lib.settings import Settings, read_settings
from flows.serving import find_bundle, read_current

NOTHING_SERVED = "nothing is served yet: there is no current.json, run the pipeline first"
REFERENCE_COUNTS = "by_subject_strips_10_s"
"""Key of the bundle's metrics: out-of-fold counts (BeatCounts) by subject."""

_HISTORY = 1000


class Served(NamedTuple):
    """What is served, and since when."""

    release: Release
    bundle: Bundle
    since: datetime


class Traffic(NamedTuple):
    """Rows of the monitoring database that one check looks at."""

    rows: list[PredictionRow]
    """Answers of the served bundle in the window."""
    before: list[PredictionRow]
    """Answers before the release; empty when it is not in the window, or only a return."""
    since: list[PredictionRow]
    """Answers of the release."""
    reviewed: list[ReviewedStrip]
    history: list[PastCheck]
    """Latest first."""


@flow(name="monitor-drift", log_prints=False)
def monitor_drift(
    window_hours: Annotated[float, Field(gt=0, le=2160)] = 24.0,
    label_window_hours: Annotated[float, Field(gt=0, le=8760)] = 168.0,
    max_strips: Annotated[int, Field(ge=100, le=20_000)] = 2000,
    min_strips: Annotated[int, Field(ge=10)] = 50,
    min_beats: Annotated[int, Field(ge=100)] = 500,
    min_groups: Annotated[int, Field(ge=2)] = 5,
    n_breaches: Annotated[int, Field(ge=1, le=100)] = 2,
    cool_down_hours: Annotated[float, Field(ge=0, le=168)] = 24.0,
    *,
    dry_run: bool = False,
) -> Any:  # noqa: ANN401  Prefect takes the decision or a named state
    """Compare the latest traffic with the reference of the served bundle, and decide.

    KEEP, RETRAIN or ROLLBACK, with reasons. What is not KEEP is sent as an event, on which
    deployments of this platform start.

    Args:
        window_hours: How far back predictions are looked at.
        label_window_hours: How far back predictions with clinicians' classes are looked at.
        max_strips: At most so many predictions, the latest.
        min_strips: Fewer strips than this decide nothing.
        min_beats: Fewer beats than this decide nothing.
        min_groups: Fewer patients, or predictions without one, decide nothing.
        n_breaches: Checks in a row that must find drift, each on new traffic, to retrain.
        cool_down_hours: How long an action is not taken again.
        dry_run: Decide and report, but store nothing and start nothing.

    Returns:
        The decision: action, reasons, figures, release and report.
    """
    settings = read_settings()
    now = datetime.now(UTC)
    policy = DriftPolicy(
        min_strips=min_strips,
        min_beats=min_beats,
        min_groups=min_groups,
        n_breaches=n_breaches,
        cool_down_s=cool_down_hours * 3600,
    )
    if not dry_run:
        # First: whatever the check comes to, what must go goes.
        forget_old(settings, now=now, needed=timedelta(hours=max(window_hours, label_window_hours)))
    served = read_served(settings)
    if served is None:
        get_run_logger().warning(NOTHING_SERVED)
        return Completed(name="NothingServed", message=NOTHING_SERVED)
    traffic = read_traffic(
        settings,
        served,
        now=now,
        window=timedelta(hours=window_hours),
        label_window=timedelta(hours=label_window_hours),
        max_strips=max_strips,
    )
    evidence = gather_evidence(served, traffic, policy)
    decision = decide(served, evidence, traffic, now=now, policy=policy)
    report = write_report(settings, served, traffic, now=now, policy=policy)
    publish(served, decision, evidence.traffic, report)
    if not dry_run:
        start_action(served, decision)
        store_check(settings, served, traffic, decision, now=now)
    return {
        "action": decision.action.value,
        "reasons": list(decision.reasons),
        "figures": decision.figures,
        "bento_tag": served.release.bento_tag,
        "report": None if report is None else str(report),
    }


@task(cache_policy=NO_CACHE)
def read_served(settings: Settings) -> Served | None:
    """Read what is served, or None before the first release."""
    release = read_current(settings)
    if release is None:
        return None
    bundle = read_bundle(find_bundle(settings, release.model_tag))
    if bundle.hash != release.bundle_hash:
        msg = (
            f"{release.model_tag} must be the bundle {release.bundle_hash[:12]} of the release, "
            f"got {bundle.hash[:12]}"
        )
        raise BundleIntegrityError(msg)
    return Served(release, bundle, datetime.fromisoformat(release.released_at))


@task(cache_policy=NO_CACHE)
def read_traffic(
    settings: Settings,
    served: Served,
    *,
    now: datetime,
    window: timedelta,
    label_window: timedelta,
    max_strips: int,
) -> Traffic:
    """Read predictions, feedback and earlier checks."""
    release, released_at = served.release, served.since
    with _open_log(settings) as log:
        history = [_past_check(row) for row in log.read_drift_checks(limit=_HISTORY)]
        seen_until = confirm_after(
            history, bundle_hash=release.bundle_hash, released_at=released_at
        )
        rows = log.read_predictions(
            since=max(now - window, seen_until or now - window),
            bundle_hash=release.bundle_hash,
            limit=max_strips,
        )
        around = []
        if released_at > now - window:
            around = log.read_predictions(since=released_at - window, limit=2 * max_strips)
        labelled = log.read_predictions(
            since=now - label_window, bundle_hash=release.bundle_hash, limit=max_strips
        )
        feedback = log.read_feedback(row.prediction_id for row in labelled)
    labels: dict[str, dict[int, str]] = {}
    for given in feedback:  # oldest first: the latest word counts
        labels.setdefault(given.prediction_id, {}).update(given.labels)
    before = [row for row in around if row.created_at < released_at]
    tags_before = {row.bento_tag for row in before} | {
        check.bento_tag for check in history if check.created_at < released_at
    }
    if release.bento_tag in tags_before:  # a return to what was there is a step back, not a step
        before = []
    traffic = Traffic(
        rows=[row for row in rows if seen_until is None or row.created_at > seen_until],
        before=before,
        since=[row for row in around if row.bento_tag == release.bento_tag],
        reviewed=[
            ReviewedStrip(
                _group_of(row),
                [beat["arrhythmia_type"] for beat in row.response["beat_predictions"]],
                labels[row.prediction_id],
            )
            for row in labelled
            if row.prediction_id in labels
        ],
        history=history,
    )
    get_run_logger().info(
        "%d predictions of %s, %d reviewed, %d before the release",
        len(traffic.rows),
        release.bento_tag,
        len(traffic.reviewed),
        len(traffic.before),
    )
    return traffic


@task(cache_policy=NO_CACHE)
def gather_evidence(served: Served, traffic: Traffic, policy: DriftPolicy) -> DriftEvidence:
    """Compare, measure, estimate, and ask the golden requests."""
    from ecg_lib.classifier import BeatClassifier
    from ecg_lib.golden import check_golden

    bundle = served.bundle
    current = _gather(traffic.rows)
    labelled = None
    if traffic.reviewed:
        labelled = measure_performance(
            count_reviewed(traffic.reviewed, min_share=policy.min_labelled_share),
            reference=_reference_counts(bundle),
        )
    step = None
    if traffic.before and traffic.since:
        step = compare_beats(
            _gather(traffic.before), _gather(traffic.since), config=policy.comparison
        )
    return DriftEvidence(
        traffic=compare_beats(
            read_reference(bundle.read_drift_reference()), current, config=policy.comparison
        ),
        release=step,
        labelled=labelled,
        estimate=estimate_performance(
            current.columns["probability_v"].astype(float),
            current.columns["arrhythmia_type"] == "V",
        )
        if current.n_beats
        else None,
        golden_failures=check_golden(
            BeatClassifier.load(bundle), bundle.golden.read_text(encoding="utf-8")
        ),
    )


@task(cache_policy=NO_CACHE)
def decide(
    served: Served,
    evidence: DriftEvidence,
    traffic: Traffic,
    *,
    now: datetime,
    policy: DriftPolicy,
) -> DriftDecision:
    """Decide what to do with the served model."""
    decision = decide_action(
        evidence,
        history=traffic.history,
        bundle_hash=served.bundle.hash,
        released_at=served.since,
        now=now,
        policy=policy,
    )
    get_run_logger().info("%s: %s", decision.action.value, "; ".join(decision.reasons))
    return decision


@task(cache_policy=NO_CACHE)
def write_report(
    settings: Settings,
    served: Served,
    traffic: Traffic,
    *,
    now: datetime,
    policy: DriftPolicy,
) -> Path | None:
    """Write Evidently's report, or nothing when there is too little traffic for it."""
    from flows.drift_report import MIN_ROWS, write_drift_report

    reference, current, _, _ = match_lengths(
        read_reference(served.bundle.read_drift_reference()),
        _gather(traffic.rows),
        max_ratio=policy.comparison.max_length_ratio,
    )
    if min(reference.n_beats, current.n_beats) < MIN_ROWS:
        get_run_logger().info("no report: %d beats where %d are needed", current.n_beats, MIN_ROWS)
        return None
    report = write_drift_report(
        reference.columns,
        current.columns,
        directory=settings.reports_dir / "drift",
        name=f"{now:%Y%m%dT%H%M%S%fZ}",
    )
    create_link_artifact(
        report.html.as_uri(), link_text="drift report", key="drift-report",
        description=f"Evidently's report of {served.release.bento_tag}",
    )  # fmt: skip
    return report.html


@task(cache_policy=NO_CACHE)
def publish(
    served: Served, decision: DriftDecision, comparison: Comparison, report: Path | None
) -> None:
    """Show the decision and the table behind it in the Prefect UI."""
    create_markdown_artifact(
        _as_markdown(served, decision, comparison, report),
        key="drift-check",
        description=f"{decision.action.value}: {served.release.bento_tag}",
    )


@task(cache_policy=NO_CACHE)
def start_action(served: Served, decision: DriftDecision) -> None:
    """Send the event that starts retraining or rollback.

    Raises
    ------
    RuntimeError
        If Prefect does not take the event.

    """
    if decision.action is DriftAction.KEEP:
        return
    name = f"ecg.drift.{decision.action.value.lower()}"
    event = emit_event(
        name,
        resource={
            "prefect.resource.id": f"ecg.model.{served.bundle.hash[:12]}",
            "prefect.resource.name": served.release.bento_tag,
        },
        payload={
            "action": decision.action.value,
            "reason": "; ".join(decision.reasons),
            "share": decision.figures["drifted_share"],
            "bento_tag": served.release.bento_tag,
            "bundle_hash": served.bundle.hash,
        },
    )
    if event is None:
        raise RuntimeError(f"the event {name} must reach a Prefect server, there is none")
    get_run_logger().info("sent the event %s", name)


@task(cache_policy=NO_CACHE)
def store_check(
    settings: Settings,
    served: Served,
    traffic: Traffic,
    decision: DriftDecision,
    *,
    now: datetime,
) -> None:
    """Store the check, which the next ones look back on."""
    newest = max((row.created_at for row in traffic.rows), default=None)
    row = DriftCheckRow(
        check_id=str(uuid.uuid4()),
        created_at=now,
        bundle_hash=served.bundle.hash,
        action=decision.action.value,
        summary={
            "bento_tag": served.release.bento_tag,
            "is_conclusive": decision.is_conclusive,
            "is_breach": decision.is_breach,
            "newest_at": None if newest is None else newest.isoformat(),
            "reasons": list(decision.reasons),
            "figures": decision.figures,
        },
    )
    with _open_log(settings) as log:
        log.add_drift_check(row)


@task(cache_policy=NO_CACHE)
def forget_old(settings: Settings, *, now: datetime, needed: timedelta) -> None:
    """Delete predictions that the log keeps no longer, if the settings say so."""
    if settings.log_kept_days is None:
        return
    kept = timedelta(days=settings.log_kept_days)
    if kept < needed:
        get_run_logger().warning(
            "the log keeps %d days, this check looks at %.1f: it sees less than it is asked to",
            settings.log_kept_days,
            needed / timedelta(days=1),
        )
    with _open_log(settings) as log:
        n_predictions, n_feedback = log.delete_before(now - kept)
    if n_predictions or n_feedback:
        get_run_logger().info(
            "older than %d days and deleted: %d predictions, %d rows of feedback",
            settings.log_kept_days,
            n_predictions,
            n_feedback,
        )


@contextmanager
def _open_log(settings: Settings) -> Iterator[PredictionLog]:
    settings.home.mkdir(parents=True, exist_ok=True)
    log = PredictionLog(settings.monitoring_database_url)
    try:
        log.create_tables()
        yield log
    finally:
        log.close()


def _past_check(row: DriftCheckRow) -> PastCheck:
    newest = row.summary["newest_at"]
    return PastCheck(
        created_at=row.created_at,
        bundle_hash=row.bundle_hash,
        bento_tag=row.summary["bento_tag"],
        action=DriftAction(row.action),
        is_conclusive=row.summary["is_conclusive"],
        is_breach=row.summary["is_breach"],
        newest_at=None if newest is None else datetime.fromisoformat(newest),
    )


def _gather(rows: list[PredictionRow]) -> ObservedBeats:
    return gather_strips(
        ObservedStrip(_group_of(row), row.duration_s, row.observed) for row in rows
    )


def _group_of(row: PredictionRow) -> str:
    return f"patient {row.patient_key}" if row.patient_key else f"prediction {row.prediction_id}"


def _reference_counts(bundle: Bundle) -> BeatCounts | None:
    counts = bundle.metrics.get(REFERENCE_COUNTS)
    if not counts:
        return None
    return add_up([BeatCounts(**of_subject) for of_subject in counts.values()])


def _as_markdown(
    served: Served, decision: DriftDecision, comparison: Comparison, report: Path | None
) -> str:
    lines = [
        f"# {decision.action.value}",
        "",
        f"`{served.release.bento_tag}`, model version {served.release.model_version}:",
        f"{comparison.n_strips} strips with {comparison.n_beats} beats of",
        f"{comparison.n_groups} patients or single predictions.",
        "",
        *(f"- {reason}" for reason in decision.reasons),
        "",
    ]
    if comparison.columns:
        lines += [
            "| column | reference | traffic | distance | p (Holm) | drifted |",
            "|---|---|---|---:|---:|---|",
            *(
                f"| {drift.column} | {drift.reference} | {drift.current} | {drift.distance:.3f} "
                f"| {drift.p_adjusted:.3f} | {'yes' if drift.is_drifted else 'no'} |"
                for drift in comparison.columns
            ),
            "",
        ]
    lines.append(f"Report: `{report}`" if report else "No report: too little traffic.")
    return "\n".join(lines)
