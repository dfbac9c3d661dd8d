"""The data of a sweep reach workers with another home through a store, and nothing else does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import DatasetError
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.archives import download_directory
from ecg_lib.operations.store.objects import ObjectStore, open_store
from flows.data.dataset_versions import DatasetVersion
from flows.data.training_data import training_data_dir
from flows.training.sweep import Sweep, SweepPlan, describe_sweep, settle_shared_data
from flows.training.workers import shared_data
from flows.training.workers.shared_data import (
    SharedData,
    fetch_data,
    remove_data,
    remove_left_data,
    share_data,
)

VERSION = DatasetVersion(
    version="d1",
    created_at="2026-01-01T00:00:00+00:00",
    data_source=DataSource.SIMULATED,
    source_directory="/of/the/lead",
    records=(),
    broken=(),
    folds={3: {"a": 0}},
)


@pytest.fixture(autouse=True)
def _no_flow_run() -> Iterator[None]:
    with disable_run_logger():
        yield


@pytest.fixture
def lead(tmp_path: Path, store_url: str) -> Settings:
    return Settings(home=tmp_path / "lead", store_url=store_url)


@pytest.fixture
def worker(tmp_path: Path, store_url: str) -> Settings:
    return Settings(home=tmp_path / "worker", store_url=store_url)


@pytest.fixture
def sweep(lead: Settings) -> Sweep:
    return Sweep(
        name="s-1",
        run_id="0123456789",
        directory=lead.home / "sweeps" / "s-1",
        seed=0,
        plan=SweepPlan(n_workers=2),
        tags={"ecg.dataset_version": "d1"},
    )


@pytest.fixture
def data(lead: Settings, sweep: Sweep) -> SharedData:
    beats = training_data_dir(VERSION, sweep.plan.views, lead)
    (beats / "sealed").mkdir(parents=True)
    (beats / "windows.npy").write_bytes(bytes(range(256)) * 1000)
    (beats / "sealed" / "0.beats").write_bytes(b"encrypted")
    return SharedData(VERSION, beats)


def _files(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def test_a_worker_gets_version_and_beats_as_the_lead_has_them(
    lead: Settings, worker: Settings, sweep: Sweep, data: SharedData
) -> None:
    shared = share_data.fn(sweep, data, lead)
    assert describe_sweep(sweep, data=shared)["data"] == shared
    for _ in range(2):  # a worker that starts again has the beats
        version, beats = fetch_data.fn(sweep, shared, worker)
        assert version == VERSION
        assert beats == training_data_dir(VERSION, sweep.plan.views, worker)
        assert _files(beats) == _files(data.beats)
    assert [path.name for path in beats.parent.glob("[!.]*")] == [beats.name]
    assert list(beats.parent.glob(".fetch-*")) == []


def test_beats_that_no_worker_would_take_are_not_shared(
    lead: Settings, sweep: Sweep, data: SharedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_bytes = sum(map(len, _files(data.beats).values()))
    monkeypatch.setattr(shared_data, "MOST_BYTES", n_bytes - 1)
    assert share_data.fn(sweep, data, lead) is None
    assert (
        open_store(str(lead.store_url)).find_version(f"sweeps/{sweep.run_id}/version.json") is None
    )
    monkeypatch.setattr(shared_data, "MOST_BYTES", n_bytes)
    assert share_data.fn(sweep, data, lead) is not None


def test_beats_that_were_changed_in_the_store_are_rejected(
    lead: Settings, worker: Settings, sweep: Sweep, data: SharedData
) -> None:
    shared = share_data.fn(sweep, data, lead)
    (data.beats / "windows.npy").write_bytes(b"others")
    share_data.fn(sweep, data, lead)
    with pytest.raises(DatasetError, match="must be those that its study names"):
        fetch_data.fn(sweep, shared, worker)
    assert [path.name for path in (worker.datasets_dir / "training").iterdir()] == [".fetch.lock"]


def test_the_data_of_a_sweep_that_is_over_leave_the_store(
    lead: Settings, worker: Settings, sweep: Sweep, data: SharedData
) -> None:
    shared = share_data.fn(sweep, data, lead)
    other = replace(sweep, run_id="other")
    kept = share_data.fn(other, data, lead)
    remove_data(sweep, lead)
    with pytest.raises(DatasetError, match="it is over"):
        fetch_data.fn(sweep, shared, worker)
    assert fetch_data.fn(other, kept, worker).version == VERSION


def test_a_sweep_for_one_worker_or_without_a_store_shares_nothing(
    lead: Settings, worker: Settings, sweep: Sweep, data: SharedData
) -> None:
    alone = replace(sweep, plan=SweepPlan())
    assert share_data.fn(alone, data, lead) is None
    assert open_store(str(lead.store_url)).read(shared_data._version_key(alone.run_id)) is None
    assert share_data.fn(sweep, data, Settings(home=lead.home)) is None
    with pytest.raises(DatasetError, match="dataset d1 must be on this machine or shared"):
        fetch_data.fn(sweep, None, worker)
    with pytest.raises(DatasetError, match="ECG_STORE_URL"):
        fetch_data.fn(sweep, "0" * 64, Settings(home=worker.home))


def test_a_store_that_is_away_ends_no_sweep(tmp_path: Path, sweep: Sweep, data: SharedData) -> None:
    (tmp_path / "file").touch()
    away = Settings(home=tmp_path / "lead", store_url=(tmp_path / "file" / "store").as_uri())
    assert share_data.fn(sweep, data, away) is None
    remove_data(sweep, away)


def test_workers_of_a_home_that_start_together_fetch_once(
    lead: Settings,
    worker: Settings,
    sweep: Sweep,
    data: SharedData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = share_data.fn(sweep, data, lead)
    fetched: list[str] = []

    def download(store: ObjectStore, key: str, draft: Path, *, most_bytes: int) -> bool:
        fetched.append(key)
        time.sleep(0.2)  # the others would fetch too
        return download_directory(store, key, draft, most_bytes=most_bytes)

    monkeypatch.setattr(shared_data, "download_directory", download)

    def fetch() -> Path:
        with disable_run_logger():
            return fetch_data.fn(sweep, shared, worker).beats

    with ThreadPoolExecutor(4) as pool:
        found = [one.result() for one in [pool.submit(fetch) for _ in range(4)]]
    assert len(set(found)) == 1
    assert len(fetched) == 1
    assert _files(found[0]) == _files(data.beats)


def test_what_a_killed_worker_had_fetched_is_removed_by_the_next(
    lead: Settings, worker: Settings, sweep: Sweep, data: SharedData
) -> None:
    shared = share_data.fn(sweep, data, lead)
    left = worker.datasets_dir / "training" / ".fetch-killed" / "beats"
    left.mkdir(parents=True)
    (left / "windows.npy").write_bytes(b"half")
    fetch_data.fn(sweep, shared, worker)
    assert not left.parent.exists()


@pytest.mark.parametrize(
    ("state", "is_kept"),
    [
        ({"candidate_run_id": None}, True),
        ({"candidate_run_id": None, "is_given_up": True}, False),
        ({"candidate_run_id": "killed before it removed them"}, False),
    ],
)
def test_retention_removes_the_data_of_sweeps_that_are_over(
    lead: Settings, sweep: Sweep, data: SharedData, state: dict[str, Any], *, is_kept: bool
) -> None:
    sweep.directory.mkdir(parents=True)
    path = sweep.directory / "sweep.json"
    path.write_text(json.dumps({"run_id": sweep.run_id, "seed": 0, "candidate_run_id": None}))
    share_data.fn(sweep, data, lead)
    path.write_text(json.dumps(json.loads(path.read_text()) | state))
    away = lead.model_copy(update={"store_url": (lead.home / "no" / "store").as_uri()})
    lead.home.joinpath("no").touch()
    for settings in (away, lead):  # what a store that is away keeps is removed later
        remove_left_data(settings)
    store = open_store(str(lead.store_url))
    keys = (shared_data._version_key(sweep.run_id), shared_data._beats_key(sweep.run_id))
    assert [store.find_version(key) is not None for key in keys] == [is_kept] * 2
    assert json.loads(path.read_text())["has_shared_data"] is is_kept


def test_retention_removes_the_data_of_a_sweep_that_is_over_and_whose_state_is_torn(
    lead: Settings, sweep: Sweep, data: SharedData
) -> None:
    sweep.directory.mkdir(parents=True)
    path = sweep.directory / "sweep.json"
    path.write_text(json.dumps({"run_id": sweep.run_id, "seed": 0, "candidate_run_id": None}))
    share_data.fn(sweep, data, lead)
    path.write_text("{torn")
    store = open_store(str(lead.store_url))
    remove_left_data(lead, ended={"another"})
    assert store.find_version(shared_data._version_key(sweep.run_id)) is not None
    remove_left_data(lead, ended={sweep.run_id})
    assert list(store.list_objects("sweeps/")) == []


def test_data_that_are_removed_at_the_end_of_a_sweep_are_not_removed_again(
    lead: Settings, sweep: Sweep, data: SharedData
) -> None:
    sweep.directory.mkdir(parents=True)
    path = sweep.directory / "sweep.json"
    path.write_text(json.dumps({"run_id": sweep.run_id, "seed": 0, "candidate_run_id": "c"}))
    share_data.fn(sweep, data, lead)
    remove_data(sweep, lead)
    settle_shared_data(lead, lambda run_id: pytest.fail(f"{run_id} is removed again"))
