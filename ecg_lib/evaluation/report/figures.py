"""Compute the figures of each condition, with intervals over subjects, with rules and without."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any, Final

import numpy as np

from ecg_lib.classifier.rule_guard import CATALOGUE, RuleGuardConfig
from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up, by_subject
from ecg_lib.evaluation.bootstrap import bootstrap_intervals, leave_one_out, paired_bootstrap
from ecg_lib.evaluation.report.record_scores import (
    NOISES,
    OWN,
    REFERENCE,
    SECOND_LEAD,
    SNRS_DB,
    STRIPS_S,
    RecordScores,
    noise_condition,
    strips_condition,
)
from ecg_lib.records.annotations import SHARED_SUBJECT

N_RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
FIGURES: Final[dict[str, Callable[[BeatCounts], float]]] = {
    name: attrgetter(name)
    for name in (
        "v_f1", "v_f1_strict", "v_sensitivity", "v_predictivity", "v_false_positive_rate",
        "accuracy", "accuracy_with_detection", "qrs_sensitivity", "qrs_predictivity",
    )
}  # fmt: skip
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


def summarize_conditions(scores: Mapping[str, RecordScores]) -> Document:
    """Compute the figures of all records in each condition, and without 201 or 202 beside."""
    shared = sorted(SHARED_SUBJECT & set(scores))
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

    Parameters
    ----------
    counts : mapping of str to BeatCounts
        By record.
    with_records : bool
        True to return the counts of each record too.

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


def summarize_rules(scores: Mapping[str, RecordScores]) -> Document:
    """Compare each condition with and without RuleGuard, and count what each rule did."""
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


def summarize_catalogue(
    scores: Mapping[str, RecordScores], config: RuleGuardConfig
) -> Document | None:
    """Compute the effect of each rule as the only one, in every condition.

    Returns
    -------
    dict or None
        By rule; None where the rules were not scored one by one.

    """
    catalogue: Document = {}
    for rule in CATALOGUE:
        conditions: Document = {}
        for name, _ in conditions_in_order():
            having = [score for score in scores.values() if rule.value in score.alone.get(name, {})]
            if not having:
                continue
            part = next(iter(having[0].counts[name]))
            alone = [score.alone[name][rule.value] for score in having]
            with_rule = add_up([one.counts for one in alone]).v_f1
            without = add_up([score.unguarded[name][part] for score in having]).v_f1
            conditions[name] = {
                "difference": number(with_rule - without),
                "fired": sum(one.fired for one in alone),
                "right": sum(one.right for one in alone),
            }
        if conditions:
            catalogue[rule.value] = {"in_force": rule in config.in_force, "conditions": conditions}
    return catalogue or None


def _three(counts: BeatCounts) -> Document:
    names = ("v_f1", "v_sensitivity", "v_predictivity")
    return {name: number(FIGURES[name](counts)) for name in names}


def number(value: float) -> float | None:
    """Round for JSON; null for what is not a number."""
    return round(value, 6) if math.isfinite(value) else None
