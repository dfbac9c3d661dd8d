from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bentos.runtime.limits.rate_limit import RateLimit

A, B = b"203.0.113.1", b"203.0.113.2"


def spend(limit: RateLimit, client: bytes, times_s: list[float]) -> list[bool]:
    return [limit.take(client, now_s=now_s) == 0 for now_s in times_s]


def test_as_many_as_the_limit_pass_and_no_more() -> None:
    limit = RateLimit(3)
    assert spend(limit, A, [0, 1, 2, 3, 30]) == [True, True, True, False, False]


def test_each_client_has_its_own_count() -> None:
    limit = RateLimit(1)
    assert spend(limit, A, [0, 1]) == [True, False]
    assert spend(limit, B, [2, 3]) == [True, False]


def test_a_client_that_waits_as_told_is_served() -> None:
    limit = RateLimit(5)
    now_s = 17.0
    for _ in range(50):
        wait_s = limit.take(A, now_s=now_s)
        assert 0 <= wait_s <= 120
        if wait_s:
            assert limit.take(A, now_s=now_s + wait_s) == 0
            now_s += wait_s
        now_s += 0.5


def test_the_turn_of_a_minute_gives_nothing_away() -> None:
    limit = RateLimit(10)
    assert all(spend(limit, A, [59.0] * 10))
    # Nine tenths of the last minute lie less than a minute back.
    assert spend(limit, A, [65.5] * 3) == [True, False, False]


def test_after_two_minutes_all_is_forgotten() -> None:
    limit = RateLimit(10)
    spend(limit, A, [0.0] * 10)
    assert all(spend(limit, A, [121.0] * 10))


@given(times_s=st.lists(st.floats(0, 600), min_size=1, max_size=300), per_minute=st.integers(1, 20))
def test_no_minute_holds_more_than_twice_the_limit_and_no_usual_client_is_refused(
    times_s: list[float], per_minute: int
) -> None:
    limit = RateLimit(per_minute)
    passed = [now_s for now_s in sorted(times_s) if limit.take(A, now_s=now_s) == 0]
    for start_s in passed:
        # Requests of a minute count as spread over it, although they need not be.
        assert sum(start_s <= now_s < start_s + 60 for now_s in passed) <= 2 * per_minute
    step_s = 61 / per_minute
    evenly = RateLimit(per_minute)
    assert all(spend(evenly, B, [number * step_s for number in range(100)]))


def test_processes_count_together_in_one_file(tmp_path: Path) -> None:
    one, two = (RateLimit(4, path=tmp_path / "table") for _ in "ab")
    assert spend(one, A, [0, 1, 2]) == [True] * 3
    assert spend(two, A, [3, 4]) == [True, False]
    assert (tmp_path / "table").stat().st_mode & 0o777 == 0o600


def test_a_flood_of_addresses_pushes_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bentos.runtime.limits.rate_limit._SLOTS", 8)
    limit = RateLimit(1)
    assert [limit.take(b"%d" % number, now_s=0) for number in range(1000)] == [0] * 1000
    assert limit.take(A, now_s=60) == 0
    assert limit.take(A, now_s=61) > 0
