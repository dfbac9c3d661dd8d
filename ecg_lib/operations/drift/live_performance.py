"""Measure the classifier on traffic that clinicians labelled, and estimate it on the rest.

The estimate adds up calibrated probabilities (confidence-based estimation). It is too high
exactly when the traffic changes, so it is corrected by how far the shape of the beats moved, has an
interval that was measured under shifts, and still never decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up
from ecg_lib.evaluation.bootstrap import Interval, bootstrap_interval
from ecg_lib.operations.drift.comparison import Comparison
from ecg_lib.operations.drift.observation import ObservedBeats

_N_RESAMPLES: Final = 400


class ReviewedStrip(NamedTuple):
    """A prediction with the classes that clinicians gave to its beats."""

    group: str
    """The patient, or the client that names none."""
    called: Sequence[str | None]
    """``N``, ``V`` or None (unreadable) of each beat."""
    labels: Mapping[int, str]
    """``N`` or ``V`` by index of the beat."""
    missed: Sequence[str] = ()
    """``N`` or ``V`` of each beat that was not detected."""
    false_detections: Sequence[int] = ()
    """Indices of detections that are not beats."""


class ReviewedBeats(NamedTuple):
    """The beats of reviewed strips, counted."""

    counts: dict[str, BeatCounts]
    """By group."""
    n_strips: int
    n_partly: int
    """Strips that are left out because too few of their beats have a label."""


class LabelledPerformance(NamedTuple):
    """Performance on reviewed strips."""

    f1: Interval
    """V-F1 with its 90 % interval over groups."""
    sensitivity: float
    predictivity: float
    expected_f1: float | None
    """V-F1 that the development figures predict at this share of V beats; None without them."""
    n_strips: int
    n_partly: int
    n_beats: int
    n_v: int
    n_groups: int


class EstimatedPerformance(NamedTuple):
    """Performance expected without labels."""

    f1: Interval
    """V-F1 with an interval; NaN where no beat is V."""
    distance: float
    """How far the shape of the beats moved, by which the estimate is corrected."""


def count_reviewed(strips: Iterable[ReviewedStrip], *, min_share: float) -> ReviewedBeats:
    """Count the beats of the strips that were reviewed as a whole.

    Readers who label single beats pick suspicious ones, which biases the score.

    Parameters
    ----------
    strips : iterable of ReviewedStrip
    min_share : float
        Share of the beats of a strip that must have a label.

    Returns
    -------
    ReviewedBeats

    """
    counts: dict[str, BeatCounts] = {}
    n_strips = n_partly = 0
    for strip in strips:
        labels = {i: label for i, label in strip.labels.items() if 0 <= i < len(strip.called)}
        false = [strip.called[i] for i in strip.false_detections if 0 <= i < len(strip.called)]
        n_looked_at = len(labels) + len(false)
        if not n_looked_at or n_looked_at < min_share * len(strip.called):
            n_partly += 1
            continue
        n_strips += 1
        pairs = [(label, strip.called[index]) for index, label in labels.items()]
        counts[strip.group] = counts.get(strip.group, BeatCounts()) + BeatCounts(
            beats=len(pairs) + len(strip.missed),
            found=len(pairs),
            extra=len(false),
            v_beats=sum(label == "V" for label, _ in pairs) + strip.missed.count("V"),
            v_found=sum(label == "V" for label, _ in pairs),
            v_true=pairs.count(("V", "V")),
            v_false=pairs.count(("N", "V")) + false.count("V"),
            n_beats=sum(label == "N" for label, _ in pairs) + strip.missed.count("N"),
            n_true=pairs.count(("N", "N")),
            n_wrong=pairs.count(("N", "V")),
            v_wrong=pairs.count(("V", "N")),
            other_true=false.count("N"),
            abstained=sum(called is None for _, called in pairs),
        )
    return ReviewedBeats(counts, n_strips, n_partly)


def measure_performance(
    reviewed: ReviewedBeats, *, reference: BeatCounts | None, seed: int = 0
) -> LabelledPerformance:
    """Measure the performance on reviewed strips.

    An unreadable V beat counts as missed.

    Parameters
    ----------
    reviewed : ReviewedBeats
    reference : BeatCounts, optional
        Out-of-fold counts of the bundle.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    LabelledPerformance
        NaN where no beat is V.

    """
    total = add_up(list(reviewed.counts.values()))
    nan = float("nan")
    f1 = Interval(nan, nan, nan)
    if total.v_beats + total.v_false:
        f1 = bootstrap_interval(
            list(reviewed.counts.values()), lambda counts: counts.v_f1, seed=seed, confidence=0.90
        )
    return LabelledPerformance(
        f1=f1,
        sensitivity=total.v_sensitivity,
        predictivity=total.v_predictivity,
        expected_f1=None if reference is None else expect_f1(reference, total),
        n_strips=reviewed.n_strips,
        n_partly=reviewed.n_partly,
        n_beats=total.beats,
        n_v=total.v_beats,
        n_groups=len(reviewed.counts),
    )


def expect_f1(reference: BeatCounts, labelled: BeatCounts) -> float:
    """Compute the V-F1 that sensitivity and false positive rate of the reference would give.

    F1 depends on the share of V beats: the same classifier scores lower where they are rare.
    """
    true = reference.v_sensitivity * labelled.v_beats
    false = reference.v_false_positive_rate * labelled.n_beats
    called = true + false + labelled.v_beats
    return 2 * true / called if called else float("nan")


SHAPE_COLUMNS: Final = ("qrs_width_ms", "template_correlation")
"""Columns whose distance from the reference the estimate is corrected by."""

_OPTIMISM: Final = (0.02, 0.2)
"""Share by which the sum of probabilities is too high: without a shift, and for each unit of
distance. Fitted on DS1 and the development part of svdb, out of fold, under noise, gain, inversion,
irregular rhythm and the other lead (bundle d666baab19b3): the corrected estimate is then within
0.07 of the true V-F1 of each on average, where the sum was up to 0.32 above. ``make drift-power``
measures it again."""

_WIDER: Final = (0.08, 0.4)
"""Share by which the lower bound is lowered, alike; it is lowered as well by the share that cannot
be read, of which nothing is known. With this and :data:`_HIGHER` at least 90 % of the windows of
each of these shifts lay inside."""

_HIGHER: Final = 0.04
"""Amount by which the upper bound is raised."""

_LEAST_READABLE: Final = 0.02


def estimate_performance(
    current: ObservedBeats, *, drift: Comparison, refused_share: float, seed: int = 0
) -> EstimatedPerformance:
    """Estimate V-F1 from calibrated probabilities alone, on all signals that came.

    The V beats in signals that were refused, or cannot be read, count as missed: they are taken to
    be as frequent as in the rest.

    Parameters
    ----------
    current : ObservedBeats
    drift : Comparison
        Of `current` with the reference.
    refused_share : float
        Share of the signals that were refused.
    seed : int
        Seed of the bootstrap over groups.

    Returns
    -------
    EstimatedPerformance

    """
    distance = max(
        (one.distance for one in drift.columns if one.column in SHAPE_COLUMNS), default=0.0
    )
    probability = current.columns["probability_v"].astype(np.float64)
    is_v = current.columns["arrhythmia_type"] == "V"
    first = np.unique(current.strip, return_index=True)[1]
    readable_share = float(current.columns["readable_share"].astype(np.float64)[first].mean())
    readable = max((1 - refused_share) * readable_share, _LEAST_READABLE)
    names, group = np.unique(current.group, return_inverse=True)
    group_of_beat, n_groups = group[current.strip], len(names)
    true, called, expected = (
        np.bincount(group_of_beat, weights=values, minlength=n_groups)
        for values in (probability * is_v, is_v.astype(np.float64), probability / readable)
    )
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=_N_RESAMPLES)
    weights = np.vstack([np.ones(n_groups), drawn])
    whole = weights @ (called + expected)
    f1 = np.where(whole > 0, 2 * (weights @ true) / np.maximum(whole, 1e-12), np.nan)
    low, high = np.nanquantile(f1, [0.05, 0.95]) if np.isfinite(f1).any() else (np.nan, np.nan)
    return EstimatedPerformance(
        f1=Interval(
            float(f1[0] * (1 - _OPTIMISM[0] - _OPTIMISM[1] * distance)),
            float(low * (1 - _WIDER[0] - _WIDER[1] * distance) * readable),
            float(min(high + _HIGHER, 1.0)),
        ),
        distance=distance,
    )
