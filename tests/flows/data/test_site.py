"""Labelled traffic as a database: marks become annotations, patients become persons."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from prefect.logging import disable_run_logger

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleError, DatasetError
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.settings import Settings
from flows.data.databases import Role
from flows.data.dataset_versions import BrokenRecord, PreparedRecord
from flows.data.prepared_views import PreparedViews
from flows.data.records.site import describe_labels, find_labelled, fingerprint_labels, is_held_out
from flows.doors.registry import Registry, RunKind
from flows.evaluation.promote_champion import count_held_out, fetch_champion, score_new_people
from tests.flows.data.labelled_traffic import (
    HELD_OUT,
    NOW,
    TRAINED,
    keep_strip,
    make_beats,
    make_mark,
    make_row,
    prepare_traffic,
    save_traffic,
)


def test_only_what_a_reader_marked_is_true_and_the_models_own_calls_are_left_out() -> None:
    answered = make_row(make_beats((100, "N"), (400, "V"), (700, "V"), (1000, None)))
    marked = make_mark(labels={1: "N"}, false_detections=(2,), missed={850: "V"})
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
    response = make_beats((100, "N"), (400, "V"), (700, "V"))
    for beat, form in zip(response["beat_predictions"], ("A", "B", "B"), strict=True):
        beat["form"] = form
    labels = describe_labels(make_row(response), [make_mark(forms={1: "N"})])
    assert labels is not None
    assert (labels.samples, labels.symbols) == ((100, 400, 700), "QNN")


def test_labels_of_drawn_strips_weigh_more_than_those_of_chosen_ones() -> None:
    beats = make_beats((100, "N"))
    chosen = describe_labels(make_row(beats), [make_mark(labels={0: "V"})])
    drawn = describe_labels(
        make_row({**beats, "drawn_for_review": True}), [make_mark(labels={0: "V"})]
    )
    assert chosen is not None
    assert drawn is not None
    assert (chosen.weight, drawn.weight) == (2.5, 5.0)


def test_half_of_the_patients_are_held_out_and_always_the_same() -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(400)]
    held_out = [is_held_out(key) for key in keys]
    assert 160 < sum(held_out) < 240
    assert held_out == [is_held_out(key) for key in keys]
    assert (is_held_out(TRAINED), is_held_out(HELD_OUT)) == (False, True)


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
        positions = keep_strip(store, log, name, patient_key, is_drawn=is_drawn)
        # Four of five beats must be looked at for a strip to judge models.
        n_marked = len(positions) if name.endswith("held-out") else 1
        if name == "partly-held-out":
            n_marked = math.ceil(0.8 * len(positions)) - 1
        log.add_feedback([make_mark(name, labels=dict.fromkeys(range(n_marked), "V"))])
    keep_strip(store, log, "without-label", TRAINED)
    found = {one.file.prediction_id: one for one in find_labelled(store, log)}
    # Strips of a held-out patient that a reader chose, or marked in part, are not used at all.
    assert set(found) == {"drawn-trained", "chosen-trained", "drawn-held-out"}
    prepared = [one for one in prepare_traffic(settings) if isinstance(one, PreparedRecord)]
    assert sorted((one.role, one.subject) for one in prepared) == [
        (Role.DEVELOPMENT, f"site:{TRAINED[:16]}"),
        (Role.DEVELOPMENT, f"site:{TRAINED[:16]}"),
        (Role.HELD_OUT, f"site:{HELD_OUT[:16]}"),
    ]
    # The labelled signal that waited is kept now.
    waiting = [file.prediction_id for file in store.list_files() if file.is_waiting]
    assert waiting == ["chosen-held-out"]
    assert fingerprint_labels(settings) == fingerprint_labels(settings)
    assert {one.name for one in prepared} == {one.name for one in prepare_traffic(settings)}


def test_a_strip_is_read_back_with_its_marks_and_detections_that_nobody_saw_are_left_out(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    positions = keep_strip(store, log, "p1", TRAINED)
    # The prediction knew only three of the beats: the others were found by later code.
    response = {**make_beats(*((one, "N") for one in positions[:3])), "drawn_for_review": True}
    log.add_predictions([make_row(response, "p2", TRAINED)])
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
    log.add_feedback([make_mark("p2", labels={0: "V"}, false_detections=(1,))])
    (record,) = prepare_traffic(settings)
    assert isinstance(record, PreparedRecord)
    version = save_traffic(settings, [record])
    annotations = version.read_source(record).annotations
    assert annotations is not None
    symbols = dict(zip(annotations.samples.tolist(), annotations.symbols.tolist(), strict=True))
    assert symbols[positions[0]] == "V"
    assert positions[1] not in symbols
    assert {symbols[one] for one in positions[2:]} == {"Q"}
    assert record.annotated == {"N": 0, "S": 0, "V": 1, "F": 0, "Q": len(positions) - 2}


def test_other_labels_make_another_record_and_a_deleted_signal_is_an_error(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    keep_strip(store, log, "p1", TRAINED)
    log.add_feedback([make_mark("p1", labels={0: "V"})])
    (first,) = prepare_traffic(settings)
    log.add_feedback([make_mark("p1", labels={1: "V"}, missed={})])
    (second,) = prepare_traffic(settings)
    assert isinstance(first, PreparedRecord)
    assert isinstance(second, PreparedRecord)
    assert (first.name, first.prepared) != (second.name, second.prepared)
    assert first.prepared != second.prepared
    version = save_traffic(settings, [second])
    views = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    assert (views.read_annotations(second).beat_classes == "V").sum() == 2
    store.delete_patient(TRAINED)
    with pytest.raises(DatasetError, match="missing or have changed"):
        version.read_source(second)


def test_a_strip_that_is_too_short_or_cannot_be_opened_is_left_out_with_its_reason(
    settings: Settings, store: SignalStore, log: PredictionLog
) -> None:
    keep_strip(store, log, "short", TRAINED, n_samples=3599)
    keep_strip(store, log, "torn", TRAINED)
    for name in ("short", "torn"):
        log.add_feedback([make_mark(name, labels={0: "V"})])
    (torn,) = [file.path for file in store.list_files() if file.prediction_id == "torn"]
    torn.write_bytes(torn.read_bytes()[:-1])
    reasons = " ".join(
        one.reason for one in prepare_traffic(settings) if isinstance(one, BrokenRecord)
    )
    assert "must last 10 s to be trained on, got 9.997 s" in reasons
    assert "torn cannot be opened" in reasons


@pytest.mark.parametrize("states_its_rate", [True, False])
def test_a_mark_outside_the_signal_does_not_end_an_ingest(
    settings: Settings, store: SignalStore, log: PredictionLog, *, states_its_rate: bool
) -> None:
    positions = keep_strip(store, log, "p1", TRAINED)
    if states_its_rate:
        log.add_predictions(
            [
                make_row(
                    {
                        **make_beats(*((one, "N") for one in positions)),
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
    log.add_feedback([make_mark(marked, labels={0: "V"}, missed={3600: "V", 2**63 - 1: "V"})])
    (record,) = prepare_traffic(settings)
    if states_its_rate:
        assert isinstance(record, PreparedRecord)
        assert record.annotated["V"] == 1
    else:  # an answer of earlier code
        assert isinstance(record, BrokenRecord)
        assert "must be before sample 3600, the end of its signal, got 3600" in record.reason


def test_held_out_strips_are_classified_from_their_signals_and_scored_by_person(
    settings: Settings, store: SignalStore, log: PredictionLog, toy_bundle: Bundle
) -> None:
    positions = keep_strip(store, log, "p1", HELD_OUT)
    keep_strip(store, log, "p2", TRAINED)
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
        [make_mark("p1", labels=truth, missed={middle: "V"}), make_mark("p2", labels={0: "N"})]
    )
    version = save_traffic(
        settings, [one for one in prepare_traffic(settings) if isinstance(one, PreparedRecord)]
    )
    counts = count_held_out(BeatClassifier.load(toy_bundle), version)
    assert set(counts) == {f"site:{HELD_OUT[:16]}"}
    (found,) = counts.values()
    assert (found.v_beats, found.v_true, found.v_false) == (2, 1, len(v_beats) - 1)
    assert found.beats == len(positions) + 1


def test_both_models_are_run_on_the_held_out_people(
    settings: Settings, store: SignalStore, log: PredictionLog, toy_bundle: Bundle
) -> None:
    keep_strip(store, log, "p1", HELD_OUT)
    log.add_feedback([make_mark("p1", labels={1: "V"}, is_complete=True)])
    records = [one for one in prepare_traffic(settings) if isinstance(one, PreparedRecord)]
    version = save_traffic(settings, records)
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
