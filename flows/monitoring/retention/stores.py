"""Delete old rows and files: one setting a store, see :mod:`ecg_lib.operations.settings`.

Whatever a release in the ledger or a running process needs stays, and so do checks that decided.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.drift.traffic_log import delete_requests_before
from ecg_lib.operations.learning.rollout.comparison_log import delete_comparisons_before
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings
from flows.monitoring.labels.kept_signals import open_signals
from flows.monitoring.needed_releases import UnknownReleasesError, list_needed_releases


@task(cache_policy=NO_CACHE)
def forget_old_rows(
    settings: Settings, log: PredictionLog, *, now: datetime, needed: timedelta
) -> None:
    """Delete predictions, feedback and checks that are older than the log keeps them."""
    logger = get_run_logger()
    if settings.drift_checks_kept_days:
        log.delete_checks_before(now - timedelta(days=settings.drift_checks_kept_days))
    if not settings.log_kept_days:
        return
    kept = timedelta(days=settings.log_kept_days)
    if kept < needed:
        logger.warning(
            "the log keeps %d days, this check looks at %.1f: it sees less than it is asked to",
            settings.log_kept_days,
            needed / timedelta(days=1),
        )
    # Labels stay as long as the signals that they are of.
    signals = open_signals(settings).list_files()
    of_signals = {file.prediction_id for file in signals if not file.is_waiting}
    n_predictions, n_feedback = log.delete_before(now - kept, keep=of_signals)
    delete_requests_before(log, now - kept)
    delete_comparisons_before(log, now - kept)
    if n_predictions or n_feedback:
        logger.info(
            "older than %d days and deleted: %d predictions, %d rows of feedback",
            settings.log_kept_days,
            n_predictions,
            n_feedback,
        )


@task(cache_policy=NO_CACHE)
def forget_old_files(settings: Settings) -> None:
    """Delete old directories that nothing refers to and that can be made again."""
    home, store = settings.home, settings.bentoml_home
    try:
        releases = list_needed_releases(settings)  # a release of any time can be gone back to
    except UnknownReleasesError as error:
        get_run_logger().warning("no bento and no model is deleted: %s", error)
        releases = []
    bentos = {release.bento_tag.partition(":")[2] for release in releases}
    models = {release.model_tag.partition(":")[2] for release in releases}
    removed = [
        *_keep_newest((home / "bundles").glob("[!.]*"), settings.bundles_kept),
        *_keep_newest(
            (home / "sweeps").glob("*/"),
            settings.sweeps_kept,
            is_needed=lambda path: _is_open(path) or not _fits_of(path),
            remove=_remove_fits,
        ),
        *_keep_newest(
            (settings.datasets_dir / "training").glob("[!.]*/"), settings.training_data_kept
        ),
    ]
    if releases:
        removed += [
            *_keep_newest(
                (store / "bentos" / "ecg").glob("*/"),
                settings.bentos_kept,
                is_needed=lambda path: path.name in bentos,
            ),
            *_keep_newest(
                (store / "models" / "ecg_bundle").glob("*/"),
                settings.bentos_kept,
                is_needed=lambda path: path.name in models,
            ),
        ]
    if removed:
        get_run_logger().info("old and deleted: %s", ", ".join(sorted(removed)))


def _is_open(sweep: Path) -> bool:
    """Return whether a sweep may still get its candidate; a torn state is for `ecg doctor`."""
    try:
        state = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
        return state["candidate_run_id"] is None and not state.get("is_given_up", False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return True


def _fits_of(sweep: Path) -> list[Path]:
    return [path for path in sweep.iterdir() if path.name != "sweep.json"]


def _remove_fits(sweep: Path) -> None:
    """Delete the fits of a sweep, but not its state, by which sweeps are numbered."""
    for path in _fits_of(sweep):
        if path.is_dir():
            _remove(path)
        else:
            path.unlink(missing_ok=True)


def _remove(directory: Path) -> None:
    """Delete a directory; another flow may be deleting it too."""
    shutil.rmtree(directory, onerror=_pass_missing)


def _pass_missing(_function: object, _path: str, raised: tuple[object, Any, object]) -> None:
    _, error, _ = raised
    if not isinstance(error, FileNotFoundError):
        raise error


def _keep_newest(
    paths: Iterable[Path],
    n_kept: int,
    *,
    is_needed: Callable[[Path], bool] = lambda _: False,
    remove: Callable[[Path], None] = _remove,
) -> list[str]:
    """Delete all directories but the newest and those that are needed; return their names."""
    spare = []
    for path in paths:
        with suppress(FileNotFoundError):  # another flow has deleted it
            if path.is_dir() and not is_needed(path):
                spare.append((path.stat().st_mtime, path))
    old = [path for _, path in sorted(spare)[:-n_kept]]
    for path in old:
        remove(path)
    return [f"{path.parent.name}/{path.name}" for path in old]
