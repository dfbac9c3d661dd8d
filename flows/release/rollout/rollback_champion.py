"""Flow ``rollback-champion``: an earlier release is served again, at once.

``ecg rollback`` does the same without Prefect, by :func:`flows.release.transaction.roll_back`.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.release_history import EventKind
from flows.doors.ui.artifacts import escape_markdown, show_artifact
from flows.doors.ui.run_names import name_run
from flows.release.integrity.aliases import follow_pending
from flows.release.rollout.steps import RolloutError, take_back
from flows.release.transaction import Outcome, SupersededError, roll_back


@flow(name="rollback-champion")
def rollback_champion(
    to: str = "",
    reason: str = "asked for by hand",
    decided_against: str = "",
    candidate: str = "",
    *,
    force: bool = False,
) -> Any:  # noqa: ANN401  Prefect takes the release or a named state
    """Serve an earlier release again: its code, network, threshold, rules and drift reference.

    Works from the ledger, so it also works when MLflow is down; the aliases then follow when it
    is back. A second rollback goes back one release further. A rollback decided against a candidate
    ends it if it is still tried, and changes nothing that is served.

    Args:
        to: Model version, bento tag or ledger commit to go back to; the release before the
            current one in history when left out.
        reason: Why, for the ledger.
        decided_against: Bento tag that this was decided against; nothing is done when another one
            is served by now.
        candidate: Id of the candidate of a rollout that this was decided against.
        force: Go back although that release was rolled back itself.

    Returns:
        The release that is served now.
    """
    settings = read_settings()
    if candidate:
        is_ended = end_candidate(settings, candidate, bento_tag=decided_against, reason=reason)
        if is_ended:
            return Completed(name="CandidateTakenBack", message=reason)
        return Completed(name="Superseded", message=f"{decided_against} is not tried any more")
    try:
        outcome = put_back(
            settings, to=to, reason=reason, decided_against=decided_against, force=force
        )
    except SupersededError as error:
        get_run_logger().warning("%s", error)
        name_run("rollback: superseded, nothing done")
        return Completed(name="Superseded", message=str(error))
    finally:
        follow_pending(settings)
    name_run(f"back to model {outcome.release.model_version}: {reason}")
    show_artifact(
        f"# Rolled back\n\n{escape_markdown(reason)}\n\nbento `{outcome.release.bento_tag}`\n",
        key="rollback",
    )
    return outcome.release.model_dump()


@task(cache_policy=NO_CACHE)
def end_candidate(settings: Settings, candidate: str, *, bento_tag: str, reason: str) -> bool:
    """Take a candidate back; return whether it is, now or before.

    Raises:
        RolloutError: If it was released meanwhile, although it broke a bound.
    """
    ended = take_back(settings, candidate, reason=reason)
    follow_pending(settings)
    if ended is EventKind.RELEASE:
        msg = (
            f"{bento_tag} was released before it could be taken back: {reason}; `ecg rollback` "
            "serves the release before it"
        )
        raise RolloutError(msg)
    if ended is not EventKind.TAKEN_BACK:
        name_run(f"candidate {bento_tag}: not tried any more, nothing done")
        return False
    get_run_logger().warning("the candidate %s is taken back: %s", bento_tag, reason)
    name_run(f"candidate {bento_tag} taken back: {reason}")
    return True


@task(cache_policy=NO_CACHE)
def put_back(
    settings: Settings, *, to: str, reason: str, decided_against: str, force: bool
) -> Outcome:
    """Switch the service and note it in the ledger."""
    outcome = roll_back(
        settings,
        why=" ".join(reason.split()),
        who="flow rollback-champion",
        to=to or None,
        decided_against=decided_against or None,
        force=force,
    )
    get_run_logger().warning(
        "rolled back from %s to model %s (%s) in %.1f s",
        "nothing" if outcome.before is None else f"model {outcome.before.model_version}",
        outcome.release.model_version,
        outcome.release.bento_tag,
        outcome.switch.seconds,
    )
    return outcome
