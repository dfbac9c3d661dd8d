"""Classify beats by two leads.

A ventricular beat that looks conducted in one lead often does not in another. So the logit of a
beat is drawn to those that the network gives to the same beat in other leads. Beats, RR intervals
and readability stay those of the first lead; a lead is not used at beats where it cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats

OTHER_LEAD_WEIGHT: Final = 1 / 3
"""Weight of the logit of another lead beside that of the first, which is 1; chosen on DS1 and the
development part of the Supraventricular database, out of fold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OtherLead:
    """The predictions for the beats of another lead; one row for each of its R-peaks."""

    r_peaks: NDArray[np.int64]
    """Positions in samples, ascending, at the rate of the first lead."""
    logits: NDArray[np.float64]
    is_readable: NDArray[np.bool_]


class FusedLogits(NamedTuple):
    """Logits of V after other leads had their say."""

    logits: NDArray[np.float64]
    """Weighted means; the logit of the first lead where no other lead can be read."""
    is_helped: NDArray[np.bool_]
    """True where another lead was used."""


def fuse_leads(
    logits: NDArray[np.float64],
    *,
    r_peaks: NDArray[np.int64],
    others: Sequence[OtherLead],
    fs: float,
) -> FusedLogits:
    """Draw the logit of each beat to those of the same beat in other leads.

    Parameters
    ----------
    logits : ndarray of shape (n_beats,)
        Logits of V in the first lead.
    r_peaks : ndarray of int64, shape (n_beats,)
        Positions in samples, ascending.
    others : sequence of OtherLead
    fs : float
        Sampling rate in Hz.

    Returns
    -------
    FusedLogits

    """
    total = logits.astype(np.float64)
    weight = np.ones(len(logits))
    for other in others:
        pairs = match_beats(other.r_peaks, r_peaks, tolerance=round(MATCH_TOLERANCE_S * fs))
        mine = np.flatnonzero(pairs.of_detected >= 0)
        theirs = pairs.of_detected[mine]
        has_say = other.is_readable[theirs]
        mine, theirs = mine[has_say], theirs[has_say]
        total[mine] += OTHER_LEAD_WEIGHT * other.logits[theirs]
        weight[mine] += OTHER_LEAD_WEIGHT
    return FusedLogits(total / weight, weight > 1)
