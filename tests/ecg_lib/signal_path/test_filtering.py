"""Resampling, pass band and scaling: what must pass, what must not, and what must not move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as sp

from ecg_lib.errors import InvalidSamplingRateError, NonFiniteSignalError
from ecg_lib.records.limits import check_sampling_rate
from ecg_lib.signal_path.filtering import (
    BandPassConfig,
    band_pass,
    resample,
    robust_scale,
    unit_rows,
)


def _sine(
    frequency_hz: float, *, fs: float = 360.0, duration_s: float = 20.0
) -> NDArray[np.float64]:
    return np.asarray(np.sin(2 * np.pi * frequency_hz * np.arange(round(duration_s * fs)) / fs))


def _gain(frequency_hz: float) -> float:
    filtered = band_pass(_sine(frequency_hz), low_hz=0.5, high_hz=40.0)
    middle = slice(1800, -1800)
    return float(filtered[middle].std() / _sine(frequency_hz)[middle].std())


@pytest.mark.parametrize("frequency_hz", [5.0, 10.0, 15.0])
def test_the_qrs_band_passes(frequency_hz: float) -> None:
    assert _gain(frequency_hz) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("frequency_hz", [0.5, 40.0])
def test_the_corners_are_at_6_db(frequency_hz: float) -> None:
    assert _gain(frequency_hz) == pytest.approx(0.5, abs=0.02)


def test_beyond_the_corner_the_gain_falls_as_that_of_two_passes_of_second_order() -> None:
    """24 dB an octave; the bilinear transform makes it a little steeper near 180 Hz."""
    assert _gain(80.0) == pytest.approx(0.0329, rel=0.05)
    assert _gain(0.25) == pytest.approx(0.0568, rel=0.05)


@pytest.mark.parametrize("frequency_hz", [0.1, 100.0])
def test_wander_and_muscle_noise_are_stopped(frequency_hz: float) -> None:
    assert _gain(frequency_hz) < 0.03


@pytest.mark.parametrize("n_samples", [1, 2, 31, 32, 33, 720, 3600, 100_001])
@pytest.mark.parametrize(
    ("low_hz", "high_hz", "order"),
    [(0.5, 40, 2), (5, 18, 2), (3, 10, 2), (1, 30, 2), (0.5, 40, 1), (0.5, 40, 3), (10, 12, 4)],
)
def test_the_filter_is_that_of_scipy(
    low_hz: float, high_hz: float, order: int, n_samples: int
) -> None:
    walk = np.random.default_rng(n_samples).normal(size=n_samples).cumsum() + 5
    pad = min(n_samples - 1, int(3 * 360 / (2 * np.pi * low_hz)) + 3 * (2 * order + 1))
    sections = sp.butter(order, [low_hz, high_hz], "bandpass", fs=360.0, output="sos")
    expected = sp.sosfiltfilt(sections, walk, padlen=pad)
    filtered = band_pass(walk, low_hz=low_hz, high_hz=high_hz, order=order)
    np.testing.assert_allclose(filtered, expected, rtol=0, atol=1e-10 * np.abs(walk).max())


def test_the_filter_leaves_its_input_as_it_is() -> None:
    signal = _sine(5.0).astype(np.float32)
    before = signal.copy()
    band_pass(signal, low_hz=0.5, high_hz=40.0)
    np.testing.assert_array_equal(signal, before)


def test_an_offset_leaves_no_transient_at_the_edges() -> None:
    filtered = band_pass(np.full(3600, 5.0), low_hz=0.5, high_hz=40.0)
    assert np.abs(filtered).max() < 1e-6


def test_the_filter_does_not_move_a_peak() -> None:
    signal = np.zeros(7200)
    signal[3600 - 20 : 3600 + 21] = 1 - np.abs(np.arange(-20, 21)) / 21
    assert int(band_pass(signal, low_hz=0.5, high_hz=40.0).argmax()) == 3600


@pytest.mark.parametrize(
    ("low_hz", "high_hz"), [(0.0, 40.0), (40.0, 0.5), (10.0, 10.0), (0.5, 180.0), (-1.0, 5.0)]
)
def test_a_band_that_is_none_is_refused(low_hz: float, high_hz: float) -> None:
    with pytest.raises(ValueError, match="low_hz < high_hz"):
        BandPassConfig(low_hz=low_hz, high_hz=high_hz)


@pytest.mark.parametrize("fs", [100.0, 125.0, 128.0, 250.0, 257.3, 500.0, 1000.0])
def test_a_sine_is_the_same_sine_after_resampling(fs: float) -> None:
    resampled = resample(_sine(7.0, fs=fs), fs=fs)
    assert resampled.ratio == pytest.approx(360.0 / fs, rel=1e-5)
    expected = _sine(7.0, duration_s=len(resampled.signal) / 360.0)
    np.testing.assert_allclose(resampled.signal[360:-360], expected[360:-360], atol=0.02)


@pytest.mark.parametrize(
    ("fs", "up", "down"),
    [
        (100, 18, 5),
        (128.5, 720, 257),
        (250, 36, 25),
        (500, 18, 25),
        (512, 45, 64),
        (999.9, 355, 986),
    ],
)
@pytest.mark.parametrize("n_samples", [1, 7, 3617])
def test_resampling_is_that_of_scipy(fs: float, up: int, down: int, n_samples: int) -> None:
    walk = np.random.default_rng(n_samples).normal(size=n_samples).cumsum() + 5
    expected = sp.resample_poly(walk, up, down, padtype="edge")
    resampled = resample(walk, fs=fs)
    assert resampled.ratio == up / down
    np.testing.assert_allclose(resampled.signal, expected, rtol=0, atol=1e-12 * abs(walk).max())


def test_nothing_above_the_new_nyquist_frequency_is_folded_back() -> None:
    resampled = resample(_sine(300.0, fs=1000.0), fs=1000.0)
    assert resampled.signal[360:-360].std() < 0.01


def test_a_signal_at_360_hz_is_left_as_it_is() -> None:
    signal = np.random.default_rng(0).standard_normal(1000)
    resampled = resample(signal, fs=360.0)
    np.testing.assert_array_equal(resampled.signal, signal)
    assert resampled.ratio == 1.0


def test_an_offset_makes_no_step_at_the_edges_of_the_resampled_signal() -> None:
    np.testing.assert_allclose(resample(np.full(1000, 3.0), fs=250.0).signal, 3.0, atol=0.01)


@settings(max_examples=50, deadline=None)
@given(
    fs=st.sampled_from([100.0, 128.0, 250.0, 500.0, 1000.0]),
    positions=st.lists(st.integers(0, 999), unique=True, max_size=30),
)
def test_positions_come_back_within_half_a_sample_of_360_hz(
    fs: float, positions: list[int]
) -> None:
    resampled = resample(np.zeros(1000), fs=fs)
    given_positions = np.array(sorted(positions), dtype=np.int64)
    back = resampled.to_source(resampled.from_source(given_positions))
    error = np.abs(back - given_positions)
    # The last sample may have none at 360 Hz, so it may move by one.
    assert (error <= np.ceil(fs / 360.0 / 2) + (given_positions >= 999 - fs / 360)).all()
    assert (np.diff(back) >= 0).all()


@pytest.mark.parametrize("fs", [99.9, 1000.1, 0.0, -360.0, float("nan"), float("inf")])
def test_a_sampling_rate_out_of_range_is_refused(fs: float) -> None:
    with pytest.raises(InvalidSamplingRateError, match="between 100 and 1000 Hz, got fs="):
        check_sampling_rate(fs)
    with pytest.raises(InvalidSamplingRateError):
        resample(np.zeros(1000), fs=fs)


@pytest.mark.parametrize("fs", [100.0, 1000.0])
def test_the_limits_of_the_range_are_accepted(fs: float) -> None:
    check_sampling_rate(fs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fs", [360.0, 250.0])
def test_samples_that_are_not_finite_are_rejected(value: float, fs: float) -> None:
    signal = np.zeros(1000)
    signal[[3, 5]] = value
    with pytest.raises(NonFiniteSignalError, match="got 2 of 1000"):
        resample(signal, fs=fs)


def test_robust_scaling_gives_gaussian_noise_a_deviation_of_one() -> None:
    noise = np.random.default_rng(1).normal(3.0, 0.25, 100_000)
    scaled = robust_scale(noise)
    assert np.median(scaled) == pytest.approx(0.0, abs=1e-12)
    assert scaled.std() == pytest.approx(1.0, abs=0.02)


def test_a_giant_artefact_does_not_change_the_scale() -> None:
    noise = np.random.default_rng(2).standard_normal(10_000)
    with_artefact = noise.copy()
    with_artefact[:50] = 1e6
    np.testing.assert_allclose(
        robust_scale(with_artefact)[50:], robust_scale(noise)[50:], atol=0.05
    )


def test_a_signal_without_deviation_is_only_centred() -> None:
    signal = np.full(100, 7.0)
    signal[3] = 9.0
    expected = np.zeros(100)
    expected[3] = 2.0
    np.testing.assert_array_equal(robust_scale(signal), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_unit_rows_are_correlations(dtype: type[np.float32 | np.float64]) -> None:
    rows = np.random.default_rng(3).normal(5.0, 0.1, (4, 30)).astype(dtype)
    units = unit_rows(rows)
    assert units.dtype == dtype
    np.testing.assert_allclose(units @ units.T, np.corrcoef(rows), atol=1e-4)
    np.testing.assert_array_equal(unit_rows(rows[0]), units[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_flat_row_has_no_direction(dtype: type[np.float32 | np.float64]) -> None:
    rows = np.full((2, 8), 0.1, dtype=dtype)
    assert not np.any(unit_rows(rows))
