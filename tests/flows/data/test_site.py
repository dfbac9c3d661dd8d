"""Labelled traffic as a database: marks become annotations, patients become persons."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.logging import disable_run_logger
from typer.testing import CliRunner

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.errors import BundleError, DatasetError
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import open_store
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.training.datasets import BeatDataset, build_beats, join_records
from flows.data.databases import Role
from flows.data.dataset_versions import (
    BrokenRecord,
    PreparedRecord,
    load_version,
    make_version,
    save_version,
)
from flows.data.prepared_views import PreparedViews
from flows.data.records.site import (
    describe_labels,
    find_labelled,
    fingerprint_labels,
    is_held_out,
    name_strip,
    prepare_site,
)
from flows.data.training_data import (
    SCORING_VIEWS,
    ViewPlan,
    cut_beats,
    load_training_data,
    save_training_data,
)
from flows.doors.registry import Registry, RunKind
from flows.evaluation.promote_champion import count_held_out, fetch_champion, score_new_people
from flows.local.cli import app
from flows.monitoring.labels.kept_signals import delete_patient, sort_kept_signals

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TRAINED, HELD_OUT = "a" * 63 + "0", "a" * 63 + "1"


def _row(response: dict[str, Any], name: str = "p", patient_key: str = TRAINED) -> PredictionRow:
    return PredictionRow(
        prediction_id=name,
        created_at=NOW,
        patient_key=patient_key,
        bundle_hash="b",
        bento_tag="ecg:x",
        duration_s=10.0,
        response=response,
        observed={},
    )


def _mark(name: str = "p", **fields: Any) -> FeedbackRow:  # noqa: ANN401  any field
    return FeedbackRow(
        feedback_id=f"f-{name}-{len(fields)}",
        created_at=NOW,
        prediction_id=name,
        annotator=None,
        **{"labels": {}, **fields},
    )


def _beats(*beats: tuple[int, str | None]) -> dict[str, Any]:
    return {
        "beat_predictions": [
            {"position_sample": sample, "arrhythmia_type": called} for sample, called in beats
        ]
    }


def test_only_what_a_reader_marked_is_true_and_the_models_own_calls_are_left_out() -> None:
    answered = _row(_beats((100, "N"), (400, "V"), (700, "V"), (1000, None)))
    marked = _mark(labels={1: "N"}, false_detections=(2,), missed={850: "V"})
    labels = describe_labels(answered, [marked])
    assert labels is not None
    assert list(zip(labels.samples, labels.symbols, strict=True)) == [
        (100, "Q"),
        (400, "N"),
        (850, "V"),
        (1000, "Q"),
    ]
    assert (labels.not_beats, labels.is_complete, labels.is_drawn) == ((700,), False, False)
    assert describe_labels(answered, []) is None


def test_beats_that_are_marked_by_their_form_are_true_as_well() -> None:
    response = _beats((100, "N"), (400, "V"), (700, "V"))
    for beat, form in zip(response["beat_predictions"], ("A", "B", "B"), strict=True):
        beat["form"] = form
    labels = describe_labels(_row(response), [_mark(forms={1: "N"})])
    assert labels is not None
    assert (labels.samples, labels.symbols) == ((100, 400, 700), "QNN")


def test_labels_of_drawn_strips_weigh_more_than_those_of_chosen_ones() -> None:
    beats = _beats((100, "N"))
    chosen = describe_labels(_row(beats), [_mark(labels={0: "V"})])
    drawn = describe_labels(_row({**beats, "drawn_for_review": True}), [_mark(labels={0: "V"})])
    assert chosen is not None
    assert drawn is not None
    assert (chosen.weight, drawn.weight) == (2.5, 5.0)


def test_half_of_the_patients_are_held_out_and_always_the_same() -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(400)]
    held_out = [is_held_out(key) for key in keys]
    assert 160 < sum(held_out) < 240
    assert held_out == [is_held_out(key) for key in keys]
    assert (is_held_out(TRAINED), is_held_out(HELD_OUT)) == (False, True)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ECG_HOME", str(tmp_path))
    return Settings()


@pytest.fixture
def store(settings: Settings) -> SignalStore:
    return SignalStore(settings.signals_dir, settings.signal_key_path)


@pytest.fixture
def log(settings: Settings) -> Iterator[PredictionLog]:
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    yield log
    log.close()


def _keep_strip(
    store: SignalStore,
    log: PredictionLog,
    name: str,
    patient_key: str,
    *,
    is_drawn: bool = True,
    n_samples: int = 3600,
) -> list[int]:
    """Keep a strip with one V beat as the service does, and return the positions of its beats."""
    signal = simulate_strip(StripKind.ISOLATED_PVC, seed=3, fs=360.0).signal_mv()[:n_samples]
    positions = prepare_beats(signal, fs=360.0).r_peaks.tolist()
    store.add(
        KeptSignal(
            prediction_id=name,
            patient_key=patient_key,
            created_at=NOW,
            fs=360.0,
            lead="MLII",
            signal_mv=signal.astype(np.float32),
        ),
        is_waiting=not is_drawn,
    )
    response = {**_beats(*((one, "N") for one in positions)), "drawn_for_review": is_drawn}
    log.add_predictions([_row(response, name, patient_key)])
    return positions


def _prepare_marked(
    settings: Settings, store: SignalStore, log: PredictionLog, patients: dict[str, str]
) -> list[PreparedRecord]:
    """Keep and mark a strip of each prediction, and prepare them."""
    for name, patient_key in patients.items():
        _keep_strip(store, log, name, patient_key)
        log.add_feedback([_mark(name, labels={0: "V"})])
    return [one for one in _prepare(settings) if isinstance(one, PreparedRecord)]


def _prepare(settings: Settings) -> list[PreparedRecord | BrokenRecord]:
    return sorted(
        prepare_site(settings, settings.datasets_dir / "records"), key=lambda one: one.name
    )


def test_strips_of_patients_are_for_training_or_for_the_gate(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    for name, patient_key, is_drawn in (
        ("drawn-trained", TRAINED, True),
        ("chosen-trained", TRAINED, False),
        ("drawn-held-out", HELD_OUT, True),
        ("chosen-held-out", HELD_OUT, False),
        ("partly-held-out", HELD_OUT, True),
    ):
        positions = _keep_strip(store, log, name, patient_key, is_drawn=is_drawn)
        # Four of five beats must be looked at for a strip to judge models.
        n_marked = len(positions) if name.endswith("held-out") else 1
        if name == "partly-held-out":
            n_marked = math.ceil(0.8 * len(positions)) - 1
        log.add_feedback([_mark(name, labels=dict.fromkeys(range(n_marked), "V"))])
    _keep_strip(store, log, "without-label", TRAINED)
    found = {one.file.prediction_id: one for one in find_labelled(store, log)}
    # Strips of a held-out patient that a reader chose, or marked in part, are not used at all.
    assert set(found) == {"drawn-trained", "chosen-trained", "drawn-held-out"}
    prepared = [one for one in _prepare(settings) if isinstance(one, PreparedRecord)]
    assert sorted((one.role, one.subject) for one in prepared) == [
        (Role.DEVELOPMENT, f"site:{TRAINED[:16]}"),
        (Role.DEVELOPMENT, f"site:{TRAINED[:16]}"),
        (Role.HELD_OUT, f"site:{HELD_OUT[:16]}"),
    ]
    # The labelled signal that waited is kept now.
    waiting = [file.prediction_id for file in store.list_files() if file.is_waiting]
    assert waiting == ["chosen-held-out"]
    assert fingerprint_labels(settings) == fingerprint_labels(settings)
    assert {one.name for one in prepared} == {one.name for one in _prepare(settings)}


def test_a_strip_is_read_back_with_its_marks_and_detections_that_nobody_saw_are_left_out(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    positions = _keep_strip(store, log, "p1", TRAINED)
    # The prediction knew only three of the beats: the others were found by later code.
    response = {**_beats(*((one, "N") for one in positions[:3])), "drawn_for_review": True}
    log.add_predictions([_row(response, "p2", TRAINED)])
    signal = store.read(TRAINED, "p1")
    assert signal is not None
    store.add(
        KeptSignal(
            prediction_id="p2",
            patient_key=TRAINED,
            created_at=NOW,
            fs=360.0,
            lead="MLII",
            signal_mv=signal.signal_mv,
        ),
        is_waiting=False,
    )
    log.add_feedback([_mark("p2", labels={0: "V"}, false_detections=(1,))])
    (record,) = _prepare(settings)
    assert isinstance(record, PreparedRecord)
    version = _save(settings, [record])
    annotations = version.read_source(record).annotations
    assert annotations is not None
    symbols = dict(zip(annotations.samples.tolist(), annotations.symbols.tolist(), strict=True))
    assert symbols[positions[0]] == "V"
    assert positions[1] not in symbols
    assert {symbols[one] for one in positions[2:]} == {"Q"}
    assert record.annotated == {"N": 0, "S": 0, "V": 1, "F": 0, "Q": len(positions) - 2}


def _save(settings: Settings, records: list[PreparedRecord]) -> Any:  # noqa: ANN401  a version
    version = make_version(
        data_source=DataSource.RECORDS,
        source_directory=Path("archive"),
        records=[],
        broken=[],
        other_directories={"site": settings.signals_dir},
    )

    version = replace(version, records=tuple(records))
    save_version(version, settings.datasets_dir)
    return load_version(settings.datasets_dir)


def test_other_labels_make_another_record_and_a_deleted_signal_is_an_error(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    _keep_strip(store, log, "p1", TRAINED)
    log.add_feedback([_mark("p1", labels={0: "V"})])
    (first,) = _prepare(settings)
    log.add_feedback([_mark("p1", labels={1: "V"}, missed={})])
    (second,) = _prepare(settings)
    assert isinstance(first, PreparedRecord)
    assert isinstance(second, PreparedRecord)
    assert (first.name, first.prepared) != (second.name, second.prepared)
    assert first.prepared != second.prepared
    version = _save(settings, [second])
    views = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    assert (views.read_annotations(second).beat_classes == "V").sum() == 2
    store.delete_patient(TRAINED)
    with pytest.raises(DatasetError, match="missing or have changed"):
        version.read_source(second)


def test_a_strip_that_is_too_short_or_cannot_be_opened_is_left_out_with_its_reason(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    _keep_strip(store, log, "short", TRAINED, n_samples=3599)
    _keep_strip(store, log, "torn", TRAINED)
    for name in ("short", "torn"):
        log.add_feedback([_mark(name, labels={0: "V"})])
    (torn,) = [file.path for file in store.list_files() if file.prediction_id == "torn"]
    torn.write_bytes(torn.read_bytes()[:-1])
    reasons = " ".join(one.reason for one in _prepare(settings) if isinstance(one, BrokenRecord))
    assert "must last 10 s to be trained on, got 9.997 s" in reasons
    assert "torn cannot be opened" in reasons


@pytest.mark.parametrize("states_its_rate", [True, False])
def test_a_mark_outside_the_signal_does_not_end_an_ingest(
    settings: Settings, store: SignalStore, log: PredictionLog, *, states_its_rate: bool
) -> None:
    positions = _keep_strip(store, log, "p1", TRAINED)
    if states_its_rate:
        log.add_predictions(
            [
                _row(
                    {
                        **_beats(*((one, "N") for one in positions)),
                        "sampling_rate": 360.0,
                        "duration_s": 10.0,
                    },
                    "p2",
                )
            ]
        )
        signal = store.read(TRAINED, "p1")
        assert signal is not None
        store.add(replace(signal, prediction_id="p2"), is_waiting=False)
    marked = "p2" if states_its_rate else "p1"
    log.add_feedback([_mark(marked, labels={0: "V"}, missed={3600: "V", 2**63 - 1: "V"})])
    (record,) = _prepare(settings)
    if states_its_rate:
        assert isinstance(record, PreparedRecord)
        assert record.annotated["V"] == 1
    else:  # an answer of earlier code
        assert isinstance(record, BrokenRecord)
        assert "must be before sample 3600, the end of its signal, got 3600" in record.reason


def test_deleting_a_patient_deletes_what_was_prepared_for_training(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    other = "b" * 63 + "0"
    for name, patient_key in (("p1", TRAINED), ("p2", other)):
        _keep_strip(store, log, name, patient_key)
        log.add_feedback([_mark(name, labels={0: "V"})])
    records = [one for one in _prepare(settings) if isinstance(one, PreparedRecord)]
    _save(settings, records)
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
    version = _save(settings, records)
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


@pytest.mark.parametrize("state", ["{torn", None])
def test_deleting_a_patient_deletes_what_a_sweep_shares_whose_state_was_lost(
    settings: Settings,
    store: SignalStore,
    log: PredictionLog,
    tmp_path: Path,
    state: str | None,
) -> None:
    settings = settings.model_copy(update={"store_url": (tmp_path / "store").as_uri()})
    (mine,) = _prepare_marked(settings, store, log, {"p1": TRAINED})
    _share(settings, "one", [mine])
    path = settings.home / "sweeps" / "one" / "sweep.json"
    if state is None:
        path.unlink()
    else:
        path.write_text(state)
    assert delete_patient(settings, TRAINED) == 1
    assert not list((tmp_path / "store" / "sweeps").rglob("*.*"))


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
    _save(settings, [record])
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


def test_held_out_strips_are_classified_from_their_signals_and_scored_by_person(
    settings: Settings, store: SignalStore, log: PredictionLog, toy_bundle: Bundle
) -> None:
    positions = _keep_strip(store, log, "p1", HELD_OUT)
    _keep_strip(store, log, "p2", TRAINED)
    signal = store.read(HELD_OUT, "p1")
    assert signal is not None
    called = BeatClassifier.load(toy_bundle).classify(signal.signal_mv, fs=360.0)
    v_beats = np.flatnonzero(called.is_v).tolist()
    assert called.r_peaks.tolist() == positions
    assert v_beats
    # One V beat is confirmed, all others are said to be N, and one V beat was missed.
    truth = dict.fromkeys(range(len(positions)), "N") | {v_beats[0]: "V"}
    middle = (positions[0] + positions[1]) // 2
    log.add_feedback(
        [_mark("p1", labels=truth, missed={middle: "V"}), _mark("p2", labels={0: "N"})]
    )
    version = _save(
        settings, [one for one in _prepare(settings) if isinstance(one, PreparedRecord)]
    )
    counts = count_held_out(BeatClassifier.load(toy_bundle), version)
    assert set(counts) == {f"site:{HELD_OUT[:16]}"}
    (found,) = counts.values()
    assert (found.v_beats, found.v_true, found.v_false) == (2, 1, len(v_beats) - 1)
    assert found.beats == len(positions) + 1


def test_both_models_are_run_on_the_held_out_people(
    settings: Settings, store: SignalStore, log: PredictionLog, toy_bundle: Bundle
) -> None:
    _keep_strip(store, log, "p1", HELD_OUT)
    log.add_feedback([_mark("p1", labels={1: "V"}, is_complete=True)])
    records = [one for one in _prepare(settings) if isinstance(one, PreparedRecord)]
    version = _save(settings, records)
    registry = Registry(settings)
    run_id = registry.start_run("candidate", kind=RunKind.CANDIDATE, tags={})
    registry.log_bundle(run_id, toy_bundle)
    registry.end_run(run_id)
    champion = registry.register(run_id, tags={})
    with disable_run_logger():
        served = fetch_champion(registry, champion)
    assert served is not None
    found = score_new_people(toy_bundle, served, version)
    assert found.champion == found.challenger
    assert set(found.challenger) == {f"site:{HELD_OUT[:16]}"}

    class Unreadable(Registry):
        def fetch_bundle(self, run_id: str) -> Bundle:
            msg = f"{run_id} was written by other code"
            raise BundleError(msg)

    with disable_run_logger():
        assert fetch_champion(Unreadable(settings), champion) is None
    found = score_new_people(toy_bundle, None, version)
    assert found.champion is None
    assert set(found.challenger) == {f"site:{HELD_OUT[:16]}"}


def _cut(settings: Settings, records: list[PreparedRecord]) -> tuple[BeatDataset, Path]:
    """Cut the beats of labelled strips and of a record of an archive, and save them."""
    views = PreparedViews(version=_save(settings, records), datasets_dir=settings.datasets_dir)
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
