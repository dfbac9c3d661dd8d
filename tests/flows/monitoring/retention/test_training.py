"""Runs, dataset versions and reports of earlier trainings go, except those that are needed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.logging import disable_run_logger

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.operations.learning.pipeline_run import read_pipeline_run
from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store import shared_files
from ecg_lib.operations.store.mirror import changing_reports, mirror_reports
from ecg_lib.operations.store.objects import open_store
from flows.data.databases import Role
from flows.data.dataset_versions import (
    DatasetVersion,
    PreparedRecord,
    list_versions,
    save_version,
)
from flows.data.records.lock import adding_records
from flows.data.shared_versions import list_all_versions, share_version
from flows.doors.ledger import append_event
from flows.doors.registry import ELIGIBLE, Alias, KnownRun, Registry, RunKind
from flows.doors.release_history import EventKind, LedgerEvent
from flows.monitoring.retention.training import (
    _forget_dataset_versions,
    choose_spare_runs,
    forget_old_training,
)
from flows.pipeline import pipeline
from flows.release.integrity.aliases import note_pending
from flows.training import sweep


def _run(
    run_id: str,
    kind: RunKind,
    *,
    parent: str | None = None,
    is_open: bool = False,
    v_f1: float | None = None,
    dataset: str = "d",
) -> KnownRun:
    return KnownRun(
        run_id=run_id,
        kind=kind,
        parent_run_id=parent,
        is_open=is_open,
        is_candidate=v_f1 is not None,
        dataset_version=dataset,
        bundle_hash="",
        v_f1=v_f1 or 0.0,
        sweep="",
    )


def _sweep(number: int, *, is_open: bool = False, v_f1: float | None = None) -> list[KnownRun]:
    name = f"sweep{number}"
    return [
        _run(f"candidate{number}", RunKind.CANDIDATE, parent=name, v_f1=v_f1),
        _run(f"trial{number}", RunKind.TRIAL, parent=name),
        _run(name, RunKind.SWEEP, is_open=is_open),
    ]


def test_runs_of_old_sweeps_go_with_their_trials() -> None:
    runs = [*_sweep(3), *_sweep(2), *_sweep(1)]
    spare = choose_spare_runs(runs, needed=set(), n_kept=2, datasets=set())
    assert set(spare) == {"candidate1", "trial1", "sweep1"}
    assert choose_spare_runs(runs, needed=set(), n_kept=3, datasets=set()) == []


def test_a_sweep_of_a_needed_candidate_stays_without_its_trials() -> None:
    runs = [*_sweep(2), *_sweep(1)]
    spare = choose_spare_runs(runs, needed={"candidate1"}, n_kept=1, datasets=set())
    assert spare == ["trial1"]


@pytest.mark.parametrize(("datasets", "best"), [({"d"}, {"candidate1"}), ({"other"}, set())])
def test_the_best_candidate_of_a_dataset_that_is_kept_stays(
    datasets: set[str], best: set[str]
) -> None:
    runs = [*_sweep(3, v_f1=0.5), *_sweep(2, v_f1=0.8), *_sweep(1, v_f1=0.9)]
    spare = choose_spare_runs(runs, needed=set(), n_kept=1, datasets=datasets)
    assert {"candidate1", "candidate2", "candidate3"} - set(spare) == {"candidate3"} | best


def test_a_sweep_that_is_open_stays_and_takes_no_place_of_those_that_have_ended() -> None:
    runs = [*_sweep(4), *_sweep(3), *_sweep(2, is_open=True), *_sweep(1, is_open=True)]
    spare = choose_spare_runs(runs, needed=set(), n_kept=1, datasets=set())
    assert set(spare) == {"candidate3", "trial3", "sweep3"}


def test_a_sweep_that_is_needed_stays_whole_and_takes_no_place_of_the_others() -> None:
    runs = [*_sweep(3), *_sweep(2), *_sweep(1)]
    spare = choose_spare_runs(runs, needed={"sweep3"}, n_kept=1, datasets=set())
    assert set(spare) == {"candidate1", "trial1", "sweep1"}


def test_a_bundle_that_was_installed_is_not_a_sweep_and_stays() -> None:
    runs = [*_sweep(2), _run("installed", RunKind.REFERENCE), *_sweep(1)]
    spare = choose_spare_runs(runs, needed=set(), n_kept=1, datasets=set())
    assert "installed" not in spare


def _release(version: str, bundle: Bundle) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=bundle.hash,
        code_hash="c",
        model_version=version,
        released_at="2026-01-01T00:00:00+00:00",
    )


def _add_version(settings: Settings, name: str, *, prepared: str, age: int) -> None:
    record = PreparedRecord(
        name="100",
        role=Role.DEVELOPMENT,
        files={},
        prepared=prepared,
        duration_s=1.0,
        lead="MLII",
        annotated={},
        detected=0,
        unreadable_s=0.0,
    )
    version = DatasetVersion(
        version=name,
        created_at="",
        data_source=DataSource.MITDB,
        source_directory="",
        records=(record,),
        broken=(),
        folds={},
    )
    folder = settings.datasets_dir / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(asdict(version)))
    os.utime(path, (1e9 - age, 1e9 - age))
    (settings.datasets_dir / "records" / prepared).mkdir(parents=True, exist_ok=True)
    (folder / "latest").write_text(name)


def _add_sweep(registry: Registry, bundle: Bundle, number: int, *, is_open: bool = False) -> str:
    tags = {
        "ecg.dataset_version": f"data{number}",
        "ecg.bundle_hash": bundle.hash,
        "ecg.sweep": f"key-{number}",
    }
    sweep = registry.start_run(f"sweep{number}", kind=RunKind.SWEEP, tags=tags)
    trial = registry.start_run("trial", kind=RunKind.TRIAL, tags=tags, parent_run_id=sweep)
    registry.end_run(trial)
    candidate = registry.start_run(
        "candidate",
        kind=RunKind.CANDIDATE,
        tags={**tags, ELIGIBLE: "false"},
        parent_run_id=sweep,
    )
    registry.log(candidate, metrics={"oof_v_f1": 0.9})
    registry.log_bundle(candidate, bundle)
    registry.end_run(candidate)
    if not is_open:
        registry.end_run(sweep)
    return candidate


@pytest.mark.slow
def test_no_dataset_version_is_deleted_while_records_are_prepared(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, dataset_versions_kept=1)
    for number in range(3):
        _add_version(settings, f"data{number}", prepared=f"of-{number}", age=9 - number)
    with disable_run_logger():
        with adding_records(settings.datasets_dir):
            forget_old_training.fn(settings)
        assert list_versions(settings.datasets_dir) == ["data0", "data1", "data2"]
        forget_old_training.fn(settings)
    assert list_versions(settings.datasets_dir) == ["data2"]
    assert {path.name for path in (settings.datasets_dir / "records").iterdir()} == {"of-2"}


@pytest.mark.slow
def test_retention_reaches_the_copies_in_the_store(
    tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        home=tmp_path / "home",
        store_url=store_url,
        dataset_versions_kept=1,
        evaluation_reports_kept=1,
    )
    for number in range(3):
        made_at = f"2026-01-0{number + 1}T00:00:00+00:00"
        version = DatasetVersion(
            version=f"data{number}",
            created_at=made_at,
            data_source=DataSource.MITDB,
            source_directory="",
            records=(),
            broken=(),
            folds={},
        )
        share_version(version, settings, is_latest=True)
        save_version(version, settings.datasets_dir)
        path = settings.datasets_dir / "versions" / f"data{number}.json"
        os.utime(path, (1e9 + number, 1e9 + number))
    reports = settings.reports_dir / "evaluation"
    with changing_reports(settings):
        reports.mkdir(parents=True)
        for number, name in enumerate(("aaaaaaaaaaaa-x.html", "bbbbbbbbbbbb-x.html")):
            (reports / name).write_text(name)
            os.utime(reports / name, (1e9 + number, 1e9 + number))
    other = Settings(home=tmp_path / "other", store_url=store_url)
    mirror_reports(other).pull()
    open_store(store_url).write("reports/objects/0-0/x.html", b"of a killed publication")
    monkeypatch.setattr(shared_files, "ORPHAN_S", -60.0)
    with disable_run_logger():
        forget_old_training.fn(settings)
    assert list_all_versions(other) == ["data2"]
    mirror_reports(other).pull()
    for home in (settings, other):
        left = [path.name for path in (home.reports_dir / "evaluation").iterdir()]
        assert left == ["bbbbbbbbbbbb-x.html"]
    objects = list(open_store(store_url).list_objects("reports/objects/"))
    assert len(objects) == 1


@pytest.mark.slow
def test_retention_deletes_nothing_while_the_store_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(
        home=tmp_path / "home",
        store_url=(tmp_path / "file" / "store").as_uri(),
        dataset_versions_kept=1,
    )
    for number in range(3):
        _add_version(settings, f"data{number}", prepared=f"of-{number}", age=9 - number)
    with disable_run_logger():
        forget_old_training.fn(settings)
    assert list_versions(settings.datasets_dir) == ["data0", "data1", "data2"]


@pytest.mark.slow
def test_what_a_release_an_alias_or_an_open_sweep_needs_stays_on_disk(
    tmp_path: Path, make_toy_bundle: Callable[..., Bundle]
) -> None:
    settings = Settings(
        home=tmp_path, mlflow_sweeps_kept=1, dataset_versions_kept=1, evaluation_reports_kept=1
    )
    registry = Registry(settings)
    toy = make_toy_bundle("toy", threshold=0.5)
    directory = tmp_path / "sweeps" / "key-6"
    directory.mkdir(parents=True)
    assert sweep._hold(directory)
    candidates = {
        number: _add_sweep(registry, toy, number, is_open=number == 6) for number in range(1, 8)
    }
    versions = {number: registry.register(candidates[number], tags={}) for number in range(1, 6)}
    registry.set_alias(Alias.CHAMPION, versions[1].version)
    note_pending(settings, versions[2].version)
    append_event(
        settings.ledger_dir,
        LedgerEvent(
            id="1", kind=EventKind.RELEASE, who="a test", why="", at="", before=None,
            release=_release(versions[3].version, toy), is_verified=True,
        ),
        reason="release model 3", metrics={}, model_card="",
    )  # fmt: skip
    settings.serving_dir.mkdir()
    write_release(settings.serving_dir / CURRENT, _release(versions[4].version, toy))
    for number in range(8):
        # The record of version 5, which goes, is that of version 1 too.
        prepared = {0: "of-0", 5: "of-1"}.get(number, f"of-{number}")
        _add_version(settings, f"data{number}", prepared=prepared, age=100 - number)
    reports = settings.reports_dir / "evaluation"
    reports.mkdir(parents=True)
    for age, stem in enumerate(
        ("new-out-of-fold-full", "old-out-of-fold-full", "old-ds2", f"{toy.hash[:12]}-ds2",
         f"{toy.hash[:12]}-out-of-fold-full")
    ):  # fmt: skip
        for suffix in (".json", ".html"):
            path = reports / f"{stem}{suffix}"
            path.write_text("")
            os.utime(path, (1e9 - age, 1e9 - age))

    # This one was deleted, and its files were not, as the process was killed in between.
    client = MlflowClient(settings.tracking_uri)
    cut_off = registry.start_run("trial", kind=RunKind.TRIAL, tags={"ecg.dataset_version": "data0"})
    registry.log_bundle(cut_off, toy)
    client.delete_run(cut_off)
    # A user deleted this one, and a version needs it.
    client.delete_run(candidates[3])

    with disable_run_logger():
        forget_old_training.fn(settings)
    sweep._let_go(directory)

    # 1 to 4 are needed, 6 is open, 7 is the newest that has ended.
    kept = {1, 2, 3, 4, 6, 7}
    artifacts = {path.parent.name for path in settings.mlflow_dir.glob("artifacts/*/artifacts")}
    assert artifacts == {candidates[number] for number in kept}
    assert {one.run_id for one in registry.versions()} == {
        candidates[number] for number in (1, 2, 3, 4)
    }
    assert [run.run_id for run in registry.list_runs(are_deleted=True)] == [candidates[3]]
    runs = registry.list_runs()
    assert len([run for run in runs if run.kind == RunKind.SWEEP]) == 6
    assert {run.dataset_version for run in runs if run.kind == RunKind.TRIAL} == {"data6", "data7"}
    assert list_versions(settings.datasets_dir) == [f"data{number}" for number in sorted(kept)]
    assert {path.name for path in (settings.datasets_dir / "records").iterdir()} == {
        f"of-{number}" for number in kept
    }
    assert {path.stem for path in reports.iterdir()} == {
        "new-out-of-fold-full",
        "old-ds2",
        f"{toy.hash[:12]}-ds2",
        f"{toy.hash[:12]}-out-of-fold-full",
    }
    assert registry.fetch_bundle(candidates[3]).hash == toy.hash


@pytest.mark.slow
def test_nothing_is_deleted_while_an_entry_of_the_ledger_is_torn(
    tmp_path: Path, toy_bundle: Bundle
) -> None:
    settings = Settings(
        home=tmp_path, mlflow_sweeps_kept=1, dataset_versions_kept=1, evaluation_reports_kept=1
    )
    registry = Registry(settings)
    for number in (1, 2):
        _add_sweep(registry, toy_bundle, number)
        _add_version(settings, f"data{number}", prepared=f"of-{number}", age=-number)
    event = LedgerEvent(
        id="1", kind=EventKind.RELEASE, who="a test", why="", at="", before=None,
        release=_release("1", toy_bundle), is_verified=True,
    )  # fmt: skip
    commit = append_event(
        settings.ledger_dir, event, reason="release model 1", metrics={}, model_card=""
    )
    path = settings.ledger_dir / ".git" / "objects" / commit[:2] / commit[2:]
    path.chmod(0o600)
    whole = path.read_bytes()
    path.write_bytes(b"")
    for is_torn in (True, False):
        with disable_run_logger():
            forget_old_training.fn(settings)
        left = {run.dataset_version for run in registry.list_runs()}
        assert left == ({"data1", "data2"} if is_torn else {"data2"})
        assert set(list_versions(settings.datasets_dir)) == left
        path.write_bytes(whole)


def test_an_old_version_goes_although_the_latest_is_torn(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, dataset_versions_kept=1)
    for age, name in enumerate(("latest-one", "newest", "old", "shared")):
        prepared = "of-latest" if name in {"latest-one", "shared"} else f"of-{name}"
        _add_version(settings, name, prepared=prepared, age=age)
    versions = settings.datasets_dir / "versions"
    (versions / "latest").write_text("latest-one")
    text = (versions / "latest-one.json").read_text()
    (versions / "latest-one.json").write_text(text[:-20])
    assert _forget_dataset_versions(settings, set()) == ["old", "shared"]
    assert list_versions(settings.datasets_dir) == ["latest-one", "newest"]
    # Records that the torn one names stay, although a version that went names them too.
    records = {path.name for path in (settings.datasets_dir / "records").iterdir()}
    assert records == {"of-latest", "of-newest"}


@pytest.mark.slow
def test_a_pipeline_goes_on_when_nothing_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None
) -> None:
    monkeypatch.setenv("ECG_HOME", str(tmp_path))
    database = Settings(home=tmp_path).mlflow_dir / "mlflow.db"
    database.parent.mkdir()
    database.write_text("this is not a database of SQLite " * 100)

    def reach(**_: object) -> str:
        msg = "ingest was reached"
        raise RuntimeError(msg)

    monkeypatch.setattr("flows.pipeline.ingest_records", reach)
    with pytest.raises(RuntimeError, match="ingest was reached"):
        pipeline(reason="a test")
    shown = read_pipeline_run(Settings(home=tmp_path).serving_dir / "pipeline.json")
    assert shown is not None
    assert (shown.stage, shown.why) == ("ingest-records", "a test")
    assert shown.failure == "RuntimeError: ingest was reached"
    assert shown.flow_run_id is not None


@pytest.mark.slow
def test_a_new_home_has_nothing_to_delete(tmp_path: Path) -> None:
    with disable_run_logger():
        forget_old_training.fn(Settings(home=tmp_path))
