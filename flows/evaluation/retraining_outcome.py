"""How a retraining ended, and what follows: one that did not help is not repeated without labels.

A retraining on the same records and labels comes to the same end. So the state "did not help" holds
a RETRAIN of the drift check until there are other labels to train on, or other code to train with.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.drift.decision import DriftAction, DriftDecision
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import RetrainingRow
from ecg_lib.operations.settings import Settings
from flows.data.records.site import fingerprint_labels
from flows.release.switch_service import read_current

HELD: Final = "RETRAIN is due but held"
"""Begin of the reason of a KEEP that stands for a retraining."""


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


def hold_useless_retraining(
    decision: DriftDecision, log: PredictionLog, *, bundle_hash: str, settings: Settings
) -> DriftDecision:
    """Hold a RETRAIN when the last one did not help and nothing was labelled since.

    Args:
        decision: Decision of a drift check.
        log: Retrainings and labels.
        bundle_hash: Hash of the served bundle.
        settings: Where signals and labels are.

    Returns:
        The decision, or KEEP with the reason.
    """
    if decision.action is not DriftAction.RETRAIN:
        return decision
    last = log.get_last_retraining(bundle_hash=bundle_hash)
    if last is None or last.has_helped or last.labels != fingerprint_labels(settings):
        return decision
    reason = (
        f"{HELD}: the retraining of {last.created_at:%Y-%m-%d %H:%M} did not help "
        f"({'; '.join(last.reasons)}) and there is nothing new to learn from: no label since of a "
        "signal that is kept"
    )
    return replace(decision, action=DriftAction.KEEP, reasons=(reason, *decision.reasons))
