"""Runs of the real flows that share one sweep; only the fits are made up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState
from prefect.settings import PREFECT_API_URL

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.operations.settings import Settings
from flows.data.dataset_versions import make_version, save_version
from flows.local.supervision.environments import make_flow_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_FLOWS = """
import sys, time
from ecg_lib.operations.settings import read_settings
from flows.data.training_data import training_data_dir
from flows.training import sweep, train_sweep
from flows.training.fitting import TrialResult
from flows.training.workers import search, work_on_sweep

def fit(*, params, settings, **_):
    (settings.home / "fits").mkdir(exist_ok=True)
    with (settings.home / "fits" / params["width"]).open("a") as file:
        file.write("fit\\n")
    while (settings.home / "hold").exists():
        time.sleep(0.05)
    return TrialResult((0.5, params["dropout"]), is_pruned=False)

def cut(version, views, settings):
    beats = training_data_dir(version, views, settings)
    beats.mkdir(parents=True, exist_ok=True)
    (beats / "windows.npy").write_text("beats of the lead")
    return beats

def finish(one, version, data, registry, settings):
    runs = [run for run in registry.list_runs() if run.parent_run_id == one.run_id]
    print("OPEN", sum(run.is_open for run in runs), "OF", len(runs), flush=True)
    sweep.close_sweep(one, "c", registry)
    return "c"

if __name__ == "__main__":
    search.run_trial = fit
    for flow in (train_sweep, work_on_sweep):
        flow.cut_training_beats = cut
        flow.finish_sweep = finish
    train_sweep.select_records = lambda version, *_: version
    if sys.argv[1] == "lead":
        print("RESULT", train_sweep.train_sweep(n_trials=7, workers=2, seed=0), flush=True)
    else:
        print("RESULT", work_on_sweep.work_on_sweep(), flush=True)
"""


class _Runs:
    """Flow runs that share a home."""

    def __init__(self, settings: Settings, *, has_data: bool = True) -> None:
        self.settings = settings
        home = settings.home
        home.mkdir()
        if has_data:
            self._save_version()
        self._script = home / "run.py"
        self._script.write_text(_FLOWS)
        self._environment = make_flow_environment(self.settings) | {
            "PREFECT_API_URL": PREFECT_API_URL.value(),
            "PYTHONPATH": os.getcwd(),  # noqa: PTH109  a string
        }
        self._environment.pop("PREFECT_API_AUTH_STRING", None)
        self.started: list[subprocess.Popen[str]] = []
        self._outputs: dict[int, Path] = {}

    def _save_version(self) -> None:
        version = make_version(
            data_source=DataSource.SIMULATED, source_directory=Path(), records=(), broken=()
        )
        save_version(version, self.settings.datasets_dir)

    def start(self, what: str) -> subprocess.Popen[str]:
        output = self.settings.home / f"{what}-{len(self.started)}.log"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, str(self._script), what],
                env=self._environment, stdout=file, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        self.started.append(process)
        self._outputs[process.pid] = output
        return process

    def output(self, process: subprocess.Popen[str]) -> str:
        return self._outputs[process.pid].read_text()

    def wait_for(self, process: subprocess.Popen[str], sign: str) -> None:
        while sign not in self.output(process):
            assert process.poll() is None, self.output(process)
            time.sleep(0.1)

    def hold(self) -> None:
        (self.settings.home / "hold").touch()

    def go_on(self) -> None:
        (self.settings.home / "hold").unlink()

    def trials(self) -> list[FrozenTrial]:
        url = self.settings.study_storage_url
        (name,) = optuna.get_all_study_names(url)
        return optuna.load_study(study_name=name, storage=url).trials

    def wait_until_all_have_trials(self) -> dict[str, list[int]]:
        """Wait for a whole round of four trials; return those of each worker."""
        while True:
            found: dict[str, list[int]] = {}
            for trial in self.trials():
                if trial.state is TrialState.RUNNING and "mlflow_run" in trial.user_attrs:
                    found.setdefault(trial.user_attrs["worker"], []).append(trial.number)
            if sorted(map(len, found.values())) == [2, 2]:
                return found
            assert all(one.poll() is None for one in self.started)
            time.sleep(0.1)


@pytest.fixture
def runs(prefect_server: None, tmp_path: Path) -> Iterator[_Runs]:
    runs = _Runs(Settings(home=tmp_path / "runs"))
    yield runs
    _end(runs)


def _end(runs: _Runs) -> None:
    for process in runs.started:
        process.kill()
        process.wait()


@pytest.fixture
def machines(prefect_server: None, tmp_path: Path) -> Iterator[tuple[_Runs, _Runs]]:
    """Two homes that share databases and a store; the first has the data."""
    shared: dict[str, Any] = {
        "study_url": f"sqlite:///{tmp_path / 'studies.db'}",
        "mlflow_store_url": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "store_url": (tmp_path / "store").as_uri(),
    }
    made = tuple(
        _Runs(Settings(home=tmp_path / name, **shared), has_data=name == "one")
        for name in ("one", "other")
    )
    yield made[0], made[1]
    for runs in made:
        _end(runs)


def _check_each_is_done_once(trials: list[FrozenTrial]) -> None:
    done = [str(trial.params) for trial in trials if trial.state is TrialState.COMPLETE]
    assert (len(done), len(set(done))) == (7, 7)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}


def _start_both(runs: _Runs) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    runs.hold()
    lead = runs.start("lead")
    runs.wait_for(lead, "started sweep")
    while not (runs.settings.home / "fits").exists():  # the study has begun
        assert lead.poll() is None, runs.output(lead)
        time.sleep(0.1)
    return lead, runs.start("work")


def test_two_runs_share_a_sweep_and_one_of_them_builds_the_candidate(runs: _Runs) -> None:
    lead, other = _start_both(runs)
    runs.wait_until_all_have_trials()
    runs.go_on()
    assert (lead.wait(), other.wait()) == (0, 0), runs.output(lead) + runs.output(other)
    trials = runs.trials()
    _check_each_is_done_once(trials)
    assert len(trials) == 7
    assert "RESULT c" in runs.output(lead)
    assert "RESULT None" in runs.output(other)
    assert "the run that leads it builds the candidate" in runs.output(other)


def test_the_trials_of_a_killed_worker_are_run_by_the_others(runs: _Runs) -> None:
    lead, other = _start_both(runs)
    taken = runs.wait_until_all_have_trials()
    other.kill()
    other.wait()
    runs.wait_for(lead, "was cut off and is queued again")
    runs.go_on()
    assert lead.wait() == 0, runs.output(lead)
    trials = runs.trials()
    _check_each_is_done_once(trials)
    lost = [one.number for one in trials if one.state is TrialState.FAIL]
    assert lost in taken.values()
    assert sorted(one.user_attrs["retry_of"] for one in trials if "retry_of" in one.user_attrs) == (
        lost
    )
    # The made-up fits end no run of MLflow: those of the lost trials were ended, and no others.
    assert "OPEN 7 OF 9" in runs.output(lead)


def test_another_run_takes_the_lead_of_one_that_was_killed_and_builds_the_candidate(
    runs: _Runs,
) -> None:
    lead, other = _start_both(runs)
    runs.wait_until_all_have_trials()
    lead.kill()
    lead.wait()
    runs.wait_for(other, "was cut off and is queued again")
    assert "this one leads it" in runs.output(other)
    runs.go_on()
    assert other.wait() == 0, runs.output(other)
    _check_each_is_done_once(runs.trials())
    assert "RESULT c" in runs.output(other)
    assert "OPEN 7 OF 9" in runs.output(other)


def test_trials_of_a_live_worker_stay_its_own_when_the_sweep_is_resumed(runs: _Runs) -> None:
    lead, other = _start_both(runs)
    taken = runs.wait_until_all_have_trials()
    psutil.Process(other.pid).suspend()  # it neither takes the lead nor gives signs
    lead.kill()
    lead.wait()
    again = runs.start("lead")
    runs.wait_for(again, "was cut off and is queued again")
    psutil.Process(other.pid).resume()
    runs.go_on()
    assert (again.wait(), other.wait()) == (0, 0), runs.output(again) + runs.output(other)
    trials = runs.trials()
    _check_each_is_done_once(trials)
    assert "resuming sweep" in runs.output(again)
    lost = [one.number for one in trials if one.state is TrialState.FAIL]
    assert lost in taken.values()
    assert "was taken for cut off" not in runs.output(other)
    assert "RESULT None" in runs.output(other)


def test_a_worker_with_another_home_gets_the_data_and_is_replaced_at_once_when_it_is_killed(
    machines: tuple[_Runs, _Runs],
) -> None:
    here, elsewhere = machines
    for runs in machines:
        runs.hold()
    lead = here.start("lead")
    while not (here.settings.home / "fits").exists():
        assert lead.poll() is None, here.output(lead)
        time.sleep(0.1)
    killed = elsewhere.start("work")
    taken = here.wait_until_all_have_trials()
    assert "with its training beats from the store" in elsewhere.output(killed)
    beats = list(elsewhere.settings.datasets_dir.rglob("windows.npy"))
    assert [path.read_text() for path in beats] == ["beats of the lead"]
    killed.kill()
    killed.wait()
    again = elsewhere.start("work")
    here.wait_for(lead, "was cut off and is queued again")
    assert "of a killed worker of this machine is free" in elsewhere.output(again)
    for runs in machines:
        runs.go_on()
    assert (lead.wait(), again.wait()) == (0, 0), here.output(lead) + elsewhere.output(again)
    trials = here.trials()
    _check_each_is_done_once(trials)
    lost = [one.number for one in trials if one.state is TrialState.FAIL]
    assert lost in taken.values()


def test_a_worker_without_a_sweep_says_what_to_do(runs: _Runs) -> None:
    alone: Any = runs.start("work")
    assert alone.wait() == 1
    assert "there must be a sweep under way to work on, found no sweep" in runs.output(alone)
    assert "start one with train-sweep" in runs.output(alone)
