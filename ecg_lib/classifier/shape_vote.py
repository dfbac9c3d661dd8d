"""Let beats of one shape vote on what they are.

A beat that the network is unsure of is often one of many of its shape, most of which are clear:
ventricular beats of one focus look alike, whatever the rhythm around each of them. So the logit
of a beat is drawn to the mean of its shape. Construe does the like with clusters (Teijeiro et al.
2018, DOI 10.1109/JBHI.2016.2631247); here the bounds of a shape are soft.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.template import ShapeBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeVoteConfig:
    """Constants of the vote; saved in the bundle, chosen on DS1 out of fold."""

    share: float = 0.8
    """Share of the shape's mean in the logit of a beat; 0 leaves the logits unchanged."""
    max_logit: float = 8.0
    """No beat has a louder voice."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            msg = f"share must be between 0 and 1, got {self.share!r}"
            raise ValueError(msg)


def vote(
    logits: NDArray[np.float64],
    shapes: Iterable[ShapeBlock],
    *,
    is_readable: NDArray[np.bool_],
    config: ShapeVoteConfig | None = None,
) -> NDArray[np.float64]:
    """Draw the logit of each beat to the mean of those of its shape.

    Parameters
    ----------
    logits : ndarray of shape (n_beats,)
        Logits of V by the network.
    shapes : iterable of ShapeBlock
        See :class:`ecg_lib.signal_path.features.BeatFeatures`; beats in no block keep their logit.
    is_readable : ndarray of bool, shape (n_beats,)
        Unreadable beats have no vote.
    config : ShapeVoteConfig, optional

    Returns
    -------
    ndarray of shape (n_beats,)

    """
    config = config or ShapeVoteConfig()
    voices = np.minimum(np.maximum(logits, -config.max_logit), config.max_logit)
    has_voice = is_readable.astype(np.float64)
    voted = logits.copy()
    for rows, columns, sameness in shapes:
        weights = sameness * has_voice[columns]
        total = weights.sum(axis=1)
        mean = np.where(
            total > 0, weights @ voices[columns] / np.maximum(total, 1e-9), voices[rows]
        )
        voted[rows] = (1 - config.share) * voices[rows] + config.share * mean
    return voted
