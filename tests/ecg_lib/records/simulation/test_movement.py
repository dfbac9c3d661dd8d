"""Simulated movement of electrodes: size, spectrum, repeatability, and what it is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from ecg_lib.records.noise import measure_noise_rms, measure_qrs_amplitude, mix_at_snr
from ecg_lib.records.simulation.movement import MovementMix, draw_mix, simulate_movement
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record

FS = 360.0
NOTHING = MovementMix(
    steps=0.0,
    stretch=0.0,
    rhythm=0.0,
    tugs=0.0,
    bursts=0.0,
    drift=0.0,
    muscle=0.0,
    events_per_s=0.0,
    losses_per_min=0.0,
)
SEEDS = range(12)


def _only(seed: int, *, seconds: float = 120.0, **parts: float) -> NDArray[np.float64]:
    """Simulate some parts of movement alone."""
    return simulate_movement(
        int(seconds * FS),
        fs=FS,
        rms_mv=0.5,
        rng=np.random.default_rng(seed),
        mix=replace(NOTHING, **parts),
    )


def _single_event(seed: int, part: str) -> NDArray[np.float64]:
    """Cut 2 s before and 4 s after the highest of a few events far apart, of height one."""
    noise = _only(seed, seconds=300.0, events_per_s=0.02, **{part: 1.0})
    inside = noise[720:-1440]
    at = 720 + int(np.argmax(np.abs(inside)))
    return noise[at - 720 : at + 1440] / noise[at]


def _band_of(noise: NDArray[np.float64]) -> tuple[float, float, float]:
    """Frequencies below which are a tenth, half and nine tenths of the power."""
    hz, power = scipy_signal.welch(noise, fs=FS, nperseg=8192)
    share = np.cumsum(power) / power.sum()
    low, middle, high = (float(hz[np.searchsorted(share, part)]) for part in (0.1, 0.5, 0.9))
    return low, middle, high


def _movement(seed: int, *, seconds: float = 120.0, fs: float = FS) -> np.ndarray:
    return simulate_movement(int(seconds * fs), fs=fs, rms_mv=0.5, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("fs", [128.0, 250.0, 360.0, 1000.0])
def test_it_has_the_length_and_the_size_that_are_asked_for(fs: float) -> None:
    noise = _movement(1, seconds=30.0, fs=fs)
    assert noise.shape == (int(30.0 * fs),)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(0.5)
    assert noise.mean() == pytest.approx(0.0, abs=1e-12)


def test_the_same_generator_gives_the_same_movement_and_another_does_not() -> None:
    np.testing.assert_array_equal(_movement(3), _movement(3))
    assert abs(np.corrcoef(_movement(3), _movement(4))[0, 1]) < 0.2


def test_most_of_it_is_where_qrs_complexes_are() -> None:
    """Between 1 and 30 Hz; that is why no filter removes it."""
    shares = []
    for seed in range(6):
        hz, power = scipy_signal.welch(_movement(seed), fs=FS, nperseg=4096)
        shares.append(power[(hz > 1) & (hz < 30)].sum() / power.sum())
    assert 0.4 < np.mean(shares) < 0.95


def test_a_second_spans_a_few_times_its_root_mean_square() -> None:
    """Published of real electrode motion: 2.8 in a tenth of the seconds, 5.6 in the median."""
    sos = scipy_signal.butter(2, (1, 30), btype="bandpass", fs=FS, output="sos")
    spans = np.concatenate(
        [
            np.ptp(scipy_signal.sosfiltfilt(sos, _movement(seed)).reshape(-1, 360), axis=1)
            for seed in range(8)
        ]
    )
    assert 3.0 < np.median(spans) / 0.5 < 7.0
    assert np.percentile(spans, 90) / 0.5 < 14.0


def test_people_move_in_different_ways() -> None:
    mixes = [draw_mix(np.random.default_rng(seed)) for seed in range(40)]
    bursts = [mix.bursts for mix in mixes]
    assert max(bursts) > 3 * min(bursts)
    assert {mix.losses_per_min > 0 for mix in mixes} == {True, False}
    assert all(1.0 <= mix.events_per_s <= 20.0 for mix in mixes)


def test_few_events_leave_the_line_still_between_them() -> None:
    noise = _only(5, bursts=1.0, events_per_s=0.2)
    assert np.mean(np.abs(noise) < 0.1) > 0.8


def test_without_any_part_there_is_no_movement() -> None:
    assert (_only(1) == 0).all()


@pytest.mark.parametrize("factor", [0.1, 2.0, 10.0])
def test_twice_the_size_is_the_same_movement_twice_as_tall(factor: float) -> None:
    louder = simulate_movement(21_600, fs=FS, rms_mv=0.5 * factor, rng=np.random.default_rng(1))
    np.testing.assert_allclose(louder, factor * _movement(1, seconds=60.0), rtol=1e-12)


@pytest.mark.parametrize("snr_db", [24, 18, 12, 6, 0])
def test_the_strengths_of_an_evaluation_are_those_ratios(snr_db: int) -> None:
    """Six decibel are a factor of two; at 0 dB the noise has a power of amplitude squared / 8."""
    record = simulate_record("a", patient=draw_patient(1), duration_s=120.0, seed=1)
    assert record.annotations is not None
    lead = record.signal_mv().astype(np.float64)
    beats = record.annotations.beat_samples
    noise = _movement(2)
    mixed = mix_at_snr(lead, noise, snr_db=snr_db, r_peaks=beats, fs=record.fs)
    amplitude = measure_qrs_amplitude(lead, r_peaks=beats, fs=record.fs)
    rms = measure_noise_rms(mixed - lead, fs=record.fs)
    assert 10 * np.log10(amplitude**2 / 8 / rms**2) == pytest.approx(snr_db, abs=0.01)


# The parts.


def test_a_step_rises_at_once_and_recovers_within_a_second() -> None:
    halves_s = []
    for seed in SEEDS:
        step = _single_event(seed, "steps")
        rise_s = (720 - int(np.flatnonzero(step[:720] < 0.1)[-1])) / FS
        assert rise_s < 0.14
        half_s = int(np.flatnonzero(step[720:] < 0.5)[0]) / FS
        halves_s.append(half_s)
        assert step[720 + 1080 :].max() < 0.15
    # Time constants of 0.05 to 1 s are half lives of 0.035 to 0.7 s.
    assert 0.03 < min(halves_s) < 0.2
    assert 0.2 < max(halves_s) < 0.75


def test_a_tugged_cable_swings_at_3_to_12_hz_and_comes_to_rest() -> None:
    rates_hz = []
    for seed in SEEDS:
        tug = _single_event(seed, "tugs")
        assert np.median(np.abs(tug[1440:])) < 0.05  # 2 s later
        swing = tug[684:1080]
        crossings = np.flatnonzero(np.diff(np.sign(swing)) != 0)
        loud = crossings[np.abs(np.maximum.reduceat(np.abs(swing), crossings)) > 0.1]
        assert len(loud) >= 1
        assert tug.min() < -0.1
        if len(loud) > 2:
            rates_hz.append(FS / 2 / float(np.median(np.diff(loud))))
    assert len(rates_hz) >= 4
    assert min(rates_hz) > 2.5
    assert max(rates_hz) < 13


def test_a_burst_is_as_wide_as_a_beat_and_has_three_waves_at_most() -> None:
    widths_s = []
    for seed in SEEDS:
        burst = _single_event(seed, "bursts")
        low = int(np.flatnonzero(burst[:720] < 0.5)[-1])
        high = 720 + int(np.flatnonzero(burst[720:] < 0.5)[0])
        widths_s.append((high - low) / FS)
        near = burst[720 - 180 : 720 + 180]
        waves = scipy_signal.find_peaks(np.abs(near), height=0.3)[0]
        assert 1 <= len(waves) <= 3
    assert min(widths_s) > 0.01
    assert max(widths_s) < 0.25
    assert max(widths_s) > 2 * min(widths_s)


@pytest.mark.parametrize("part", ["stretch", "drift"])
def test_stretched_skin_and_drift_are_slow(part: str) -> None:
    for seed in range(4):
        assert _band_of(_only(seed, **{part: 1.0}))[2] < 1.5


def test_walking_has_the_rhythm_of_steps() -> None:
    for seed in range(6):
        noise = _only(seed, rhythm=1.0)
        hz, power = scipy_signal.welch(noise, fs=FS, nperseg=8192)
        strong = hz[power > 0.1 * power.max()]
        assert 0.8 <= strong.min() <= 3.0
        assert strong.max() < 11


def test_muscles_are_fast() -> None:
    low, middle, high = _band_of(_only(1, muscle=1.0))
    assert 5 < low < middle < high < 100
    assert middle > 15


def test_an_electrode_that_comes_off_goes_to_the_rail_with_hum() -> None:
    for seed in (1, 2, 3, 5):
        noise = _only(seed, seconds=300.0, losses_per_min=0.4)
        assert np.abs(noise).max() > 3 * 0.5
        is_lost = np.abs(noise) > 0.7 * np.abs(noise).max()
        hz, power = scipy_signal.periodogram(noise, fs=FS)
        near = [power[np.abs(hz - mains) < 1].max() for mains in (50.0, 60.0)]
        around = np.median(power[(hz > 40) & (hz < 48)])
        assert max(near) > 10 * around
        assert 0.0005 < is_lost.mean() < 0.2


def test_what_follows_contact_loss_recovers_as_the_amplifier_does() -> None:
    """A high-pass filter of 0.05 Hz: what is left falls to 37 % in 3.2 s."""
    noise = _only(9, seconds=60.0, losses_per_min=1.0)  # lost from 3.4 to 4.4 s
    smooth = np.convolve(noise, np.ones(36) / 36, mode="same")
    jumps = np.abs(np.diff(smooth, n=1))
    last = int(np.flatnonzero(jumps > 0.2 * jumps.max())[-1]) + 72
    rest = smooth[last:] - smooth[-360:].mean()
    assert len(rest) > 3.2 * FS + 360
    assert rest[round(3.2 * FS)] / rest[0] == pytest.approx(np.exp(-1), abs=0.06)


def test_a_person_who_makes_no_sudden_movement_has_the_slow_ones() -> None:
    mix = replace(draw_mix(np.random.default_rng(1)), steps=0.0, tugs=0.0, bursts=0.0)
    noise = simulate_movement(3600, fs=360.0, rms_mv=1.0, rng=np.random.default_rng(2), mix=mix)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1.0)
