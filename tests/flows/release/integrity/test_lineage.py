"""Lineage on real stores: from a prediction to the records of its model, and back."""

from __future__ import annotations

import json
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.data.databases import Role, expected_sha256
from flows.data.dataset_versions import DatasetVersion, PreparedRecord, save_version
from flows.doors.ledger import append_event
from flows.doors.registry import Registry, RunKind
from flows.doors.release_history import EventKind, make_event
from flows.release.integrity.lineage import LineageError, trace
from flows.release.integrity.lineage_text import to_json, to_lines
from flows.release.load_released import read_reference
from tests.conftest import BundleMaker

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PREDICTION = "11111111-2222-3333-4444-555555555555"


def record(name: str, role: Role) -> PreparedRecord:
    return PreparedRecord(
        name=name,
        role=role,
        files={f"{name}.dat": f"sha of {name}"},
        prepared="",
        duration_s=1.0,
        lead="MLII",
        annotated={},
        detected=0,
        unreadable_s=0.0,
        person={"202": "201"}.get(name),
    )


def keep_dataset(settings: Settings, name: str) -> None:
    version = DatasetVersion(
        version=name,
        created_at="",
        data_source=DataSource.MITDB,
        source_directory="",
        records=(record("101", Role.DEVELOPMENT), record("201", Role.DEVELOPMENT),
                 record("202", Role.TEST)),
        broken=(),
        folds={},
    )  # fmt: skip
    save_version(version, settings.datasets_dir)


def release_bundle(settings: Settings, bundle: Bundle, *versions: str) -> None:
    for version in versions:
        release = Release(
            bento_tag=f"ecg:{version}-{bundle.hash[:12]}",
            model_tag=f"ecg_bundle:{bundle.hash[:12]}",
            bundle_hash=bundle.hash,
            code_hash="c" * 64,
            model_version=version,
            released_at=NOW.isoformat(),
        )
        stored = settings.bentoml_home / "models" / "ecg_bundle" / bundle.hash[:12] / "bundle"
        shutil.copytree(bundle.directory, stored, dirs_exist_ok=True)
        event = make_event(EventKind.RELEASE, release, why="a test", is_signed=False)
        append_event(settings.ledger_dir, event, reason="release", metrics={}, model_card="")


def log_predictions(settings: Settings, bundle: Bundle, tag: str, *ids: str) -> None:
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    log.add_predictions(
        [
            PredictionRow(
                prediction_id=one,
                created_at=NOW + timedelta(minutes=number),
                patient_key="0" * 64,
                bundle_hash=bundle.hash,
                bento_tag=tag,
                duration_s=10.0,
                response={},
                observed={},
            )
            for number, one in enumerate(ids)
        ]
    )
    log.close()


@pytest.fixture(scope="module")
def bundle(make_toy_bundle: BundleMaker) -> Bundle:
    return make_toy_bundle("real", data_source=DataSource.MITDB)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_a_prediction_leads_to_the_records_of_its_model(settings: Settings, bundle: Bundle) -> None:
    release_bundle(settings, bundle, "7")
    keep_dataset(settings, "toy")
    tag = f"ecg:7-{bundle.hash[:12]}"
    log_predictions(settings, bundle, tag, PREDICTION, str(uuid.uuid4()))
    found = trace(settings, PREDICTION)
    assert found.prediction is not None
    assert (found.prediction.bento_tag, found.prediction.created_at) == (tag, NOW)
    (model,) = found.models
    assert (model.bundle_hash, model.git_commit) == (bundle.hash, "0" * 40)
    assert model.run.run_id == "run-real"
    assert model.dataset.hashes_of == "dataset version toy of this machine"
    assert [(one.name, one.fold, one.files) for one in model.dataset.records] == [
        ("101", 1, {"101.dat": "sha of 101"}),
        ("201", 0, {"201.dat": "sha of 201"}),
    ]
    (release,) = model.releases
    assert (release.model_version, release.code_hash) == ("7", "c" * 64)
    assert release.predictions == (2, NOW, NOW + timedelta(minutes=1))
    assert found.problems == [
        "there is no MLflow database here: runs, sweeps and trials are not known"
    ]
    # No patient is in it.
    assert "0" * 64 not in to_json(found)


def test_a_release_leads_to_its_predictions(settings: Settings, bundle: Bundle) -> None:
    release_bundle(settings, bundle, "7", "8")
    seven, eight = (f"ecg:{version}-{bundle.hash[:12]}" for version in "78")
    log_predictions(settings, bundle, seven, *(str(uuid.uuid4()) for _ in range(3)))
    commit = trace(settings, "8").models[0].releases[0].ledger_commit
    for name in ("7", seven, "8", eight, commit, commit[:8], bundle.hash, bundle.hash[:8], "toy"):
        (model,) = trace(settings, name).models
        assert {one.bento_tag: one.predictions for one in model.releases} == {
            eight: (0, None, None),
            seven: (3, NOW, NOW + timedelta(minutes=2)),
        }, name
    lines = "\n".join(to_lines(trace(settings, "7")))
    assert "3 in the log, 2026-03-01 12:00:00 UTC to 2026-03-01 12:02:00 UTC" in lines
    assert "predictions  none in the log" in lines


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("201", "trained on it; the network of fold 0 has not seen it"),
        ("mitdb:101", "trained on it; the network of fold 1 has not seen it"),
        ("202", "not trained on it, but on another record of its person 201"),
        ("203", "not seen"),
        ("svdb:800", "not seen"),
        ("ludb:101", "not seen"),
    ],
)
def test_a_record_leads_to_the_models_that_have_seen_it(
    settings: Settings, bundle: Bundle, name: str, use: str, *, is_kept: bool
) -> None:
    release_bundle(settings, bundle, "7")
    if is_kept:
        keep_dataset(settings, "toy")
    found = trace(settings, name).record
    assert found is not None
    uses = {one.bundle_hash: (one.model_versions, one.use) for one in found.models}
    assert uses[bundle.hash] == (("7",), use)


def test_the_shipped_model_names_its_records_with_the_published_hashes(settings: Settings) -> None:
    reference = read_reference()
    (model,) = trace(settings, "shipped").models
    assert (model.bundle_hash, model.source) == (reference.hash, "shipped")
    assert model.git_commit == reference.provenance.git_commit
    assert model.run.n_trials == 1
    assert model.recipe == reference.metrics["recipe"]
    assert {one.person for one in model.dataset.records} == set(reference.folds)
    assert len(model.dataset.records) == 62
    published = expected_sha256() | expected_sha256("svdb")
    for one in model.dataset.records:
        assert one.fold == reference.folds[one.person]
        assert one.files == {
            name: published[name] for name in (f"{one.name}.hea", f"{one.name}.dat",
                                               f"{one.name}.atr")
        }  # fmt: skip
    assert "is not on this machine" in model.dataset.hashes_of
    by_run = trace(settings, reference.provenance.run_id)
    assert [one.bundle_hash for one in by_run.models] == [reference.hash]


def test_a_record_that_the_code_was_fitted_to_says_so(settings: Settings) -> None:
    fitted = {}
    for name in ("203", "104", "100", "svdb:800", "ludb:1", "ludb:101"):
        found = trace(settings, name).record
        assert found is not None
        fitted[name] = found.is_in_code
    assert [name for name, is_in_code in fitted.items() if is_in_code] == [
        "203",
        "104",
        "svdb:800",
        "ludb:1",
    ]
    assert "R-peak verifier" in "\n".join(to_lines(trace(settings, "104")))


def test_a_simulated_model_has_not_seen_records_of_the_same_names(
    settings: Settings, toy_bundle: Bundle
) -> None:
    release_bundle(settings, toy_bundle, "1")
    found = trace(settings, "201").record
    assert found is not None
    assert {one.bundle_hash: one.use for one in found.models}[toy_bundle.hash] == "not seen"
    (model,) = trace(settings, "1").models
    assert {"201", "101"} == set(toy_bundle.folds)
    assert model.dataset.records == ()
    assert "no published hashes" in model.dataset.hashes_of


def test_a_record_names_the_store_whose_hashes_are_shown(settings: Settings) -> None:
    published = trace(settings, "203")
    assert published.record is not None
    assert published.record.hashes_of == "the published hashes"
    assert not any("are meant" in one for one in published.problems)
    for name in ("a", "b"):
        keep_dataset(settings, name)
    found = trace(settings, "201")
    assert found.record is not None
    assert found.record.record.files == {"201.dat": "sha of 201"}
    assert found.record.hashes_of == "dataset version a of this machine"
    # The versions agree with each other, and not with what was published.
    assert (
        "which files of 201 are meant: the hashes shown are of dataset version a of this machine, "
        "and those of the published hashes differ"
    ) in found.problems


@pytest.mark.slow
def test_runs_lead_to_sweep_and_trial_and_back(settings: Settings, bundle: Bundle) -> None:
    registry = Registry(settings)
    sweep = registry.start_run(
        "sweep", kind=RunKind.SWEEP, tags={"ecg.sweep": "s-1", "ecg.chosen_trial": "4"}
    )
    candidate = registry.start_run(
        "candidate",
        kind=RunKind.CANDIDATE,
        tags={"ecg.sweep": "s-1", "ecg.bundle_hash": bundle.hash},
        parent_run_id=sweep,
    )
    # The bundle states the run that made it.
    manifest = json.loads((bundle.directory / "manifest.json").read_text())
    manifest["provenance"]["run_id"] = candidate
    copy = settings.home / "bundles" / candidate
    shutil.copytree(bundle.directory, copy)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    installed = registry.start_run(
        "reference bundle",
        kind=RunKind.REFERENCE,
        tags={"ecg.bundle_hash": read_reference().hash},
    )

    found = trace(settings, sweep)
    (run,) = [one.run for one in found.models if one.run.run_id == candidate]
    assert (run.state, run.sweep, run.sweep_run_id, run.trial) == ("in MLflow", "s-1", sweep, "4")
    (by_candidate,) = [m for m in trace(settings, candidate).models if m.run.run_id == candidate]
    assert by_candidate.run == run
    (shipped,) = trace(settings, "shipped").models
    assert shipped.run.state == "not in this MLflow"
    assert shipped.run.installed_as == installed
    assert [one.bundle_hash for one in trace(settings, installed).models] == [shipped.bundle_hash]


def test_what_no_store_knows_is_an_error_that_says_what_was_not_read(settings: Settings) -> None:
    for name in ("nothing", PREDICTION, "00000000", "999", ""):
        with pytest.raises(LineageError, match="there is no MLflow database here"):
            trace(settings, name)


def test_a_torn_bundle_and_a_torn_log_are_named_and_the_rest_is_there(
    settings: Settings, bundle: Bundle
) -> None:
    release_bundle(settings, bundle, "7")
    torn = settings.home / "bundles" / "torn"
    torn.mkdir(parents=True)
    (torn / "manifest.json").write_text("{")
    (settings.home / "monitoring.db").write_text("this is not a database of SQLite " * 100)
    found = trace(settings, "7")
    (model,) = found.models
    assert model.releases[0].predictions is None
    problems = "\n".join(found.problems)
    assert "manifest.json of torn cannot be read" in problems
    assert "the monitoring database cannot be used" in problems
    assert "predictions  not known" in "\n".join(to_lines(found))


def test_the_lineage_is_json(settings: Settings, bundle: Bundle) -> None:
    release_bundle(settings, bundle, "7")
    log_predictions(settings, bundle, f"ecg:7-{bundle.hash[:12]}", PREDICTION)
    written = json.loads(to_json(trace(settings, PREDICTION)))
    assert written["prediction"]["created_at"] == "2026-03-01T12:00:00+00:00"
    assert written["models"][0]["releases"][0]["predictions"] == {
        "predictions": 1,
        "first": "2026-03-01T12:00:00+00:00",
        "last": "2026-03-01T12:00:00+00:00",
    }
