"""The share of the traffic that is refused."""

from __future__ import annotations

import pytest

from ecg_lib.operations.drift.refusals import GroupVolume, measure_refusals


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
