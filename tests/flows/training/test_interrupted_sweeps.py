"""Sweeps that were killed or failed: their runs end, and some of them are resumed later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.operations.settings import Settings
from flows.data.dataset_versions import DatasetVersion, list_versions, save_version
from flows.doors.registry import Registry, RunKind
from flows.training import train_sweep
from flows.training.sweep import (
    Sweep,
    SweepError,
    SweepPlan,
    close_sweep,
    describe_sweep,
    is_here,
    let_go,
    open_sweep,
    read_sweep,
    settle_sweeps,
    take_lead,
)
from flows.training.workers.presence import present

pytestmark = pytest.mark.slow

_VERSION = DatasetVersion(
    version="d1",
    created_at="",
    data_source=DataSource.MITDB,
    source_directory="",
    records=(),
    broken=(),
    folds={},
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One registry for the module: making its tables takes seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def settings(home: Path) -> Iterator[Settings]:
    settings = Settings(home=home)
    save_version(_VERSION, settings.datasets_dir)
    with disable_run_logger():
        yield settings


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings)


def _open(registry: Registry, settings: Settings, *, n_trials: int) -> Sweep:
    """Open a sweep; each test has its own number of trials, so its own sweeps."""
    return open_sweep.fn(_VERSION, SweepPlan(n_trials=n_trials), None, registry, settings)


def _datasets(settings: Settings) -> set[str]:
    return set(list_versions(settings.datasets_dir))


def _status(registry: Registry, run_id: str) -> str:
    return str(registry._client.get_run(run_id).info.status)


def _settle(registry: Registry, settings: Settings, one: Sweep) -> tuple[bool, bool]:
    """Settle all sweeps; return whether one is open, and whether it would be resumed."""
    found = settle_sweeps(registry.list_runs(), registry, settings, datasets=_datasets(settings))
    return one.run_id in found.open, one.run_id in found.resumable


def _change_state(one: Sweep, **changes: object) -> None:
    path = one.directory / "sweep.json"
    state: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(state | changes))


def test_a_sweep_is_open_as_long_as_its_lock_is_held(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=1)
    assert _settle(registry, settings, one) == (True, False)
    assert _status(registry, one.run_id) == "RUNNING"
    let_go(one)
    assert _settle(registry, settings, one) == (False, True)
    assert _status(registry, one.run_id) == "KILLED"


def test_a_sweep_that_was_killed_ends_with_its_trials_and_is_resumed(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=2)
    trial = registry.start_run("t", kind=RunKind.TRIAL, tags={}, parent_run_id=one.run_id)
    let_go(one)
    for _ in range(2):
        assert _settle(registry, settings, one) == (False, True)
        assert _status(registry, one.run_id) == _status(registry, trial) == "KILLED"
    again = _open(registry, settings, n_trials=2)
    assert again == one
    assert _status(registry, one.run_id) == "RUNNING"
    let_go(again)


def test_a_sweep_that_was_killed_after_its_candidate_is_finished(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=3)
    let_go(one)
    _change_state(one, candidate_run_id="c")
    assert _settle(registry, settings, one) == (False, False)
    run = registry._client.get_run(one.run_id)
    assert (run.info.status, run.data.tags["ecg.candidate"]) == ("FINISHED", "c")


@pytest.mark.parametrize(
    "changes", [{"dataset_version": "of no file"}, {"training_code": "of earlier code"}]
)
def test_a_sweep_that_would_not_be_resumed_is_given_up(
    registry: Registry, settings: Settings, changes: dict[str, str]
) -> None:
    one = _open(registry, settings, n_trials=4)
    let_go(one)
    _change_state(one, **changes)
    assert _settle(registry, settings, one) == (False, False)
    assert _status(registry, one.run_id) == "KILLED"
    assert json.loads((one.directory / "sweep.json").read_text())["is_given_up"] is True
    after = _open(registry, settings, n_trials=4)
    assert after.run_id != one.run_id
    close_sweep.fn(after, "c", registry)
    let_go(after)
    assert _settle(registry, settings, after) == (False, False)
    assert _status(registry, after.run_id) == "FINISHED"


@pytest.mark.parametrize("state", ["", None])
def test_a_sweep_without_a_state_is_ended_and_not_resumed(
    registry: Registry, settings: Settings, state: str | None
) -> None:
    one = _open(registry, settings, n_trials=5)
    let_go(one)
    path = one.directory / "sweep.json"
    if state is None:
        path.unlink()
    else:
        path.write_text(state)
    assert _settle(registry, settings, one) == (False, False)
    assert _status(registry, one.run_id) == "KILLED"
    after = _open(registry, settings, n_trials=5)
    assert after.run_id != one.run_id
    close_sweep.fn(after, "c", registry)
    let_go(after)


def test_a_sweep_whose_run_was_deleted_is_given_up(registry: Registry, settings: Settings) -> None:
    one = _open(registry, settings, n_trials=6)
    let_go(one)
    registry._client.delete_run(one.run_id)
    after = _open(registry, settings, n_trials=6)
    assert after.run_id != one.run_id
    let_go(after)
    registry._client.delete_run(after.run_id)
    settle_sweeps(registry.list_runs(), registry, settings, datasets=_datasets(settings))
    assert json.loads((after.directory / "sweep.json").read_text())["is_given_up"] is True


@pytest.mark.parametrize(
    ("elsewhere", "status"),
    [
        ({}, "KILLED"),
        ({"mlflow_tracking_uri": "http://none"}, "RUNNING"),
        ({"mlflow_store_url": "postgresql+pg8000://none/d"}, "RUNNING"),
    ],
)
def test_a_run_without_a_directory_ends_unless_a_server_may_have_it_of_another_machine(
    registry: Registry, settings: Settings, elsewhere: dict[str, str], status: str
) -> None:
    run_id = registry.start_run("s", kind=RunKind.SWEEP, tags={"ecg.sweep": "key-1"})
    shared = settings.model_copy(update=elsewhere)
    found = settle_sweeps(registry.list_runs(), registry, shared, datasets=_datasets(shared))
    assert (run_id in found.open) == bool(elsewhere)
    assert _status(registry, run_id) == status


def test_a_sweep_of_another_machine_with_the_same_name_is_left_alone(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=8)
    let_go(one)
    other = registry.start_run(one.name, kind=RunKind.SWEEP, tags={"ecg.sweep": one.name})
    shared = settings.model_copy(update={"mlflow_tracking_uri": "http://none"})
    found = settle_sweeps(registry.list_runs(), registry, shared, datasets=_datasets(shared))
    assert other in found.open
    assert (_status(registry, other), _status(registry, one.run_id)) == ("RUNNING", "KILLED")


def test_a_sweep_without_a_lead_stays_open_while_a_worker_lives(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=9)
    trial = registry.start_run("t", kind=RunKind.TRIAL, tags={}, parent_run_id=one.run_id)
    with present(one.directory):
        let_go(one)
        assert _settle(registry, settings, one) == (True, False)
        again = _open(registry, settings, n_trials=9)
        assert again == one
        assert _status(registry, one.run_id) == _status(registry, trial) == "RUNNING"
        let_go(again)
    assert _settle(registry, settings, one) == (False, True)
    assert _status(registry, one.run_id) == _status(registry, trial) == "KILLED"


def test_the_lead_is_taken_when_it_is_free_and_the_sweep_is_not_over(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=10)
    assert not take_lead(one, registry)
    let_go(one)
    _settle(registry, settings, one)
    assert take_lead(one, registry)
    assert _status(registry, one.run_id) == "RUNNING"
    assert not take_lead(one, registry)
    close_sweep.fn(one, "c", registry)
    let_go(one)
    assert not take_lead(one, registry)
    assert _settle(registry, settings, one) == (False, False)  # its lock is free


def test_nothing_waits_for_the_lead_of_a_sweep_whose_run_was_deleted(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=11)
    let_go(one)
    registry._client.delete_run(one.run_id)
    with pytest.raises(SweepError, match="the run was deleted"):
        take_lead(one, registry)
    _settle(registry, settings, one)  # its lock is free, and it is given up
    with pytest.raises(SweepError, match="the sweep given up"):
        take_lead(one, registry)
    assert is_here(one)
    of_another_machine = replace(one, run_id="other")
    assert not is_here(of_another_machine)
    assert not take_lead(of_another_machine, registry)


def test_a_sweep_is_read_as_it_was_described_and_not_by_other_training_code(
    registry: Registry, settings: Settings
) -> None:
    one = _open(registry, settings, n_trials=11)
    let_go(one)
    described = json.loads(json.dumps(describe_sweep(one)))
    assert read_sweep(described, settings) == one
    with pytest.raises(SweepError, match="this training code differs"):
        read_sweep(described | {"training_code": "other"}, settings)


def test_a_sweep_that_fails_lets_its_lock_go(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        msg = "no space left"
        raise OSError(msg)

    opened: list[Sweep] = []

    def open_one(*arguments: Any) -> Sweep:  # noqa: ANN401  those of open_sweep
        opened.append(open_sweep.fn(*arguments))
        return opened[-1]

    monkeypatch.setenv("ECG_HOME", str(settings.home))
    monkeypatch.setattr(train_sweep, "select_records", lambda *_: _VERSION)
    monkeypatch.setattr(train_sweep, "open_sweep", open_one)
    monkeypatch.setattr(train_sweep, "cut_training_beats", fail)
    with pytest.raises(OSError, match="no space left"):
        train_sweep.train_sweep.fn(n_trials=7)
    assert _settle(registry, settings, opened[0]) == (False, True)
    assert _status(registry, opened[0].run_id) == "KILLED"
