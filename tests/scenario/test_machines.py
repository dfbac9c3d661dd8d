"""Two replicas on PostgreSQL and S3 lose no answer, whatever is killed or cut meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from tests.bentos.runtime.test_following import publish
from tests.scenario.clients import Clients
from tests.scenario.machines import start_replica
from tests.scenario.world import making_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LOGGED_S = 180.0


@pytest.fixture(autouse=True)
def _only_where_it_is_asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--postgres"):
        pytest.skip("needs --postgres: make test-postgres")


def _wait_for_requests(clients: Clients, count: int) -> None:
    wanted = clients.sent.requests + count
    deadline_s = time.monotonic() + LOGGED_S
    while clients.sent.requests < wanted:
        assert time.monotonic() < deadline_s, clients.sent
        time.sleep(0.1)


def test_no_answer_is_lost_when_a_replica_is_killed_and_connections_are_cut(
    tmp_path: Path, make_toy_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    with making_world(tmp_path) as world, ExitStack() as ends:
        for name, text in world.objects.variables.items():
            monkeypatch.setenv(name, text)
        flows: Settings = world.settings_of("flows")
        publish(flows, make_toy_bundle("one"), "1")
        one, other = (start_replica(world, name, ends) for name in ("one", "other"))
        for replica in (one, other):
            replica.wait_for_model("1")
        strip = simulate_strip(StripKind.RUN, seed=1)
        body = {"signal_data": strip.signal_mv().tolist(), "sampling_rate": strip.fs}
        with Clients([one.url, other.url], [body], pace_per_s=5) as clients:
            _wait_for_requests(clients, 5)
            one.kill()
            _wait_for_requests(clients, 5)
            one.start()
            assert world.end_connections() > 0
            world.freeze_objects(3.0)
            publish(flows, make_toy_bundle("two", threshold=0.4), "2")
            for replica in (one, other):
                replica.wait_for_model("2")
            _wait_for_requests(clients, 5)
        sent = clients.sent
        assert sent.failed == []
        assert len(set(sent.answered)) == len(sent.answered) >= 15
        assert set(sent.by_model) == {"1", "2"}
        deadline_s = time.monotonic() + LOGGED_S
        while not set(sent.answered) <= set(logged := world.read_logged()):
            assert time.monotonic() < deadline_s, len(set(sent.answered) - set(logged))
            time.sleep(0.2)
        assert (one.starts, other.starts) == (2, 1)
