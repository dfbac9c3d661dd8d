"""Rates of up to 250 a minute, where the refractory period hides every second beat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.records.simulation.patients import (
    Unusual,
    draw_patient,
    draw_unusual_patient,
)
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.r_peaks import detection
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.r_peaks.fast_rhythm import find_hidden
from ecg_lib.signal_path.r_peaks.matching import match_beats

CASES = Path(__file__).parents[3] / "cases"

FS = 360


@pytest.mark.parametrize(
    ("rate", "missed", "suspected"),
    [(180, 0, 0), (200, 0, 0), (210, 0, 0), (220, 0, 1), (230, 3, 1), (240, 3, 1), (250, 8, 1)],
)
def test_a_fast_heart_is_counted_and_not_called_noise(
    rate: int, missed: int, suspected: int
) -> None:
    """Of eight patients of 30 s at most so many beats are missed, and none is extra.

    One of them has QRS complexes so round that flutter is suspected, which is an alarm too.
    """
    not_found, n_suspected = 0, 0
    for seed in range(8):
        patient = replace(draw_unusual_patient(seed, Unusual.FAST), heart_rate_bpm=rate)
        record = simulate_record("a", patient=patient, duration_s=30.0, seed=seed)
        assert record.annotations is not None
        found = prepare_beats(record.signal_mv(), fs=record.fs)
        match = match_beats(record.annotations.beat_samples, found.r_peaks, tolerance=40)
        assert (match.of_detected >= 0).all()
        assert found.unreadable_s == 0
        n_suspected += found.flutter_s > 0
        true_rr = np.median(np.diff(record.annotations.beat_samples))
        assert 60 * FS / true_rr == pytest.approx(rate, rel=0.04)
        assert np.median(np.diff(found.r_peaks)) == pytest.approx(true_rr, rel=0.01)
        not_found += int((match.of_reference < 0).sum())
    assert not_found <= missed
    assert n_suspected == suspected


def test_the_file_of_220_a_minute_has_108_beats() -> None:
    signal = np.load(CASES / "rate-220" / "rate220.npy")
    found = prepare_beats(signal, fs=250.0)
    assert len(found) == 108
    assert set(found.beat_quality) == {"ok"}
    assert 60 * 250 / np.median(np.diff(found.r_peaks)) == pytest.approx(220, abs=1)


def test_the_file_of_tall_t_waves_has_30_beats() -> None:
    signal = np.load(CASES / "tall-t" / "tall-t.npy")
    found = prepare_beats(signal, fs=250.0)
    assert len(found) == 30
    assert set(found.beat_quality) == {"ok"}
    assert 60 * 250 / np.median(np.diff(found.r_peaks)) == pytest.approx(60, abs=1)


@pytest.mark.parametrize("kind", [None, Unusual.TALL_T, Unusual.ST_ELEVATION, Unusual.ALTERNANS])
@pytest.mark.parametrize("rate", [60, 110, 130, 150])
def test_a_t_wave_half_way_is_not_a_hidden_beat(
    kind: Unusual | None, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[int] = []

    def note(*args: NDArray[np.float64], **beats: NDArray[np.int64]) -> NDArray[np.int64]:
        found = find_hidden(*args, **beats)
        added.extend(found.tolist())
        return found

    monkeypatch.setattr(detection, "find_hidden", note)
    for seed in range(4):
        drawn = draw_patient(seed) if kind is None else draw_unusual_patient(seed, kind)
        patient = replace(drawn, heart_rate_bpm=rate)
        record = simulate_record("a", patient=patient, duration_s=20.0, seed=seed)
        for lead in range(2):
            detect_r_peaks(record.signals_mv[:, lead])
    assert added == []


# Made by hand: a complex of 70 ms, every so many samples.

RR = 90


def _beating(at: list[int], *, heights: list[float] | None = None) -> NDArray[np.float64]:
    times = np.arange(20 * RR)
    heights = heights or [1.0] * len(at)
    return np.sum(
        [
            height * np.exp(-0.5 * ((times - centre) / 6) ** 2)
            for centre, height in zip(at, heights, strict=True)
        ],
        axis=0,
    )


def _hidden(signal: NDArray[np.float64], known: list[int]) -> list[int]:
    """Find what is hidden between known beats; the signal stands for its own energy."""
    beats = np.array(known)
    return find_hidden(np.abs(signal), signal, position=beats, r_peaks=beats).tolist()


EVERY = [RR * number for number in range(1, 19)]
KNOWN = [at for at in EVERY if at not in {5 * RR, 9 * RR}]


def test_what_is_like_both_and_half_way_is_found() -> None:
    assert _hidden(_beating(EVERY), KNOWN) == [5 * RR, 9 * RR]
    assert _hidden(_beating(EVERY), EVERY[::2]) == EVERY[1:-1:2]


@pytest.mark.parametrize(
    ("height", "is_found"), [(0.5, False), (0.65, True), (1.6, True), (1.8, False)]
)
def test_it_is_about_as_tall_as_both(height: float, *, is_found: bool) -> None:
    heights = [height if at == 5 * RR else 1.0 for at in EVERY]
    known = [at for at in EVERY if at != 5 * RR]
    assert _hidden(_beating(EVERY, heights=heights), known) == [5 * RR] * is_found


@pytest.mark.parametrize(("shift", "is_found"), [(0, True), (15, True), (-15, True), (28, False)])
def test_it_is_half_way(shift: int, *, is_found: bool) -> None:
    at = [one + shift if one == 5 * RR else one for one in EVERY]
    known = [one for one in EVERY if one != 5 * RR]
    assert _hidden(_beating(at), known) == [5 * RR + shift] * is_found


def test_another_shape_is_not_a_hidden_beat() -> None:
    times = np.arange(20 * RR)
    known = [at for at in EVERY if at != 5 * RR]
    for width in (2, 20):
        wave = np.exp(-0.5 * ((times - 5 * RR) / width) ** 2)
        assert _hidden(_beating(known) + wave, known) == []
    assert _hidden(_beating(known) - _beating([5 * RR]), known) == []


def test_beats_that_keep_no_time_hide_nothing() -> None:
    """The same gap with the same wave in it, between beats that come as they will."""
    known = [90, 330, 470, 610, 790, 910, 1210, 1330, 1630]
    assert _hidden(_beating([*known, 700]), known) == []
    assert _hidden(_beating([90, 180, 270, 360]), [90, 270, 360]) == [180]
    assert _hidden(_beating([90, 180, 270]), [90, 270]) == []


@pytest.mark.parametrize(("rr", "is_found"), [(70, False), (74, True), (106, True), (110, False)])
def test_only_rates_of_about_200_to_300_hide_beats(rr: int, *, is_found: bool) -> None:
    every = [rr * number for number in range(1, 16)]
    assert _hidden(_beating(every), every[::2]) == every[1:-1:2] * is_found
