"""Compare observed traffic with a reference, column by column, by permuting whole patients.

Beats of one person are correlated: a test that treats beats as independent reports drift in half
of the windows without any. So each group (a patient, or a client that names none, see
:mod:`ecg_lib.operations.drift.traffic_log`) has equal weight, and whole groups are permuted
(permutation test, Good 2005, DOI 10.1007/b138696).

Groups are exchangeable only if they are built in the same way, but a subject of the reference has
hundreds of strips and a patient of the traffic may have one. Each subject is therefore dealt as
many strips, of the same lengths, as a patient of the traffic drawn at random; this is repeated, and
the median of the p-values counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.drift.observation import (
    CATEGORICAL_COLUMNS,
    COMPARED_COLUMNS,
    ObservedBeats,
)
from ecg_lib.operations.drift.permutation import (
    StripCounts,
    adjust_p_values,
    count_values,
    deal_strips,
    measure_distances,
    permute,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonConfig:
    """Limits of the comparison, and of what counts as drift of a column.

    The least distances were chosen on DS1: smaller ones lie between halves of its subjects.
    """

    alpha: float = 0.05
    """Probability of any drifted column without real drift (Holm 1979)."""
    min_ks_distance: float = 0.15
    """Least distance of a numerical column: Kolmogorov-Smirnov, 0 to 1."""
    min_variation_distance: float = 0.05
    """Least distance of a categorical column: total variation, 0 to 1."""
    max_length_ratio: float = 1.5
    """Strips are compared with reference strips longer or shorter by at most this factor."""
    n_draws: int = 10
    """Number of times that strips are dealt to the subjects of the reference."""
    n_permutations: int = 999
    """For each draw."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDrift:
    """Drift of one column."""

    column: str
    distance: float
    """Kolmogorov-Smirnov (numerical) or total variation (categorical); groups weigh equally."""
    p_value: float
    p_adjusted: float
    """After Holm's correction over all columns."""
    is_drifted: bool
    """Unlikely to be chance, and large enough to matter."""
    reference: str
    """Quartiles, or the share of each category."""
    current: str
    least: float = 0.0
    """Least distance that matters."""
    effect: float | None = None
    """How far the middle of the groups moved: their median, in interquartile ranges of the
    reference; of categories the change of the share that changed most. None where the reference
    has no spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Traffic compared with its reference, column by column."""

    columns: tuple[ColumnDrift, ...]
    n_strips: int
    n_beats: int
    n_groups: int
    n_reference_groups: int
    left_out: tuple[str, ...]
    """Strips and columns that could not be compared, with the reason."""

    def drifted(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return those of the named columns that drifted."""
        return tuple(
            drift.column for drift in self.columns if drift.is_drifted and drift.column in names
        )


class MatchedBeats(NamedTuple):
    """Reference and traffic with strips of similar lengths."""

    reference: ObservedBeats
    current: ObservedBeats
    length: NDArray[np.float64]
    """Length of the reference strips that each strip of the traffic is compared with."""
    left_out: tuple[str, ...]
    """Strips without a counterpart, with the reason."""


def match_lengths(
    reference: ObservedBeats, current: ObservedBeats, *, max_ratio: float
) -> MatchedBeats:
    """Keep the strips of similar lengths on both sides.

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
            f"{len(far_s)} strips of {range_s}: the reference has no strips of such a length",
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
    for name in COMPARED_COLUMNS if matched.current.n_strips else ():
        absent = [
            side
            for side, beats in (("reference", matched.reference), ("traffic", matched.current))
            if not _is_known(beats.columns[name]).any()
        ]
        if absent:
            left_out.append(f"{name}: no value in the {' and the '.join(absent)}")
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


def _is_known(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    if np.issubdtype(values.dtype, np.floating):
        return np.isfinite(values.astype(np.float64))
    return np.ones(len(values), dtype=np.bool_)


def _compare_columns(
    matched: MatchedBeats, names: Sequence[str], config: ComparisonConfig
) -> tuple[ColumnDrift, ...]:
    reference, current = matched.reference, matched.current
    ours, theirs, layout = count_values(reference, current, names)
    strips = StripCounts.of(current.group, matched.length)
    traffic = theirs.add_up(strips.order, strips.starts)
    subjects = StripCounts.of(reference.group, reference.strip_s)
    everything = ours.add_up(subjects.order, subjects.starts)
    distances = measure_distances(everything, traffic, layout)

    rng = np.random.default_rng(config.seed)
    p_values = np.median(
        [
            permute(
                ours.add_up(*deal_strips(subjects, strips, rng)),
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
            least=float(least[index]),
            effect=_measure_effect(reference, current, name),
        )
        for index, name in enumerate(names)
    )


def _describe(values: NDArray[np.generic]) -> str:
    if np.issubdtype(values.dtype, np.floating):
        known = values.astype(np.float64)
        low, middle, high = np.nanquantile(known, [0.25, 0.5, 0.75])
        return f"{middle:.3g} ({low:.3g} to {high:.3g})"
    counts = Counter(values.tolist())
    return ", ".join(
        f"{category} {counts[category] / len(values):.1%}" for category in sorted(counts)
    )


def _measure_effect(reference: ObservedBeats, current: ObservedBeats, name: str) -> float | None:
    if name in CATEGORICAL_COLUMNS:
        shares = [_share_categories(beats, name) for beats in (reference, current)]
        changes = [
            shares[1].get(category, 0.0) - shares[0].get(category, 0.0)
            for category in sorted(shares[0].keys() | shares[1].keys())
        ]
        return max(changes, key=abs)
    values = reference.columns[name].astype(np.float64)
    low, high = np.nanquantile(values, [0.25, 0.75])
    if not high > low:
        return None
    middles = [np.median(_group_medians(beats, name)) for beats in (reference, current)]
    return float((middles[1] - middles[0]) / (high - low))


def _group_medians(beats: ObservedBeats, name: str) -> NDArray[np.float64]:
    values = beats.columns[name].astype(np.float64)
    _, group = np.unique(beats.group, return_inverse=True)
    group_of_beat = group[beats.strip]
    is_known = np.isfinite(values)
    return np.array(
        [
            np.median(values[is_known & (group_of_beat == one)])
            for one in np.unique(group_of_beat[is_known])
        ]
    )


def _share_categories(beats: ObservedBeats, name: str) -> dict[str, float]:
    """Return the share of each category; groups weigh equally."""
    _, group = np.unique(beats.group, return_inverse=True)
    group_of_beat = group[beats.strip]
    weights = 1 / np.bincount(group_of_beat)[group_of_beat]
    values = beats.columns[name].astype(np.str_)
    return {
        category: float(weights[values == category].sum() / weights.sum())
        for category in sorted(set(values.tolist()))
    }
