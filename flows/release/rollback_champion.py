"""Flow ``rollback-champion``: an earlier release is served again, at once."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.ledger import LedgerEntry, LedgerError, find_previous, find_version, read_ledger
from flows.doors.registry import Registry
from flows.release.release_service import note_in_ledger
from flows.release.serving import make_release, read_current, switch_service


@flow(name="rollback-champion")
def rollback_champion(
    model_version: str | None = None, reason: str = "asked for by hand"
) -> dict[str, Any]:
    """Serve an earlier release again: its network, threshold, rules and drift reference.

    Works from the ledger, so it also works when MLflow is down; the aliases then follow when it
    is back.

    Args:
        model_version: Version to go back to; the one served before the current one when left out.
        reason: Why, for the ledger.

    Returns:
        The release that is served now.
    """
    settings = read_settings()
    current = read_current(settings)
    if current is None:
        msg = "there must be a release to roll back, nothing was released yet"
        raise LedgerError(msg)
    target = choose_target(settings, current, model_version)
    release = put_back(settings, current, target)
    text = f"roll back model {current.model_version} to {release.model_version}: {reason}"
    note_in_ledger(release, settings, " ".join(text.split()))
    create_markdown_artifact(
        key="rollback", markdown=f"# Rolled back\n\n{text}\n\nbento `{release.bento_tag}`\n"
    )
    return release.model_dump()


@task(cache_policy=NO_CACHE)
def choose_target(settings: Settings, current: Release, model_version: str | None) -> LedgerEntry:
    """Find the release to go back to in the ledger."""
    entries = read_ledger(settings.ledger_dir)
    if model_version is None:
        return find_previous(entries, bundle_hash=current.bundle_hash)
    return find_version(entries, model_version=model_version)


@task(cache_policy=NO_CACHE)
def put_back(settings: Settings, current: Release, target: LedgerEntry) -> Release:
    """Switch the service, then let the registry follow."""
    release = make_release(
        **target.release.model_dump(exclude={"released_at"})  # the release is of now
    )
    switch = switch_service(release, settings)
    get_run_logger().warning(
        "rolled back from model %s to model %s (%s) in %.1f s",
        current.model_version,
        release.model_version,
        release.bento_tag,
        switch.seconds,
    )
    Registry(settings).follow_release(release.model_version, rolled_back=current.model_version)
    return release
