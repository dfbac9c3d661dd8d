"""Rows of V beats that are runs, and those that are not."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.rhythm.run_evidence import find_credible
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason


def _find(
    probability: list[float],
    *,
    is_v: list[bool] | None = None,
    run_threshold: float = 0.75,
    rr_s: list[float] | None = None,
    unreadable: tuple[Stretch, ...] = (),
) -> list[bool]:
    """Find the credible beats, half a second apart, at 1000 Hz."""
    n_beats = len(probability)
    steps = [0.0, *(rr_s or [0.5] * (n_beats - 1))][:n_beats]
    called = np.array([p >= 0.5 for p in probability] if is_v is None else is_v, dtype=np.bool_)
    credible = find_credible(
        np.rint(1000 * np.cumsum(steps)).astype(np.int64),
        is_v=called,
        is_readable=np.ones(n_beats, dtype=np.bool_),
        probability_v=np.array(probability),
        fs=1000.0,
        threshold=0.5,
        run_threshold=run_threshold,
        unreadable=unreadable,
    )
    return credible.tolist()


@pytest.mark.parametrize(
    ("mean", "is_run"), [(0.74, False), (0.75, True), (0.9, True), (0.51, False)]
)
@pytest.mark.parametrize("n", [3, 4, 30])
def test_a_row_is_a_run_from_the_mean_probability_on(mean: float, n: int, *, is_run: bool) -> None:
    row = [mean] * n
    assert _find([0.1, *row, 0.1]) == [False, *[is_run] * n, False]


@pytest.mark.parametrize("n", [1, 2])
def test_single_beats_and_couplets_answer_for_themselves(n: int) -> None:
    assert _find([0.1, *[0.51] * n, 0.1]) == [False, *[True] * n, False]


def test_one_sure_beat_does_not_carry_a_row_of_doubtful_ones() -> None:
    assert _find([0.1, 0.99, 0.55, 0.55, 0.1]) == [False, True, False, False, False]
    assert sum(_find([0.1, 0.99, 0.99, 0.55, 0.1])) == 3


def test_doubtful_neighbours_do_not_hide_sure_beats() -> None:
    assert _find([0.97] * 8 + [0.55] * 10) == [True] * 8 + [False] * 10
    assert _find([0.9, 0.9, 0.55, 0.55, 0.55]) == [True, True, False, False, False]
    assert _find([0.89, 0.89, 0.55, 0.55, 0.55]) == [False] * 5


@pytest.mark.parametrize(("gap_s", "is_one_row"), [(3.0, True), (3.01, False)])
def test_beats_on_both_sides_of_a_gap_do_not_make_a_row(gap_s: float, *, is_one_row: bool) -> None:
    found = _find([0.7, 0.7, 0.7, 0.7], rr_s=[0.5, gap_s, 0.5])
    assert found == [not is_one_row] * 4


def test_an_unreadable_stretch_between_beats_parts_a_row() -> None:
    noise = Stretch(600, 900, UnreadableReason.NOISE)
    assert _find([0.7] * 4, unreadable=(noise,)) == [True] * 4
    assert _find([0.7] * 4) == [False] * 4


def test_each_row_is_judged_alone() -> None:
    assert _find([0.6] * 3 + [0.1] + [0.9] * 3) == [False] * 4 + [True] * 3


def test_what_only_a_rule_calls_v_is_not_credible_and_parts_a_row() -> None:
    found = _find([0.6, 0.6, 0.4, 0.6], is_v=[True] * 4)
    assert found == [True, True, False, True]


def test_a_beat_that_a_rule_calls_n_is_not_credible() -> None:
    assert _find([0.9, 0.9, 0.9], is_v=[True, False, True]) == [True, False, True]


def test_without_a_limit_each_row_is_a_run() -> None:
    assert all(_find([0.5] * 5, run_threshold=0.0))
    assert _find([]) == []
