"""Labelled traffic as a database: kept signals with the marks that readers made on them.

A record is one strip, a person is a patient by the hash of the identifier. Half of the persons,
by that hash, are held out: of them only strips that were drawn at random are taken, and only the
promotion gate scores them. The others are trained on, whoever chose the strip. The model's own
calls are never the truth: a beat without a mark is neither trained on nor scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ecg_lib.errors import DatasetError, EcgError
from ecg_lib.evaluation.prepared_views import ScoredView, prepare_scored_view
from ecg_lib.operations.drift.decision import DriftPolicy
from ecg_lib.operations.learning.kept_signals import KeptFile, SignalStore
from ecg_lib.operations.learning.labels import Marks, count_samples, read_forms, resolve_marks
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.record import Record
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats
from flows.data.databases import SITE, Role
from flows.data.dataset_versions import (
    TRAINING,
    BrokenRecord,
    PreparedRecord,
    StripLabels,
    hash_code,
    hash_files,
)
from flows.data.records.preparation import prepare_record
from flows.doors.parallel import run_in_processes

DRAWN_WEIGHT: Final = 5.0
"""Weight in training of a labelled beat of a strip that was drawn at random: the site has few
beats, and those of archives weigh 1. Chosen, not tuned."""

CHOSEN_WEIGHT: Final = 2.5
"""Weight of a labelled beat of a strip that a reader chose: readers choose the difficult ones, so
that these are more frequent among labels than in traffic."""

LEFT_OUT: Final = "Q"
"""Symbol of a beat without a mark."""

_STRIP_S: Final = 10


class Labelled(NamedTuple):
    """A kept signal whose prediction has marks."""

    file: KeptFile
    labels: StripLabels


def is_held_out(patient_key: str) -> bool:
    """Return whether a patient is for the promotion gate alone; always the same for a patient.

    >>> is_held_out("f" * 64), is_held_out("e" * 64)
    (True, False)
    """
    return int(patient_key[-1], 16) % 2 == 1


def name_person(patient_key: str) -> str:
    """Name a patient as datasets do."""
    return SITE.full_name(patient_key[:16])


def find_labelled(store: SignalStore, log: PredictionLog) -> list[Labelled]:
    """Find the kept signals whose predictions have marks, in a fixed order.

    Args:
        store: The signals.
        log: Predictions and feedback.
    """
    files = {file.prediction_id: file for file in store.list_files()}
    given: dict[str, list[FeedbackRow]] = {}
    for row in log.read_feedback(files):
        given.setdefault(row.prediction_id, []).append(row)
    found = []
    for name in sorted(given):
        answered = log.get_prediction(name)
        if answered is None:
            continue
        labels = describe_labels(answered, given[name])
        if labels is None:
            continue
        if not is_held_out(files[name].patient_key) or _may_score(answered, labels):
            found.append(Labelled(files[name], labels))
    return found


def _may_score(answered: PredictionRow, labels: StripLabels) -> bool:
    """Return whether a strip may judge models: drawn, and looked at as a whole.

    Readers who mark single beats mark the errors of the served model, by which any other gains.
    """
    n_beats = len(answered.response["beat_predictions"])
    n_looked_at = n_beats - labels.symbols.count(LEFT_OUT)
    return labels.is_drawn and n_looked_at >= DriftPolicy().min_labelled_share * n_beats


def fingerprint_labels(settings: Settings) -> str:
    """Hash what a retraining would learn from readers now, and the code that would learn it."""
    log = PredictionLog(settings.monitoring_database_url)
    try:
        log.create_tables()
        labelled = find_labelled(SignalStore(settings.signals_dir, settings.signal_key_path), log)
    finally:
        log.close()
    described = [
        [one.file.patient_key, one.file.prediction_id, asdict(one.labels)] for one in labelled
    ]
    text = json.dumps([hash_code(TRAINING), described], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_labels(answered: PredictionRow, feedback: Sequence[FeedbackRow]) -> StripLabels | None:
    """Turn the marks on a prediction into annotations; None when nothing is marked.

    Args:
        answered: The prediction.
        feedback: All feedback to it.
    """
    beats = answered.response["beat_predictions"]
    marks = resolve_marks(
        feedback,
        called=[beat["arrhythmia_type"] for beat in beats],
        forms=read_forms(answered.response),
        n_samples=count_samples(answered.response),
    )
    if marks.is_empty:
        return None
    is_drawn = bool(answered.response.get("drawn_for_review"))
    positions = [beat["position_sample"] for beat in beats]
    annotations = _annotate(positions, marks)
    return StripLabels(
        samples=tuple(sample for sample, _ in annotations),
        symbols="".join(symbol for _, symbol in annotations),
        not_beats=tuple(positions[index] for index in sorted(marks.false_detections)),
        is_complete=marks.is_complete,
        is_drawn=is_drawn,
        weight=DRAWN_WEIGHT if is_drawn else CHOSEN_WEIGHT,
    )


def _annotate(positions: Sequence[int], marks: Marks) -> list[tuple[int, str]]:
    detected = [
        (position, marks.classes.get(index, LEFT_OUT))
        for index, position in enumerate(positions)
        if index not in marks.false_detections
    ]
    return sorted([*detected, *marks.missed.items()])


def prepare_site(settings: Settings, target: Path) -> list[PreparedRecord | BrokenRecord]:
    """Prepare the labelled strips of the site, those that are not prepared yet in processes.

    Args:
        settings: Where signals and labels are.
        target: Directory of prepared records.
    """
    store = SignalStore(settings.signals_dir, settings.signal_key_path)
    log = PredictionLog(settings.monitoring_database_url)
    try:
        log.create_tables()
        labelled = find_labelled(store, log)
    finally:
        log.close()
    for one in labelled:
        if one.file.is_waiting:
            store.keep(one.file.patient_key, one.file.prediction_id)
    jobs = [
        partial(_prepare_one, settings.signals_dir, one.file, one.labels, target)
        for one in labelled
    ]
    return list(run_in_processes(jobs)) if jobs else []


def _prepare_one(
    directory: Path, file: KeptFile, labels: StripLabels, target: Path
) -> PreparedRecord | BrokenRecord:
    name = name_strip(file.prediction_id)
    try:
        return _prepare(directory, file, labels, target, name=name)
    except (EcgError, OSError) as error:
        return BrokenRecord(name=name, reason=str(error), database=SITE.name)


def _prepare(
    directory: Path, file: KeptFile, labels: StripLabels, target: Path, *, name: str
) -> PreparedRecord:
    source = f"kept/{file.patient_key}/{file.prediction_id}.signal"
    described = PreparedRecord(
        name=name,
        role=Role.HELD_OUT if is_held_out(file.patient_key) else Role.DEVELOPMENT,
        files=hash_files(directory, (source,)),
        prepared="",
        duration_s=0.0,
        lead="",
        annotated={},
        detected=0,
        unreadable_s=0.0,
        database=SITE.name,
        person=name_person(file.patient_key),
        marks_are_peaks=False,
        labels=labels,
    )
    record = read_strip(directory, described)
    if len(record.signals_mv) < round(_STRIP_S * record.fs):
        msg = f"a strip must last {_STRIP_S} s to be trained on, got {record.duration_s:.3f} s"
        raise DatasetError(msg)
    return prepare_record(record, described, target)


def name_strip(prediction_id: str) -> str:
    """Name a strip as datasets do, so that the columns of a drift reference have room for it."""
    return SITE.full_name(hashlib.sha256(prediction_id.encode()).hexdigest()[:16])


def read_strip(directory: Path, record: PreparedRecord) -> Record:
    """Read a labelled strip: the signal that is kept, and the marks of the dataset version.

    Args:
        directory: Directory of the kept signals.
        record: The record.

    Raises:
        DatasetError: If the signal is no longer kept, or a mark is not in it.
        SignalStoreError: If it cannot be opened.
    """
    (source,) = record.files or ("",)
    parts = Path(source).parts
    labels = record.labels
    signal = None
    if len(parts) == 3 and labels is not None:
        # The process may be of a pool that was started with other settings.
        key = read_settings().signal_key_file or directory.with_name(f"{directory.name}.key")
        store = SignalStore(directory, key)
        signal = store.read(parts[1], Path(source).stem)
    if signal is None or labels is None:
        msg = f"the signal of record {record.name} is no longer kept; run ingest-records again"
        raise DatasetError(msg)
    outside = [sample for sample in labels.samples if sample >= len(signal.signal_mv)]
    if outside:
        msg = (
            f"marks of record {record.name} must be before sample {len(signal.signal_mv)}, the end "
            f"of its signal, got {outside[0]}; withdraw that feedback"
        )
        raise DatasetError(msg)
    read = Record(
        name=record.name,
        fs=signal.fs,
        leads=(signal.lead,),
        signals_mv=signal.signal_mv[:, None],
        annotations=None,
        person=record.person,
    )
    return replace(read, annotations=_leave_out_rest(read, labels))


def _leave_out_rest(record: Record, labels: StripLabels) -> Annotations:
    """Add detections that no reader has seen to the annotations, as beats that are left out.

    The detector may have changed since the prediction was made. Without this a new detection would
    be trained on as a mistake of the detector.
    """
    samples = np.array(labels.samples, dtype=np.int64)
    symbols = np.array(list(labels.symbols), dtype="U1")
    if not labels.is_complete:
        found = prepare_scored_view(record, ScoredView())[0].beats.r_peaks
        known = np.array([*labels.samples, *labels.not_beats], dtype=np.int64)
        tolerance = round(MATCH_TOLERANCE_S * record.fs)
        match = match_beats(np.sort(known), found, tolerance=tolerance)
        unseen = found[match.of_detected < 0]
        samples = np.concatenate([samples, unseen])
        symbols = np.concatenate([symbols, np.full(len(unseen), LEFT_OUT)])
    order = np.argsort(samples, kind="stable")
    return Annotations(samples=samples[order], symbols=symbols[order])
