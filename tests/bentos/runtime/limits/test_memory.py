from __future__ import annotations

import pytest

from bentos.runtime.limits.memory import MemoryBudget
from bentos.wire.problems import ProblemError

MIB = 2**20


def test_a_client_holds_64_mib_of_bodies() -> None:
    budget = MemoryBudget()
    with budget.open_share("a") as first, budget.open_share("a") as second:
        first.grow_to(48 * MIB)
        second.grow_to(16 * MIB)
        with pytest.raises(ProblemError) as refused:
            second.grow_to(16 * MIB + 1)
        assert (refused.value.kind.status, refused.value.retry_after_s) == (503, 1)


def test_all_clients_hold_192_mib_and_each_one_mib_more() -> None:
    budget = MemoryBudget()
    with (
        budget.open_share("a") as a,
        budget.open_share("b") as b,
        budget.open_share("c") as c,
        budget.open_share("d") as d,
    ):
        for share in (a, b, c):
            share.grow_to(64 * MIB)
        d.grow_to(MIB)
        with pytest.raises(ProblemError):
            d.grow_to(MIB + 1)


def test_what_is_given_back_may_be_held_again() -> None:
    budget = MemoryBudget()
    for _ in range(10):
        with budget.open_share("a") as share:
            share.grow_to(64 * MIB)
            share.grow_to(10)  # it is held until the end
    with pytest.raises(ProblemError), budget.open_share("a") as share:
        share.grow_to(65 * MIB)
    with budget.open_share("a") as share:
        share.grow_to(64 * MIB)
