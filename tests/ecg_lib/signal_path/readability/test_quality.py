"""Readable and unreadable stretches: the simulator's truth, and strips with a bad part in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ecg_lib.records.annotations import DS1, PACED
from ecg_lib.records.record import read_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.filtering import Bands
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.readability.quality import (
    QualityConfig,
    Stretch,
    UnreadableReason,
    _likeness_of_bins,
    _longest_rr_of_bins,
    assess_quality,
    find_spans,
    is_inside,
    measure_rail_share,
)

FS = 360
READABLE = [
    StripKind.NORMAL,
    StripKind.ISOLATED_PVC,
    StripKind.COUPLET,
    StripKind.BIGEMINY,
    StripKind.RUN,
    StripKind.NOISY,
]


def _find(signal: NDArray[np.floating]) -> tuple[Stretch, ...]:
    return assess_quality(signal, detect_r_peaks(signal)).unreadable


def _seconds(stretches: tuple[Stretch, ...]) -> float:
    return sum(stop - start for start, stop, _ in stretches) / FS


def _clean(seed: int = 1, duration_s: float = 60.0) -> NDArray[np.float64]:
    strip = simulate_strip(StripKind.ISOLATED_PVC, seed=seed, duration_s=duration_s)
    return strip.signal_mv().astype(np.float64)


@pytest.mark.parametrize("kind", READABLE)
def test_a_strip_with_ecg_is_readable_from_end_to_end(kind: StripKind) -> None:
    for seed in range(5):
        assert _find(simulate_strip(kind, seed=seed).signal_mv()) == ()


@pytest.mark.parametrize("kind", [StripKind.FLAT, StripKind.NOISE_ONLY, StripKind.SATURATED])
def test_less_than_5_s_of_a_strip_without_ecg_are_readable(kind: StripKind) -> None:
    for seed in range(5):
        assert 10 - _seconds(_find(simulate_strip(kind, seed=seed).signal_mv())) < 5


@pytest.mark.parametrize("gain", [0.1, 1.0, 10.0, -1.0])
def test_gain_and_polarity_do_not_make_ecg_unreadable(gain: float) -> None:
    assert _find(gain * _clean()) == ()


def test_a_flat_line_is_flat() -> None:
    assert _find(np.full(3600, 1.2)) == (Stretch(0, 3600, UnreadableReason.FLAT),)


@pytest.mark.parametrize("hum_hz", [50.0, 60.0])
@pytest.mark.parametrize("phase", [1.0, 2.0, 3.0, 4.0, 5.0])
def test_maxima_that_are_picked_out_of_hum_are_not_a_fast_heart(
    hum_hz: float, phase: float
) -> None:
    hum = np.sin(2 * np.pi * hum_hz * np.arange(3600) / FS + phase)
    assert {reason for _, _, reason in _find(hum)} == {UnreadableReason.NOISE}
    assert _seconds(_find(hum)) >= 6  # two seconds at each end may pass


@pytest.mark.parametrize("hum_hz", [50.0, 60.0])
def test_mains_hum_alone_is_noise(hum_hz: float) -> None:
    hum = np.sin(2 * np.pi * hum_hz * np.arange(3600) / FS)
    assert {reason for _, _, reason in _find(hum)} == {UnreadableReason.NOISE}
    assert _seconds(_find(hum)) >= 8  # where it stops abruptly the last two seconds may pass


def test_a_random_walk_is_mostly_noise() -> None:
    for seed in range(5):
        walk = np.random.default_rng(seed).standard_normal(21_600).cumsum() / 50
        assert _seconds(_find(walk)) > 45


def test_a_lead_that_was_off_is_found_where_it_was_off() -> None:
    signal = _clean()
    signal[20 * FS : 30 * FS] = 0.0
    (stretch,) = (s for s in _find(signal) if s.reason is UnreadableReason.FLAT)
    assert abs(stretch.start - 20 * FS) <= 2 * FS
    assert abs(stretch.stop - 30 * FS) <= 2 * FS


def test_an_amplifier_at_its_rail_is_found_where_it_was() -> None:
    signal = _clean()
    swing = 8 * np.sin(2 * np.pi * 0.4 * np.arange(10 * FS) / FS)
    signal[20 * FS : 30 * FS] = np.clip(swing, -5, 5)
    clipped = [s for s in _find(signal) if s.reason is UnreadableReason.CLIPPED]
    assert clipped
    assert all(start >= 18 * FS and stop <= 32 * FS for start, stop, _ in clipped)
    assert 6 <= _seconds(tuple(clipped)) <= 12


def test_a_stretch_of_muscle_noise_is_found_where_it_is() -> None:
    signal = _clean(duration_s=90.0)
    noise = np.random.default_rng(3).standard_normal(30 * FS)
    signal[30 * FS : 60 * FS] = 2 * noise
    noisy = [s for s in _find(signal) if s.reason is UnreadableReason.NOISE]
    assert all(start >= 24 * FS and stop <= 66 * FS for start, stop, _ in noisy)
    assert _seconds(tuple(noisy)) >= 15


def test_stretches_are_in_order_and_do_not_overlap() -> None:
    signal = _clean()
    signal[:FS] = 0.0
    signal[10 * FS : 20 * FS] = 0.0
    signal[20 * FS : 40 * FS] = np.random.default_rng(5).standard_normal(20 * FS)
    found = _find(signal)
    assert len(found) >= 2
    assert all(start < stop <= len(signal) for start, stop, _ in found)
    assert all(one.stop <= other.start for one, other in pairwise(found))


@pytest.mark.data
def test_nearly_all_of_ds1_and_the_paced_records_is_readable(mitdb_dir: Path) -> None:
    """Outside the flutter of 207."""
    unreadable_s = total_s = 0.0
    for name in DS1 + PACED:
        if name == "207":
            continue
        record = read_wfdb(mitdb_dir / name)
        unreadable_s += _seconds(_find(record.signal_mv()))
        total_s += record.duration_s
    assert unreadable_s / total_s < 0.001


@pytest.mark.data
@pytest.mark.parametrize("name", ["bw", "ma"])
def test_recorded_noise_without_ecg_is_mostly_unreadable(name: str) -> None:
    directory = os.environ.get("ECG_NSTDB_DIR")
    if not directory:
        pytest.skip("ECG_NSTDB_DIR is not set: the noise records are not here")
    signal = read_wfdb(Path(directory) / name).signals_mv[:, 1]
    assert _seconds(_find(signal)) / (len(signal) / FS) > 0.8


@pytest.mark.parametrize(
    ("marks", "spans"),
    [
        ("", []),
        ("...", []),
        ("###", [(0, 3)]),
        ("#..##", [(0, 1), (3, 5)]),
        (".##.#.", [(1, 3), (4, 5)]),
    ],
)
def test_spans_are_where_a_mask_is_true(marks: str, spans: list[tuple[int, int]]) -> None:
    assert find_spans(np.array([mark == "#" for mark in marks], dtype=np.bool_)) == spans


def test_inside_includes_the_first_sample_and_not_the_last() -> None:
    stretches = (
        Stretch(10, 20, UnreadableReason.FLAT),
        Stretch(30, 31, UnreadableReason.NOISE),
    )
    positions = np.array([9, 10, 19, 20, 30, 31])
    assert is_inside(positions, stretches).tolist() == [False, True, True, False, True, False]
    assert is_inside(positions, ()).tolist() == [False] * 6


@pytest.mark.parametrize("fs", [100.0, 360.0, 1000.0])
@pytest.mark.parametrize("rail", [np.max, np.min])
def test_the_rail_share_is_the_share_of_each_two_seconds(
    fs: float, rail: Callable[[NDArray[np.float64]], float]
) -> None:
    n_bin = int(2 * fs)
    signal = np.sin(np.arange(5 * n_bin) * 0.01 + 0.5)
    extreme = 3.0 if rail is np.max else -3.0
    signal[n_bin : n_bin + n_bin // 2] = extreme
    share = measure_rail_share(signal, fs=fs)
    assert share.shape == (5,)
    np.testing.assert_allclose(share, [0, 0.5, 0, 0, 0], atol=1e-9)


def test_touching_the_greatest_value_now_and_then_is_not_clipping() -> None:
    signal = np.sin(np.arange(3600) * 0.1)
    signal[::100] = 2.0
    assert measure_rail_share(signal, fs=360.0).max() == 0


@pytest.mark.parametrize("seed", range(5))
def test_rails_are_runs_as_the_opening_of_scipy_finds_them(seed: int) -> None:
    samples = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], 1500, p=[0.45, 0.1, 0.45])
    run = 3
    at_rail = sum(
        ndimage.binary_opening(samples == rail, structure=np.ones(run)).astype(float)
        for rail in (-1.0, 1.0)
    )
    expected = [at_rail[:720].mean(), at_rail[720:].mean()]
    config = QualityConfig(clipped_run_s=(run + 0.5) / 360)
    found = measure_rail_share(samples, fs=360.0, config=config)
    np.testing.assert_allclose(found, expected)
    assert found.min() > 0.2


def test_the_limits_are_those_that_were_chosen() -> None:
    assert QualityConfig() == QualityConfig(
        bin_s=2.0,
        flat_range_mv=0.01,
        clipped_run_s=0.03,
        clipped_share=0.2,
        smooth_bins=5,
        tone_prominence=1.6,
        noise_prominence=2.9,
        clear_prominence=7.0,
        same_shape=0.7,
        fast_rr_s=0.4,
        fast_same_shape=0.95,
    )


def _grades(usual: list[float], tallest: list[float]) -> list[float]:
    """Grades of seconds whose slopes have this usual size, of each bin, and this greatest one."""
    energy = np.repeat(np.array(usual), 2 * FS)[: len(tallest) * FS]
    energy[FS // 2 :: FS] = tallest
    signal = _clean(duration_s=10.0)[: len(energy)]
    no_beats = np.zeros(0, dtype=np.int64)
    return assess_quality(signal, no_beats, energy=energy).per_second.tolist()


def test_a_second_is_graded_by_the_tallest_slope_of_it_and_its_neighbours() -> None:
    found = _grades([1.0, 1.0, 1.0, 1.0], [8.0, 8.0, 8.0, 20.0, 8.0, 8.0, 8.0, 8.0])
    usual, tall = 1 - 2.9 / 8, 1 - 2.9 / 20
    assert found == pytest.approx([usual, usual, tall, tall, tall, usual, usual, usual])


def test_each_bin_of_two_seconds_has_a_usual_slope_of_its_own() -> None:
    high, low = 1 - 2.9 / 40, 1 - 2.9 / 20
    assert _grades([1.0, 2.0], [40.0] * 4) == pytest.approx([high, high, low, low])
    assert _grades([1.0, 2.0, 1.0], [40.0] * 5) == pytest.approx([high, high, low, low, low])
    assert _grades([2.0], [40.0]) == pytest.approx([low])


def test_the_likeness_of_beats_is_as_before() -> None:
    signal = _clean(duration_s=60.0) + 0.1 * np.random.default_rng(3).standard_normal(60 * FS)
    r_peaks = detect_r_peaks(signal)
    edges = np.arange(30) * 2 * FS
    likeness = _likeness_of_bins(Bands(signal), edges, r_peaks)
    assert likeness[[0, 7, 15, 22, 29]] == pytest.approx(
        [0.98534215846, 0.98646873738, 0.98726255710, 0.98602422221, 0.98589093456], abs=1e-10
    )
    assert _likeness_of_bins(Bands(signal), edges, r_peaks[:3]).tolist() == [1.0] * 30
    assert (_likeness_of_bins(Bands(signal), edges, r_peaks[:4]) < 1).all()


def test_the_longest_interval_is_that_of_four_of_five_around_a_bin() -> None:
    rr_s = np.array([0.3] * 8 + [0.5] * 2 + [0.3] * 8)
    r_peaks = np.rint(np.cumsum([0.1, *rr_s]) * FS).astype(np.int64)
    edges = np.arange(3) * 2 * FS
    found = _longest_rr_of_bins(edges, r_peaks, 6 * FS)
    assert found == pytest.approx([0.3, 0.5, 0.3], abs=0.003)
    assert np.isinf(_longest_rr_of_bins(edges, r_peaks[:3], 6 * FS)).all()
    assert np.isfinite(_longest_rr_of_bins(edges, r_peaks[:4], 6 * FS)).all()
