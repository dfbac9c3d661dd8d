"""From the network's logits to probabilities that mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Slope and intercept on the logits (Platt 1999)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn logits into calibrated probabilities of V."""
        return np.asarray(expit(self.slope * logits.astype(np.float64) + self.intercept))


def expected_calibration_error(
    probabilities: NDArray[np.float64], is_v: NDArray[np.bool_], *, n_bins: int = 15
) -> float:
    """Mean distance between stated probability and observed share, over bins of equal width.

    Guo et al. 2017, "On calibration of modern neural networks", equation 3 (arXiv:1706.04599).
    """
    if len(probabilities) == 0:
        return float("nan")
    bins = np.minimum((probabilities * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    stated = np.bincount(bins, weights=probabilities, minlength=n_bins)
    observed = np.bincount(bins, weights=is_v.astype(np.float64), minlength=n_bins)
    return float(np.abs(stated - observed).sum() / counts.sum())
