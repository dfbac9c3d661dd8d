"""Counting, dealing and exchanging, on numbers that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ecg_lib.operations.drift.observation import ObservedBeats
from ecg_lib.operations.drift.permutation import (
    StripCounts,
    adjust_p_values,
    count_values,
    deal_strips,
    measure_distances,
    permute,
    permute_together,
)


def observe(
    strips: Sequence[Sequence[float]], *, amplitude: Sequence[Sequence[float]] | None = None
) -> ObservedBeats:
    """One group for each strip; beats above 1 s are called V."""
    rr = np.array([one for strip in strips for one in strip])
    other = rr if amplitude is None else np.array([one for strip in amplitude for one in strip])
    return ObservedBeats(
        columns={
            "rr_prev_s": rr,
            "amplitude_mv": other,
            "arrhythmia_type": np.where(rr > 1, "V", "N"),
        },
        strip=np.repeat(np.arange(len(strips)), [len(strip) for strip in strips]),
        group=np.array([f"patient {n}" for n in range(len(strips))]),
        strip_s=np.full(len(strips), 10.0),
    )


def test_p_values_keep_their_places_when_they_are_corrected() -> None:
    adjusted = adjust_p_values(np.array([0.01, 0.04, 0.03]))
    assert adjusted.tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_p_values(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]
    assert adjust_p_values(np.array([0.2, 0.97])).tolist() == pytest.approx([0.4, 0.97])


def test_values_are_counted_at_or_below_each_point_of_the_grid() -> None:
    ours, theirs, layout = count_values(
        observe([[0.5, 0.7], [0.7]]), observe([[0.6, 0.7, 0.5]]), ["rr_prev_s"]
    )
    assert ours.below.tolist() == [[1, 1, 2], [0, 0, 1]]  # at 0.5, 0.6 and 0.7
    assert ours.known.tolist() == [[2], [1]]
    assert theirs.below.tolist() == [[1, 2, 3]]
    assert theirs.known.tolist() == [[3]]
    assert layout.starts.tolist() == [0]
    assert layout.is_numerical.tolist() == [True]


def test_the_grid_has_48_quantiles_of_each_side() -> None:
    values = np.arange(1000) / 1000
    ours, theirs, _ = count_values(observe([values]), observe([values]), ["rr_prev_s"])
    assert ours.below.shape == theirs.below.shape == (1, 48)
    assert ours.below[0, [0, -1]].tolist() == [1, 1000]


def test_columns_lie_side_by_side() -> None:
    ours, theirs, layout = count_values(
        observe([[0.5, 1.5, 1.5]]),
        observe([[0.5], [1.5]]),
        ["arrhythmia_type", "rr_prev_s", "amplitude_mv"],
    )
    assert layout.starts.tolist() == [0, 2, 4]
    assert layout.column_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert layout.is_numerical.tolist() == [False, True, True]
    assert ours.below.tolist() == [[1, 2, 1, 3, 1, 3]]  # one N, two V; one at 0.5, all at 1.5
    assert theirs.below.tolist() == [[1, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1]]
    assert ours.known.tolist() == [[3, 3, 3]]
    assert theirs.known.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_strips_of_a_group_are_added_up() -> None:
    ours, _, _ = count_values(
        observe([[0.5], [0.7], [0.7], [0.5]]), observe([[0.5, 0.7]]), ["rr_prev_s"]
    )
    added = ours.add_up(np.array([0, 1, 3]), np.array([0, 2]))
    assert added.below.tolist() == [[1, 2], [1, 1]]
    assert added.known.tolist() == [[2], [1]]


def test_distances_are_the_greatest_gap_and_half_the_sum_of_gaps() -> None:
    # 1 of 4 beats against 3 of 4: the shares of N and V differ by 0.5 each.
    ours, theirs, layout = count_values(
        observe([[0.5, 0.6, 0.7, 1.5]]),
        observe([[0.5, 1.5, 1.6, 1.7]]),
        ["rr_prev_s", "arrhythmia_type"],
    )
    assert measure_distances(ours, theirs, layout).tolist() == pytest.approx([0.5, 0.5])


def test_a_group_of_one_beat_weighs_as_much_as_any_other() -> None:
    # Shares at 0.5: 1 and 0 of ours, 0 of theirs.
    ours, theirs, layout = count_values(
        observe([[0.5], [0.9, 0.9, 0.9]]), observe([[0.9]]), ["rr_prev_s"]
    )
    assert measure_distances(ours, theirs, layout).tolist() == pytest.approx([0.5])
    assert measure_distances(theirs, ours, layout).tolist() == pytest.approx([0.5])


def test_a_side_may_have_no_value_after_an_exchange() -> None:
    """One group of all has a value of the amplitude, so one side always has none."""
    nan = float("nan")
    names = ["rr_prev_s", "amplitude_mv"]
    ours, theirs, layout = count_values(
        observe([[0.5, 0.5], [0.5, 0.5]], amplitude=[[1.0, 2.0], [nan, nan]]),
        observe([[0.5, 0.5], [0.5, 0.5]], amplitude=[[nan, nan], [1.0, 1.0]]),
        names,
    )
    assert measure_distances(ours, theirs, layout).tolist() == [0.0, 0.5]
    p_values = permute(ours, theirs, layout, n_permutations=3000, rng=np.random.default_rng(0))
    # Of 6 exchanges, 4 part the two groups with an amplitude: 0.5; else a side has none: 1.
    assert p_values.tolist() == [1.0, 1.0]


def test_the_p_value_is_the_share_of_exchanges_that_are_as_far() -> None:
    # One group of four is apart: it is the one of theirs in a quarter of the exchanges.
    ours, theirs, layout = count_values(
        observe([[0.5], [0.5], [0.5]]), observe([[0.9]]), ["rr_prev_s", "arrhythmia_type"]
    )
    rng = np.random.default_rng(0)
    p_values = permute(ours, theirs, layout, n_permutations=4000, rng=rng)
    assert p_values.tolist() == pytest.approx([0.25, 1.0], abs=0.02)
    together = permute_together(ours, theirs, layout, n_permutations=4000, rng=rng)
    assert together == pytest.approx(0.25, abs=0.02)


def test_what_is_found_counts_among_its_exchanges() -> None:
    ours, theirs, layout = count_values(observe([[0.5]] * 20), observe([[0.9]] * 20), ["rr_prev_s"])
    for find in (permute, permute_together):
        rng = np.random.default_rng(0)
        found = find(ours, theirs, layout, n_permutations=99, rng=rng)
        assert np.ravel(found).tolist() == [0.01]
        same = find(ours, ours, layout, n_permutations=99, rng=rng)
        assert np.ravel(same).tolist() == [1.0]


def test_a_column_that_varies_little_is_as_good_a_witness_as_one_that_varies_much() -> None:
    """The amplitude is 0.1 apart for certain; the RR interval is up to 1 apart by chance."""
    rng = np.random.default_rng(1)

    def draw(n_high: int) -> ObservedBeats:
        rr = [[0.5 if one else 0.9] * 10 for one in rng.random(12) < 0.5]
        return observe(rr, amplitude=[[2.0] * n_high + [1.0] * (10 - n_high)] * 12)

    ours, theirs, layout = count_values(draw(0), draw(1), ["rr_prev_s", "amplitude_mv"])
    distances = measure_distances(ours, theirs, layout)
    assert distances[0] > distances[1]
    p_value = permute_together(ours, theirs, layout, n_permutations=199, rng=rng)
    assert p_value == pytest.approx(1 / 200)


def test_strips_are_parted_by_group_and_length() -> None:
    counts = StripCounts.of(np.array(["a", "b", "b", "c"]), np.array([10.0, 10.0, 20.0, 20.0]))
    assert counts.order.tolist() == [0, 1, 2, 3]
    assert counts.starts.tolist() == [0, 1, 3]
    assert [sorted(one) for one in counts.by_length] == [[10.0], [10.0, 20.0], [20.0]]
    rng = np.random.default_rng(0)
    dealt, starts = deal_strips(counts, counts, rng)
    assert starts[0] == 0
    assert len(set(dealt.tolist())) == len(dealt)
    assert (np.diff([*starts, len(dealt)]) > 0).all()


def test_the_strips_of_each_subject_begin_where_those_before_end() -> None:
    subjects = StripCounts.of(np.array(["a", "b", "b", "c"]), np.full(4, 10.0))
    traffic = StripCounts.of(np.array(["x", "x"]), np.full(2, 10.0))
    dealt, starts = deal_strips(subjects, traffic, np.random.default_rng(0))
    assert starts.tolist() == [0, 1, 3]
    assert sorted(dealt.tolist()) == [0, 1, 2, 3]


def test_a_column_that_is_equally_far_after_each_exchange_says_nothing() -> None:
    """One group of 24 has another amplitude: a distance of 1/12 on whichever side it is."""
    ours, theirs, layout = count_values(
        observe([[0.5]] * 12, amplitude=[[1.0]] * 12),
        observe([[0.9]] * 12, amplitude=[[2.0]] + [[1.0]] * 11),
        ["rr_prev_s", "amplitude_mv"],
    )
    rng = np.random.default_rng(0)
    p_value = permute_together(ours, theirs, layout, n_permutations=199, rng=rng)
    assert p_value == pytest.approx(1 / 200)
