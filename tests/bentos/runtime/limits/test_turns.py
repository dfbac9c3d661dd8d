"""Fair turns at the processor, seen by the order in which work is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import pytest

from bentos.runtime.limits.turns import Turns
from bentos.wire.problems import ProblemError

LONG, SHORT = 648_000, 3600


@pytest.fixture
def turns() -> Iterator[Turns]:
    """One thread for long work, and one for short work."""
    made = Turns(1)
    yield made
    made.close()


def occupy(turns: Turns, *, cost: int, client: str = "x") -> Callable[[], None]:
    """Keep a thread busy; gives what ends that."""
    began, release = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        release.wait(10)

    turns.submit(hold, client=client, cost=cost)
    assert began.wait(10)
    return release.set


def test_the_strip_of_a_client_does_not_wait_for_the_long_signals_of_another(turns: Turns) -> None:
    release = occupy(turns, cost=LONG)
    waiting = [turns.submit(lambda: None, client="greedy", cost=LONG) for _ in range(5)]
    assert turns.submit(lambda: 7, client="modest", cost=SHORT).result(10) == 7
    assert not any(one.done() for one in waiting)
    release()
    assert not wait(waiting, 10).not_done


def test_clients_take_turns_whatever_one_has_queued(turns: Turns) -> None:
    release_long, release_short = occupy(turns, cost=LONG), occupy(turns, cost=SHORT)
    done: list[str] = []
    futures: list[Future[None]] = [
        turns.submit(lambda client=client: done.append(client), client=client, cost=LONG)
        for client in [*("greedy",) * 6, "modest", "modest"]
    ]
    release_long()
    assert not wait(futures, 10).not_done
    release_short()
    assert done[:4].count("modest") == 2


def test_what_costs_more_waits_longer(turns: Turns) -> None:
    release_long, release_short = occupy(turns, cost=LONG), occupy(turns, cost=SHORT)
    done: list[str] = []
    futures = [
        turns.submit(lambda name=name: done.append(name), client=name[0], cost=cost)
        for name, cost in (
            ("a1", LONG), ("a2", LONG), ("b1", LONG // 4), ("b2", LONG // 4), ("b3", LONG // 4),
        )
    ]  # fmt: skip
    release_long()
    assert not wait(futures, 10).not_done
    release_short()
    assert done == ["a1", "b1", "b2", "b3", "a2"]


def test_an_error_reaches_the_one_who_waits(turns: Turns) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        turns.submit(fail, client="a", cost=SHORT).result(10)
    assert turns.submit(lambda: 1, client="a", cost=SHORT).result(10) == 1


def test_a_client_may_queue_48_requests_and_all_together_64(turns: Turns) -> None:
    release_long, release_short = occupy(turns, cost=LONG), occupy(turns, cost=SHORT)
    futures = [turns.submit(lambda: None, client="a", cost=SHORT) for _ in range(48)]
    with pytest.raises(ProblemError) as refused:
        turns.submit(lambda: None, client="a", cost=SHORT)
    assert (refused.value.kind.name, refused.value.retry_after_s) == ("overloaded", 1)
    futures += [turns.submit(lambda: None, client="b", cost=SHORT) for _ in range(14)]
    with pytest.raises(ProblemError):
        turns.submit(lambda: None, client="c", cost=SHORT)
    release_long()
    release_short()
    assert not wait(futures, 10).not_done
    assert turns.submit(lambda: 1, client="a", cost=SHORT).result(10) == 1


def test_a_client_may_queue_11_strips_of_30_minutes(turns: Turns) -> None:
    release = occupy(turns, cost=LONG)
    futures = [turns.submit(lambda: None, client="a", cost=LONG) for _ in range(11)]
    with pytest.raises(ProblemError):
        turns.submit(lambda: None, client="a", cost=LONG)
    futures.append(turns.submit(lambda: None, client="b", cost=LONG))
    release()
    assert not wait(futures, 10).not_done


def test_one_signal_may_be_as_long_as_a_request_allows(turns: Turns) -> None:
    assert turns.submit(lambda: 1, client="a", cost=8_000_000).result(10) == 1


def test_long_work_behind_a_short_one_wakes_a_thread_that_takes_it() -> None:
    """The thread for short work was the last to have some, and would be woken first."""
    turns = Turns(2)
    for _ in range(50):
        for release in [occupy(turns, cost=cost, client="a") for cost in (LONG, LONG, SHORT)]:
            n_before = turns.unfinished
            release()
            while turns.unfinished == n_before:
                time.sleep(0.001)
        both = [turns.submit(lambda: None, client="a", cost=cost) for cost in (SHORT, LONG)]
        assert not wait(both, 10).not_done
    turns.close()


def test_short_work_is_done_by_one_thread_in_the_order_of_its_turns() -> None:
    turns = Turns(2)
    release, done = occupy(turns, cost=SHORT), []
    futures = [turns.submit(lambda n=n: done.append(n), client="a", cost=SHORT) for n in range(20)]
    release_long = occupy(turns, cost=LONG)
    assert not any(future.running() or future.done() for future in futures)
    release()
    assert not wait(futures, 10).not_done
    assert done == list(range(20))
    release_long()
    turns.close()


def test_what_is_given_up_before_its_turn_is_not_done(turns: Turns) -> None:
    release, done = occupy(turns, cost=LONG), threading.Event()
    given_up = turns.submit(done.set, client="a", cost=LONG)
    assert given_up.cancel()
    release()
    turns.submit(lambda: None, client="a", cost=LONG).result(10)
    assert not done.is_set()
    assert turns.unfinished == 0


def test_what_waits_at_the_end_is_cancelled() -> None:
    turns = Turns(1)
    release = occupy(turns, cost=LONG)
    waiting = turns.submit(lambda: None, client="a", cost=LONG)
    turns.close()
    release()
    assert waiting.cancelled()
