"""Simulated movement of electrodes: size, spectrum, repeatability, and what it is made of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal as scipy_signal

from ecg_lib.records.simulation.movement import MovementMix, draw_mix, simulate_movement

FS = 360.0
STILL = MovementMix(
    steps=0.0,
    stretch=0.0,
    rhythm=0.0,
    tugs=0.0,
    bursts=1.0,
    drift=0.0,
    muscle=0.0,
    events_per_s=0.2,
    losses_per_min=0.0,
)


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
    noise = simulate_movement(
        int(120 * FS), fs=FS, rms_mv=0.5, rng=np.random.default_rng(5), mix=STILL
    )
    assert np.mean(np.abs(noise) < 0.1) > 0.8


def test_an_electrode_that_comes_off_goes_to_the_rail() -> None:
    lost = MovementMix(
        steps=0.0,
        stretch=0.0,
        rhythm=0.0,
        tugs=0.0,
        bursts=0.01,
        drift=0.0,
        muscle=0.0,
        events_per_s=0.2,
        losses_per_min=4.0,
    )
    noise = simulate_movement(
        int(120 * FS), fs=FS, rms_mv=0.5, rng=np.random.default_rng(6), mix=lost
    )
    assert np.abs(noise).max() > 3 * 0.5
