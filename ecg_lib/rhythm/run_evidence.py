"""Take a row of V beats for a run only when its beats together are credible.

The errors of a network come in rows: where the conducted beats change their shape for a while
(pre-excitation, a bundle branch block that comes and goes, an electrode that moved), each of them
is a little more likely V than not. Single beats of that kind cost little, but a row of them would
be reported as ventricular tachycardia. So three and more in a row are a run when their mean
probability reaches a limit of its own, which is chosen out of fold. Of a row that does not reach it
the sure beats alone stay credible, so that uncertain neighbours do not hide a run. So one more
uncertain V beat can make a doubtful run of a couplet: what is added is doubt. All beats keep their
class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import ClassifiedBeats
from ecg_lib.rhythm.rows import MIN_RUN, find_rows, find_stretches
from ecg_lib.signal_path.readability.quality import Stretch, find_spans

SURE: Final = 0.9
"""Least probability of V of a beat that stays credible in any row."""


def find_credible(
    r_peaks: NDArray[np.int64],
    *,
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_],
    probability_v: NDArray[np.float64],
    fs: float,
    threshold: float,
    run_threshold: float,
    unreadable: Sequence[Stretch] = (),
) -> NDArray[np.bool_]:
    """Return True for the V beats of which couplets and runs may be made.

    Parameters
    ----------
    r_peaks : ndarray of int64, shape (n_beats,)
        Ascending sample positions.
    is_v, is_readable : ndarray of bool, shape (n_beats,)
        Class and readability of each beat.
    probability_v : ndarray of float64, shape (n_beats,)
    fs : float
        Sampling rate in Hz.
    threshold : float
        Least probability of a beat that the network calls V; what a rule alone calls V is not
        credible.
    run_threshold : float
        Least mean probability of three and more credible V beats in a row.
    unreadable : sequence of Stretch
        Unreadable stretches, in samples.

    Returns
    -------
    ndarray of bool, shape (n_beats,)

    """
    credible = is_v & is_readable & (probability_v >= threshold)
    if not np.count_nonzero(credible):
        return credible
    stretches = find_stretches(r_peaks, is_readable=is_readable, fs=fs, unreadable=unreadable)
    for row in (row for stretch in stretches for row in find_rows(stretch, credible)):
        if len(row) >= MIN_RUN and probability_v[row].mean() < run_threshold:
            credible[row] = probability_v[row] >= SURE
    return credible


def find_credible_of(classified: ClassifiedBeats) -> NDArray[np.bool_]:
    """Return True for the V beats of one signal of which couplets and runs may be made."""
    return find_credible(
        classified.r_peaks,
        is_v=classified.is_v,
        is_readable=classified.is_readable,
        probability_v=classified.probability_v,
        fs=classified.prepared.fs,
        threshold=classified.threshold,
        run_threshold=classified.run_threshold,
        unreadable=classified.prepared.unreadable,
    )


def weigh_row(probability_v: NDArray[np.float64]) -> float:
    """Return the greatest limit by which a row holds a run: its mean, or 1 with a sure run in it.

    Parameters
    ----------
    probability_v : ndarray of float64, shape (n_beats,)
        Of three and more credible V beats in a row.

    """
    sure = [stop - start for start, stop in find_spans(probability_v >= SURE)]
    return 1.0 if max(sure, default=0) >= MIN_RUN else float(probability_v.mean())
