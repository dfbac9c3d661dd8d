"""Sum up the beats of a recording: burden, couplets, bigeminy, trigeminy, runs, heart rate."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_RUN: Final = 3
"""V beats in a row that make a run (ventricular tachycardia from 100/min on; EC57, clause 4.6)."""

MIN_CYCLES: Final = 3
"""Repetitions of a pattern that make bigeminy or trigeminy."""

_LONGEST_RR_S: Final = 3.0
"""Beats further apart than this are not "in a row"; there is a gap in what could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Three or more V beats in a row."""

    first_beat: int
    """Index of its first beat."""
    beats: int
    start_s: float
    rate_bpm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RhythmSummary:
    """What a recording's readable beats amount to."""

    beats: int
    v_beats: int
    burden: float
    """Share of the readable beats that are V, 0 to 1; 0 when there is none."""
    heart_rate_bpm: float | None
    """From the median RR interval; None with fewer than two beats."""
    heart_rate_min_bpm: float | None
    """Of any eight RR intervals in a row (all of them when there are fewer)."""
    heart_rate_max_bpm: float | None
    longest_rr_s: float | None
    isolated: int
    """V beats with no V beside them."""
    couplets: int
    runs: tuple[Run, ...]
    bigeminy_beats: int
    """V beats in bigeminy: V and N in turn, three times or more."""
    trigeminy_beats: int
    """V beats in trigeminy: N, N and V in turn, three times or more."""
    r_on_t: int
    """V beats so early that they may fall on the T wave of the beat before."""


def summarize_rhythm(
    r_peaks: NDArray[np.int64],
    *,
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_],
    fs: float,
) -> RhythmSummary:
    """Sum up the beats of one recording.

    Parameters
    ----------
    r_peaks : ndarray of int64, shape (n_beats,)
        Ascending sample positions.
    is_v, is_readable : ndarray of bool, shape (n_beats,)
        Class and readability of each beat; unreadable ones part what is before and after them.
    fs : float
        Sampling rate in Hz.

    Returns
    -------
    RhythmSummary

    """
    times_s = r_peaks / fs
    stretches = _readable_stretches(times_s, is_readable)
    groups = [group for stretch in stretches for group in _groups_of_v(stretch, is_v)]
    intervals = [np.diff(times_s[stretch]) for stretch in stretches if len(stretch) > 1]
    rr_s = np.concatenate(intervals) if intervals else np.zeros(0)
    sustained = _sustained_rr(intervals)
    n_beats, n_v = int(is_readable.sum()), int((is_v & is_readable).sum())
    return RhythmSummary(
        beats=n_beats,
        v_beats=n_v,
        burden=n_v / n_beats if n_beats else 0.0,
        heart_rate_bpm=60 / float(np.median(rr_s)) if len(rr_s) else None,
        heart_rate_min_bpm=60 / float(sustained.max()) if len(sustained) else None,
        heart_rate_max_bpm=60 / float(sustained.min()) if len(sustained) else None,
        longest_rr_s=float(rr_s.max()) if len(rr_s) else None,
        isolated=sum(1 for group in groups if len(group) == 1),
        couplets=sum(1 for group in groups if len(group) == 2),
        runs=tuple(_run_of(group, times_s) for group in groups if len(group) >= MIN_RUN),
        bigeminy_beats=sum(_beats_in_pattern(is_v[stretch], "NV") for stretch in stretches),
        trigeminy_beats=sum(_beats_in_pattern(is_v[stretch], "NNV") for stretch in stretches),
        r_on_t=_count_r_on_t(stretches, times_s, is_v),
    )


def _readable_stretches(
    times_s: NDArray[np.float64], is_readable: NDArray[np.bool_]
) -> list[NDArray[np.int64]]:
    """Indices of beats that follow each other without a gap."""
    readable = np.flatnonzero(is_readable)
    if len(readable) == 0:
        return []
    is_break = (np.diff(readable) > 1) | (np.diff(times_s[readable]) > _LONGEST_RR_S)
    return np.split(readable, np.flatnonzero(is_break) + 1)


def _groups_of_v(stretch: NDArray[np.int64], is_v: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    v_beats = stretch[is_v[stretch]]
    if len(v_beats) == 0:
        return []
    return np.split(v_beats, np.flatnonzero(np.diff(v_beats) > 1) + 1)


def _run_of(group: NDArray[np.int64], times_s: NDArray[np.float64]) -> Run:
    first, last = times_s[group[0]], times_s[group[-1]]
    return Run(
        first_beat=int(group[0]),
        beats=len(group),
        start_s=float(first),
        rate_bpm=float(60 * (len(group) - 1) / (last - first)),
    )


def _sustained_rr(intervals: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Means of eight RR intervals in a row, so that one early beat is no heart rate."""
    means = [
        np.convolve(rr, np.full(min(8, len(rr)), 1 / min(8, len(rr))), mode="valid")
        for rr in intervals
    ]
    return np.concatenate(means) if means else np.zeros(0)


def _beats_in_pattern(is_v: NDArray[np.bool_], pattern: str) -> int:
    """V beats in repetitions of a pattern, three times or more in a row."""
    text = "".join("V" if value else "N" for value in is_v.tolist())
    total = position = 0
    while (position := text.find(pattern * MIN_CYCLES, position)) >= 0:
        cycles = 0
        while text.startswith(pattern, position):
            cycles += 1
            position += len(pattern)
        total += cycles
    return total


def _count_r_on_t(
    stretches: list[NDArray[np.int64]], times_s: NDArray[np.float64], is_v: NDArray[np.bool_]
) -> int:
    """V beats within the QT interval that Bazett's formula gives for the usual RR interval.

    Lown & Wolf 1971, DOI 10.1161/01.CIR.44.1.130, call a PVC that falls on the T wave grade 5.
    The QT interval is not measured but taken as ``0.40 s * sqrt(RR)``, so this finds candidates:
    V beats less than 0.85 QT after a beat that is not V.
    """
    count = 0
    for stretch in stretches:
        if len(stretch) < 3:
            continue
        usual_rr_s = float(np.median(np.diff(times_s[stretch])))
        limit_s = 0.85 * 0.40 * np.sqrt(usual_rr_s)
        count += sum(
            1
            for before, beat in pairwise(stretch.tolist())
            if is_v[beat] and not is_v[before] and times_s[beat] - times_s[before] < limit_s
        )
    return count
