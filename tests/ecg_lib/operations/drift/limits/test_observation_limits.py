"""Pieces, stretches and references, by places that can be worked out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.drift.observation import (
    NUMERICAL_COLUMNS,
    OBSERVED_COLUMNS,
    STRETCH,
    ObservedStrip,
    cut_pieces,
    gather_strips,
    observe_beats,
    read_reference,
)
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip


def find_starts(n_samples: int, *, fs: float = 10.0, seed: str = "a", **options: int) -> list[int]:
    signal = np.arange(n_samples, dtype=np.float32)
    return [int(one.signal_mv[0]) for one in cut_pieces(signal, fs=fs, seed=seed, **options)]


def test_pieces_that_fill_a_recording_lie_side_by_side() -> None:
    assert find_starts(2400) == [100 * number for number in range(24)]
    assert find_starts(300) == [0, 100, 200]
    assert find_starts(300, n_pieces=2) != [0, 150]


def test_pieces_lie_anywhere_in_parts_of_their_own() -> None:
    places = np.array([find_starts(24_000, seed=str(seed)) for seed in range(40)])
    assert places.shape == (40, 24)
    in_part = places - 1000 * np.arange(24)
    assert in_part.min() >= 0
    assert in_part.max() <= 900
    assert in_part.min() < 20
    assert in_part.max() > 880
    assert np.mean(in_part) == pytest.approx(450, abs=40)


def _strip(stretches: list[int]) -> dict[str, list[Any]]:
    observed: dict[str, list[Any]] = {name: [0.5] * len(stretches) for name in NUMERICAL_COLUMNS}
    return observed | {
        "rr_prev_s": [float(one) for one in stretches],
        "arrhythmia_type": ["N"] * len(stretches),
        "rule": ["none"] * len(stretches),
        STRETCH: stretches,
    }


@pytest.mark.parametrize(("n_wanted", "taken"), [(1, [50]), (2, [25, 75]), (4, [12, 37, 62, 87])])
def test_stretches_are_taken_from_the_middle_of_equal_parts(
    n_wanted: int, taken: list[int]
) -> None:
    strips = [ObservedStrip("a", 1000.0, _strip(list(range(100))), {}, n_wanted)]
    assert gather_strips(strips).columns["rr_prev_s"].tolist() == taken


@pytest.mark.parametrize("duration_s", [20.0, 30.0])
def test_a_strip_of_whole_stretches_is_readable_to_its_end(
    toy_bundle: Bundle, duration_s: float
) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=1, duration_s=duration_s)
    signal = strip.signal_mv()[: round(duration_s * strip.fs)]
    observed = observe_beats(BeatClassifier.load(toy_bundle).classify(signal, fs=strip.fs))
    assert set(observed[STRETCH].tolist()) == set(range(round(duration_s / 10)))
    assert set(observed["readable_share"].tolist()) == {1.0}


def test_a_reference_is_read_into_strips_of_its_subjects() -> None:
    keys = {
        "subject": ["a", "a", "b", "a"],
        "strip": ["a:0", "a:0", "b:0", "a:1"],
        "strip_s": [10.0, 10.0, 60.0, 10.0],
    }
    values: dict[str, list[Any]] = {name: [0.1, 0.2, 0.3, 0.4] for name in OBSERVED_COLUMNS}
    values |= {"arrhythmia_type": ["N", "V", "N", "N"], "rule": ["none", "x", "none", "none"]}
    beats = read_reference(pa.table(keys | values))
    assert beats.strip.tolist() == [0, 0, 1, 2]
    assert beats.group.tolist() == ["a", "b", "a"]
    assert beats.strip_s.tolist() == [10.0, 60.0, 10.0]
    assert beats.columns["rule"].dtype.kind == "U"
    assert beats.columns["rule"].tolist() == ["none", "x", "none", "none"]
    assert beats.columns["rr_prev_s"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert np.isnan(beats.columns["rr_irregularity"]).all()


def test_one_stretch_of_a_strip_is_taken_when_nothing_else_is_said() -> None:
    assert ObservedStrip("a", 1000.0, _strip(list(range(100)))).n_wanted == 1
