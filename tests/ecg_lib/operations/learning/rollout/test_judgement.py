"""The bounds of a candidate: false returns are as rare as stated, and bad models are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.operations.learning.rollout.candidate import Bounds
from ecg_lib.operations.learning.rollout.comparison_log import Compared, GroupCounts
from ecg_lib.operations.learning.rollout.judgement import (
    find_sign_chance,
    is_look_due,
    judge,
    weigh_mean,
)

LOOKS = (20, 25, 32, 40, 50, 63, 79, 99, 124, 155, 194)
"""People at each look; a look comes when there are a quarter more strips."""


def group(
    *,
    champion: float = 0.1,
    candidate: float = 0.1,
    both: float | None = None,
    refused: int = 0,
    champion_refused: int = 0,
    champion_runs: int = 0,
    candidate_runs: int = 0,
    judged: int = 1000,
) -> GroupCounts:
    v_both = min(champion, candidate) if both is None else both
    return GroupCounts(
        strips=10,
        seconds=100.0,
        refused=refused,
        champion_refused=champion_refused,
        v_champion=round(champion * 1000),
        v_candidate=round(candidate * 1000),
        v_both=round(v_both * 1000),
        judged_champion=1000,
        judged_candidate=judged,
        runs_champion=champion_runs,
        runs_candidate=candidate_runs,
        strips_with_run_champion=champion_runs,
        strips_with_run_candidate=candidate_runs,
    )


def compared(groups: list[GroupCounts], **more: object) -> Compared:
    found = Compared(groups={str(number): one for number, one in enumerate(groups)})
    return replace(found, **more)  # type: ignore[arg-type]  # any field


def at_the_bound(rng: np.random.Generator, kind: str, bound: float, n: int) -> NDArray[np.float64]:
    """Draw differences whose mean is the bound: the worst that must not be taken back."""
    if kind == "rare and large":
        return (rng.random(n) < bound).astype(float)
    if kind == "both ways":
        return np.where(rng.random(n) < (1 + bound) / 2, 1.0, -1.0)
    return bound + rng.uniform(-0.1, 0.1, n)


@pytest.mark.parametrize("kind", ["rare and large", "both ways", "narrow"])
@pytest.mark.parametrize("bound", [0.01, 0.1])
def test_a_candidate_at_its_bound_is_taken_back_as_seldom_as_stated(
    kind: str, bound: float
) -> None:
    chance, n_rollouts = 0.05, 400
    rng = np.random.default_rng(4)
    n_false = 0
    for _ in range(n_rollouts):
        values = at_the_bound(rng, kind, bound, LOOKS[-1])
        n_false += any(
            weigh_mean(values[:n].tolist(), bound) >= (look * (look + 1)) / chance
            for look, n in enumerate(LOOKS, start=1)
        )
    # One test has all of the chance here, that nine share in a rollout.
    assert n_false / n_rollouts <= chance


def test_two_models_that_agree_are_never_taken_back() -> None:
    groups = [group() for _ in range(500)]
    judgement = judge(
        compared(groups, timed={str(n): (1.0,) for n in range(500)}), Bounds(), looks=0
    )
    assert judgement.breaches == ()
    assert judgement.chance == pytest.approx(0.05 / 2)


@pytest.mark.parametrize("looks", [0, 5])
@pytest.mark.parametrize(
    ("bad", "name", "people"),
    [
        ({"candidate": 0.9}, "share of V, rise", 30),
        ({"champion": 0.6, "candidate": 0.4}, "share of V, fall", 400),
        ({"champion": 0.06, "candidate": 0.0}, "V beats that it does not call V", 40),
        ({"both": 0.0}, "V beats that it does not call V", 40),
        ({"candidate": 0.02, "judged": 200}, "beats without a class, rise", 40),
        ({"champion_runs": 5}, "strips with a V run, fall", 40),
        ({"candidate_runs": 5}, "strips with a V run, rise", 40),
        ({"refused": 30}, "strips that it alone refuses", 30),
        ({"champion_refused": 30}, "strips that it alone answers", 40),
    ],
)
def test_a_bad_candidate_is_taken_back_for_what_it_does(
    bad: dict[str, float], name: str, people: int, looks: int
) -> None:
    groups = [group(**bad) for _ in range(people)]  # type: ignore[arg-type]  # any field
    judgement = judge(compared(groups), Bounds(), looks=looks)
    assert name in [text.partition(":")[0] for text in judgement.breaches]
    # Few people prove nothing, however large the difference.
    assert judge(compared(groups[:5]), Bounds(), looks=looks).breaches == ()


@pytest.mark.parametrize(("people", "least"), [(70, 10), (140, 95)])
def test_a_candidate_that_trebles_the_share_of_v_is_found_with_enough_people(
    people: int, least: int
) -> None:
    rng = np.random.default_rng(1)
    n_found = 0
    for _ in range(100):
        rises = np.clip(rng.normal(0.2, 0.2, people), -0.1, 0.9)
        groups = [group(candidate=0.1 + rise) for rise in rises]
        n_found += bool(judge(compared(groups), Bounds(), looks=2).breaches)
    assert n_found >= least


def test_a_change_within_the_bounds_is_kept() -> None:
    groups = [group(candidate=0.14) for _ in range(1000)]
    assert judge(compared(groups), Bounds(), looks=0).breaches == ()
    over = [group(candidate=0.2) for _ in range(1000)]
    assert judge(compared(over), Bounds(), looks=0).breaches != ()


@pytest.mark.parametrize(
    ("ratio", "n", "is_slow"), [(1.5, 200, False), (2.5, 200, True), (2.5, 8, False)]
)
def test_a_slow_candidate_is_taken_back_by_the_medians_of_enough_people(
    ratio: float, n: int, *, is_slow: bool
) -> None:
    found = compared([group()], timed={str(person): (ratio, ratio, 1.0) for person in range(n)})
    names = [text.partition(":")[0] for text in judge(found, Bounds(), looks=0).breaches]
    assert names == (["time for a strip"] if is_slow else [])


def test_many_slow_strips_of_few_people_prove_nothing() -> None:
    found = compared([group()], timed={str(person): (2.5,) * 500 for person in range(5)})
    assert judge(found, Bounds(), looks=0).breaches == ()


def test_half_above_the_limit_proves_nothing_and_all_does() -> None:
    assert find_sign_chance(0, 10) == 1.0
    assert find_sign_chance(5, 10) == pytest.approx(0.623, abs=1e-3)
    assert find_sign_chance(10, 10) == pytest.approx(2.0**-10)
    assert find_sign_chance(5000, 5000) == 0.0


def test_evidence_needs_people_and_grows_with_them() -> None:
    assert weigh_mean([], 0.05) == pytest.approx(1.0)
    assert weigh_mean([0.0] * 50, 0.05) < 1
    grown = [weigh_mean([0.8] * n, 0.05) for n in (5, 10, 20)]
    assert grown[0] < 10
    assert 50 < grown[1] < 200
    assert grown[2] > 5000
    assert weigh_mean([1.0] * 5000, 0.0) > 1e300


def test_nothing_compared_breaks_nothing() -> None:
    judgement = judge(Compared(), Bounds(), looks=0)
    assert judgement.breaches == ()
    assert {finding.n for finding in judgement.findings} == {0}


def test_looks_become_rarer_as_strips_grow() -> None:
    assert not is_look_due(19, judged_strips=0)
    assert is_look_due(20, judged_strips=0)
    assert not is_look_due(124, judged_strips=100)
    assert is_look_due(125, judged_strips=100)
