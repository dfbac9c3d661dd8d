"""Sizes of the stores of a home on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ecg_lib.operations.settings import Settings

_BESIDE_SQLITE: Final = ("", "-wal", "-shm", "-journal")

KEPT_BY: Final[Mapping[str, str]] = {
    "predictions and feedback": "ECG_LOG_KEPT_DAYS, ECG_DRIFT_CHECKS_KEPT_DAYS",
    "signals": "ECG_SIGNALS_KEPT_DAYS, ECG_SIGNALS_WAIT_DAYS",
    "recordings": "ECG_RECORDINGS_KEPT, ECG_RECORDINGS_KEPT_DAYS",
    "bentos and models": "ECG_BENTOS_KEPT",
    "bundles": "ECG_BUNDLES_KEPT",
    "MLflow": "ECG_MLFLOW_SWEEPS_KEPT",
    "sweeps": "ECG_SWEEPS_KEPT",
    "datasets": "ECG_DATASET_VERSIONS_KEPT, ECG_TRAINING_DATA_KEPT",
    "reports": "ECG_DRIFT_REPORTS_KEPT, ECG_EVALUATION_REPORTS_KEPT",
    "Prefect": "ECG_PREFECT_RUNS_KEPT_DAYS",
}
"""The settings that limit each store."""


def measure_stores(settings: Settings) -> dict[str, int]:
    """Measure each store below the home, in bytes; one on a database server counts as 0."""
    home = settings.home
    places = {
        "predictions and feedback": home / "monitoring.db",
        "signals": settings.signals_dir,
        "recordings": settings.recordings_dir,
        "bentos and models": settings.bentoml_home,
        "bundles": home / "bundles",
        "MLflow": settings.mlflow_dir,
        "sweeps": home / "sweeps",
        "datasets": settings.datasets_dir,
        "reports": settings.reports_dir,
        "Prefect": home / "prefect",
    }
    return {name: sum(_sizes(place)) for name, place in places.items()}


def _sizes(place: Path) -> Iterator[int]:
    if place.is_dir():
        for folder, _, names in os.walk(place):
            for name in names:
                yield _size(Path(folder) / name)
    else:
        for end in _BESIDE_SQLITE:
            yield _size(Path(f"{place}{end}"))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
