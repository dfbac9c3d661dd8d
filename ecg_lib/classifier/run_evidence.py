"""Take a row of V beats for a run only when its beats together are credible.

The errors of a network come in rows: where the conducted beats change their shape for a while
(pre-excitation, a bundle branch block that comes and goes, an electrode that moved), each of them
is a little more likely V than not. Single beats of that kind cost little, but a row of them would
be reported as ventricular tachycardia. So three and more in a row are a run when their mean
probability reaches a limit of its own, which is chosen out of fold. The beats keep their class.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.readability.quality import find_spans

MIN_RUN: Final = 3
"""Credible V beats in a row that make a run.

Ventricular tachycardia from 100/min on; EC57, clause 4.6.
"""


def find_credible(
    is_v: NDArray[np.bool_],
    probability_v: NDArray[np.float64],
    *,
    threshold: float,
    run_threshold: float,
) -> NDArray[np.bool_]:
    """Return True for the V beats of which couplets and runs may be made.

    Parameters
    ----------
    is_v : ndarray of bool, shape (n_beats,)
        What is called V; False for beats without a class.
    probability_v : ndarray of float64, shape (n_beats,)
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
    for start, stop in find_spans(credible):
        if stop - start >= MIN_RUN and probability_v[start:stop].mean() < run_threshold:
            credible[start:stop] = False
    return credible
