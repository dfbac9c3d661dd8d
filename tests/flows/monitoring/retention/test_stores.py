"""Old rows and files are deleted, except those that are needed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import append_event
from flows.doors.release_history import EventKind, LedgerEvent
from flows.monitoring.retention.stores import _keep_newest, forget_old_files


def _release(version: str) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=version,
        code_hash="c",
        model_version=version,
        released_at="2026-01-01T00:00:00+00:00",
    )


def _make(path: Path, *, age: int) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text("x")
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, bundles_kept=2, bentos_kept=1, sweeps_kept=1, training_data_kept=1
    )


def test_bentos_that_were_released_stay_and_others_make_room(settings: Settings) -> None:
    for kind, name in (("bentos", "ecg"), ("models", "ecg_bundle")):
        for age, version in enumerate("54321"):
            _make(settings.bentoml_home / kind / name / version, age=age)
    append_event(
        settings.ledger_dir,
        LedgerEvent(
            id="1",
            kind=EventKind.RELEASE,
            who="a test",
            why="",
            at="",
            before=None,
            release=_release("1"),
            is_verified=True,
        ),
        reason="release model 1",
        metrics={},
        model_card="",
    )
    write_release(settings.serving_dir / CURRENT, _release("2"))
    with disable_run_logger():
        forget_old_files.fn(settings)
    # The first is in the ledger, the second is served, the fifth is the newest of the others.
    assert _names(settings.bentoml_home / "bentos" / "ecg") == {"1", "2", "5"}
    assert _names(settings.bentoml_home / "models" / "ecg_bundle") == {"1", "2", "5"}


def test_before_the_first_release_no_bento_is_deleted(settings: Settings) -> None:
    for age in range(5):
        _make(settings.bentoml_home / "bentos" / "ecg" / str(age), age=age)
    with disable_run_logger():
        forget_old_files.fn(settings)
    assert len(_names(settings.bentoml_home / "bentos" / "ecg")) == 5


def test_fetched_bundles_and_cut_beats_make_room(settings: Settings) -> None:
    for age in range(4):
        _make(settings.home / "bundles" / f"run{age}", age=age)
        _make(settings.datasets_dir / "training" / f"set{age}", age=age)
    with disable_run_logger():
        forget_old_files.fn(settings)
    assert _names(settings.home / "bundles") == {"run0", "run1"}
    assert _names(settings.datasets_dir / "training") == {"set0"}


def test_what_another_flow_deletes_at_the_same_time_fails_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age in range(4):
        directory = _make(settings.home / "bundles" / f"run{age}", age=age)
        (directory / "another").touch()
        os.utime(directory, (1e9 - age, 1e9 - age))
    unlink = os.unlink

    def come_first(path: str, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", come_first)
        _keep_newest((settings.home / "bundles").iterdir(), 2)
    assert _names(settings.home / "bundles") == {"run0", "run1"}
    is_dir = Path.is_dir

    def vanish(self: Path) -> bool:
        found = is_dir(self)
        if self.name == "run1":
            shutil.rmtree(self)
        return found

    monkeypatch.setattr(Path, "is_dir", vanish)
    assert _keep_newest((settings.home / "bundles").iterdir(), 1) == []


def test_of_sweeps_that_ended_only_the_state_stays(settings: Settings) -> None:
    for age in range(5):
        directory = _make(settings.home / "sweeps" / f"key-{age}", age=age)
        state = {"run_id": "r", "seed": 0, "candidate_run_id": None if age >= 3 else "c"}
        state |= {"is_given_up": True} if age == 4 else {}
        (directory / "sweep.json").write_text(json.dumps(state))
        os.utime(directory, (1e9 - age, 1e9 - age))
    with disable_run_logger():
        forget_old_files.fn(settings)
    with_fits = {path.parent.name for path in (settings.home / "sweeps").glob("*/file")}
    # The newest that ended, and one that goes on; the oldest was given up.
    assert with_fits == {"key-0", "key-3"}
    assert len(list((settings.home / "sweeps").glob("*/sweep.json"))) == 5
