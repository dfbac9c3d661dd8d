"""The outbox of decisions: each is asked of Prefect until there was one flow run of it.

A decision is stored together with the check that came to it. It is asked for under a key of its
own, so that asking twice gives the same run; a run that was cancelled before it began, because
another one was under way, or that died with its worker is asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from ecg_lib.operations.drift.decision import DriftAction, DriftDecision
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import DecisionRow, DriftCheckRow
from flows.data.databases import PUBLISHED, SITE
from flows.doors.ui.deployments import ASKED_BY_DRIFT, find_deployment, name_deployment

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ROLLBACK_DEPLOYMENT: Final = name_deployment("rollback-champion")
"""Deployment that a decision ROLLBACK asks for."""

GIVEN_UP_AFTER: Final = timedelta(hours=24)
"""After this time the traffic decides again."""


def make_decision(
    check: DriftCheckRow,
    decision: DriftDecision,
    *,
    trained_on: Sequence[str],
    rollout: str = "at_once",
) -> DecisionRow | None:
    """Make the decision that a check asks for; None for a model that is kept.

    Args:
        check: The check.
        decision: What it came to.
        trained_on: Databases of the served model. It is trained again on them: a model of fewer
            people cannot be compared with it, and so never replaces it. Those that no command
            reads by its name, such as a user's own, leave the choice to the pipeline.
        rollout: How a retrained model is released, `at_once` or `gradual`.
    """
    reason = "; ".join(decision.reasons)
    if decision.action is DriftAction.KEEP:
        return None
    parameters: dict[str, Any]
    if decision.action is DriftAction.RETRAIN:
        deployment, parameters = name_deployment("pipeline"), {"reason": reason}
        if rollout != "at_once":
            parameters["rollout"] = rollout
        # Labelled traffic is added by the pipeline itself, where there is any.
        archives = set(trained_on) - {SITE.name}
        if archives and archives <= set(PUBLISHED):
            parameters["databases"] = sorted(archives)
    else:
        deployment = ROLLBACK_DEPLOYMENT
        parameters = {"reason": reason, "decided_against": check.summary["bento_tag"]}
    return DecisionRow(
        decision_id=check.check_id,
        created_at=check.created_at,
        deployment=deployment,
        parameters=parameters,
    )


@task(cache_policy=NO_CACHE)
def deliver_decisions(log: PredictionLog, *, now: datetime) -> None:
    """Ask Prefect for the runs of all decisions that have none yet."""
    decisions = log.read_open_decisions()
    if not decisions:
        return
    with get_client(sync_client=True) as client:
        for decision in decisions:
            try:
                _deliver(client, log, decision, now=now)
            except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound) as error:
                get_run_logger().warning(
                    "%s cannot be asked for yet and is asked for again: %s",
                    decision.deployment,
                    str(error) or type(error).__name__,
                )


def _deliver(
    client: SyncPrefectClient, log: PredictionLog, decision: DecisionRow, *, now: datetime
) -> None:
    logger, attempt = get_run_logger(), decision.attempt
    if decision.run_id is not None:
        outcome = _outcome_of(client, decision.run_id)
        if outcome == "open":
            return
        if outcome == "done":
            log.update_decision(
                decision.decision_id, state="done", run_id=decision.run_id, attempt=attempt
            )
            return
        attempt += 1
    if now - decision.created_at > GIVEN_UP_AFTER:
        logger.error(
            "%s of %s had no run and is given up", decision.deployment, decision.created_at
        )
        log.update_decision(
            decision.decision_id, state="given up", run_id=decision.run_id, attempt=attempt
        )
        return
    deployment = find_deployment(client, decision.deployment)
    run = client.create_flow_run_from_deployment(
        deployment.id,
        parameters=decision.parameters,
        idempotency_key=f"{decision.decision_id}-{attempt}",
        tags=[ASKED_BY_DRIFT],
    )
    log.update_decision(decision.decision_id, state="asked", run_id=str(run.id), attempt=attempt)
    logger.info("asked for flow run %s of %s", run.name, decision.deployment)


def _outcome_of(client: SyncPrefectClient, run_id: str) -> str:
    """Return whether a run will still begin (open), took place (done) or did not (lost)."""
    from uuid import UUID

    try:
        run = client.read_flow_run(UUID(run_id))
    except ObjectNotFound:
        return "lost"
    state = run.state
    if state is None or state.is_scheduled() or state.is_pending():
        return "open"
    # Prefect gives each run that ended a time of start; what it counts is true.
    if state.is_crashed() or (state.is_cancelled() and run.run_count == 0):
        return "lost"
    return "open" if state.is_running() else "done"
