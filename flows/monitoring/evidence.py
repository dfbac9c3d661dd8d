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
from ecg_lib.operations.prediction_rows import DriftCheckRow, ObservedRow, ReviewedRow
from ecg_lib.operations.releases import Release, bento_source
from ecg_lib.operations.settings import Settings
from flows.doors.bento_store import ask_golden
from flows.monitoring.outbox import make_decision

REFERENCE_COUNTS = "by_subject_strips_10_s"
"""Key of the bundle's metrics: out-of-fold counts (BeatCounts) by subject."""


_HISTORY = 1000


class Served(NamedTuple):
    """The release that is served, and since when."""

    release: Release
    bundle: Bundle
    since: datetime


class Traffic(NamedTuple):
    """Rows of the monitoring database that one check looks at."""

    rows: list[ObservedRow]
    """Answers of the served bundle in the window."""
    before: list[ObservedRow]
    """Answers before the release; empty when it is not in the window, or only a return."""
    since: list[ObservedRow]
    """Answers of the release."""
    reviewed: list[ReviewedStrip]
    history: list[PastCheck]
    """Latest first."""
    n_long: int
    """Answers to strips longer than those of the reference, which nothing can be compared with."""


@task(cache_policy=NO_CACHE)
def read_traffic(
    settings: Settings,
    served: Served,
    *,
    now: datetime,
    window: timedelta,
    label_window: timedelta,
    max_strips: int,
    policy: DriftPolicy,
) -> Traffic:
    """Read predictions, feedback and earlier checks; no more of a row than is compared."""
    release, released_at = served.release, served.since
    # A recording of half an hour has a body of megabytes, and the comparison leaves it out.
    longest_s = policy.comparison.max_length_ratio * max(
        served.bundle.read_drift_reference()["strip_s"].to_pylist()
    )
    with open_log(settings) as log:
        history = [_past_check(row) for row in log.read_drift_checks(limit=_HISTORY)]
        seen_until = confirm_after(
            history, bundle_hash=release.bundle_hash, released_at=released_at
        )
        since = max(now - window, seen_until or now - window)
        rows = log.read_predictions(
            since=since,
            bundle_hash=release.bundle_hash,
            max_duration_s=longest_s,
            limit=max_strips,
        )
        n_long = log.count_longer(
            since=since, bundle_hash=release.bundle_hash, duration_s=longest_s
        )
        around = []
        if released_at > now - window:
            around = log.read_predictions(
                since=released_at - window, max_duration_s=longest_s, limit=2 * max_strips
            )
        labelled = log.read_reviewed(since=now - label_window, bundle_hash=release.bundle_hash)
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
        # Readers who choose what they label choose what looks wrong: only the random sample scores.
        reviewed=[
            ReviewedStrip(
                _group_of(row),
                row.called,
                row.labels,
                tuple(row.missed.values()),
                row.false_detections,
            )
            for row in labelled
            if row.is_drawn
        ],
        history=history,
        n_long=n_long,
    )
    get_run_logger().info(
        "%d predictions of %s, %d reviewed, %d before the release, %d too long to compare",
        len(traffic.rows),
        release.bento_tag,
        len(traffic.reviewed),
        len(traffic.before),
        n_long,
    )
    return traffic


@task(cache_policy=NO_CACHE)
def gather_evidence(
    settings: Settings, served: Served, traffic: Traffic, policy: DriftPolicy
) -> DriftEvidence:
    """Compare, measure, estimate, and ask the golden requests of what is served."""
    bundle, release = served.bundle, served.release
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
        # By the code that answers: what lies in the checkout may be work that nobody released.
        golden_failures=ask_golden(
            bento_source(settings.bentoml_home, release),
            bundle.directory,
            bento_tag=release.bento_tag,
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
    """Store the check, which the next ones look back on, with the run that it asks for."""
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
    with open_log(settings) as log:
        trained_on = served.bundle.metrics.get("databases", [])  # earlier code did not note them
        log.add_drift_check(row, make_decision(row, decision, trained_on=trained_on))


@contextmanager
def open_log(settings: Settings) -> Iterator[PredictionLog]:
    """Open the prediction log, with its tables, and close it."""
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


def gather_observed(rows: list[ObservedRow]) -> ObservedBeats:
    """Gather the observed beats of logged predictions, grouped by patient."""
    return gather_strips(
        ObservedStrip(_group_of(row), row.duration_s, row.observed) for row in rows
    )


def _group_of(row: ObservedRow | ReviewedRow) -> str:
    return f"patient {row.patient_key}" if row.patient_key else f"prediction {row.prediction_id}"


def _reference_counts(bundle: Bundle) -> BeatCounts | None:
    counts = bundle.metrics.get(REFERENCE_COUNTS)
    if not counts:
        return None
    return add_up([BeatCounts(**of_subject) for of_subject in counts.values()])
