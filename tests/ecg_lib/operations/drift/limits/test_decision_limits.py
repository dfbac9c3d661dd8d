"""The limits of the decision, on both sides and by value."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ecg_lib.evaluation.bootstrap import Interval
from ecg_lib.operations.drift.comparison import ColumnDrift, ComparisonConfig
from ecg_lib.operations.drift.decision import DriftAction, DriftEvidence, DriftPolicy, confirm_after
from ecg_lib.operations.drift.group_shares import Polarity, compare_polarity
from ecg_lib.operations.drift.live_performance import EstimatedPerformance
from ecg_lib.operations.drift.slices import SliceDrift
from tests.ecg_lib.operations.drift.evidence import (
    HOUR,
    NOISE,
    NOISY,
    QUIET,
    RELEASED,
    compare,
    decide,
    label,
    past,
)

SHARES = (
    "min_drifted_share", "strong_alpha", "strong_distance", "max_refused_share",
    "min_unfamiliar_share", "min_labelled_share", "min_output_step",
    "min_turned_share",
)  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"min_drifted_share": 0.0}, {"n_breaches": 0}, {"cool_down_s": -1.0}, {"min_strips": 0}],
    ids=str,
)
def test_limits_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DriftPolicy(**wrong)


def test_the_usual_limits_are_those_of_the_documentation() -> None:
    assert DriftPolicy() == DriftPolicy(
        min_strips=50,
        min_beats=500,
        min_groups=5,
        min_drifted_share=0.2,
        strong_alpha=0.02,
        strong_distance=0.4,
        max_refused_share=0.25,
        min_unfamiliar_share=0.2,
        n_breaches=2,
        cool_down_s=86_400.0,
        min_labelled_beats=200,
        min_labelled_v=20,
        min_labelled_groups=5,
        min_labelled_share=0.8,
        max_f1_drop=0.05,
        min_turned_share=0.25,
        min_output_step=0.10,
        comparison=ComparisonConfig(),
    )


@pytest.mark.parametrize(
    ("name", "lowest", "too_low"),
    [
        *(
            (name, 1, 0)
            for name in (
                "min_strips", "min_beats", "min_groups", "n_breaches",
                "min_labelled_beats", "min_labelled_v", "min_labelled_groups",
            )
        ),
        *((name, 0.0, -0.001) for name in ("cool_down_s", "max_f1_drop")),
        *(
            (name, 0.001, 0.0)
            for name in SHARES
        ),
    ],
)  # fmt: skip
def test_each_limit_has_a_least_value(name: str, lowest: float, too_low: float) -> None:
    assert getattr(DriftPolicy(**{name: lowest}), name) == lowest
    with pytest.raises(ValueError, match=f"{name} must .*got {name}={too_low}"):
        DriftPolicy(**{name: too_low})
    with pytest.raises(ValueError, match=name):
        DriftPolicy(**{name: -1})


@pytest.mark.parametrize("name", SHARES)
def test_a_share_is_at_most_one(name: str) -> None:
    assert getattr(DriftPolicy(**{name: 1}), name) == 1
    with pytest.raises(ValueError, match=f"{name} must be above 0 and at most 1"):
        DriftPolicy(**{name: 1.001})


def test_not_a_number_is_rejected_as_a_limit() -> None:
    for name in ("cool_down_s", "max_f1_drop", "min_output_step"):
        with pytest.raises(ValueError, match=name):
            DriftPolicy(**{name: float("nan")})


def test_as_much_traffic_as_is_needed_is_enough() -> None:
    evidence = DriftEvidence(traffic=compare(*NOISE, n_strips=50, n_beats=500, n_groups=5))
    decision = decide(evidence)
    assert decision.is_conclusive
    assert decision.is_breach


def test_all_that_is_too_little_is_named() -> None:
    decision = decide(DriftEvidence(traffic=compare(n_strips=1, n_beats=2, n_groups=3)))
    assert decision.reasons == (
        (
            "too little traffic to compare: 1 strips, 50 needed, 2 beats, 500 needed, "
            "3 patients or clients, 5 needed"
        ),
    )


def test_the_time_of_the_unconfirmed_drift_is_given() -> None:
    short = DriftEvidence(traffic=compare(n_strips=1))
    decision = decide(short, past(HOUR, is_breach=True), past(2 * HOUR, is_breach=True))
    assert "; the drift of 2026-03-01 11:00 is not confirmed yet" in decision.reasons[0]
    for history in ((past(HOUR),), ()):
        assert "confirmed" not in decide(short, *history).reasons[0]
    assert "confirmed" not in decide(QUIET, past(HOUR, is_breach=True)).reasons[0]


@pytest.mark.parametrize(("min_share", "is_breach"), [(0.2, True), (0.201, False)])
def test_the_share_of_drifted_columns_decides(min_share: float, *, is_breach: bool) -> None:
    evidence = DriftEvidence(traffic=compare("readable_share", "rule", distance=0.3))
    decision = decide(evidence, policy=DriftPolicy(min_drifted_share=min_share))
    assert decision.is_breach is is_breach
    assert decision.figures["drifted_share"] == 2 / 10
    assert decision.figures["n_breaches"] == int(is_breach)
    named = "2 of 10 columns drifted (readable_share by 0.30, rule by 0.30)"
    end = (
        ", in 1 check in a row, 2 needed"
        if is_breach
        else "; a breach needs a share of 0.201 and at least one input column, or one of them that "
        "moved by 0.4"
    )
    assert decision.reasons == (named + end,)


@pytest.mark.parametrize("n_breaches", [1, 2, 3])
def test_as_many_checks_in_a_row_as_asked_for_ask_for_retraining(n_breaches: int) -> None:
    policy = DriftPolicy(n_breaches=n_breaches)
    before = [past(at * HOUR, is_breach=True) for at in range(1, n_breaches)]
    decision = decide(NOISY, *before, policy=policy)
    assert decision.action is DriftAction.RETRAIN
    assert decision.figures["n_breaches"] == n_breaches
    if before:
        assert decide(NOISY, *before[1:], policy=policy).action is DriftAction.KEEP


def test_a_check_at_the_time_of_the_release_counts() -> None:
    at_release = replace(past(HOUR, is_breach=True), created_at=RELEASED)
    assert decide(NOISY, at_release).action is DriftAction.RETRAIN


def test_the_latest_check_decides_what_traffic_must_be_new() -> None:
    latest, older = past(HOUR, is_breach=True), past(3 * HOUR, is_breach=True)
    found = confirm_after([latest, older], bundle_hash="b", released_at=RELEASED)
    assert found == latest.newest_at
    assert found != older.newest_at
    calm_now = confirm_after([past(HOUR), older], bundle_hash="b", released_at=RELEASED)
    assert calm_now is None
    assert confirm_after([], bundle_hash="b", released_at=RELEASED) is None


def test_the_cool_down_ends_after_a_day_to_the_second() -> None:
    evidence = replace(QUIET, golden_failures=("run 11: differs",))
    day = timedelta(days=1)
    rollback = past(day, action=DriftAction.ROLLBACK)
    assert decide(evidence, rollback).action is DriftAction.ROLLBACK
    later = past(day - timedelta(seconds=1), action=DriftAction.ROLLBACK)
    decision = decide(evidence, later)
    assert decision.action is DriftAction.KEEP
    assert decision.reasons[:2] == (
        "ROLLBACK is due but held until 2026-03-01T12:00:01+00:00 (cool-down)",
        "1 golden request failed: run 11: differs",
    )


def test_the_latest_of_two_retrainings_cools_down() -> None:
    history = [past(hours * HOUR, action=DriftAction.RETRAIN, is_breach=True) for hours in (30, 3)]
    decision = decide(NOISY, *history)
    assert decision.reasons[0].endswith("held until 2026-03-02T09:00:00+00:00 (cool-down)")


def test_a_rollback_cools_a_retraining_down_and_keeping_cools_nothing() -> None:
    breach = past(HOUR, is_breach=True)
    after_rollback = past(2 * HOUR, is_breach=True, action=DriftAction.ROLLBACK)
    assert decide(NOISY, breach, after_rollback).action is DriftAction.KEEP
    assert decide(NOISY, breach, past(2 * HOUR)).action is DriftAction.RETRAIN
    assert decide(QUIET, breach, after_rollback).reasons == (
        "200 strips compared, no column drifted",
    )


@pytest.mark.parametrize(("high", "is_worse"), [(0.8999, True), (0.9001, False)])
def test_labels_are_evidence_when_their_upper_bound_is_too_far_below_the_promise(
    high: float, *, is_worse: bool
) -> None:
    decision = decide(replace(QUIET, labelled=label(0.70, 0.62, high)))
    assert (decision.action is DriftAction.ROLLBACK) is is_worse
    finding = decision.reasons[0 if is_worse else 1]
    assert finding == f"V-F1 of 480 reviewed beats is 0.700 (0.620 to {high:.3f}), promised 0.950"


def test_as_many_labels_as_are_needed_are_enough() -> None:
    least = label(0.70, 0.62, 0.78, n_beats=200, n_v=20, n_groups=5)
    assert decide(replace(QUIET, labelled=least)).action is DriftAction.ROLLBACK
    few = label(0.70, 0.62, 0.78, n_beats=199, n_v=19, n_groups=4, n_partly=3)
    assert decide(replace(QUIET, labelled=few)).reasons[1] == (
        "too few reviewed strips: 199 beats, 200 needed, 19 V beats, 20 needed, "
        "4 patients or clients, 5 needed; not counted: 3 strips with labels on less "
        "than 80% of the beats"
    )


@pytest.mark.parametrize(
    ("changes", "is_step"),
    [
        ({"distance": 0.10}, True),
        ({"distance": 0.099}, False),
        ({"distance": 0.2, "p_adjusted": 0.05}, True),
        ({"distance": 0.2, "p_adjusted": 0.051}, False),
    ],
)
def test_a_step_is_large_and_no_chance(changes: dict[str, float], *, is_step: bool) -> None:
    release = compare()
    columns = tuple(
        replace(drift, **{"p_adjusted": 0.01, **changes}) if drift.column == "rule" else drift
        for drift in release.columns
    )
    decision = decide(replace(QUIET, release=replace(release, columns=columns)))
    assert (decision.action is DriftAction.ROLLBACK) is is_step
    if not is_step:
        assert decision.reasons[1] == "output did not step at the release"


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"distance": 0.15, "p_value": 0.05}, True),
        ({"distance": 0.149, "p_value": 0.05}, False),
        ({"distance": 0.15, "p_value": 0.051}, False),
    ],
)
def test_input_that_moved_with_the_output_excuses_the_model(
    changes: dict[str, float], *, moved: bool
) -> None:
    release = compare("rule", distance=0.2)
    columns = tuple(
        replace(drift, p_adjusted=1.0, **changes) if drift.column == "amplitude_mv" else drift
        for drift in release.columns
    )
    decision = decide(replace(QUIET, release=replace(release, columns=columns)))
    assert (decision.action is DriftAction.KEEP) is moved
    if moved:
        assert decision.reasons[1] == (
            "output stepped at the release (rule by 0.20 (before -> after)), but so did the "
            "input: amplitude_mv"
        )


def test_little_traffic_on_either_side_of_a_release_does_not_count_as_evidence() -> None:
    few_before = compare("rule", distance=0.2, n_reference_groups=4)
    assert decide(replace(QUIET, release=few_before)).reasons[1] == (
        "too little traffic around the release to compare output: 4 patients or clients before it"
    )
    few_after = compare("rule", distance=0.2, n_strips=49)
    assert decide(replace(QUIET, release=few_after)).reasons[1] == (
        "too little traffic around the release to compare output: 49 strips, 50 needed"
    )
    enough = compare("rule", distance=0.2, n_reference_groups=5)
    assert decide(replace(QUIET, release=enough)).action is DriftAction.ROLLBACK


def test_the_figures_hold_what_was_found() -> None:
    estimate = EstimatedPerformance(Interval(0.9, 0.8, 0.95), 0.25)
    evidence = replace(
        NOISY, labelled=label(0.9, 0.8, 0.95), estimate=estimate, golden_failures=("a", "b")
    )
    decision = decide(evidence)
    assert decision.figures["golden_failures"] == ["a", "b"]
    assert decision.figures["labelled"]["f1"] == {"estimate": 0.9, "low": 0.8, "high": 0.95}
    assert decision.figures["estimate"] == {
        "f1": {"estimate": 0.9, "low": 0.8, "high": 0.95},
        "distance": 0.25,
    }
    assert decision.figures["release"] is None
    assert decision.figures["traffic"]["n_strips"] == 200
    assert decision.reasons[0] == "2 golden requests failed: a"
    assert decision.reasons[-1].startswith("V-F1 estimated without labels 0.90 (0.80 to 0.95)")


def notes_turned(now: Polarity, before: Polarity, policy: DriftPolicy) -> bool:
    decision = decide(
        replace(QUIET, polarity=now),
        past(HOUR, is_breach=False, polarity=before),
        policy=policy,
    )
    return any("leads or electrodes may be reversed" in reason for reason in decision.reasons)


def test_the_drift_that_waits_is_that_of_the_latest_of_several_checks() -> None:
    decision = decide(
        replace(QUIET, traffic=compare(n_strips=1)),
        past(HOUR, is_breach=True),
        past(30 * HOUR, is_breach=True),
    )
    assert "the drift of 2026-03-01 11:00 is not confirmed yet" in decision.reasons[0]


def test_drift_that_went_away_does_not_wait() -> None:
    decision = decide(
        replace(QUIET, traffic=compare(n_strips=1)),
        past(HOUR, is_breach=False),
        past(30 * HOUR, is_breach=True),
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
    (alarm,) = decide(replace(QUIET, slices=(drift,))).alarms
    assert f"({said} after correction for 1 slices" in alarm


@pytest.mark.parametrize(
    ("high", "action"),
    [(0.95 - 0.05, DriftAction.KEEP), (0.95 - 0.05 - 1e-9, DriftAction.ROLLBACK)],
)
def test_labels_at_the_accepted_drop_do_not_count_as_evidence(
    high: float, action: DriftAction
) -> None:
    labelled = label(0.85, 0.8, high)
    assert decide(replace(QUIET, labelled=labelled)).action is action


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
    release = replace(compare(), columns=(replace(step, **changes),))
    assert decide(replace(QUIET, release=release)).action is action
