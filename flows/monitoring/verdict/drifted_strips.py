"""Choose the beats of kept signals that lie farthest from the reference, for a check's page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.drift.comparison import ColumnDrift
from ecg_lib.operations.drift.observation import (
    CATEGORICAL_COLUMNS,
    HARMLESS_COLUMNS,
    ObservedBeats,
    ObservedStrip,
    gather_strips,
)
from ecg_lib.operations.drift.traffic_log import Window
from ecg_lib.operations.learning.drifted_beats import DriftedBeat, DriftedBeats
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow

N_SHOWN: Final = 3
N_LOOKED_AT: Final = 200
"""Kept signals that are looked at, the newest of the window; those that wait for a label are not
shown, so they are not looked at."""

_UNITS: Final = {
    "rr_prev_s": "s",
    "heart_rate_bpm": "beats/min",
    "qrs_width_ms": "ms",
    "amplitude_mv": "mV",
}


class _Scored(NamedTuple):
    score: float
    beat: DriftedBeat


def choose_drifted(columns: Sequence[ColumnDrift]) -> ColumnDrift | None:
    """Choose the column that drifted most, of those that matter; None when none drifted."""
    drifted = [one for one in columns if one.is_drifted and one.column not in HARMLESS_COLUMNS]
    return max(drifted, key=lambda one: one.distance, default=None)


def find_drifted_beats(
    drift: ColumnDrift,
    *,
    read: Callable[[], ObservedBeats],
    current: ObservedBeats,
    window: Window,
    log: PredictionLog,
    store: SignalStore,
    are_kept: bool,
) -> DriftedBeats:
    """Find the most drifted beats of a window among those whose signals are kept.

    Args:
        drift: The column, and how it drifted.
        read: Reads the beats of the reference, which take much memory and are needed only where
            there are signals.
        current: Beats of the traffic.
        window: The window, of the served bundle.
        log: The predictions.
        store: The kept signals.
        are_kept: Whether signals are kept.

    Returns:
        At most one beat for each patient.
    """
    files = [
        one
        for one in store.list_files()
        if not one.is_waiting and one.written_s > window.since.timestamp()
    ]
    files.sort(key=lambda one: -one.written_s)
    if not files:
        return DriftedBeats(are_kept=are_kept, column=drift.column, usual=drift.reference)
    reference = read()
    scored = []
    for file in files[:N_LOOKED_AT]:
        row = log.get_prediction(file.prediction_id)
        if row is None or row.bundle_hash != window.bundle_hash:
            continue
        found = _score(row, drift.column, reference, current)
        if found is not None:
            scored.append(found)
    return DriftedBeats(
        are_kept=are_kept,
        column=drift.column,
        usual=drift.reference,
        beats=_take_best(scored),
    )


def _score(
    row: PredictionRow, column: str, reference: ObservedBeats, current: ObservedBeats
) -> _Scored | None:
    """Score the farthest beat of a prediction; None when none lies on the side of the drift."""
    observed = gather_strips([ObservedStrip("", row.duration_s, row.observed, n_wanted=None)])
    beats = [one for one in row.response["beat_predictions"] if one["arrhythmia_type"] is not None]
    if row.patient_key is None or len(beats) != observed.n_beats or not beats:
        return None  # of more than one lead, or of earlier code
    values = observed.columns[column]
    if column in CATEGORICAL_COLUMNS:
        risen = find_risen(reference.columns[column], current.columns[column])
        scores = (values == risen).astype(np.float64)
    else:
        scores = measure_distance(
            values.astype(np.float64),
            reference.columns[column].astype(np.float64),
            current.columns[column].astype(np.float64),
        )
    at = int(np.argmax(scores))
    if not scores[at] > 0:
        return None
    value = values[at]
    shown = str(value) if column in CATEGORICAL_COLUMNS else f"{float(value):.3g}"
    beat = DriftedBeat(
        patient_key=row.patient_key,
        prediction_id=row.prediction_id,
        created_at=row.created_at,
        sample=int(beats[at]["position_sample"]),
        called=str(beats[at]["arrhythmia_type"]),
        value=f"{column} {shown} {_UNITS.get(column, '')}".rstrip(),
    )
    return _Scored(float(scores[at]), beat)


def measure_distance(
    values: NDArray[np.float64], reference: NDArray[np.float64], current: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Measure how far values lie beyond the reference's median, in the direction of the traffic.

    In interquartile ranges of the reference; -inf where a value is not known.
    """
    low, middle, high = np.nanquantile(reference, (0.25, 0.5, 0.75))
    direction = 1.0 if np.nanmedian(current) >= middle else -1.0
    distance = direction * (values - middle) / max(high - low, 1e-9)
    return np.where(np.isfinite(distance), distance, -np.inf)


def find_risen(reference: NDArray[np.generic], current: NDArray[np.generic]) -> str:
    """Find the category whose share has risen most."""
    names = np.unique(current)
    rises = [float(np.mean(current == name) - np.mean(reference == name)) for name in names]
    return str(names[int(np.argmax(rises))])


def _take_best(scored: Iterable[_Scored]) -> tuple[DriftedBeat, ...]:
    best: dict[str, _Scored] = {}
    for one in scored:
        known = best.get(one.beat.patient_key)
        if known is None or one.score > known.score:
            best[one.beat.patient_key] = one
    ordered: Sequence[_Scored] = sorted(best.values(), key=lambda one: -one.score)
    return tuple(one.beat for one in ordered[:N_SHOWN])
