"""Out-of-fold predictions of a recipe: calibration, threshold, rules and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecg_lib.classifier.abstention import AbstentionConfig, are_credible
from ecg_lib.classifier.bundle import ClassifierConfig
from ecg_lib.classifier.calibration import expected_calibration_error, sigmoid
from ecg_lib.classifier.rule_guard import RuleGuardConfig, apply_rules
from ecg_lib.evaluation.beat_scoring import (
    NO_BEAT,
    BeatCounts,
    add_up,
    by_subject,
    score_beats,
)
from ecg_lib.evaluation.bootstrap import bootstrap_interval
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import LEARNING_PERIOD_S
from ecg_lib.rhythm.rows import MIN_RUN, find_rows, find_stretches
from ecg_lib.rhythm.run_evidence import weigh_row
from ecg_lib.signal_path.readability.quality import find_spans
from ecg_lib.training.datasets import MOVED, STRIPS_10_S, BeatDataset
from ecg_lib.training.views import WHOLE, View

if TYPE_CHECKING:
    from ecg_lib.training.cross_validation import FoldOutput


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutOfFold:
    """The out-of-fold predictions of all development records, judged."""

    dataset: BeatDataset
    rows: NDArray[np.int64]
    fold: NDArray[np.int16]
    logits: NDArray[np.float64]
    beat_logits: NDArray[np.float64]
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
        annotations: Mapping[str, Annotations],
        *,
        duration_s: Mapping[str, float],
        view: View = WHOLE,
        start_s: float = 0.0,
        is_v: NDArray[np.bool_] | None = None,
    ) -> dict[str, BeatCounts]:
        """Score end to end, by record."""
        from ecg_lib.training.cross_validation import score_records

        keep = self._is_of(view)
        return score_records(
            self.dataset,
            self.rows[keep],
            (self.is_v if is_v is None else is_v)[keep],
            view=view,
            annotations=annotations,
            duration_s=duration_s,
            start_s=start_s,
        )

    def table(self) -> pa.Table:
        """Return the predictions as a table, for the bundle; the promotion gate scores it again.

        Those under simulated movement, which chose the limits of abstention, are left out.
        """
        keep = np.ones(len(self.rows), dtype=np.bool_)
        if MOVED in self.dataset.views:
            keep = ~self._is_of(MOVED)
        dataset, rows = self.dataset, self.rows[keep]
        record, view = dataset.record[rows], dataset.view[rows]
        return pa.table(
            {
                "record": np.array(dataset.record_names)[record],
                "subject": np.array(dataset.subjects)[record],
                "view": np.array([str(view) for view in dataset.views])[view],
                "fold": self.fold[keep],
                "position": dataset.position[rows],
                "label": dataset.label[rows],
                "is_readable": dataset.is_readable[rows],
                "logit": self.logits[keep],
                "beat_logit": self.beat_logits[keep],
                "probability_v": self.probability_v[keep],
                "is_v": self.is_v[keep],
                "rule": self.rule[keep],
            }
        )


def judge_folds(
    dataset: BeatDataset,
    outputs: list[FoldOutput],
    *,
    n_missed: int,
    databases: Mapping[str, str] | None = None,
) -> OutOfFold:
    """Calibrate, choose the threshold and apply the rules to the predictions of all folds.

    Parameters
    ----------
    dataset : BeatDataset
    outputs : list of FoldOutput
    n_missed : int
        V beats of the development records without a detection.
    databases : mapping of str to str, optional
        The database of each record, see :func:`choose_run_threshold`.

    """
    from ecg_lib.training.cross_validation import vote_out_of_fold
    from ecg_lib.training.fitting import choose_threshold, fit_calibration

    rows = np.concatenate([output.rows for output in outputs])
    order = np.argsort(rows)
    logits = np.concatenate([output.logits for output in outputs])[order]
    beat_logits = np.concatenate([output.beat_logits for output in outputs])[order]
    fold = np.concatenate(
        [np.full(len(output.rows), index, np.int16) for index, output in enumerate(outputs)]
    )[order]
    rows = rows[order]
    abstention = choose_abstention(dataset, rows, logits, beat_logits, n_missed=n_missed)
    is_readable = dataset.is_readable.copy()
    is_readable[rows] &= read_out_of_fold(dataset, rows, beat_logits, config=abstention)
    dataset = replace(dataset, is_readable=is_readable)
    label, readable = dataset.label[rows], dataset.is_readable[rows]
    is_whole = dataset.view[rows] == dataset.views.index(WHOLE)
    scored = is_whole & readable & np.isin(label, ["N", "S", "V", NO_BEAT])
    n_missed = n_missed + int((is_whole & ~readable & (label == "V")).sum())
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
    config = ClassifierConfig(
        abstention=abstention,
        calibration=calibration,
        threshold=threshold,
        run_threshold=choose_run_threshold(
            [
                RecordCalls(
                    positions=dataset.position[rows[one]],
                    is_readable=readable[one],
                    is_v=guarded.is_v[one],
                    probability_v=probability[one],
                    label=label[one],
                    fs=dataset.fs[(record := dataset.record[rows[one[0]]])],
                    database=(databases or {}).get(dataset.record_names[record], ""),
                )
                for one in _whole_records(dataset, rows)
            ],
            threshold=threshold,
        ),
        rule_guard=rule_guard,
    )
    return OutOfFold(
        dataset=dataset,
        rows=rows,
        fold=fold,
        logits=logits,
        beat_logits=beat_logits,
        probability_v=probability,
        is_v=guarded.is_v,
        rule=guarded.rule,
        config=config,
        n_missed=n_missed,
        losses=tuple(output.loss for output in outputs),
    )


def read_out_of_fold(
    dataset: BeatDataset,
    rows: NDArray[np.int64],
    beat_logits: NDArray[np.float64],
    *,
    config: AbstentionConfig,
) -> NDArray[np.bool_]:
    """Return True for predicted rows that are credible, signal by signal as the classifier does."""
    view, record = dataset.view[rows].astype(np.int64), dataset.record[rows].astype(np.int64)
    strip_s = np.array([float(one.strip_s or np.inf) for one in dataset.views])[view]
    strip = (dataset.position[rows] / np.array(dataset.fs)[record] // strip_s).astype(np.int64)
    keys = np.stack([view, record, strip])
    edges = np.flatnonzero(np.diff(keys, axis=1, prepend=-1).any(axis=0))
    credible = np.ones(len(rows), dtype=np.bool_)
    for start, stop in pairwise([*edges.tolist(), len(rows)]):
        credible[start:stop] = are_credible(beat_logits[start:stop], config=config)
    return credible


_BEAT_LOGITS: Final = (-20.0, *np.arange(-3.0, 3.1, 0.5).tolist())
_NEIGHBOURHOODS: Final = (-20.0, *np.arange(-1.0, 3.1, 0.5).tolist())
_MAX_LOSS: Final = 0.001
"""V-F1 of clean records that abstaining may cost."""
_MAX_SHARE: Final = 0.005
"""Share of the N, S and V beats of clean records that may be called unreadable."""


def choose_abstention(
    dataset: BeatDataset,
    rows: NDArray[np.int64],
    logits: NDArray[np.float64],
    beat_logits: NDArray[np.float64],
    *,
    n_missed: int,
) -> AbstentionConfig:
    """Choose what is not read: the best V under movement at hardly any cost where it is clean.

    The best V is the greatest F0.5 of the records under simulated movement, in which a false alarm
    counts as four misses. A dataset without such records has no limits.
    """
    from ecg_lib.training.cross_validation import vote_out_of_fold
    from ecg_lib.training.fitting import choose_threshold

    if MOVED not in dataset.views:
        return AbstentionConfig()
    voted = vote_out_of_fold(dataset, rows, logits)
    label = dataset.label[rows]
    counts = dataset.is_readable[rows] & np.isin(label, ["N", "S", "V", NO_BEAT])
    is_clean = counts & (dataset.view[rows] == dataset.views.index(WHOLE))
    is_moved = counts & (dataset.view[rows] == dataset.views.index(MOVED))
    is_v = label == "V"
    n_v = int((is_clean & is_v).sum()) + n_missed
    threshold = choose_threshold(sigmoid(voted[is_clean]), is_v[is_clean], n_missed=n_missed)
    called = sigmoid(voted) >= threshold.threshold

    def score(read: NDArray[np.bool_], beta: float) -> float:
        true, false = int((read & called & is_v).sum()), int((read & called & ~is_v).sum())
        return (1 + beta**2) * true / max(1.0, true + false + beta**2 * n_v)

    usual = score(is_clean, 1.0)
    is_real = is_clean & (label != NO_BEAT)
    best, config = score(is_moved, 0.5), AbstentionConfig()
    for beat, around in product(_BEAT_LOGITS, _NEIGHBOURHOODS):
        tried = AbstentionConfig(min_beat_logit=beat, min_neighbourhood_logit=around)
        read = read_out_of_fold(dataset, rows, beat_logits, config=tried)
        if score(is_clean & read, 1.0) < usual - _MAX_LOSS:
            continue
        if (is_real & ~read).sum() > _MAX_SHARE * is_real.sum():
            continue
        if (found := score(is_moved & read, 0.5)) > best:
            best, config = found, tried
    return config


def choose_rules(
    probability_v: NDArray[np.float64],
    features: NDArray[np.float32],
    *,
    threshold: float,
    is_v: NDArray[np.bool_],
    n_missed: int,
) -> RuleGuardConfig:
    """Take the rules in force, or none where they would lower V-F1 of these beats.

    Parameters
    ----------
    probability_v : ndarray of float64, shape (n_beats,)
        Out-of-fold probability of each beat that is scored.
    features : ndarray of float32, shape (n_beats, n_features)
    threshold : float
        Least probability of a beat that is called V.
    is_v : ndarray of bool, shape (n_beats,)
        The truth.
    n_missed : int
        V beats that are not among these.

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


_V_OF_RUNS: Final = ("V", "F", "!")
_RUN_THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(20))
_FALSE_TO_MISSED: Final = 4.0
"""A false run weighs as much as four missed ones, as in :func:`choose_abstention`."""
_FALSE_AN_HOUR: Final = 0.1
"""Most false runs an hour; half of what may be expected of other people."""


class RecordCalls(NamedTuple):
    """The predictions of one record in time order, each of shape (n_beats,)."""

    positions: NDArray[np.int64]
    """In samples of the record."""
    is_readable: NDArray[np.bool_]
    is_v: NDArray[np.bool_]
    probability_v: NDArray[np.float64]
    label: NDArray[np.str_]
    fs: float
    database: str = ""

    @property
    def hours(self) -> float:
        """Time of the last prediction."""
        return float(self.positions[-1]) / self.fs / 3600 if len(self.positions) else 0.0


def judge_runs(
    records: Sequence[RecordCalls], *, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Judge each row of three and more V beats: the limit that it reaches, and True for a true run.

    A run is true when three beats in a row of it are V or F, as EC57 counts them.

    Parameters
    ----------
    records : sequence of RecordCalls
    threshold : float
        Least probability of a beat that the network calls V.

    """
    reached, is_true = [], []
    for calls in records:
        is_sure = calls.is_v & (calls.probability_v >= threshold)
        for stretch in find_stretches(calls.positions, is_readable=calls.is_readable, fs=calls.fs):
            for row in find_rows(stretch, is_sure):
                if len(row) >= MIN_RUN:
                    reached.append(weigh_row(calls.probability_v[row]))
                    is_true.append(_longest(np.isin(calls.label[row], _V_OF_RUNS)) >= MIN_RUN)
    return np.array(reached, dtype=np.float64), np.array(is_true, dtype=np.bool_)


def _longest(is_there: NDArray[np.bool_]) -> int:
    return max((stop - start for start, stop in find_spans(is_there)), default=0)


def choose_run_threshold(records: Sequence[RecordCalls], *, threshold: float) -> float:
    """Choose the least mean probability of the beats of a run.

    It is the limit with the greatest F0.5 of runs among those by which no database has more than
    one false run in ten hours, or more than one in less time. False runs with a sure beat, which
    no limit rejects, may exceed that; then the limit rejects the others.

    Parameters
    ----------
    records, threshold
        See :func:`judge_runs`.

    Returns
    -------
    float
        The least of the best limits; 0 without a run.

    """
    databases: dict[str, list[RecordCalls]] = {}
    for one in records:
        databases.setdefault(one.database, []).append(one)
    judged = [judge_runs(calls, threshold=threshold) for calls in databases.values()]
    most_false = [
        _allow_false(calls, *runs) for calls, runs in zip(databases.values(), judged, strict=True)
    ]

    def count(limit: float) -> tuple[int, int, list[int]]:
        """Count true and missed runs, and the false ones of each database."""
        n_true = sum(int((means[is_true] >= limit).sum()) for means, is_true in judged)
        n_missed = sum(len(means[is_true]) for means, is_true in judged) - n_true
        n_false = [int((means[~is_true] >= limit).sum()) for means, is_true in judged]
        return n_true, n_missed, n_false

    def is_quiet(limit: float) -> bool:
        return all(n <= most for n, most in zip(count(limit)[2], most_false, strict=True))

    def weigh(limit: float) -> float:
        n_true, n_missed, n_false = count(limit)
        weight = 1 / _FALSE_TO_MISSED
        gain = (1 + weight) * n_true
        return gain / max(1.0, gain + weight * n_missed + sum(n_false))

    return max(filter(is_quiet, _RUN_THRESHOLDS), key=weigh)


def _allow_false(
    calls: Sequence[RecordCalls], means: NDArray[np.float64], is_true: NDArray[np.bool_]
) -> int:
    """Return how many false runs a database may have."""
    n_sure = int((means[~is_true] >= _RUN_THRESHOLDS[-1]).sum())
    return max(1, int(_FALSE_AN_HOUR * sum(one.hours for one in calls)), n_sure)


def _whole_records(dataset: BeatDataset, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Find the predictions of each whole record, in time order."""
    whole = np.flatnonzero(dataset.view[rows] == dataset.views.index(WHOLE))
    whole = whole[np.lexsort((dataset.position[rows[whole]], dataset.record[rows[whole]]))]
    records = dataset.record[rows[whole]]
    return np.split(whole, np.flatnonzero(np.diff(records)) + 1)


def measure(
    out_of_fold: OutOfFold,
    annotations: Mapping[str, Annotations],
    *,
    duration_s: Mapping[str, float],
    databases: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, BeatCounts]]:
    """Compute the figures of the predictions, and the counts of each record.

    Parameters
    ----------
    out_of_fold : OutOfFold
    annotations : mapping of str to Annotations
        Of each record.
    duration_s : mapping of str to float
        Length of each record.
    databases : mapping of str to str, optional
        The database of each record, to have the figures of each beside those of all.

    """
    by_record = out_of_fold.score(annotations, duration_s=duration_s)
    dataset = out_of_fold.dataset
    subject_of = dict(zip(dataset.record_names, dataset.subjects, strict=True))
    subjects = by_subject(by_record, subject_of)
    gross = add_up(list(by_record.values()))
    interval = bootstrap_interval(list(subjects.values()), lambda counts: counts.v_f1)
    later = out_of_fold.score(annotations, duration_s=duration_s, start_s=LEARNING_PERIOD_S)
    strips = out_of_fold.score(annotations, duration_s=duration_s, view=STRIPS_10_S)
    network = out_of_fold.score(
        annotations,
        duration_s=duration_s,
        is_v=out_of_fold.probability_v >= out_of_fold.config.threshold,
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
        subject: asdict(counts) for subject, counts in by_subject(strips, subject_of).items()
    }
    metrics["rules"] = _rule_effects(out_of_fold)
    metrics["by_database"] = {
        database: _measure_database(database, databases or {}, by_record, strips, subject_of)
        for database in sorted(set((databases or {}).values()))
    }
    if len(metrics["by_database"]) > 1:
        for database, figures in metrics["by_database"].items():
            metrics |= {f"oof_{database}_{name}": value for name, value in figures.items()}
    return metrics, by_record


_BY_DATABASE = (
    "v_f1", "v_f1_strict", "v_sensitivity", "v_predictivity", "s_called_v", "qrs_sensitivity",
    "qrs_predictivity",
)  # fmt: skip


def _measure_database(
    database: str,
    databases: Mapping[str, str],
    by_record: Mapping[str, BeatCounts],
    strips: Mapping[str, BeatCounts],
    subject_of: Mapping[str, str],
) -> dict[str, float]:
    """Compute the figures of the records of one database; NaN where nothing defines one."""
    whole = {name: one for name, one in by_record.items() if databases.get(name) == database}
    gross = add_up(list(whole.values()))
    subjects = by_subject(whole, subject_of)
    interval = bootstrap_interval(list(subjects.values()), lambda counts: counts.v_f1)
    short = add_up([one for name, one in strips.items() if databases.get(name) == database])
    return {
        **{name: float(getattr(gross, name)) for name in _BY_DATABASE},
        "v_f1_low": interval.low,
        "v_f1_high": interval.high,
        "strips_10s_v_f1": short.v_f1,
    }


def count_whole_records(
    table: pa.Table,
    annotations: Mapping[str, Annotations],
    *,
    fs: Mapping[str, float],
    subjects: Mapping[str, str],
    is_v: NDArray[np.bool_] | None = None,
) -> dict[str, BeatCounts]:
    """Score the predictions of whole records that a bundle holds, by subject.

    Parameters
    ----------
    table : pyarrow.Table
        :meth:`OutOfFold.table`, as :meth:`ecg_lib.classifier.bundle.Bundle.read_out_of_fold`
        returns it.
    annotations : mapping of str to Annotations
        Of each record of the dataset; a record without a prediction counts as missed.
    fs : mapping of str to float
        Sampling rate of each record in Hz.
    subjects : mapping of str to str
        The person of each record.
    is_v : ndarray of bool, shape (n_predictions,), optional
        Other calls than those of the table.

    """
    columns = {
        name: table[name].to_numpy(zero_copy_only=False)
        for name in ("record", "view", "position", "is_v", "is_readable")
    }
    if is_v is not None:
        columns["is_v"] = is_v
    is_whole = columns["view"] == str(WHOLE)
    counts = {}
    for name, reference in annotations.items():
        mine = is_whole & (columns["record"] == name)
        counts[name] = score_beats(
            reference,
            detections=columns["position"][mine],
            is_v=columns["is_v"][mine],
            is_readable=columns["is_readable"][mine],
            fs=fs[name],
        )
    return by_subject(counts, subjects)


def _rule_effects(out_of_fold: OutOfFold) -> dict[str, dict[str, int]]:
    """Count how often each rule changed a class in whole records, and how often it was right."""
    scored = out_of_fold.is_scored
    truth = out_of_fold.dataset.label[out_of_fold.rows] == "V"
    effects = {}
    for rule in sorted(set(out_of_fold.rule.tolist()) - {""}):
        fired = scored & (out_of_fold.rule == rule)
        right = int((fired & (out_of_fold.is_v == truth)).sum())
        effects[rule] = {"fired": int(fired.sum()), "right": right}
    return effects
