"""Runs, versions and aliases in a registry of MLflow: what is asked of it, and what is left."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleError
from ecg_lib.operations.settings import Settings
from flows.doors import registry as module
from flows.doors.registry import (
    ELIGIBLE,
    Alias,
    Registry,
    RegistryError,
    RunEnd,
    RunKind,
    explain_unreachable,
    has_runs,
    reaching_registry,
    read_version,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing else: making them takes seconds."""
    settings = Settings(home=tmp_path_factory.mktemp("registry"))
    Registry(settings).experiment_id()
    return settings.mlflow_dir / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, database: Path) -> Settings:
    settings = Settings(home=tmp_path / "homes" / "one")
    settings.mlflow_dir.mkdir(parents=True)
    shutil.copy(database, settings.mlflow_dir / "mlflow.db")
    with closing(sqlite3.connect(settings.mlflow_dir / "mlflow.db")) as connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = 'ecg-pvc'",
            (settings.mlflow_artifacts_url,),
        )
        connection.commit()
    return settings


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings)


def make_candidate(registry: Registry, v_f1: float | None = 0.9, **tags: str) -> str:
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={ELIGIBLE: "true"} | tags)
    if v_f1 is not None:
        registry.log(run_id, metrics={"oof_v_f1": v_f1})
    registry.end_run(run_id)
    return run_id


def name_alias(registry: Registry, alias: Alias) -> str | None:
    found = registry.get_alias(alias)
    return None if found is None else found.version


def test_a_flow_names_a_version_or_the_champion() -> None:
    assert read_version("champion") is None
    assert read_version("7") == "7"


def test_a_home_that_is_not_there_yet_gets_a_registry(tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path / "homes" / "new"))
    assert registry.experiment_id() == registry.experiment_id()
    run = registry._client.get_run(registry.start_run("one", kind=RunKind.SWEEP, tags={}))
    assert str(run.info.artifact_uri).startswith(registry._settings.mlflow_artifacts_url)
    assert "mlflow.parentRunId" not in run.data.tags


def test_runs_that_a_killed_sweep_left_open_are_ended(registry: Registry) -> None:
    sweep, other = (registry.start_run(name, kind=RunKind.SWEEP, tags={}) for name in "ab")
    runs = [
        registry.start_run("trial", kind=RunKind.TRIAL, tags={}, parent_run_id=parent)
        for parent in (sweep, sweep, sweep, other)
    ]
    registry.end_run(runs[0])
    assert registry.end_cut_off(sweep) == 2
    status = [registry._client.get_run(run_id).info.status for run_id in [*runs, sweep]]
    assert status == ["FINISHED", "KILLED", "KILLED", "RUNNING", "RUNNING"]
    assert registry.end_cut_off(sweep) == 0


def test_figures_are_logged_with_the_time_in_milliseconds(registry: Registry) -> None:
    run_id = registry.start_run("trial", kind=RunKind.TRIAL, tags={})
    registry.log(run_id, metrics={"one": 0.5})
    registry.log(run_id, params={"seed": 1})
    registry.log(run_id, tags={"state": "pruned"})
    registry.log_curve(run_id, "loss", [0.3, 0.2])
    (one,) = registry._client.get_metric_history(run_id, "one")
    curve = registry._client.get_metric_history(run_id, "loss")
    assert (one.value, one.step) == (0.5, 0)
    assert [(metric.value, metric.step) for metric in curve] == [(0.3, 0), (0.2, 1)]
    for metric in [one, *curve]:
        assert abs(metric.timestamp / 1000 - time.time()) < 300
    run = registry._client.get_run(run_id)
    assert run.data.params == {"seed": "1"}
    assert run.data.tags["state"] == "pruned"


def test_all_pages_of_runs_are_listed_latest_first(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RUNS_AT_ONCE", 2)
    assert registry.list_runs() == []
    runs = []
    for _ in range(5):
        runs.append(registry.start_run("trial", kind=RunKind.TRIAL, tags={}))
        time.sleep(0.002)  # of each millisecond one: MLflow sorts by that
    assert [run.run_id for run in registry.list_runs()] == runs[::-1]
    registry._client.delete_run(runs[0])
    assert [run.run_id for run in registry.list_runs()] == runs[:0:-1]
    assert [run.run_id for run in registry.list_runs(are_deleted=True)] == runs[:1]


def test_a_run_is_known_by_what_matters_for_whether_it_is_needed(registry: Registry) -> None:
    tags = {"ecg.dataset_version": "d", "ecg.bundle_hash": "b", "ecg.sweep": "s"}
    candidate = make_candidate(registry, 0.9, **tags)
    refused = make_candidate(registry, None, **{ELIGIBLE: "false"})
    still = registry.start_run("c", kind=RunKind.CANDIDATE, tags={ELIGIBLE: "true"})
    failed = registry.start_run("c", kind=RunKind.CANDIDATE, tags={ELIGIBLE: "true"})
    registry.end_run(failed, RunEnd.FAILED)
    trial = registry.start_run(
        "t", kind=RunKind.TRIAL, tags={ELIGIBLE: "true"}, parent_run_id=candidate
    )
    registry.end_run(trial)
    bare = registry._client.create_run(registry.experiment_id()).info.run_id
    known = {run.run_id: run for run in registry.list_runs()}
    assert {run_id: run.is_candidate for run_id, run in known.items()} == {
        candidate: True, refused: False, still: False, failed: False, trial: False, bare: False,
    }  # fmt: skip
    assert {run_id for run_id, run in known.items() if run.is_open} == {still, bare}
    one = known[candidate]
    assert (one.kind, one.dataset_version, one.bundle_hash, one.sweep, one.v_f1) == (
        "candidate", "d", "b", "s", 0.9,
    )  # fmt: skip
    assert known[trial].parent_run_id == candidate
    found = known[bare]
    assert (found.kind, found.parent_run_id, found.v_f1) == ("", None, 0.0)
    assert (found.dataset_version, found.bundle_hash, found.sweep) == ("", "", "")
    assert found.chosen_trial == ""


def test_the_best_candidate_of_all_is_found_where_no_tag_is_asked_for(registry: Registry) -> None:
    make_candidate(registry, 0.8)
    best = make_candidate(registry, 0.95)
    make_candidate(registry, 0.9)
    assert registry.find_candidate() == best


def test_runs_are_removed_with_their_versions_and_no_others(registry: Registry) -> None:
    assert registry.remove_runs([]) == []
    runs = [make_candidate(registry) for _ in range(3)]
    for run_id in runs:
        registry.register(run_id, tags={})
    assert registry.remove_runs([runs[1]]) == []
    assert [version.run_id for version in registry.versions()] == [runs[2], runs[0]]
    assert {run.run_id for run in registry.list_runs()} == {runs[0], runs[2]}


def test_the_files_on_a_server_are_left_to_it(settings: Settings) -> None:
    registry = Registry(settings.model_copy(update={"mlflow_tracking_uri": settings.tracking_uri}))
    run_id = make_candidate(registry)
    assert registry.remove_runs([]) == []
    assert registry.remove_runs([run_id]) == ["`mlflow gc` of that server removes them"]
    assert registry._client.get_run(run_id).info.lifecycle_stage == "deleted"


def test_versions_are_those_of_the_runs_latest_first(registry: Registry) -> None:
    assert registry.get_alias(Alias.CHAMPION) is None
    assert registry.versions() == []
    with pytest.raises(RegistryError, match="the registry has none"):
        registry.find()
    runs = [make_candidate(registry) for _ in range(11)]
    made = [registry.register(run_id, tags={"n": run_id}) for run_id in runs]
    assert [version.version for version in registry.versions()] == [
        str(number) for number in range(11, 0, -1)
    ]
    assert registry.register(runs[3], tags={}) == made[3] == registry.find("4")
    assert made[3].tags == {"n": runs[3]}
    assert len(registry.versions()) == 11
    with pytest.raises(RegistryError, match="got '12'"):
        registry.get_version("12")


def test_a_new_champion_makes_the_old_one_the_previous_and_leaves_other_challengers(
    registry: Registry,
) -> None:
    for _ in range(3):
        registry.register(make_candidate(registry), tags={})
    registry.remove_alias(Alias.CHALLENGER)  # which nobody has
    registry.make_champion("1")
    assert name_alias(registry, Alias.PREVIOUS_CHAMPION) is None
    registry.set_alias(Alias.CHALLENGER, "3")
    registry.make_champion("2")
    registry.make_champion("2")
    assert [name_alias(registry, alias) for alias in Alias] == ["3", "2", "1"]
    assert registry.find().version == "2"
    registry.make_champion("3")
    assert [name_alias(registry, alias) for alias in Alias] == [None, "3", "2"]


def test_versions_that_were_rolled_back_are_marked_and_their_runs_are_not_eligible(
    registry: Registry,
) -> None:
    runs = [make_candidate(registry) for _ in range(3)]
    for run_id in runs:
        registry.register(run_id, tags={})
    registry.follow_release("1", rolled_back=["2", "1", "998"])
    marks = {one.version: one.tags.get("rolled_back") for one in registry.versions()}
    assert marks == {"1": None, "2": "true", "3": None}
    assert name_alias(registry, Alias.CHAMPION) == "1"
    eligible = {run.run_id for run in registry.list_runs() if run.is_candidate}
    assert eligible == {runs[0], runs[2]}


def test_a_bundle_that_cannot_be_read_is_not_kept(
    registry: Registry, toy_bundle: Bundle, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(toy_bundle.directory, broken)
    (broken / "manifest.json").write_text("{}")
    run_id = make_candidate(registry)
    registry._client.log_artifacts(run_id, str(broken), "bundle")
    with pytest.raises(BundleError):
        registry.fetch_bundle(run_id)
    assert list((registry._settings.home / "bundles").iterdir()) == []


def test_a_bundle_is_fetched_once(
    registry: Registry, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = make_candidate(registry)
    registry.log_bundle(run_id, toy_bundle)
    assert registry.fetch_figures(run_id).metrics == toy_bundle.metrics
    assert registry.fetch_bundle(run_id).hash == toy_bundle.hash

    def fail(*_: Any) -> str:  # noqa: ANN401
        raise AssertionError("it was fetched before")

    monkeypatch.setattr(registry._client, "download_artifacts", fail)
    assert registry.fetch_bundle(run_id).hash == toy_bundle.hash
    assert registry.fetch_figures(run_id).metrics == toy_bundle.metrics


def test_an_error_that_is_not_that_of_a_missing_run_or_alias_is_raised(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  it takes seconds

    def fail(*_: Any, **__: Any) -> None:  # noqa: ANN401
        raise MlflowException("busy")

    client = registry._client
    for name in ("update_run", "get_model_version_by_alias", "get_registered_model"):
        monkeypatch.setattr(client, name, fail)
    acts: list[Callable[[], object]] = [
        lambda: registry.reopen_run("0" * 32),
        lambda: registry.get_alias(Alias.CHAMPION),
        lambda: registry.register("0" * 32, tags={}),
    ]
    for act in acts:
        with pytest.raises(MlflowException, match="busy"):
            act()


def test_without_a_store_an_experiment_of_another_place_is_nothing_to_warn_of(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(settings.mlflow_dir / "mlflow.db")) as connection:
        connection.execute("UPDATE experiments SET artifact_location = 'file:///elsewhere'")
        connection.commit()
    Registry(settings).experiment_id()
    assert "keeps its artifacts" not in caplog.text


def test_errors_of_mlflow_are_told_in_one_line(settings: Settings) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  it takes seconds

    with pytest.raises(RegistryError, match=r"^first$"), reaching_registry(settings):
        raise MlflowException("first\nsecond")
    with pytest.raises(RegistryError, match=r"^MlflowException$"), reaching_registry(settings):
        raise MlflowException("")
    with reaching_registry(settings) as registry:
        assert registry.versions() == []


def test_why_a_database_cannot_be_written_is_said(settings: Settings) -> None:
    assert explain_unreachable(settings) == ""
    assert explain_unreachable(settings) == ""  # and it was not left locked
    database = settings.mlflow_dir / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert explain_unreachable(settings) == "its database: database is locked"
    database.write_bytes(b"no database at all" * 100)
    assert explain_unreachable(settings) == "its database: file is not a database"
    with pytest.raises(RegistryError, match="file is not a database"), reaching_registry(settings):
        pass
    database.unlink()
    assert explain_unreachable(settings) == ""
    assert not database.exists()
    other = settings.model_copy(update={"mlflow_tracking_uri": "postgresql://a/b"})
    assert explain_unreachable(other) == ""


def test_a_database_whose_tables_cannot_be_read_is_named(settings: Settings) -> None:
    database = settings.mlflow_dir / "mlflow.db"
    content = database.read_bytes()
    database.write_bytes(content[:100] + bytes([255]) * 3996 + content[4096:])
    assert explain_unreachable(settings) == "its database: database disk image is malformed"


def test_a_registry_makes_its_folder(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home")
    Registry(settings)
    assert settings.mlflow_dir.is_dir()
    Registry(settings)


def test_runs_are_looked_for_where_a_database_file_or_a_server_is(settings: Settings) -> None:
    assert has_runs(settings)
    (settings.mlflow_dir / "mlflow.db").unlink()
    assert not has_runs(settings)
    assert has_runs(settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"}))


@pytest.mark.parametrize(
    ("status", "said"), [(200, ""), (204, ""), (302, "it answers 302"), (503, "it answers 503")]
)
def test_a_server_is_asked_for_its_health_for_three_seconds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    asked: list[tuple[str, float]] = []

    def get(url: str, *, timeout: float) -> httpx.Response:
        asked.append((url, timeout))
        return httpx.Response(status)

    monkeypatch.setattr(module.httpx, "get", get)
    server = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9/"})
    assert explain_unreachable(server) == said
    assert asked == [("http://127.0.0.1:9/health", 3.0)]


def test_a_server_that_does_not_answer_is_said_to(settings: Settings) -> None:
    server = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"})
    assert explain_unreachable(server) == "no answer, ConnectError"


def test_a_locked_database_is_waited_for_three_seconds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, waits = sqlite3.connect, []

    def look(path: Path, *, timeout: float) -> sqlite3.Connection:
        waits.append(timeout)
        return connect(path, timeout=timeout)

    monkeypatch.setattr(module.sqlite3, "connect", look)
    assert explain_unreachable(settings) == ""
    assert waits == [3.0]
