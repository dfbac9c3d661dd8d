"""Limits of the quality that records do not meet to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.filtering import Bands
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.readability.quality import (
    QualityConfig,
    UnreadableReason,
    _grade_seconds,
    _longest_rr_of_bins,
    assess_quality,
    measure_rail_share,
    measure_slope_energy,
)


@pytest.mark.parametrize(("range_mv", "is_flat"), [(0.00999, True), (0.01, False)])
def test_a_bin_is_flat_that_spans_less_than_ten_microvolt(
    range_mv: float, *, is_flat: bool
) -> None:
    signal = np.resize([0.0, range_mv], 10 * 360)
    found = assess_quality(signal, np.zeros(0, dtype=np.int64))
    reasons = {stretch.reason for stretch in found.unreadable}
    assert (UnreadableReason.FLAT in reasons) == is_flat


def test_the_two_seconds_of_a_flat_bin_have_the_quality_zero() -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=4, duration_s=30.0)
    signal = strip.signal_mv().astype(np.float64)
    signal[6 * 360 : 8 * 360] = 0.0
    per_second = assess_quality(signal, detect_r_peaks(signal)).per_second
    assert np.flatnonzero(per_second == 0).tolist() == [6, 7]


def test_a_second_is_graded_by_the_tallest_slope_near_it_over_the_median_of_its_bin() -> None:
    energy = np.zeros(8 * 360 + 180)
    energy[359 + 360 * np.arange(8)] = 10, 2, 2, 2, 40, 2, 2, 2
    energy[-1] = 20
    grades = _grade_seconds(energy, np.array([1.0, 2.0, 4.0, 5.0]), QualityConfig())
    expected = [0.71, 0.71, 0.0, 0.855, 0.71, 0.71, 0.0, 0.275, 0.275]
    np.testing.assert_allclose(grades, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("pauses", "longest"),
    [([10], [0.5] * 6), ([10, 11], [0.5, 0.5, 1.0, 1.0, 0.5, 0.5])],
)
def test_one_of_nine_intervals_around_a_bin_may_be_longer(
    pauses: list[int], longest: list[float]
) -> None:
    intervals = np.full(22, 180)
    intervals[pauses] = 360
    r_peaks = np.cumsum([0, *intervals])
    assert _longest_rr_of_bins(np.arange(6) * 720, r_peaks, 4320).tolist() == longest


def test_intervals_of_one_bin_are_read_in_its_middle_and_need_four_beats() -> None:
    bin_start, r_peaks = np.zeros(1, dtype=np.int64), np.array([0, 90, 270, 630])
    assert _longest_rr_of_bins(bin_start, r_peaks, 720).tolist() == [1.0]
    (early,) = _longest_rr_of_bins(bin_start, r_peaks, 100).tolist()
    assert early == pytest.approx(0.5 + 0.5 * 5 / 135)
    assert _longest_rr_of_bins(bin_start, r_peaks[:3], 720).tolist() == [np.inf]


def test_two_samples_at_the_rail_are_a_run_at_a_low_rate() -> None:
    signal = np.random.default_rng(0).uniform(-1.0, 1.0, 399)
    signal[[120, 121]] = 2.0
    signal[[250, 252]] = -2.0
    np.testing.assert_allclose(measure_rail_share(signal, fs=50), [0.0, 0.02, 0.0])
    assert measure_rail_share(signal[:50], fs=50).tolist() == [0.0]
    assert measure_rail_share(signal[100:150], fs=50).tolist() == [0.04]


def test_slope_energy_is_that_of_5_to_18_hz_over_36_samples() -> None:
    signal, other = np.random.default_rng(0).standard_normal((2, 1000))
    bands = Bands(other)
    for energy, of in (
        (measure_slope_energy(signal), Bands(signal)),
        (measure_slope_energy(signal, bands=bands), bands),
    ):
        np.testing.assert_array_equal(energy, of.slope(5.0, 18.0, window=36).average)
