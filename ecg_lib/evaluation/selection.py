"""Compute how figures change when the beats of the worst signal are left without a class.

A classifier that may abstain has two figures: how right it is on what it answers, and how much it
answers. Beats are kept from the best signal downwards; V beats that are not kept are missed in
one figure and left out in the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

SHARES: Final = (1.0, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the detections that are kept."""


class ScoredBeats(NamedTuple):
    """The detections that have a class; every array has one row for each."""

    quality: NDArray[np.float32]
    """Of the signal around it, 0 to 1."""
    is_v: NDArray[np.bool_]
    """True where it is V."""
    called_v: NDArray[np.bool_]
    counts_false: NDArray[np.bool_]
    """True where calling it V is false: N, S and extra detections, not F and Q."""
    n_missed: int
    """V beats that are not among these: not detected, or without a class."""
    n_without_class: int
    """Detections without a class, which no share keeps."""


class SelectionPoint(NamedTuple):
    """The figures when a share of the detections is kept."""

    share: float
    least_quality: float
    v_f1: float
    """V beats that are not kept count as missed."""
    v_f1_kept: float
    """Among the beats that are kept."""
    v_predictivity: float


def join_beats(parts: Sequence[ScoredBeats]) -> ScoredBeats:
    """Join the detections of several records."""
    return ScoredBeats(
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.is_v for part in parts]),
        np.concatenate([part.called_v for part in parts]),
        np.concatenate([part.counts_false for part in parts]),
        sum(part.n_missed for part in parts),
        sum(part.n_without_class for part in parts),
    )


def trace_selection(
    beats: ScoredBeats, shares: Sequence[float] = SHARES
) -> tuple[SelectionPoint, ...]:
    """Compute the figures for shares of all detections; shares that have no class are left out.

    Detections of one quality are kept or left together, so a share may be a little greater than
    asked for.

    Parameters
    ----------
    beats : ScoredBeats
    shares : sequence of float
        Descending, 0 to 1.

    Returns
    -------
    tuple of SelectionPoint
        In the order of the shares, each once.

    """
    order = np.argsort(-beats.quality, kind="stable")
    quality = beats.quality[order]
    true = np.cumsum(beats.is_v[order] & beats.called_v[order])
    false = np.cumsum(beats.counts_false[order] & beats.called_v[order])
    v_kept = np.cumsum(beats.is_v[order])
    n_all = len(quality) + beats.n_without_class
    if len(quality) == 0:
        return ()
    n_v = int(v_kept[-1]) + beats.n_missed
    points: dict[int, SelectionPoint] = {}
    for share in shares:
        wanted = min(max(1, round(share * n_all)), len(quality))
        last = int(np.searchsorted(-quality, -quality[wanted - 1], side="right")) - 1
        points.setdefault(
            last,
            SelectionPoint(
                (last + 1) / n_all,
                float(quality[last]),
                _ratio(2 * true[last], true[last] + false[last] + n_v),
                _ratio(2 * true[last], true[last] + false[last] + v_kept[last]),
                _ratio(true[last], true[last] + false[last]),
            ),
        )
    return tuple(points.values())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
