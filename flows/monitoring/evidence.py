"""Evidence of a drift check: traffic, past checks and labels from the prediction log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.classifier.bundle import Bundle, DataSource
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
from ecg_lib.operations.drift.group_shares import Polarity, measure_polarity, measure_refusals
from ecg_lib.operations.drift.last_check import FILE as LAST_CHECK
from ecg_lib.operations.drift.last_check import write_last_check
from ecg_lib.operations.drift.live_performance import (
    ReviewedStrip,
    count_reviewed,
    estimate_performance,
    measure_performance,
)
from ecg_lib.operations.drift.observation import (
    ObservedBeats,
    gather_strips,
    read_reference,
)
from ecg_lib.operations.drift.slices import compare_slices, count_groups, find_unfamiliar
from ecg_lib.operations.drift.traffic_log import (
    Volume,
    Window,
    read_groups,
    read_volume,
    sample_traffic,
)
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.operations.releases import Release, bento_source
from ecg_lib.operations.settings import Settings
from flows.data.databases import MITDB, SVDB
from flows.doors.bento_store import ask_golden
from flows.monitoring.outbox import make_decision
from flows.monitoring.verdict.baseline import read_baseline, read_compared
from flows.monitoring.verdict.trends import TrendPoint, read_trend

REFERENCE_COUNTS = "by_subject_strips_10_s"
"""Key of the bundle's metrics: out-of-fold counts (BeatCounts) by subject."""


_HISTORY = 1000

_OF_RECORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    MITDB.name: {"lead": ("MLII", "V5"), "rate": ("360 Hz",)},
    SVDB.name: {"lead": ("ECG1",), "rate": ("128 Hz",)},
}
"""Leads and rate of the records that a model was made for, by database."""

_TECHNICAL = ("lead", "rate", "device")
"""Dimensions whose new values are worth a look; a new site or key is not."""


class Served(NamedTuple):
    """The release that is served, and since when."""

    release: Release
    bundle: Bundle
    since: datetime
    tried_since: datetime | None = None
    """Start of the rollout before the release, during which it answered a share of the requests."""
    baseline_since: datetime | None = None
    """When a baseline of it was last accepted or reset."""

    @property
    def compared_since(self) -> datetime:
        """Since when its traffic is compared with what it is compared with now."""
        return self.since if self.baseline_since is None else max(self.since, self.baseline_since)


class Traffic(NamedTuple):
    """Traffic that one check looks at."""

    begin: datetime
    """Start of the window, after that of any earlier check that found drift."""
    volume: Volume
    """Requests to the served bundle in the window, counted."""
    current: ObservedBeats
    """A sample of them, balanced by patient or client."""
    before: ObservedBeats | None
    """A sample before the release; None when that is not in the window, or only a return."""
    since: ObservedBeats | None
    """A sample of the answers of the release."""
    reviewed: list[ReviewedStrip]
    history: list[PastCheck]
    """Latest first."""
    trend: tuple[TrendPoint, ...]
    """Figures of the last checks, oldest first."""
    familiar: dict[str, frozenset[str]]
    """Leads, rates and devices of earlier traffic and of the reference, where they are known."""


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
    """Read a sample of the window, feedback and earlier checks."""
    release = served.release
    with open_log(settings) as log:
        # One of a clock that was ahead would stay the latest, and cool down, until then.
        checks = [row for row in log.read_drift_checks(limit=_HISTORY) if row.created_at <= now]
        history = [_past_check(row) for row in checks]
        seen_until = confirm_after(
            history, bundle_hash=release.bundle_hash, released_at=served.since
        )
        wanted = Window(
            since=max(now - window, seen_until or now - window),
            until=now,
            bundle_hash=release.bundle_hash,
        )
        volume = read_volume(log, wanted)
        current = gather_strips(sample_traffic(log, wanted, volume, max_strips=max_strips))
        before, since = _read_release(
            log, served, history, now=now, window=window, max_strips=max_strips
        )
        labelled = log.read_reviewed(since=now - label_window, bundle_hash=release.bundle_hash)
        # Readers who choose what they label choose what looks wrong: only the random sample scores.
        drawn = [row for row in labelled if row.is_drawn]
        groups = read_groups(log, [row.prediction_id for row in drawn])
    traffic = Traffic(
        begin=wanted.since,
        volume=volume,
        current=current,
        before=before,
        since=since,
        reviewed=[
            ReviewedStrip(
                groups[row.prediction_id],
                row.called,
                row.labels,
                tuple(row.missed.values()),
                row.false_detections,
            )
            for row in drawn
        ],
        history=history,
        trend=read_trend(checks),
        familiar=find_familiar(served.bundle, checks),
    )
    get_run_logger().info(
        "%d requests of %d groups to %s, %d refused; %d strips compared, %d reviewed",
        volume.answered + volume.refused,
        len(volume.groups),
        release.bento_tag,
        volume.refused,
        current.n_strips,
        len(traffic.reviewed),
    )
    return traffic


def _read_release(
    log: PredictionLog,
    served: Served,
    history: list[PastCheck],
    *,
    now: datetime,
    window: timedelta,
    max_strips: int,
) -> tuple[ObservedBeats | None, ObservedBeats | None]:
    """Read samples of the traffic before and since the release."""
    tag, released_at = served.release.bento_tag, served.since
    if released_at <= now - window:
        return None, None
    begin = released_at if served.tried_since is None else min(served.tried_since, released_at)
    earlier = Window(since=begin - window, until=begin)
    volume = read_volume(log, earlier)
    tags = volume.bento_tags | {check.bento_tag for check in history if check.created_at < begin}
    if tag in tags or not volume.answered:  # a return to what was there is not a step
        return None, None
    later = Window(since=released_at, until=now, bento_tag=tag)
    return (
        gather_strips(sample_traffic(log, earlier, volume, max_strips=max_strips)),
        gather_strips(sample_traffic(log, later, read_volume(log, later), max_strips=max_strips)),
    )


def find_familiar(bundle: Bundle, checks: list[DriftCheckRow]) -> dict[str, frozenset[str]]:
    """Collect the leads, rates and devices of the reference and of earlier checks."""
    familiar: dict[str, set[str]] = {}
    for check in checks:
        if check.bundle_hash == bundle.hash:
            for name, values in check.summary.get("slices_seen", {}).items():
                familiar.setdefault(name, set()).update(values)
    databases = bundle.metrics.get("databases", ())
    if bundle.provenance.data_source is DataSource.MITDB:
        databases = (MITDB.name,)
    # Where other records are among them (a site's, a user's), their leads are not known here, and
    # nothing can be said to be new before a check has seen the traffic.
    is_all_known = all(name in _OF_RECORDS for name in databases)
    for database in databases:
        for name, values in _OF_RECORDS.get(database, {}).items():
            if is_all_known or name in familiar:
                familiar.setdefault(name, set()).update(values)
    return {name: frozenset(values) for name, values in familiar.items() if name in _TECHNICAL}


@task(cache_policy=NO_CACHE)
def gather_evidence(
    settings: Settings, served: Served, traffic: Traffic, policy: DriftPolicy
) -> DriftEvidence:
    """Compare, measure, estimate, and ask the golden requests of what is served."""
    bundle, release, current = served.bundle, served.release, traffic.current
    reference = read_compared(settings, bundle)
    labelled = None
    if traffic.reviewed:
        labelled = measure_performance(
            count_reviewed(traffic.reviewed, min_share=policy.min_labelled_share),
            reference=_reference_counts(bundle),
        )
    step = None
    if traffic.before is not None and traffic.since is not None and traffic.before.n_strips:
        step = compare_beats(traffic.before, traffic.since, config=policy.comparison)
    refused = measure_refusals(traffic.volume.groups)
    comparison = promised = compare_beats(reference, current, config=policy.comparison)
    if current.n_beats and read_baseline(settings, bundle.hash) is not None:
        # An accepted baseline changes what is usual here, and not what the model was made for.
        made_for = read_reference(bundle.read_drift_reference())
        promised = compare_beats(made_for, current, config=policy.comparison)
    return DriftEvidence(
        traffic=comparison,
        release=step,
        labelled=labelled,
        estimate=estimate_performance(
            current, drift=promised, refused_share=0.0 if refused is None else refused.share
        )
        if current.n_beats
        else None,
        # By the code that answers: what lies in the checkout may be work that nobody released.
        golden_failures=ask_golden(
            bento_source(settings.bentoml_home, release),
            bundle.directory,
            bento_tag=release.bento_tag,
        ),
        refused=refused,
        polarity=measure_polarity(current),
        slices=compare_slices(
            reference,
            current,
            min_groups=policy.min_groups,
            min_strips=policy.min_strips,
            config=policy.comparison,
        ),
        unfamiliar=()
        if current.n_groups < policy.min_groups
        else find_unfamiliar(
            count_groups(current),
            traffic.familiar,
            n_groups=current.n_groups,
            min_share=policy.min_unfamiliar_share,
        ),
    )


@task(cache_policy=NO_CACHE)
def store_check(
    settings: Settings,
    served: Served,
    traffic: Traffic,
    decision: DriftDecision,
    report: Path | None,
    *,
    now: datetime,
    policy: DriftPolicy,
) -> None:
    """Store the check, which the next ones look back on, with the run that it asks for."""
    newest = traffic.volume.newest_at
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
            "slices_seen": {
                # Fewer are a test, or the first ones of a change that is not reported yet.
                name: sorted(
                    value
                    for value, count in values.items()
                    if count >= policy.min_unfamiliar_share * traffic.current.n_groups
                )
                for name, values in count_groups(traffic.current).items()
                if name in _TECHNICAL and decision.is_conclusive
            },
            "report": None if report is None else report.name,
        },
    )
    with open_log(settings) as log:
        trained_on = served.bundle.metrics.get("databases", [])  # earlier code did not note them
        log.add_drift_check(
            row, make_decision(row, decision, trained_on=trained_on, rollout=settings.rollout)
        )
    try:
        write_last_check(settings.serving_dir / LAST_CHECK, row)
    except OSError as error:
        get_run_logger().error("the metrics of the service do not show this check: %s", error)


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
    polarity = row.summary["figures"].get("polarity")  # checks of earlier code have none
    return PastCheck(
        created_at=row.created_at,
        bundle_hash=row.bundle_hash,
        bento_tag=row.summary["bento_tag"],
        action=DriftAction(row.action),
        is_conclusive=row.summary["is_conclusive"],
        is_breach=row.summary["is_breach"],
        newest_at=None if newest is None else datetime.fromisoformat(newest),
        polarity=None if polarity is None else Polarity(**polarity),
    )


def _reference_counts(bundle: Bundle) -> BeatCounts | None:
    counts = bundle.metrics.get(REFERENCE_COUNTS)
    if not counts:
        return None
    return add_up([BeatCounts(**of_subject) for of_subject in counts.values()])
