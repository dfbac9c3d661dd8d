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
    SIMULATED_NOISES,
    SNRS_DB,
    STRIPS_S,
    TWO_LEADS,
    RecordScores,
    noise_condition,
    strips_condition,
)
from ecg_lib.evaluation.report.scoring import Alarms
from ecg_lib.evaluation.selection import join_beats, trace_selection
from ecg_lib.records.annotations import SHARED_SUBJECT

N_RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
FIGURES: Final[dict[str, Callable[[BeatCounts], float]]] = {
    name: attrgetter(name)
    for name in (
        "v_f1", "v_f1_strict", "v_sensitivity", "v_predictivity", "v_false_positive_rate",
        "accuracy", "accuracy_with_detection", "qrs_sensitivity", "qrs_predictivity",
        "s_called_v", "unreadable_share",
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
        (TWO_LEADS, "two leads"),
        *(
            (noise_condition(noise, snr_db), f"noise {noise}, {snr_db} dB")
            for noise in (*NOISES, *SIMULATED_NOISES)
            for snr_db in SNRS_DB
        ),
    ]


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


LEAD: Final = "lead_"
"""Begins the names of the conditions of further leads, which records choose."""


def lead_condition(lead: str) -> str:
    """Name the condition of a further lead."""
    return f"{LEAD}{lead}"


def list_conditions(scores: Mapping[str, RecordScores]) -> list[tuple[str, str]]:
    """Name the conditions that records were scored in, with labels, in the order of the report."""
    scored = dict.fromkeys(name for score in scores.values() for name in score.counts)
    leads = [name for name in scored if name.startswith(LEAD)]
    return [
        *((name, label) for name, label in conditions_in_order() if name in scored),
        *((name, f"lead {name.removeprefix(LEAD)}") for name in leads),
    ]


def summarize_conditions(scores: Mapping[str, RecordScores]) -> Document:
    """Compute the figures of all records in each condition, and without 201 or 202 beside."""
    shared = sorted(SHARED_SUBJECT & set(scores))
    conditions: Document = {}
    people = {score.name: score.subject for score in scores.values()}
    for name, label in list_conditions(scores):
        having = [score for score in scores.values() if name in score.counts]
        parts = {
            part: {score.name: score.counts[name][part] for score in having}
            for part in having[0].counts[name]
        }
        conditions[name] = {
            "label": label,
            "parts": {
                part.value: {
                    **summarize_slice(counts, people),
                    "alarms": summarize_alarms(
                        counts, {score.name: score.alarms[name][part] for score in having}
                    ),
                }
                for part, counts in parts.items()
            },
            "without_shared_subject": {
                "records": shared,
                "parts": {
                    part.value: summarize_slice(
                        {record: c for record, c in counts.items() if record not in shared},
                        people,
                        with_records=False,
                    )
                    for part, counts in parts.items()
                },
            }
            if shared and name in {OWN, REFERENCE, strips_condition(STRIPS_S[0])}
            else None,
        }
    return conditions


def summarize_alarms(counts: Mapping[str, BeatCounts], alarms: Mapping[str, Alarms]) -> Document:
    """Compute how often V beats and runs of them are reported where there are none.

    Parameters
    ----------
    counts : mapping of str to BeatCounts
        By record.
    alarms : mapping of str to Alarms
        By record.

    """
    without_v = sorted(name for name, record in counts.items() if record.v_beats == 0)
    hours = sum(one.seconds for one in alarms.values()) / 3600
    hours_without_v = sum(alarms[name].seconds for name in without_v) / 3600
    false_runs = sum(one.false_runs for one in alarms.values())
    predictivity = {
        name: record.qrs_predictivity
        for name, record in counts.items()
        if math.isfinite(record.qrs_predictivity)
    }
    worst = min(predictivity, key=predictivity.__getitem__, default=None)
    return {
        "hours": number(hours),
        "records_without_v": without_v,
        "hours_without_v": number(hours_without_v),
        "false_v_an_hour": _per_hour(
            sum(counts[name].v_false for name in without_v), hours_without_v
        ),
        "false_runs": false_runs,
        "false_runs_an_hour": _per_hour(false_runs, hours),
        "false_runs_by_record": {
            name: one.false_runs for name, one in sorted(alarms.items()) if one.false_runs
        },
        "worst_qrs_predictivity": None
        if worst is None
        else {"record": worst, "value": number(predictivity[worst])},
    }


def _per_hour(count: int, hours: float) -> float | None:
    return number(count / hours) if hours > 0 else None


def summarize_selection(scores: Mapping[str, RecordScores]) -> Document:
    """Compute the figures against the share of detections that keep a class, by condition."""
    curves: Document = {}
    for name, label in list_conditions(scores):
        parts = [score.selection[name] for score in scores.values() if name in score.selection]
        curves[name] = {
            "label": label,
            "points": [
                {field: number(value) for field, value in point._asdict().items()}
                for point in trace_selection(join_beats(parts))
            ],
        }
    return curves


def summarize_slice(
    counts: Mapping[str, BeatCounts],
    subjects: Mapping[str, str] | None = None,
    *,
    with_records: bool = True,
) -> Document:
    """Compute the figures of some records in one condition and part.

    Parameters
    ----------
    counts : mapping of str to BeatCounts
        By record.
    subjects : mapping of str to str, optional
        The person of each record, where its name does not tell.
    with_records : bool
        True to return the counts of each record too.

    """
    people = by_subject(counts, subjects)
    intervals = bootstrap_intervals(
        list(people.values()), FIGURES, n_resamples=N_RESAMPLES, confidence=CONFIDENCE
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
        if len(people) > 1:
            left_out = leave_one_out(people, statistic)
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
    people = {score.name: score.subject for score in scores.values()}
    for name, label in list_conditions(scores):
        having = [score for score in scores.values() if name in score.counts]
        part = next(iter(having[0].counts[name]))
        guarded = by_subject({score.name: score.counts[name][part] for score in having}, people)
        plain = by_subject({score.name: score.unguarded[name][part] for score in having}, people)
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
