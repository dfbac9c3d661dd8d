"""Match detected R-peaks to annotations within the tolerance of EC57."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MATCH_TOLERANCE_S = 0.150
"""Largest distance of a detection from its annotation (ANSI/AAMI EC57:2012, clause 4.3.2)."""


class BeatMatch(NamedTuple):
    """Which annotation belongs to which detection; -1 where there is none."""

    of_reference: NDArray[np.int64]
    """Index of the detection of each annotation, shape ``(n_annotations,)``."""

    of_detected: NDArray[np.int64]
    """Index of the annotation of each detection, shape ``(n_detections,)``."""


def match_beats(
    reference: NDArray[np.int64], detected: NDArray[np.int64], *, tolerance: int
) -> BeatMatch:
    """Pair annotations and detections as WFDB's ``bxb`` does.

    Walk through both in time order; the earlier of the two heads is paired with the other when
    they are within `tolerance` samples and its own successor is not nearer.

    Parameters
    ----------
    reference, detected : ndarray of int64
        Ascending sample positions in one time base.
    tolerance : int
        Largest distance in samples (54 for 150 ms at 360 Hz).

    Returns
    -------
    BeatMatch

    """
    of_reference = np.full(len(reference), -1, dtype=np.int64)
    of_detected = np.full(len(detected), -1, dtype=np.int64)
    truth, found = reference.tolist(), detected.tolist()
    i = j = 0
    while i < len(truth) and j < len(found):
        distance = found[j] - truth[i]
        if distance < 0:
            next_is_nearer = j + 1 < len(found) and abs(found[j + 1] - truth[i]) <= -distance
            is_pair = -distance <= tolerance and not next_is_nearer
            step_i, step_j = is_pair, True
        else:
            next_is_nearer = i + 1 < len(truth) and abs(truth[i + 1] - found[j]) <= distance
            is_pair = distance <= tolerance and not next_is_nearer
            step_i, step_j = True, is_pair
        if is_pair:
            of_reference[i], of_detected[j] = j, i
        i, j = i + step_i, j + step_j
    return BeatMatch(of_reference, of_detected)
