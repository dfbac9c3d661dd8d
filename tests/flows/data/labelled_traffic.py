"""Labelled traffic of patients, kept and prepared."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.preprocessing import prepare_beats
from flows.data.dataset_versions import (
    BrokenRecord,
    PreparedRecord,
    load_version,
    make_version,
    save_version,
)
from flows.data.records.site import prepare_site

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TRAINED, HELD_OUT = "a" * 63 + "0", "a" * 63 + "1"


def make_row(
    response: dict[str, Any], name: str = "p", patient_key: str = TRAINED
) -> PredictionRow:
    return PredictionRow(
        prediction_id=name,
        created_at=NOW,
        patient_key=patient_key,
        bundle_hash="b",
        bento_tag="ecg:x",
        duration_s=10.0,
        response=response,
        observed={},
    )


def make_mark(name: str = "p", **fields: Any) -> FeedbackRow:  # noqa: ANN401  any field
    return FeedbackRow(
        feedback_id=f"f-{name}-{len(fields)}",
        created_at=NOW,
        prediction_id=name,
        annotator=None,
        **{"labels": {}, **fields},
    )


def make_beats(*beats: tuple[int, str | None]) -> dict[str, Any]:
    return {
        "beat_predictions": [
            {"position_sample": sample, "arrhythmia_type": called} for sample, called in beats
        ]
    }


def keep_strip(
    store: SignalStore,
    log: PredictionLog,
    name: str,
    patient_key: str,
    *,
    is_drawn: bool = True,
    n_samples: int = 3600,
) -> list[int]:
    """Keep a strip with one V beat as the service does, and return the positions of its beats."""
    signal = simulate_strip(StripKind.ISOLATED_PVC, seed=3, fs=360.0).signal_mv()[:n_samples]
    positions = prepare_beats(signal, fs=360.0).r_peaks.tolist()
    store.add(
        KeptSignal(
            prediction_id=name,
            patient_key=patient_key,
            created_at=NOW,
            fs=360.0,
            lead="MLII",
            signal_mv=signal.astype(np.float32),
        ),
        is_waiting=not is_drawn,
    )
    response = {**make_beats(*((one, "N") for one in positions)), "drawn_for_review": is_drawn}
    log.add_predictions([make_row(response, name, patient_key)])
    return positions


def prepare_traffic(settings: Settings) -> list[PreparedRecord | BrokenRecord]:
    return sorted(
        prepare_site(settings, settings.datasets_dir / "records"), key=lambda one: one.name
    )


def save_traffic(settings: Settings, records: list[PreparedRecord]) -> Any:  # noqa: ANN401  a version
    version = make_version(
        data_source=DataSource.RECORDS,
        source_directory=Path("archive"),
        records=[],
        broken=[],
        other_directories={"site": settings.signals_dir},
    )

    version = replace(version, records=tuple(records))
    save_version(version, settings.datasets_dir)
    return load_version(settings.datasets_dir)
