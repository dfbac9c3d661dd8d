"""The people of the demo, and the readers who know their beats."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecg_lib.records.annotations import Annotations
from flows.local.demo.people import make_new_strips, mark


def test_a_later_call_gives_other_strips_of_the_same_people() -> None:
    first = list(make_new_strips(n_people=3, n_strips=2))
    assert [one.strip.patient for one in first] == [
        *("new person 0", "new person 1", "new person 2"),
    ] * 2
    again = list(make_new_strips(n_people=3, n_strips=2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.strip.signal_mv, other.strip.signal_mv)
    later = list(make_new_strips(n_people=3, n_strips=1, first=2))
    assert {one.strip.name for one in later}.isdisjoint(one.strip.name for one in first)
    assert {len(one.strip.signal_mv) / one.strip.fs for one in first} == {10.0}


def test_the_new_people_have_ventricular_and_aberrant_atrial_beats() -> None:
    strips = list(make_new_strips(n_people=12, n_strips=4))
    symbols = np.concatenate([one.truth.symbols for one in strips])
    assert (symbols == "V").sum() >= 30
    assert (symbols == "A").sum() >= 50


def test_a_reader_marks_every_beat_by_the_truth() -> None:
    truth = Annotations(
        samples=np.array([360, 720, 1080, 1440]), symbols=np.array(["N", "A", "V", "V"])
    )
    answer: dict[str, Any] = {
        "prediction_id": "p1",
        "sampling_rate": 360.0,
        "beat_predictions": [
            {"position_sample": sample} for sample in (361, 722, 1079, 2000)
        ],
    }  # fmt: skip
    marks = mark(answer, truth)
    assert marks["prediction_id"] == "p1"
    assert [one["arrhythmia_type"] for one in marks["labels"]] == ["N", "N", "V"]
    assert [one["beat_index"] for one in marks["labels"]] == [0, 1, 2]
    assert marks["missed_beats"] == [{"position_sample": 1440, "arrhythmia_type": "V"}]
    assert marks["false_detections"] == [{"beat_index": 3}]
    assert marks["is_complete"] is True
