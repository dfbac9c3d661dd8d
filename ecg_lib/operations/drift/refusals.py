"""Measure how much of the traffic is refused because its signal cannot be read.

The share is the mean over groups (patients, or clients that name none), so that one loose
electrode, whose monitor sends every ten seconds, counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

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
