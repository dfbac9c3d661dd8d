"""Take a row of V beats for a run only when its beats together are credible.

The errors of a network come in rows: where the conducted beats change their shape for a while
(pre-excitation, a bundle branch block that comes and goes, an electrode that moved), each of them
is a little more likely V than not. Single beats of that kind cost little, but a row of them would
be reported as ventricular tachycardia. So three and more in a row are a run when their mean
probability reaches a limit of its own, which is chosen out of fold. Of a row that does not reach it
the sure beats alone stay credible, so that uncertain neighbours do not hide a run. All beats keep
their class.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.readability.quality import find_spans

MIN_RUN: Final = 3
"""Credible V beats in a row that make a run.

Ventricular tachycardia from 100/min on; EC57, clause 4.6.
"""

LONGEST_RR_S: Final = 3.0
"""Beats further apart than this do not follow each other; rows, runs and patterns end there."""

SURE: Final = 0.9
"""Least probability of V of a beat that stays credible in any row."""


def find_credible(
    is_v: NDArray[np.bool_],
    probability_v: NDArray[np.float64],
    *,
    rr_s: NDArray[np.float64],
    threshold: float,
    run_threshold: float,
) -> NDArray[np.bool_]:
    """Return True for the V beats of which couplets and runs may be made.

    Parameters
    ----------
    is_v : ndarray of bool, shape (n_beats,)
        What is called V; False for beats without a class.
    probability_v : ndarray of float64, shape (n_beats,)
    rr_s : ndarray of float64, shape (n_beats - 1,)
        Seconds from each beat to the next.
    threshold : float
        Least probability of a beat that the network calls V; what a rule alone calls V is not
        credible.
    run_threshold : float
        Least mean probability of three and more credible V beats in a row.

    Returns
    -------
    ndarray of bool, shape (n_beats,)

    """
    credible = is_v & (probability_v >= threshold)
    for start, stop in find_rows(credible, rr_s=rr_s):
        probability = probability_v[start:stop]
        if stop - start >= MIN_RUN and probability.mean() < run_threshold:
            credible[start:stop] = probability >= SURE
    return credible


def find_rows(is_v: NDArray[np.bool_], *, rr_s: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Find V beats that follow each other: the first of each row, and the one after its last.

    Parameters
    ----------
    is_v : ndarray of bool, shape (n_beats,)
    rr_s : ndarray of float64, shape (n_beats - 1,)
        Seconds from each beat to the next.

    """
    rows = []
    for start, stop in find_spans(is_v):
        gaps = np.flatnonzero(rr_s[start : stop - 1] > LONGEST_RR_S) + start + 1
        edges = [start, *gaps.tolist(), stop]
        rows += list(pairwise(edges))
    return rows
