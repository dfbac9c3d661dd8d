"""How a retraining ended, and what follows: one that did not help is not repeated without labels.

A retraining on the same records and labels comes to the same end. So the state "did not help" holds
a RETRAIN of the drift check until there are other labels to train on, or other code to train with.
One without the records of the champion is held, too: a model of fewer people does not replace it.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.operations.drift.decision import DriftAction, DriftDecision
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import RetrainingRow
from ecg_lib.operations.settings import Settings
from flows.data.databases import PUBLISHED, DatabaseName
from flows.data.ingest_records import DEFAULT_DATABASES
from flows.data.records.site import fingerprint_labels
from flows.data.records.sources import Source, find_why_absent
from flows.doors.registry import Alias, Registry, explain_unreachable
from flows.release.switch_service import read_current


class Obstacle(NamedTuple):
    """Why nothing that could be trained now may be promoted."""

    champion: str
    """Version of the champion."""
    why: str


HELD: Final = "RETRAIN is due but held"
"""Start of the reason of a KEEP that stands for a retraining."""


@task(cache_policy=NO_CACHE)
def note_outcome(
    settings: Settings,
    dataset_version: str,
    verdict: dict[str, Any],
    *,
    started_at: datetime,
    labels: str,
) -> None:
    """Note whether the model of a retraining replaced the one that is served.

    Args:
        settings: The home.
        dataset_version: Dataset that was trained on.
        verdict: Result of `promote-champion`.
        started_at: Start of the retraining.
        labels: What it learnt from readers, see `fingerprint_labels`, taken at its start.
    """
    served = read_current(settings)
    if served is None:
        return  # the first model replaces nothing
    row = RetrainingRow(
        retraining_id=str(uuid.uuid4()),
        created_at=started_at,
        bundle_hash=served.bundle_hash,
        dataset_version=dataset_version,
        has_helped=verdict["is_promoted"],
        reasons=tuple(verdict["reasons"]),
        labels=labels,
    )
    log = PredictionLog(settings.monitoring_database_url)
    try:
        log.create_tables()
        log.add_retraining(row)
    finally:
        log.close()
    if not row.has_helped:
        get_run_logger().warning(
            "the retraining did not help: drift starts none until a reader labels more; "
            "GET /api/v1/review-queue/ lists what is most worth a look"
        )


def list_databases(
    source: Source, wanted: tuple[DatabaseName, ...], settings: Settings
) -> tuple[DatabaseName, ...]:
    """List the databases to train on: those that are wanted, or mitdb and those of the champion.

    A database of the champion that is not at hand is left out with a warning: a model of fewer
    people can hardly replace the champion.

    Args:
        source: Where records come from.
        wanted: The databases; empty for those of the champion.
        settings: The home.
    """
    champion = None if wanted else _read_champion(source, settings)
    if champion is None:
        return wanted or DEFAULT_DATABASES
    theirs = [name for name in DatabaseName if name in champion.trained_on and name in PUBLISHED]
    others = [name for name in theirs if name not in DEFAULT_DATABASES]
    absent = [name for name in others if find_why_absent(settings, PUBLISHED[name]) is not None]
    if absent:
        get_run_logger().warning(
            "there are no records of %s, on which model %s was trained: what is trained without "
            "them is compared on too few of its people to replace it; set %s",
            " and ".join(absent),
            champion.version,
            " and ".join(_name_variable(name) for name in absent),
        )
    return (*DEFAULT_DATABASES, *(name for name in others if name not in absent))


def find_obstacle(
    source: Source, databases: tuple[DatabaseName, ...], settings: Settings
) -> Obstacle | None:
    """Find out whether records are missing without which nothing may replace the champion."""
    champion = _read_champion(source, settings)
    if champion is None:
        return None  # the first model replaces none
    return _explain_absent(champion, databases, settings)


def _explain_absent(
    champion: _Champion, databases: Collection[DatabaseName], settings: Settings
) -> Obstacle | None:
    absent = {
        name: why
        for name in databases
        if name in PUBLISHED and (why := find_why_absent(settings, PUBLISHED[name])) is not None
    }
    if not absent:
        return None
    return Obstacle(
        champion.version,
        f"NOTHING IS TRAINED: there are no records of {' and '.join(absent)} "
        f"({'; '.join(dict.fromkeys(absent.values()))}), and a model without them never replaces "
        f"model {champion.version}, trained on {champion.data_source} data; set "
        f"{' and '.join(_name_variable(name) for name in absent)} or allow the download "
        "(source=simulator trains on simulated patients all the same)",
    )


class _Champion(NamedTuple):
    version: str
    data_source: DataSource
    trained_on: frozenset[str]


def _read_champion(source: Source, settings: Settings) -> _Champion | None:
    """Read what the champion of real records was trained on; None where anything may replace it."""
    if source is not Source.AUTO:
        return None
    if unreachable := explain_unreachable(settings):
        get_run_logger().warning("what the champion was trained on is not known: %s", unreachable)
        return None
    registry = Registry(settings)
    champion = registry.get_alias(Alias.CHAMPION)
    if champion is None:
        return None
    figures = registry.fetch_figures(champion.run_id)
    if figures.data_source is DataSource.SIMULATED:
        return None
    trained_on = frozenset(figures.metrics.get("databases", ()))
    return _Champion(champion.version, figures.data_source, trained_on)


def _name_variable(name: DatabaseName) -> str:
    return f"ECG_{name.upper()}_DIR"


def hold_useless_retraining(
    decision: DriftDecision,
    log: PredictionLog,
    *,
    bundle: Bundle,
    version: str,
    settings: Settings,
) -> DriftDecision:
    """Hold a RETRAIN that can come to nothing: no records, or no labels since one did not help.

    Args:
        decision: Decision of a drift check.
        log: Retrainings and labels.
        bundle: The served bundle; a retraining would use the databases that it was trained on.
        version: Its version in the registry.
        settings: Where records, signals and labels are.

    Returns:
        The decision, or KEEP with the reason.
    """
    if decision.action is not DriftAction.RETRAIN:
        return decision
    trained_on = frozenset(bundle.metrics.get("databases", ()))
    data_source = bundle.provenance.data_source
    databases = tuple(name for name in DatabaseName if name in trained_on) or DEFAULT_DATABASES
    obstacle = None
    if data_source is not DataSource.SIMULATED:
        served = _Champion(version, data_source, trained_on)
        obstacle = _explain_absent(served, databases, settings)
    if obstacle is not None:
        reasons = (f"{HELD}: {obstacle.why}", *decision.reasons)
        return replace(decision, action=DriftAction.KEEP, reasons=reasons)
    last = log.get_last_retraining(bundle_hash=bundle.hash)
    if last is None or last.has_helped or last.labels != fingerprint_labels(settings):
        return decision
    reason = (
        f"{HELD}: the retraining of {last.created_at:%Y-%m-%d %H:%M} did not help "
        f"({'; '.join(last.reasons)}) and there is nothing new to learn from: no label since of a "
        "signal that is kept"
    )
    return replace(decision, action=DriftAction.KEEP, reasons=(reason, *decision.reasons))
