"""Describe a recording by hour and by minute, and measure its heart rate variability.

Only readable beats count, and no interval spans an unreadable beat or stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.rhythm.patterns import RhythmSummary, average_rr
from ecg_lib.rhythm.rows import follow_each_other
from ecg_lib.signal_path.filtering import filter_rank
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason, find_spans

HOUR_S: Final = 3600.0
MINUTE_S: Final = 60.0

MIN_HRV_S: Final = 300.0
"""Least total length of the normal intervals for a variability.

Task Force of the ESC and NASPE 1996, DOI 10.1161/01.CIR.93.5.1043: five minutes are the standard
short recording.
"""

MIN_NN_SHARE: Final = 0.8
"""Least share of normal intervals; below it the other beats dominate. Convention."""

_LONGEST_NN_S: Final = 3.0
_NN_DEVIATION: Final = 0.2
_NN_NEIGHBOURS: Final = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One hour of the recording; the last one may be shorter."""

    start_s: float
    duration_s: float
    readable_s: float
    """Seconds that are not flat, clipped or noise; flutter counts as readable, as elsewhere."""
    beats: int
    """Readable beats."""
    v_beats: int
    couplets: int
    runs: int
    burden: float | None
    """Share of the readable beats that are V; None without one."""
    heart_rate_mean_bpm: float | None
    heart_rate_min_bpm: float | None
    """Of any eight RR intervals in a row that begin in the hour, as in the whole recording."""
    heart_rate_max_bpm: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartRateVariability:
    """Variability of the intervals between normal beats in the time domain."""

    nn_intervals: int
    nn_s: float
    """Total length of the normal intervals in seconds."""
    nn_share: float
    """Share of the readable intervals that are normal."""
    sdnn_ms: float | None
    """Standard deviation of the normal intervals; it grows with the length of the recording."""
    rmssd_ms: float | None
    """Root mean square of the differences of normal intervals in a row."""
    is_valid: bool
    """False with too few normal intervals or too many others; the figures are then None.

    Atrial fibrillation is not recognised; its figures say nothing about the sinus node.
    """


def describe_hours(
    r_peaks: NDArray[np.int64],
    *,
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_],
    fs: float,
    duration_s: float,
    rhythm: RhythmSummary,
    unreadable: Sequence[Stretch] = (),
) -> tuple[Hour, ...]:
    """Describe each hour of a recording.

    Parameters
    ----------
    r_peaks, is_v, is_readable, fs, unreadable
        See :func:`ecg_lib.rhythm.patterns.summarize_rhythm`.
    duration_s : float
        Length of the recording.
    rhythm : RhythmSummary
        Of the same beats; couplets and runs count in the hour in which they begin.

    """
    n_hours = max(1, int(np.ceil(duration_s / HOUR_S)))
    times_s = r_peaks / fs
    hour_of_beat = np.minimum((times_s // HOUR_S).astype(np.int64), n_hours - 1)
    beats = np.bincount(hour_of_beat[is_readable], minlength=n_hours)
    v_beats = np.bincount(hour_of_beat[is_readable & is_v], minlength=n_hours)
    couplets = _count_hours(rhythm.couplet_starts_s, n_hours)
    runs = _count_hours([run.start_s for run in rhythm.runs], n_hours)
    rr_s, is_usable = _measure_intervals(r_peaks, is_readable, fs, unreadable)
    mean_rr_s, first_interval = _average_sustained(rr_s, is_usable)
    hour_of_mean = hour_of_beat[first_interval]
    lost = [s for s in unreadable if s.reason is not UnreadableReason.FLUTTER]
    hours = []
    for hour in range(n_hours):
        start_s = hour * HOUR_S
        stop_s = min(start_s + HOUR_S, duration_s)
        sustained_s = mean_rr_s[hour_of_mean == hour]
        rr_of_hour_s = rr_s[is_usable & (hour_of_beat[1:] == hour)]
        lost_s = sum(
            max(0.0, min(stop_s, stretch.stop / fs) - max(start_s, stretch.start / fs))
            for stretch in lost
        )
        hours.append(
            Hour(
                start_s=start_s,
                duration_s=stop_s - start_s,
                readable_s=stop_s - start_s - lost_s,
                beats=int(beats[hour]),
                v_beats=int(v_beats[hour]),
                couplets=int(couplets[hour]),
                runs=int(runs[hour]),
                burden=float(v_beats[hour] / beats[hour]) if beats[hour] else None,
                heart_rate_mean_bpm=60 / float(rr_of_hour_s.mean()) if len(rr_of_hour_s) else None,
                heart_rate_min_bpm=60 / float(sustained_s.max()) if len(sustained_s) else None,
                heart_rate_max_bpm=60 / float(sustained_s.min()) if len(sustained_s) else None,
            )
        )
    return tuple(hours)


def _count_hours(times_s: Sequence[float], n_hours: int) -> NDArray[np.int64]:
    hours = np.minimum((np.asarray(times_s) // HOUR_S).astype(np.int64), n_hours - 1)
    return np.bincount(hours, minlength=n_hours)


def _measure_intervals(
    r_peaks: NDArray[np.int64],
    is_readable: NDArray[np.bool_],
    fs: float,
    unreadable: Sequence[Stretch],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the RR intervals in seconds, and which lie between two readable beats in a row."""
    rr_s = np.diff(r_peaks / fs)
    follows = follow_each_other(r_peaks, is_readable=is_readable, unreadable=unreadable)
    return rr_s, follows & (rr_s <= _LONGEST_NN_S)


def _average_sustained(
    rr_s: NDArray[np.float64], is_usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Average eight usable intervals in a row; returns the means and their first intervals."""
    parts = [range(start, stop) for start, stop in find_spans(is_usable)]
    means = [average_rr(rr_s[part.start : part.stop]) for part in parts]
    first = [part.start + np.arange(len(mean)) for part, mean in zip(parts, means, strict=True)]
    if not means:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    return np.concatenate(means), np.concatenate(first)


def heart_rate_by_minute(
    r_peaks: NDArray[np.int64],
    *,
    is_readable: NDArray[np.bool_],
    fs: float,
    duration_s: float,
    unreadable: Sequence[Stretch] = (),
) -> NDArray[np.float64]:
    """Compute the heart rate of each minute from its median RR interval; NaN below ten intervals.

    Parameters
    ----------
    r_peaks, is_readable, fs, unreadable
        See :func:`ecg_lib.rhythm.patterns.summarize_rhythm`.
    duration_s : float
        Length of the recording.

    Returns
    -------
    ndarray of float64, shape (n_minutes,)
        Beats a minute.

    """
    n_minutes = max(1, int(np.ceil(duration_s / MINUTE_S)))
    rr_s, is_usable = _measure_intervals(r_peaks, is_readable, fs, unreadable)
    minute = np.minimum((r_peaks[1:] / fs // MINUTE_S).astype(np.int64), n_minutes - 1)
    edges = np.searchsorted(minute[is_usable], np.arange(n_minutes + 1))
    intervals = rr_s[is_usable]
    return np.array(
        [
            60 / np.median(intervals[first:last]) if last - first >= 10 else np.nan
            for first, last in pairwise(edges.tolist())
        ]
    )


def measure_variability(
    r_peaks: NDArray[np.int64],
    *,
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_],
    fs: float,
    unreadable: Sequence[Stretch] = (),
    is_paced: NDArray[np.bool_] | None = None,
) -> HeartRateVariability:
    """Measure SDNN and RMSSD from the intervals between normal beats.

    The definitions are those of the Task Force 1996, DOI 10.1161/01.CIR.93.5.1043. Atrial
    premature beats are not classified here, so an interval is normal when both its beats are
    readable, neither it nor the interval before touches a V or a paced beat, and it differs from
    the median of its eleven neighbours by 20 % at most (after Malik et al. 1989, who compare with
    the interval before). The first interval after the pause of a V beat is left out because the
    pause shortens it (turbulence onset, Schmidt et al. 1999, DOI 10.1016/S0140-6736(98)08428-1;
    the second, which they count in, stays).

    Parameters
    ----------
    r_peaks, is_v, is_readable, fs, unreadable, is_paced
        See :func:`ecg_lib.rhythm.patterns.summarize_rhythm`.

    """
    rr_s, is_known = _measure_intervals(r_peaks, is_readable, fs, unreadable)
    is_other = is_v if is_paced is None else is_v | is_paced
    touches_other = is_other[1:] | is_other[:-1]
    is_normal = is_known & ~touches_other
    is_normal[1:] &= ~touches_other[:-1]
    if is_normal.any():
        places = np.flatnonzero(is_normal)
        size = min(_NN_NEIGHBOURS, len(places))
        usual_s = filter_rank(rr_s[places], size=size)
        is_usual = np.abs(rr_s[places] - usual_s) <= _NN_DEVIATION * usual_s
        is_normal[places] = is_usual
    nn_s = rr_s[is_normal]
    in_a_row = is_normal[1:] & is_normal[:-1]
    steps_s = np.diff(rr_s)[in_a_row]
    share = float(is_normal.sum() / is_known.sum()) if is_known.any() else 0.0
    is_valid = bool(nn_s.sum() >= MIN_HRV_S and share >= MIN_NN_SHARE and len(steps_s) > 0)
    return HeartRateVariability(
        nn_intervals=len(nn_s),
        nn_s=float(nn_s.sum()),
        nn_share=share,
        sdnn_ms=float(nn_s.std(ddof=1) * 1e3) if is_valid else None,
        rmssd_ms=float(np.sqrt(np.mean(steps_s**2)) * 1e3) if is_valid else None,
        is_valid=is_valid,
    )
