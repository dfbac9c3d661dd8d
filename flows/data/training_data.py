"""The labelled beats of a dataset version in the views that networks are trained on and judged by.

Cut once for each version and set of views, by two processes, and kept under ``datasets``. The
scoring views are read from the prepared records; the training views are prepared here, the only
place that needs them. Windows and features of labelled traffic are in files of their own, encrypted
under the key of the kept signals.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import DatasetError, SignalStoreError
from ecg_lib.evaluation.prepared_views import PreparedStrip, ScoredView
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.simulation.training_patients import simulate_training_patient
from ecg_lib.training.datasets import MOVED, STRIPS_10_S, BeatDataset, build_beats, join_records
from ecg_lib.training.views import WHOLE, View, prepare_view
from flows.data.databases import Role
from flows.data.dataset_versions import (
    CUTTING,
    DatasetVersion,
    PreparedRecord,
    hash_code,
    prepared_key,
)
from flows.data.prepared_views import PreparedViews, is_of_traffic
from flows.data.progress import ProgressBar
from flows.doors.parallel import one_at_a_time, run_in_processes

SCORING_VIEWS: Final = (WHOLE, STRIPS_10_S, MOVED)
"""Views as they are served, whole recordings and strips like those of requests; and movement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPlan:
    """The views of a training set."""

    training_views: tuple[View, ...]
    conducted_share: float = 0.15
    """Share of the N beats kept in the training views."""
    seed: int = 0
    n_simulated: int = 0
    """Simulated patients that are in the training part of every fold."""


QUICK_VIEWS: Final = ViewPlan(
    n_simulated=4,
    training_views=(
        View(angle_deg=35),
        View(angle_deg=90),
        View(angle_deg=20, strip_s=20),
        View(angle_deg=45, noise_db=12),
        View(angle_deg=90, noise_db=6),
        View(angle_deg=90, movement_db=12),
        View(angle_deg=20, movement_db=0),
        View(angle_deg=0, strip_s=10, movement_db=9),
    ),
)
"""Two more leads, whole, and one in strips; two under muscle noise, and three under movement."""

FULL_VIEWS: Final = ViewPlan(
    n_simulated=16,
    training_views=(
        *QUICK_VIEWS.training_views,
        View(angle_deg=10, strip_s=20, noise_db=18),
        View(angle_deg=120),
        View(angle_deg=0, strip_s=30),
        View(angle_deg=60, strip_s=20, movement_db=3),
    ),
)

DEMO_VIEWS: Final = ViewPlan(training_views=(View(angle_deg=35),))
"""One more lead, for a sweep of two minutes."""


def find_training_data(version: DatasetVersion, plan: ViewPlan, settings: Settings) -> Path:
    """Find the beats of the development records; cut them when they are not there.

    Of two sweeps that need the same beats one cuts them, and the other waits.
    """
    directory = training_data_dir(version, plan, settings)
    if not directory.exists():
        with one_at_a_time(directory.with_name(f".{directory.name}.lock")):
            if not directory.exists():
                prepared = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
                _make(prepared, plan, directory)
    return directory


def training_data_dir(version: DatasetVersion, plan: ViewPlan, settings: Settings) -> Path:
    """Return the directory of the beats of a version, whether it is there or not."""
    records = version.records_of(Role.DEVELOPMENT)
    return settings.datasets_dir / "training" / _key(records, plan)


def _key(records: tuple[PreparedRecord, ...], plan: ViewPlan) -> str:
    parts = [prepared_key(record.files, identity=record.identity) for record in records]
    views = [str(view) for view in SCORING_VIEWS]
    text = json.dumps([parts, views, asdict(plan), hash_code(CUTTING)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _make(prepared: PreparedViews, plan: ViewPlan, directory: Path) -> None:
    records = prepared.version.records_of(Role.DEVELOPMENT)
    bar = ProgressBar("Training beats cut")
    parts: list[BeatDataset] = []
    jobs: list[Callable[[], BeatDataset]] = [
        *(partial(cut_beats, prepared, record, plan) for record in records),
        *(partial(cut_simulated, number, plan) for number in range(plan.n_simulated)),
    ]
    for part in run_in_processes(jobs):
        parts.append(part)
        bar.update(len(parts), len(jobs))
    draft = directory.with_name(f".{directory.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    save_training_data(join_records(parts), draft, key=directory.name)
    draft.rename(directory)


SEALED: Final = "sealed"
"""Folder of the beats of labelled traffic: a file for each strip, by its place in the dataset."""


def save_training_data(dataset: BeatDataset, directory: Path, *, key: str) -> None:
    """Write a dataset, the beats of labelled traffic encrypted and as zeros among the others.

    Args:
        dataset: The beats.
        directory: Where they go.
        key: Name of the directory in the end, which the encrypted files are bound to.
    """
    store = _open_store(directory)
    # Copies in memory: their place among the others is cleared before anything is written.
    windows, features = np.array(dataset.windows), np.array(dataset.features)
    for index, rows in _rows_of_traffic(dataset).items():
        buffer = io.BytesIO()
        np.savez(buffer, windows=windows[rows], features=features[rows])
        windows[rows] = features[rows] = 0
        (directory / SEALED).mkdir(parents=True, exist_ok=True)
        path = directory / SEALED / f"{index}.beats"
        path.write_bytes(store.seal(buffer.getvalue(), name=f"{key}/{index}"))
    replace(dataset, windows=windows, features=features).save(directory)


def load_training_data(directory: Path) -> BeatDataset:
    """Read a dataset; the beats of labelled traffic are decrypted in memory alone.

    Raises:
        DatasetError: If it cannot be read, or the encrypted beats do not fit the others.
        ConfigurationError: If the key of the kept signals cannot be used.
    """
    dataset = BeatDataset.load(directory)
    of_traffic = _rows_of_traffic(dataset)
    if not of_traffic:
        return dataset
    store = _open_store(directory)
    # Copied on write: what is decrypted stays in memory, the rest is mapped from disk.
    windows = np.load(directory / "windows.npy", mmap_mode="c")
    features = dataset.features.copy()
    for index, rows in of_traffic.items():
        try:
            sealed = (directory / SEALED / f"{index}.beats").read_bytes()
            content = store.unseal(sealed, name=f"{directory.name}/{index}")
        except (OSError, SignalStoreError) as error:
            msg = (
                f"the beats of {dataset.record_names[index]} in {directory.name} must be encrypted "
                f"under the key of the kept signals: {error}; delete {directory}, it is made again"
            )
            raise DatasetError(msg) from error
        with np.load(io.BytesIO(content)) as beats:
            windows[rows], features[rows] = beats["windows"], beats["features"]
    return replace(dataset, windows=windows, features=features)


def _rows_of_traffic(dataset: BeatDataset) -> dict[int, NDArray[np.int64]]:
    """Find the rows of each labelled strip, by its place in the dataset."""
    return {
        index: np.flatnonzero(dataset.record == index)
        for index, name in enumerate(dataset.record_names)
        if is_of_traffic(name)
    }


def _open_store(directory: Path) -> SignalStore:
    home = directory.parents[2]
    # The process may be of a pool that was started with other settings.
    key = read_settings().signal_key_file or home / "signals.key"
    return SignalStore(home / "signals", key)


def cut_simulated(number: int, plan: ViewPlan) -> BeatDataset:
    """Cut the beats of a simulated patient in all views of a plan."""
    return build_beats(
        simulate_training_patient(number),
        scoring_views=SCORING_VIEWS,
        training_views=plan.training_views,
        conducted_share=plan.conducted_share,
        seed=plan.seed,
    )


def cut_beats(prepared: PreparedViews, record: PreparedRecord, plan: ViewPlan) -> BeatDataset:
    """Cut the labelled beats of one record in all views of a plan."""
    source = prepared.version.read_source(record)

    def prepare(view: View) -> list[PreparedStrip]:
        if view in (WHOLE, STRIPS_10_S):
            return prepared.read(record, ScoredView(strip_s=view.strip_s))
        return prepare_view(source, view)

    return build_beats(
        source,
        scoring_views=SCORING_VIEWS,
        training_views=plan.training_views,
        conducted_share=plan.conducted_share,
        seed=plan.seed,
        prepare=prepare,
    )
