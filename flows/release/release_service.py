"""Flow ``release-service``: the running service serves a bento, without a failed request."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.bento_store import load_bundle
from flows.doors.ledger import append_release
from flows.doors.registry import Registry
from flows.release.package_bento import package_bento
from flows.release.serving import (
    ReleaseRefusedError,
    Switch,
    read_current,
    service_url,
    switch_service,
)


@flow(name="release-service")
def release_service(release: dict[str, str] | None = None) -> dict[str, Any]:
    """Switch the service to a release and note it in the ledger.

    The service loads it and asks its golden requests beside the traffic; when it refuses, the
    release before stays, and the registry's aliases go back.

    Args:
        release: What `package-bento` returned; the champion is packaged when left out.

    Returns:
        The release that is served, and whether a service was running.
    """
    settings = read_settings()
    wanted = Release.model_validate(release or package_bento())
    before = read_current(settings)
    is_new = before is None or _content(before) != _content(wanted)
    if not is_new:
        get_run_logger().info("%s is served already", wanted.bento_tag)
    switch = switch_to(wanted, settings)
    if is_new:
        note_in_ledger(wanted, settings, f"release model {wanted.model_version}")
        show(wanted, switch, settings)
    return {**wanted.model_dump(), "is_running": switch.is_running}


def _content(release: Release) -> dict[str, str]:
    return release.model_dump(exclude={"released_at"})


@task(cache_policy=NO_CACHE)
def switch_to(release: Release, settings: Settings) -> Switch:
    """Switch the service; on refusal give the alias back to what is served."""
    logger = get_run_logger()
    before = read_current(settings)
    try:
        switch = switch_service(release, settings)
    except ReleaseRefusedError:
        if before is not None:
            Registry(settings).follow_release(before.model_version)
        raise
    Registry(settings).follow_release(release.model_version)
    if switch.is_running:
        logger.info("%s took the traffic after %.1f s", release.bento_tag, switch.seconds)
    else:
        logger.info("no service runs; it will start with %s", release.bento_tag)
    return switch


@task(cache_policy=NO_CACHE)
def note_in_ledger(release: Release, settings: Settings, reason: str) -> None:
    """Commit the release with its metrics."""
    bundle = load_bundle(release.model_tag)
    commit = append_release(
        settings.ledger_dir,
        release,
        reason=reason,
        metrics={key: v for key, v in bundle.metrics.items() if isinstance(v, int | float)},
        model_card=bundle.model_card,
        remote=settings.ledger_remote,
    )
    get_run_logger().info("ledger commit %s: %s", commit[:12], reason)


@task(cache_policy=NO_CACHE)
def show(release: Release, switch: Switch, settings: Settings) -> None:
    """Show what is served."""
    bundle = load_bundle(release.model_tag)
    state = f"taken after {switch.seconds:.1f} s" if switch.is_running else "no service runs yet"
    create_markdown_artifact(
        key="release",
        markdown=f"# Model {release.model_version} is served\n\n"
        f"| | |\n|---|---|\n| bento | `{release.bento_tag}` |\n| service | "
        f"{service_url(settings)} ({state}) |\n| data | {bundle.provenance.data_source.value} |\n"
        f"| out-of-fold V-F1 | {bundle.metrics['oof_v_f1']:.4f} |\n",
    )
