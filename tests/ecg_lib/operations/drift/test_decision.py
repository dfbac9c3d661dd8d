"""The decision, from evidence made by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ecg_lib.evaluation.bootstrap import Interval
from ecg_lib.operations.drift.comparison import Comparison
from ecg_lib.operations.drift.decision import DriftAction, DriftEvidence, confirm_after
from ecg_lib.operations.drift.group_shares import Polarity, RefusedShare
from ecg_lib.operations.drift.live_performance import EstimatedPerformance, LabelledPerformance
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


def test_traffic_like_the_reference_keeps_the_model() -> None:
    decision = decide(QUIET)
    assert decision.action is DriftAction.KEEP
    assert decision.reasons == ("200 strips compared, no column drifted",)
    assert decision.is_conclusive


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"n_strips": 49}, "49 strips, 50 needed"),
        ({"n_beats": 499}, "499 beats, 500 needed"),
        ({"n_groups": 4}, "4 patients or clients, 5 needed"),
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
    assert "in 1 check in a row, 2 needed" in decision.reasons[0]


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


def test_one_drifted_column_does_not_count_as_drift() -> None:
    evidence = DriftEvidence(traffic=compare("amplitude_mv"))
    assert not decide(evidence, past(HOUR, is_breach=True)).is_breach


def test_output_alone_does_not_count_as_drift_of_the_input() -> None:
    evidence = DriftEvidence(traffic=compare("probability_v", "arrhythmia_type", "rule"))
    assert not decide(evidence, past(HOUR, is_breach=True)).is_breach


def test_retraining_cools_down() -> None:
    breach = past(HOUR, is_breach=True)
    decision = decide(NOISY, breach, past(23 * HOUR, action=DriftAction.RETRAIN, is_breach=True))
    assert decision.action is DriftAction.KEEP
    assert decision.reasons[0] == (
        "RETRAIN is due but held until 2026-03-01T13:00:00+00:00 (cool-down)"
    )
    later = past(25 * HOUR, action=DriftAction.RETRAIN, is_breach=True)
    assert decide(NOISY, breach, later).action is DriftAction.RETRAIN


def test_failing_golden_requests_ask_for_rollback() -> None:
    evidence = replace(QUIET, golden_failures=("run 11: probability_v differs by 0.2",))
    decision = decide(evidence)
    assert decision.action is DriftAction.ROLLBACK
    assert "run 11" in decision.reasons[0]


def test_rollback_waits_for_a_rollback_and_not_for_a_retraining() -> None:
    evidence = replace(QUIET, golden_failures=("run 11: differs",))
    assert decide(evidence, past(HOUR, action=DriftAction.RETRAIN)).action is DriftAction.ROLLBACK
    assert decide(evidence, past(HOUR, action=DriftAction.ROLLBACK)).action is DriftAction.KEEP


def test_reviewed_strips_worse_than_promised_ask_for_rollback() -> None:
    decision = decide(replace(QUIET, labelled=label(0.70, 0.62, 0.78)))
    assert decision.action is DriftAction.ROLLBACK
    assert "0.700 (0.620 to 0.780), promised 0.950" in decision.reasons[0]


def test_labels_of_input_that_drifted_under_the_release_are_an_alarm_and_no_rollback() -> None:
    evidence = replace(NOISY, labelled=label(0.70, 0.62, 0.78))
    good = past(5 * HOUR)
    first = decide(evidence, good)
    assert (first.action, first.is_breach) == (DriftAction.KEEP, True)
    second = decide(evidence, past(HOUR, is_breach=True), good)
    assert second.action is DriftAction.RETRAIN
    for decision in (first, second):
        assert "promised 0.950; the input has drifted under this release" in decision.alarms[0]


def test_labels_ask_for_rollback_where_the_input_was_never_as_promised_under_the_release() -> None:
    evidence = replace(NOISY, labelled=label(0.70, 0.62, 0.78))
    assert decide(evidence).action is DriftAction.ROLLBACK
    assert decide(evidence, past(HOUR, is_breach=True)).action is DriftAction.ROLLBACK


def test_low_scores_stay_an_alarm_while_a_retraining_is_held() -> None:
    evidence = replace(NOISY, labelled=label(0.10, 0.05, 0.15))
    retrained = past(HOUR, is_breach=True, action=DriftAction.RETRAIN)
    held = decide(evidence, retrained, past(2 * HOUR, is_breach=True), past(5 * HOUR))
    assert held.action is DriftAction.KEEP
    assert "cool-down" in held.reasons[0]
    assert "0.100 (0.050 to 0.150)" in held.alarms[0]


def test_labels_do_not_ask_for_rollback_while_drift_waits_to_be_confirmed() -> None:
    evidence = DriftEvidence(traffic=compare(n_strips=49), labelled=label(0.70, 0.62, 0.78))
    waiting = decide(evidence, past(HOUR, is_breach=True), past(5 * HOUR))
    assert waiting.action is DriftAction.KEEP
    assert waiting.alarms
    assert decide(evidence, past(HOUR)).action is DriftAction.ROLLBACK


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
def test_doubtful_labels_do_not_count_as_evidence(labelled: LabelledPerformance) -> None:
    decision = decide(replace(QUIET, labelled=labelled))
    assert decision.action is DriftAction.KEEP
    assert len(decision.reasons) == 2


def test_the_estimate_alone_decides_nothing() -> None:
    low = EstimatedPerformance(f1=Interval(0.1, 0.05, 0.2), distance=0.0)
    decision = decide(replace(QUIET, estimate=low))
    assert decision.action is DriftAction.KEEP
    assert decision.reasons[-1] == (
        "V-F1 estimated without labels 0.10 (0.05 to 0.20), refused signals counted as missed; it "
        "decides nothing"
    )


@pytest.mark.parametrize("column", ["arrhythmia_type", "rule"])
def test_a_step_in_output_at_the_release_asks_for_rollback(column: str) -> None:
    decision = decide(replace(QUIET, release=compare(column, distance=0.2)))
    assert decision.action is DriftAction.ROLLBACK
    assert f"{column} by 0.20 (before -> after)" in decision.reasons[0]


def test_what_is_computed_with_the_classes_does_not_excuse_their_step() -> None:
    release = compare("arrhythmia_type", "rr_irregularity", distance=0.2)
    assert decide(replace(QUIET, release=release)).action is DriftAction.ROLLBACK


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
def test_other_changes_at_the_release_do_not_count_as_evidence(release: Comparison) -> None:
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
        estimate=EstimatedPerformance(Interval(nan, nan, nan), 0.0),
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


def with_column(name: str, **changes: float) -> Comparison:
    """A comparison in which one column drifted."""
    traffic = compare(name)
    columns = tuple(
        replace(drift, **changes) if drift.column == name else drift for drift in traffic.columns
    )
    return replace(traffic, columns=columns)


@pytest.mark.parametrize(
    ("changes", "is_breach"),
    [
        ({"distance": 0.4, "p_adjusted": 0.02}, True),
        ({"distance": 0.399, "p_adjusted": 0.02}, False),
        ({"distance": 0.4, "p_adjusted": 0.021}, False),
    ],
)
def test_one_column_of_the_input_that_moved_far_suffices(
    changes: dict[str, float], *, is_breach: bool
) -> None:
    evidence = DriftEvidence(traffic=with_column("rr_irregularity", **changes))
    decision = decide(evidence, past(HOUR, is_breach=True))
    assert decision.is_breach is is_breach
    assert (decision.action is DriftAction.RETRAIN) is is_breach


@pytest.mark.parametrize("column", ["probability_v", "arrhythmia_type", "rule"])
def test_one_column_of_the_output_never_suffices(column: str) -> None:
    evidence = DriftEvidence(traffic=with_column(column, distance=0.9, p_adjusted=0.001))
    assert not decide(evidence).is_breach


def test_a_gain_that_changed_is_said_to_be_harmless() -> None:
    evidence = DriftEvidence(traffic=with_column("amplitude_mv", distance=0.97, p_adjusted=0.001))
    decision = decide(evidence, past(HOUR, is_breach=True))
    assert decision.action is DriftAction.KEEP
    assert not decision.is_breach
    assert decision.figures["drifted_share"] == 0
    assert decision.reasons == (
        "200 strips compared, no column drifted",
        (
            "harmless: amplitude_mv moved by 0.97 (before -> after); the classes do not depend on "
            "the gain"
        ),
    )
    assert decision.alarms == ()


def test_a_gain_that_changed_does_not_make_up_for_a_column() -> None:
    both = DriftEvidence(traffic=compare("amplitude_mv", "qrs_width_ms", distance=0.3))
    assert not decide(both).is_breach
    three = DriftEvidence(
        traffic=compare("amplitude_mv", "qrs_width_ms", "readable_share", distance=0.3)
    )
    assert decide(three).is_breach


def refuse(low: float, *, n_requests: int = 360, n_refused: int = 90) -> RefusedShare:
    return RefusedShare(
        share=0.85, low=low, high=0.9, n_requests=n_requests, n_refused=n_refused, n_groups=6
    )


@pytest.mark.parametrize(
    ("refused", "is_alarm"),
    [
        (refuse(0.25), True),
        (refuse(0.249), False),
        (refuse(0.85, n_requests=50), True),
        (refuse(0.85, n_requests=49), False),
        (refuse(0.85, n_refused=10), True),
        (refuse(0.85, n_refused=9), False),
    ],
)
def test_traffic_much_of_which_is_refused_is_an_alarm(
    refused: RefusedShare, *, is_alarm: bool
) -> None:
    decision = decide(replace(QUIET, refused=refused))
    assert decision.action is DriftAction.KEEP
    assert bool(decision.alarms) is is_alarm
    assert decision.figures["refused"]["share"] == refused.share
    if is_alarm:
        assert decision.reasons[1] == decision.alarms[0]
        assert decision.figures["alarms"] == list(decision.alarms)


def test_refused_traffic_is_an_alarm_where_there_is_too_little_to_compare() -> None:
    evidence = DriftEvidence(traffic=compare(n_strips=20), refused=refuse(0.85))
    decision = decide(evidence)
    assert not decision.is_conclusive
    assert decision.alarms == (
        (
            "85% of the signals were refused (85% to 90%, 90 of 360 requests of 6 groups): look at "
            "electrodes and noise, as nothing that is refused is classified"
        ),
    )


@pytest.mark.parametrize("is_drifted", [True, False])
def test_a_slice_that_drifted_is_an_alarm_and_starts_nothing(*, is_drifted: bool) -> None:
    drift = SliceDrift(
        dimension="device",
        value="H3",
        n_groups=7,
        n_strips=90,
        column="qrs_width_ms",
        distance=0.61,
        p_value=0.001,
        p_adjusted=0.004,
        is_drifted=is_drifted,
    )
    decision = decide(replace(QUIET, slices=(drift,)), past(HOUR, is_breach=True))
    assert decision.action is DriftAction.KEEP
    assert decision.figures["slices"][0]["value"] == "H3"
    assert decision.alarms == (
        (
            (
                "device H3 drifted: qrs_width_ms by 0.61 (p 0.004 after correction for 1 slices, "
                "7 groups)"
            ),
        )
        if is_drifted
        else ()
    )


def test_a_lead_that_was_not_there_before_is_an_alarm() -> None:
    decision = decide(replace(QUIET, unfamiliar=("lead ECG1 (9 of 10 groups)",)))
    assert decision.action is DriftAction.KEEP
    assert decision.alarms[0].startswith(
        "not in the reference or the traffic before: lead ECG1 (9 of 10 groups); "
    )


UP = Polarity(1, 8)


@pytest.mark.parametrize(
    ("before", "now", "is_noted"),
    [
        (UP, Polarity(7, 8), True),  # p 0.0101
        (Polarity(7, 8), UP, True),
        (UP, Polarity(6, 8), False),  # p 0.041
        (Polarity(100, 1000), Polarity(351, 1000), True),
        (Polarity(100, 1000), Polarity(349, 1000), False),  # less than a quarter of the groups
        (UP, UP, False),
        (None, Polarity(8, 8), False),
        (UP, None, False),
    ],
)
def test_leads_that_were_turned_are_a_note_and_start_nothing(
    before: Polarity | None, now: Polarity | None, *, is_noted: bool
) -> None:
    evidence = replace(QUIET, polarity=now)
    decision = decide(evidence, past(HOUR, polarity=before))
    notes = [one for one in decision.reasons if "R-peaks" in one]
    assert len(notes) == is_noted
    assert (decision.action, decision.alarms, decision.is_breach) == (DriftAction.KEEP, (), False)
    if is_noted:
        assert notes[0].startswith(
            f"harmless: the R-peaks of {now} groups point down, of {before} in the check of "
            "2026-03-01 11:00 (p "
        )
        assert re.search(r"\(p (0\.0\d\d|< 0\.001)\): leads or", notes[0])


def test_leads_that_turn_while_the_window_slides_over_the_change_are_noted() -> None:
    history = [
        past(hours * HOUR, polarity=Polarity(n_down, 20))
        for hours, n_down in ((1, 13), (2, 10), (3, 7), (4, 4), (5, 1))
    ]
    decision = decide(replace(QUIET, polarity=Polarity(16, 20)), *history)
    (note,) = [one for one in decision.reasons if "R-peaks" in one]
    assert "of 16 of 20 groups point down, of 1 of 20 in the check of 2026-03-01 07:00" in note
    assert "(p < 0.001): leads or electrodes may be reversed" in note


def test_the_direction_before_the_release_or_in_too_little_traffic_does_not_count() -> None:
    turned = replace(QUIET, polarity=Polarity(8, 8))
    assert "R-peaks" in " ".join(decide(turned, past(HOUR, polarity=UP)).reasons)
    for foreign in (
        past(timedelta(days=11), polarity=UP),
        past(HOUR, polarity=UP, bundle_hash="another"),
        past(HOUR, polarity=UP, is_conclusive=False),
    ):
        assert "R-peaks" not in " ".join(decide(turned, foreign).reasons)
    little = replace(turned, traffic=compare(n_groups=4))
    assert "R-peaks" not in " ".join(decide(little, past(HOUR, polarity=UP)).reasons)


def test_the_direction_is_a_figure_of_the_check() -> None:
    assert decide(replace(QUIET, polarity=UP)).figures["polarity"] == {"n_down": 1, "n_groups": 8}
    assert decide(QUIET).figures["polarity"] is None
