"""Which beats of kept signals are shown: the farthest, on the side to which traffic moved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecg_lib.operations.drift.comparison import ColumnDrift
from ecg_lib.operations.drift.observation import ObservedBeats, ObservedStrip, gather_strips
from ecg_lib.operations.drift.traffic_log import Window
from ecg_lib.operations.learning.drifted_beats import DriftedBeats
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow
from flows.monitoring.verdict import drifted_strips
from flows.monitoring.verdict.drifted_strips import choose_drifted, find_drifted_beats

NOW = datetime.now(UTC)
WIDE = ColumnDrift(
    column="qrs_width_ms",
    distance=0.5,
    p_value=0.001,
    p_adjusted=0.01,
    is_drifted=True,
    reference="90 (80 to 100)",
    current="130 (110 to 150)",
)


def observe(widths: list[float], types: list[str] | None = None) -> dict[str, list[Any]]:
    n = len(widths)
    numbers = ("rr_prev_s", "heart_rate_bpm", "template_correlation", "amplitude_mv",
               "readable_share", "probability_v")  # fmt: skip
    return {
        **{name: [1.0] * n for name in numbers},
        "qrs_width_ms": widths,
        "arrhythmia_type": types or ["N"] * n,
        "rule": ["none"] * n,
    }


def gather(widths: list[float], types: list[str] | None = None) -> ObservedBeats:
    return gather_strips([ObservedStrip("g", 10.0, observe(widths, types))])


REFERENCE = gather([80.0, 90.0, 100.0], ["N", "N", "V"])


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    log.create_tables()
    yield log
    log.close()


@pytest.fixture
def store(tmp_path: Path) -> SignalStore:
    return SignalStore(tmp_path / "signals", tmp_path / "signal.key")


def answer(
    log: PredictionLog,
    store: SignalStore,
    patient: str,
    widths: list[float],
    *,
    types: list[str] | None = None,
    bundle: str = "b",
    is_kept: bool = True,
    is_waiting: bool = False,
) -> str:
    """Store a prediction with one unreadable beat before the others, and its signal."""
    prediction_id = f"{patient}-{len(widths)}-{widths[0]:.0f}-{bundle}"
    beats = [{"arrhythmia_type": None, "position_sample": 5}]
    beats += [
        {"arrhythmia_type": kind, "position_sample": 100 * (at + 1)}
        for at, kind in enumerate(types or ["N"] * len(widths))
    ]
    log.add_predictions(
        [
            PredictionRow(
                prediction_id=prediction_id,
                created_at=NOW,
                patient_key=patient * 64,
                bundle_hash=bundle,
                bento_tag="ecg:1",
                duration_s=10.0,
                response={"beat_predictions": beats},
                observed=observe(widths, types),
            )
        ]
    )
    if is_kept:
        store.add(
            KeptSignal(
                prediction_id=prediction_id,
                patient_key=patient * 64,
                created_at=NOW,
                fs=250.0,
                lead="II",
                signal_mv=np.zeros(2500, np.float32),
            ),
            is_waiting=is_waiting,
        )
    return prediction_id


def find(
    log: PredictionLog,
    store: SignalStore,
    drift: ColumnDrift = WIDE,
    *,
    current: ObservedBeats | None = None,
    since: datetime = NOW - timedelta(days=1),
) -> DriftedBeats:
    return find_drifted_beats(
        drift,
        read=lambda: REFERENCE,
        current=current or gather([120.0, 140.0]),
        window=Window(since=since, until=NOW + timedelta(minutes=1), bundle_hash="b"),
        log=log,
        store=store,
        are_kept=True,
    )


def test_the_farthest_beat_of_each_of_three_patients_is_shown(
    log: PredictionLog, store: SignalStore
) -> None:
    answer(log, store, "a", [90.0, 150.0, 95.0])
    farthest = answer(log, store, "a", [190.0, 100.0])
    answer(log, store, "b", [170.0])
    answer(log, store, "c", [160.0])
    answer(log, store, "d", [155.0])
    answer(log, store, "e", [300.0], is_kept=False)
    answer(log, store, "f", [400.0], bundle="another")
    found = find(log, store)
    assert [beat.value for beat in found.beats] == [
        "qrs_width_ms 190 ms", "qrs_width_ms 170 ms", "qrs_width_ms 160 ms",
    ]  # fmt: skip
    assert (found.column, found.usual, found.are_kept) == ("qrs_width_ms", "90 (80 to 100)", True)
    first = found.beats[0]
    assert (first.prediction_id, first.sample, first.called) == (farthest, 100, "N")


def test_beats_on_the_other_side_of_the_reference_are_not(
    log: PredictionLog, store: SignalStore
) -> None:
    answer(log, store, "a", [20.0, 90.0])
    answer(log, store, "b", [90.5])
    assert [beat.value for beat in find(log, store).beats] == ["qrs_width_ms 90.5 ms"]
    narrow = find(log, store, current=gather([60.0, 50.0]))
    assert [beat.value for beat in narrow.beats] == ["qrs_width_ms 20 ms"]


def test_of_categories_the_one_that_has_become_more_frequent_is_shown(
    log: PredictionLog, store: SignalStore
) -> None:
    answer(log, store, "a", [90.0, 90.0, 90.0], types=["N", "V", "N"])
    answer(log, store, "b", [90.0])
    drift = replace(WIDE, column="arrhythmia_type")
    (beat,) = find(log, store, drift, current=gather([90.0] * 3, ["V", "V", "N"])).beats
    assert (beat.sample, beat.called, beat.value) == (200, "V", "arrhythmia_type V")


def test_signals_from_before_the_window_are_not_shown(
    log: PredictionLog, store: SignalStore
) -> None:
    answer(log, store, "a", [190.0])
    later = datetime.now(UTC) + timedelta(minutes=5)
    assert find(log, store, since=later).beats == ()


def test_signals_that_wait_for_a_label_are_not_shown_and_take_no_place(
    log: PredictionLog, store: SignalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drifted_strips, "N_LOOKED_AT", 1)
    answer(log, store, "a", [150.0])
    answer(log, store, "b", [190.0], is_waiting=True)
    for file in store.list_files():
        written_s = NOW.timestamp() + file.is_waiting
        os.utime(file.path, (written_s, written_s))
    assert [beat.value for beat in find(log, store).beats] == ["qrs_width_ms 150 ms"]


@pytest.mark.parametrize("column", ["qrs_width_ms", "rr_irregularity"])
def test_the_column_that_drifted_most_is_chosen_and_harmless_ones_are_not(column: str) -> None:
    columns = (
        replace(WIDE, column="amplitude_mv", distance=0.9),
        replace(WIDE, column=column, distance=0.6),
        replace(WIDE, column="heart_rate_bpm", distance=0.7, is_drifted=False),
        replace(WIDE, column="probability_v", distance=0.3),
    )
    chosen = choose_drifted(columns)
    assert chosen is not None
    assert chosen.column == column
    assert choose_drifted(columns[:1]) is None
