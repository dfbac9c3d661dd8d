"""False alarms of several records, written down by hand."""

from __future__ import annotations

import pytest

from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.evaluation.report.figures import summarize_alarms
from ecg_lib.evaluation.report.scoring import Alarms

COUNTS = {
    "a": BeatCounts(found=99, extra=1, v_beats=0, v_false=3),
    "b": BeatCounts(found=90, extra=10, v_beats=0, v_false=1),
    "c": BeatCounts(found=50, extra=0, v_beats=7, v_false=40),
}
ALARMS = {"a": Alarms(1800.0, 0), "b": Alarms(5400.0, 2), "c": Alarms(3600.0, 1)}


def test_false_v_are_counted_in_records_without_v_and_runs_in_all() -> None:
    found = summarize_alarms(COUNTS, ALARMS)
    assert found["records_without_v"] == ["a", "b"]
    assert (found["hours"], found["hours_without_v"]) == (pytest.approx(3.0), pytest.approx(2.0))
    assert found["false_v_an_hour"] == pytest.approx(4 / 2)
    assert (found["false_runs"], found["false_runs_an_hour"]) == (3, pytest.approx(1.0))
    assert found["false_runs_by_record"] == {"b": 2, "c": 1}
    assert found["worst_qrs_predictivity"] == {"record": "b", "value": pytest.approx(0.9)}


def test_what_no_record_defines_is_null() -> None:
    found = summarize_alarms({"c": COUNTS["c"]}, {"c": Alarms(0.0, 0)})
    assert (found["false_v_an_hour"], found["false_runs_an_hour"]) == (None, None)
    nothing = summarize_alarms({"a": BeatCounts()}, {"a": Alarms(60.0, 0)})
    assert nothing["worst_qrs_predictivity"] is None
