"""Delete what earlier trainings left: runs of MLflow, dataset versions, evaluation reports.

One setting a store. What a release of the ledger, an alias, or a release or sweep under way needs
stays, and so does the best candidate of each dataset version that is kept, as it may be promoted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.classifier.bundle import read_figures
from ecg_lib.errors import BundleError, DatasetError
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.data.dataset_versions import list_versions, load_version
from flows.data.prepared_views import records_dir
from flows.doors.ledger import read_ledger
from flows.doors.registry import Alias, KnownRun, Registry, RunKind, read_pending
from flows.release.switch_service import find_bundle, read_current
from flows.release.transaction import read_intent

_OPENINGS = "ds2"
"""Reports of openings of the test set: each is noted, and none can be made again."""


@task(cache_policy=NO_CACHE)
def forget_old_training(settings: Settings) -> None:
    """Delete runs, dataset versions and reports that nothing needs any more."""
    registry = Registry(settings)
    releases = _list_releases(settings)
    needed = _needed_runs(settings, registry, releases)
    runs = registry.list_runs()
    spare = choose_spare_runs(
        runs,
        needed=needed,
        n_kept=settings.mlflow_sweeps_kept,
        datasets=set(list_versions(settings.datasets_dir)),
    )
    problem = registry.remove_runs(spare)
    logger = get_run_logger()
    if problem:
        logger.warning("the files of runs that were deleted are still there: %s", problem)
    gone = set(spare)
    datasets = {run.dataset_version for run in runs if run.run_id not in gone}
    versions = _forget_dataset_versions(settings, datasets | _datasets_of(settings, releases))
    hashes = {release.bundle_hash for release in releases}
    hashes |= {run.bundle_hash for run in runs if run.run_id in needed}
    reports = _forget_reports(settings, hashes)
    if spare or versions or reports:
        logger.info(
            "old and deleted: %d runs of MLflow, dataset versions %s, reports %s",
            len(spare),
            ", ".join(versions) or "none",
            ", ".join(reports) or "none",
        )


def choose_spare_runs(
    runs: Iterable[KnownRun], *, needed: set[str], n_kept: int, datasets: set[str]
) -> list[str]:
    """Choose the runs of old sweeps that nothing needs.

    Args:
        runs: All runs, the newest first.
        needed: Ids of runs that stay.
        n_kept: Sweeps that have ended which stay, the newest.
        datasets: Dataset versions that there are.

    Returns:
        Ids of runs. A sweep of which a candidate is needed stays, without its trials.
    """
    known = list(runs)
    best: dict[str, KnownRun] = {}
    for run in known:
        if run.is_candidate and run.dataset_version in datasets:
            other = best.get(run.dataset_version)
            if other is None or run.v_f1 > other.v_f1:
                best[run.dataset_version] = run
    kept = needed | {run.run_id for run in best.values()}
    children: dict[str, list[KnownRun]] = {}
    for run in known:
        if run.parent_run_id is not None:
            children.setdefault(run.parent_run_id, []).append(run)
    ended = [run for run in known if run.kind == RunKind.SWEEP and not run.is_open]
    spare = []
    for sweep in ended[n_kept:]:
        nested = children.get(sweep.run_id, [])
        if sweep.run_id in kept or any(run.is_open for run in nested):
            continue
        spare += [run.run_id for run in nested if run.run_id not in kept]
        if not any(run.run_id in kept for run in nested):
            spare.append(sweep.run_id)
    return spare


def _list_releases(settings: Settings) -> list[Release]:
    """List every release that was ever served, and those of a release under way."""
    releases = [entry.release for entry in read_ledger(settings.ledger_dir).entries]
    intent = read_intent(settings)
    others = [read_current(settings), *((intent.before, intent.wanted) if intent else ())]
    return releases + [release for release in others if release is not None]


def _needed_runs(settings: Settings, registry: Registry, releases: list[Release]) -> set[str]:
    versions = {release.model_version for release in releases}
    if (pending := read_pending(settings)) is not None:
        versions |= {pending.version, *pending.rolled_back}
    needed = {one.run_id for one in registry.versions() if one.version in versions}
    return needed | {found.run_id for alias in Alias if (found := registry.get_alias(alias))}


def _datasets_of(settings: Settings, releases: list[Release]) -> set[str]:
    found = set()
    for release in releases:
        try:
            found.add(read_figures(find_bundle(settings, release.model_tag)).dataset_version)
        except BundleError as error:  # its run in MLflow names the dataset too
            get_run_logger().warning("%s cannot be read: %s", release.model_tag, error)
    return found


def _forget_dataset_versions(settings: Settings, needed: set[str]) -> list[str]:
    """Delete old versions, and prepared records that only they name; return their names."""
    folder = settings.datasets_dir / "versions"
    records: dict[str, set[str]] = {}
    for name in list_versions(settings.datasets_dir):
        try:
            version = load_version(settings.datasets_dir, name)
        except DatasetError:  # torn, or of earlier code
            continue
        records[name] = {record.prepared for record in version.records}
    if not records:
        return []
    newest_first = sorted(
        records, key=lambda name: (folder / f"{name}.json").stat().st_mtime, reverse=True
    )
    kept = needed | {load_version(settings.datasets_dir).version}
    kept |= set(newest_first[: settings.dataset_versions_kept])
    old = [name for name in newest_first if name not in kept]
    still_used: set[str] = set().union(*(records[name] for name in records if name in kept))
    for name in old:
        (folder / f"{name}.json").unlink()
        for prepared in records[name] - still_used:
            shutil.rmtree(records_dir(settings.datasets_dir) / prepared, ignore_errors=True)
    return sorted(old)


def _forget_reports(settings: Settings, hashes: set[str]) -> list[str]:
    """Delete old reports of bundles that nothing needs; return their names."""
    reports: dict[str, list[Path]] = {}
    for path in (settings.reports_dir / "evaluation").glob("*-*.*"):
        reports.setdefault(path.stem, []).append(path)
    prefixes = {one[:12] for one in hashes if one}
    spare = [
        stem
        for stem in reports
        if stem.partition("-")[0] not in prefixes and stem.partition("-")[2] != _OPENINGS
    ]
    spare.sort(key=lambda stem: max(path.stat().st_mtime for path in reports[stem]))
    old = spare[: -settings.evaluation_reports_kept]
    for stem in old:
        for path in reports[stem]:
            path.unlink()
    return sorted(old)
