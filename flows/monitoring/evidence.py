"""Evidence of a drift check: traffic, past checks and labels from the prediction log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up
from ecg_lib.operations.drift.comparison import compare_beats
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftDecision,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
    confirm_after,
)
from ecg_lib.operations.drift.live_performance import (
    ReviewedStrip,
    count_reviewed,
    estimate_performance,
    measure_performance,
)
from ecg_lib.operations.drift.observation import (
    ObservedBeats,
    ObservedStrip,
    gather_strips,
    read_reference,
)
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import DriftCheckRow, PredictionRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings

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
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.golden import check_golden

    bundle = served.bundle
    current = gather_observed(traffic.rows)
    labelled = None
    if traffic.reviewed:
        labelled = measure_performance(
            count_reviewed(traffic.reviewed, min_share=policy.min_labelled_share),
            reference=_reference_counts(bundle),
        )
    step = None
    if traffic.before and traffic.since:
        step = compare_beats(
            gather_observed(traffic.before),
            gather_observed(traffic.since),
            config=policy.comparison,
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


def gather_observed(rows: list[PredictionRow]) -> ObservedBeats:
    """Gather the observed beats of logged predictions, grouped by patient."""
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
