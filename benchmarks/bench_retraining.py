"""Measure V-F1 on held-out people of a new population by the number of labelled people.

The development people of the MIT-BIH Supraventricular database are the new population. Strips of
each are answered by the model that ships, and kept and labelled as the service and a reader would,
with the annotations of the database as the reader. People are held out by their hash, as the
promotion gate does: 17 of the 37, so that 20 are left to label. The network is then fitted to DS1
with the strips of so many labelled people, with calibration and threshold from three folds, and
scored as the gate scores it. The champion is the same fit to DS1 alone, as the model
that ships was trained on these people. Prints a table.

Needs ECG_MITDB_DIR and ECG_SVDB_DIR. Reads DS1 and the development part of svdb alone. With --home
what was sent, fitted and scored is kept, and a run that was ended goes on from there; a home is for
one size of fit and one number of strips.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.evaluation.beat_scoring import BeatCounts
    from ecg_lib.operations.prediction_log import PredictionLog
    from ecg_lib.operations.settings import Settings
    from flows.data.dataset_versions import DatasetVersion, PreparedRecord

STRIP_S: Final = 10
N_FOLDS: Final = 3
SALT: Final = "5"
"""Of the hashes of people: the lowest number by which 20 people are not held out."""


class Fit(NamedTuple):
    """Size of a fit."""

    epochs: int
    max_beats: int


def main() -> None:
    """Fill a home with labelled traffic, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--strips", type=int, default=12, help="labelled strips of each person")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--beats", type=int, default=15_000)
    parser.add_argument("--home", type=Path, help="directory that keeps what was done")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as draft:
        home = arguments.home or Path(draft)
        home.mkdir(parents=True, exist_ok=True)
        os.environ["ECG_HOME"] = str(home)
        _run(arguments.people, arguments.strips, Fit(arguments.epochs, arguments.beats))


def _run(counts: Sequence[int], n_strips: int, fit: Fit) -> None:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import read_bundle
    from ecg_lib.evaluation.beat_scoring import BeatCounts
    from ecg_lib.operations.prediction_log import PredictionLog
    from ecg_lib.operations.settings import read_settings
    from ecg_lib.records.atomic_files import write_whole
    from flows.data.databases import Role
    from flows.evaluation.promote_champion import count_held_out
    from flows.release.load_released import REFERENCE

    settings = read_settings()
    is_sent = settings.home / "sent"
    if not is_sent.exists():
        champion = BeatClassifier.load(read_bundle(REFERENCE))
        log = PredictionLog(settings.monitoring_database_url)
        log.create_tables()
        _send_strips(settings, log, champion, n_strips=n_strips)
        log.close()
        is_sent.touch()
    archive, site = _prepare_archive(settings), _prepare_site(settings)
    held_out = [one for one in site if one.role is Role.HELD_OUT]
    trained = [one for one in site if one.role is Role.DEVELOPMENT]
    people = sorted({one.subject for one in trained})
    theirs = None
    _say("people | strips | V beats | V-F1 on held-out people (90 % interval) | difference")
    for count in dict.fromkeys([0, *(min(count, len(people)) for count in counts)]):
        chosen = [one for one in trained if one.subject in people[:count]]
        kept = settings.home / f"scored-{count}.json"
        if not kept.exists():
            version = _make_version(settings, [*archive, *chosen, *held_out])
            found = count_held_out(_fit(version, settings, fit), version)
            write_whole(kept, json.dumps({name: asdict(one) for name, one in found.items()}))
        ours = {name: BeatCounts(**one) for name, one in json.loads(kept.read_text()).items()}
        _show(str(count), chosen, ours, theirs)
        theirs = theirs or ours


def _send_strips(
    settings: Settings, log: PredictionLog, champion: BeatClassifier, *, n_strips: int
) -> None:
    """Keep and label strips at random places of each development record of svdb."""
    from dataclasses import replace

    from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
    from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow
    from ecg_lib.records.annotations import Annotations
    from flows.data.databases import SVDB, Role
    from flows.data.dataset_versions import RecordIdentity, read_source
    from flows.monitoring.labels.feedback_import import Found, compare

    store = SignalStore(settings.signals_dir, settings.signal_key_path)
    directory = settings.svdb_dir
    if directory is None:
        sys.exit("ECG_SVDB_DIR must be the directory of the svdb records")
    rng = np.random.default_rng(0)
    names = [name for name, role in SVDB.roles.items() if role is Role.DEVELOPMENT]
    for name in names:
        person = SVDB.person_of(name)
        patient_key = hashlib.sha256(f"{SALT}{person}".encode()).hexdigest()
        identity = RecordIdentity(name=name, person=person)
        record = read_source(directory, name, database=SVDB.name, of=identity)
        signal, length = record.signal_mv(), round(STRIP_S * record.fs)
        for number in range(n_strips):
            start = int(rng.integers(len(signal) - length))
            strip = signal[start : start + length]
            answered = champion.classify(strip, fs=record.fs)
            marks = record.annotations
            if marks is None:
                continue
            inside = (marks.samples >= start) & (marks.samples < start + length)
            cut = Annotations(samples=marks.samples[inside] - start, symbols=marks.symbols[inside])
            found = Found(answered.r_peaks, record.fs)
            given = compare(cut, found, is_partial=False)
            prediction_id, now = f"{name}-{number}", datetime.now(UTC)
            store.add(
                KeptSignal(
                    prediction_id=prediction_id,
                    patient_key=patient_key,
                    created_at=now,
                    fs=record.fs,
                    lead=record.choose_lead(),
                    signal_mv=strip,
                ),
                is_waiting=False,
            )
            beats = [
                {"position_sample": at, "arrhythmia_type": None} for at in answered.r_peaks.tolist()
            ]
            row = PredictionRow(
                prediction_id=prediction_id,
                created_at=now,
                patient_key=patient_key,
                bundle_hash="shipped",
                bento_tag="ecg:shipped",
                duration_s=float(STRIP_S),
                response={"beat_predictions": beats, "drawn_for_review": True},
                observed={},
            )
            feedback = FeedbackRow(
                feedback_id=prediction_id,
                created_at=now,
                prediction_id=prediction_id,
                annotator="svdb",
                labels={one["beat_index"]: one["arrhythmia_type"] for one in given["labels"]},
                missed={
                    one["position_sample"]: one["arrhythmia_type"] for one in given["missed_beats"]
                },
                false_detections=tuple(one["beat_index"] for one in given["false_detections"]),
            )
            log.add_predictions([row])
            log.add_feedback([replace(feedback, is_complete=False)])


def _prepare_archive(settings: Settings) -> list[PreparedRecord]:
    from flows.data.databases import MITDB, Role
    from flows.data.dataset_versions import PreparedRecord
    from flows.data.prepared_views import records_dir
    from flows.data.records.preparation import prepare_all
    from flows.data.records.sources import of_directory

    if settings.mitdb_dir is None:
        sys.exit("ECG_MITDB_DIR must be the directory of the MIT-BIH records")
    records = of_directory(MITDB, settings.mitdb_dir)
    of_part = [name for name in records.names if MITDB.roles[name] is Role.DEVELOPMENT]
    target = records_dir(settings.datasets_dir)
    target.mkdir(parents=True, exist_ok=True)
    done = prepare_all(records._replace(names=tuple(of_part)), target)
    return [one for one in done if isinstance(one, PreparedRecord)]


def _prepare_site(settings: Settings) -> list[PreparedRecord]:
    from flows.data.dataset_versions import PreparedRecord
    from flows.data.prepared_views import records_dir
    from flows.data.records.site import prepare_site

    done = prepare_site(settings, records_dir(settings.datasets_dir))
    return [one for one in done if isinstance(one, PreparedRecord)]


def _make_version(settings: Settings, records: list[PreparedRecord]) -> DatasetVersion:
    from ecg_lib.classifier.bundle import DataSource
    from flows.data.databases import SITE
    from flows.data.dataset_versions import make_version

    return make_version(
        data_source=DataSource.RECORDS,
        source_directory=Path(str(settings.mitdb_dir)),
        records=records,
        broken=[],
        other_directories={SITE.name: settings.signals_dir},
    )


def _fit(version: DatasetVersion, settings: Settings, fit: Fit) -> BeatClassifier:
    """Fit to the development people of a version, with a threshold from three folds."""
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.training.cross_validation import Recipe, fit_subjects, predict_fold
    from ecg_lib.training.datasets import BeatDataset, join_records
    from ecg_lib.training.fitting import TrainingConfig, export_onnx
    from ecg_lib.training.out_of_fold import judge_folds
    from flows.data.databases import Role
    from flows.data.prepared_views import PreparedViews
    from flows.data.training_data import SCORING_VIEWS, ViewPlan, cut_beats
    from flows.doors.parallel import run_in_processes

    prepared = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    plan = ViewPlan(training_views=())
    records = version.records_of(Role.DEVELOPMENT)
    parts = list(run_in_processes([partial(cut_beats, prepared, one, plan) for one in records]))
    directory = settings.home / "beats"
    join_records(parts).save(directory)
    dataset = BeatDataset.load(directory)
    recipe = Recipe(training=TrainingConfig(epochs=fit.epochs), max_beats=fit.max_beats)
    shared: dict[str, Any] = {
        "scoring_views": SCORING_VIEWS,
        "recipe": recipe,
        "weights": version.weights,
    }
    folds = version.folds[N_FOLDS]
    outputs = [
        predict_fold(
            dataset, folds=folds, fold=fold, predicted_views=SCORING_VIEWS, seed=fold, **shared
        )
        for fold in range(N_FOLDS)
    ]
    judged = judge_folds(
        dataset, outputs, n_missed=version.n_missed_v, databases=version.development_databases
    )
    final = fit_subjects(dataset, subjects=set(folds), seed=0, **shared)
    network = settings.home / "network.onnx"
    export_onnx(final.model, network)
    return BeatClassifier(network.read_bytes(), config=judged.config)


def _show(
    name: str,
    records: Sequence[PreparedRecord],
    ours: dict[str, BeatCounts],
    theirs: dict[str, BeatCounts] | None,
) -> None:
    from ecg_lib.evaluation.bootstrap import bootstrap_interval, paired_bootstrap
    from ecg_lib.operations.learning.promotion import PromotionPolicy

    people = sorted(ours)
    f1 = bootstrap_interval([ours[one] for one in people], lambda c: c.v_f1, confidence=0.9)
    said = ""
    if theirs is not None:
        # Each is fitted with one seed: the spread of seeds is that which the gate takes then.
        change = paired_bootstrap(
            [ours[one] for one in people],
            [theirs[one] for one in people],
            lambda c: c.v_f1,
            spread=2**0.5 * PromotionPolicy().seed_sd,
        )
        said = f"{change.estimate:+.4f} ({change.low:+.4f} to {change.high:+.4f})"
    n_v = sum(record.annotated["V"] for record in records)
    _say(
        f"{name} | {len(records)} | {n_v} | {f1.estimate:.4f} ({f1.low:.3f} to {f1.high:.3f}), "
        f"{len(people)} people, {sum(ours[one].v_beats for one in people)} V | {said}"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
