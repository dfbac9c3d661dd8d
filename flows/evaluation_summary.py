"""From the counts of records to the figures of a report, as one JSON document.

The layout has a version, :data:`SCHEMA`, and is described in ``docs/evaluation.md``. Numbers that
are not defined (a share of nothing) are null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from ecg_lib.annotations import DS1, DS2, PACED, subject_of
from ecg_lib.bundle import Bundle
from ecg_lib.calibration import expected_calibration_error, reliability_bins
from ecg_lib.detection import MATCH_TOLERANCE_S
from ecg_lib.evaluation import CALLS, LEARNING_PERIOD_S, TRUTHS, BeatCounts, add_up, by_subject
from ecg_lib.noise import SEGMENT_S
from ecg_lib.peak_scoring import NARROW_TOLERANCE_S, PeakScores, add_up_peaks
from ecg_lib.resampling import bootstrap_intervals, leave_one_out, paired_bootstrap
from ecg_lib.run_scoring import RunFigure, add_up_runs
from flows.evaluation_calls import NOISE_SIGNAL
from flows.evaluation_errors import BeatError
from flows.evaluation_records import (
    NOISES,
    OWN,
    REFERENCE,
    SECOND_LEAD,
    SNRS_DB,
    STRIPS_S,
    Part,
    RecordScores,
    noise_condition,
    strips_condition,
)

SCHEMA: Final = "ecg-evaluation/1"

N_RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
N_BINS: Final = 15

FIGURES: Final[dict[str, Callable[[BeatCounts], float]]] = {
    "v_f1": lambda counts: counts.v_f1,
    "v_f1_strict": lambda counts: counts.v_f1_strict,
    "v_sensitivity": lambda counts: counts.v_sensitivity,
    "v_predictivity": lambda counts: counts.v_predictivity,
    "v_false_positive_rate": lambda counts: counts.v_false_positive_rate,
    "accuracy": lambda counts: counts.accuracy,
    "accuracy_with_detection": lambda counts: counts.accuracy_with_detection,
    "qrs_sensitivity": lambda counts: counts.qrs_sensitivity,
    "qrs_predictivity": lambda counts: counts.qrs_predictivity,
}
"""The figures of every slice, by name."""

Document = dict[str, Any]


def conditions_in_order() -> list[tuple[str, str]]:
    """Name every condition, with its label, in the order of the report."""
    return [
        (OWN, "own R-peaks"),
        (REFERENCE, "reference R-peaks"),
        *((strips_condition(s), f"strips of {_duration(s)}") for s in STRIPS_S),
        (SECOND_LEAD, "second lead"),
        *(
            (noise_condition(noise, snr_db), f"noise {noise}, {snr_db} dB")
            for noise in NOISES
            for snr_db in SNRS_DB
        ),
    ]


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


def summarize(
    scores: Sequence[RecordScores],
    *,
    bundle: Bundle,
    peaks: Mapping[str, PeakScores],
    header: Mapping[str, Any],
    missing: Sequence[str],
) -> Document:
    """Compute the document of an evaluation.

    Args:
        scores: Of every record.
        bundle: The classifier.
        peaks: R-peaks of records that were not classified, by record.
        header: What is known beside the figures, see :func:`flows.evaluation.evaluate`.
        missing: What was not measured, and why.
    """
    by_name = {score.name: score for score in scores}
    return {
        "schema": SCHEMA,
        **header,
        "bundle": _describe_bundle(bundle),
        "method": _describe_method(),
        "records": {name: _describe_record(score) for name, score in by_name.items()},
        "conditions": _summarize_conditions(by_name),
        "beat_table": _summarize_table(scores),
        "runs": _summarize_runs(scores),
        "r_peaks": _summarize_peaks(by_name, peaks),
        "reliability": _summarize_reliability(scores),
        "rule_guard": _summarize_rules(by_name),
        "seeds": _summarize_seeds(bundle.metrics),
        "errors": [
            _describe_error(error)
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
            name: value
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


def _summarize_conditions(scores: Mapping[str, RecordScores]) -> Document:
    shared = sorted({"201", "202"} & set(scores))
    conditions: Document = {}
    for name, label in conditions_in_order():
        having = [score for score in scores.values() if name in score.counts]
        if not having:
            continue
        parts = {
            part: {score.name: score.counts[name][part] for score in having}
            for part in having[0].counts[name]
        }
        conditions[name] = {
            "label": label,
            "parts": {part.value: summarize_slice(counts) for part, counts in parts.items()},
            "without_shared_subject": {
                "records": shared,
                "parts": {
                    part.value: summarize_slice(
                        {record: c for record, c in counts.items() if record not in shared},
                        with_records=False,
                    )
                    for part, counts in parts.items()
                },
            }
            if shared and name in {OWN, REFERENCE, strips_condition(STRIPS_S[0])}
            else None,
        }
    return conditions


def summarize_slice(counts: Mapping[str, BeatCounts], *, with_records: bool = True) -> Document:
    """Compute the figures of some records in one condition and part.

    Args:
        counts: By record.
        with_records: Give the counts of each record too.
    """
    subjects = by_subject(counts)
    intervals = bootstrap_intervals(
        list(subjects.values()), FIGURES, n_resamples=N_RESAMPLES, confidence=CONFIDENCE
    )
    figures: Document = {}
    for name, statistic in FIGURES.items():
        # One false V would make 0 of the F1 of a record without any V beat.
        needs_v = name.startswith("v_f1")
        of_records = np.array(
            [statistic(record) for record in counts.values() if record.v_beats or not needs_v]
        )
        known = of_records[np.isfinite(of_records)]
        figures[name] = {
            "gross": number(intervals[name].estimate),
            "low": number(intervals[name].low),
            "high": number(intervals[name].high),
            "average": number(float(known.mean())) if len(known) else None,
            "leave_one_out": None,
        }
        if len(subjects) > 1:
            left_out = leave_one_out(subjects, statistic)
            figures[name]["leave_one_out"] = {
                "low": number(left_out.low),
                "high": number(left_out.high),
                "low_without": left_out.low_without,
                "high_without": left_out.high_without,
            }
    gross = asdict(add_up(list(counts.values())))
    summary: Document = {"figures": figures, "counts": gross}
    if with_records:
        summary["by_record"] = {name: asdict(record) for name, record in counts.items()}
    return summary


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
            figures = _describe_peaks(add_up_peaks([every[name] for name in names]))
            listed[label] = {"records": sorted(names), **figures}
    return {
        "groups": listed,
        "by_record": {name: _describe_peaks(peaks) for name, peaks in sorted(every.items())},
    }


def _describe_peaks(peaks: PeakScores) -> Document:
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


def _summarize_rules(scores: Mapping[str, RecordScores]) -> Document:
    conditions: Document = {}
    for name, label in conditions_in_order():
        having = [score for score in scores.values() if name in score.counts]
        if not having:
            continue
        part = next(iter(having[0].counts[name]))
        guarded = by_subject({score.name: score.counts[name][part] for score in having})
        plain = by_subject({score.name: score.unguarded[name][part] for score in having})
        difference = paired_bootstrap(
            list(guarded.values()),
            [plain[subject] for subject in guarded],
            FIGURES["v_f1"],
            n_resamples=N_RESAMPLES,
            confidence=CONFIDENCE,
        )
        rules: dict[str, dict[str, int]] = {}
        for score in having:
            for rule, (fired, right) in score.rules[name].items():
                entry = rules.setdefault(rule, {"fired": 0, "right": 0})
                entry["fired"] += fired
                entry["right"] += right
        conditions[name] = {
            "label": label,
            "part": part.value,
            "with": _three(add_up(list(guarded.values()))),
            "without": _three(add_up(list(plain.values()))),
            "difference": {
                "v_f1": number(difference.estimate),
                "low": number(difference.low),
                "high": number(difference.high),
            },
            "rules": dict(sorted(rules.items())),
        }
    return conditions


def _three(counts: BeatCounts) -> Document:
    names = ("v_f1", "v_sensitivity", "v_predictivity")
    return {name: number(FIGURES[name](counts)) for name in names}


def _summarize_seeds(metrics: Mapping[str, Any]) -> Document | None:
    """Mean and spread over the seeds that the bundle's recipe was trained with, if several."""
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
        "subject": subject_of(error.record),
        "lead": error.lead,
        "time_s": round(error.time_s, 3),
        "truth": error.truth,
        "call": error.call,
        "probability_v": None if error.probability_v is None else number(error.probability_v),
        "rule": error.rule,
    }


def number(value: float) -> float | None:
    """Round for JSON; null for what is not a number."""
    return round(value, 6) if math.isfinite(value) else None
