"""Test for drift by permuting whole patients: count values, deal strips, compute p-values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.drift.observation import CATEGORICAL_COLUMNS, ObservedBeats

_GRID_POINTS: Final = 48


def adjust_p_values(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for their number (Holm 1979, Scand J Statist 6:65-70).

    >>> adjust_p_values(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


class _Counts(NamedTuple):
    """Values of each strip, counted; float32 holds whole numbers to 16 million."""

    below: NDArray[np.float32]
    """Shape ``(n_strips, n_points)``: of numerical columns how many values lie at or below each
    point of a grid, of categorical ones how many are of each category; columns side by side."""
    known: NDArray[np.float32]
    """Shape ``(n_strips, n_columns)``: how many values there are."""

    def add_up(self, strips: NDArray[np.int64], group_starts: NDArray[np.int64]) -> _Counts:
        """Add up some strips, of which each group is a stretch."""
        return _Counts(
            np.add.reduceat(self.below[strips], group_starts, axis=0),
            np.add.reduceat(self.known[strips], group_starts, axis=0),
        )


class _Layout(NamedTuple):
    """Position of each column among the points of :class:`_Counts`."""

    starts: NDArray[np.int64]
    column_of: NDArray[np.int64]
    is_numerical: NDArray[np.bool_]


def count_values(
    reference: ObservedBeats, current: ObservedBeats, names: Sequence[str]
) -> tuple[_Counts, _Counts, _Layout]:
    """Count the values of each column and strip, of both sides on one grid."""
    sides = (reference, current)
    below: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    known: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    for name in names:
        count = _count_categories if name in CATEGORICAL_COLUMNS else _count_grid
        for side, (part, total) in enumerate(count(reference, current, name)):
            below[side].append(part)
            known[side].append(total)
    sizes = [part.shape[1] for part in below[0]]
    layout = _Layout(
        starts=np.cumsum([0, *sizes[:-1]]),
        column_of=np.repeat(np.arange(len(sizes)), sizes),
        is_numerical=~np.isin(names, CATEGORICAL_COLUMNS),
    )
    ours, theirs = (
        _Counts(np.hstack(below[side]), np.stack(known[side], axis=1)) for side in range(len(sides))
    )
    return ours, theirs, layout


def _count_grid(
    reference: ObservedBeats, current: ObservedBeats, name: str
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Count the values at or below the quantiles of both sides, for each strip."""
    sides = [
        (beats, values, np.isfinite(values))
        for beats in (reference, current)
        for values in [beats.columns[name].astype(np.float64)]
    ]
    shares = np.linspace(0, 1, _GRID_POINTS)
    grid = np.unique(
        np.concatenate(
            [np.quantile(v[known], shares, method="inverted_cdf") for _, v, known in sides]
        )
    )
    width = len(grid) + 1
    for beats, values, is_known in sides:
        place = beats.strip[is_known] * width + np.searchsorted(grid, values[is_known])
        counts = np.bincount(place, minlength=beats.n_strips * width).reshape(-1, width)
        below = counts[:, :-1].cumsum(axis=1)  # (n_strips, n_points)
        yield below.astype(np.float32), counts.sum(axis=1).astype(np.float32)


def _count_categories(
    reference: ObservedBeats, current: ObservedBeats, name: str
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Count each category, for each strip."""
    values = [beats.columns[name].astype(np.str_) for beats in (reference, current)]
    categories = np.array(sorted({one for side in values for one in side.tolist()}))
    width = len(categories)
    for beats, side in zip((reference, current), values, strict=True):
        code = np.searchsorted(categories, side)
        counts = np.bincount(beats.strip * width + code, minlength=beats.n_strips * width)
        table = counts.reshape(-1, width).astype(np.float32)
        yield table, table.sum(axis=1)


class StripCounts(NamedTuple):
    """Strips in the order of their groups."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Index into `order` of the first strip of each group."""
    by_length: list[dict[float, NDArray[np.int64]]]
    """Strips of each length, for each group."""

    @classmethod
    def of(cls, group: NDArray[np.str_], length: NDArray[np.float64]) -> StripCounts:
        """Group strips by patient, and within a patient by length."""
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.r_[True, group[order][1:] != group[order][:-1]])
        by_length = [
            {float(one): strips[length[strips] == one] for one in np.unique(length[strips])}
            for strips in np.split(order, starts[1:])
        ]
        return cls(order, starts, by_length)


def deal_strips(
    subjects: StripCounts, traffic: StripCounts, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal strips to each subject as a random group of the traffic has them."""
    dealt: list[NDArray[np.int64]] = []
    models = rng.integers(len(traffic.by_length), size=len(subjects.by_length))
    for strips_of, model in zip(subjects.by_length, models, strict=True):
        hand = [
            rng.permutation(strips_of[length])[: len(wanted)]
            for length, wanted in traffic.by_length[model].items()
            if length in strips_of
        ]
        if hand:
            dealt.append(np.concatenate(hand))
    if not dealt:  # no subject has strips of the lengths that were drawn
        return deal_strips(subjects, traffic, rng)
    starts = np.cumsum([0, *(len(hand) for hand in dealt[:-1])])
    return np.concatenate(dealt), starts


def permute(
    ours: _Counts,
    theirs: _Counts,
    layout: _Layout,
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Compute the p-value of each column from exchanging groups."""
    found = _exchange(ours, theirs, layout, n_permutations=n_permutations, rng=rng)
    # Equal distances may differ in the last digit because of the order of summation.
    is_as_far = found[1:] >= found[0] - 1e-6
    return np.asarray((1 + is_as_far.sum(axis=0)) / (1 + n_permutations), dtype=np.float64)


def permute_together(
    ours: _Counts,
    theirs: _Counts,
    layout: _Layout,
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> float:
    """Compute one p-value for all columns: that the farthest of them is so far by chance.

    Distances are taken in standard deviations of their exchanges, so that columns compare
    (step 1 of max-T, Westfall & Young 1993).
    """
    found = _exchange(ours, theirs, layout, n_permutations=n_permutations, rng=rng)
    scores = (found - found.mean(axis=0)) / np.maximum(found.std(axis=0), 1e-9)
    farthest = scores.max(axis=1)
    return float((1 + (farthest[1:] >= farthest[0] - 1e-6).sum()) / (1 + n_permutations))


def _exchange(
    ours: _Counts,
    theirs: _Counts,
    layout: _Layout,
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Measure the distances as they are and after each exchange, one row for each."""
    shares, has_value = _shares(
        _Counts(*(np.concatenate(pair) for pair in zip(ours, theirs, strict=True))), layout
    )
    is_theirs = np.arange(len(shares)) >= len(ours.known)
    assigned = np.tile(is_theirs, (1 + n_permutations, 1))
    rng.permuted(assigned[1:], axis=1, out=assigned[1:])
    return _distances(shares, has_value, assigned, layout)


def measure_distances(ours: _Counts, theirs: _Counts, layout: _Layout) -> NDArray[np.float64]:
    """Measure the distance of both sides in each column."""
    shares, has_value = _shares(
        _Counts(*(np.concatenate(pair) for pair in zip(ours, theirs, strict=True))), layout
    )
    is_theirs = np.arange(len(shares)) >= len(ours.known)
    found = _distances(shares, has_value, is_theirs[None, :], layout)
    return np.asarray(found[0], dtype=np.float64)


def _shares(counts: _Counts, layout: _Layout) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turn the counts of groups into shares, zero where a group has no value."""
    has_value = counts.known > 0
    shares = counts.below / np.maximum(counts.known, 1)[:, layout.column_of]
    return shares.astype(np.float32), has_value.astype(np.float32)


def _distances(
    shares: NDArray[np.float32],
    has_value: NDArray[np.float32],
    is_theirs: NDArray[np.bool_],
    layout: _Layout,
) -> NDArray[np.float32]:
    """Measure the distance of both sides for each assignment, ``(n_assignments, n_columns)``."""
    chosen = is_theirs.astype(np.float32)
    theirs, n_theirs = chosen @ shares, chosen @ has_value
    ours, n_ours = shares.sum(axis=0) - theirs, has_value.sum(axis=0) - n_theirs
    # In place: pages of new arrays cost more than the arithmetic.
    theirs /= np.maximum(n_theirs, 1)[:, layout.column_of]
    ours /= np.maximum(n_ours, 1)[:, layout.column_of]
    gap = np.abs(np.subtract(theirs, ours, out=theirs), out=theirs)
    greatest = np.maximum.reduceat(gap, layout.starts, axis=1)
    variation = np.add.reduceat(gap, layout.starts, axis=1) / 2
    return np.asarray(np.where(layout.is_numerical, greatest, variation), dtype=np.float32)
