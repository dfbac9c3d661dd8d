"""Pauses between restarts, by value."""

from __future__ import annotations

import pytest

from flows.local.supervision.restarts import RestartPolicy, Restarts


def test_pauses_double_up_to_the_longest() -> None:
    restarts = Restarts(RestartPolicy(first_pause_s=0.5, longest_pause_s=4.0))
    assert [restarts.note_end(ran_s=1.0) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert restarts.total == 6


@pytest.mark.parametrize(("ran_s", "pause_s"), [(59.9, 2.0), (60.0, 0.5)])
def test_a_process_that_ran_long_starts_over_with_the_shortest_pause(
    ran_s: float, pause_s: float
) -> None:
    restarts = Restarts(RestartPolicy())
    assert [restarts.note_end(ran_s=0.0) for _ in range(2)] == [0.5, 1.0]
    assert restarts.note_end(ran_s=ran_s) == pause_s


def test_a_helper_is_never_given_up_and_waits_a_minute_at_most() -> None:
    restarts = Restarts(RestartPolicy())
    assert [restarts.note_end(ran_s=0.0) for _ in range(2000)][-1] == 60.0


def test_a_limited_process_is_given_up_after_its_last_failure() -> None:
    restarts = Restarts(RestartPolicy(max_failures=2))
    assert restarts.note_end(ran_s=0.0) is not None
    assert restarts.note_end(ran_s=0.0) is not None
    assert restarts.note_end(ran_s=0.0) is None
    assert restarts.total == 2


@pytest.mark.parametrize(("first_s", "longest_s"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_a_policy_that_does_not_pause_is_refused(first_s: float, longest_s: float) -> None:
    with pytest.raises(ValueError, match="first_pause_s must be above 0"):
        RestartPolicy(first_pause_s=first_s, longest_pause_s=longest_s)
