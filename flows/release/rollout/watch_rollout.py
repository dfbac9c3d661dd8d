"""Flow ``watch-rollout``: take a candidate back that breaks a bound, else bring it further."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.states import Completed

from ecg_lib.operations.drift.decision import DriftAction
from ecg_lib.operations.learning.rollout.candidate import Candidate
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.ui.artifacts import escape_markdown, show_artifact
from flows.doors.ui.run_names import name_run
from flows.monitoring.evidence import open_log
from flows.monitoring.outbox import deliver_decisions
from flows.release.integrity.aliases import follow_pending
from flows.release.rollout.look import Look, Verdict, look_at_candidate

_NOTHING = "no candidate is tried beside the served release"


@flow(name="watch-rollout")
def watch_rollout(*, advances: bool = True) -> Any:  # noqa: ANN401  Prefect takes the look or a named state
    """Judge the candidate that is tried, by the bounds that were stated when it was started.

    One that breaks a bound is taken back at once: its share is 0, the ledger has the reason, it is
    not offered again, and the decision ROLLBACK is asked of Prefect. One whose stage is complete
    goes into the next; after the last one it is released.

    Args:
        advances: Go on when a stage is complete; else wait for `ecg rollout advance`.

    Returns:
        The verdict with its reasons, and the candidate.
    """
    settings, now = read_settings(), datetime.now(UTC)
    look = see(settings, now=now, advances=advances)
    # At every run: a look by a person stores its decision too, and Prefect may have been away.
    with open_log(settings) as log:
        deliver_decisions(log, now=now)
    if look.candidate is None:
        name_run("no candidate")
        return Completed(name="NoCandidate", message=_NOTHING)
    if look.verdict is not Verdict.WAITS:
        follow_pending(settings)
    if look.verdict is Verdict.TAKEN_BACK:
        announce(look.candidate, look)
    show(look.candidate, look)
    name_run(f"model {look.candidate.release.model_version}: {look.verdict.value}")
    return {
        "verdict": look.verdict.value,
        "reasons": list(look.reasons),
        "bento_tag": look.candidate.release.bento_tag,
        "strips": look.compared.strips,
    }


@task(cache_policy=NO_CACHE)
def see(settings: Settings, *, now: datetime, advances: bool) -> Look:
    """Judge the candidate; the decision on one that is taken back is stored with its reasons."""
    with open_log(settings) as log:
        look = look_at_candidate(settings, log, now=now, advances=advances)
    get_run_logger().info("%s: %s", look.verdict.value, "; ".join(look.reasons))
    return look


@task(cache_policy=NO_CACHE)
def announce(candidate: Candidate, look: Look) -> None:
    """Send the event of a ROLLBACK, for the UI and for automations."""
    release = candidate.release
    emit_event(
        "ecg.decision.rollback",
        resource={
            "prefect.resource.id": f"ecg.model.{release.bundle_hash[:12]}",
            "prefect.resource.name": release.bento_tag,
        },
        payload={
            "action": DriftAction.ROLLBACK.value,
            "reason": "; ".join(look.reasons),
            "bento_tag": release.bento_tag,
            "is_candidate": True,
        },
    )


@task(cache_policy=NO_CACHE)
def show(candidate: Candidate, look: Look) -> None:
    """Show the verdict, and how each bound stands."""
    release, stage = candidate.release, candidate.current_stage
    lines = [
        f"# {look.verdict.value}: {release.bento_tag}",
        escape_markdown("; ".join(look.reasons)),
        f"Stage {stage.name}: {look.compared.strips} strips of {len(look.compared.groups)} people.",
    ]
    if look.judgement is not None:
        rows = [
            f"| {escape_markdown(one.text)} | {_word(one.is_breach)} |"
            for one in look.judgement.findings
        ]
        lines.append("\n".join(["| Bound | |", "|---|---|", *rows]))
        lines.append(
            f"Look {look.judgement.looks}. A candidate within all bounds is taken back by it with "
            f"a chance of at most {look.judgement.chance:.2g}."
        )
    show_artifact("\n\n".join(lines) + "\n", key="rollout")


def _word(is_breach: bool) -> str:  # noqa: FBT001
    return "BROKEN" if is_breach else "kept"
