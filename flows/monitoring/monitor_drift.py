"""Flow ``monitor-drift``: see whether traffic is still what the served model was made for."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.states import Completed
from pydantic import Field

from ecg_lib.operations.drift.comparison import ColumnDrift
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftDecision,
    DriftEvidence,
    DriftPolicy,
    decide_action,
)
from ecg_lib.operations.drift.traffic_log import Window
from ecg_lib.operations.keys.signatures import prepare_code
from ecg_lib.operations.learning.drifted_beats import write_drifted_beats
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.operations.store.mirror import changing_reports
from flows.doors.ledger import read_ledger
from flows.doors.release_history import find_baseline_change, find_rollout_begin
from flows.doors.ui.artifacts import show_artifact
from flows.doors.ui.links import link_version
from flows.doors.ui.run_names import name_run
from flows.doors.ui.tracking import tag_check
from flows.evaluation.retraining_outcome import hold_useless_retraining
from flows.monitoring.evidence import (
    Served,
    Traffic,
    gather_evidence,
    open_log,
    read_traffic,
    store_check,
)
from flows.monitoring.labels.kept_signals import open_signals, sort_kept_signals
from flows.monitoring.outbox import deliver_decisions
from flows.monitoring.retention.stores import forget_old_files, forget_old_rows
from flows.monitoring.verdict.baseline import read_baseline, read_compared
from flows.monitoring.verdict.drifted_strips import choose_drifted, find_drifted_beats
from flows.monitoring.verdict.verdict_page import (
    Verdict,
    link_page,
    make_verdict,
    page_name,
    remove_old_pages,
    to_markdown,
    write_page,
)
from flows.release.load_released import load_released_bundle
from flows.release.switch_service import read_current, service_url

NOTHING_SERVED = "nothing is served yet: there is no current.json, run the pipeline first"


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

    KEEP, RETRAIN or ROLLBACK, with reasons. What is not KEEP is stored with the check and asked of
    Prefect, by this check or the next ones, until there was one flow run of it.

    Args:
        window_hours: How far back predictions are looked at.
        label_window_hours: How far back predictions with clinicians' classes are looked at.
        max_strips: At most so many predictions, a sample of the whole window in which all
            patients have as many as they have traffic for.
        min_strips: Fewer strips than this decide nothing.
        min_beats: Fewer beats than this decide nothing.
        min_groups: Fewer patients, or clients that name none, decide nothing.
        n_breaches: Checks in a row that must find drift, each on new traffic, to retrain.
        cool_down_hours: How long an action is not taken again.
        dry_run: Decide and report, but store nothing and start nothing.

    Returns:
        The decision: action, reasons, alarms, figures, release and pages.
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
        # First: whatever the check comes to, what must go goes, and what waits is asked for.
        needed = timedelta(hours=max(window_hours, label_window_hours))
        with open_log(settings) as log:
            sort_kept_signals(settings, log, now=now)
            forget_old_rows(settings, log, now=now, needed=needed)
            deliver_decisions(log, now=now)
        forget_old_files(settings)
    served = read_served(settings, now=now)
    if served is None:
        get_run_logger().warning(NOTHING_SERVED)
        name_run("check: nothing is served")
        return Completed(name="NothingServed", message=NOTHING_SERVED)
    traffic = read_traffic(
        settings,
        served,
        now=now,
        window=timedelta(hours=window_hours),
        label_window=timedelta(hours=label_window_hours),
        max_strips=max_strips,
    )
    evidence = gather_evidence(settings, served, traffic, policy)
    decision = decide(settings, served, evidence, traffic, now=now, policy=policy)
    with open_log(settings) as log:
        decision = hold_useless_retraining(
            decision,
            log,
            bundle=served.bundle,
            version=served.release.model_version,
            settings=settings,
        )
    number = 1 + sum(one.bundle_hash == served.bundle.hash for one in traffic.history)
    name_run(
        f"{'dry run of ' if dry_run else ''}check {number} of v{served.release.model_version}: "
        f"{decision.action.value}"
    )
    verdict = make_verdict(
        served.release,
        decision,
        evidence,
        traffic.volume,
        traffic.history,
        since=traffic.begin,
        now=now,
        policy=policy,
        is_dry_run=dry_run,
        trend=traffic.trend,
    )
    with changing_reports(settings):
        evidently = write_report(settings, served, traffic, evidence, decision, now=now)
        page = publish(settings, served, verdict, evidently, now=now, is_dry_run=dry_run)
    if not dry_run:
        store_check(settings, served, traffic, decision, page, now=now, policy=policy)
        announce(served, decision)
        with open_log(settings) as log:
            deliver_decisions(log, now=now)
        tag_check(
            settings,
            served.release.model_version,
            verdict=f"{decision.action.value}, {now:%Y-%m-%d %H:%M} UTC",
            page=link_page(service_url(settings), page),
        )
    # Last: these strips explain a decision, and an error of theirs must not take its place.
    if (drift := choose_drifted(evidence.traffic.columns)) is not None:
        with changing_reports(settings):
            write_drifted(settings, served, traffic, drift, page, now=now)
    return {
        "action": decision.action.value,
        "reasons": list(decision.reasons),
        "figures": decision.figures,
        "bento_tag": served.release.bento_tag,
        "alarms": list(decision.alarms),
        "report": str(page),
        "evidently": None if evidently is None else str(evidently),
    }


@task(cache_policy=NO_CACHE)
def read_served(settings: Settings, *, now: datetime) -> Served | None:
    """Read what is served, or None before the first release.

    A release of a clock that was ahead seems to be made later than now. When it was made then is
    not known, and all checks of its model count.
    """
    if read_current(settings) is None:
        return None
    release, bundle = load_released_bundle(settings)
    released_at = datetime.fromisoformat(release.released_at)
    if released_at > now:
        get_run_logger().warning(
            "%s was released at %s, which is later than now: was the clock ahead?",
            release.bento_tag,
            release.released_at,
        )
        released_at = datetime.min.replace(tzinfo=UTC)
    prepare_code(settings, release)  # its golden requests are answered by its own code
    ledger = read_ledger(settings.ledger_dir)
    return Served(
        release,
        bundle,
        released_at,
        find_rollout_begin(ledger, release),
        find_baseline_change(ledger, release.bundle_hash),
    )


@task(cache_policy=NO_CACHE)
def decide(
    settings: Settings,
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
        # Drift from the reference neither confirms nor excuses drift from a baseline.
        released_at=served.compared_since,
        now=now,
        policy=policy,
    )
    if (baseline := read_baseline(settings, served.bundle.hash)) is not None:
        decision = replace(
            decision,
            reasons=(*decision.reasons, f"compared with {baseline.words}"),
            figures={**decision.figures, "baseline": asdict(baseline)},
        )
    get_run_logger().info("%s: %s", decision.action.value, "; ".join(decision.reasons))
    return decision


@task(cache_policy=NO_CACHE)
def write_drifted(
    settings: Settings,
    served: Served,
    traffic: Traffic,
    drift: ColumnDrift,
    page: Path,
    *,
    now: datetime,
) -> None:
    """Write beside the page which beats drifted most, of those whose signals are kept."""
    with open_log(settings) as log:
        found = find_drifted_beats(
            drift,
            read=lambda: read_compared(settings, served.bundle),
            current=traffic.current,
            window=Window(since=traffic.begin, until=now, bundle_hash=served.bundle.hash),
            log=log,
            store=open_signals(settings),
            are_kept=settings.keep_signals,
        )
    write_drifted_beats(page, found)


@task(cache_policy=NO_CACHE)
def write_report(
    settings: Settings,
    served: Served,
    traffic: Traffic,
    evidence: DriftEvidence,
    decision: DriftDecision,
    *,
    now: datetime,
) -> Path | None:
    """Write Evidently's report, or nothing when there is too little traffic for it."""
    from flows.doors.drift_report import MIN_ROWS, write_drift_report

    if not evidence.traffic.columns or traffic.current.n_beats < MIN_ROWS:
        get_run_logger().info(
            "no report of Evidently: %d beats where %d are needed",
            traffic.current.n_beats,
            MIN_ROWS,
        )
        return None
    return write_drift_report(
        read_compared(settings, served.bundle),
        traffic.current,
        evidence.traffic,
        is_drift=decision.is_breach,
        directory=settings.reports_dir / "drift",
        name=page_name(now),
        n_kept=settings.drift_reports_kept,
        is_evidence=decision.action is not DriftAction.KEEP,
    ).html


@task(cache_policy=NO_CACHE)
def publish(
    settings: Settings,
    served: Served,
    verdict: Verdict,
    evidently: Path | None,
    *,
    now: datetime,
    is_dry_run: bool,
) -> Path:
    """Write the page of the verdict, and show it in the Prefect UI."""
    directory = settings.reports_dir / "drift"
    page = write_page(verdict, directory, page_name(now), evidently=evidently)
    show_artifact(
        to_markdown(
            verdict,
            page=page,
            evidently=evidently,
            service=service_url(settings),
            model=link_version(settings, served.release.model_version),
        ),
        key="drift-check",
        description=f"{verdict.action.value}: {served.release.bento_tag}",
    )
    if settings.drift_checks_kept_days and not is_dry_run:
        remove_old_pages(directory, before=now - timedelta(days=settings.drift_checks_kept_days))
    return page


@task(cache_policy=NO_CACHE)
def announce(served: Served, decision: DriftDecision) -> None:
    """Send events for the UI and for automations of whoever runs the platform.

    The run that the decision asks for does not hang on it: events may be lost.
    """
    resource = {
        "prefect.resource.id": f"ecg.model.{served.bundle.hash[:12]}",
        "prefect.resource.name": served.release.bento_tag,
    }
    for alarm in decision.alarms:
        emit_event(
            "ecg.drift.alarm",
            resource=resource,
            payload={"reason": alarm, "bento_tag": served.release.bento_tag},
        )
    if decision.action is DriftAction.KEEP:
        return
    emit_event(
        f"ecg.decision.{decision.action.value.lower()}",
        resource=resource,
        payload={
            "action": decision.action.value,
            "reason": "; ".join(decision.reasons),
            "bento_tag": served.release.bento_tag,
        },
    )
