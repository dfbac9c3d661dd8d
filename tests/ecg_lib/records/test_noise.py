"""The noise stress test: against nst itself, an own reading of its manual, and invariances."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft

from ecg_lib.errors import (
    InvalidSamplingRateError,
    InvalidSignalError,
    NonFiniteSignalError,
    SignalTooShortError,
)
from ecg_lib.records.noise import (
    baseline_wander,
    find_fast_length,
    mains_hum,
    measure_noise_rms,
    measure_qrs_amplitude,
    mix_at_snr,
    muscle_noise,
    noise_gain,
    nst_gate,
    shaped_noise,
)
from ecg_lib.records.record import read_wfdb

FS = 360.0
R_PEAKS = np.arange(200, 21000, 300)


def _spikes(heights: NDArray[np.float64] | float = 1.0) -> NDArray[np.float64]:
    """A minute of silence with one triangular spike a beat."""
    signal = np.zeros(21600)
    triangle = 1 - np.abs(np.arange(-9, 10)) / 10
    signal[R_PEAKS[:, None] + np.arange(-9, 10)] = (heights * np.ones(len(R_PEAKS)))[
        :, None
    ] * triangle
    return signal


def _noise(seed: int, n_samples: int = 21600) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(n_samples).cumsum() / 50


def _snr_by_the_manual(
    signal: NDArray[np.float64], added: NDArray[np.float64], r_peaks: NDArray[np.int64]
) -> float:
    """Signal-to-noise ratio in dB, written from the text of nst(1) one measurement at a time."""
    ranges = sorted(
        max(signal[r - 18 : r + 19]) - min(signal[r - 18 : r + 19]) for r in r_peaks[:300].tolist()
    )
    fluctuations = []
    for second in range(min(300, len(added) // 360)):
        chunk = added[360 * second : 360 * second + 360].tolist()
        mean = sum(chunk) / 360
        fluctuations.append((sum((value - mean) ** 2 for value in chunk) / 360) ** 0.5)
    fluctuations.sort()
    cut, cut_noise = len(ranges) // 20, len(fluctuations) // 20
    kept = ranges[cut : len(ranges) - cut]
    kept_noise = fluctuations[cut_noise : len(fluctuations) - cut_noise]
    power = (sum(kept) / len(kept)) ** 2 / 8
    return float(10 * np.log10(power / (sum(kept_noise) / len(kept_noise)) ** 2))


@settings(max_examples=15, deadline=None)
@given(snr_db=st.floats(-12, 30), seed=st.integers(0, 1000))
def test_the_mixture_has_the_ratio_that_was_asked_for(snr_db: float, seed: int) -> None:
    heights = np.random.default_rng(seed).uniform(0.3, 2.0, len(R_PEAKS))
    signal = _spikes(heights)
    mixed = mix_at_snr(signal, _noise(seed), snr_db=snr_db, r_peaks=R_PEAKS, fs=FS)
    assert _snr_by_the_manual(signal, mixed - signal, R_PEAKS) == pytest.approx(snr_db, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.01, 100), snr_db=st.floats(-6, 24))
def test_the_gain_of_the_noise_record_does_not_matter(scale: float, snr_db: float) -> None:
    signal, noise = _spikes(), _noise(1)
    mixed = mix_at_snr(signal, noise, snr_db=snr_db, r_peaks=R_PEAKS, fs=FS)
    other = mix_at_snr(signal, scale * noise, snr_db=snr_db, r_peaks=R_PEAKS, fs=FS)
    np.testing.assert_allclose(other, mixed, rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.01, 100))
def test_mixing_is_linear_in_the_signal(scale: float) -> None:
    signal, noise = _spikes(), _noise(2)
    mixed = mix_at_snr(signal, noise, snr_db=6, r_peaks=R_PEAKS, fs=FS)
    other = mix_at_snr(scale * signal, noise, snr_db=6, r_peaks=R_PEAKS, fs=FS)
    np.testing.assert_allclose(other, scale * mixed, rtol=1e-9)


def test_what_is_added_is_the_noise_times_a_gain() -> None:
    signal, noise = _spikes(), _noise(3)
    gain = noise_gain(signal, noise, snr_db=6, r_peaks=R_PEAKS, fs=FS)
    mixed = mix_at_snr(signal, noise, snr_db=6, r_peaks=R_PEAKS, fs=FS)
    np.testing.assert_allclose(mixed, signal + gain * noise)
    gated = mix_at_snr(
        signal, noise, snr_db=6, r_peaks=R_PEAKS, fs=FS, gate=np.ones(len(signal), dtype=np.bool_)
    )
    np.testing.assert_allclose(gated, mixed)


def test_twenty_decibels_are_a_tenth_of_the_noise() -> None:
    signal, noise = _spikes(), _noise(4)
    loud = noise_gain(signal, noise, snr_db=0, r_peaks=R_PEAKS, fs=FS)
    assert noise_gain(signal, noise, snr_db=20, r_peaks=R_PEAKS, fs=FS) == pytest.approx(loud / 10)


def test_a_few_giant_complexes_and_artefacts_do_not_move_the_amplitudes() -> None:
    heights = np.ones(len(R_PEAKS))
    heights[:2] = 30.0
    assert measure_qrs_amplitude(_spikes(heights), r_peaks=R_PEAKS, fs=FS) == pytest.approx(1.0)
    noise = np.tile([-0.1, 0.1], 10800)
    noise[:720] *= 50
    assert measure_noise_rms(noise, fs=FS) == pytest.approx(0.1)


def test_only_the_first_300_beats_and_seconds_are_measured() -> None:
    r_peaks = np.arange(100, 140000, 200)
    signal = np.zeros(140100)
    signal[r_peaks[:300]], signal[r_peaks[300:]] = 2.0, 9.0
    assert measure_qrs_amplitude(signal, r_peaks=r_peaks, fs=FS) == pytest.approx(2.0)
    noise = np.tile([-1.0, 1.0], 70000)
    noise[108000:] *= 9
    assert measure_noise_rms(noise, fs=FS) == pytest.approx(1.0)


def test_drift_counts_for_what_it_moves_in_a_second() -> None:
    ramp = 0.5 * np.arange(36000) / FS
    assert measure_noise_rms(ramp, fs=FS) == pytest.approx(0.5 / np.sqrt(12), rel=1e-3)
    assert measure_noise_rms(ramp + 40.0, fs=FS) == pytest.approx(measure_noise_rms(ramp, fs=FS))


def test_beats_at_the_ends_of_the_signal_are_left_out() -> None:
    signal = _spikes()
    at_the_ends = np.concatenate([[5], R_PEAKS, [len(signal) - 5]])
    assert measure_qrs_amplitude(signal, r_peaks=at_the_ends, fs=FS) == pytest.approx(1.0)


def test_the_schedule_is_five_clean_minutes_and_then_two_noisy_two_clean_in_turn() -> None:
    minutes = nst_gate(30 * 60 * 360, fs=FS).reshape(30, 21600)
    assert (minutes.all(axis=1) == minutes.any(axis=1)).all()
    noisy = [5, 6, 9, 10, 13, 14, 17, 18, 21, 22, 25, 26, 29]
    assert np.flatnonzero(minutes[:, 0]).tolist() == noisy


@pytest.mark.parametrize("fs", [100.0, 250.0, 1000.0])
def test_the_schedule_is_in_seconds_at_any_rate(fs: float) -> None:
    edges = np.flatnonzero(np.diff(nst_gate(round(600 * fs), fs=fs).astype(int))) + 1
    assert (edges / fs).tolist() == [300.0, 420.0, 540.0]


def test_noise_starts_and_stops_without_a_step() -> None:
    signal, noise = _spikes(), _noise(5) + 3.0
    gate = np.zeros(len(signal), dtype=np.bool_)
    gate[7200:14400] = True
    mixed = mix_at_snr(signal, noise, snr_db=0, r_peaks=R_PEAKS, fs=FS, gate=gate)
    added = mixed - signal
    assert (added[:7200] == 0).all()
    gain = noise_gain(signal, noise, snr_db=0, r_peaks=R_PEAKS, fs=FS)
    np.testing.assert_allclose(added[7200:14400], gain * (noise[7200:14400] - noise[7199]))
    np.testing.assert_allclose(added[14400:], added[14399])


def test_short_noise_is_used_again_without_a_step() -> None:
    signal, noise = _spikes(), _noise(6, n_samples=1000)
    added = mix_at_snr(signal, noise, snr_db=0, r_peaks=R_PEAKS, fs=FS) - signal
    gain = noise_gain(signal, noise, snr_db=0, r_peaks=R_PEAKS, fs=FS)
    np.testing.assert_allclose(added[:1000], gain * noise)
    np.testing.assert_allclose(added[1000:2000], added[999] + gain * (noise - noise[0]))
    assert np.abs(np.diff(added)).max() <= gain * np.abs(np.diff(noise)).max() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"snr_db": np.nan}, ValueError, "snr_db must be finite, got snr_db=nan"),
        ({"fs": 0.0}, InvalidSamplingRateError, r"fs must be positive and finite, got fs=0\.0"),
        ({"signal_mv": np.zeros((9, 2))}, ValueError, r"signal_mv must have one dimension"),
        ({"noise_mv": np.zeros((9, 2))}, ValueError, r"noise_mv must have one dimension"),
        ({"signal_mv": np.full(21600, np.nan)}, NonFiniteSignalError, "signal_mv must be finite"),
        ({"noise_mv": np.full(21600, np.inf)}, NonFiniteSignalError, "noise_mv must be finite"),
        ({"noise_mv": np.ones(359)}, SignalTooShortError, "at least one second, got 359 samples"),
        ({"noise_mv": np.ones(21600)}, InvalidSignalError, "amplitude of the noise"),
        ({"signal_mv": np.zeros(21600)}, InvalidSignalError, "QRS amplitude of the signal"),
        ({"r_peaks": np.zeros(0, np.int64)}, InvalidSignalError, "got 0 beats"),
        ({"gate": np.ones(9, np.bool_)}, ValueError, r"gate must have one value a sample"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    request = {"signal_mv": _spikes(), "noise_mv": _noise(0), "snr_db": 6.0}
    request |= {"r_peaks": R_PEAKS, "fs": FS} | change
    with pytest.raises(error, match=message):
        mix_at_snr(request.pop("signal_mv"), request.pop("noise_mv"), **request)


@pytest.mark.data
@pytest.mark.parametrize(
    ("record_name", "noise_name", "snr_db", "gains"),
    [("118", "bw", 6.0, (4.94174, 8.57439)), ("106", "ma", 12.0, (2.32698, 0.446022))],
)
def test_the_gains_are_those_that_nst_prints(
    record_name: str, noise_name: str, snr_db: float, gains: tuple[float, float]
) -> None:
    """The gains were printed by nst of WFDB 10.7.0 on these records."""
    record = read_wfdb(_data_directory("ECG_MITDB_DIR") / record_name, with_annotations=True)
    noise = read_wfdb(_data_directory("ECG_NSTDB_DIR") / noise_name)
    assert record.annotations is not None
    is_measured = record.annotations.is_beat & ~np.isin(record.annotations.symbols, list("VErF"))
    r_peaks = record.annotations.samples[is_measured]
    for lead, gain in enumerate(gains):
        request = (record.signals_mv[:, lead], noise.signals_mv[:, lead])
        by_the_program = noise_gain(
            *request, snr_db=snr_db, r_peaks=r_peaks, fs=record.fs, noise_adu_per_mv=200.0
        )
        assert by_the_program == pytest.approx(gain, rel=3e-6)
        by_the_manual = noise_gain(*request, snr_db=snr_db, r_peaks=r_peaks, fs=record.fs)
        assert 0.95 * gain < by_the_manual < gain


def _data_directory(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


Maker = Callable[..., NDArray[np.float64]]
MAKERS: list[Maker] = [baseline_wander, muscle_noise, mains_hum]


@pytest.mark.parametrize("make", MAKERS)
@settings(max_examples=10, deadline=None)
@given(n_samples=st.integers(2, 20000), rms_mv=st.floats(0, 10), seed=st.integers(0, 100))
def test_noise_has_its_length_and_root_mean_square(
    make: Maker, n_samples: int, rms_mv: float, seed: int
) -> None:
    noise = make(n_samples, fs=FS, rms_mv=rms_mv, rng=np.random.default_rng(seed))
    assert noise.shape == (n_samples,)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(rms_mv, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("make", MAKERS)
def test_noise_is_that_of_its_generator(make: Maker) -> None:
    first, again, other = (
        make(1000, fs=FS, rms_mv=1.0, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def _share_of_power(noise: NDArray[np.float64], fs: float, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / fs)
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum() / power.sum())


@pytest.mark.parametrize("fs", [100.0, 360.0, 1000.0])
def test_each_noise_lies_where_it_is_known_to_lie(fs: float) -> None:
    n_samples = round(60 * fs)
    rng = np.random.default_rng(8)
    wander = baseline_wander(n_samples, fs=fs, rms_mv=1.0, rng=rng)
    assert _share_of_power(wander, fs, 0, 0.7) > 0.97
    muscle = muscle_noise(n_samples, fs=fs, rms_mv=1.0, rng=rng)
    assert _share_of_power(muscle, fs, 8, 60) > 0.85
    hum = mains_hum(n_samples, fs=fs, rms_mv=1.0, rng=rng, mains_hz=45.0)
    assert _share_of_power(hum, fs, 44, 46) > 0.9


def test_hum_beyond_half_the_sampling_rate_is_left_out() -> None:
    hum = mains_hum(1000, fs=100.0, rms_mv=1.0, rng=np.random.default_rng(0), mains_hz=50.0)
    assert (hum == 0).all()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1, got n_samples=0"),
        ({"rms_mv": -1.0}, ValueError, r"finite and not negative, got -1\.0"),
        ({"fs": np.inf}, InvalidSamplingRateError, "fs must be positive and finite, got fs=inf"),
    ],
)
def test_noise_that_cannot_be_made_is_refused(
    make: Maker, change: dict[str, float], error: type[Exception], message: str
) -> None:
    request = {"n_samples": 100, "fs": FS, "rms_mv": 1.0} | change
    with pytest.raises(error, match=message):
        make(request.pop("n_samples"), **request, rng=np.random.default_rng(0))


def test_mains_without_a_frequency_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mains_hz must be positive, got mains_hz=0\.0"):
        mains_hum(100, fs=FS, rms_mv=1.0, rng=np.random.default_rng(0), mains_hz=0.0)


def test_shaped_noise_has_the_spectrum_that_was_asked_for() -> None:
    noise = shaped_noise(
        36000,
        fs=FS,
        rms=2.0,
        rng=np.random.default_rng(0),
        amplitude_at=lambda hz: (hz > 20) & (hz < 30),
    )
    assert _share_of_power(noise, FS, 19.5, 30.5) > 0.99


@given(st.integers(1, 20_000_000))
def test_fast_lengths_are_those_of_scipy(least: int) -> None:
    assert find_fast_length(least) == fft.next_fast_len(least, real=True)
