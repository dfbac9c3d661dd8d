"""Compare slices of the traffic with the reference: one lead, device, site, rate or key.

Each slice is compared as all traffic is, by permuting whole groups, and has one p-value for all its
columns. These are corrected by Holm's method over all slices: a group may be in many slices, whose
p-values depend on each other in ways that are not known, and Holm's method holds under any
dependence, whereas Benjamini and Hochberg's needs a positive one. It also bounds the chance to name
any slice wrongly, which is what sends somebody to look at a device; there are few slices, so little
is lost by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.drift.comparison import ComparisonConfig, match_lengths
from ecg_lib.operations.drift.observation import (
    CATEGORICAL_COLUMNS,
    COMPARED_COLUMNS,
    HARMLESS_COLUMNS,
    ObservedBeats,
)
from ecg_lib.operations.drift.permutation import (
    StripCounts,
    adjust_p_values,
    count_values,
    deal_strips,
    measure_distances,
    permute_together,
)

MAX_SLICES: Final = 40
"""Slices that are compared, those with most groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceDrift:
    """Drift of one slice."""

    dimension: str
    value: str
    n_groups: int
    n_strips: int
    column: str
    """The column that is farthest beyond its least distance."""
    distance: float
    p_value: float
    """Of all columns together."""
    p_adjusted: float
    """After Holm's correction over all slices."""
    is_drifted: bool


class _Slice(NamedTuple):
    dimension: str
    value: str
    is_in: NDArray[np.bool_]
    n_groups: int


def compare_slices(
    reference: ObservedBeats,
    current: ObservedBeats,
    *,
    min_groups: int,
    min_strips: int,
    config: ComparisonConfig | None = None,
) -> tuple[SliceDrift, ...]:
    """Compare each slice of the traffic with the reference.

    Parameters
    ----------
    reference : ObservedBeats
        With at least one strip.
    current : ObservedBeats
    min_groups, min_strips : int
        Smaller slices are left out, and so are dimensions with one value, which is all traffic.
    config : ComparisonConfig, optional

    Returns
    -------
    tuple of SliceDrift
        The least likely first.

    """
    config = config or ComparisonConfig()
    matched = match_lengths(reference, current, max_ratio=config.max_length_ratio)
    slices = _cut(matched.current, min_groups=min_groups, min_strips=min_strips)
    if not slices:
        return ()
    found = [
        _compare(matched.reference, matched.current.select(one.is_in), matched.length[one.is_in],
                 config)
        for one in slices
    ]  # fmt: skip
    adjusted = adjust_p_values(np.array([p_value for _, _, p_value in found]))
    drifts = [
        SliceDrift(
            dimension=one.dimension,
            value=one.value,
            n_groups=one.n_groups,
            n_strips=int(one.is_in.sum()),
            column=column,
            distance=distance,
            p_value=p_value,
            p_adjusted=float(p_adjusted),
            is_drifted=bool(p_adjusted <= config.alpha and distance >= _least(column, config)),
        )
        for one, (column, distance, p_value), p_adjusted in zip(
            slices, found, adjusted, strict=True
        )
    ]
    return tuple(sorted(drifts, key=lambda drift: (drift.p_value, -drift.distance)))


def count_groups(beats: ObservedBeats) -> dict[str, dict[str, int]]:
    """Count the groups of each value of each dimension; what is not stated is left out."""
    return {
        dimension: {
            value: len(np.unique(beats.group[values == value]))
            for value in np.unique(values).tolist()
            if value
        }
        for dimension, values in beats.slices.items()
    }


def find_unfamiliar(
    groups: Mapping[str, Mapping[str, int]],
    familiar: Mapping[str, frozenset[str]],
    *,
    n_groups: int,
    min_share: float,
) -> tuple[str, ...]:
    """Describe leads, rates and devices that much of the traffic has and none had before.

    Parameters
    ----------
    groups : mapping
        Result of :func:`count_groups`.
    familiar : mapping
        Values that were there before, by dimension; dimensions without any are left out.
    n_groups : int
        Number of groups in all.
    min_share : float
        Least share of the groups.

    """
    return tuple(
        f"{dimension} {value} ({count} of {n_groups} groups)"
        for dimension, counts in groups.items()
        for value, count in counts.items()
        if familiar.get(dimension)
        and value not in familiar[dimension]
        and count >= min_share * n_groups
    )


def _cut(current: ObservedBeats, *, min_groups: int, min_strips: int) -> list[_Slice]:
    slices = []
    for dimension, values in current.slices.items():
        present = [value for value in np.unique(values).tolist() if value]
        if len(set(values.tolist())) < 2:
            continue
        for value in present:
            is_in = values == value
            n_groups = len(np.unique(current.group[is_in]))
            if n_groups >= min_groups and is_in.sum() >= min_strips:
                slices.append(_Slice(dimension, value, is_in, n_groups))
    return sorted(slices, key=lambda one: -one.n_groups)[:MAX_SLICES]


def _compare(
    reference: ObservedBeats,
    current: ObservedBeats,
    length: NDArray[np.float64],
    config: ComparisonConfig,
) -> tuple[str, float, float]:
    names = [
        name
        for name in COMPARED_COLUMNS
        if name not in HARMLESS_COLUMNS
        and (name in CATEGORICAL_COLUMNS or _has_value(reference, current, name))
    ]
    ours, theirs, layout = count_values(reference, current, names)
    strips = StripCounts.of(current.group, length)
    traffic = theirs.add_up(strips.order, strips.starts)
    subjects = StripCounts.of(reference.group, reference.strip_s)
    distances = measure_distances(ours.add_up(subjects.order, subjects.starts), traffic, layout)
    rng = np.random.default_rng(config.seed)
    p_values = [
        permute_together(
            ours.add_up(*deal_strips(subjects, strips, rng)),
            traffic,
            layout,
            n_permutations=config.n_permutations,
            rng=rng,
        )
        for _ in range(config.n_draws)
    ]
    beyond = distances / np.array([_least(name, config) for name in names])
    farthest = int(beyond.argmax())
    return names[farthest], float(distances[farthest]), float(np.median(p_values))


def _has_value(reference: ObservedBeats, current: ObservedBeats, name: str) -> bool:
    return all(
        bool(np.isfinite(side.columns[name].astype(np.float64)).any())
        for side in (reference, current)
    )


def _least(column: str, config: ComparisonConfig) -> float:
    if column in CATEGORICAL_COLUMNS:
        return config.min_variation_distance
    return config.min_ks_distance
