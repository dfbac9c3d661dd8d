"""The figures of a strip that monitoring keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.drift.observation import (
    CATEGORICAL_COLUMNS,
    NUMERICAL_COLUMNS,
    OBSERVED_COLUMNS,
    POINTS_DOWN,
    REFERENCE_KEYS,
    STRETCH,
    ObservedStrip,
    cut_pieces,
    gather_strips,
    observe_beats,
    observe_polarity,
)
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


def _observe(beats: ClassifiedBeats) -> dict[str, NDArray[Any]]:
    return observe_beats(beats)


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
    strip = simulate_strip(StripKind.BIGEMINY, seed=1, duration_s=15.0)
    signal = strip.signal_mv().copy()
    signal[2700:] = np.random.default_rng(1).standard_normal(len(signal) - 2700)
    beats = classifier.classify(signal, fs=strip.fs)
    observed = _observe(beats)
    assert 0 < len(observed["rule"]) == beats.is_readable.sum() < len(beats)
    share = beats.prepared.readable_s / 15.0
    assert 0.3 < share < 0.7
    assert set(observed["readable_share"].tolist()) == {share}
    assert STRETCH not in observed


def test_a_long_strip_is_observed_in_stretches(classifier: BeatClassifier) -> None:
    strip = simulate_strip(StripKind.BIGEMINY, seed=1, duration_s=42.0)
    signal = strip.signal_mv().copy()
    signal[9000:] = np.random.default_rng(1).standard_normal(len(signal) - 9000)  # from 25 s on
    beats = classifier.classify(signal, fs=strip.fs)
    observed = observe_beats(beats)
    at_s = beats.r_peaks[beats.has_class] / strip.fs
    assert observed[STRETCH].tolist() == (at_s // 10).astype(int).tolist()
    assert set(observed[STRETCH].tolist()) == {0, 1, 2}
    share = {int(one): observed["readable_share"][observed[STRETCH] == one] for one in range(3)}
    assert set(share[0].tolist()) == set(share[1].tolist()) == {1.0}
    assert 0.3 < share[2][0] < 0.7
    for one in range(3):
        in_it = observed[STRETCH] == one
        rate = 60 / np.nanmedian(observed["rr_prev_s"][in_it])
        np.testing.assert_allclose(observed["heart_rate_bpm"][in_it], rate)


@pytest.mark.parametrize(("duration_s", "is_long"), [(15.0, False), (15.01, True)])
def test_a_strip_is_long_from_one_and_a_half_stretches_on(
    classifier: BeatClassifier, duration_s: float, *, is_long: bool
) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=1, duration_s=20.0)
    signal = strip.signal_mv()[: round(duration_s * strip.fs)]
    beats = classifier.classify(signal, fs=strip.fs)
    assert (STRETCH in observe_beats(beats)) is is_long


def test_a_second_lead_does_not_change_what_is_observed(classifier: BeatClassifier) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, seed=1).signal_mv()
    alone = classifier.classify(signal, fs=360.0)
    both = classifier.classify(signal, others_mv=[ndimage.gaussian_filter1d(signal, 5.0)], fs=360.0)
    assert both.is_helped
    assert not np.array_equal(both.probability_v, alone.probability_v)
    expected, found = observe_beats(alone), observe_beats(both)
    for name in OBSERVED_COLUMNS:
        np.testing.assert_array_equal(found[name], expected[name])


def _strip(rr: list[float], called: str, stretch: list[int] | None = None) -> dict[str, list[Any]]:
    observed: dict[str, list[Any]] = {name: [0.5] * len(rr) for name in NUMERICAL_COLUMNS}
    observed |= {"rr_prev_s": rr, "arrhythmia_type": list(called), "rule": ["none"] * len(rr)}
    return observed | ({} if stretch is None else {STRETCH: stretch})


def test_irregularity_is_the_median_change_of_normal_intervals() -> None:
    nan = float("nan")
    beats = gather_strips(
        [
            ObservedStrip("a", 10.0, _strip([nan, 1.0, 1.2, 1.0, 0.9], "NNNNN")),
            # The premature beat, its pause and what touches them do not count.
            ObservedStrip("b", 10.0, _strip([nan, 1.0, 0.6, 1.4, 1.0, 1.0, 1.0, 1.0], "NNVNNNNN")),
            ObservedStrip("c", 10.0, _strip([nan, 1.0, 1.2, 1.0], "NNNN")),
        ]
    )
    measured = [beats.columns["rr_irregularity"][beats.strip == one] for one in range(3)]
    # |0.2|, |-0.2| and |-0.1| over a median of 1.0.
    assert measured[0].tolist() == pytest.approx([0.2] * 5)
    assert set(measured[1].tolist()) == {0.0}
    assert np.isnan(measured[2]).all()  # two changes only


def test_irregularity_is_not_carried_over_to_the_next_strip() -> None:
    rr = [1.0, 1.0, 1.0, 1.0, 1.0]
    beats = gather_strips(
        [
            ObservedStrip("a", 10.0, _strip(rr, "NNNNN")),
            ObservedStrip("a", 10.0, _strip([3 * one for one in rr], "NNNNN")),
        ]
    )
    assert set(beats.columns["rr_irregularity"].tolist()) == {0.0}


def test_as_many_stretches_as_wanted_are_taken_spread_over_the_strip() -> None:
    stretch = [number // 2 for number in range(20)]
    observed = _strip([float(one) for one in stretch], "N" * 20, stretch)
    for n_wanted, taken in (
        (1, [5]),
        (2, [2, 7]),
        (3, [1, 5, 8]),
        (99, list(range(10))),
        (None, list(range(10))),
    ):
        strips = [ObservedStrip("a", 100.0, observed, {"lead": "II"}, n_wanted)]
        beats = gather_strips(strips)
        assert beats.columns["rr_prev_s"][::2].tolist() == taken
        assert beats.strip_s.tolist() == [10.0] * len(taken)
        assert beats.group.tolist() == ["a"] * len(taken)
        assert beats.slices["lead"].tolist() == ["II"] * len(taken)


def test_a_slice_that_is_not_stated_is_empty() -> None:
    observed = _strip([1.0], "N")
    beats = gather_strips(
        [ObservedStrip("a", 10.0, observed, {"site": "ward 3"}), ObservedStrip("b", 10.0, observed)]
    )
    assert beats.slices["site"].tolist() == ["ward 3", ""]
    assert beats.select(np.array([False, True])).slices["site"].tolist() == [""]


@pytest.mark.parametrize(
    ("duration_s", "n_pieces"), [(9.99, 0), (10.0, 1), (239.99, 23), (240.0, 24), (3600.0, 24)]
)
def test_pieces_are_cut_from_all_over_a_recording(duration_s: float, n_pieces: int) -> None:
    signal = np.arange(round(duration_s * 100), dtype=np.float32)
    pieces = list(cut_pieces(signal, fs=100.0, seed="a"))
    assert len(pieces) == n_pieces
    starts = [int(piece.signal_mv[0]) for piece in pieces]
    for number, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        assert piece.signal_mv.tolist() == list(range(start, start + 1000))
        part = len(signal) / n_pieces
        assert number * part - 1 <= start <= (number + 1) * part
    again = [int(piece.signal_mv[0]) for piece in cut_pieces(signal, fs=100.0, seed="a")]
    assert again == starts


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


def test_r_peaks_of_a_lead_that_is_upside_down_point_down_and_the_classes_stay(
    classifier: BeatClassifier,
) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=1)
    upright = classifier.classify(strip.signal_mv(), fs=strip.fs)
    turned = classifier.classify(-strip.signal_mv(), fs=strip.fs)
    assert observe_polarity(upright)[POINTS_DOWN].tolist() == [False] * len(upright)
    assert observe_polarity(turned)[POINTS_DOWN].tolist() == [True] * len(turned)
    np.testing.assert_array_equal(upright.is_v, turned.is_v)


def test_the_direction_has_a_row_for_each_row_of_the_columns(classifier: BeatClassifier) -> None:
    strip = simulate_strip(StripKind.BIGEMINY, seed=1, duration_s=15.0)
    signal = strip.signal_mv().copy()
    signal[2700:] = np.random.default_rng(1).standard_normal(len(signal) - 2700)
    beats = classifier.classify(signal, fs=strip.fs)
    n_rows = len(_observe(beats)["rule"])
    assert 0 < n_rows < len(beats)
    assert len(observe_polarity(beats)[POINTS_DOWN]) == n_rows


def test_the_share_of_r_peaks_that_point_down_is_gathered_by_strip_and_stretch() -> None:
    rr = [1.0, 1.0, 1.0, 1.0]
    whole = _strip(rr, "NNNN") | {POINTS_DOWN: [True, False, False, False]}
    cut = _strip(rr, "NNNN", [0, 0, 1, 1]) | {POINTS_DOWN: [True, True, False, True]}
    beats = gather_strips(
        [
            ObservedStrip("a", 10.0, whole),
            ObservedStrip("b", 20.0, cut, n_wanted=None),
            ObservedStrip("c", 10.0, _strip(rr, "NNNN")),  # of earlier code
        ]
    )
    assert beats.points_down is not None
    np.testing.assert_array_equal(beats.points_down, [0.25, 1.0, 0.5, np.nan])
    chosen = beats.select(np.array([False, True, False, True])).points_down
    assert chosen is not None
    np.testing.assert_array_equal(chosen, [1.0, np.nan])
