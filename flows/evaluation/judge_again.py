"""Choose the limits of the reference bundle again, without training its networks.

``python -m flows.evaluation.judge_again DIRECTORY`` is for a change of the R-peak detector. The
fold networks classify the beats that it now finds. Calibration, threshold, abstention and the limit
of runs are chosen on these predictions as a sweep chooses them; figures, drift reference, golden
requests and card follow from them. RuleGuard stays as it was. Needs the records of the recipe
`all`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from prefect import flow

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.rule_guard import apply_rules
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.training.out_of_fold import OutOfFold, judge_folds, measure
from flows.data.databases import DatabaseName
from flows.data.dataset_versions import DatasetVersion, load_version
from flows.data.ingest_records import ingest_records
from flows.data.prepared_views import PreparedViews
from flows.data.training_data import (
    QUICK_VIEWS,
    SCORING_VIEWS,
    find_training_data,
    load_training_data,
)
from flows.doors.ledger import read_git_commit
from flows.release.load_released import read_reference
from flows.training.candidate import write_judged

if TYPE_CHECKING:
    from ecg_lib.training.cross_validation import FoldOutput
    from ecg_lib.training.datasets import BeatDataset

_DATABASES: Final = (DatabaseName.MITDB, DatabaseName.SVDB)


@flow(name="judge-again")
def judge_again(directory: Path) -> Bundle:
    """Write the reference bundle with new limits.

    Args:
        directory: The new bundle; it must not exist.
    """
    settings = read_settings()
    reference = read_reference()
    version = load_version(settings.datasets_dir, ingest_records(databases=_DATABASES))
    out_of_fold = predict_out_of_fold(reference, version, settings)
    prepared = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    found, by_record = measure(
        out_of_fold,
        prepared.read_development_annotations(),
        duration_s=version.duration_s,
        databases=version.development_databases,
    )
    metrics = {**reference.metrics, **found}
    provenance = replace(
        reference.provenance,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset_version=version.version,
        git_commit=read_git_commit(),
    )
    return write_judged(
        directory,
        BeatClassifier(reference.network.read_bytes(), config=out_of_fold.config),
        network=reference.network,
        fold_networks=[reference.fold_network(fold) for fold in _folds_of(reference)],
        folds=reference.folds,
        out_of_fold=out_of_fold,
        prepared=prepared,
        provenance=provenance,
        metrics=metrics,
        by_record=by_record,
    )


def predict_out_of_fold(bundle: Bundle, version: DatasetVersion, settings: Settings) -> OutOfFold:
    """Classify the beats of each person by a network that has not seen the person; choose limits.

    Raises:
        ValueError: If the folds of the bundle differ from those of the dataset version.
    """
    folds = _folds_of(bundle)
    if version.folds.get(len(folds)) != bundle.folds:
        msg = f"dataset version {version.version} must have the folds of the bundle, it has others"
        raise ValueError(msg)
    dataset = load_training_data(find_training_data(version, QUICK_VIEWS, settings))
    outputs = [_predict(bundle, dataset, fold) for fold in folds]
    judged = judge_folds(
        dataset, outputs, n_missed=version.n_missed_v, databases=version.development_databases
    )
    config = replace(judged.config, rule_guard=bundle.config.rule_guard)
    guarded = apply_rules(
        judged.probability_v,
        dataset.features[judged.rows],
        threshold=config.threshold,
        config=config.rule_guard,
    )
    return replace(judged, config=config, is_v=guarded.is_v, rule=guarded.rule)


def _folds_of(bundle: Bundle) -> list[int]:
    return sorted(set(bundle.folds.values()))


def _predict(bundle: Bundle, dataset: BeatDataset, fold: int) -> FoldOutput:
    from ecg_lib.training.cross_validation import FoldOutput

    records = [
        name
        for name, subject in zip(dataset.record_names, dataset.subjects, strict=True)
        if bundle.folds.get(subject) == fold
    ]
    rows = np.sort(
        np.concatenate([dataset.rows_of(records=records, view=view) for view in SCORING_VIEWS])
    )
    classifier = BeatClassifier(bundle.fold_network(fold).read_bytes(), config=bundle.config)
    logits = classifier.predict_logits(
        np.asarray(dataset.windows[rows]), np.asarray(dataset.features[rows])
    ).astype(np.float64)
    return FoldOutput(rows, logits[:, 0], logits[:, 1], (), 0)


if __name__ == "__main__":
    judge_again(Path(sys.argv[1]).absolute())
