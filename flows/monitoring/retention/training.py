"""Delete what earlier trainings left: runs of MLflow, dataset versions, evaluation reports.

One setting a store. What a release in the ledger, an alias, or a running release or sweep needs
stays, and so does the best candidate of each kept dataset version, as it may be promoted.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.classifier.bundle import read_figures
from ecg_lib.errors import BundleError, DatasetError
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.mirror import changing_reports, mirror_baselines, mirror_reports
from ecg_lib.operations.store.objects import StoreError
from flows.data.dataset_versions import (
    DatasetVersion,
    list_versions,
    load_version,
    read_latest,
)
from flows.data.prepared_views import records_dir
from flows.data.records.lock import deleting_records
from flows.data.shared_versions import (
    fetched_dir,
    forget_shared_versions,
    list_all_versions,
    list_fetched,
    remove_killed_publications,
)
from flows.doors.registry import Alias, KnownRun, Registry, RunKind
from flows.monitoring.needed_releases import UnknownReleasesError, list_needed_releases
from flows.release.integrity.aliases import read_pending
from flows.release.switch_service import find_bundle
from flows.training.sweep import has_shared_runs, settle_sweeps
from flows.training.workers.shared_data import remove_left_data

_OPENINGS = "ds2"
"""Suffix of reports on openings of the test set, which cannot be made again."""

_PREPARED: Final = re.compile(r'"prepared":\s*"([^"]+)"')


@task(cache_policy=NO_CACHE)
def forget_old_training(settings: Settings) -> None:
    """Delete runs, dataset versions and reports that are no longer needed."""
    registry = Registry(settings)
    logger = get_run_logger()
    try:
        versions = [one.version for one in registry.versions()]
        releases = list_needed_releases(settings, versions=versions)
        existing = set(list_all_versions(settings))
    except (UnknownReleasesError, StoreError) as error:
        logger.warning("nothing of earlier trainings is deleted: %s", error)
        return
    needed = _needed_runs(settings, registry, releases)
    unfinished = settle_sweeps(registry.list_runs(), registry, settings, datasets=existing)
    over = {run.run_id for run in registry.list_runs() if run.kind == RunKind.SWEEP}
    remove_left_data(settings, ended=over - unfinished.open - unfinished.resumable)
    deleted = registry.list_runs(are_deleted=True)
    runs = registry.list_runs() + [run for run in deleted if run.run_id in needed]
    spare = choose_spare_runs(
        runs,
        needed=needed | unfinished.open | unfinished.resumable,
        n_kept=settings.mlflow_sweeps_kept,
        datasets=existing,
    )
    left = [run.run_id for run in deleted if run.run_id not in needed]
    if settings.mlflow_tracking_uri is not None:  # its own `mlflow gc` removes them
        left = []
    for problem in registry.remove_runs([*spare, *left]):
        logger.warning("the files of a run that was deleted are still there: %s", problem)
    # A sweep that was interrupted can be resumed as long as its dataset is there, and no longer.
    gone = {*spare, *unfinished.resumable} - needed
    datasets = {
        run.dataset_version
        for run in runs
        if run.run_id not in gone
        and (run.parent_run_id not in unfinished.resumable or run.run_id in needed)
    }
    needed_data = datasets | _datasets_of(settings, releases)
    with deleting_records(settings.datasets_dir) as may_delete:
        old_versions = _forget_dataset_versions(settings, needed_data) if may_delete else []
    if not may_delete:
        logger.info("no dataset version is deleted while ingest-records runs")
    _forget_in_store(settings, needed_data, gone=old_versions)
    hashes = {release.bundle_hash for release in releases}
    hashes |= {run.bundle_hash for run in runs if run.run_id in needed}
    with changing_reports(settings):
        reports = _forget_reports(settings, hashes)
    if spare or left or old_versions or reports:
        logger.info(
            "old and deleted: %d runs of MLflow, dataset versions %s, reports %s",
            len(spare) + len(left),
            ", ".join(old_versions) or "none",
            ", ".join(reports) or "none",
        )


def choose_spare_runs(
    runs: Iterable[KnownRun], *, needed: set[str], n_kept: int, datasets: set[str]
) -> list[str]:
    """Choose the runs of old sweeps that nothing needs.

    Args:
        runs: All runs, the newest first.
        needed: Ids of runs that stay; a sweep among them takes no place of `n_kept`.
        n_kept: Number of ended sweeps that stay, the newest.
        datasets: Dataset versions that exist.

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
    sweeps = [run for run in known if run.kind == RunKind.SWEEP and run.run_id not in kept]
    ended = [run for run in sweeps if not run.is_open]
    spare = []
    for sweep in ended[n_kept:]:
        nested = children.get(sweep.run_id, [])
        if any(run.is_open for run in nested):
            continue
        spare += [run.run_id for run in nested if run.run_id not in kept]
        if not any(run.run_id in kept for run in nested):
            spare.append(sweep.run_id)
    return spare


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
    versions: dict[str, DatasetVersion] = {}
    still_used: set[str] = set()
    for name in list_versions(settings.datasets_dir):
        try:
            version = load_version(settings.datasets_dir, name)
        except DatasetError:  # torn, or of earlier code: it stays, with the records that it names
            text = (folder / f"{name}.json").read_text(encoding="utf-8", errors="replace")
            still_used.update(_PREPARED.findall(text))
            continue
        versions[name] = version
    records = {
        name: {record.prepared for record in version.records} for name, version in versions.items()
    }
    if not records:
        return []
    newest_first = sorted(
        records, key=lambda name: (folder / f"{name}.json").stat().st_mtime, reverse=True
    )
    kept = needed | {read_latest(settings.datasets_dir) or ""}
    kept |= set(newest_first[: settings.dataset_versions_kept])
    old = [name for name in newest_first if name not in kept]
    still_used.update(*(records[name] for name in records if name in kept))
    fetched = {
        fetched_dir(settings, version.records_in(database))
        for name, version in versions.items()
        if name in kept
        for database in version.databases
    }
    for name in old:
        (folder / f"{name}.json").unlink()
        for prepared in records[name] - still_used:
            shutil.rmtree(records_dir(settings.datasets_dir) / prepared, ignore_errors=True)
    for directory in list_fetched(settings):
        if old and directory not in fetched:  # the store has them
            shutil.rmtree(directory, ignore_errors=True)
    return sorted(old)


def _forget_in_store(settings: Settings, needed: set[str], *, gone: list[str]) -> None:
    """Remove old versions from the store, and what killed publications left there."""
    logger = get_run_logger()
    try:
        removed = forget_shared_versions(
            settings, needed, are_runs_shared=has_shared_runs(settings), gone=gone
        )
        now = datetime.now(UTC)
        n_left = remove_killed_publications(settings, now=now)
        if settings.store_url is not None:
            for mirror in (mirror_reports(settings), mirror_baselines(settings)):
                n_left += mirror.remove_orphans(now_s=now.timestamp())
    except StoreError as error:
        logger.warning("old dataset versions stay in the store until the next time: %s", error)
        return
    if removed or n_left:
        logger.info(
            "removed from the store: dataset versions %s, %d objects of killed publications",
            ", ".join(removed) or "none",
            n_left,
        )


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
