"""Shares over groups: what is refused, and whose R-peaks point down."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ecg_lib.operations.drift.group_shares import (
    GroupVolume,
    Polarity,
    compare_polarity,
    measure_polarity,
    measure_refusals,
)
from ecg_lib.operations.drift.observation import ObservedBeats


def test_groups_weigh_alike_however_much_they_send() -> None:
    found = measure_refusals({"loud": GroupVolume(0, 900), "calm": GroupVolume(10, 0)})
    assert found is not None
    assert found.share == 0.5
    assert (found.n_requests, found.n_refused, found.n_groups) == (910, 900, 2)


def test_a_group_with_few_requests_has_no_share_beside_others() -> None:
    found = measure_refusals({"a": GroupVolume(10_000, 0), "test": GroupVolume(0, 4)})
    assert found is not None
    assert (found.share, found.n_refused) == (0.0, 4)
    found = measure_refusals({"a": GroupVolume(10_000, 0), "b": GroupVolume(0, 5)})
    assert found is not None
    assert found.share == 0.5


def test_the_interval_is_over_groups() -> None:
    one = measure_refusals({"a": GroupVolume(20, 80)})
    assert one is not None
    assert (one.low, one.share, one.high) == (0.8, 0.8, 0.8)
    ten = measure_refusals(
        {str(n): GroupVolume(10 * (n % 2), 10 - 10 * (n % 2)) for n in range(10)}
    )
    assert ten is not None
    assert ten.share == 0.5
    assert 0.1 < ten.low < 0.35
    assert 0.65 < ten.high < 0.9


@pytest.mark.parametrize("groups", [{}, {"a": GroupVolume(0, 0)}])
def test_without_a_request_there_is_no_share(groups: dict[str, GroupVolume]) -> None:
    assert measure_refusals(groups) is None


def _uneven(n_groups: int) -> dict[str, GroupVolume]:
    """Groups whose shares all differ, so that an interval shows how it was drawn."""
    return {str(n): GroupVolume(1000, (37 * n) % 997) for n in range(n_groups)}


@pytest.mark.parametrize(
    ("n_groups", "low", "high"),
    [
        (10, 0.094923360440304, 0.17500510545904668),
        (1000, 0.29768612786622156, 0.3123422374185167),  # the most groups with 2,000 resamples
        (1001, 0.29679949789870247, 0.311382226051175),  # with 200
    ],
)
def test_an_interval_is_drawn_by_as_many_resamples_as_before(
    n_groups: int, low: float, high: float
) -> None:
    found = measure_refusals(_uneven(n_groups))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_many_groups_have_an_interval_too() -> None:
    found = measure_refusals({str(n): GroupVolume(1, n % 4 == 0) for n in range(1001)})
    assert found is not None
    assert found.low < found.share < found.high


def _strips(**points_down: list[float]) -> ObservedBeats:
    group = [name for name, shares in points_down.items() for _ in shares]
    return ObservedBeats(
        columns={},
        strip=np.zeros(0, dtype=np.int64),
        group=np.array(group, dtype=np.str_),
        strip_s=np.full(len(group), 10.0),
        points_down=np.array([one for shares in points_down.values() for one in shares]),
    )


def test_a_group_points_down_when_most_r_peaks_of_its_strips_do() -> None:
    nan = float("nan")
    beats = _strips(up=[0.0, 0.1], down=[1.0, 0.4, nan], even=[0.5], unknown=[nan])
    assert measure_polarity(beats) == Polarity(n_down=1, n_groups=3)


def test_a_direction_that_nothing_tells_is_not_counted() -> None:
    assert measure_polarity(_strips(a=[float("nan")])) is None
    assert measure_polarity(_strips()) is None
    reference = ObservedBeats(
        columns={},
        strip=np.zeros(0, dtype=np.int64),
        group=np.array(["a"]),
        strip_s=np.array([10.0]),
    )
    assert measure_polarity(reference) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 8), (7, 8)),
        ((0, 5), (5, 5)),
        ((3, 20), (9, 31)),
        ((2, 4), (2, 4)),
        ((0, 5), (0, 7)),
        ((5, 5), (7, 7)),
        ((8600, 17_000), (10_300, 20_000)),
    ],
)
def test_the_p_value_is_that_of_fishers_exact_test(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    table = [[n_down, n_groups - n_down] for n_down, n_groups in (one, other)]
    expected = float(stats.fisher_exact(table).pvalue)
    assert compare_polarity(Polarity(*one), Polarity(*other)) == pytest.approx(expected)


def test_the_share_is_that_of_the_groups() -> None:
    assert Polarity(3, 4).share == 0.75
    assert str(Polarity(3, 4)) == "3 of 4"


@pytest.mark.parametrize(("share", "n_down"), [(0.51, 1), (0.5, 0), (0.49, 0)])
def test_a_group_points_down_when_more_than_half_of_it_does(share: float, n_down: int) -> None:
    assert measure_polarity(_strips(a=[share], b=[0.0])) == Polarity(n_down, 2)
    assert measure_polarity(_strips(a=[share - 0.2, share + 0.2], b=[0.0])) == Polarity(n_down, 2)
    assert measure_polarity(_strips(a=[share, share, share])) == Polarity(n_down, 1)
