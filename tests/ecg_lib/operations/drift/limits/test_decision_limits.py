"""The limits of the decision, met exactly and missed by a hair."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ecg_lib.evaluation.bootstrap import Interval
from ecg_lib.operations.drift.comparison import ColumnDrift, Comparison
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftDecision,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
    decide_action,
)
from ecg_lib.operations.drift.group_shares import Polarity, compare_polarity
from ecg_lib.operations.drift.live_performance import LabelledPerformance
from ecg_lib.operations.drift.slices import SliceDrift

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUIET = Comparison(
    columns=(),
    n_strips=200,
    n_beats=2400,
    n_groups=200,
    n_reference_groups=22,
    left_out=(),
)


def check(hours_ago: float, *, is_breach: bool, polarity: Polarity | None = None) -> PastCheck:
    at = NOW - timedelta(hours=hours_ago)
    return PastCheck(
        created_at=at,
        bundle_hash="b",
        bento_tag="ecg:1",
        action=DriftAction.KEEP,
        is_conclusive=True,
        is_breach=is_breach,
        newest_at=at,
        polarity=polarity,
    )


def decide(
    evidence: DriftEvidence, *history: PastCheck, policy: DriftPolicy | None = None
) -> DriftDecision:
    return decide_action(
        evidence,
        history=history,
        bundle_hash="b",
        released_at=NOW - timedelta(days=10),
        now=NOW,
        policy=policy,
    )


def notes_turned(now: Polarity, before: Polarity, policy: DriftPolicy) -> bool:
    decision = decide(
        DriftEvidence(traffic=QUIET, polarity=now),
        check(1, is_breach=False, polarity=before),
        policy=policy,
    )
    return any("leads or electrodes may be reversed" in reason for reason in decision.reasons)


def test_the_drift_that_waits_is_that_of_the_latest_of_several_checks() -> None:
    decision = decide(
        DriftEvidence(traffic=replace(QUIET, n_strips=1)),
        check(1, is_breach=True),
        check(30, is_breach=True),
    )
    assert "the drift of 2026-03-01 11:00 is not confirmed yet" in decision.reasons[0]


def test_drift_that_went_away_does_not_wait() -> None:
    decision = decide(
        DriftEvidence(traffic=replace(QUIET, n_strips=1)),
        check(1, is_breach=False),
        check(30, is_breach=True),
    )
    assert "is not confirmed yet" not in decision.reasons[0]


@pytest.mark.parametrize(("n_now", "is_noted"), [(300, True), (299, False)])
def test_leads_are_turned_from_a_quarter_of_the_groups_on(n_now: int, *, is_noted: bool) -> None:
    now, before = Polarity(n_now, 400), Polarity(200, 400)
    assert notes_turned(now, before, DriftPolicy()) is is_noted
    assert notes_turned(before, now, DriftPolicy()) is is_noted


def test_leads_are_turned_up_to_the_level_and_not_above_it() -> None:
    now, before = Polarity(7, 8), Polarity(1, 8)
    p_value = compare_polarity(now, before)
    assert notes_turned(now, before, DriftPolicy(strong_alpha=p_value))
    assert not notes_turned(now, before, DriftPolicy(strong_alpha=p_value * 0.9999))


@pytest.mark.parametrize(
    ("p_value", "said"),
    [
        (0.02, "p 0.020"),
        (0.00051, "p 0.001"),
        (0.0005, "p 0.001"),
        (0.00049, "p < 0.001"),
        (0.00048, "p < 0.001"),
    ],
)
def test_a_p_value_that_rounds_to_nothing_is_said_to_be_below_a_thousandth(
    p_value: float, said: str
) -> None:
    drift = SliceDrift(
        dimension="lead",
        value="II",
        n_groups=7,
        n_strips=70,
        p_value=p_value,
        p_adjusted=p_value,
        column="qrs_width_ms",
        distance=0.5,
        is_drifted=True,
    )
    (alarm,) = decide(DriftEvidence(traffic=QUIET, slices=(drift,))).alarms
    assert f"({said} after correction for 1 slices" in alarm


@pytest.mark.parametrize(
    ("high", "action"),
    [(0.95 - 0.05, DriftAction.KEEP), (0.95 - 0.05 - 1e-9, DriftAction.ROLLBACK)],
)
def test_labels_at_the_accepted_drop_do_not_count_as_evidence(
    high: float, action: DriftAction
) -> None:
    labelled = LabelledPerformance(
        f1=Interval(0.85, 0.8, high),
        sensitivity=0.85,
        predictivity=0.85,
        expected_f1=0.95,
        n_strips=40,
        n_partly=0,
        n_beats=480,
        n_v=60,
        n_groups=40,
    )
    assert decide(DriftEvidence(traffic=QUIET, labelled=labelled)).action is action


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"p_adjusted": 0.05}, DriftAction.ROLLBACK),
        ({"p_adjusted": 0.0501}, DriftAction.KEEP),
        ({"distance": 0.10}, DriftAction.ROLLBACK),
        ({"distance": 0.0999}, DriftAction.KEEP),
    ],
)
def test_a_step_meets_its_limits_exactly(changes: dict[str, float], action: DriftAction) -> None:
    step = ColumnDrift(
        column="rule",
        distance=0.5,
        p_value=0.001,
        p_adjusted=0.001,
        is_drifted=True,
        reference="none 100.0%",
        current="none 50.0%",
    )
    release = replace(QUIET, columns=(replace(step, **changes),))
    assert decide(DriftEvidence(traffic=QUIET, release=release)).action is action
