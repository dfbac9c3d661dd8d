"""Dataset and training beats of a sweep in the store, for workers on other machines.

They are there as long as the sweep is under way. Their hash stands in the study, so whoever can
write to the store alone cannot change what workers train on. Signals of labelled traffic stay
encrypted: a worker needs the key of the kept signals.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ecg_lib.errors import DatasetError
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.archives import download_directory, upload_directory
from ecg_lib.operations.store.objects import StoreError, open_store
from flows.data.dataset_versions import DatasetVersion, parse_version
from flows.data.training_data import training_data_dir
from flows.training.sweep import Sweep

MOST_BYTES: Final = 32 * 1024**3
"""Largest training beats that are shared."""

_COMPRESSION: Final = 1
"""Windows of samples hardly get smaller, whatever the time."""


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
    text = json.dumps(asdict(data.version)).encode()
    try:
        store = open_store(str(settings.store_url))
        store.write(_version_key(sweep), text)
        upload_directory(store, data.beats, _beats_key(sweep), compression=_COMPRESSION)
    except StoreError as error:
        get_run_logger().warning("workers on other machines cannot join this sweep: %s", error)
        return None
    return _hash(text, data.beats)


@task(cache_policy=NO_CACHE)
def fetch_data(sweep: Sweep, expected: str | None, settings: Settings) -> SharedData:
    """Fetch the data of a sweep from the store.

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
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".fetch-") as directory:
        draft = Path(directory) / "beats"
        stored = store.read(_version_key(sweep))
        if stored is None or not download_directory(
            store, _beats_key(sweep), draft, most_bytes=MOST_BYTES
        ):
            msg = f"the data of sweep {sweep.name} must be in the store, they are not: it is over"
            raise DatasetError(msg)
        if (found := _hash(stored.content, draft)) != expected:
            msg = (
                f"the data of sweep {sweep.name} in the store must be those that its study names "
                f"({expected[:12]}), they are others ({found[:12]})"
            )
            raise DatasetError(msg)
        version = parse_version(stored.content, name)
        beats = training_data_dir(version, sweep.plan.views, settings)
        if not beats.exists():
            draft.rename(beats)
    get_run_logger().info("fetched dataset %s with its training beats from the store", name)
    return SharedData(version, beats)


def remove_data(sweep: Sweep, settings: Settings) -> None:
    """Remove the data of a sweep that is over from the store."""
    if not _is_shared(sweep, settings):
        return
    try:
        store = open_store(str(settings.store_url))
        for key in (_version_key(sweep), _beats_key(sweep)):
            store.remove(key)
    except StoreError as error:
        get_run_logger().warning(
            "the data of the sweep stay in the store, as sweeps/%s: %s", sweep.run_id, error
        )


def _is_shared(sweep: Sweep, settings: Settings) -> bool:
    return settings.store_url is not None and sweep.plan.n_workers > 1


def _version_key(sweep: Sweep) -> str:
    return f"sweeps/{sweep.run_id}/version.json"


def _beats_key(sweep: Sweep) -> str:
    return f"sweeps/{sweep.run_id}/beats.tar.gz"


def _hash(version: bytes, beats: Path) -> str:
    """Hash a version, and the names and contents of the files of its beats."""
    digest = hashlib.sha256(hashlib.sha256(version).digest())
    for path in sorted(path for path in beats.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(beats).as_posix()} {content}\n".encode())
    return digest.hexdigest()
