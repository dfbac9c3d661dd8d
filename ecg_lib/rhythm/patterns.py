"""Sum up the beats of a recording: burden, couplets, patterns, runs, pauses, heart rate.

Couplets, runs and R-on-T candidates raise an alarm, so they are made of credible V beats alone
(:mod:`ecg_lib.rhythm.run_evidence`). A V beat that only a rule calls V counts in the burden
and in patterns; in a couplet or a run it is a beat like any other, so a run of three needs three
credible beats. Three and more V beats in a row that are not credible are a *doubtful run*: reported
as such, for a reader to look at.

What changes over the hours, and the variability of the heart rate, are in
:mod:`ecg_lib.rhythm.heart_rate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.rhythm.rows import MIN_RUN, find_rows, find_stretches, follow_each_other
from ecg_lib.signal_path.filtering import filter_rank, median, quantile
from ecg_lib.signal_path.readability.quality import Stretch

MIN_CYCLES: Final = 3
"""Least number of repetitions of a pattern for bigeminy or trigeminy."""

TACHYCARDIA_BPM: Final = 100.0
"""Least rate of ventricular tachycardia.

Al-Khatib et al. 2018 (AHA/ACC/HRS guideline, table of definitions), DOI
10.1161/CIR.0000000000000549: three or more beats at more than 100/min, a cycle below 600 ms.
"""

SUSTAINED_S: Final = 30.0
"""Least length of sustained ventricular tachycardia (same source)."""

ESCAPE_BPM: Final = 50.0
"""Rate below which a run is an escape rhythm of the ventricles and not accelerated; convention."""

PAUSE_S: Final = 2.0
"""RR interval above which it counts as a pause; the usual limit of Holter reports."""

LONG_PAUSE_S: Final = 3.0
"""RR interval above which a pause needs a look.

Kusumoto et al. 2019 (ACC/AHA/HRS guideline on bradycardia), DOI 10.1161/CIR.0000000000000628.
"""

_USUAL_RR_BEATS: Final = 61


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Three or more V beats in a row."""

    first_beat: int
    """Index of its first beat."""
    beats: int
    start_s: float
    rate_bpm: float
    duration_s: float
    """From its first R-peak to its last."""

    @property
    def kind(self) -> RunKind:
        """Kind of the run by its rate and length."""
        if self.rate_bpm >= TACHYCARDIA_BPM:
            is_sustained = self.duration_s >= SUSTAINED_S
            return RunKind.SUSTAINED_VT if is_sustained else RunKind.NSVT
        return RunKind.AIVR if self.rate_bpm >= ESCAPE_BPM else RunKind.ESCAPE


class RunKind(StrEnum):
    """Runs by rate and length."""

    NSVT = "nsvt"
    """Non-sustained ventricular tachycardia: 100/min or more, shorter than 30 s."""
    SUSTAINED_VT = "sustained_vt"
    """Ventricular tachycardia of 30 s or more."""
    AIVR = "aivr"
    """Accelerated idioventricular rhythm: 50/min or more, below 100/min."""
    ESCAPE = "escape"
    """Idioventricular escape rhythm: below 50/min."""


class PatternKind(StrEnum):
    """Patterns of N and V in turn."""

    BIGEMINY = "bigeminy"
    TRIGEMINY = "trigeminy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """An episode of bigeminy or trigeminy."""

    kind: PatternKind
    start_s: float
    """Time of its first V beat."""
    stop_s: float
    """Time of its last V beat."""
    v_beats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A long RR interval in a stretch that can be read."""

    start_s: float
    duration_s: float
    follows_v: bool
    """True after a V beat: part of the pause may be compensatory."""


class Coupling(NamedTuple):
    """Intervals from a conducted beat to the V beat that follows it, in seconds."""

    median_s: float
    iqr_s: float
    """Distance between the quartiles; small for a fixed coupling."""
    shortest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RhythmSummary:
    """Figures of the readable beats of a recording."""

    beats: int
    v_beats: int
    burden: float
    """Share of the readable beats that are V, 0 to 1; 0 without a readable beat."""
    heart_rate_bpm: float | None
    """From the median RR interval; None with fewer than two beats."""
    heart_rate_min_bpm: float | None
    """Slowest mean rate of eight RR intervals in a row, or of all of them."""
    heart_rate_max_bpm: float | None
    heart_rate_mean_bpm: float | None
    """From the mean RR interval."""
    longest_rr_s: float | None
    """The longest pause, or the longest RR interval if there is no pause."""
    isolated: int
    """V beats in no couplet and no run, credible or doubtful."""
    couplet_starts_s: tuple[float, ...]
    """Time of the first beat of each couplet."""
    runs: tuple[Run, ...]
    """Runs of credible beats."""
    doubtful_runs: tuple[Run, ...]
    """Three and more V beats in a row that are in no couplet and no run of credible beats."""
    r_on_t_s: tuple[float, ...]
    """Times of the R-on-T candidates: credible V beats so early that they may fall on the T wave
    before."""
    patterns: tuple[Pattern, ...]
    pauses: tuple[Pause, ...]
    coupling: Coupling | None
    """None without a V beat that follows a conducted one."""

    @property
    def couplets(self) -> int:
        """Pairs of credible V beats."""
        return len(self.couplet_starts_s)

    @property
    def r_on_t(self) -> int:
        """V beats that may fall on a T wave."""
        return len(self.r_on_t_s)

    @property
    def bigeminy_beats(self) -> int:
        """V beats in bigeminy: V and N in turn, three times or more."""
        return self._v_beats_in(PatternKind.BIGEMINY)

    @property
    def trigeminy_beats(self) -> int:
        """V beats in trigeminy: N, N and V in turn, three times or more."""
        return self._v_beats_in(PatternKind.TRIGEMINY)

    def _v_beats_in(self, kind: PatternKind) -> int:
        return sum(pattern.v_beats for pattern in self.patterns if pattern.kind is kind)

    @property
    def long_pauses(self) -> int:
        """Pauses of more than three seconds."""
        return sum(1 for pause in self.pauses if pause.duration_s > LONG_PAUSE_S)

    def runs_of(self, kind: RunKind) -> tuple[Run, ...]:
        """The runs of one kind."""
        return tuple(run for run in self.runs if run.kind is kind)

    def v_per_hour(self, readable_s: float) -> float:
        """V beats an hour of readable signal; 0 without readable signal."""
        return self.v_beats / (readable_s / 3600) if readable_s > 0 else 0.0


def summarize_rhythm(
    r_peaks: NDArray[np.int64],
    *,
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_],
    fs: float,
    unreadable: Sequence[Stretch] = (),
    is_paced: NDArray[np.bool_] | None = None,
    is_credible: NDArray[np.bool_] | None = None,
) -> RhythmSummary:
    """Sum up the beats of one recording.

    Parameters
    ----------
    r_peaks : ndarray of int64, shape (n_beats,)
        Ascending sample positions.
    is_v, is_readable : ndarray of bool, shape (n_beats,)
        Class and readability of each beat.
    fs : float
        Sampling rate in Hz.
    unreadable : sequence of Stretch
        Unreadable stretches, in samples. No interval, run or pattern spans them, nor an unreadable
        beat.
    is_paced : ndarray of bool, shape (n_beats,), optional
        Readable beats that are suspected to be paced; none by default. They count in the heart
        rate, but not as conducted beats of a pattern or a coupling.
    is_credible : ndarray of bool, shape (n_beats,), optional
        The V beats that make couplets, runs and R-on-T candidates; all by default.

    Returns
    -------
    RhythmSummary

    """
    times_s = r_peaks / fs
    is_conducted = ~is_v if is_paced is None else ~(is_v | is_paced)
    follows = follow_each_other(r_peaks, is_readable=is_readable, unreadable=unreadable)
    stretches = find_stretches(r_peaks, is_readable=is_readable, fs=fs, unreadable=unreadable)
    stands = is_v if is_credible is None else is_v & is_credible
    groups = [group for stretch in stretches for group in find_rows(stretch, stands)]
    is_left = is_v.copy()
    for group in groups:
        is_left[group] &= len(group) == 1
    doubtful = [
        row for stretch in stretches for row in find_rows(stretch, is_left) if len(row) >= MIN_RUN
    ]
    n_grouped = sum(len(group) for group in [*groups, *doubtful] if len(group) > 1)
    intervals = [_intervals_of(times_s[stretch]) for stretch in stretches if len(stretch) > 1]
    rr_s = np.concatenate(intervals) if intervals else np.zeros(0)
    mean_rr_s = float(rr_s.mean()) if len(rr_s) else None
    sustained = _sustained_rr(intervals, mean_rr_s)
    n_beats = int(np.count_nonzero(is_readable))
    n_v = int(np.count_nonzero(is_v & is_readable))
    letters = np.where(is_v, "V", np.where(is_conducted, "N", "-"))
    patterns = [
        pattern
        for stretch in stretches
        for pattern in _find_patterns("".join(letters[stretch].tolist()), times_s[stretch])
    ]
    pauses = _find_pauses(times_s, is_v, follows)
    # Intervals above three seconds end a stretch, so only the pauses hold them.
    longest_s = np.append(rr_s, [pause.duration_s for pause in pauses])
    return RhythmSummary(
        beats=n_beats,
        v_beats=n_v,
        burden=n_v / n_beats if n_beats else 0.0,
        heart_rate_bpm=60 / median(rr_s) if len(rr_s) else None,
        heart_rate_min_bpm=60 / float(sustained.max()) if len(sustained) else None,
        heart_rate_max_bpm=60 / float(sustained.min()) if len(sustained) else None,
        heart_rate_mean_bpm=60 / mean_rr_s if mean_rr_s is not None else None,
        longest_rr_s=float(longest_s.max()) if len(longest_s) else None,
        isolated=n_v - n_grouped,
        couplet_starts_s=tuple(float(times_s[g[0]]) for g in groups if len(g) == 2),
        runs=tuple(_run_of(group, times_s) for group in groups if len(group) >= MIN_RUN),
        doubtful_runs=tuple(_run_of(row, times_s) for row in doubtful),
        r_on_t_s=_find_r_on_t(stretches, times_s, is_v, stands),
        patterns=tuple(sorted(patterns, key=lambda pattern: pattern.start_s)),
        pauses=pauses,
        coupling=_measure_coupling(stretches, times_s, is_v, is_conducted),
    )


def _run_of(group: NDArray[np.int64], times_s: NDArray[np.float64]) -> Run:
    first, last = times_s[group[0]], times_s[group[-1]]
    return Run(
        first_beat=int(group[0]),
        beats=len(group),
        start_s=float(first),
        rate_bpm=float(60 * (len(group) - 1) / (last - first)),
        duration_s=float(last - first),
    )


def _intervals_of(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the differences: ``np.diff``, in a fifth of the time of few."""
    return np.asarray(times_s[1:] - times_s[:-1])


def _sustained_rr(
    intervals: list[NDArray[np.float64]], mean_rr_s: float | None
) -> NDArray[np.float64]:
    """Average eight RR intervals in a row, so that one early beat does not set the heart rate.

    The mean of all intervals is one of the values, so that the mean rate is never outside the
    range of rates that is shown beside it.
    """
    if mean_rr_s is None:
        return np.zeros(0)
    return np.concatenate([*(average_rr(rr) for rr in intervals), [mean_rr_s]])


def average_rr(rr_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each eight RR intervals in a row, or all of them when there are fewer.

    Parameters
    ----------
    rr_s : ndarray of float64, shape (n_intervals,)
        At least one interval; none of them has a gap before or after it.

    Returns
    -------
    ndarray of float64, shape (max(n_intervals - 7, 1),)

    """
    size = min(8, len(rr_s))
    return np.convolve(rr_s, np.full(size, 1 / size), mode="valid")


_PATTERNS: Final = {PatternKind.BIGEMINY: "NV", PatternKind.TRIGEMINY: "NNV"}


def _find_patterns(text: str, times_s: NDArray[np.float64]) -> list[Pattern]:
    """Find where a pattern repeats three times or more in a row; `text` has a letter a beat."""
    found: list[Pattern] = []
    for kind, pattern in _PATTERNS.items():
        start = 0
        while (start := text.find(pattern * MIN_CYCLES, start)) >= 0:
            stop = start
            while text.startswith(pattern, stop):
                stop += len(pattern)
            first_v = float(times_s[start + len(pattern) - 1])
            found.append(
                Pattern(
                    kind=kind,
                    start_s=first_v,
                    stop_s=float(times_s[stop - 1]),
                    v_beats=(stop - start) // len(pattern),
                )
            )
            start = stop
    return found


def _find_r_on_t(
    stretches: list[NDArray[np.int64]],
    times_s: NDArray[np.float64],
    is_v: NDArray[np.bool_],
    stands: NDArray[np.bool_],
) -> tuple[float, ...]:
    """Find credible V beats within the QT interval that Bazett's formula gives for usual intervals.

    Lown & Wolf 1971, DOI 10.1161/01.CIR.44.1.130, call a PVC that falls on the T wave grade 5.
    The QT interval is not measured but estimated as ``0.40 s * sqrt(RR)``, so these are candidates:
    V beats less than 0.85 QT after a beat that is not V. The usual RR interval is the median of
    the stretch, or of a minute around the beat where the stretch is longer.
    """
    found: list[NDArray[np.float64]] = []
    for stretch in stretches:
        if len(stretch) < 3 or not np.count_nonzero(stands[stretch]):
            continue
        rr_s = _intervals_of(times_s[stretch])
        usual_rr_s = (
            np.full(len(rr_s), median(rr_s))
            if len(rr_s) <= _USUAL_RR_BEATS
            else filter_rank(rr_s, size=_USUAL_RR_BEATS)
        )
        calls = is_v[stretch]
        is_early = rr_s < 0.85 * 0.40 * np.sqrt(usual_rr_s)
        is_candidate = stands[stretch][1:] & ~calls[:-1] & is_early
        found.append(times_s[stretch[1:][is_candidate]])
    return tuple(np.concatenate(found).tolist()) if found else ()


def _find_pauses(
    times_s: NDArray[np.float64], is_v: NDArray[np.bool_], follows: NDArray[np.bool_]
) -> tuple[Pause, ...]:
    """Find RR intervals of more than two seconds with nothing unreadable in them."""
    long = ((_intervals_of(times_s) > PAUSE_S) & follows).nonzero()[0]
    return tuple(
        Pause(
            start_s=float(times_s[beat]),
            duration_s=float(times_s[beat + 1] - times_s[beat]),
            follows_v=bool(is_v[beat]),
        )
        for beat in long.tolist()
    )


def _measure_coupling(
    stretches: list[NDArray[np.int64]],
    times_s: NDArray[np.float64],
    is_v: NDArray[np.bool_],
    is_conducted: NDArray[np.bool_],
) -> Coupling | None:
    if not np.count_nonzero(is_v):
        return None
    intervals = [
        _intervals_of(times_s[stretch])[is_v[stretch][1:] & is_conducted[stretch][:-1]]
        for stretch in stretches
    ]
    coupling_s = np.concatenate(intervals) if intervals else np.zeros(0)
    if len(coupling_s) == 0:
        return None
    low, middle, high = (quantile(coupling_s, share) for share in (0.25, 0.5, 0.75))
    return Coupling(middle, high - low, float(coupling_s.min()))
