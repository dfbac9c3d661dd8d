"""Flow ``release-service``: the running service serves a bento, without a failed request."""

from __future__ import annotations

from typing import Any, Final

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ecg_lib.classifier.bundle import read_figures
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.registry import RegistryError, follow_pending
from flows.doors.ui.links import as_markdown, link_operations, link_version
from flows.doors.ui.run_names import name_run
from flows.release.package_bento import package_bento
from flows.release.switch_service import find_bundle, service_url
from flows.release.transaction import Outcome, recover, release_model

CHAMPION: Final[dict[str, str]] = {}
"""Release that stands for the champion, which is packaged first."""


@flow(name="release-service")
def release_service(
    release: dict[str, str] = CHAMPION,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Switch the service to a release and note it in the ledger.

    The service loads it and asks its golden requests beside the traffic; when it refuses, the
    release before stays, and the registry's aliases go back. A release that is served already is
    left as it is. When another one is released meanwhile, nothing changes.

    Args:
        release: What `package-bento` returned; when empty, the champion is packaged.
        force: Serve it although it was rolled back before.

    Returns:
        The release that is served, and whether a service was running.
    """
    settings = read_settings()
    expected = recover(settings)
    if not release and not follow_pending(settings):
        # The champion may be a model that was rolled back.
        msg = "the aliases must follow what is served before the champion is packaged, they do not"
        raise RegistryError(msg)
    wanted = Release.model_validate(release or package_bento())
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
    create_markdown_artifact(
        key="release",
        markdown=f"# Model {release.model_version} is served\n\n"
        f"| | |\n|---|---|\n| bento | `{release.bento_tag}` |\n| service | "
        f"{service_url(settings)} ({state}) |\n| data | {figures.data_source.value} |\n"
        f"| out-of-fold V-F1 | {figures.metrics['oof_v_f1']:.4f} |\n\n"
        f"{as_markdown('Model in MLflow', link_version(settings, release.model_version))} · "
        f"{as_markdown('Operations page', link_operations(settings))}\n",
        description=f"Model {release.model_version} is served",
    )
