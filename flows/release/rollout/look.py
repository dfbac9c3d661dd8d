"""Look at the candidate that is tried: judge its bounds, and take it back or bring it further."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from ecg_lib.operations.drift.decision import DriftAction
from ecg_lib.operations.learning.rollout.candidate import HALT, Candidate, EndKind, read_halt
from ecg_lib.operations.learning.rollout.comparison_log import (
    Compared,
    StageCounts,
    count_stage,
    read_compared,
)
from ecg_lib.operations.learning.rollout.judgement import Judgement, is_look_due, judge
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import CANDIDATE_ID, DecisionRow, DriftCheckRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.monitoring.outbox import ROLLBACK_DEPLOYMENT
from flows.release.rollout.steps import advance, end_rollout, find_candidate, note_look
from flows.release.transaction import DEFAULT_STEPS, Outcome, Steps

WHO = "flow watch-rollout"


class Verdict(StrEnum):
    """The result of a look."""

    NO_CANDIDATE = "no candidate"
    WAITS = "waits"
    """The stage has not lasted long enough, or has too few strips."""
    ADVANCED = "advanced"
    RELEASED = "released"
    TAKEN_BACK = "taken back"
    STOPPED = "stopped"
    """The workers ended it without a broken bound: it could not be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look at a candidate."""

    verdict: Verdict
    reasons: tuple[str, ...]
    candidate: Candidate | None = None
    """As it was before."""
    compared: Compared = field(default_factory=Compared)
    judgement: Judgement | None = None
    """None when too little was compared since the last one."""
    released: Release | None = None


def look_at_candidate(
    settings: Settings,
    log: PredictionLog,
    *,
    now: datetime,
    advances: bool = True,
    is_complete: bool = False,
    who: str = WHO,
    steps: Steps = DEFAULT_STEPS,
) -> Look:
    """Judge the candidate, and do what follows from it.

    Args:
        settings: Where everything is.
        log: The prediction log, with the comparisons.
        now: The present time.
        advances: Go to the next stage when the present one is complete; else wait for a person.
        is_complete: Take the present stage for complete, whatever it lacks.
        who: Who looks, for the ledger.
        steps: How a release is carried out.

    Raises:
        RolloutError: If the candidate was replaced meanwhile.
        ReleaseRefusedError: If the service refuses the release after the last stage.
    """
    candidate = find_candidate(settings, steps=steps)
    if candidate is None:
        return Look(verdict=Verdict.NO_CANDIDATE, reasons=("no candidate is tried",))
    compared = read_compared(log, candidate.id)

    def end(kind: EndKind, reasons: tuple[str, ...], judgement: Judgement | None) -> Look:
        look = Look(
            verdict=Verdict(kind.value),
            reasons=reasons,
            candidate=candidate,
            compared=compared,
            judgement=judgement,
        )
        if kind is EndKind.TAKEN_BACK:
            store_decision(log, look, now=now)
        end_rollout(
            settings,
            kind,
            reason="; ".join(reasons),
            expected=candidate.id,
            who=who,
            steps=steps,
        )
        return look

    halt = read_halt(settings.serving_dir / HALT)
    if halt is not None and halt.candidate_id == candidate.id:
        return end(halt.kind, (halt.reason,), None)
    missing = [] if is_complete else list_missing(candidate, count_of(log, candidate), now=now)
    goes_on = advances and not missing
    judgement, judged = None, candidate
    is_due = is_look_due(
        compared.asked,
        judged_strips=candidate.judged_strips,
        stage_strips=candidate.stage_strips,
    )
    # Nothing goes on to more people unless all that was compared has been judged.
    if is_due or (goes_on and compared.asked > candidate.judged_strips):
        judgement = judge(compared, candidate.plan.bounds, looks=candidate.looks)
        if judgement.breaches:
            return end(EndKind.TAKEN_BACK, judgement.breaches, judgement)
        judged = note_look(
            settings, candidate, looks=judgement.looks, strips=compared.asked, steps=steps
        )
    if not goes_on:
        reasons = tuple(missing) or ("the stage is complete: `ecg rollout advance`",)
        return Look(
            verdict=Verdict.WAITS,
            reasons=reasons,
            candidate=candidate,
            compared=compared,
            judgement=judgement,
        )
    step = advance(settings, expected=judged, who=who, steps=steps)
    is_released = isinstance(step, Outcome)
    what = (
        f"{candidate.release.bento_tag} is released"
        if isinstance(step, Outcome)
        else f"stage {step.current_stage.name} begins"
    )
    return Look(
        verdict=Verdict.RELEASED if is_released else Verdict.ADVANCED,
        reasons=(f"stage {candidate.current_stage.name} is complete: {what}",),
        candidate=candidate,
        compared=compared,
        judgement=judgement,
        released=candidate.release if is_released else None,
    )


def count_of(log: PredictionLog, candidate: Candidate) -> StageCounts:
    """Count the strips that complete the present stage."""
    return count_stage(
        log, candidate.id, stage=candidate.stage, of_candidate=candidate.current_stage.share > 0
    )


def list_missing(candidate: Candidate, counts: StageCounts, *, now: datetime) -> list[str]:
    """List what the present stage lacks of its minimum."""
    stage, missing = candidate.current_stage, []
    elapsed = now - candidate.stage_since
    if elapsed < timedelta(hours=stage.min_hours):
        hours = elapsed / timedelta(hours=1)
        missing.append(f"{hours:.1f} of {stage.min_hours:g} h have passed")
    if counts.strips < stage.min_strips:
        missing.append(f"{counts.strips} of {stage.min_strips} strips are compared")
    if counts.groups < stage.min_groups:
        missing.append(f"{counts.groups} of {stage.min_groups} people are compared")
    return missing


def store_decision(log: PredictionLog, look: Look, *, now: datetime) -> None:
    """Store the decision ROLLBACK of a candidate, once, for the outbox."""
    candidate = look.candidate
    if candidate is None:
        return
    check_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"rollout {candidate.id} taken back"))
    if any(row.check_id == check_id for row in log.read_drift_checks(are_decisions=True)):
        return
    check = DriftCheckRow(
        check_id=check_id,
        created_at=now,
        bundle_hash=candidate.release.bundle_hash,
        action=DriftAction.ROLLBACK.value,
        summary={
            "bento_tag": candidate.release.bento_tag,
            CANDIDATE_ID: candidate.id,
            "is_conclusive": True,
            "is_breach": True,
            "newest_at": None,
            "reasons": list(look.reasons),
            "figures": {},
            "report": None,
        },
    )
    reason = f"a bound of the rollout is broken: {'; '.join(look.reasons)}"
    decision = DecisionRow(
        decision_id=check_id,
        created_at=now,
        deployment=ROLLBACK_DEPLOYMENT,
        parameters={
            "reason": reason,
            "decided_against": candidate.release.bento_tag,
            "candidate": candidate.id,
        },
    )
    log.add_drift_check(check, decision)
