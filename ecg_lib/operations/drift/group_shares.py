"""Shares over groups of traffic: signals that are refused, and leads that are upside down.

A group is a patient, or a client that names none. Each counts once: one loose electrode, whose
monitor sends every ten seconds, is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ecg_lib.operations.drift.observation import ObservedBeats

_N_RESAMPLES: Final = 2000
_FEWER: Final = 200
"""Resamples with more than 1,000 groups, of which each changes little."""


_FEW_REQUESTS: Final = 5
"""A group with fewer has no share worth the name: one bad strip of a test would be all of it."""


class GroupVolume(NamedTuple):
    """Number of requests of one group."""

    answered: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedShare:
    """Share of the requests that were refused."""

    share: float
    """Mean over groups; those with few requests are left out, except where all have few."""
    low: float
    high: float
    """90 % interval by bootstrap over groups; of a single group the share itself."""
    n_requests: int
    n_refused: int
    n_groups: int


def measure_refusals(groups: Mapping[str, GroupVolume], *, seed: int = 0) -> RefusedShare | None:
    """Measure the share of refused requests, or return None without a request."""
    volumes = [volume for volume in groups.values() if volume.answered + volume.refused]
    if not volumes:
        return None
    many = [volume for volume in volumes if volume.answered + volume.refused >= _FEW_REQUESTS]
    shares = np.array(
        [volume.refused / (volume.answered + volume.refused) for volume in many or volumes]
    )
    rng = np.random.default_rng(seed)
    means = [
        float(shares[rng.integers(len(shares), size=len(shares))].mean())
        for _ in range(_N_RESAMPLES if len(shares) <= 1000 else _FEWER)
    ]
    low, high = np.quantile(means, [0.05, 0.95])
    return RefusedShare(
        share=float(shares.mean()),
        low=float(low),
        high=float(high),
        n_requests=sum(volume.answered + volume.refused for volume in volumes),
        n_refused=sum(volume.refused for volume in volumes),
        n_groups=len(volumes),
    )


class Polarity(NamedTuple):
    """Number of groups by the direction of their R-peaks."""

    n_down: int
    """Groups with most R-peaks below the baseline."""
    n_groups: int
    """Groups whose direction is known."""

    @property
    def share(self) -> float:
        """Share of the groups whose R-peaks point down."""
        return self.n_down / self.n_groups

    def __str__(self) -> str:
        return f"{self.n_down} of {self.n_groups}"


def measure_polarity(beats: ObservedBeats) -> Polarity | None:
    """Count the groups whose R-peaks point down; None where no direction is known.

    Each strip of a group weighs the same; a group that is undecided points up.
    """
    if beats.points_down is None:
        return None
    known = np.isfinite(beats.points_down)
    if not known.any():
        return None
    _, group = np.unique(beats.group[known], return_inverse=True)
    shares = np.bincount(group, weights=beats.points_down[known]) / np.bincount(group)
    return Polarity(n_down=int((shares > 0.5).sum()), n_groups=len(shares))


def compare_polarity(one: Polarity, other: Polarity) -> float:
    """Return the two-sided p-value of Fisher's exact test for a difference of the shares.

    People who are in both make the test conservative.

    >>> round(compare_polarity(Polarity(1, 8), Polarity(7, 8)), 4)
    0.0101
    """
    n_down, total = one.n_down + other.n_down, one.n_groups + other.n_groups
    least, most = max(0, n_down - other.n_groups), min(n_down, one.n_groups)
    way = math.comb(one.n_groups, least) * math.comb(other.n_groups, n_down - least)
    ways = [way]
    for k in range(least, most):
        # The next one from this one: binomials of thousands of groups take long.
        way *= (one.n_groups - k) * (n_down - k)
        way //= (k + 1) * (other.n_groups - n_down + k + 1)
        ways.append(way)
    found = ways[one.n_down - least]
    return sum(way for way in ways if way <= found) / math.comb(total, n_down)
