"""Compare observed traffic with a reference, column by column, by permuting whole patients.

Beats of one person are alike: a test that takes beats for independent finds drift in every
second window of traffic that has none. So each group (a patient, or a prediction without one) has
one voice, and groups are exchanged (permutation test, Good 2005, DOI 10.1007/b138696).

Groups can be exchanged only when they are made alike, and a subject of the reference has hundreds
of strips where a patient of the traffic may have one. Each subject is therefore dealt as many
strips, of the same lengths, as a patient of the traffic drawn at random; this is repeated, and
the median of the p-values counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecg_lib.monitoring import CATEGORICAL_COLUMNS, NUMERICAL_COLUMNS, OBSERVED_COLUMNS

OUTPUT_COLUMNS: Final = ("probability_v", *CATEGORICAL_COLUMNS)
"""What the classifier says of a beat."""

INPUT_COLUMNS: Final = tuple(name for name in OBSERVED_COLUMNS if name not in OUTPUT_COLUMNS)
"""What is measured of the signal, whatever the classifier."""

_GRID_POINTS: Final = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonConfig:
    """How traffic is compared, and what counts as drift of a column.

    The least distances were chosen on DS1: smaller ones lie between halves of its subjects.
    """

    alpha: float = 0.05
    """Chance of any drifted column where there is no drift (Holm 1979)."""
    min_ks_distance: float = 0.15
    """Least distance of a numerical column: Kolmogorov-Smirnov, 0 to 1."""
    min_variation_distance: float = 0.05
    """Least distance of a categorical column: total variation, 0 to 1."""
    max_length_ratio: float = 1.5
    """Strips are compared with reference strips longer or shorter by at most this factor."""
    n_draws: int = 20
    """How often strips are dealt to the subjects of the reference."""
    n_permutations: int = 499
    """For each draw."""
    seed: int = 0


class ObservedStrip(NamedTuple):
    """One prediction."""

    group: str
    """The patient, or the prediction when the patient is not known."""
    duration_s: float
    observed: Mapping[str, Sequence[Any]]
    """Columns of :func:`ecg_lib.monitoring.observe_beats`; None where not a number."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObservedBeats:
    """Observed beats, the strips they come from and the groups of those."""

    columns: dict[str, NDArray[np.generic]]
    """:data:`OBSERVED_COLUMNS`, each of shape ``(n_beats,)``."""
    strip: NDArray[np.int64]
    """Strip of each beat."""
    group: NDArray[np.str_]
    """Group of each strip, shape ``(n_strips,)``."""
    strip_s: NDArray[np.float64]
    """Length of each strip in seconds."""

    @property
    def n_beats(self) -> int:
        """Number of beats."""
        return len(self.strip)

    @property
    def n_strips(self) -> int:
        """Number of strips."""
        return len(self.group)

    @property
    def n_groups(self) -> int:
        """Number of patients, or of predictions without one."""
        return len(np.unique(self.group))

    def select(self, keep: NDArray[np.bool_]) -> ObservedBeats:
        """Take some of the strips, given for each strip."""
        beats = keep[self.strip]
        new_index = np.cumsum(keep) - 1
        return ObservedBeats(
            columns={name: values[beats] for name, values in self.columns.items()},
            strip=new_index[self.strip[beats]],
            group=self.group[keep],
            strip_s=self.strip_s[keep],
        )


def read_reference(table: pa.Table) -> ObservedBeats:
    """Take the drift reference of a bundle, whose groups are subjects."""
    keys = list(
        zip(
            table["subject"].to_pylist(),
            table["strip"].to_pylist(),
            table["strip_s"].to_pylist(),
            strict=True,
        )
    )
    strips = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return ObservedBeats(
        columns={name: table[name].to_numpy(zero_copy_only=False) for name in OBSERVED_COLUMNS},
        strip=np.array([strips[key] for key in keys], dtype=np.int64),
        group=np.array([subject for subject, _, _ in strips], dtype=np.str_),
        strip_s=np.array([length_s for _, _, length_s in strips], dtype=np.float64),
    )


def gather_strips(strips: Iterable[ObservedStrip]) -> ObservedBeats:
    """Gather predictions; those without a readable beat are left out."""
    kept = [strip for strip in strips if len(strip.observed["rule"])]
    lengths = [len(strip.observed["rule"]) for strip in kept]
    columns: dict[str, NDArray[np.generic]] = {}
    for name in OBSERVED_COLUMNS:
        values = [value for strip in kept for value in strip.observed[name]]
        kind = np.float64 if name in NUMERICAL_COLUMNS else np.str_
        columns[name] = np.array(values, dtype=kind)  # None becomes NaN
    return ObservedBeats(
        columns=columns,
        strip=np.repeat(np.arange(len(kept)), lengths),
        group=np.array([strip.group for strip in kept], dtype=np.str_),
        strip_s=np.array([strip.duration_s for strip in kept], dtype=np.float64),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDrift:
    """How one column moved."""

    column: str
    distance: float
    """Kolmogorov-Smirnov (numerical) or total variation (categorical), groups weighing alike."""
    p_value: float
    p_adjusted: float
    """After Holm's correction over all columns."""
    is_drifted: bool
    """Unlikely to be chance, and large enough to matter."""
    reference: str
    """Quartiles, or the share of each category."""
    current: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Traffic against its reference."""

    columns: tuple[ColumnDrift, ...]
    n_strips: int
    n_beats: int
    n_groups: int
    n_reference_groups: int
    left_out: tuple[str, ...]
    """What could not be compared, and why."""

    def drifted(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of some columns that drifted."""
        return tuple(
            drift.column for drift in self.columns if drift.is_drifted and drift.column in names
        )


class MatchedBeats(NamedTuple):
    """Reference and traffic of like strip lengths."""

    reference: ObservedBeats
    current: ObservedBeats
    length: NDArray[np.float64]
    """Length of the reference strips that each strip of the traffic is compared with."""
    left_out: tuple[str, ...]
    """What has no like, and why."""


def match_lengths(
    reference: ObservedBeats, current: ObservedBeats, *, max_ratio: float
) -> MatchedBeats:
    """Keep the strips whose lengths are alike on both sides.

    Parameters
    ----------
    reference, current : ObservedBeats
    max_ratio : float
        How many times longer or shorter the nearest reference strips may be.

    Returns
    -------
    MatchedBeats

    Raises
    ------
    ValueError
        If the reference is empty.

    """
    if reference.n_strips == 0:
        raise ValueError("the reference must have at least one strip, got none")
    lengths = np.unique(reference.strip_s)
    ratios = np.abs(np.log(current.strip_s[:, None] / lengths))  # (n_strips, n_lengths)
    nearest = lengths[ratios.argmin(axis=1)]
    is_near = ratios.min(axis=1) <= np.log(max_ratio)
    left_out: tuple[str, ...] = ()
    if not is_near.all():
        far_s = current.strip_s[~is_near]
        range_s = f"{far_s.min():g} to {far_s.max():g} s"
        left_out = (
            f"{len(far_s)} strips of {range_s}, as the reference has none of such a length",
        )
    return MatchedBeats(
        reference=reference.select(np.isin(reference.strip_s, nearest[is_near])),
        current=current.select(is_near),
        length=nearest[is_near],
        left_out=left_out,
    )


def compare_beats(
    reference: ObservedBeats, current: ObservedBeats, *, config: ComparisonConfig | None = None
) -> Comparison:
    """Compare traffic with a reference.

    Parameters
    ----------
    reference : ObservedBeats
        With at least one strip.
    current : ObservedBeats
    config : ComparisonConfig, optional

    Returns
    -------
    Comparison
        Without columns when nothing could be compared.

    Raises
    ------
    ValueError
        If the reference is empty.

    """
    config = config or ComparisonConfig()
    matched = match_lengths(reference, current, max_ratio=config.max_length_ratio)
    names, left_out = [], list(matched.left_out)
    for name in OBSERVED_COLUMNS if matched.current.n_strips else ():
        absent = [
            side
            for side, beats in (("reference", matched.reference), ("traffic", matched.current))
            if not _is_known(beats.columns[name]).any()
        ]
        if absent:
            left_out.append(f"{name}, as there is no value in the {' and the '.join(absent)}")
        else:
            names.append(name)
    return Comparison(
        columns=_compare_columns(matched, names, config) if names else (),
        n_strips=matched.current.n_strips,
        n_beats=matched.current.n_beats,
        n_groups=matched.current.n_groups,
        n_reference_groups=matched.reference.n_groups,
        left_out=tuple(left_out),
    )


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


def _is_known(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    if np.issubdtype(values.dtype, np.floating):
        return np.isfinite(values.astype(np.float64))
    return np.ones(len(values), dtype=np.bool_)


class _Counts(NamedTuple):
    """Values of each strip, counted."""

    below: NDArray[np.float64]
    """Shape ``(n_strips, n_points)``: of numerical columns how many values lie at or below each
    point of a grid, of categorical ones how many are of each category; columns side by side."""
    known: NDArray[np.float64]
    """Shape ``(n_strips, n_columns)``: how many values there are."""

    def add_up(self, strips: NDArray[np.int64], group_starts: NDArray[np.int64]) -> _Counts:
        """Add up some strips, of which each group is a stretch."""
        return _Counts(
            np.add.reduceat(self.below[strips], group_starts, axis=0),
            np.add.reduceat(self.known[strips], group_starts, axis=0),
        )


class _Layout(NamedTuple):
    """Where the columns are among the points of :class:`_Counts`."""

    starts: NDArray[np.int64]
    column_of: NDArray[np.int64]
    is_numerical: NDArray[np.bool_]


def _compare_columns(
    matched: MatchedBeats, names: Sequence[str], config: ComparisonConfig
) -> tuple[ColumnDrift, ...]:
    reference, current = matched.reference, matched.current
    ours, theirs, layout = _count_values(reference, current, names)
    strips = _Strips.of(current.group, matched.length)
    traffic = theirs.add_up(strips.order, strips.starts)
    subjects = _Strips.of(reference.group, reference.strip_s)
    everything = ours.add_up(subjects.order, subjects.starts)
    distances = _measure_distances(everything, traffic, layout)

    rng = np.random.default_rng(config.seed)
    p_values = np.median(
        [
            _permute(
                ours.add_up(*_deal_strips(subjects, strips, rng)),
                traffic,
                layout,
                n_permutations=config.n_permutations,
                rng=rng,
            )
            for _ in range(config.n_draws)
        ],
        axis=0,
    )
    adjusted = adjust_p_values(p_values)
    least = np.where(layout.is_numerical, config.min_ks_distance, config.min_variation_distance)
    is_drifted = (adjusted <= config.alpha) & (distances >= least)
    return tuple(
        ColumnDrift(
            column=name,
            distance=float(distances[index]),
            p_value=float(p_values[index]),
            p_adjusted=float(adjusted[index]),
            is_drifted=bool(is_drifted[index]),
            reference=_describe(reference.columns[name]),
            current=_describe(current.columns[name]),
        )
        for index, name in enumerate(names)
    )


def _count_values(
    reference: ObservedBeats, current: ObservedBeats, names: Sequence[str]
) -> tuple[_Counts, _Counts, _Layout]:
    sides = (reference, current)
    below: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
    known: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
    for name in names:
        count = _count_grid if name in NUMERICAL_COLUMNS else _count_categories
        for side, (part, total) in enumerate(count(reference, current, name)):
            below[side].append(part)
            known[side].append(total)
    sizes = [part.shape[1] for part in below[0]]
    layout = _Layout(
        starts=np.cumsum([0, *sizes[:-1]]),
        column_of=np.repeat(np.arange(len(sizes)), sizes),
        is_numerical=np.isin(names, NUMERICAL_COLUMNS),
    )
    ours, theirs = (
        _Counts(np.hstack(below[side]), np.stack(known[side], axis=1)) for side in range(len(sides))
    )
    return ours, theirs, layout


def _count_grid(
    reference: ObservedBeats, current: ObservedBeats, name: str
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
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
        yield below.astype(np.float64), counts.sum(axis=1).astype(np.float64)


def _count_categories(
    reference: ObservedBeats, current: ObservedBeats, name: str
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Count each category, for each strip."""
    categories = np.unique(
        np.concatenate([beats.columns[name].astype(np.str_) for beats in (reference, current)])
    )
    width = len(categories)
    for beats in (reference, current):
        code = np.searchsorted(categories, beats.columns[name].astype(np.str_))
        counts = np.bincount(beats.strip * width + code, minlength=beats.n_strips * width)
        table = counts.reshape(-1, width).astype(np.float64)
        yield table, table.sum(axis=1)


class _Strips(NamedTuple):
    """Strips in the order of their groups."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    """Where each group starts in it."""
    by_length: list[dict[float, NDArray[np.int64]]]
    """Strips of each length, for each group."""

    @classmethod
    def of(cls, group: NDArray[np.str_], length: NDArray[np.float64]) -> _Strips:
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.r_[True, group[order][1:] != group[order][:-1]])
        by_length = [
            {float(one): strips[length[strips] == one] for one in np.unique(length[strips])}
            for strips in np.split(order, starts[1:])
        ]
        return cls(order, starts, by_length)


def _deal_strips(
    subjects: _Strips, traffic: _Strips, rng: np.random.Generator
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
        return _deal_strips(subjects, traffic, rng)
    starts = np.cumsum([0, *(len(hand) for hand in dealt[:-1])])
    return np.concatenate(dealt), starts


def _permute(
    ours: _Counts,
    theirs: _Counts,
    layout: _Layout,
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Compute the p-value of each column from exchanging groups."""
    shares, has_value = _shares(
        _Counts(*(np.concatenate(pair) for pair in zip(ours, theirs, strict=True))), layout
    )
    is_theirs = np.arange(len(shares)) >= len(ours.known)
    assigned = np.tile(is_theirs, (1 + n_permutations, 1))
    rng.permuted(assigned[1:], axis=1, out=assigned[1:])
    found = _distances(shares, has_value, assigned, layout)  # (1 + n_permutations, n_columns)
    # Equal distances may differ in the last digit, by the order in which they were added up.
    is_as_far = found[1:] >= found[0] - 1e-6
    return np.asarray((1 + is_as_far.sum(axis=0)) / (1 + n_permutations), dtype=np.float64)


def _measure_distances(ours: _Counts, theirs: _Counts, layout: _Layout) -> NDArray[np.float64]:
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
    gap = np.abs(
        theirs / np.maximum(n_theirs, 1)[:, layout.column_of]
        - ours / np.maximum(n_ours, 1)[:, layout.column_of]
    )
    greatest = np.maximum.reduceat(gap, layout.starts, axis=1)
    variation = np.add.reduceat(gap, layout.starts, axis=1) / 2
    return np.asarray(np.where(layout.is_numerical, greatest, variation), dtype=np.float32)


def _describe(values: NDArray[np.generic]) -> str:
    if np.issubdtype(values.dtype, np.floating):
        known = values.astype(np.float64)
        low, middle, high = np.nanquantile(known, [0.25, 0.5, 0.75])
        return f"{middle:.3g} ({low:.3g} to {high:.3g})"
    categories, counts = np.unique(values, return_counts=True)
    return ", ".join(
        f"{category} {count / len(values):.1%}"
        for category, count in zip(categories.tolist(), counts.tolist(), strict=True)
    )
