"""Simulate how many people it takes to find a bad candidate of a gradual rollout, by kind.

Each person sends ten strips, and differs from the mean by at most 10 points. The bounds are the
defaults, and a look comes when there are a quarter more strips. Prints the median number of people
over 200 rollouts, and how often a candidate at its bound was taken back, where a few people differ
wholly and the others not at all.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np

from ecg_lib.operations.learning.rollout.candidate import Bounds
from ecg_lib.operations.learning.rollout.comparison_log import Compared, GroupCounts
from ecg_lib.operations.learning.rollout.judgement import is_look_due, judge

STRIPS: Final = 10
BEATS: Final = 1000
MOST: Final = 3000
ROLLOUTS: Final = 200


def main() -> None:
    """Print both tables."""
    for kind, means in (
        ("rise of the share of V", (0.8, 0.4, 0.2, 0.1)),
        ("V beats that it does not call V", (1.0, 0.6, 0.4)),
    ):
        for mean in means:
            found = [_find(kind, mean, seed) for seed in range(ROLLOUTS)]
            people = float(np.median([one or np.inf for one in found]))
            sys.stdout.write(f"{kind}, {100 * mean:g} %: {people:g} people\n")
    bounds = Bounds()
    for kind, mean in (
        ("rise of the share of V", bounds.max_v_share_rise),
        ("V beats that it does not call V", bounds.max_v_lost),
    ):
        n_false = sum(
            _find(kind, mean, seed, most=300, is_rare=True) is not None for seed in range(ROLLOUTS)
        )
        sys.stdout.write(f"{kind}, at its bound: {n_false} of {ROLLOUTS} taken back\n")


def _find(
    kind: str, mean: float, seed: int, *, most: int = MOST, is_rare: bool = False
) -> int | None:
    """Return the number of people at the look that takes the candidate back."""
    rng = np.random.default_rng(seed)
    is_rise = kind.startswith("rise")
    largest = 0.9 if is_rise else 1.0
    if is_rare:
        values = largest * (rng.random(most) < mean / largest)
    else:
        spread = min(0.1, largest - mean)
        values = mean + rng.uniform(-spread, spread, most)
    judged = looks = 0
    for n in range(1, most + 1):
        if not is_look_due(n * STRIPS, judged_strips=judged):
            continue
        groups = {str(at): _group(float(values[at]), is_rise=is_rise) for at in range(n)}
        if judge(Compared(groups=groups), Bounds(), looks=looks).breaches:
            return n
        judged, looks = n * STRIPS, looks + 1
    return None


def _group(value: float, *, is_rise: bool) -> GroupCounts:
    v_champion = 100
    v_both = v_champion if is_rise else round(v_champion * (1 - value))
    v_candidate = round(v_champion + BEATS * value) if is_rise else v_both
    return GroupCounts(
        strips=STRIPS,
        seconds=10.0 * STRIPS,
        refused=0,
        v_champion=v_champion,
        v_candidate=v_candidate,
        v_both=min(v_both, v_candidate),
        judged_champion=BEATS,
        judged_candidate=BEATS,
        runs_champion=0,
        runs_candidate=0,
        strips_with_run_champion=0,
        strips_with_run_candidate=0,
    )


if __name__ == "__main__":
    main()
