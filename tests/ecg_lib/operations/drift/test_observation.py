"""The figures of a strip that monitoring keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.drift.observation import (
    CATEGORICAL_COLUMNS,
    NUMERICAL_COLUMNS,
    OBSERVED_COLUMNS,
    REFERENCE_KEYS,
    observe_beats,
)
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


def _observe(beats: ClassifiedBeats) -> dict[str, NDArray[Any]]:
    return observe_beats(beats, fs=360.0)


def test_every_readable_beat_has_one_row_of_all_columns(classifier: BeatClassifier) -> None:
    strip = simulate_strip(StripKind.BIGEMINY, seed=1)
    beats = classifier.classify(strip.signal_mv(), fs=strip.fs)
    observed = _observe(beats)
    assert tuple(observed) == OBSERVED_COLUMNS
    assert {len(column) for column in observed.values()} == {len(beats)}
    for name in NUMERICAL_COLUMNS:
        assert observed[name].dtype == np.float64
    assert np.isnan(observed["rr_prev_s"]).tolist() == [True] + [False] * (len(beats) - 1)
    np.testing.assert_allclose(observed["rr_prev_s"][1:], np.diff(beats.r_peaks) / strip.fs)
    np.testing.assert_allclose(
        observed["heart_rate_bpm"], 60 / np.median(np.diff(beats.r_peaks) / strip.fs)
    )
    assert observed["arrhythmia_type"].tolist() == np.where(beats.is_v, "V", "N").tolist()
    is_v = observed["arrhythmia_type"] == "V"
    assert observed["template_correlation"][is_v].max() < 0.7
    assert observed["template_correlation"][~is_v].min() > 0.9
    assert observed["qrs_width_ms"][is_v].min() > 100
    assert set(observed["rule"].tolist()) == {"none"}
    assert set(observed["readable_share"].tolist()) == {1.0}


def test_unreadable_beats_leave_no_row_but_lower_the_share(classifier: BeatClassifier) -> None:
    strip = simulate_strip(StripKind.BIGEMINY, seed=1, duration_s=40.0)
    signal = strip.signal_mv().copy()
    signal[7200:] = np.random.default_rng(1).standard_normal(len(signal) - 7200)
    beats = classifier.classify(signal, fs=strip.fs)
    observed = _observe(beats)
    assert 0 < len(observed["rule"]) == beats.is_readable.sum() < len(beats)
    share = beats.prepared.readable_s / 40.0
    assert 0.3 < share < 0.7
    assert set(observed["readable_share"].tolist()) == {share}


def test_the_amplitude_is_in_millivolts(classifier: BeatClassifier) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=2)
    one = _observe(classifier.classify(strip.signal_mv(), fs=strip.fs))
    two = _observe(classifier.classify(2 * strip.signal_mv(), fs=strip.fs))
    np.testing.assert_allclose(two["amplitude_mv"], 2 * one["amplitude_mv"], rtol=1e-6)
    np.testing.assert_allclose(two["probability_v"], one["probability_v"], atol=1e-6)
    assert 0.5 < np.median(one["amplitude_mv"]) < 3


def test_a_strip_without_beats_has_no_rows(classifier: BeatClassifier) -> None:
    flat = simulate_strip(StripKind.FLAT)
    observed = _observe(classifier.classify(flat.signal_mv(), fs=flat.fs))
    assert {len(column) for column in observed.values()} == {0}


def test_the_reference_of_a_bundle_has_the_columns_of_the_live_log(toy_bundle: Bundle) -> None:
    columns = toy_bundle.read_drift_reference().column_names
    assert columns == [*REFERENCE_KEYS, *OBSERVED_COLUMNS]
    assert set(CATEGORICAL_COLUMNS) < set(columns)
