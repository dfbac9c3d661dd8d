"""Find the beats of very fast rhythms that the refractory period hides.

Of two maxima within the refractory period only the higher one is a candidate, so from 230 beats a
minute on every second beat is lost, and a tachycardia would be reported at half its rate. What is
hidden between two beats is a beat when it is as steep as they are, of their shape, and half way,
and when the beats around it keep time: single or double intervals of the same rhythm.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.block_filter import pad_ends
from ecg_lib.signal_path.filtering import unit_rows

_GAP: Final = (round(0.4 * FS_HZ), round(0.6 * FS_HZ))
"""Samples between two beats that can hide one: 300 to 200 beats a minute."""
_LEAST_RR: Final = round(0.2 * FS_HZ)
_MIDDLE: Final = 0.12
"""Largest distance from the middle, as a share of the gap."""
_SAME_HEIGHT: Final = (0.6, 1.7)
"""Energy over that of the beats before and after."""
_SAME_SHAPE: Final = 0.95
_AROUND: Final = 4
"""Intervals on each side that show whether the beats keep time."""
_IN_TIME: Final = 0.75
"""Least share of them that do."""
_JITTER: Final = 0.12
"""Largest deviation from one or two intervals of the rhythm, as a share."""
_HALF: Final = round(0.09 * FS_HZ)
_SHIFTS: Final = np.arange(-14, 15)
"""A complex may have two maxima, of which either is the candidate."""


def find_hidden(
    steep: NDArray[np.float64],
    smooth: NDArray[np.float64],
    *,
    position: NDArray[np.int64],
    r_peaks: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Find beats that lie half way between two others, and are like both.

    Parameters
    ----------
    steep : ndarray of shape (n_samples,)
        Slope energy of a signal at 360 Hz.
    smooth : ndarray of shape (n_samples,)
        The signal between 1 and 30 Hz.
    position : ndarray of int64, shape (n_beats,)
        Maxima of the energy that are beats, ascending.
    r_peaks : ndarray of int64, shape (n_beats,)
        Their R-peaks.

    Returns
    -------
    ndarray of int64, shape (n_hidden,)
        Maxima of the energy, ascending.

    """
    gaps = np.diff(r_peaks)
    places = np.flatnonzero((gaps >= _GAP[0]) & (gaps <= _GAP[1]))
    found = [
        hidden
        for place in places.tolist()
        if _keeps_time(gaps, place)
        and (hidden := _find_between(steep, smooth, position[place : place + 2], r_peaks, place))
    ]
    return np.array(found, dtype=np.int64)


def _keeps_time(gaps: NDArray[np.int64], place: int) -> bool:
    """Check that the intervals around one that is twice as long as the rhythm keep to it."""
    around = gaps[max(0, place - _AROUND) : place + _AROUND + 1] / (gaps[place] / 2)
    in_time = np.minimum(np.abs(around - 1), np.abs(around / 2 - 1)) <= _JITTER
    n_others = len(around) - 1
    return n_others > 0 and bool(np.count_nonzero(in_time) - 1 >= _IN_TIME * n_others)


def _find_between(
    steep: NDArray[np.float64],
    smooth: NDArray[np.float64],
    beside: NDArray[np.int64],
    r_peaks: NDArray[np.int64],
    place: int,
) -> int | None:
    before, after = int(r_peaks[place]), int(r_peaks[place + 1])
    gap = after - before
    first = before + max(_LEAST_RR, round((0.5 - _MIDDLE) * gap))
    last = after - max(_LEAST_RR, round((0.5 - _MIDDLE) * gap))
    if last <= first:
        return None
    hidden = first + int(np.argmax(steep[first : last + 1]))
    if hidden in (first, last):
        return None  # the flank of something else
    heights = steep[hidden] / np.maximum(steep[beside], np.finfo(np.float64).tiny)
    if heights.min() < _SAME_HEIGHT[0] or heights.max() > _SAME_HEIGHT[1]:
        return None
    is_alike = min(_likeness(smooth, hidden, other) for other in (before, after)) >= _SAME_SHAPE
    return hidden if is_alike else None


def _likeness(smooth: NDArray[np.float64], one: int, other: int) -> float:
    """Correlate two complexes at the best of some shifts."""
    reach = _HALF + int(_SHIFTS[-1])
    padded = pad_ends(smooth, reach)
    at = np.arange(-_HALF, _HALF + 1) + reach
    shapes = unit_rows(padded[other + _SHIFTS[:, None] + at])
    return float((shapes @ unit_rows(padded[None, one + at])[0]).max())
