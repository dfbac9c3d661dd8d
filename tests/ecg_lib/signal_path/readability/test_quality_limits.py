"""Limits of the quality that records do not meet to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.filtering import Bands
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.readability import quality
from ecg_lib.signal_path.readability.quality import (
    QualityConfig,
    Stretch,
    UnreadableReason,
    _grade_seconds,
    _is_noise,
    _likeness_of_bins,
    _longest_rr_of_bins,
    assess_quality,
    join_stretches,
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
    signal[28 * 360 :] = 0.0
    per_second = assess_quality(signal, detect_r_peaks(signal)).per_second
    assert np.flatnonzero(per_second == 0).tolist() == [6, 7, 28, 29]


def test_a_second_is_graded_by_the_tallest_slope_near_it_over_the_median_of_its_bin() -> None:
    energy = np.zeros(8 * 360 + 180)
    energy[359 + 360 * np.arange(8)] = 10, 2, 2, 2, 2, 2, 2, 2
    energy[4 * 360], energy[-1] = 40, 20
    grades = _grade_seconds(energy, np.array([1.0, 2.0, 4.0, 5.0]), QualityConfig())
    expected = [0.71, 0.71, 0.0, 0.855, 0.71, 0.71, 0.0, 0.275, 0.275]
    np.testing.assert_allclose(grades, expected, rtol=1e-12)
    best = _grade_seconds(np.full(360, 290.0), np.ones(1), QualityConfig())
    np.testing.assert_allclose(best, [0.99], rtol=1e-12)


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


@pytest.mark.parametrize(
    ("prominence", "likeness", "rr_s", "is_noise"),
    [
        # A tone, though beats are fast and alike.
        (1.59, 0.99, 0.3, True),
        (1.6, 0.99, 0.3, False),
        # Nothing stands out.
        (2.89, 1.0, 1.0, True),
        (2.9, 1.0, 1.0, False),
        # Little stands out, and beats are fast.
        (2.0, 0.99, 0.4, True),
        (2.0, 0.99, 0.39, False),
        (2.0, 0.949, 0.3, True),
        (2.0, 0.95, 0.3, False),
        # Something stands out, and is not of one shape.
        (5.0, 0.69, 1.0, True),
        (5.0, 0.7, 1.0, False),
        (6.99, 0.5, 1.0, True),
        (7.0, 0.5, 1.0, False),
    ],
)
def test_what_is_noise(
    prominence: float,
    likeness: float,
    rr_s: float,
    *,
    is_noise: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edges = np.arange(6) * 720
    energy = np.repeat([prominence] * 6, 720)
    monkeypatch.setattr(quality, "_likeness_of_bins", lambda *_: np.full(6, likeness))
    monkeypatch.setattr(quality, "_longest_rr_of_bins", lambda *_: np.full(6, rr_s))
    found = _is_noise(Bands(energy), energy, np.ones(6), edges, np.arange(4) * 900, QualityConfig())
    assert found.tolist() == [is_noise] * 6


@pytest.mark.parametrize(("share", "is_clipped"), [(0.2, False), (0.21, True)])
def test_a_bin_is_clipped_of_which_more_than_a_fifth_is_at_the_rail(
    share: float, *, is_clipped: bool
) -> None:
    signal = simulate_strip(StripKind.NORMAL, seed=4, duration_s=20.0).signal_mv()
    found = assess_quality(signal, detect_r_peaks(signal), rail_share=np.full(10, share))
    assert [stretch.reason for stretch in found.unreadable] == [UnreadableReason.CLIPPED] * (
        is_clipped
    )


def test_the_last_share_at_the_rail_is_that_of_a_bin_more() -> None:
    signal = simulate_strip(StripKind.NORMAL, seed=4, duration_s=20.0).signal_mv()
    found = assess_quality(signal, detect_r_peaks(signal), rail_share=np.array([0.0] * 8 + [1.0]))
    assert found.unreadable == ((16 * 360, 20 * 360, UnreadableReason.CLIPPED),)


def test_two_bins_are_read_in_their_middles_as_three_are() -> None:
    signal = np.random.default_rng(0).standard_normal(3000)
    r_peaks = np.array([100, 400, 500, 900, 1000, 1600, 1700, 2300, 2900])
    edges = np.arange(3) * 720
    bands = Bands(signal)
    likeness = _likeness_of_bins(bands, edges, r_peaks)
    assert likeness[0] != likeness[1]
    np.testing.assert_array_equal(_likeness_of_bins(bands, edges[:2], r_peaks), likeness[:2])
    assert _likeness_of_bins(bands, edges[:1], r_peaks).shape == (1,)
    longest = _longest_rr_of_bins(edges, r_peaks, 3000)
    assert longest[0] != longest[1]
    np.testing.assert_array_equal(_longest_rr_of_bins(edges[:2], r_peaks, 3000), longest[:2])


def test_stretches_of_one_reason_that_touch_are_joined() -> None:
    noise, flat = UnreadableReason.NOISE, UnreadableReason.FLAT
    spans = ((0, 10, noise), (20, 30, flat), (30, 40, flat), (40, 50, noise), (51, 60, noise))
    assert join_stretches(Stretch(*span) for span in spans) == (
        *((0, 10, noise), (20, 40, flat)),
        *((40, 50, noise), (51, 60, noise)),
    )


def test_one_pause_of_six_intervals_is_not_counted() -> None:
    r_peaks = np.cumsum([0, 180, 180, 360, 180, 180, 180])
    assert _longest_rr_of_bins(np.zeros(1, dtype=np.int64), r_peaks, 1100).tolist() == [0.5]


@pytest.mark.parametrize(("period", "are_alike"), [(10, True), (11, False)])
def test_beats_are_compared_with_ten_before_and_ten_after(period: int, *, are_alike: bool) -> None:
    shapes = np.random.default_rng(0).standard_normal((period, 400))
    signal = np.concatenate([shapes[beat % period] for beat in range(44)])
    r_peaks = 200 + 400 * np.arange(44)
    likeness = _likeness_of_bins(Bands(signal), np.arange(24) * 720, r_peaks)
    assert (likeness[8:16] > 0.6).all() if are_alike else (likeness < 0.4).all()
