"""Judge a candidate by its bounds, so that a good one is seldom taken back by chance.

What is judged is a mean over people: strips of one person are alike, and each person counts once.
For each person the difference between the models on the same strips lies between -1 and 1. The test
multiplies ``1 + rate * (difference - bound)`` over people. When the true mean is within the bound,
no factor has an expectation above 1; so the product reaches 1/p with a probability of p at most
(Markov), with however few people, and whatever the distribution (Waudby-Smith and Ramdas, 2024).
Of times it is the median of each person, by a sign test.

Judged again and again, chances add up. The k-th look at each of the tests may err with a chance of
``1 / (k (k + 1))`` of the share of that test, which adds up to the share, whatever repeats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import bdtrc, logsumexp

from ecg_lib.operations.learning.rollout.candidate import Bounds
from ecg_lib.operations.learning.rollout.comparison_log import Compared, GroupCounts

LOOK_GROWTH: Final = 1.25
"""Growth of the number of strips between two looks: more looks cost power and show little new."""

FIRST_LOOK: Final = 20
"""Least number of strips of the first look."""

_RATES: Final = (0.1, 0.3, 0.6, 0.95)
"""Bets on a breach, as shares of the largest one that cannot lose everything."""

_LARGEST_LOG: Final = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one bound."""

    name: str
    value: float | None
    """The mean over people, or the ratio of times; None where nothing was compared."""
    bound: float
    n: int
    """People."""
    is_breach: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The results of all bounds."""

    findings: tuple[Finding, ...]
    looks: int
    """How often bounds were judged, with this time."""
    chance: float
    """Largest chance that this look takes back a candidate that is within its bounds."""

    @property
    def breaches(self) -> tuple[str, ...]:
        """Texts of the bounds that are broken."""
        return tuple(finding.text for finding in self.findings if finding.is_breach)


def is_look_due(strips: int, *, judged_strips: int, stage_strips: int = 0) -> bool:
    """Return whether enough was compared since the last look, counted from the present stage."""
    judged = max(judged_strips - stage_strips, 0)
    return strips - stage_strips >= max(FIRST_LOOK, math.ceil(LOOK_GROWTH * judged))


def judge(compared: Compared, bounds: Bounds, *, looks: int) -> Judgement:
    """Judge all bounds.

    Parameters
    ----------
    compared : Compared
        All comparisons of the candidate.
    bounds : Bounds
    looks : int
        How often they were judged before.

    """
    look = looks + 1
    groups = list(compared.groups.values())
    shares = [_v_shares(group) for group in groups if group.judged_champion]
    rises = [candidate - champion for champion, candidate in shares]
    runs = [
        (group.strips_with_run_candidate - group.strips_with_run_champion) / group.strips
        for group in groups
        if group.strips
    ]
    asked = [group.strips + group.refused + group.champion_refused for group in groups]
    refused = [one.refused / n for one, n in zip(groups, asked, strict=True) if n]
    accepted = [one.champion_refused / n for one, n in zip(groups, asked, strict=True) if n]
    lost = [1 - group.v_both / group.v_champion for group in groups if group.v_champion]
    unclassed = [
        max(-1.0, 1 - group.judged_candidate / group.judged_champion)
        for group in groups
        if group.judged_champion
    ]
    falls, fewer = [-rise for rise in rises], [-rise for rise in runs]
    means = (
        ("share of V, rise", rises, bounds.max_v_share_rise),
        ("share of V, fall", falls, bounds.max_v_share_fall),
        ("V beats that it does not call V", lost, bounds.max_v_lost),
        ("beats without a class, rise", unclassed, bounds.max_unclassed_rise),
        ("strips with a V run, rise", runs, bounds.max_run_share_rise),
        ("strips with a V run, fall", fewer, bounds.max_run_share_fall),
        ("strips that it alone refuses", refused, bounds.max_refused_share),
        ("strips that it alone answers", accepted, bounds.max_accepted_share),
    )
    chance = bounds.false_return_chance / (look * (look + 1))
    share = chance / (len(means) + 1)  # of each test, with that of times
    findings = (
        *(_judge_mean(name, values, bound, share) for name, values, bound in means),
        _judge_times(compared.timed, bounds.max_latency_ratio, share),
    )
    return Judgement(findings=findings, looks=look, chance=chance)


def weigh_mean(values: Sequence[float], bound: float) -> float:
    """Return the evidence that a mean exceeds a bound: 1/p or more has a chance of p otherwise.

    Parameters
    ----------
    values : sequence of float
        One for each person, between -1 and 1.
    bound : float
        From 0 to below 1.

    """
    largest_bet = 1 / (1 + bound)
    gains = np.asarray(values, dtype=np.float64) - bound
    logs = np.log1p(np.outer(np.multiply(_RATES, largest_bet), gains)).sum(axis=1)
    return math.exp(min(float(logsumexp(logs)) - math.log(len(_RATES)), _LARGEST_LOG))


def find_sign_chance(n_above: int, n: int) -> float:
    """Return the chance of so many of `n` above a limit, when half of them are at most."""
    return 1.0 if n_above == 0 else float(bdtrc(n_above - 1, n, 0.5))


def _v_shares(group: GroupCounts) -> tuple[float, float]:
    of_candidate = group.v_candidate / group.judged_candidate if group.judged_candidate else 0.0
    return group.v_champion / group.judged_champion, of_candidate


def _judge_mean(name: str, values: Sequence[float], bound: float, chance: float) -> Finding:
    if not values:
        return Finding(
            name=name, value=None, bound=bound, n=0, is_breach=False, text=f"{name}: nothing yet"
        )
    mean = math.fsum(values) / len(values)
    is_breach = mean > bound and weigh_mean(values, bound) >= 1 / chance
    text = (
        f"{name}: {100 * mean:+.1f} points on {len(values)} people, at most "
        f"{100 * bound:.1f} allowed"
    )
    return Finding(
        name=name, value=mean, bound=bound, n=len(values), is_breach=is_breach, text=text
    )


def _judge_times(timed: Mapping[str, Sequence[float]], bound: float, chance: float) -> Finding:
    """Judge the median of each person: strips of one person, or of one moment, are alike."""
    name = "time for a strip"
    if not timed:
        text = f"{name}: nothing yet"
        return Finding(name=name, value=None, bound=bound, n=0, is_breach=False, text=text)
    medians = [float(np.median(ratios)) for ratios in timed.values()]
    value, n = float(np.median(medians)), len(medians)
    is_breach = find_sign_chance(sum(one > bound for one in medians), n) <= chance
    text = f"{name}: {value:.2f} times that of the champion for {n} people, at most {bound:g}"
    return Finding(name=name, value=value, bound=bound, n=n, is_breach=is_breach, text=text)
