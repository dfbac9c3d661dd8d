"""Measure how certain a gross figure is and how much one person changes it, over subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up


class Interval(NamedTuple):
    """A figure and its bootstrap interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    counts_by_subject: Sequence[BeatCounts],
    statistic: Callable[[BeatCounts], float],
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Estimate a gross figure with a percentile bootstrap over subjects.

    Beats of one person are alike, so persons are drawn, not beats.

    Parameters
    ----------
    counts_by_subject : sequence of BeatCounts
        One entry for each subject.
    statistic : callable
        Figure of added-up counts, such as ``lambda counts: counts.v_f1``.
    seed : int
        Seed of the resampling.
    n_resamples : int
        Number of bootstrap samples.
    confidence : float
        Share of the resamples inside the interval.

    Returns
    -------
    Interval

    """
    intervals = bootstrap_intervals(
        counts_by_subject,
        {"figure": statistic},
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )
    return intervals["figure"]


def bootstrap_intervals(
    counts_by_subject: Sequence[BeatCounts],
    statistics: Mapping[str, Callable[[BeatCounts], float]],
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Estimate several gross figures from the same resamples; see :func:`bootstrap_interval`.

    A figure that has no denominator in any resample has NaN for its bounds.
    """
    resampled = _resample(counts_by_subject, seed=seed, n_resamples=n_resamples)
    gross = add_up(counts_by_subject)
    return {
        name: _interval(
            statistic(gross), [statistic(counts) for counts in resampled], confidence=confidence
        )
        for name, statistic in statistics.items()
    }


class LeftOut(NamedTuple):
    """Range of a gross figure when each subject in turn is left out."""

    low: float
    high: float
    low_without: str
    """The subject without whom the figure is lowest."""
    high_without: str


def leave_one_out(
    counts_by_subject: Mapping[str, BeatCounts], statistic: Callable[[BeatCounts], float]
) -> LeftOut:
    """Compute a gross figure without each subject in turn, and give its range.

    Parameters
    ----------
    counts_by_subject : mapping of str to BeatCounts
        At least two subjects.
    statistic : callable
        See :func:`bootstrap_interval`.

    Returns
    -------
    LeftOut
        NaN where the figure has no denominator whoever is left out.

    Raises
    ------
    ValueError
        If there are fewer than two subjects.

    """
    if len(counts_by_subject) < 2:
        msg = f"there must be at least two subjects, got {len(counts_by_subject)}"
        raise ValueError(msg)
    values = {
        subject: statistic(add_up([c for s, c in counts_by_subject.items() if s != subject]))
        for subject in counts_by_subject
    }
    known = {subject: value for subject, value in values.items() if np.isfinite(value)} or values
    lowest, highest = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return LeftOut(known[lowest], known[highest], lowest, highest)


def paired_bootstrap(
    ours: Sequence[BeatCounts],
    theirs: Sequence[BeatCounts],
    statistic: Callable[[BeatCounts], float],
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    confidence: float = 0.90,
    spread: float = 0.0,
) -> Interval:
    """Estimate the difference of a figure between two classifiers on the same subjects.

    A percentile interval of few subjects is too narrow: of five equal pairs it excludes no
    difference more than twice as often as stated. So what the subjects contribute is stretched
    about the estimate, as in Hesterberg's expanded percentile interval (The American Statistician
    69(4):371-386, 2015, https://doi.org/10.1080/00031305.2015.1089789): by the
    quantile of Student's t over that of the normal distribution, and by ``sqrt(n / (n - 1))``. His
    moves the percentiles instead, which needs very many resamples when subjects are few.

    Parameters
    ----------
    ours, theirs : sequence of BeatCounts
        One entry for each subject, in one order.
    spread : float
        Standard deviation of the difference that is not of the subjects, such as that of the seeds
        of training: each resample draws its own, from a normal distribution.

    Returns
    -------
    Interval
        Of ``statistic(ours) - statistic(theirs)``. That of one subject has no width of its own.

    Raises
    ------
    ValueError
        If both do not have the same number of subjects, or the spread is negative.

    """
    if len(ours) != len(theirs):
        msg = f"both must have the same subjects, got {len(ours)} and {len(theirs)}"
        raise ValueError(msg)
    if not spread >= 0:
        msg = f"spread must be at least 0, got {spread!r}"
        raise ValueError(msg)
    pairs = zip(
        _resample(ours, seed=seed, n_resamples=n_resamples),
        _resample(theirs, seed=seed, n_resamples=n_resamples),
        strict=True,
    )
    estimate = statistic(add_up(ours)) - statistic(add_up(theirs))
    of_people = np.array([statistic(a) - statistic(b) for a, b in pairs]) - estimate
    of_others = np.random.default_rng([seed, n_resamples]).standard_normal(n_resamples)
    stretch = _stretch_of_few(len(ours), confidence=confidence)
    return _interval(
        estimate, estimate + stretch * of_people + spread * of_others, confidence=confidence
    )


def _stretch_of_few(n_subjects: int, *, confidence: float) -> float:
    """Return how much too narrow a percentile interval of so many subjects is.

    >>> round(_stretch_of_few(5, confidence=0.9), 3), round(_stretch_of_few(22, confidence=0.9), 3)
    (1.449, 1.071)
    """
    if n_subjects < 2:
        return 1.0
    tail = (1 - confidence) / 2
    freedom = n_subjects - 1
    t, z = special.stdtrit(freedom, 1 - tail), special.ndtri(1 - tail)
    return float(t / z * np.sqrt(n_subjects / freedom))


def _interval(
    estimate: float, resampled: Sequence[float] | NDArray[np.float64], *, confidence: float
) -> Interval:
    values = np.asarray(resampled, dtype=np.float64)
    known = values[np.isfinite(values)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    return Interval(estimate, float(low), float(high))


def _resample(
    counts_by_subject: Sequence[BeatCounts], *, seed: int, n_resamples: int
) -> list[BeatCounts]:
    names = [f.name for f in fields(BeatCounts)]
    table = np.array([[getattr(counts, name) for name in names] for counts in counts_by_subject])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(table), size=(n_resamples, len(table)))
    sums = table[drawn].sum(axis=1)
    return [BeatCounts(**dict(zip(names, row.tolist(), strict=True))) for row in sums]
