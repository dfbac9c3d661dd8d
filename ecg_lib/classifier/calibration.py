"""From the network's logits to probabilities that mean what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Slope and intercept on the logits (Platt 1999)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn logits into calibrated probabilities of V."""
        return sigmoid(self.slope * logits.astype(np.float64) + self.intercept)


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute ``1 / (1 + exp(-x))``: ``scipy.special.expit``, whose import takes 0.1 s."""
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small))


class ReliabilityBin(NamedTuple):
    """Beats whose stated probability lies in one range."""

    low: float
    high: float
    beats: int
    stated: float
    """Mean stated probability of V; NaN without a beat."""
    observed: float
    """Share of V among them; NaN without a beat."""


def reliability_bins(
    probabilities: NDArray[np.float64], is_v: NDArray[np.bool_], *, n_bins: int = 15
) -> list[ReliabilityBin]:
    """Compare stated probabilities with what was observed, in bins of equal width.

    DeGroot & Fienberg 1983, DOI 10.2307/2987588.
    """
    bins = np.minimum((probabilities * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins).tolist()
    stated = np.bincount(bins, weights=probabilities, minlength=n_bins).tolist()
    observed = np.bincount(bins, weights=is_v.astype(np.float64), minlength=n_bins).tolist()
    return [
        ReliabilityBin(
            low=index / n_bins,
            high=(index + 1) / n_bins,
            beats=count,
            stated=stated[index] / count if count else float("nan"),
            observed=observed[index] / count if count else float("nan"),
        )
        for index, count in enumerate(counts)
    ]


def expected_calibration_error(
    probabilities: NDArray[np.float64], is_v: NDArray[np.bool_], *, n_bins: int = 15
) -> float:
    """Mean distance between stated probability and observed share, over bins of equal width.

    Guo et al. 2017, "On calibration of modern neural networks", equation 3 (arXiv:1706.04599).
    """
    if len(probabilities) == 0:
        return float("nan")
    bins = reliability_bins(probabilities, is_v, n_bins=n_bins)
    distance = sum(one.beats * abs(one.stated - one.observed) for one in bins if one.beats)
    return distance / len(probabilities)
