"""How far a pipeline is, in the file that the service shows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ecg_lib.operations.learning.pipeline_run import PipelineRun, read_pipeline_run
from ecg_lib.operations.settings import Settings
from flows.pipeline import shown

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
