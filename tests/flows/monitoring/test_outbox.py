"""Decisions are asked of a real Prefect server until there was one run of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Running, State

from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import DecisionRow, DriftCheckRow
from ecg_lib.operations.settings import Settings
from flows.monitoring.outbox import GIVEN_UP_AFTER, deliver_decisions

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


@flow(name="outbox-target")
def target(reason: str) -> str:
    return reason


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("outbox-target")
        client.create_deployment(flow_id, "ecg", enforce_parameter_schema=False)
        yield client


@pytest.fixture
def log(settings: Settings) -> Iterator[PredictionLog]:
    settings.home.mkdir(parents=True, exist_ok=True)
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    yield log
    log.close()


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("outbox"))


def decide(log: PredictionLog, *, at: datetime = NOW) -> str:
    check = DriftCheckRow(
        check_id=str(uuid4()), created_at=at, bundle_hash="b", action="RETRAIN", summary={}
    )
    decision = DecisionRow(
        decision_id=check.check_id,
        created_at=at,
        deployment="outbox-target/ecg",
        parameters={"reason": check.check_id},
    )
    log.add_drift_check(check, decision)
    return decision.decision_id


def deliver(log: PredictionLog) -> None:
    with disable_run_logger():
        deliver_decisions.fn(log, now=NOW)


def runs_of(client: SyncPrefectClient, decision_id: str) -> list[FlowRun]:
    return [run for run in client.read_flow_runs() if run.parameters.get("reason") == decision_id]


def end(client: SyncPrefectClient, run_id: UUID, *states: State) -> None:
    for state in states:
        client.set_flow_run_state(run_id, state, force=True)


def test_a_decision_has_one_run_however_often_it_is_delivered(
    client: SyncPrefectClient, log: PredictionLog
) -> None:
    decision_id = decide(log)
    for _ in range(3):
        deliver(log)
    (run,) = runs_of(client, decision_id)
    # Killed after Prefect took it and before that was stored: the same run comes back.
    log.update_decision(decision_id, state="waiting", run_id=None, attempt=0)
    deliver(log)
    assert [one.id for one in runs_of(client, decision_id)] == [run.id]
    end(client, run.id, Running(), Completed())
    deliver(log)
    assert log.read_open_decisions() == []


@pytest.mark.parametrize("lost", [lambda: [Cancelled()], lambda: [Running(), Crashed()]])
def test_a_run_that_was_cancelled_or_died_is_asked_for_again(
    client: SyncPrefectClient, log: PredictionLog, lost: Callable[[], list[State]]
) -> None:
    decision_id = decide(log)
    deliver(log)
    (first,) = runs_of(client, decision_id)
    end(client, first.id, *lost())
    deliver(log)
    deliver(log)
    assert len(runs_of(client, decision_id)) == 2


def test_a_run_that_somebody_cancelled_while_it_ran_is_not_asked_for_again(
    client: SyncPrefectClient, log: PredictionLog
) -> None:
    decision_id = decide(log)
    deliver(log)
    (run,) = runs_of(client, decision_id)
    end(client, run.id, Running(), Cancelled())
    deliver(log)
    assert len(runs_of(client, decision_id)) == 1
    assert log.read_open_decisions() == []


def test_a_decision_waits_while_prefect_is_down(
    client: SyncPrefectClient, log: PredictionLog
) -> None:
    decision_id = decide(log)
    with temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        deliver(log)
    assert [one.state for one in log.read_open_decisions()] == ["waiting"]
    deliver(log)
    assert len(runs_of(client, decision_id)) == 1


def test_a_decision_of_yesterday_is_given_up(client: SyncPrefectClient, log: PredictionLog) -> None:
    old = decide(log, at=NOW - GIVEN_UP_AFTER - timedelta(minutes=1))
    deliver(log)
    assert runs_of(client, old) == []
    assert log.read_open_decisions() == []
