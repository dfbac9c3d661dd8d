"""Prepared labelled traffic: encrypted, and deleted with its patient or its days."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from prefect.logging import disable_run_logger
from typer.testing import CliRunner

from ecg_lib.errors import DatasetError
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import open_store
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.training.datasets import BeatDataset, build_beats, join_records
from flows.data.dataset_versions import PreparedRecord
from flows.data.prepared_views import PreparedViews
from flows.data.records.site import name_strip
from flows.data.training_data import (
    SCORING_VIEWS,
    ViewPlan,
    cut_beats,
    load_training_data,
    save_training_data,
)
from flows.local.cli import app
from flows.monitoring.labels.kept_signals import delete_patient, sort_kept_signals
from tests.flows.data.labelled_traffic import (
    NOW,
    TRAINED,
    keep_strip,
    make_mark,
    prepare_traffic,
    save_traffic,
)


def _prepare_marked(
    settings: Settings, store: SignalStore, log: PredictionLog, patients: dict[str, str]
) -> list[PreparedRecord]:
    """Keep and mark a strip of each prediction, and prepare them."""
    for name, patient_key in patients.items():
        keep_strip(store, log, name, patient_key)
        log.add_feedback([make_mark(name, labels={0: "V"})])
    return [one for one in prepare_traffic(settings) if isinstance(one, PreparedRecord)]


def test_deleting_a_patient_deletes_what_was_prepared_for_training(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    other = "b" * 63 + "0"
    for name, patient_key in (("p1", TRAINED), ("p2", other)):
        keep_strip(store, log, name, patient_key)
        log.add_feedback([make_mark(name, labels={0: "V"})])
    records = [one for one in prepare_traffic(settings) if isinstance(one, PreparedRecord)]
    save_traffic(settings, records)
    for name, person in (("mine", TRAINED), ("theirs", other)):
        directory = settings.datasets_dir / "training" / name
        directory.mkdir(parents=True)
        described = {"record_names": ["101", name], "subjects": ["101", f"site:{person[:16]}"]}
        (directory / "dataset.json").write_text(json.dumps(described))
    assert delete_patient(settings, TRAINED) == 1
    left = {path.name for path in (settings.datasets_dir / "records").iterdir()}
    assert left == {one.prepared for one in records if one.subject == f"site:{other[:16]}"}
    assert [path.name for path in (settings.datasets_dir / "training").iterdir()] == ["theirs"]
    assert delete_patient(settings, TRAINED) == 0


def _share(settings: Settings, run_id: str, records: list[PreparedRecord]) -> None:
    """Put the data of a sweep that is under way in the store."""
    version = save_traffic(settings, records)
    store = open_store(str(settings.store_url))
    store.write(f"sweeps/{run_id}/version.json", json.dumps(asdict(version)).encode())
    store.write(f"sweeps/{run_id}/beats.tar.gz", b"sealed")
    directory = settings.home / "sweeps" / run_id
    directory.mkdir(parents=True)
    state = {"run_id": run_id, "seed": 0, "candidate_run_id": None, "has_shared_data": True}
    (directory / "sweep.json").write_text(json.dumps(state))


def test_deleting_a_patient_deletes_what_sweeps_share_of_it(
    settings: Settings, store: SignalStore, log: PredictionLog, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"store_url": (tmp_path / "store").as_uri()})
    made = _prepare_marked(settings, store, log, {"p1": TRAINED, "p2": "b" * 63 + "0"})
    mine, theirs = sorted(made, key=lambda one: one.subject)
    for run_id, records in (("one", [mine, theirs]), ("other", [theirs])):
        _share(settings, run_id, records)
    assert delete_patient(settings, TRAINED) == 1
    shared = {path.parent.name for path in (tmp_path / "store" / "sweeps").rglob("*.*")}
    assert shared == {"other"}
    (tmp_path / "store" / "sweeps" / "other" / "version.json").write_text("torn")
    with pytest.raises(DatasetError, match="removed from the store, this failed: sweeps/other"):
        delete_patient(settings, TRAINED)


def test_what_sweeps_share_goes_with_the_signals_whose_days_are_over(
    settings: Settings, store: SignalStore, log: PredictionLog, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"store_url": (tmp_path / "store").as_uri()})
    prepared = _prepare_marked(settings, store, log, {"p1": TRAINED, "p2": TRAINED})
    made = {one.name: one for one in prepared}
    (old,) = [file for file in store.list_files() if file.prediction_id == "p1"]
    at_s = (NOW - timedelta(days=365)).timestamp()
    os.utime(old.path, (at_s, at_s))
    for run_id, name in (("old", "p1"), ("new", "p2")):
        _share(settings, run_id, [made[name_strip(name)]])
    with disable_run_logger():
        sort_kept_signals.fn(settings, log, now=NOW)
    shared = {path.parent.name for path in (tmp_path / "store" / "sweeps").rglob("*.*")}
    assert shared == {"new"}


def test_a_torn_version_does_not_keep_the_prepared_beats_of_a_deleted_patient(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    (record,) = _prepare_marked(settings, store, log, {"p1": TRAINED})
    save_traffic(settings, [record])
    (version,) = (settings.datasets_dir / "versions").glob("*.json")
    version.write_text(version.read_text()[:100])
    assert delete_patient(settings, TRAINED) == 1
    assert list((settings.datasets_dir / "records").iterdir()) == []


def test_beats_of_a_patient_that_no_version_names_or_without_a_summary_are_deleted(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    records = settings.datasets_dir / "records"
    made = _prepare_marked(settings, store, log, {"p1": TRAINED, "p2": TRAINED, "p3": TRAINED})
    # Later code prepares a record of an old version without a summary; earlier code named no owner.
    (records / made[0].prepared / "summary.json").unlink()
    (records / made[1].prepared / "record.json").unlink()
    assert delete_patient(settings, TRAINED) == 3
    assert list(records.iterdir()) == []


def test_deletion_goes_on_past_what_cannot_be_read_and_names_it(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    records = settings.datasets_dir / "records"
    (record,) = _prepare_marked(settings, store, log, {"p1": TRAINED})
    torn, draft = records / "0-torn", settings.datasets_dir / "training" / ".cut.draft"
    for directory in (torn, draft):
        directory.mkdir(parents=True)
    (torn / "summary.json").write_text('{"name": "site:')
    done = CliRunner().invoke(app, ["signals", "delete", "--hash", TRAINED])
    assert done.exit_code == 1
    assert isinstance(done.exception, DatasetError)
    assert str(done.exception).startswith("1 signals deleted; ")
    assert str(done.exception).endswith(f"{torn}, {draft}")
    assert [path.name for path in records.iterdir()] == ["0-torn"]
    torn.joinpath("summary.json").unlink()
    torn.rmdir()
    draft.rmdir()
    assert delete_patient(settings, TRAINED) == 0
    assert record.subject == f"site:{TRAINED[:16]}"


def test_beats_are_deleted_with_the_signal_when_its_days_are_over(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    made = _prepare_marked(settings, store, log, {"old": TRAINED, "new": TRAINED})
    by_name = {name_strip(name): name for name in ("old", "new")}
    prepared = {by_name[one.name]: one.prepared for one in made}
    written = {file.prediction_id: file for file in store.list_files()}
    for name, days in (("old", 365), ("new", 364)):
        at_s = (NOW - timedelta(days=days)).timestamp()
        os.utime(written[name].path, (at_s, at_s))
    training = settings.datasets_dir / "training"
    for name in ("old", "new"):
        (training / name).mkdir(parents=True)
        described = {"record_names": ["101", name_strip(name)], "subjects": ["101", "site:x"]}
        (training / name / "dataset.json").write_text(json.dumps(described))
    (settings.datasets_dir / "records" / "archive").mkdir()
    (settings.datasets_dir / "records" / "archive" / "summary.json").write_text('{"name": "101"}')
    with disable_run_logger():
        sort_kept_signals.fn(settings, log, now=NOW)
    left = {path.name for path in (settings.datasets_dir / "records").iterdir()}
    assert left == {"archive", prepared["new"]}
    assert [path.name for path in training.iterdir()] == ["new"]
    assert [file.prediction_id for file in store.list_files()] == ["new"]


def _cut(settings: Settings, records: list[PreparedRecord]) -> tuple[BeatDataset, Path]:
    """Cut the beats of labelled strips and of a record of an archive, and save them."""
    views = PreparedViews(
        version=save_traffic(settings, records), datasets_dir=settings.datasets_dir
    )
    plan = ViewPlan(training_views=(), conducted_share=1.0)
    of_archive = build_beats(
        simulate_record("sim1", patient=draw_patient(1), duration_s=30.0, seed=1),
        scoring_views=SCORING_VIEWS,
        training_views=(),
        conducted_share=1.0,
    )
    whole = join_records([of_archive, *(cut_beats(views, one, plan) for one in records)])
    directory = settings.datasets_dir / "training" / "key"
    save_training_data(whole, directory, key="key")
    return whole, directory


def _holds(directory: Path, sought: bytes) -> list[str]:
    """Name the files below a directory that hold some bytes, or hold them compressed."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    content = b"".join(np.ascontiguousarray(arrays[n]).tobytes() for n in arrays)
            if sought in content:
                found.append(path.name)
    return found


def test_beats_of_labelled_traffic_are_nowhere_on_disk_in_clear(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    records = _prepare_marked(settings, store, log, {"p1": TRAINED, "p2": TRAINED})
    whole, directory = _cut(settings, records)
    for index, name in enumerate(whole.record_names):
        rows = np.flatnonzero(whole.record == index)
        for values in (whole.windows[rows[2]], whole.features[rows[2]]):
            clear = _holds(settings.datasets_dir, np.ascontiguousarray(values).tobytes())
            assert bool(clear) is (name == "sim1"), (name, clear)
    # Ingestion leaves the marks of a strip and a description.
    names = {path.name for path in (settings.datasets_dir / "records").glob("*/*")}
    assert names == {"annotations.npz", "record.json", "summary.json"}
    assert sorted(path.name for path in (directory / "sealed").iterdir()) == ["1.beats", "2.beats"]


def test_training_reads_the_beats_of_traffic_to_the_bit(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    records = _prepare_marked(settings, store, log, {"p1": TRAINED, "p2": TRAINED})
    whole, directory = _cut(settings, records)
    read = load_training_data(directory)
    assert (read.windows == whole.windows).all()
    assert (read.features == whole.features).all()
    # In memory alone: on disk they are zeros.
    of_traffic = np.isin(whole.record, [1, 2])
    stored = np.load(directory / "windows.npy")
    assert not stored[of_traffic].any()
    assert stored[~of_traffic].any()


@pytest.mark.parametrize("damage", ["key", "exchanged", "missing"])
def test_encrypted_beats_that_cannot_be_opened_say_what_to_do(
    settings: Settings, store: SignalStore, log: PredictionLog, damage: str
) -> None:
    records = _prepare_marked(settings, store, log, {"p1": TRAINED, "p2": TRAINED})
    _, directory = _cut(settings, records)
    first, second = (directory / "sealed" / f"{index}.beats" for index in (1, 2))
    if damage == "key":
        settings.signal_key_path.write_text("0" * 64)
    elif damage == "exchanged":
        first.write_bytes(second.read_bytes())
    else:
        first.unlink()
    with pytest.raises(DatasetError, match=r"must be encrypted under the key .* it is made again"):
        load_training_data(directory)


def test_deleting_a_patient_deletes_the_encrypted_beats_too(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    records = _prepare_marked(settings, store, log, {"p1": TRAINED})
    _, directory = _cut(settings, records)
    assert delete_patient(settings, "b" * 63 + "0") == 0
    assert directory.exists()
    assert delete_patient(settings, TRAINED) == 1
    assert not directory.exists()


@pytest.mark.parametrize("is_plain", [False, True])
def test_what_earlier_code_left_unencrypted_is_deleted(
    settings: Settings, store: SignalStore, log: PredictionLog, *, is_plain: bool
) -> None:
    (record,) = _prepare_marked(settings, store, log, {"p1": TRAINED})
    _, directory = _cut(settings, [record])
    prepared = settings.datasets_dir / "records" / record.prepared
    if is_plain:
        (prepared / "whole.npz").write_bytes(b"")
        shutil.rmtree(directory / "sealed")
    archive = settings.datasets_dir / "training" / "archive"
    archive.mkdir()
    (archive / "dataset.json").write_text('{"record_names": ["101"], "subjects": ["101"]}')
    (archive / "windows.npy").write_bytes(b"")
    for _ in range(2):
        with disable_run_logger():
            sort_kept_signals.fn(settings, log, now=NOW)
        assert directory.exists() is not is_plain
        assert prepared.exists() is not is_plain
        assert archive.exists()
    assert len(list(store.list_files())) == 1
