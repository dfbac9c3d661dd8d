"""The limits of conducted shapes, on both sides, with blocks that are written down."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.signal_path.conducted_shapes import (
    ConductedShape,
    assign_shapes,
    find_conducted_shapes,
)
from ecg_lib.signal_path.filter_design import FS_HZ
from ecg_lib.signal_path.template import Block, Forms, measure_qrs_width

RR_S: Final = 1.25
"""Interval of the template; a fifth of it, and 0.15 of it, are exact numbers."""
N_MEMBERS: Final = 100
N_WINDOW: Final = 200


def block_of(groups: NDArray[np.int64], *, sameness: float = 1.0) -> Block:
    """Make a block whose beats are alike within a group; groups of a low number score more."""
    n_beats = len(groups)
    alike = np.where(groups[:, None] == groups, sameness, 0.0).astype(np.float32)
    np.fill_diagonal(alike, 1.0)
    nothing = np.zeros((n_beats, 1), dtype=np.float32)
    return Block(
        part=slice(0, n_beats),
        forms=Forms(nothing, nothing),
        sameness=alike,
        shape_features=np.zeros((n_beats, 5)),
        score=-groups.astype(np.float64),
        median_rr_s=RR_S,
        template=np.zeros(N_WINDOW, dtype=np.float32),
        weight=1.0,
    )


def draw_ramp(n_samples: int) -> NDArray[np.float32]:
    """Draw a window whose QRS complex is a ramp of so many samples."""
    ramp = np.zeros(N_WINDOW)
    start = N_WINDOW // 2 - n_samples // 2
    ramp[start + 1 : start + n_samples + 1] = np.arange(1, n_samples + 1) * 0.02
    ramp[start + n_samples + 1 :] = n_samples * 0.02
    return ramp.astype(np.float32)


def ramp_of(width_samples: int) -> NDArray[np.float32]:
    """Draw the ramp whose measured width is so many samples."""
    for n_samples in range(4, 90):
        window = draw_ramp(n_samples)
        if round(float(measure_qrs_width(window[None])[0]) * FS_HZ) == width_samples:
            return window
    pytest.fail(f"no ramp has a width of {width_samples} samples")


def n_found(
    groups: NDArray[np.int64],
    rr_prev: NDArray[np.float64],
    rr_next: NDArray[np.float64] | None = None,
    *,
    width_samples: int = 36,
    sameness: float = 1.0,
) -> int:
    """Count the conducted shapes besides group 0, the template."""
    after = np.concatenate([rr_prev[1:], [RR_S]]) if rr_next is None else rr_next
    found = find_conducted_shapes(
        block_of(groups, sameness=sameness),
        is_template=groups == 0,
        rr_prev=rr_prev,
        rr_next=after,
        windows=np.tile(ramp_of(width_samples), (len(groups), 1)),
    )
    return len(found)


def template_and_members(n_members: int = N_MEMBERS) -> NDArray[np.int64]:
    return np.repeat([0, 1, 0], [60, n_members, 60])


@pytest.mark.parametrize(("width_samples", "expected"), [(54, 1), (55, 0)])
def test_a_shape_is_narrow_up_to_54_samples_which_are_150_ms(
    width_samples: int, expected: int
) -> None:
    groups = template_and_members()
    rr = np.full(len(groups), RR_S)
    assert n_found(groups, rr, width_samples=width_samples) == expected


@pytest.mark.parametrize(
    ("rr_s", "expected"), [(1.0, 1), (0.99, 0), (1.5, 1), (1.51, 0), (1.25, 1)]
)
def test_the_rate_may_differ_by_a_fifth(rr_s: float, expected: int) -> None:
    groups = template_and_members()
    rr = np.where(groups == 1, rr_s, RR_S)
    assert n_found(groups, rr) == expected


@pytest.mark.parametrize(("n_off", "expected"), [(20, 1), (21, 0)])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_fifth_of_the_beats_may_be_off_time(side: str, n_off: int, expected: int) -> None:
    groups = template_and_members()
    rr_prev, rr_next = np.full((2, len(groups)), RR_S)
    off = 62 + 4 * np.arange(n_off)  # so far apart that the rhythm around them stays
    (rr_prev if side == "before" else rr_next)[off] = 0.7
    assert n_found(groups, rr_prev, rr_next) == expected


@pytest.mark.parametrize(("rr_s", "expected"), [(1.4375, 1), (1.445, 0), (1.0625, 1), (1.05, 0)])
def test_an_interval_is_on_time_within_15_percent(rr_s: float, expected: int) -> None:
    groups = template_and_members()
    rr_prev, rr_next = np.full((2, len(groups)), RR_S)
    rr_prev[62 + 4 * np.arange(21)] = rr_s
    assert n_found(groups, rr_prev, rr_next) == expected


def test_intervals_that_lead_out_of_the_block_are_not_judged() -> None:
    """With one more beat off time, the shape would not be conducted."""
    groups = np.repeat([1, 0, 1], [50, 60, 50])
    rr_prev, rr_next = np.full((2, len(groups)), RR_S)
    rr_prev[np.concatenate([np.arange(3, 47, 4), np.arange(115, 151, 4)])] = 0.7
    rr_prev[0], rr_next[-1] = np.nan, np.nan
    assert n_found(groups, rr_prev, rr_next) == 1
    rr_prev[154] = 0.7
    assert n_found(groups, rr_prev, rr_next) == 0


@pytest.mark.parametrize(("others", "expected"), [(True, 1), (False, 0)])
def test_intervals_to_beats_of_no_known_shape_are_not_judged(
    expected: int, *, others: bool
) -> None:
    groups = np.repeat([0, 1, 0], [60, 40, 60])
    rr_prev, rr_next = np.full((2, len(groups)), RR_S)
    for at in range(70, 96, 2):
        rr_prev[at], rr_next[at - 1] = 0.7, 0.7
        groups[at - 1] = 10 + at if others else 0
    assert n_found(groups, rr_prev, rr_next) == expected


@pytest.mark.parametrize(("sameness", "expected"), [(0.5, 0), (0.49, 0), (0.51, 1)])
def test_beats_are_of_a_shape_from_half_the_sameness(sameness: float, expected: int) -> None:
    groups = template_and_members()
    rr = np.full(len(groups), RR_S)
    assert n_found(groups, rr, sameness=sameness) == expected


def test_a_shape_without_a_stretch_does_not_hide_the_next_one() -> None:
    groups = template_and_members()
    groups[5:50:5] = -1  # of the best score, and never two in a row
    rr = np.full(len(groups), RR_S)
    assert n_found(groups, rr) == 1


def test_the_rhythm_is_of_eleven_beats() -> None:
    """Six of one rate and six of another in turn: of twelve beats the slower one would be it."""
    groups = template_and_members(120)
    rr = np.full(len(groups), RR_S)
    rr[60:180] = np.tile(np.repeat([RR_S, 1.0], 6), 10)
    assert n_found(groups, rr, rr) == 1


@pytest.mark.parametrize(
    ("template", "members", "expected"),
    [
        ([3], [1, 5], [0, 1, 0, 0, 0, 1, 0, 0]),  # a template beat parts two of the shape
        ([5], [2], [0, 0, 1, 0, 0, 0, 0, 0]),  # others before the first of a shape
    ],
)
def test_other_beats_between_a_shape_and_the_template_are_compared_with_the_template(
    template: list[int], members: list[int], expected: list[int]
) -> None:
    def mask(at: list[int]) -> NDArray[np.bool_]:
        return np.isin(np.arange(8), at)

    assert assign_shapes(mask(template), [ConductedShape(0, mask(members))]).tolist() == expected
