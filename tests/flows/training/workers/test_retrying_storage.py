"""Studies on a server that drops connections or answers too late: nothing is lost or done twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy.orm import Session

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


class _ServerError(Exception):
    """An error of pg8000: the fields of the server's message."""


def _from_server(state: str) -> sa.exc.DatabaseError:
    return sa.exc.DatabaseError("x", None, _ServerError({"C": state, "M": "a message"}))


@pytest.mark.parametrize(
    ("cause", "is_passing"),
    [
        (_from_server("57P01"), True),  # the server is shut down
        (_from_server("57P03"), True),  # it starts
        (_from_server("53300"), True),  # too many connections
        (_from_server("40P01"), True),  # a deadlock
        (_from_server("08006"), True),  # the connection broke
        (_from_server("42P01"), False),  # no such table
        (_from_server("42601"), False),  # wrong SQL
        (_from_server("3D000"), False),  # no such database
        (_from_server("28P01"), False),  # a wrong password
        (_from_server("22001"), False),  # too long
        (sa.exc.ProgrammingError("x", None, Exception("no such table")), False),
        (sa.exc.DataError("x", None, Exception("too long")), False),
        (sa.exc.OperationalError("x", None, Exception("refused")), True),
        (sa.exc.InterfaceError("x", None, Exception("network error")), True),
        (sa.exc.TimeoutError(), True),  # of the pool
        (sa.exc.InvalidRequestError("a mistake of ours"), False),
    ],
)
def test_only_an_error_that_may_pass_is_waited_out(cause: Exception, *, is_passing: bool) -> None:
    sent = []

    def ask() -> int:
        sent.append(1)
        if len(sent) == 1:
            raise _lost(cause)
        return 7

    if is_passing:
        assert wait_out(ask) == 7
    else:
        with pytest.raises(StorageInternalError):
            wait_out(ask)
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
    commit, lost = Session.commit, []

    def lose_answer(session: Session) -> None:
        commit(session)
        if len(lost) < 3:
            lost.append(True)
            raise sa.exc.OperationalError("COMMIT", None, Exception("terminated"))

    waiting = optuna.create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 3})
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 2}))
    monkeypatch.setattr(Session, "commit", lose_answer)
    study.add_trial(waiting)
    assert len(lost) == 3
    assert [one.user_attrs["retry_of"] for one in study.trials] == [2, 3]


def test_a_trial_that_is_like_another_one_is_added(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, lost = Session.commit, []

    def lose_request(session: Session) -> None:
        if not lost:
            lost.append(True)
            raise sa.exc.OperationalError("COMMIT", None, Exception("terminated"))
        commit(session)

    study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 2}))
    monkeypatch.setattr(Session, "commit", lose_request)
    study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 2}))
    assert lost
    assert [one.number for one in study.trials] == [0, 1]


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
def test_a_commit_that_is_still_under_way_adds_no_second_trial(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost while the server is at the commit, which it finishes later."""
    study = open_study("s", storage_url=database_url, seed=1)
    add_once, at_commit = RetryingStorage._add_once, threading.Event()
    slow: list[threading.Thread] = []

    def lose_connection(*request: Any) -> int:  # noqa: ANN401  that of the method
        if slow:
            return add_once(*request)
        slow.append(threading.Thread(target=add_once, args=request))
        slow[0].start()
        assert at_commit.wait(60)
        raise _lost()

    def hold(_: Session) -> None:
        if threading.current_thread() in slow:
            at_commit.set()
            time.sleep(1.0)

    monkeypatch.setattr(RetryingStorage, "_add_once", lose_connection)
    sa.event.listen(Session, "before_commit", hold)
    try:
        n_before = len(study.trials)
        study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs={"retry_of": 2}))
    finally:
        slow[0].join()
        sa.event.remove(Session, "before_commit", hold)
    assert len(study.trials) == n_before + 1


@pytest.mark.slow
def test_a_table_that_is_missing_is_an_error_at_once(
    postgres: Postgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study("s", storage_url=database_url, seed=1)
    postgres.run_sql(
        "ALTER TABLE trial_values RENAME TO lost", database=database_url.rpartition("/")[2]
    )
    monkeypatch.setattr(
        retrying_storage.time, "sleep", lambda _: pytest.fail("the error was waited out")
    )
    with pytest.raises(StorageInternalError):
        study.get_trials()


@pytest.mark.slow
def test_a_database_that_does_not_exist_is_an_error_at_once(database_url: str) -> None:
    assert open_storage(database_url).get_all_studies() == []
    with pytest.raises(sa.exc.DBAPIError, match="does not exist"):
        open_storage(f"{database_url}x")
