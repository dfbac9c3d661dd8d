"""Decide from the traffic whether to keep, retrain or roll back the served model.

RETRAIN needs input that has moved and stays moved: several columns, or one that moved far. A gain
that changed is harmless, as the classes do not depend on it. ROLLBACK needs evidence against the
model: failing golden requests, reviewed strips with a lower score than the bundle promises, or an
output that stepped at a release while the input did not. Where the input was as promised for a
while under this release and has drifted since, low scores are an alarm and no ROLLBACK: an earlier
release has not seen this input either. The estimate without labels is shown but never decides.
Alarms ask somebody to look, and start nothing: traffic much of which is refused, one slice of it
that drifted, and leads, rates or devices that were not there before. This module reads no database
and no file; the comparison itself is in :mod:`ecg_lib.operations.drift.comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from math import isnan
from typing import Any, Final

from ecg_lib.evaluation.bootstrap import Interval
from ecg_lib.operations.drift.comparison import Comparison, ComparisonConfig
from ecg_lib.operations.drift.group_shares import Polarity, RefusedShare, compare_polarity
from ecg_lib.operations.drift.live_performance import EstimatedPerformance, LabelledPerformance
from ecg_lib.operations.drift.observation import (
    COMPARED_COLUMNS,
    DERIVED_COLUMNS,
    HARMLESS_COLUMNS,
    INPUT_COLUMNS,
)
from ecg_lib.operations.drift.slices import SliceDrift

STEP_COLUMNS: Final = ("arrhythmia_type", "rule")
"""Output columns whose step at a release is evidence against the model."""


class DriftAction(StrEnum):
    """Action on the served model."""

    KEEP = "KEEP"
    RETRAIN = "RETRAIN"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPolicy:
    """Limits of the drift decision.

    Raises
    ------
    ValueError
        If a share is not above 0 and at most 1, or a number is below its least value.

    """

    min_strips: int = 50
    min_beats: int = 500
    min_groups: int = 5
    """Least number of patients, or of clients that name none."""
    min_drifted_share: float = 0.2
    """Least share of all columns that have drifted, one of the input among them; harmless ones do
    not count."""
    strong_alpha: float = 0.02
    """Greatest adjusted p-value of a single input column that suffices."""
    strong_distance: float = 0.4
    """Least distance of such a column. Chosen on DS1: people drawn from the reference stay below it
    at this level, and an irregular rhythm of all of them is at 0.8."""
    max_refused_share: float = 0.25
    """Share of refused requests whose lower bound over groups is an alarm; of the reference 0.1 %
    would be refused."""
    min_refused: int = 10
    """Least number of refused requests for that alarm."""
    min_unfamiliar_share: float = 0.2
    """Share of the groups from which on a lead, rate or device that was not there before counts."""
    n_breaches: int = 2
    """Checks in a row that must find drift, each on traffic of its own."""
    cool_down_s: float = 24 * 3600.0
    """Seconds after an action in which it is not repeated."""
    min_labelled_beats: int = 200
    min_labelled_v: int = 20
    min_labelled_groups: int = 5
    min_labelled_share: float = 0.8
    """Least share of labelled beats for a strip to count."""
    max_f1_drop: float = 0.05
    """Largest accepted distance of the upper bound of the labelled V-F1 below the promised one."""
    min_turned_share: float = 0.25
    """Least change of the share of groups whose R-peaks point down, for a note; its p-value is at
    most `strong_alpha`. Chosen, not tuned."""
    min_output_step: float = 0.10
    """Least change of class mix or RuleGuard rate at a release (total variation)."""
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)

    def __post_init__(self) -> None:
        shares = ("min_drifted_share", "strong_alpha", "strong_distance", "max_refused_share",
                  "min_unfamiliar_share", "min_labelled_share", "min_output_step",
                  "min_turned_share")  # fmt: skip
        for name in shares:
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {name}={value!r}")
        counts = ("min_strips", "min_beats", "min_groups", "n_breaches", "min_labelled_beats",
                  "min_labelled_v", "min_labelled_groups")  # fmt: skip
        for name in counts:
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {name}={value!r}")
        for name in ("cool_down_s", "max_f1_drop"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {name}={value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCheck:
    """Result of an earlier check."""

    created_at: datetime
    bundle_hash: str
    bento_tag: str
    action: DriftAction
    is_conclusive: bool
    """True when there was enough traffic to compare."""
    is_breach: bool
    """True when the input had drifted."""
    newest_at: datetime | None
    """Time of the newest prediction in the check."""
    polarity: Polarity | None = None
    """None in a check of earlier code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftEvidence:
    """Measurements of one check."""

    traffic: Comparison
    """Traffic compared with the reference of the bundle."""
    release: Comparison | None = None
    """Traffic since the release compared with traffic before it."""
    labelled: LabelledPerformance | None = None
    estimate: EstimatedPerformance | None = None
    golden_failures: tuple[str, ...] = ()
    refused: RefusedShare | None = None
    slices: tuple[SliceDrift, ...] = ()
    unfamiliar: tuple[str, ...] = ()
    """Leads, rates and devices that were not there before."""
    polarity: Polarity | None = None
    """Groups whose R-peaks point down; None where the log does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftDecision:
    """An action with its reasons and figures."""

    action: DriftAction
    reasons: tuple[str, ...]
    is_conclusive: bool
    is_breach: bool
    figures: dict[str, Any]
    """Values that JSON can hold; None where a figure is not defined."""
    alarms: tuple[str, ...] = ()
    """Findings that somebody should look at, whatever the action."""


def confirm_after(
    history: Sequence[PastCheck], *, bundle_hash: str, released_at: datetime
) -> datetime | None:
    """Return the time from which on traffic can confirm an earlier finding.

    Finding drift twice in the same traffic is one finding: after a check with drift, only newer
    traffic counts.

    Parameters
    ----------
    history : sequence of PastCheck
        Latest first.
    bundle_hash : str
        Hash of the served bundle.
    released_at : datetime
        Time of its release.

    Returns
    -------
    datetime or None
        Nothing when the latest conclusive check found no drift.

    """
    past = _conclusive(history, bundle_hash=bundle_hash, released_at=released_at)
    return past[0].newest_at if past and past[0].is_breach else None


def decide_action(
    evidence: DriftEvidence,
    *,
    history: Sequence[PastCheck],
    bundle_hash: str,
    released_at: datetime,
    now: datetime,
    policy: DriftPolicy | None = None,
) -> DriftDecision:
    """Decide what to do with the served model.

    Parameters
    ----------
    evidence : DriftEvidence
        Measurements of this check.
    history : sequence of PastCheck
        Earlier checks, latest first.
    bundle_hash : str
        Hash of the served bundle.
    released_at : datetime
        Time of its release, or of the last change of its baseline if that is later. Earlier checks
        do not count.
    now : datetime
        Time of this check.
    policy : DriftPolicy, optional

    Returns
    -------
    DriftDecision

    """
    policy = policy or DriftPolicy()
    shortage = _shortage(evidence.traffic, policy)
    drifted = _harmful(evidence.traffic.drifted(COMPARED_COLUMNS))
    share = len(drifted) / len(COMPARED_COLUMNS)
    is_breach = not shortage and is_drift(evidence.traffic, policy)
    past = _conclusive(history, bundle_hash=bundle_hash, released_at=released_at)
    earlier = next((i for i, check in enumerate(past) if not check.is_breach), len(past))
    n_breaches = earlier + 1 if is_breach else 0

    # Drift that was found and waits for more traffic explains labels as well.
    is_drifting = is_breach or (bool(shortage) and bool(past) and past[0].is_breach)
    has_drifted_since = is_drifting and any(not check.is_breach for check in past)
    against_model, notes, warned = _weigh_model(evidence, policy, is_excused=has_drifted_since)
    alarms = (*warned, *_find_alarms(evidence, policy))
    if not shortage:
        notes += _find_turned(evidence.polarity, past, policy)
    drift_note = _describe_drift(drifted, shortage, n_breaches, evidence.traffic, policy)
    if shortage and past and past[0].is_breach:
        drift_note += f"; the drift of {past[0].created_at:%Y-%m-%d %H:%M} is not confirmed yet"
    if against_model:
        action, reasons = DriftAction.ROLLBACK, [*against_model, drift_note]
    elif n_breaches >= policy.n_breaches:
        action, reasons = DriftAction.RETRAIN, [drift_note]
    else:
        action, reasons = DriftAction.KEEP, [drift_note]
    cooling = _cooling_until(action, history, now=now, cool_down_s=policy.cool_down_s)
    if cooling is not None:
        reasons.insert(0, f"{action.value} is due but held until {cooling} (cool-down)")
        action = DriftAction.KEEP
    return DriftDecision(
        action=action,
        reasons=(*reasons, *alarms, *notes),
        alarms=alarms,
        is_conclusive=not shortage,
        is_breach=is_breach,
        figures={
            "drifted_share": share,
            "n_breaches": n_breaches,
            **{
                name: None if part is None else _as_dict(part)
                for name, part in (
                    ("traffic", evidence.traffic),
                    ("release", evidence.release),
                    ("labelled", evidence.labelled),
                    ("estimate", evidence.estimate),
                )
            },
            "golden_failures": list(evidence.golden_failures),
            "refused": None if evidence.refused is None else asdict(evidence.refused),
            "slices": [asdict(one) for one in evidence.slices],
            "unfamiliar": list(evidence.unfamiliar),
            "polarity": None if evidence.polarity is None else evidence.polarity._asdict(),
            "alarms": list(alarms),
        },
    )


def is_drift(traffic: Comparison, policy: DriftPolicy) -> bool:
    """Return whether the input has drifted so that the classes may be wrong."""
    drifted = _harmful(traffic.drifted(COMPARED_COLUMNS))
    has_input = any(name in INPUT_COLUMNS for name in drifted)
    is_wide = len(drifted) / len(COMPARED_COLUMNS) >= policy.min_drifted_share
    is_far = any(
        drift.column in _harmful(INPUT_COLUMNS)
        and drift.p_adjusted <= policy.strong_alpha
        and drift.distance >= policy.strong_distance
        for drift in traffic.columns
    )
    return (has_input and is_wide) or is_far


def _harmful(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in HARMLESS_COLUMNS)


def _find_alarms(evidence: DriftEvidence, policy: DriftPolicy) -> tuple[str, ...]:
    alarms = []
    refused = evidence.refused
    if (
        refused is not None
        and refused.n_requests >= policy.min_strips
        and refused.n_refused >= policy.min_refused
        and refused.low >= policy.max_refused_share
    ):
        alarms.append(
            f"{refused.share:.0%} of the signals were refused ({refused.low:.0%} to "
            f"{refused.high:.0%}, {refused.n_refused} of {refused.n_requests} requests of "
            f"{_count(refused.n_groups, 'group')}): look at electrodes and noise, as nothing that "
            "is refused is classified"
        )
    alarms += [
        f"{drift.dimension} {drift.value} drifted: {drift.column} by {drift.distance:.2f} "
        f"({_say_p(drift.p_adjusted)} after correction for {len(evidence.slices)} slices, "
        f"{_count(drift.n_groups, 'group')})"
        for drift in evidence.slices
        if drift.is_drifted
    ]
    if evidence.unfamiliar:
        alarms.append(
            f"not in the reference or the traffic before: {', '.join(evidence.unfamiliar)}; the "
            "promised figures were not measured on it, labels of it would tell"
        )
    return tuple(alarms)


def _find_turned(now: Polarity | None, past: Sequence[PastCheck], policy: DriftPolicy) -> list[str]:
    """Note that leads were turned since the first conclusive check of the release that is known.

    The first, as a window that slides over a change turns little by little.
    """
    known = [(check.created_at, check.polarity) for check in past if check.polarity is not None]
    if now is None or not known:
        return []
    first_at, first = known[-1]
    p_value = compare_polarity(now, first)
    if p_value > policy.strong_alpha or abs(now.share - first.share) < policy.min_turned_share:
        return []
    note = (
        f"harmless: the R-peaks of {now} groups point down, of {first} in the check of "
        f"{first_at:%Y-%m-%d %H:%M} ({_say_p(p_value)}): leads or electrodes may be reversed; the "
        "classes do not depend on the polarity"
    )
    return [note]


def _say_p(p_value: float) -> str:
    return f"p {p_value:.3f}" if p_value >= 0.0005 else "p < 0.001"


def _conclusive(
    history: Sequence[PastCheck], *, bundle_hash: str, released_at: datetime
) -> list[PastCheck]:
    return [
        check
        for check in history
        if check.is_conclusive
        and check.bundle_hash == bundle_hash
        and check.created_at >= released_at
    ]


def _shortage(traffic: Comparison, policy: DriftPolicy) -> str:
    """Describe which sample sizes are too small to compare; empty when none is."""
    needs = (
        ("strips", traffic.n_strips, policy.min_strips),
        ("beats", traffic.n_beats, policy.min_beats),
        ("patients or clients", traffic.n_groups, policy.min_groups),
    )
    return ", ".join(
        f"{found} {name}, {least} needed" for name, found, least in needs if found < least
    )


def _describe_drift(
    drifted: Sequence[str],
    shortage: str,
    n_breaches: int,
    traffic: Comparison,
    policy: DriftPolicy,
) -> str:
    if shortage:
        return f"too little traffic to compare: {shortage}"
    if not drifted:
        return f"{_count(traffic.n_strips, 'strip')} compared, no column drifted"
    named = ", ".join(
        f"{drift.column} by {drift.distance:.2f}"
        for drift in traffic.columns
        if drift.column in drifted
    )
    found = f"{len(drifted)} of {len(COMPARED_COLUMNS)} columns drifted ({named})"
    if not n_breaches:
        return (
            f"{found}; a breach needs a share of {policy.min_drifted_share:g} "
            "and at least one input column, or one of them that moved by "
            f"{policy.strong_distance:g}"
        )
    return f"{found}, in {_count(n_breaches, 'check')} in a row, {policy.n_breaches} needed"


def _weigh_model(
    evidence: DriftEvidence, policy: DriftPolicy, *, is_excused: bool
) -> tuple[list[str], list[str], list[str]]:
    """Return the evidence against the model, notes, and alarms.

    `is_excused` is True when the input was as promised under this release and has drifted since.
    """
    against: list[str] = []
    warned: list[str] = []
    notes = [f"not compared: {reason}" for reason in evidence.traffic.left_out]
    notes += [
        f"harmless: {drift.column} moved by {drift.distance:.2f} ({drift.reference} -> "
        f"{drift.current}); the classes do not depend on the gain"
        for drift in evidence.traffic.columns
        if drift.column in HARMLESS_COLUMNS and drift.is_drifted
    ]
    if evidence.golden_failures:
        against.append(
            f"{_count(len(evidence.golden_failures), 'golden request')} failed: "
            f"{evidence.golden_failures[0]}"
        )
    if evidence.labelled is not None:
        is_worse, finding = _judge_labels(evidence.labelled, policy)
        if is_worse and is_excused:
            warned.append(
                f"{finding}; the input has drifted under this release, so an earlier one would "
                "do no better on it: label more of it, and see whether a retraining helps"
            )
        else:
            (against if is_worse else notes).append(finding)
    if evidence.release is not None:
        is_step, finding = _judge_release(evidence.release, policy)
        (against if is_step else notes).append(finding)
    if evidence.estimate is not None:
        f1 = evidence.estimate.f1
        notes.append(
            f"V-F1 estimated without labels {f1.estimate:.2f} ({f1.low:.2f} to {f1.high:.2f}), "
            "refused signals counted as missed; it decides nothing"
        )
    return against, notes, warned


def _judge_labels(labelled: LabelledPerformance, policy: DriftPolicy) -> tuple[bool, str]:
    partly = (
        f"; not counted: {_count(labelled.n_partly, 'strip')} with labels on less than "
        f"{policy.min_labelled_share:.0%} of the beats"
        if labelled.n_partly
        else ""
    )
    needs = (
        ("beats", labelled.n_beats, policy.min_labelled_beats),
        ("V beats", labelled.n_v, policy.min_labelled_v),
        ("patients or clients", labelled.n_groups, policy.min_labelled_groups),
    )
    shortage = ", ".join(
        f"{found} {name}, {least} needed" for name, found, least in needs if found < least
    )
    if shortage:
        return False, f"too few reviewed strips: {shortage}{partly}"
    found = (
        f"V-F1 of {labelled.n_beats} reviewed beats is {labelled.f1.estimate:.3f} "
        f"({labelled.f1.low:.3f} to {labelled.f1.high:.3f})"
    )
    if labelled.expected_f1 is None:
        return False, f"{found}; the bundle states no expected V-F1 to compare it with{partly}"
    is_worse = labelled.f1.high < labelled.expected_f1 - policy.max_f1_drop
    return is_worse, f"{found}, promised {labelled.expected_f1:.3f}{partly}"


def _judge_release(release: Comparison, policy: DriftPolicy) -> tuple[bool, str]:
    shortage = _shortage(release, policy)
    if shortage or release.n_reference_groups < policy.min_groups:
        return False, (
            "too little traffic around the release to compare output: "
            f"{shortage or f'{release.n_reference_groups} patients or clients before it'}"
        )
    stepped = [
        f"{drift.column} by {drift.distance:.2f} ({drift.reference} -> {drift.current})"
        for drift in release.columns
        if drift.column in STEP_COLUMNS
        and drift.p_adjusted <= policy.comparison.alpha
        and drift.distance >= policy.min_output_step
    ]
    # No Holm correction: any sign that the input moved counts in favour of the model.
    moved = [
        drift.column
        for drift in release.columns
        if drift.column in INPUT_COLUMNS
        and drift.column not in DERIVED_COLUMNS  # computed with the classes, which stepped
        and drift.p_value <= policy.comparison.alpha
        and drift.distance >= policy.comparison.min_ks_distance
    ]
    if not stepped:
        return False, "output did not step at the release"
    if moved:
        return False, (
            f"output stepped at the release ({'; '.join(stepped)}), but so did the input: "
            f"{', '.join(moved)}"
        )
    return True, f"output stepped at the release while the input did not: {'; '.join(stepped)}"


def _cooling_until(
    action: DriftAction, history: Sequence[PastCheck], *, now: datetime, cool_down_s: float
) -> str | None:
    """Return the end of the cool-down of an action; retraining does not delay a rollback."""
    heating = {
        DriftAction.KEEP: (),
        DriftAction.RETRAIN: (DriftAction.RETRAIN, DriftAction.ROLLBACK),
        DriftAction.ROLLBACK: (DriftAction.ROLLBACK,),
    }[action]
    ends = [
        check.created_at + timedelta(seconds=cool_down_s)
        for check in history
        if check.action in heating
    ]
    if not ends or max(ends) <= now:
        return None
    return max(ends).isoformat(timespec="seconds")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _as_dict(part: Comparison | LabelledPerformance | EstimatedPerformance) -> dict[str, Any]:
    if isinstance(part, Comparison):
        return asdict(part)
    return {
        name: _without_nan(value._asdict()) if isinstance(value, Interval) else value
        for name, value in _without_nan(part._asdict()).items()
    }


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and isnan(value) else value
        for name, value in values.items()
    }
