"""From out-of-fold predictions and a recipe to a candidate bundle with its figures."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecg_lib.classifier.abstention import abstain
from ecg_lib.classifier.beat_classifier import BeatClassifier, decide
from ecg_lib.classifier.bundle import (
    Bundle,
    BundleSource,
    ClassifierConfig,
    Provenance,
    write_bundle,
)
from ecg_lib.classifier.golden import make_golden
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.operations.drift.observation import REFERENCE_KEYS, observe_beats
from ecg_lib.training.datasets import STRIPS_10_S
from ecg_lib.training.model_card import write_model_card
from ecg_lib.training.out_of_fold import OutOfFold
from flows.data.databases import Role
from flows.data.dataset_versions import PreparedRecord
from flows.data.prepared_views import SHORT_STRIPS, PreparedViews
from flows.doors.ledger import read_git_commit
from flows.doors.parallel import run_in_processes

if TYPE_CHECKING:
    from ecg_lib.training.cross_validation import Recipe
    from flows.training.fitting import FinalFit

_LIBRARIES: Final = ("numpy", "scipy", "tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx")


def make_drift_reference(out_of_fold: OutOfFold, prepared: PreparedViews) -> pa.Table:
    """Observe the out-of-fold output on strips cut like requests, by subject.

    Args:
        out_of_fold: The predictions.
        prepared: The prepared strips of the records that they are of.
    """
    dataset = out_of_fold.dataset
    jobs = []
    for record in prepared.version.records_of(Role.DEVELOPMENT):
        rows = dataset.rows_of(records=[record.name], view=STRIPS_10_S)
        mine = np.isin(out_of_fold.rows, rows)
        predicted = _Predicted(
            dataset.position[out_of_fold.rows[mine]],
            out_of_fold.probability_v[mine],
            out_of_fold.beat_logits[mine],
        )
        jobs.append(partial(_observe_record, prepared, record, predicted, out_of_fold.config))
    return pa.concat_tables(run_in_processes(jobs))


class _Predicted(NamedTuple):
    """The predictions of the strips of one record, in order."""

    position: NDArray[np.int64]
    probability_v: NDArray[np.float64]
    beat_logits: NDArray[np.float64]


def _observe_record(
    views: PreparedViews,
    record: PreparedRecord,
    predicted: _Predicted,
    config: ClassifierConfig,
) -> pa.Table:
    tables, first = [], 0
    for start, prepared in views.read(record, SHORT_STRIPS, config=config.preprocessing):
        part = slice(first, first + len(prepared))
        first = part.stop
        if not np.array_equal(prepared.r_peaks + start, predicted.position[part]):
            msg = f"strips of record {record.name} must have the beats of the dataset, they differ"
            raise RuntimeError(msg)
        read = abstain(prepared, predicted.beat_logits[part], config=config.abstention)
        columns = observe_beats(decide(read, predicted.probability_v[part], config=config))
        n_beats = len(columns["rule"])
        # Arrays with types, because a strip without a readable beat has no values to infer from.
        keys = (
            np.full(n_beats, record.subject, dtype="U32"),
            np.full(n_beats, f"{record.name}:{start}", dtype="U32"),
            np.full(n_beats, float(STRIPS_10_S.strip_s or 0)),
        )
        tables.append(pa.table(dict(zip(REFERENCE_KEYS, keys, strict=True)) | columns))
    return pa.concat_tables(tables)


def build_bundle(
    directory: Path,
    *,
    final: FinalFit,
    fold_networks: Sequence[Path],
    recipe: Recipe,
    out_of_fold: OutOfFold,
    prepared: PreparedViews,
    metrics: dict[str, Any],
    by_record: Mapping[str, BeatCounts],
    run_id: str,
    seed: int,
) -> Bundle:
    """Measure the exported network and write the bundle."""
    version = prepared.version
    classifier = BeatClassifier(final.network.read_bytes(), config=out_of_fold.config)
    windows = np.asarray(out_of_fold.dataset.windows[final.probe_rows])
    features = out_of_fold.dataset.features[final.probe_rows]
    served = classifier.predict_logits(windows, features)[:, 0]
    calibration = out_of_fold.config.calibration
    difference = np.abs(
        calibration.probabilities(final.probe_logits) - calibration.probabilities(served)
    )
    metrics = {
        **metrics,
        "runtime_difference": float(difference.max()),
        "microseconds_per_beat": _measure_speed(classifier, windows, features),
        "recipe": asdict(recipe),
    }
    provenance = Provenance(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=BundleSource.TRAINED,
        data_source=version.data_source,
        dataset_version=version.version,
        git_commit=read_git_commit(),
        run_id=run_id,
        seed=seed,
        library_versions=_library_versions(),
    )
    return write_judged(
        directory,
        classifier,
        network=final.network,
        fold_networks=fold_networks,
        folds=version.folds[len(fold_networks)],
        out_of_fold=out_of_fold,
        prepared=prepared,
        provenance=provenance,
        metrics=metrics,
        by_record=by_record,
    )


def write_judged(
    directory: Path,
    classifier: BeatClassifier,
    *,
    network: Path,
    fold_networks: Sequence[Path],
    folds: Mapping[str, int],
    out_of_fold: OutOfFold,
    prepared: PreparedViews,
    provenance: Provenance,
    metrics: dict[str, Any],
    by_record: Mapping[str, BeatCounts],
) -> Bundle:
    """Write a bundle, with the configuration, reference and golden requests of its predictions.

    Args:
        directory: The bundle; it must not exist.
        classifier: The network with the configuration of `out_of_fold`.
        network: The network that serves.
        fold_networks: Those that predicted out of fold.
        folds: The fold of each person.
        out_of_fold: The predictions.
        prepared: The prepared strips of the records that they are of.
        provenance: Where the network comes from.
        metrics: The figures.
        by_record: The figures of each record, for the model card.
    """
    return write_bundle(
        directory,
        network=network,
        fold_networks=fold_networks,
        folds=folds,
        config=out_of_fold.config,
        provenance=provenance,
        metrics=metrics,
        out_of_fold=out_of_fold.table(),
        drift_reference=make_drift_reference(out_of_fold, prepared),
        golden=make_golden(classifier),
        model_card=write_model_card(provenance, metrics, by_record, out_of_fold.config),
    )


def _measure_speed(
    classifier: BeatClassifier, windows: NDArray[np.float32], features: NDArray[np.float32]
) -> float:
    """Return the microseconds of CPU a beat of the fastest of fifteen batches.

    CPU time, because a gate decides on it and other load on the machine must not.
    """
    times_s = []
    for _ in range(15):
        started_s = time.process_time()
        classifier.predict_logits(windows, features)
        times_s.append(time.process_time() - started_s)
    return min(times_s) / max(1, len(windows)) * 1e6


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        for distribution in (name, f"{name}-cpu"):
            try:
                versions[name] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
            break
    return versions
