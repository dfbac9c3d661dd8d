"""Find the beats that follow each other, and the V beats among them that do.

A row ends at a beat or a stretch that cannot be read, and at a gap of three seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.readability.quality import Stretch

MIN_RUN: Final = 3
"""Credible V beats in a row that make a run.

Ventricular tachycardia from 100/min on; EC57, clause 4.6.
"""

LONGEST_RR_S: Final = 3.0
"""Beats further apart than this do not follow each other; rows, runs and patterns end there."""


def follow_each_other(
    r_peaks: NDArray[np.int64], *, is_readable: NDArray[np.bool_], unreadable: Sequence[Stretch]
) -> NDArray[np.bool_]:
    """Find the beats that the next one follows with nothing unreadable between them.

    Parameters
    ----------
    r_peaks : ndarray of int64, shape (n_beats,)
        Ascending sample positions.
    is_readable : ndarray of bool, shape (n_beats,)
    unreadable : sequence of Stretch
        In samples.

    Returns
    -------
    ndarray of bool, shape (n_beats - 1,)

    """
    follows = is_readable[1:] & is_readable[:-1]
    for start, stop, _ in unreadable:
        first, last = np.searchsorted(r_peaks, [start, stop - 1], side="right")
        follows[max(0, first - 1) : last] = False
    return follows


def find_stretches(
    r_peaks: NDArray[np.int64],
    *,
    is_readable: NDArray[np.bool_],
    fs: float,
    unreadable: Sequence[Stretch] = (),
) -> list[NDArray[np.int64]]:
    """Return the indices of the readable beats that follow each other, a row for each stretch.

    Parameters
    ----------
    r_peaks, is_readable, unreadable
        See :func:`follow_each_other`.
    fs : float
        Sampling rate in Hz.

    """
    follows = follow_each_other(r_peaks, is_readable=is_readable, unreadable=unreadable)
    in_a_row = follows & (r_peaks[1:] - r_peaks[:-1] <= LONGEST_RR_S * fs)
    stretches = _part(np.arange(len(r_peaks)), ~in_a_row)
    return [stretch for stretch in stretches if len(stretch) and is_readable[stretch[0]]]


def find_rows(stretch: NDArray[np.int64], is_v: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the indices of the V beats of a stretch, each row of them apart.

    Parameters
    ----------
    stretch : ndarray of int64
        One of :func:`find_stretches`.
    is_v : ndarray of bool, shape (n_beats,)

    """
    v_beats = stretch[is_v[stretch]]
    if len(v_beats) == 0:
        return []
    return _part(v_beats, v_beats[1:] - v_beats[:-1] > 1)


def _part(beats: NDArray[np.int64], is_last: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Part beats after some of them; ``np.split`` takes ten times as long."""
    bounds = [0, *(is_last.nonzero()[0] + 1).tolist(), len(beats)]
    return [beats[start:stop] for start, stop in pairwise(bounds)]
