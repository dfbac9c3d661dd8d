"""Compute the figures of a report from the counts of records, as one JSON document.

The layout has a version, :data:`SCHEMA`, and is described in ``docs/evaluation.md``. Numbers that
are not defined (a share of nothing) are null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.calibration import expected_calibration_error, reliability_bins
from ecg_lib.evaluation.beat_scoring import CALLS, TRUTHS
from ecg_lib.evaluation.peak_scoring import NARROW_TOLERANCE_S, PeakScores, add_up_peaks
from ecg_lib.evaluation.report.conditions import NOISE_SIGNAL
from ecg_lib.evaluation.report.figures import (
    CONFIDENCE,
    N_RESAMPLES,
    Document,
    number,
    summarize_catalogue,
    summarize_conditions,
    summarize_rules,
    summarize_selection,
)
from ecg_lib.evaluation.report.mistakes import BeatError
from ecg_lib.evaluation.report.record_scores import RecordScores
from ecg_lib.evaluation.report.scoring import Part
from ecg_lib.evaluation.run_scoring import RunFigure, add_up_runs
from ecg_lib.records.annotations import DS1, DS2, PACED
from ecg_lib.records.noise import LEARNING_PERIOD_S, SEGMENT_S
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S

SCHEMA: Final = "ecg-evaluation/1"

N_BINS: Final = 15


def summarize(
    scores: Sequence[RecordScores],
    *,
    bundle: Bundle,
    peaks: Mapping[str, PeakScores],
    header: Mapping[str, Any],
    missing: Sequence[str],
) -> Document:
    """Compute the document of an evaluation.

    Parameters
    ----------
    scores : sequence of RecordScores
        Of every record.
    bundle : Bundle
        The classifier.
    peaks : mapping of str to PeakScores
        R-peaks of records that were not classified, by record.
    header : mapping
        The entries beside the figures, see :func:`flows.evaluation.ec57_evaluation.evaluate`.
    missing : sequence of str
        The conditions that were not measured, with reasons.

    """
    by_name = {score.name: score for score in scores}
    return {
        "schema": SCHEMA,
        **header,
        "bundle": _describe_bundle(bundle),
        "method": _describe_method(),
        "records": {name: _describe_record(score) for name, score in by_name.items()},
        "conditions": summarize_conditions(by_name),
        "beat_table": _summarize_table(scores),
        "runs": _summarize_runs(scores),
        "r_peaks": _summarize_peaks(by_name, peaks),
        "reliability": _summarize_reliability(scores),
        "selection": summarize_selection(by_name),
        "databases": {},
        "r_peaks_by_lead": None,
        "rule_guard": summarize_rules(by_name),
        "rule_catalogue": summarize_catalogue(by_name, bundle.config.rule_guard),
        "seeds": _summarize_seeds(bundle.metrics),
        "errors": [
            {"subject": by_name[error.record].subject, **_describe_error(error)}
            for error in sorted(
                (error for score in scores for error in score.errors),
                key=lambda error: (error.record, error.time_s),
            )
        ],
        "missing": list(missing),
    }


def _describe_bundle(bundle: Bundle) -> Document:
    config = bundle.config
    return {
        "hash": bundle.hash,
        **asdict(bundle.provenance),
        "threshold": config.threshold,
        "calibration": asdict(config.calibration),
        "n_trials": bundle.metrics.get("n_trials"),
        "out_of_fold": {
            name: number(value)
            for name, value in bundle.metrics.items()
            if name.startswith("oof_") and isinstance(value, float)
        },
    }


def _describe_method() -> Document:
    return {
        "standard": "ANSI/AAMI EC57:2012, as WFDB's bxb and rxr",
        "match_tolerance_s": MATCH_TOLERANCE_S,
        "narrow_tolerance_s": NARROW_TOLERANCE_S,
        "learning_period_s": LEARNING_PERIOD_S,
        "bootstrap": {"over": "subjects", "resamples": N_RESAMPLES, "confidence": CONFIDENCE},
        "noise": {
            "definition": "WFDB's nst",
            "database": "MIT-BIH Noise Stress Test Database",
            "signal": NOISE_SIGNAL,
            "segment_s": SEGMENT_S,
        },
        "reliability_bins": N_BINS,
    }


def _describe_record(score: RecordScores) -> Document:
    return {
        "subject": score.subject,
        "lead": score.lead,
        "second_lead": score.second_lead,
        "duration_s": round(score.duration_s, 3),
        "unreadable_s": round(score.unreadable_s, 3),
        "annotated": score.annotated,
        "fold": score.fold,
    }


def _summarize_table(scores: Sequence[RecordScores]) -> Document:
    return {
        "rows": list(TRUTHS),
        "columns": list(CALLS),
        **{
            part.value: np.sum([score.table[part] for score in scores], axis=0).tolist()
            for part in (Part.WHOLE, Part.AFTER_5_MIN)
        },
    }


def _summarize_runs(scores: Sequence[RecordScores]) -> Document:
    runs = add_up_runs([score.runs for score in scores])

    def figure(found: RunFigure) -> Document:
        return {"true": found.true, "total": found.total, "share": number(found.share)}

    return {
        "part": Part.AFTER_5_MIN.value,
        "couplet": {
            "sensitivity": figure(runs.couplet_sensitivity),
            "predictivity": figure(runs.couplet_predictivity),
        },
        "short_run": {
            "sensitivity": figure(runs.short_run_sensitivity),
            "predictivity": figure(runs.short_run_predictivity),
        },
        "long_run": {
            "sensitivity": figure(runs.long_run_sensitivity),
            "predictivity": figure(runs.long_run_predictivity),
        },
        "of_reference": runs.of_reference.tolist(),
        "of_detected": runs.of_detected.tolist(),
    }


def _summarize_peaks(
    scores: Mapping[str, RecordScores], others: Mapping[str, PeakScores]
) -> Document:
    every = {**{name: score.peaks for name, score in scores.items()}, **others}
    groups = {
        "evaluated records": list(scores),
        "DS1 and paced": [name for name in every if name in DS1 + PACED],
        "DS2": [name for name in every if name in DS2],
        "paced": [name for name in every if name in PACED],
        "all": list(every),
    }
    listed: Document = {}
    for label, names in groups.items():
        if names and sorted(names) not in [sorted(group["records"]) for group in listed.values()]:
            figures = describe_peaks(add_up_peaks([every[name] for name in names]))
            listed[label] = {"records": sorted(names), **figures}
    return {
        "groups": listed,
        "by_record": {name: describe_peaks(peaks) for name, peaks in sorted(every.items())},
    }


def describe_peaks(peaks: PeakScores) -> Document:
    """Compute the figures of R-peaks."""
    counts = peaks.counts
    low, high = peaks.spread_ms
    return {
        "beats": counts.beats,
        "found": counts.found,
        "extra": counts.extra,
        "sensitivity": number(counts.qrs_sensitivity),
        "predictivity": number(counts.qrs_predictivity),
        "v_beats": counts.v_beats,
        "v_missed": peaks.v_missed,
        "median_offset_ms": number(peaks.median_offset_ms),
        "offset_ms_95": [number(low), number(high)],
        "f1_50_ms": number(peaks.narrow_f1),
        "in_flutter": counts.in_flutter,
    }


def _summarize_reliability(scores: Sequence[RecordScores]) -> Document:
    probability = np.concatenate([score.probability_v for score in scores])
    is_v = np.concatenate([score.is_v for score in scores])
    return {
        "beats": len(probability),
        "expected_calibration_error": number(
            expected_calibration_error(probability, is_v, n_bins=N_BINS)
        ),
        "brier": number(float(np.mean((probability - is_v) ** 2))) if len(is_v) else None,
        "bins": [
            {
                "low": number(one.low),
                "high": number(one.high),
                "beats": one.beats,
                "stated": number(one.stated),
                "observed": number(one.observed),
            }
            for one in reliability_bins(probability, is_v, n_bins=N_BINS)
        ],
    }


def _summarize_seeds(metrics: Mapping[str, Any]) -> Document | None:
    """Compute mean and spread over the seeds that the recipe was trained with, if several."""
    seeds = metrics.get("seeds")
    if not seeds:
        return None
    summary: Document = {"seeds": [int(one["seed"]) for one in seeds], "figures": {}}
    for name in sorted(set.intersection(*(set(one) for one in seeds)) - {"seed"}):
        values = np.array([float(one[name]) for one in seeds])
        summary["figures"][name] = {
            "values": [number(value) for value in values.tolist()],
            "mean": number(float(values.mean())),
            "standard_deviation": number(float(values.std(ddof=1))) if len(values) > 1 else None,
            "low": number(float(values.min())),
            "high": number(float(values.max())),
        }
    return summary


def _describe_error(error: BeatError) -> Document:
    return {
        "record": error.record,
        "lead": error.lead,
        "time_s": round(error.time_s, 3),
        "truth": error.truth,
        "call": error.call,
        "probability_v": None if error.probability_v is None else number(error.probability_v),
        "rule": error.rule,
    }
