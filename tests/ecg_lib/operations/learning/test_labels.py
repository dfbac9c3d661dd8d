from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from ecg_lib.operations.learning.labels import (
    count_marked,
    count_samples,
    list_valid,
    read_forms,
    read_marks,
    resolve_marks,
    write_marks,
)
from ecg_lib.operations.prediction_rows import FeedbackRow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALLED = ["N", "V", None, "N", "V"]


def given(number: int, labels: dict[int, str] | None = None, **fields: Any) -> FeedbackRow:  # noqa: ANN401  any field
    return FeedbackRow(
        feedback_id=f"f{number}",
        created_at=NOW + timedelta(seconds=number),
        prediction_id="p",
        annotator=None,
        labels=labels or {},
        **fields,
    )


def test_the_latest_class_of_a_beat_holds_whatever_the_order_of_the_rows() -> None:
    rows = [given(2, {0: "N"}), given(1, {0: "V", 1: "N"})]
    assert resolve_marks(rows, called=CALLED).classes == {0: "N", 1: "N"}
    assert resolve_marks(rows[::-1], called=CALLED).classes == {0: "N", 1: "N"}


def test_withdrawn_feedback_counts_no_longer_and_what_it_overrode_holds_again() -> None:
    rows = [given(1, {0: "V"}), given(2, {0: "N"}, missed={40: "V"}), given(3, withdraws="f2")]
    marks = resolve_marks(rows, called=CALLED)
    assert (marks.classes, marks.missed) == ({0: "V"}, {})
    assert [row.feedback_id for row in list_valid(rows)] == ["f1"]
    assert resolve_marks([*rows, given(4, withdraws="f1")], called=CALLED).is_empty


def test_a_class_of_a_form_is_that_of_its_beats_unless_they_are_named() -> None:
    forms = [-1, 0, -1, 1, 0]
    rows = [given(1, {4: "V"}, forms={0: "N"})]
    assert resolve_marks(rows, called=CALLED, forms=forms).classes == {1: "N", 4: "V"}
    later = [*rows, given(2, forms={0: "V", 1: "N"})]
    assert resolve_marks(later, called=CALLED, forms=forms).classes == {1: "V", 3: "N", 4: "V"}


def test_a_beat_is_either_false_or_has_a_class_as_the_latest_word_says() -> None:
    rows = [given(1, {1: "V"}), given(2, false_detections=(1, 3))]
    marks = resolve_marks(rows, called=CALLED)
    assert (marks.classes, marks.false_detections) == ({}, {1, 3})
    marks = resolve_marks([*rows, given(3, {3: "N"})], called=CALLED)
    assert (marks.classes, marks.false_detections) == ({3: "N"}, {1})


def test_a_complete_review_confirms_the_beats_that_it_does_not_name() -> None:
    rows = [given(1, {0: "V"}), given(2, {1: "N"}, false_detections=(4,), is_complete=True)]
    marks = resolve_marks(rows, called=CALLED)
    assert marks.classes == {0: "V", 1: "N", 3: "N"}
    assert (marks.false_detections, marks.is_complete) == ({4}, True)
    assert not resolve_marks(rows[:1], called=CALLED).is_complete


def test_marks_of_beats_that_do_not_exist_are_left_out() -> None:
    rows = [given(1, {4: "N", 5: "V"}, false_detections=(9,))]
    marks = resolve_marks(rows, called=CALLED)
    assert (marks.classes, marks.false_detections) == ({4: "N"}, frozenset())


def test_counts_follow_the_marks() -> None:
    rows = [given(1, {0: "V", 2: "N"}, missed={40: "V", 90: "N"}, false_detections=(1,))]
    marks = resolve_marks(rows, called=CALLED)
    # Beats: V, none, N, N, V; and the two that were missed.
    assert count_marked(CALLED, marks) == {"N": 3, "V": 3}
    assert count_marked(CALLED, resolve_marks([], called=CALLED)) == {"N": 2, "V": 2}


def test_marks_come_back_from_json_as_they_were() -> None:
    row = given(1, forms={1: "N"}, missed={7: "V"}, false_detections=(2, 5), is_recording=True)
    written = orjson.dumps(write_marks(row), option=orjson.OPT_NON_STR_KEYS)
    assert given(1, **read_marks(orjson.loads(written))) == row
    assert write_marks(given(1, {0: "N"})) == {}


def test_missed_beats_after_the_end_of_the_signal_are_left_out() -> None:
    n_samples = count_samples({"duration_s": 10.0, "sampling_rate": 128.5})
    assert n_samples == 1285
    rows = [given(1, missed={1284: "V", 1285: "N", 2**63: "V"})]
    assert resolve_marks(rows, called=CALLED, n_samples=n_samples).missed == {1284: "V"}
    assert len(resolve_marks(rows, called=CALLED).missed) == 3
    assert count_samples({"duration_s": 10.0}) is None


def test_the_forms_of_an_answer_are_those_of_its_beats_and_earlier_code_named_none() -> None:
    beats = [{"form": "B"}, {"form": None}, {}, {"form": "A"}]
    assert read_forms({"beat_predictions": beats}) == [1, -1, -1, 0]


def test_a_class_of_a_form_is_that_of_its_beats_and_a_class_of_a_beat_overrides_it() -> None:
    rows = [given(1, {3: "V"}, forms={1: "N"}), given(2, forms={7: "V"})]
    marks = resolve_marks(rows, called=CALLED, forms=[0, 1, -1, 1, 1])
    assert marks.classes == {1: "N", 3: "V", 4: "N"}
