"""Dataset and training beats of a sweep in the store, for workers on other machines.

They are there as long as the sweep is under way or can be resumed. Their hash stands in the study,
so whoever can write to the store alone cannot change what workers train on. Signals of labelled
traffic stay encrypted: a worker needs the key of the kept signals.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.errors import DatasetError
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.archives import download_directory, upload_directory
from ecg_lib.operations.store.objects import ObjectStore, StoreError, open_store
from flows.data.dataset_versions import DatasetVersion, parse_version
from flows.data.training_data import training_data_dir
from flows.doors.parallel import one_at_a_time
from flows.training.sweep import (
    Sweep,
    note_shared_data,
    settle_shared_data,
)

MOST_BYTES: Final = 32 * 1024**3
"""Largest training beats that are shared."""

_COMPRESSION: Final = 1
"""Windows of samples hardly get smaller, whatever the time."""

_DRAFT: Final = ".fetch-"


class SharedData(NamedTuple):
    """The data that a worker of a sweep needs."""

    version: DatasetVersion
    beats: Path
    """Directory of the training beats."""


@task(cache_policy=NO_CACHE)
def share_data(sweep: Sweep, data: SharedData, settings: Settings) -> str | None:
    """Write the data of a sweep to the store; return their hash, or None where nothing is shared.

    A sweep for one worker, or without a store, shares nothing. If the store fails, the sweep goes
    on: workers with the home of this one do not need it.
    """
    if not _is_shared(sweep, settings):
        return None
    n_bytes = sum(path.stat().st_size for path in data.beats.rglob("*") if path.is_file())
    if n_bytes > MOST_BYTES:
        get_run_logger().warning(
            "workers on other machines cannot join this sweep: its beats are %.1f GiB, and at most "
            "%.0f GiB are shared",
            *(n_bytes / 2**30, MOST_BYTES / 2**30),
        )
        return None
    text = json.dumps(asdict(data.version)).encode()
    note_shared_data(sweep, has_data=True)
    try:
        store = open_store(str(settings.store_url))
        store.write(_version_key(sweep.run_id), text)
        upload_directory(store, data.beats, _beats_key(sweep.run_id), compression=_COMPRESSION)
    except StoreError as error:
        get_run_logger().warning("workers on other machines cannot join this sweep: %s", error)
        return None
    return _hash(text, data.beats)


@task(cache_policy=NO_CACHE)
def fetch_data(sweep: Sweep, expected: str | None, settings: Settings) -> SharedData:
    """Fetch the data of a sweep from the store, unless an earlier worker of this home did.

    Of several workers of a home, one fetches them and the others wait.

    Args:
        sweep: Sweep that this worker joins.
        expected: Hash that the study names; None when the sweep shares nothing.
        settings: Where the store is, and the home of this worker.

    Raises:
        StoreError: If the store cannot be reached.
        DatasetError: If the data are not shared, or not those that the sweep was begun with.
    """
    name = sweep.tags["ecg.dataset_version"]
    if expected is None or settings.store_url is None:
        msg = (
            f"dataset {name} must be on this machine or shared, it is not; run ingest-records on "
            "the same records, or begin the sweep with two workers or more and set ECG_STORE_URL "
            "for both"
        )
        raise DatasetError(msg)
    store = open_store(settings.store_url)
    place = settings.datasets_dir / "training"
    with one_at_a_time(place / ".fetch.lock"):
        for left in place.glob(f"{_DRAFT}*"):  # of a worker that was killed
            shutil.rmtree(left)
        stored = store.read(_version_key(sweep.run_id))
        if stored is None:
            raise DatasetError(_explain_missing(sweep))
        version = parse_version(stored.content, name)
        beats = training_data_dir(version, sweep.plan.views, settings)
        if beats.exists() and _hash(stored.content, beats) == expected:
            return SharedData(version, beats)
        with tempfile.TemporaryDirectory(dir=place, prefix=_DRAFT) as directory:
            draft = Path(directory) / "beats"
            key = _beats_key(sweep.run_id)
            if not download_directory(store, key, draft, most_bytes=MOST_BYTES):
                raise DatasetError(_explain_missing(sweep))
            if (found := _hash(stored.content, draft)) != expected:
                msg = (
                    f"the data of sweep {sweep.name} in the store must be those that its study "
                    f"names ({expected[:12]}), they are others ({found[:12]})"
                )
                raise DatasetError(msg)
            if not beats.exists():
                draft.rename(beats)
    get_run_logger().info("fetched dataset %s with its training beats from the store", name)
    return SharedData(version, beats)


def _explain_missing(sweep: Sweep) -> str:
    return f"the data of sweep {sweep.name} must be in the store, they are not: it is over"


def remove_data(sweep: Sweep, settings: Settings) -> None:
    """Remove the data of a sweep that is over from the store."""
    if _is_shared(sweep, settings) and _remove(sweep.run_id, settings):
        note_shared_data(sweep, has_data=False)


def remove_left_data(settings: Settings, *, ended: Collection[str] = ()) -> None:
    """Remove the data of sweeps that were given up, or killed at their end, from the store.

    Args:
        settings: Where the store and the sweeps are.
        ended: MLflow runs of sweeps that are over, also of those whose state was lost.
    """
    if settings.store_url is None:
        return
    settle_shared_data(settings, lambda run_id: _remove(run_id, settings))
    try:
        left = set(_list_runs(open_store(settings.store_url)))
    except StoreError as error:
        get_run_logger().warning("data of sweeps that are over stay in the store: %s", error)
        return
    for run_id in sorted(left.intersection(ended)):
        _remove(run_id, settings)


def remove_data_with(is_due: Callable[[DatasetVersion], bool], settings: Settings) -> list[str]:
    """Remove the data of sweeps from the store, also of those that are under way.

    They are found in the store, whatever home has shared them and whether that still knows. Workers
    that have fetched them go on; others can no longer join.

    Args:
        is_due: Whether the data of a dataset version must go.
        settings: Where the store is.

    Returns:
        What could not be removed, and why.
    """
    if settings.store_url is None:
        return []
    problems = []
    try:
        store = open_store(settings.store_url)
        run_ids = _list_runs(store)
    except StoreError as error:
        return [f"sweeps in the store: {error}"]
    for run_id in run_ids:
        try:
            stored = store.read(_version_key(run_id))
            # Beats without a version do not tell whose they are, and no worker can use them.
            if stored is None or is_due(parse_version(stored.content, run_id)):
                _remove_keys(store, run_id)
        except (StoreError, DatasetError) as error:
            problems.append(f"sweeps/{run_id} in the store: {error}")
    return problems


def _list_runs(store: ObjectStore) -> list[str]:
    """List the MLflow runs of the sweeps that have data in the store."""
    return sorted({one.key.split("/")[1] for one in store.list_objects("sweeps/")})


def _remove(run_id: str, settings: Settings) -> bool:
    try:
        _remove_keys(open_store(str(settings.store_url)), run_id)
    except StoreError as error:
        get_run_logger().warning(
            "the data of the sweep stay in the store, as sweeps/%s: %s", run_id, error
        )
        return False
    return True


def _remove_keys(store: ObjectStore, run_id: str) -> None:
    # The beats first: the version says whose they are.
    for key in (_beats_key(run_id), _version_key(run_id)):
        store.remove(key)


def _is_shared(sweep: Sweep, settings: Settings) -> bool:
    return settings.store_url is not None and sweep.plan.n_workers > 1


def _version_key(run_id: str) -> str:
    return f"sweeps/{run_id}/version.json"


def _beats_key(run_id: str) -> str:
    return f"sweeps/{run_id}/beats.tar.gz"


def _hash(version: bytes, beats: Path) -> str:
    """Hash a version, and the names and contents of the files of its beats."""
    digest = hashlib.sha256(hashlib.sha256(version).digest())
    for path in sorted(path for path in beats.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(beats).as_posix()} {content}\n".encode())
    return digest.hexdigest()
