"""From out-of-fold predictions and a recipe to a candidate bundle with its figures."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecg_lib.annotations import Annotations, subject_of
from ecg_lib.bootstrap import bootstrap_interval
from ecg_lib.bundle import Bundle, BundleSource, ClassifierConfig, Provenance, write_bundle
from ecg_lib.calibration import expected_calibration_error
from ecg_lib.classifier import BeatClassifier, decide
from ecg_lib.datasets import NO_BEAT, STRIPS_10_S, WHOLE, BeatDataset, View, prepare_view
from ecg_lib.evaluation import (
    LEARNING_PERIOD_S,
    BeatCounts,
    add_up,
    by_subject,
)
from ecg_lib.golden import make_golden
from ecg_lib.monitoring import observe_beats
from ecg_lib.rule_guard import RuleGuardConfig, apply_rules
from flows.dataset_versions import DatasetVersion, Role
from flows.git_commit import read_git_commit
from flows.model_card import write_model_card

if TYPE_CHECKING:
    from ecg_lib.cross_validation import FoldOutput, Recipe
    from flows.fitting import FinalFit

_LIBRARIES: Final = ("numpy", "scipy", "tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx")
_N_PROCESSES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutOfFold:
    """The out-of-fold predictions of all development records, judged."""

    dataset: BeatDataset
    rows: NDArray[np.int64]
    fold: NDArray[np.int16]
    logits: NDArray[np.float64]
    probability_v: NDArray[np.float64]
    is_v: NDArray[np.bool_]
    rule: NDArray[np.str_]
    config: ClassifierConfig
    n_missed: int
    """V beats of whole records without a readable detection."""
    losses: tuple[tuple[float, ...], ...]

    @property
    def is_scored(self) -> NDArray[np.bool_]:
        """True for readable N, S, V and extra detections of whole records."""
        return (
            self._is_of(WHOLE)
            & self.dataset.is_readable[self.rows]
            & np.isin(self.dataset.label[self.rows], ["N", "S", "V", NO_BEAT])
        )

    def _is_of(self, view: View) -> NDArray[np.bool_]:
        return np.asarray(self.dataset.view[self.rows] == self.dataset.views.index(view))

    def score(
        self,
        version: DatasetVersion,
        annotations: Mapping[str, Annotations],
        *,
        view: View = WHOLE,
        start_s: float = 0.0,
        is_v: NDArray[np.bool_] | None = None,
    ) -> dict[str, BeatCounts]:
        """Score end to end, by record."""
        from ecg_lib.cross_validation import score_records

        keep = self._is_of(view)
        return score_records(
            self.dataset,
            self.rows[keep],
            (self.is_v if is_v is None else is_v)[keep],
            view=view,
            annotations=annotations,
            duration_s={record.name: record.duration_s for record in version.records},
            fs=360.0,
            start_s=start_s,
        )

    def table(self) -> pa.Table:
        """Give the predictions as a table, for the bundle."""
        names = np.array(self.dataset.record_names)[self.dataset.record[self.rows]]
        views = np.array([str(view) for view in self.dataset.views])[self.dataset.view[self.rows]]
        return pa.table(
            {
                "record": names,
                "subject": [subject_of(name) for name in names.tolist()],
                "view": views,
                "fold": self.fold,
                "position": self.dataset.position[self.rows],
                "label": self.dataset.label[self.rows],
                "is_readable": self.dataset.is_readable[self.rows],
                "logit": self.logits,
                "probability_v": self.probability_v,
                "is_v": self.is_v,
                "rule": self.rule,
            }
        )


def judge_folds(
    dataset: BeatDataset, outputs: list[FoldOutput], version: DatasetVersion
) -> OutOfFold:
    """Calibrate, choose the threshold and apply the rules to the predictions of all folds."""
    from ecg_lib.cross_validation import vote_out_of_fold
    from ecg_lib.training import choose_threshold, fit_calibration

    rows = np.concatenate([output.rows for output in outputs])
    order = np.argsort(rows)
    logits = np.concatenate([output.logits for output in outputs])[order]
    fold = np.concatenate(
        [np.full(len(output.rows), index, np.int16) for index, output in enumerate(outputs)]
    )[order]
    rows = rows[order]
    label, readable = dataset.label[rows], dataset.is_readable[rows]
    is_whole = dataset.view[rows] == dataset.views.index(WHOLE)
    scored = is_whole & readable & np.isin(label, ["N", "S", "V", NO_BEAT])
    n_missed = sum(record.missed_v or 0 for record in version.records_of(Role.DEVELOPMENT))
    n_missed += int((is_whole & ~readable & (label == "V")).sum())
    voted = vote_out_of_fold(dataset, rows, logits)
    calibration = fit_calibration(voted[scored], label[scored] == "V")
    probability = calibration.probabilities(voted)
    threshold = choose_threshold(
        probability[scored], label[scored] == "V", n_missed=n_missed
    ).threshold
    rule_guard = choose_rules(
        probability[scored],
        dataset.features[rows[scored]],
        threshold=threshold,
        is_v=label[scored] == "V",
        n_missed=n_missed,
    )
    guarded = apply_rules(
        probability, dataset.features[rows], threshold=threshold, config=rule_guard
    )
    config = ClassifierConfig(calibration=calibration, threshold=threshold, rule_guard=rule_guard)
    return OutOfFold(
        dataset=dataset,
        rows=rows,
        fold=fold,
        logits=logits,
        probability_v=probability,
        is_v=guarded.is_v,
        rule=guarded.rule,
        config=config,
        n_missed=n_missed,
        losses=tuple(output.loss for output in outputs),
    )


def choose_rules(
    probability_v: NDArray[np.float64],
    features: NDArray[np.float32],
    *,
    threshold: float,
    is_v: NDArray[np.bool_],
    n_missed: int,
) -> RuleGuardConfig:
    """Take the rules in force, or none where they would lower V-F1 of these beats.

    Args:
        probability_v: Out-of-fold probability of each beat that is scored.
        features: Its features.
        threshold: From which probability on a beat is called V.
        is_v: The truth.
        n_missed: V beats that are not among these.
    """
    config = RuleGuardConfig()
    guarded = apply_rules(probability_v, features, threshold=threshold, config=config)

    def v_f1(called: NDArray[np.bool_]) -> float:
        return BeatCounts(
            v_beats=int(is_v.sum()) + n_missed,
            v_true=int((called & is_v).sum()),
            v_false=int((called & ~is_v).sum()),
        ).v_f1

    is_worse = v_f1(guarded.is_v) < v_f1(probability_v >= threshold)
    return replace(config, band_logit=0.0) if is_worse else config


def measure(
    out_of_fold: OutOfFold, version: DatasetVersion, annotations: Mapping[str, Annotations]
) -> tuple[dict[str, Any], dict[str, BeatCounts]]:
    """Compute the figures of the predictions, and the counts of each record."""
    by_record = out_of_fold.score(version, annotations)
    subjects = by_subject(by_record)
    gross = add_up(list(by_record.values()))
    interval = bootstrap_interval(list(subjects.values()), lambda counts: counts.v_f1)
    later = out_of_fold.score(version, annotations, start_s=LEARNING_PERIOD_S)
    strips = out_of_fold.score(version, annotations, view=STRIPS_10_S)
    network = out_of_fold.score(
        version, annotations, is_v=out_of_fold.probability_v >= out_of_fold.config.threshold
    )
    scored = out_of_fold.is_scored
    labels = out_of_fold.dataset.label[out_of_fold.rows]
    metrics: dict[str, Any] = {
        "oof_v_f1": gross.v_f1,
        "oof_v_f1_low": interval.low,
        "oof_v_f1_high": interval.high,
        "oof_v_f1_strict": gross.v_f1_strict,
        "oof_v_se": gross.v_sensitivity,
        "oof_v_ppv": gross.v_predictivity,
        "oof_v_fpr": gross.v_false_positive_rate,
        "oof_accuracy": gross.accuracy,
        "oof_qrs_se": gross.qrs_sensitivity,
        "oof_qrs_ppv": gross.qrs_predictivity,
        "oof_v_f1_after_5min": add_up(list(later.values())).v_f1,
        "oof_strips_10s_v_f1": add_up(list(strips.values())).v_f1,
        "oof_v_f1_network": add_up(list(network.values())).v_f1,
        "oof_ece": expected_calibration_error(
            out_of_fold.probability_v[scored], labels[scored] == "V"
        ),
        "threshold": out_of_fold.config.threshold,
    }
    metrics["by_subject"] = {subject: asdict(counts) for subject, counts in subjects.items()}
    metrics["by_subject_strips_10_s"] = {
        subject: asdict(counts) for subject, counts in by_subject(strips).items()
    }
    metrics["rules"] = _rule_effects(out_of_fold)
    return metrics, by_record


def _rule_effects(out_of_fold: OutOfFold) -> dict[str, dict[str, int]]:
    """How often each rule changed a class in whole records, and how often it was right."""
    scored = out_of_fold.is_scored
    truth = out_of_fold.dataset.label[out_of_fold.rows] == "V"
    effects = {}
    for rule in sorted(set(out_of_fold.rule.tolist()) - {""}):
        fired = scored & (out_of_fold.rule == rule)
        right = int((fired & (out_of_fold.is_v == truth)).sum())
        effects[rule] = {"fired": int(fired.sum()), "right": right}
    return effects


def make_drift_reference(out_of_fold: OutOfFold, version: DatasetVersion) -> pa.Table:
    """Observe the out-of-fold output on strips cut like requests, by subject."""
    from joblib import Parallel, delayed

    dataset = out_of_fold.dataset
    jobs = []
    for record in version.records_of(Role.DEVELOPMENT):
        mine = (dataset.record[out_of_fold.rows] == dataset.record_names.index(record.name)) & (
            dataset.view[out_of_fold.rows] == dataset.views.index(STRIPS_10_S)
        )
        probability = out_of_fold.probability_v[mine]
        position = dataset.position[out_of_fold.rows[mine]]
        jobs.append(
            delayed(_observe_record)(
                version, record.name, position, probability, out_of_fold.config
            )
        )
    return pa.concat_tables(Parallel(n_jobs=_N_PROCESSES)(jobs))


def _observe_record(
    version: DatasetVersion,
    name: str,
    position: NDArray[np.int64],
    probability_v: NDArray[np.float64],
    config: ClassifierConfig,
) -> pa.Table:
    record = version.read_source(next(r for r in version.records if r.name == name))
    tables, first = [], 0
    for start, prepared in prepare_view(record, STRIPS_10_S):
        part = slice(first, first + len(prepared))
        first = part.stop
        if not np.array_equal(prepared.r_peaks + start, position[part]):
            msg = f"strips of record {name} must have the beats of the dataset, they differ"
            raise RuntimeError(msg)
        columns = observe_beats(decide(prepared, probability_v[part], config=config))
        n_beats = len(columns["rule"])
        # Arrays with types: a strip without a readable beat has none to tell them.
        keys = {
            "subject": np.full(n_beats, record.subject, dtype="U32"),
            "strip": np.full(n_beats, f"{name}:{start}", dtype="U32"),
            "strip_s": np.full(n_beats, float(STRIPS_10_S.strip_s or 0)),
        }
        tables.append(pa.table(keys | columns))
    return pa.concat_tables(tables)


def build_bundle(
    directory: Path,
    *,
    final: FinalFit,
    fold_networks: Sequence[Path],
    recipe: Recipe,
    out_of_fold: OutOfFold,
    version: DatasetVersion,
    metrics: dict[str, Any],
    by_record: Mapping[str, BeatCounts],
    run_id: str,
    seed: int,
) -> Bundle:
    """Write the bundle of a fitted network, after measuring the network that is served."""
    classifier = BeatClassifier(final.network.read_bytes(), config=out_of_fold.config)
    windows = np.asarray(out_of_fold.dataset.windows[final.probe_rows])
    features = out_of_fold.dataset.features[final.probe_rows]
    served = classifier.predict_logits(windows, features)
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
    return write_bundle(
        directory,
        network=final.network,
        fold_networks=fold_networks,
        folds=version.folds[len(fold_networks)],
        config=out_of_fold.config,
        provenance=provenance,
        metrics=metrics,
        out_of_fold=out_of_fold.table(),
        drift_reference=make_drift_reference(out_of_fold, version),
        golden=make_golden(classifier),
        model_card=write_model_card(provenance, metrics, by_record, out_of_fold.config),
    )


def _measure_speed(
    classifier: BeatClassifier, windows: NDArray[np.float32], features: NDArray[np.float32]
) -> float:
    """Least of fifteen batches, in microseconds a beat, on one thread: what others run adds."""
    times_s = []
    for _ in range(15):
        started_s = time.perf_counter()
        classifier.predict_logits(windows, features)
        times_s.append(time.perf_counter() - started_s)
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
