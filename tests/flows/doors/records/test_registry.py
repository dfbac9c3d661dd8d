from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from ecg_lib.classifier.bundle import MANIFEST, Bundle, read_bundle
from ecg_lib.errors import BundleError
from ecg_lib.operations.releases import CURRENT, write_release
from ecg_lib.operations.settings import Settings, read_settings
from flows.doors.registry import ELIGIBLE, Alias, Registry, RegistryError, RunEnd, RunKind
from flows.pipeline import find_kept_release
from flows.release.switch_service import make_release
from tests.object_store.server import ObjectServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One SQLite registry for the module: making its tables takes seconds."""
    return Registry(Settings(home=tmp_path_factory.mktemp("registry")))


def _candidate(
    registry: Registry, bundle: Bundle, *, v_f1: float, dataset: str, eligible: bool = True
) -> str:
    run_id = registry.start_run(
        "candidate",
        kind=RunKind.CANDIDATE,
        tags={"ecg.dataset_version": dataset, ELIGIBLE: str(eligible).lower()},
    )
    registry.log(run_id, metrics={"oof_v_f1": v_f1})
    registry.log_bundle(run_id, bundle)
    registry.end_run(run_id)
    return run_id


def of_earlier_code(bundle: Bundle, directory: Path) -> Bundle:
    """Copy a bundle as one of another format, which cannot be read here."""
    shutil.copytree(bundle.directory, directory)
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | {"format": 1}))
    return replace(bundle, directory=directory)


def test_the_best_eligible_finished_candidate_of_a_dataset_is_found(
    registry: Registry, toy_bundle: Bundle
) -> None:
    _candidate(registry, toy_bundle, v_f1=0.80, dataset="a")
    best = _candidate(registry, toy_bundle, v_f1=0.90, dataset="a")
    _candidate(registry, toy_bundle, v_f1=0.95, dataset="a", eligible=False)
    _candidate(registry, toy_bundle, v_f1=0.99, dataset="b")
    unfinished = registry.start_run(
        "candidate", kind=RunKind.CANDIDATE, tags={"ecg.dataset_version": "a", ELIGIBLE: "true"}
    )
    registry.log(unfinished, metrics={"oof_v_f1": 1.0})
    assert registry.find_candidate({"ecg.dataset_version": "a"}) == best


def test_no_candidate_is_an_error_that_says_what_was_asked_for(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"'ecg\.dataset_version': 'nowhere'"):
        registry.find_candidate({"ecg.dataset_version": "nowhere"})


def test_a_bundle_comes_back_as_it_was_logged(registry: Registry, toy_bundle: Bundle) -> None:
    run_id = _candidate(registry, toy_bundle, v_f1=0.9, dataset="c")
    assert registry.fetch_bundle(run_id).hash == toy_bundle.hash


def test_a_bundle_that_another_flow_fetched_meanwhile_is_taken(
    registry: Registry, toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = _candidate(registry, toy_bundle, v_f1=0.9, dataset="g")

    def read_late(directory: Path) -> Bundle:
        with monkeypatch.context() as now:
            now.setattr("flows.doors.registry.read_bundle", read_bundle)
            assert registry.fetch_bundle(run_id).hash == toy_bundle.hash
        monkeypatch.setattr("flows.doors.registry.read_bundle", read_bundle)
        return read_bundle(directory)

    monkeypatch.setattr("flows.doors.registry.read_bundle", read_late)
    for _ in range(2):
        assert registry.fetch_bundle(run_id).hash == toy_bundle.hash


def test_the_figures_of_a_bundle_that_cannot_be_read_are_fetched(
    registry: Registry, toy_bundle: Bundle, tmp_path: Path
) -> None:
    run_id = _candidate(
        registry, of_earlier_code(toy_bundle, tmp_path / "old"), v_f1=0.9, dataset="e"
    )
    assert registry.fetch_figures(run_id).metrics == toy_bundle.metrics
    for _ in range(2):
        with pytest.raises(BundleError, match="must have format 2, got 1"):
            registry.fetch_bundle(run_id)


def test_a_champion_of_earlier_code_is_kept_while_it_is_served(
    toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECG_HOME", str(tmp_path / "home"))
    settings = read_settings()
    registry = Registry(settings)
    readable, old = (
        registry.register(_candidate(registry, bundle, v_f1=0.9, dataset="f"), tags={})
        for bundle in (toy_bundle, of_earlier_code(toy_bundle, tmp_path / "old"))
    )
    with disable_run_logger():
        assert find_kept_release(settings, readable.version) is None
        with pytest.raises(BundleError, match="must have format 2, got 1"):
            find_kept_release(settings, old.version)
        release = make_release(
            bento_tag="ecg:a", model_tag="ecg:b", bundle_hash="c", code_hash="d",
            model_version=old.version,
        )  # fmt: skip
        write_release(settings.serving_dir / CURRENT, release)
        assert find_kept_release(settings, old.version) == release


def test_aliases_follow_promotion_rollback_and_registration_is_done_once(
    registry: Registry, make_toy_bundle: Callable[..., Bundle]
) -> None:
    runs = [
        _candidate(registry, make_toy_bundle(f"alias{n}"), v_f1=0.9, dataset="d") for n in (1, 2)
    ]
    first, second = (registry.register(run_id, tags={"n": "x"}) for run_id in runs)
    assert registry.register(runs[0], tags={}).version == first.version
    registry.set_alias(Alias.CHALLENGER, first.version)
    registry.make_champion(first.version)
    assert registry.get_alias(Alias.CHALLENGER) is None
    assert registry.find() == registry.find(first.version) == registry.get_alias(Alias.CHAMPION)
    registry.make_champion(second.version)
    assert registry.get_alias(Alias.CHAMPION) == second
    assert registry.get_alias(Alias.PREVIOUS_CHAMPION) == first

    registry.follow_release(first.version, rolled_back=[second.version])

    champion = registry.get_alias(Alias.CHAMPION)
    assert champion is not None
    assert champion.version == first.version
    assert registry.find_candidate({"ecg.dataset_version": "d"}) == runs[0]


def test_runs_carry_parameters_curves_figures_and_the_dataset(registry: Registry) -> None:
    parent = registry.start_run("sweep", kind=RunKind.SWEEP, tags={})
    run_id = registry.start_run(
        "trial", kind=RunKind.TRIAL, tags={"ecg.sweep": "s"}, parent_run_id=parent
    )
    registry.log(run_id, params={"seed": 1}, metrics={"search_v_f1": 0.5})
    registry.log_curve(run_id, "loss", [0.3, 0.2])
    registry.log_dataset(run_id, version="v1", data_source="mitdb", description={"records": 22})
    registry.log_text(run_id, "<svg/>", "loss.svg")
    registry.end_run(run_id)

    run = registry._client.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params == {"seed": "1"}
    assert [m.value for m in registry._client.get_metric_history(run_id, "loss")] == [0.3, 0.2]
    assert run.inputs.dataset_inputs[0].dataset.digest == "v1"
    assert [file.path for file in registry._client.list_artifacts(run_id)] == ["loss.svg"]


def test_an_unknown_version_is_an_error(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="got '99'"):
        registry.find("99")


def _files_of(registry: Registry, run_id: str) -> Path:
    uri = registry._client.get_run(run_id).info.artifact_uri
    return Path(str(uri).removeprefix("file://"))


def test_removing_a_run_leaves_experiments_and_models_that_a_user_deleted(
    tmp_path: Path, toy_bundle: Bundle
) -> None:
    registry = Registry(Settings(home=tmp_path))
    client = registry._client
    own = client.create_experiment("of a user")
    own_run = client.create_run(own).info.run_id
    model = client.create_logged_model(own, name="of a user").model_id
    client.delete_logged_model(model)
    client.delete_experiment(own)
    ours = _candidate(registry, toy_bundle, v_f1=0.9, dataset="a")
    other = _candidate(registry, toy_bundle, v_f1=0.9, dataset="b")
    files = _files_of(registry, ours)

    assert registry.remove_runs([ours]) == []

    assert not files.exists()
    assert [run.run_id for run in registry.list_runs()] == [other]
    assert registry.list_runs(are_deleted=True) == []
    assert registry.fetch_bundle(other).hash == toy_bundle.hash
    client.restore_experiment(own)
    assert client.get_run(own_run).info.experiment_id == own
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow" / "mlflow.db")) as database:
        assert database.execute("SELECT model_id FROM logged_models").fetchall() == [(model,)]


def test_a_run_whose_files_cannot_be_removed_is_found_again_and_holds_up_no_other(
    tmp_path: Path, toy_bundle: Bundle
) -> None:
    registry = Registry(Settings(home=tmp_path))
    runs = [_candidate(registry, toy_bundle, v_f1=0.9, dataset=name) for name in "abc"]
    files = [_files_of(registry, run_id) for run_id in runs]
    elsewhere = tmp_path / "elsewhere"
    files[1].rename(elsewhere)
    files[1].symlink_to(elsewhere)  # which is not followed

    (problem,) = registry.remove_runs(runs)

    assert problem.startswith(f"{runs[1]}: ")
    assert [path.exists() for path in files] == [False, True, False]
    assert registry.list_runs() == []
    assert [run.run_id for run in registry.list_runs(are_deleted=True)] == [runs[1]]
    files[1].unlink()
    elsewhere.rename(files[1])
    assert registry.remove_runs([runs[1]]) == []
    assert not files[1].exists()
    assert registry.list_runs(are_deleted=True) == []


def test_a_run_that_was_deleted_is_not_reopened(registry: Registry) -> None:
    run_id = registry.start_run("sweep", kind=RunKind.SWEEP, tags={})
    registry.end_run(run_id, RunEnd.KILLED)
    assert registry.reopen_run(run_id)
    assert registry._client.get_run(run_id).info.status == "RUNNING"
    registry._client.delete_run(run_id)
    assert not registry.reopen_run(run_id)
    assert not registry.reopen_run("0" * 32)


def test_bundles_lie_in_the_store_and_are_removed_there(
    bucket_url: str, object_server: ObjectServer, tmp_path: Path, toy_bundle: Bundle
) -> None:
    def list_objects() -> list[str]:
        bucket = bucket_url.split("/")[2]
        found = object_server.client.list_objects_v2(Bucket=bucket).get("Contents", ())
        return [one["Key"] for one in found]

    registry = Registry(Settings(home=tmp_path / "one", store_url=bucket_url))
    run_id = _candidate(registry, toy_bundle, v_f1=0.9, dataset="d")
    registry.make_champion(registry.register(run_id, tags={}).version)
    assert [key for key in list_objects() if key.endswith(f"{run_id}/artifacts/bundle/{MANIFEST}")]
    assert all(key.startswith("ecg/home/mlflow/") for key in list_objects())
    assert not (tmp_path / "one" / "mlflow" / "artifacts").exists()
    assert registry.fetch_bundle(run_id).hash == toy_bundle.hash
    assert registry.remove_runs([run_id]) == []
    assert list_objects() == []


def test_an_experiment_of_before_the_store_keeps_its_place_and_says_so(
    bucket_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    Registry(Settings(home=home)).experiment_id()
    assert "keeps its artifacts" not in caplog.text
    registry = Registry(Settings(home=home, store_url=bucket_url))
    assert registry.experiment_id() == registry.experiment_id()
    assert caplog.text.count("keeps its artifacts") == 1
