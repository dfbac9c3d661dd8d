"""Studies on a server that drops connections or answers too late: nothing is lost or done twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

from ecg_lib.training.cross_validation import Recipe
from ecg_lib.training.fitting import TrainingConfig
from flows.training.fitting import TrialResult
from flows.training.workers import retrying_storage
from flows.training.workers.retrying_storage import RetryingStorage, wait_out
from flows.training.workers.search_space import open_storage, open_study
from flows.training.workers.trial_queue import TrialQueue
from tests.postgres.server import Postgres

BASE = Recipe(training=TrainingConfig(epochs=2), max_beats=500)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying_storage, "_POLL_S", 0.01)


def _lost(cause: Exception | None = None) -> StorageInternalError:
    error = StorageInternalError("the connection is gone")
    error.__cause__ = cause or sa.exc.OperationalError("x", None, Exception("terminated"))
    return error


def test_a_request_is_sent_until_it_is_answered() -> None:
    answers: list[Any] = [_lost(), _lost(), 7]

    def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    assert wait_out(ask) == 7


def test_an_outage_that_lasts_and_a_request_that_is_rejected_are_errors() -> None:
    sent = []

    def fail(cause: Exception | None) -> Callable[[], None]:
        def ask() -> None:
            sent.append(cause)
            raise _lost(cause)

        return ask

    with pytest.raises(StorageInternalError):
        wait_out(fail(None), outage_s=0.05)
    assert len(sent) > 1
    sent.clear()
    with pytest.raises(StorageInternalError):
        wait_out(fail(sa.exc.DataError("x", None, Exception("too long"))))
    assert len(sent) == 1


def _lose_answer(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the answer of the next commit of a kind be lost."""
    method = getattr(optuna.storages.RDBStorage, name)
    lost: list[bool] = []

    def commit(*given: Any, **named: Any) -> Any:  # noqa: ANN401  any method
        found = method(*given, **named)
        if not lost:
            lost.append(True)
            raise _lost()
        return found

    monkeypatch.setattr(optuna.storages.RDBStorage, name, commit)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = RetryingStorage(f"sqlite:///{tmp_path / 's.db'}")
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def test_a_trial_whose_answer_was_lost_is_added_once(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = optuna.create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 3})
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 2}))
    _lose_answer(monkeypatch, "create_new_trial")
    study.add_trial(waiting)
    assert [one.user_attrs["retry_of"] for one in study.trials] == [2, 3]


def test_a_result_whose_answer_was_lost_counts_and_another_one_does_not(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = study.ask()
    _lose_answer(monkeypatch, "set_trial_state_values")
    assert study.tell(trial, 0.5).value == 0.5
    storage: Any = study._storage
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.4])
    other = study.ask()
    study.tell(other, state=TrialState.FAIL)
    _lose_answer(monkeypatch, "set_trial_state_values")
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(other._trial_id, TrialState.COMPLETE, [0.4])


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of a server; pg8000 leaves sockets open, which `make test-postgres` allows."""
    if not request.config.getoption("--postgres"):
        pytest.skip("needs --postgres: make test-postgres")
    url: str = request.getfixturevalue("postgres").make_database()
    return url


@pytest.mark.slow
def test_a_sweep_goes_on_when_the_server_ends_all_its_connections(
    postgres: Postgres, database_url: str
) -> None:
    url = database_url
    study = open_study("s", storage_url=url, seed=1)
    queues = [TrialQueue("s", storage_url=url, worker=name) for name in "ab"]

    def end_connections() -> None:
        postgres.run_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            database=url.rpartition("/")[2],
        )

    while queues[0].count_done() < 5:
        end_connections()
        queues[0].draw(study.sampler, 2, 5, BASE)
        for queue in queues:
            end_connections()
            if (trial := queue.take()) is not None:
                end_connections()
                queue.note_run(trial.number, "run")
                assert queue.finish(trial.number, TrialResult((0.1, 0.2), is_pruned=False))
    trials = queues[0].study.trials
    assert [one.state for one in trials] == [TrialState.COMPLETE] * 5
    assert len({str(one.params) for one in trials}) == 5


@pytest.mark.slow
def test_a_database_that_does_not_exist_is_an_error_at_once(database_url: str) -> None:
    assert open_storage(database_url).get_all_studies() == []
    with pytest.raises(sa.exc.DBAPIError, match="does not exist"):
        open_storage(f"{database_url}x")
