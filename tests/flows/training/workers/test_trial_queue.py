"""The trials of a study, taken by several workers: each once, none lost, and the same recipes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from prefect.logging import disable_run_logger

from ecg_lib.operations.settings import Settings
from ecg_lib.training.cross_validation import Recipe
from ecg_lib.training.fitting import TrainingConfig
from flows.doors.registry import RunEnd
from flows.training.fitting import TrialResult
from flows.training.sweep import Sweep, SweepError, SweepPlan
from flows.training.workers import trial_queue
from flows.training.workers.presence import forget_gone, has_workers, is_gone, present
from flows.training.workers.search import _Lead, _OwnTrials, announce
from flows.training.workers.search_space import KNOWN_GOOD, finished, open_study, suggest_recipe
from flows.training.workers.trial_queue import TakenTrial, TrialQueue

BASE = Recipe(training=TrainingConfig(epochs=2), max_beats=500)

TAKE = """
import sys
from flows.training.workers.trial_queue import TrialQueue
queue = TrialQueue("s", storage_url=sys.argv[1], worker=sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
while (trial := queue.take()) is not None:
    print(trial.number, flush=True)
"""
BE_PRESENT = """
import sys
from pathlib import Path
from flows.training.workers.presence import present
with present(Path(sys.argv[1])) as worker:
    print(worker, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def storage_url(database_url: str) -> str:
    return database_url


class _Clock:
    """The clock of the queue; heartbeats in the database keep the real one."""

    def __init__(self) -> None:
        self.now = 1e9

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(trial_queue, "time", clock)
    return clock


def _result(trial: TakenTrial) -> TrialResult:
    score = 1 - 100 * trial.params["dropout"] * trial.params["learning_rate"]
    return (
        TrialResult((score,), is_pruned=True) if score < 0.95 else TrialResult((0.1, score), False)
    )


def _join(storage_url: str, worker: str = "a") -> TrialQueue:
    return TrialQueue("s", storage_url=storage_url, worker=worker)


def _params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in finished(study)]


def _search(queues: list[TrialQueue], study: optuna.Study, *, n_together: int, n: int) -> None:
    """Run all trials, by turns."""
    while queues[0].count_done() < n:
        queues[0].draw(study.sampler, n_together, n, BASE)
        for queue in queues:
            if (trial := queue.take()) is not None:
                assert queue.finish(trial.number, _result(trial))


def _search_as_one_run(name: str, storage_url: str, *, seed: int) -> optuna.Study:
    """Run 11 trials as a sweep did before there were workers: Optuna is asked for pairs."""
    study = optuna.create_study(
        study_name=name,
        storage=storage_url,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=1000 * seed, n_startup_trials=5),
    )
    study.enqueue_trial(KNOWN_GOOD)
    for n_together in (2, 2, 2, 2, 2, 1):
        trials = [study.ask() for _ in range(n_together)]
        for trial in trials:
            suggest_recipe(trial, BASE)
        for trial in trials:
            scores, is_pruned = _result(TakenTrial(trial.number, trial.params, []))
            for fold, score in enumerate(scores):
                trial.report(score, fold)
            if is_pruned:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, scores[-1])
    return study


class _Runs:
    """A registry that notes how runs end."""

    def __init__(self) -> None:
        self.ended: list[RunEnd] = []

    def start_run(self, name: str, **_: object) -> str:
        return name

    def end_run(self, _: str, end: RunEnd) -> None:
        self.ended.append(end)


def _announce(home: Path) -> tuple[Sweep, Settings, TrialQueue]:
    """Announce a sweep of 11 trials with seed 3, and join it."""
    sweep = Sweep(
        name="s",
        run_id="12345678",
        directory=home / "sweeps" / "s",
        seed=3,
        plan=SweepPlan(n_trials=11),
        tags={},
    )
    settings = Settings(home=home)
    announce(sweep, settings)
    queue = TrialQueue(sweep.study, storage_url=settings.study_storage_url, worker="a")
    return sweep, settings, queue


def test_one_worker_runs_the_trials_that_optuna_draws_when_it_is_asked_for_pairs(
    tmp_path: Path,
) -> None:
    asked = _search_as_one_run("s", f"sqlite:///{tmp_path}/asked.db", seed=3)
    sweep, settings, queue = _announce(tmp_path)
    announce(sweep, settings)  # as a run that is resumed before it has drawn a trial
    runs: Any = _Runs()
    lead = _Lead(sweep, runs, settings, is_held=True)
    compared = []
    while queue.count_done() < 11:
        lead.advance(queue)
        taken = [trial for trial in (queue.take(), queue.take()) if trial is not None]
        compared += [[one.number for one in trial.earlier] for trial in taken]
        for trial in reversed(taken):
            assert queue.finish(trial.number, _result(trial))
    assert queue.take() is None
    study = queue.study
    assert _params(study) == _params(asked)
    assert [one.state for one in study.trials] == [one.state for one in asked.trials]
    assert [one.value for one in study.trials] == [one.value for one in asked.trials]
    assert compared == [list(range(number // 2 * 2)) for number in range(11)]
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}


class _Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("n_calls", [1, 2, 3])
def test_the_known_recipe_is_run_whole_when_the_worker_is_killed_as_it_takes_it(
    storage_url: str, monkeypatch: pytest.MonkeyPatch, n_calls: int
) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    lead, killed = _join(storage_url, "a"), _join(storage_url, "b")
    lead.draw(study.sampler, 1, 1, BASE)
    n_left = n_calls

    def die_after(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            nonlocal n_left
            done = call(*args, **options)
            n_left -= 1
            if n_left == 0:
                raise _Killed
            return done

        return called

    written = ("set_trial_state_values", "record_heartbeat", "set_trial_user_attr")
    for name in (*written, "set_trial_param"):
        monkeypatch.setattr(killed._storage, name, die_after(getattr(killed._storage, name)))
    with pytest.raises(_Killed):
        killed.take()
    assert len(lead.recover(lambda worker: worker == "b")) == 1
    again = lead.take()
    assert again is not None
    assert again.params == KNOWN_GOOD


def test_a_trial_that_always_fails_ends_the_sweep_after_three_retries(storage_url: str) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    lead, other = _join(storage_url, "a"), _join(storage_url, "b")
    lead.draw(study.sampler, 1, 2, BASE)
    for at in range(4):
        trial = other.take()
        assert trial is not None
        assert trial.params == KNOWN_GOOD
        other.fail(trial.number, "ValueError: no beats")
        lead.draw(study.sampler, 1, 2, BASE)
        assert other.take() is None  # the next round waits for this trial
        if at < 3:
            assert [trial_queue.has_raised(one) for one in lead.recover(lambda _: False)] == [True]
    for queue in (lead, other):
        with pytest.raises(SweepError, match=r"trial 3 must .* 4 times .*ValueError: no beats"):
            queue.recover(lambda _: False)
    assert len(lead.recover(lambda _: False, is_resumed=True)) == 1
    last = other.take()
    assert last is not None
    assert other.finish(last.number, _result(last))
    assert _params(study) == [KNOWN_GOOD]


class _Pool:
    """Runs at once what it is given, once; then its process ends."""

    def __init__(self) -> None:
        self._n_left = 1

    def submit(self, job: Callable[[], TrialResult]) -> Future[TrialResult]:
        if self._n_left == 0:
            raise BrokenProcessPool
        self._n_left -= 1
        future: Future[TrialResult] = Future()
        try:
            future.set_result(job())
        except ValueError as error:
            future.set_exception(error)
        return future


def test_a_worker_goes_on_when_a_trial_fails_or_its_processes_end(tmp_path: Path) -> None:
    sweep, settings, queue = _announce(tmp_path)
    runs: Any = _Runs()
    pool: Any = _Pool

    def fit(*, params: dict[str, Any], **_: object) -> TrialResult:
        if params == KNOWN_GOOD:
            raise ValueError("no beats")
        return TrialResult((0.5,), is_pruned=False)

    lead = _Lead(sweep, runs, settings, is_held=True)
    own = _OwnTrials(sweep, queue, runs, pool, fit)
    with disable_run_logger():
        for n_counted in (1, 0, 0, 0):
            lead.advance(queue)
            own.fill()
            assert own.wait() == n_counted
        with pytest.raises(SweepError, match="ValueError: no beats"):
            lead.advance(queue)
    # The worker ends each as failed; the lead agrees as it queues a trial again.
    assert runs.ended == [RunEnd.FAILED] * 7


def test_a_trial_is_taken_by_one_of_four_processes(tmp_path: Path, storage_url: str) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    _join(storage_url).draw(study.sampler, 20, 20, BASE)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, storage_url, f"w{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    taken = [[int(line) for line in one.communicate(timeout=120)[0].split()] for one in processes]
    assert [one.returncode for one in processes] == [0] * 4
    assert sorted(number for one in taken for number in one) == list(range(20))
    by_worker = {number: f"w{at}" for at, one in enumerate(taken) for number in one}
    assert [trial.user_attrs["worker"] for trial in study.trials] == [
        by_worker[number] for number in range(20)
    ]


def test_the_recipes_depend_on_neither_the_number_of_workers_nor_on_one_that_is_lost(
    tmp_path: Path,
) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "three", "lost")]
    studies = [open_study("s", storage_url=url, seed=1) for url in urls]
    _search([_join(urls[0])], studies[0], n_together=4, n=10)
    _search([_join(urls[1], name) for name in "abc"], studies[1], n_together=4, n=10)
    a, b = (_join(urls[2], name) for name in "ab")
    while a.count_done() < 6:
        a.draw(studies[2].sampler, 4, 10, BASE)
        trial = a.take()
        assert trial is not None
        a.finish(trial.number, _result(trial))
    lost = b.take()
    assert lost is not None
    assert [one.number for one in a.recover(lambda worker: worker == "b")] == [lost.number]
    _search([a], studies[2], n_together=4, n=10)
    expected = sorted(map(str, _params(studies[0])))
    assert [sorted(map(str, _params(study))) for study in studies[1:]] == [expected] * 2
    assert len(set(expected)) == 10


def test_a_trial_of_a_lost_worker_is_run_again_once_and_its_late_result_is_dropped(
    storage_url: str,
) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    a, b = _join(storage_url, "a"), _join(storage_url, "b")
    a.draw(study.sampler, 2, 2, BASE)
    lost, kept = b.take(), a.take()
    assert lost is not None
    assert kept is not None
    b.note_run(lost.number, "r")
    (failed,) = a.recover(lambda worker: worker == "b")
    assert (failed.number, trial_queue.run_of(failed)) == (lost.number, "r")
    assert a.recover(lambda worker: worker == "b") == []
    again = a.take()
    assert again is not None
    assert (again.number, again.params, again.earlier) == (2, KNOWN_GOOD, lost.earlier)
    assert not b.finish(lost.number, TrialResult((0.9,), is_pruned=False))
    assert a.finish(again.number, TrialResult((0.5,), is_pruned=False))
    assert not a.finish(lost.number, TrialResult((0.9,), is_pruned=True))
    assert a.finish(kept.number, TrialResult((0.4,), is_pruned=False))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.best_value == 0.5
    assert a.count_done() == 2


def test_a_trial_that_was_failed_and_not_yet_queued_again_is_queued_by_the_next_run(
    storage_url: str,
) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    queue = _join(storage_url)
    queue.draw(study.sampler, 1, 1, BASE)
    lost = queue.take()
    assert lost is not None
    study.tell(lost.number, state=TrialState.FAIL)  # and killed here
    assert len(_join(storage_url, "b").recover(lambda _: False)) == 1
    again = queue.take()
    assert again is not None
    assert again.params == lost.params


def test_a_round_is_drawn_when_all_of_the_last_one_have_ended(storage_url: str) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    queue = _join(storage_url)
    assert queue.take() is None  # the known recipe waits for its round
    queue.draw(study.sampler, 2, 3, BASE)
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    for trial in (first, second):
        queue.draw(study.sampler, 2, 3, BASE)
        assert queue.take() is None
        queue.finish(trial.number, _result(trial))
    queue.draw(study.sampler, 2, 3, BASE)
    last = queue.take()
    assert last is not None
    assert [one.number for one in last.earlier] == [0, 1]
    assert queue.take() is None
    queue.finish(last.number, _result(last))
    queue.draw(study.sampler, 2, 3, BASE)
    assert len(study.trials) == 3


_THEN: Final = sa.bindparam("then", type_=sa.DateTime)


def _ago(age_s: int) -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=age_s)


def _age_heartbeats(storage_url: str, age_s: int) -> None:
    engine = sa.create_engine(storage_url)
    with engine.begin() as database:
        aged = sa.text("update trial_heartbeats set heartbeat = :then").bindparams(_THEN)
        assert database.execute(aged, {"then": _ago(age_s)}).rowcount > 0
    engine.dispose()


@pytest.mark.parametrize(("age_s", "is_lost"), [(280, False), (310, True)])
def test_a_trial_is_lost_when_its_worker_gives_no_sign_for_5_min(
    tmp_path: Path, storage_url: str, clock: _Clock, age_s: int, *, is_lost: bool
) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    lead, other = _join(storage_url, "a"), _join(storage_url, "of another machine")
    lead.draw(study.sampler, 2, 2, BASE)
    assert other.take() is not None
    for _ in range(31):
        clock.now += 10
        assert lead.recover(lambda _: False) == []  # its heartbeat is new
    _age_heartbeats(storage_url, age_s)
    assert len(lead.recover(lambda _: False)) == is_lost


@pytest.mark.parametrize(("n_watched", "is_lost"), [(5, False), (6, True)])
def test_a_lead_that_slept_gives_others_5_min_for_a_sign(
    tmp_path: Path, storage_url: str, clock: _Clock, n_watched: int, *, is_lost: bool
) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    lead, other = _join(storage_url, "a"), _join(storage_url, "b")
    lead.draw(study.sampler, 2, 2, BASE)
    assert other.take() is not None
    for _ in range(31):
        clock.now += 10
        lead.recover(lambda _: False)
    clock.now += 3600  # the machine sleeps, with all workers
    _age_heartbeats(storage_url, 3600)
    assert lead.recover(lambda _: False) == []
    lost = 0
    for _ in range(n_watched):
        clock.now += 55
        lost += len(lead.recover(lambda _: False))
    assert lost == is_lost


def test_heartbeats_are_recorded_while_a_trial_runs(
    tmp_path: Path, storage_url: str, monkeypatch: pytest.MonkeyPatch, clock: _Clock
) -> None:
    monkeypatch.setattr(trial_queue, "HEARTBEAT_S", 0.01)
    study = open_study("s", storage_url=storage_url, seed=0)
    queue = _join(storage_url)
    queue.draw(study.sampler, 2, 2, BASE)
    assert queue.take() is not None
    assert queue.read_lead() is None
    queue.recover(lambda _: False)
    _age_heartbeats(storage_url, 3600)
    engine = sa.create_engine(storage_url)
    query = sa.text("select count(*) from trial_heartbeats where heartbeat > :then")

    def count_new() -> int:
        with engine.connect() as database:
            found = database.execute(query.bindparams(_THEN), {"then": _ago(60)}).scalar()
        return int(found or 0)

    with queue.beating():
        deadline_s = time.monotonic() + 180
        while time.monotonic() < deadline_s:
            if count_new() == 1 and queue.read_lead() == clock.now:
                break
            time.sleep(0.01)
    assert count_new() == 1
    assert queue.read_lead() == clock.now
    engine.dispose()


@pytest.mark.parametrize("error", [StorageInternalError("gone"), ConnectionResetError("reset")])
def test_heartbeats_go_on_after_an_outage(
    storage_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(trial_queue, "HEARTBEAT_S", 0.01)
    open_study("s", storage_url=storage_url, seed=0)
    queue = _join(storage_url)
    answers: list[Exception | None] = [error, None]
    beats_again = threading.Event()

    def beat() -> None:
        if not answers:
            beats_again.set()
        elif (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(queue, "_beat", beat)
    with queue.beating():
        assert beats_again.wait(180)


def test_a_trial_that_two_workers_hand_back_at_once_is_handed_back_once(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    queue, other = _join(storage_url, "a"), _join(storage_url, "b")
    queue.draw(study.sampler, 1, 1, BASE)
    assert other.take() is not None
    set_state = RDBStorage.set_trial_state_values

    def finish_first(storage: RDBStorage, *given: Any, **named: Any) -> bool:  # noqa: ANN401
        monkeypatch.undo()
        assert other.hand_back(lambda _: True) == [0]  # both have seen that it runs
        return set_state(storage, *given, **named)

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", finish_first)
    assert queue.hand_back(lambda _: True) == [0]
    assert [one.state for one in queue.study.trials] == [TrialState.FAIL]


def test_a_worker_is_gone_when_its_process_is_killed_and_not_before(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BE_PRESENT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        worker = process.stdout.readline().strip()
        assert not is_gone(tmp_path, worker)
        assert has_workers(tmp_path)
        process.kill()
        process.wait()
    assert is_gone(tmp_path, worker)
    assert not has_workers(tmp_path)


def test_a_worker_that_starts_again_hands_back_what_its_predecessor_had_and_nothing_else(
    storage_url: str, tmp_path: Path
) -> None:
    study = open_study("s", storage_url=storage_url, seed=1)
    lead, other = _join(storage_url, "lead"), _join(storage_url, "other")
    lead.draw(study.sampler, 3, 6, BASE)
    with present(tmp_path / "visited") as worker:
        killed = _join(storage_url, worker)
        taken = [queue.take() for queue in (killed, lead, other)]
        assert None not in taken
        hand_back = partial(lead.hand_back, partial(is_gone, tmp_path / "visited"))
        assert hand_back() == []
    numbers = [trial.number for trial in taken if trial is not None]
    assert hand_back() == numbers[:1]
    assert hand_back() == []
    again = lead.recover(lambda _: False)
    assert [trial.number for trial in again] == numbers[:1]
    forget_gone(tmp_path / "visited")
    assert list((tmp_path / "visited").rglob("*-*")) == []


def test_a_worker_of_another_machine_is_never_taken_for_gone_by_its_lock(tmp_path: Path) -> None:
    with present(tmp_path / "of another home") as worker:
        assert not is_gone(tmp_path, worker)
    assert not is_gone(tmp_path, worker)
    assert not has_workers(tmp_path)
