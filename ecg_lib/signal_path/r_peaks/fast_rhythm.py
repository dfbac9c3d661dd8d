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
from ecg_lib.signal_path.filtering import pad_ends, unit_rows

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
_REACH: Final = _HALF + int(_SHIFTS[-1])


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
    gaps = r_peaks[1:] - r_peaks[:-1]
    places = ((gaps >= _GAP[0]) & (gaps <= _GAP[1])).nonzero()[0]
    if len(places) == 0:
        return np.zeros(0, dtype=np.int64)
    hidden, is_as_tall = _find_tall(steep, position, r_peaks, places)
    padded = pad_ends(smooth, _REACH)
    found = [
        one
        for place, one in zip(places[is_as_tall].tolist(), hidden[is_as_tall].tolist(), strict=True)
        if _keeps_time(gaps, place)
        and min(_likeness(padded, one, r_peaks[place + side]) for side in (0, 1)) >= _SAME_SHAPE
    ]
    return np.array(found, dtype=np.int64)


def _find_tall(
    steep: NDArray[np.float64],
    position: NDArray[np.int64],
    r_peaks: NDArray[np.int64],
    places: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Find the maximum half way through each gap, and check that it is as tall as both beats."""
    before, after = r_peaks[places], r_peaks[places + 1]
    margin = np.maximum(_LEAST_RR, np.rint((0.5 - _MIDDLE) * (after - before)).astype(np.int64))
    first, last = before + margin, after - margin
    at = first[:, None] + np.arange(int((last - first).max()) + 1)  # (n_gaps, n_samples)
    energy = np.where(at <= last[:, None], steep[np.minimum(at, len(steep) - 1)], -1.0)
    hidden = first + energy.argmax(axis=1)
    beside = np.stack([steep[position[places]], steep[position[places + 1]]])
    heights = energy.max(axis=1) / np.maximum(beside, np.finfo(np.float64).tiny)
    is_as_tall = (heights >= _SAME_HEIGHT[0]).all(axis=0) & (heights <= _SAME_HEIGHT[1]).all(axis=0)
    # A maximum at the edge of what is searched is the flank of something else.
    return hidden, np.asarray(is_as_tall & (hidden > first) & (hidden < last))


def _keeps_time(gaps: NDArray[np.int64], place: int) -> bool:
    """Check that the intervals around one that is twice as long as the rhythm keep to it."""
    around = gaps[max(0, place - _AROUND) : place + _AROUND + 1] / (gaps[place] / 2)
    in_time = np.minimum(np.abs(around - 1), np.abs(around / 2 - 1)) <= _JITTER
    n_others = len(around) - 1
    return n_others > 0 and bool(np.count_nonzero(in_time) - 1 >= _IN_TIME * n_others)


def _likeness(padded: NDArray[np.float64], one: int, other: int) -> float:
    """Correlate two complexes of a signal with ends of `_REACH` samples, at the best of shifts."""
    at = np.arange(-_HALF, _HALF + 1) + _REACH
    shapes = unit_rows(padded[other + _SHIFTS[:, None] + at])
    return float((shapes @ unit_rows(padded[None, one + at])[0]).max())
