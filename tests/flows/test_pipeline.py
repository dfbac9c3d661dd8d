"""How far a pipeline is, in the file that the service shows; and when it trains nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from prefect.states import State

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.operations.learning.pipeline_run import PipelineRun, read_pipeline_run
from ecg_lib.operations.settings import Settings, read_settings
from flows.data.databases import DatabaseName
from flows.data.records.sources import Source
from flows.doors.registry import Registry, RunKind
from flows.evaluation.retraining_outcome import Obstacle, find_obstacle, list_databases
from flows.pipeline import pipeline, shown

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def read(settings: Settings) -> PipelineRun:
    run = read_pipeline_run(settings.serving_dir / "pipeline.json")
    assert run is not None
    return run


def test_a_run_shows_its_stages_and_why_it_did_not_promote(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert read_pipeline_run(settings.serving_dir / "pipeline.json") is None
    with shown(settings, why="drift", started_at=NOW) as progress:
        assert read(settings).stage == "ingest-records"
        during = progress.time("train-sweep", lambda: read(settings))
        assert (during.stage, during.stages, during.finished_at) == ("train-sweep", {}, None)
        progress.note(is_promoted=False, version="7", reasons=("no gain",))
    run = read(settings)
    assert (run.why, run.started_at, set(run.stages)) == ("drift", NOW, {"train-sweep"})
    assert (run.is_promoted, run.version, run.reasons) == (False, "7", ("no gain",))
    assert run.finished_at is not None
    assert run.failure is None


def test_a_run_that_fails_says_where_and_why(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)

    def fail() -> None:
        msg = "the disk is full " * 100
        raise OSError(msg)

    with (
        pytest.raises(OSError, match="the disk is full"),
        shown(settings, why="by hand", started_at=NOW) as progress,
    ):
        progress.time("package-bento", fail)
    run = read(settings)
    assert (run.stage, run.stages, run.is_promoted) == ("package-bento", {}, None)
    assert run.failure is not None
    assert run.failure.startswith("OSError: the disk is full")
    assert len(run.failure) == 500


NOWHERE = "http://127.0.0.1:1/mitdb/1.0.0/"
"""A port that no server has."""


@pytest.fixture
def make_champion(make_toy_bundle: Callable[..., Bundle]) -> Callable[..., None]:
    """Register a model that was trained on some data, and make it champion."""

    def make(settings: Settings, data: DataSource, *databases: DatabaseName) -> None:
        registry = Registry(settings)
        run_id = registry.start_run("a model", kind=RunKind.REFERENCE, tags={})
        bundle = make_toy_bundle(str(data), data_source=data, databases=databases)
        registry.log_bundle(run_id, bundle)
        registry.end_run(run_id)
        registry.make_champion(registry.register(run_id, tags={}).version)

    return make


def find(
    settings: Settings, source: Source = Source.AUTO, *others: DatabaseName
) -> Obstacle | None:
    with disable_run_logger():
        return find_obstacle(source, (DatabaseName.MITDB, *others), settings)


def test_simulated_patients_are_trained_on_where_that_may_be_promoted(
    tmp_path: Path, make_champion: Callable[..., None]
) -> None:
    settings = Settings(home=tmp_path, physionet_url=NOWHERE, mitdb_dir=None)
    assert find(settings) is None  # no champion yet
    make_champion(settings, DataSource.SIMULATED)
    assert find(settings) is None
    make_champion(settings, DataSource.RECORDS)
    assert find(settings, Source.SIMULATOR) is None  # asked for
    assert find(settings) is not None
    (tmp_path / "records").mkdir()
    given = settings.model_copy(update={"mitdb_dir": tmp_path / "records", "svdb_dir": None})
    assert find(given) is None
    obstacle = find(given, Source.AUTO, DatabaseName.SVDB)
    assert obstacle is not None
    assert "there are no records of svdb (" in obstacle.why
    assert "set ECG_SVDB_DIR or allow the download" in obstacle.why
    assert find(given.model_copy(update={"svdb_dir": tmp_path / "records"})) is None


def test_the_pipeline_trains_on_the_databases_of_the_champion_that_are_at_hand(
    tmp_path: Path, make_champion: Callable[..., None]
) -> None:
    def find_databases(
        settings: Settings, *wanted: DatabaseName, source: Source = Source.AUTO
    ) -> tuple[DatabaseName, ...]:
        with disable_run_logger():
            return list_databases(source, wanted, settings)

    mitdb, svdb = DatabaseName.MITDB, DatabaseName.SVDB
    (tmp_path / "records").mkdir()
    settings = Settings(
        home=tmp_path, physionet_url=NOWHERE, mitdb_dir=tmp_path / "records", svdb_dir=None
    )
    assert find_databases(settings) == (mitdb,)  # no champion yet
    make_champion(settings, DataSource.MITDB, mitdb, svdb)
    assert find_databases(settings) == (mitdb,)  # svdb is not at hand
    given = settings.model_copy(update={"svdb_dir": tmp_path / "records"})
    assert find_databases(given) == (mitdb, svdb)
    assert find_databases(given, mitdb) == (mitdb,)  # as asked for
    assert find_databases(given, source=Source.SIMULATOR) == (mitdb,)


def test_without_records_the_pipeline_says_in_a_line_why_it_trains_nothing(
    prefect_server: None,
    make_champion: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ECG_PHYSIONET_URL", NOWHERE)
    monkeypatch.delenv("ECG_MITDB_DIR", raising=False)
    settings = read_settings()
    make_champion(settings, DataSource.MITDB)
    state = pipeline(reason="drift", return_state=True)
    assert isinstance(state, State)
    assert (state.name, state.is_completed()) == ("NothingTrained", True)
    assert state.message is not None
    assert "\n" not in state.message
    assert "a model without them never replaces model 1, trained on mitdb data" in (state.message)
    assert "set ECG_MITDB_DIR or allow the download" in state.message
    assert not settings.datasets_dir.exists()
    run = read(settings)
    assert (run.why, run.is_promoted, run.version) == ("drift", False, "1")
    assert run.reasons == (state.message,)
    assert run.finished_at is not None
