"""Flow ``release-service``: the running service serves a bento, without a failed request."""

from __future__ import annotations

from typing import Annotated, Any, Final

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from ecg_lib.classifier.bundle import read_figures
from ecg_lib.errors import EcgError
from ecg_lib.operations.learning.rollout.candidate import DEFAULT_PLAN, Plan
from ecg_lib.operations.releases import Release, is_same_release
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.registry import Alias, RegistryError
from flows.doors.ui.artifacts import show_artifact
from flows.doors.ui.links import as_markdown, link_operations, link_version
from flows.doors.ui.run_names import name_run
from flows.release.integrity.aliases import follow_pending, note_pending
from flows.release.package_bento import package_bento
from flows.release.rollout.approval import RejectedError, wait_for_approval
from flows.release.rollout.steps import Rollout, start_rollout
from flows.release.switch_service import Presence, ask_service, find_bundle, service_url
from flows.release.transaction import (
    Outcome,
    SupersededError,
    describe_superseded,
    recover,
    release_model,
)

CHAMPION: Final[dict[str, str]] = {}
"""Release that stands for the champion, which is packaged first."""


@flow(name="release-service")
def release_service(
    release: dict[str, str] = CHAMPION,
    model_version: str = Alias.CHAMPION.value,
    rollout: Rollout = Rollout.AT_ONCE,
    plan: Plan = DEFAULT_PLAN,
    reason: str = "",
    approval_hours: Annotated[float, Field(gt=0, le=720)] = 24.0,
    *,
    needs_approval: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Switch the service to a release and note it in the ledger.

    The service loads it and asks its golden requests beside the traffic; when it refuses, the
    release before stays, and the registry's aliases go back. A release that is served already is
    left as it is. When another one is released meanwhile, nothing changes. A gradual rollout tries
    the release beside the served one first; `watch-rollout` then brings it further or takes it
    back.

    Args:
        release: What `package-bento` returned; when empty, a model is packaged.
        model_version: The model that is packaged: its number, or `champion`.
        rollout: Release it at once, or gradually.
        plan: Stages and bounds of a gradual rollout.
        reason: Why, for the ledger.
        approval_hours: How long a person may take; without an answer nothing is released.
        needs_approval: Wait until a person allows the release, by a form in this run's page.
        force: Serve it although it was rolled back or taken back before.

    Returns:
        The release that is served or tried, whether a service was running, and the stage of a
        rollout.
    """
    settings = read_settings()
    expected = recover(settings)
    if not release and not follow_pending(settings):
        # The champion may be a model that was rolled back.
        msg = "the aliases must follow what is served before the champion is packaged, they do not"
        raise RegistryError(msg)
    wanted = Release.model_validate(release or package_bento(model_version))
    if rollout is Rollout.GRADUAL and expected is None:
        get_run_logger().info("nothing is served yet: the first release is made at once")
    is_gradual = (
        rollout is Rollout.GRADUAL
        and expected is not None
        and not is_same_release(expected, wanted)
    )
    try:
        if needs_approval:
            what = "try it in a gradual rollout" if is_gradual else "release it at once"
            if expected is not None:  # meanwhile nobody takes it for the champion
                note_pending(settings, expected.model_version)
                follow_pending(settings)
            wait_for_approval(settings, wanted, what=what, hours=approval_hours)
            served = recover(settings)
            if not is_same_release(served, expected):
                raise SupersededError(describe_superseded(expected, served))
        if is_gradual:
            return begin_rollout(wanted, settings, plan=plan, reason=reason, force=force)
    except EcgError as error:
        served = recover(settings)  # another one may have been released while this one waited
        if served is not None:  # the promotion made it champion
            is_rejected = isinstance(error, RejectedError)
            note_pending(
                settings,
                served.model_version,
                rolled_back=wanted.model_version if is_rejected else None,
            )
            follow_pending(settings)
        raise
    try:
        outcome = switch_to(wanted, settings, expected=expected, force=force)
    finally:
        follow_pending(settings)
    state = "served" if outcome.is_new else "served already"
    name_run(f"release of model {outcome.release.model_version}: {state}")
    if outcome.is_new:
        show(outcome, settings)
    return {**outcome.release.model_dump(), "is_running": outcome.switch.is_running}


@task(cache_policy=NO_CACHE)
def begin_rollout(
    wanted: Release, settings: Settings, *, plan: Plan, reason: str, force: bool
) -> dict[str, Any]:
    """Try a release in shadow; a candidate that was tried before it is ended."""
    try:
        candidate = start_rollout(
            settings,
            wanted,
            plan=plan,
            why=reason or f"try model {wanted.model_version}",
            who="flow release-service",
            replaces=True,
            force=force,
        )
    finally:
        follow_pending(settings)
    stages = ", ".join(stage.name for stage in candidate.plan.stages)
    get_run_logger().info("%s is tried (%s), then released", wanted.bento_tag, stages)
    show_artifact(
        key="rollout",
        markdown=f"# Model {wanted.model_version} is tried beside "
        f"{candidate.champion.model_version}\n\nStages: {stages}, then the release.\n",
    )
    name_run(f"model {wanted.model_version} is tried: {candidate.current_stage.name}")
    is_running = ask_service(settings).presence is not Presence.ABSENT
    return {
        **candidate.release.model_dump(),
        "is_running": is_running,
        "rollout": candidate.current_stage.name,
    }


@task(cache_policy=NO_CACHE)
def switch_to(
    wanted: Release, settings: Settings, *, expected: Release | None, force: bool
) -> Outcome:
    """Switch the service and note it in the ledger, or change nothing."""
    logger = get_run_logger()
    outcome = release_model(
        settings,
        wanted,
        why=f"release model {wanted.model_version}",
        who="flow release-service",
        expected=expected,
        force=force,
    )
    if not outcome.is_new:
        logger.info("%s is served already", wanted.bento_tag)
    elif outcome.switch.is_running:
        logger.info("%s took the traffic after %.1f s", wanted.bento_tag, outcome.switch.seconds)
    else:
        logger.info("no service runs; it will start with %s", wanted.bento_tag)
    return outcome


@task(cache_policy=NO_CACHE)
def show(outcome: Outcome, settings: Settings) -> None:
    """Show what is served."""
    release, switch = outcome.release, outcome.switch
    figures = read_figures(find_bundle(settings, release.model_tag))
    state = f"taken after {switch.seconds:.1f} s" if switch.is_running else "no service runs yet"
    show_artifact(
        key="release",
        markdown=f"# Model {release.model_version} is served\n\n"
        f"| | |\n|---|---|\n| bento | `{release.bento_tag}` |\n| service | "
        f"{service_url(settings)} ({state}) |\n| data | {figures.data_source.value} |\n"
        f"| out-of-fold V-F1 | {figures.metrics['oof_v_f1']:.4f} |\n\n"
        f"{as_markdown('Model in MLflow', link_version(settings, release.model_version))} · "
        f"{as_markdown('Operations page', link_operations(settings))}\n",
        description=f"Model {release.model_version} is served",
    )
