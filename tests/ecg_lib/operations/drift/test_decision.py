"""The decision, from evidence made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ecg_lib.evaluation.bootstrap import Interval
from ecg_lib.operations.drift.comparison import ColumnDrift, Comparison
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftDecision,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
    confirm_after,
    decide_action,
)
from ecg_lib.operations.drift.live_performance import EstimatedPerformance, LabelledPerformance
from ecg_lib.operations.drift.observation import OBSERVED_COLUMNS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RELEASED = NOW - timedelta(days=10)
HOUR = timedelta(hours=1)


def compare(*drifted: str, distance: float = 0.5, **sizes: int) -> Comparison:
    """A comparison in which some columns drifted."""
    return replace(
        Comparison(
            columns=tuple(
                ColumnDrift(
                    column=name,
                    distance=distance if name in drifted else 0.02,
                    p_value=0.002 if name in drifted else 0.6,
                    p_adjusted=0.018 if name in drifted else 1.0,
                    is_drifted=name in drifted,
                    reference="before",
                    current="after",
                )
                for name in OBSERVED_COLUMNS
            ),
            n_strips=200,
            n_beats=2400,
            n_groups=200,
            n_reference_groups=22,
            left_out=(),
        ),
        **sizes,
    )


def past(ago: timedelta, **changes: Any) -> PastCheck:  # noqa: ANN401
    """An earlier check that found no drift."""
    check = PastCheck(
        created_at=NOW - ago,
        bundle_hash="b",
        bento_tag="ecg:1",
        action=DriftAction.KEEP,
        is_conclusive=True,
        is_breach=False,
        newest_at=NOW - ago - HOUR,
    )
    return replace(check, **changes)


def label(estimate: float, low: float, high: float, **changes: Any) -> LabelledPerformance:  # noqa: ANN401
    return LabelledPerformance(
        f1=Interval(estimate, low, high),
        sensitivity=estimate,
        predictivity=estimate,
        expected_f1=0.95,
        n_strips=40,
        n_partly=0,
        n_beats=480,
        n_v=60,
        n_groups=40,
    )._replace(**changes)


def decide(
    evidence: DriftEvidence, *history: PastCheck, policy: DriftPolicy | None = None
) -> DriftDecision:
    return decide_action(
        evidence, history=history, bundle_hash="b", released_at=RELEASED, now=NOW, policy=policy
    )


NOISE = ("qrs_width_ms", "template_correlation", "probability_v")
QUIET = DriftEvidence(traffic=compare())
NOISY = DriftEvidence(traffic=compare(*NOISE))


def test_traffic_like_the_reference_keeps_the_model() -> None:
    decision = decide(QUIET)
    assert decision.action is DriftAction.KEEP
    assert decision.reasons == ("200 strips are like the reference",)
    assert decision.is_conclusive


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"n_strips": 49}, "49 strips where 50 are needed"),
        ({"n_beats": 499}, "499 beats where 500 are needed"),
        ({"n_groups": 4}, "4 patients or single predictions where 5 are needed"),
    ],
)
def test_too_little_traffic_decides_nothing(sizes: dict[str, int], named: str) -> None:
    breach = past(HOUR, is_breach=True)
    decision = decide(DriftEvidence(traffic=compare(*NOISE, **sizes)), breach)
    assert decision.action is DriftAction.KEEP
    assert named in decision.reasons[0]
    assert "is not confirmed yet" in decision.reasons[0]
    assert not decision.is_conclusive
    assert not decision.is_breach


def test_drift_of_one_check_is_only_noted() -> None:
    decision = decide(NOISY)
    assert decision.action is DriftAction.KEEP
    assert decision.is_breach
    assert "in 1 checks in a row where 2 are needed" in decision.reasons[0]


def test_drift_that_persists_asks_for_retraining() -> None:
    decision = decide(NOISY, past(HOUR, is_breach=True))
    assert decision.action is DriftAction.RETRAIN
    assert "qrs_width_ms by 0.50" in decision.reasons[0]


def test_drift_that_went_away_starts_the_count_again() -> None:
    decision = decide(NOISY, past(HOUR), past(2 * HOUR, is_breach=True))
    assert decision.action is DriftAction.KEEP


def test_checks_with_too_little_traffic_do_not_break_the_count() -> None:
    silent = past(HOUR, is_conclusive=False, newest_at=None)
    decision = decide(NOISY, silent, past(2 * HOUR, is_breach=True))
    assert decision.action is DriftAction.RETRAIN


@pytest.mark.parametrize(
    "foreign", [{"bundle_hash": "other"}, {"created_at": RELEASED - HOUR}], ids=str
)
def test_checks_of_another_release_do_not_count(foreign: dict[str, Any]) -> None:
    decision = decide(NOISY, replace(past(HOUR, is_breach=True), **foreign))
    assert decision.action is DriftAction.KEEP


def test_one_drifted_column_is_no_drift() -> None:
    evidence = DriftEvidence(traffic=compare("amplitude_mv"))
    assert not decide(evidence, past(HOUR, is_breach=True)).is_breach


def test_output_alone_is_no_drift_of_the_input() -> None:
    evidence = DriftEvidence(traffic=compare("probability_v", "arrhythmia_type", "rule"))
    assert not decide(evidence, past(HOUR, is_breach=True)).is_breach


def test_retraining_cools_down() -> None:
    breach = past(HOUR, is_breach=True)
    decision = decide(NOISY, breach, past(23 * HOUR, action=DriftAction.RETRAIN, is_breach=True))
    assert decision.action is DriftAction.KEEP
    assert decision.reasons[0] == (
        "RETRAIN would be due, but it cools down until 2026-03-01T13:00:00+00:00"
    )
    later = past(25 * HOUR, action=DriftAction.RETRAIN, is_breach=True)
    assert decide(NOISY, breach, later).action is DriftAction.RETRAIN


def test_failing_golden_requests_ask_for_rollback() -> None:
    evidence = replace(QUIET, golden_failures=("run 11: probability_v differs by 0.2",))
    decision = decide(evidence)
    assert decision.action is DriftAction.ROLLBACK
    assert "run 11" in decision.reasons[0]


def test_rollback_waits_for_no_retraining_but_for_a_rollback() -> None:
    evidence = replace(QUIET, golden_failures=("run 11: differs",))
    assert decide(evidence, past(HOUR, action=DriftAction.RETRAIN)).action is DriftAction.ROLLBACK
    assert decide(evidence, past(HOUR, action=DriftAction.ROLLBACK)).action is DriftAction.KEEP


def test_reviewed_strips_worse_than_promised_ask_for_rollback() -> None:
    decision = decide(replace(QUIET, labelled=label(0.70, 0.62, 0.78)))
    assert decision.action is DriftAction.ROLLBACK
    assert "0.700 (0.620 to 0.780), promised 0.950" in decision.reasons[0]


@pytest.mark.parametrize(
    "labelled",
    [
        label(0.88, 0.80, 0.93),
        label(0.70, 0.62, 0.78, n_beats=199),
        label(0.70, 0.62, 0.78, n_v=19),
        label(0.70, 0.62, 0.78, n_groups=4),
        label(0.70, 0.62, 0.78, expected_f1=None),
    ],
    ids=["may be chance", "few beats", "few V", "few patients", "nothing promised"],
)
def test_doubtful_labels_are_no_evidence(labelled: LabelledPerformance) -> None:
    decision = decide(replace(QUIET, labelled=labelled))
    assert decision.action is DriftAction.KEEP
    assert len(decision.reasons) == 2


def test_the_estimate_alone_decides_nothing() -> None:
    low = EstimatedPerformance(f1=0.1, sensitivity=0.1, predictivity=0.1)
    decision = decide(replace(QUIET, estimate=low))
    assert decision.action is DriftAction.KEEP
    assert "decides nothing" in decision.reasons[-1]


@pytest.mark.parametrize("column", ["arrhythmia_type", "rule"])
def test_a_step_in_output_at_the_release_asks_for_rollback(column: str) -> None:
    decision = decide(replace(QUIET, release=compare(column, distance=0.2)))
    assert decision.action is DriftAction.ROLLBACK
    assert f"{column} by 0.20 (before -> after)" in decision.reasons[0]


@pytest.mark.parametrize(
    "release",
    [
        compare("arrhythmia_type", distance=0.08),
        compare("arrhythmia_type", "template_correlation", distance=0.2),
        compare("arrhythmia_type", distance=0.2, n_strips=20),
        compare("arrhythmia_type", distance=0.2, n_reference_groups=2),
        compare("probability_v", distance=0.2),
    ],
    ids=["small", "input moved too", "few after", "few before", "not the class"],
)
def test_other_changes_at_the_release_are_no_evidence(release: Comparison) -> None:
    assert decide(replace(QUIET, release=release)).action is DriftAction.KEEP


def test_rollback_goes_before_retraining() -> None:
    evidence = replace(NOISY, golden_failures=("run 11: differs",))
    assert decide(evidence, past(HOUR, is_breach=True)).action is DriftAction.ROLLBACK


def test_what_was_not_compared_is_said() -> None:
    evidence = DriftEvidence(traffic=replace(compare(), left_out=("3 strips of 60 s",)))
    assert "not compared: 3 strips of 60 s" in decide(evidence).reasons


def test_figures_can_be_stored_as_strict_json() -> None:
    nan = float("nan")
    evidence = DriftEvidence(
        traffic=compare(),
        release=compare(),
        labelled=label(nan, nan, nan, predictivity=nan),
        estimate=EstimatedPerformance(nan, nan, nan),
    )
    figures = json.loads(json.dumps(decide(evidence).figures, allow_nan=False))
    assert figures["labelled"]["f1"] == {"estimate": None, "low": None, "high": None}
    assert figures["traffic"]["columns"][0]["column"] == "rr_prev_s"


def test_after_drift_only_newer_traffic_is_looked_at() -> None:
    found = past(HOUR, is_breach=True)
    silent = past(HOUR / 2, is_conclusive=False, newest_at=None)
    assert confirm_after([silent, found], bundle_hash="b", released_at=RELEASED) == found.newest_at
    assert confirm_after([past(HOUR)], bundle_hash="b", released_at=RELEASED) is None
    assert confirm_after([found], bundle_hash="other", released_at=RELEASED) is None


@pytest.mark.parametrize(
    "wrong",
    [{"min_drifted_share": 0.0}, {"n_breaches": 0}, {"cool_down_s": -1.0}, {"min_strips": 0}],
    ids=str,
)
def test_limits_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DriftPolicy(**wrong)
