"""What MLflow shows: columns of the run list, descriptions with links, runs of earlier code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ecg_lib.classifier.bundle import MODEL_CARD, Bundle
from ecg_lib.operations.settings import Settings
from flows.doors.registry import MODEL_NAME, Registry, RunEnd, RunKind
from flows.doors.ui.columns import PREFECT_RUN, STATE, V_F1, V_F1_OF_SEARCH
from flows.doors.ui.tracking import (
    describe_experiment,
    describe_run,
    describe_version,
    find_landing,
    shorten,
    tag_check,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("tracking"))


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return Registry(settings)


@pytest.fixture
def client(settings: Settings) -> MlflowClient:
    return MlflowClient(tracking_uri=settings.tracking_uri)


def test_the_run_list_of_an_earlier_home_gets_the_columns_and_no_red_for_pruned_trials(
    registry: Registry, settings: Settings, client: MlflowClient
) -> None:
    assert find_landing(settings.tracking_uri) is None
    candidate = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={})
    registry.log(candidate, metrics={"oof_v_f1": 0.9})
    registry.end_run(candidate)
    trial = registry.start_run("trial 0", kind=RunKind.TRIAL, tags={"ecg.pruned": "false"})
    registry.log(trial, metrics={"search_v_f1": 0.8})
    registry.end_run(trial)
    pruned = registry.start_run("trial 1", kind=RunKind.TRIAL, tags={"ecg.pruned": "true"})
    registry.end_run(pruned, RunEnd.KILLED)
    killed = registry.start_run("trial 2", kind=RunKind.TRIAL, tags={})
    registry.end_run(killed, RunEnd.KILLED)
    failed = registry.start_run("trial 3", kind=RunKind.TRIAL, tags={})
    registry.end_run(failed, RunEnd.FAILED)
    before = client.get_run(pruned).info.end_time
    experiment = registry.experiment_id()
    assert find_landing(settings.tracking_uri) == f"#/experiments/{experiment}/runs"

    describe_experiment(registry, settings)
    assert client.get_run(candidate).data.metrics[V_F1] == 0.9
    assert client.get_run(trial).data.metrics[V_F1_OF_SEARCH] == 0.8
    changed = client.get_run(pruned)
    assert (changed.info.status, changed.info.end_time) == ("FINISHED", before)
    assert changed.data.tags[STATE] == "pruned"
    assert client.get_run(killed).info.status == "KILLED"
    assert client.get_run(failed).info.status == "FAILED"
    tags = client.get_experiment(experiment).tags
    view = json.loads(tags["mlflow.sharedViewState.ecg"])
    assert view["orderByKey"] == "metrics.`V-F1`" == view["selectedColumns"][0]
    assert f"http://127.0.0.1:{settings.service_port}/ops" in tags["mlflow.note.content"]
    assert tags["mlflow.experiment.primaryMetric.name"] == "V-F1"
    assert (
        find_landing(settings.tracking_uri)
        == f"#/experiments/{experiment}/runs?viewStateShareKey=ecg"
    )


def test_a_change_of_earlier_runs_that_was_cut_off_is_continued_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path)
    registry, client = Registry(settings), MlflowClient(tracking_uri=settings.tracking_uri)
    runs = [
        registry.start_run(name, kind=RunKind.TRIAL, tags={"ecg.pruned": "true"})
        for name in ("trial 0", "trial 1")
    ]
    for run_id in runs:
        registry.end_run(run_id, RunEnd.KILLED)
    terminate, calls = MlflowClient.set_terminated, []

    def fail_on_the_second(self: MlflowClient, run_id: str, *args: object, **more: object) -> None:
        calls.append(run_id)
        if len(calls) == 2:
            msg = "database is locked"
            raise MlflowException(msg)
        terminate(self, run_id, *args, **more)

    monkeypatch.setattr(MlflowClient, "set_terminated", fail_on_the_second)
    describe_experiment(registry, settings)
    assert "MLflow does not describe the experiment: database is locked" in caplog.text
    assert sorted(client.get_run(run_id).info.status for run_id in runs) == ["FINISHED", "KILLED"]
    assert str(find_landing(settings.tracking_uri)).endswith("?viewStateShareKey=ecg")
    describe_experiment(registry, settings)
    assert [client.get_run(run_id).info.status for run_id in runs] == ["FINISHED", "FINISHED"]
    later = registry.start_run("trial 2", kind=RunKind.TRIAL, tags={"ecg.pruned": "true"})
    registry.end_run(later, RunEnd.KILLED)
    describe_experiment(registry, settings)
    assert client.get_run(later).info.status == "KILLED"  # the change is made once


def test_a_server_of_mlflow_that_is_down_fails_nothing_that_is_only_described(
    tmp_path: Path,
    toy_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = Settings(home=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")
    registry = Registry(settings)
    describe_experiment(registry, settings)
    describe_run(registry, settings, "r1", about="A sweep.", lines={})
    describe_version(registry, settings, "7", run_id="r1", bundle=toy_bundle)
    tag_check(settings, "7", verdict="KEEP", page="http://x")
    for what in ("the experiment", "run r1", "version 7"):
        assert f"MLflow does not describe {what}: " in caplog.text
    assert "MLflow has no tag of the drift check of version 7: no answer" in caplog.text


def test_a_run_says_what_it_is_and_where_it_came_from(
    registry: Registry, settings: Settings, client: MlflowClient
) -> None:
    run_id = registry.start_run("sweep", kind=RunKind.SWEEP, tags={})
    describe_run(
        registry,
        settings,
        run_id,
        about="A sweep.",
        lines={"Commit": "`abc`", "Page": "http://x", "Nothing": ""},
    )
    tags = client.get_run(run_id).data.tags
    assert tags["mlflow.note.content"] == "A sweep.\n\n- Commit: `abc`\n- Page: [open](http://x)"
    assert PREFECT_RUN not in tags  # no flow run made it


def test_a_version_shows_its_latest_drift_check(
    registry: Registry, settings: Settings, client: MlflowClient, toy_bundle: Bundle
) -> None:
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={})
    registry.log_bundle(run_id, toy_bundle)
    registry.end_run(run_id)
    version = registry.register(run_id, tags={}).version
    for decision in ("KEEP, yesterday", "RETRAIN, today"):
        tag_check(settings, version, verdict=decision, page=f"http://x/{decision[:4]}")
    tags = client.get_model_version(MODEL_NAME, version).tags
    assert (tags["drift.check"], tags["drift.page"]) == ("RETRAIN, today", "http://x/RETR")


def test_a_drift_check_of_a_version_that_another_registry_made_is_a_line_in_the_log(
    settings: Settings, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.search_experiments()  # makes the database
    tag_check(settings, "99", verdict="KEEP", page="http://x")
    assert "MLflow does not describe the drift check of version 99" in caplog.text


def test_a_drift_check_before_the_first_run_makes_no_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path)
    tag_check(settings, "1", verdict="KEEP", page="http://x")
    assert not settings.mlflow_dir.exists()
    assert not caplog.text


def test_a_version_shows_its_figures_links_and_card(
    registry: Registry, settings: Settings, client: MlflowClient, toy_bundle: Bundle
) -> None:
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={PREFECT_RUN: "f-1"})
    registry.log_bundle(run_id, toy_bundle)
    registry.end_run(run_id)
    version = registry.register(run_id, tags={}).version
    describe_version(registry, settings, version, run_id=run_id, bundle=toy_bundle)
    shown = client.get_model_version(MODEL_NAME, version).description
    assert shown.startswith(f"**V-F1 {toy_bundle.metrics['oof_v_f1']:.4f}**")
    for part in (
        toy_bundle.provenance.dataset_version,
        toy_bundle.hash,
        f"(http://127.0.0.1:{settings.prefect_port}/runs/flow-run/f-1)",
        f"(http://127.0.0.1:{settings.mlflow_port}/#/experiments/",
        f"(http://127.0.0.1:{settings.service_port}/ops)",
    ):
        assert part in shown, part
    assert "file:" not in shown
    assert shown.endswith(toy_bundle.model_card)


def test_a_long_card_is_cut_at_a_paragraph(
    registry: Registry, settings: Settings, client: MlflowClient, toy_bundle: Bundle, tmp_path: Path
) -> None:
    directory = tmp_path / "long"
    shutil.copytree(toy_bundle.directory, directory)
    card = directory / MODEL_CARD
    card.write_text("\n\n".join(["A paragraph of the card."] * 400))
    long = replace(toy_bundle, directory=directory)
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={})
    version = registry.register(run_id, tags={}).version
    describe_version(registry, settings, version, run_id=run_id, bundle=long)
    shown = client.get_model_version(MODEL_NAME, version).description
    assert 4900 < len(shown) <= 5000
    assert "card.\n\nThe whole card is [with the files of the run](http" in shown


@pytest.mark.parametrize(("longest", "cut"), [(11, "one\n\nthree!"), (10, "one rest")])
def test_a_text_that_fits_stays_whole(longest: int, cut: str) -> None:
    assert shorten("one\n\nthree!", longest, rest=" rest") == cut
