"""Measure the classifier on traffic that clinicians labelled, and estimate it on the rest.

The estimate adds up calibrated probabilities (confidence-based estimation). It is too optimistic
exactly when the traffic changes, so it is shown and never decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up
from ecg_lib.evaluation.bootstrap import Interval, bootstrap_interval


class ReviewedStrip(NamedTuple):
    """A prediction with the classes that clinicians gave to its beats."""

    group: str
    """The patient, or the prediction when the patient is not known."""
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
    """Performance expected from calibrated probabilities."""

    f1: float
    sensitivity: float
    predictivity: float


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


def estimate_performance(
    probability_v: NDArray[np.floating], is_v: NDArray[np.bool_]
) -> EstimatedPerformance:
    """Estimate the performance from calibrated probabilities alone.

    Parameters
    ----------
    probability_v : ndarray of shape (n_beats,)
    is_v : ndarray of bool, shape (n_beats,)
        True where the classifier reported V.

    Returns
    -------
    EstimatedPerformance
        NaN where it is not defined.

    """
    true = float(probability_v[is_v].sum())
    called, expected = int(is_v.sum()), float(probability_v.sum())
    return EstimatedPerformance(
        f1=2 * true / (called + expected) if called + expected else float("nan"),
        sensitivity=true / expected if expected else float("nan"),
        predictivity=true / called if called else float("nan"),
    )
