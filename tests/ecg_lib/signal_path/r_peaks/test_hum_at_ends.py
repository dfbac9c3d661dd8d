"""Mains hum that ends on a crest is not a beat; a beat that the end cuts off stays one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.filtering import resample
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.r_peaks.hum_at_ends import are_hum

CASES = Path(__file__).parents[3] / "cases"
MAINS = CASES / "mains-edge" / "mains50.npy"

STEEP_HZ = (5.0, 18.0)


def test_the_file_with_hum_has_35_beats_and_none_at_its_end() -> None:
    found = prepare_beats(np.load(MAINS), fs=250.0)
    assert len(found) == 35
    assert found.r_peaks[-1] / 250 == pytest.approx(29.108, abs=0.01)


def test_hum_makes_no_beat_wherever_it_is_cut() -> None:
    signal = np.load(MAINS).astype(np.float64)
    for cut in range(25):
        late = detect_r_peaks(resample(signal[cut:], fs=250.0).signal)
        early = detect_r_peaks(resample(signal[: len(signal) - cut], fs=250.0).signal)
        assert (len(late), len(early)) == (35, 35)
        assert late[0] > 100
        assert early[-1] < 10_500


@pytest.mark.parametrize("hum_hz", [50.0, 60.0])
@pytest.mark.parametrize("fs", [250.0, 360.0, 500.0])
def test_hum_of_either_mains_adds_nothing_at_any_rate(hum_hz: float, fs: float) -> None:
    record = simulate_strip(StripKind.NORMAL, seed=3, fs=fs, duration_s=12.0)
    clean = record.signal_mv().astype(np.float64)
    expected = prepare_beats(clean, fs=fs).r_peaks
    times = np.arange(len(clean)) / fs
    for phase in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        hum = 0.4 * np.ptp(clean) * np.sin(2 * np.pi * hum_hz * times + phase)
        found = prepare_beats(clean + hum, fs=fs).r_peaks
        assert len(found) == len(expected)
        assert np.abs(found - expected).max() <= 0.03 * fs


def test_a_beat_that_the_end_cuts_off_is_kept_without_hum() -> None:
    signal = simulate_strip(StripKind.NORMAL, seed=3, duration_s=20.0).signal_mv()
    whole = detect_r_peaks(signal)
    peak = int(whole[-2])
    for after in range(12, 40, 4):
        assert abs(int(detect_r_peaks(signal[: peak + after])[-1]) - peak) <= 2


def _step_of_hum(share: float) -> NDArray[np.float64]:
    """Hum of a size in QRS spans that ends on a crest, about a level of zero."""
    times = np.arange(3600) / 360
    return share * np.cos(2 * np.pi * 60 * (times - times[-1]))


@pytest.mark.parametrize(
    ("share", "is_hum"), [(0.1, False), (0.15, False), (0.2, True), (1.0, True)]
)
def test_only_hum_of_some_size_is_blamed(share: float, *, is_hum: bool) -> None:
    """The median of the size of a sine is 0.7 of its amplitude, at 60 Hz 0.5 of it here."""
    found = are_hum(
        _step_of_hum(share),
        np.array([1800, 3590]),
        np.array([0.05, 0.05]),
        band_hz=STEEP_HZ,
        usual_span=1.0,
    )
    assert found.tolist() == [False, is_hum]


@pytest.mark.parametrize(("from_end", "is_hum"), [(0, True), (17, True), (18, False), (40, False)])
def test_only_beats_within_50_ms_of_an_end_are_blamed(from_end: int, *, is_hum: bool) -> None:
    signal = _step_of_hum(0.5)
    position = np.array([from_end, len(signal) - 1 - from_end])
    found = are_hum(signal, position, np.array([0.05, 0.05]), band_hz=STEEP_HZ, usual_span=1.0)
    assert found.tolist() == [is_hum, is_hum]


def test_slopes_that_are_there_without_hum_are_a_beat() -> None:
    times = np.arange(3600)
    beat = np.exp(-0.5 * ((times - 3585) / 8) ** 2)
    slope = np.array([np.abs(np.diff(beat)).max()])
    for offset, is_hum in ((0.0, True), (1.0, False)):
        found = are_hum(
            _step_of_hum(0.5) + offset * beat,
            np.array([3585]),
            slope,
            band_hz=STEEP_HZ,
            usual_span=1.0,
        )
        assert found.tolist() == [is_hum]


def test_too_short_a_signal_is_not_judged() -> None:
    found = are_hum(
        _step_of_hum(0.5)[:30], np.array([2]), np.array([0.05]), band_hz=STEEP_HZ, usual_span=1.0
    )
    assert found.tolist() == [False]
