"""Figures against the share of the beats that keep a class."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.evaluation.selection import ScoredBeats, join_beats, trace_selection


def _beats(
    truth: str, calls: str, quality: list[float], *, n_missed: int = 0, n_without: int = 0
) -> ScoredBeats:
    return ScoredBeats(
        quality=np.array(quality, dtype=np.float32),
        is_v=np.array([one == "V" for one in truth], dtype=np.bool_),
        called_v=np.array([one == "V" for one in calls], dtype=np.bool_),
        counts_false=np.array([one in "NSO" for one in truth], dtype=np.bool_),
        n_missed=n_missed,
        n_without_class=n_without,
    )


def test_false_beats_in_bad_signal_go_first() -> None:
    beats = _beats("VNVO", "VNVV", [0.9, 0.8, 0.7, 0.1])
    whole, part = trace_selection(beats, shares=(1.0, 0.75))
    assert (whole.share, part.share) == (1.0, 0.75)
    assert whole.v_f1 == pytest.approx(0.8)
    assert whole.v_predictivity == pytest.approx(2 / 3)
    assert (part.v_f1, part.v_predictivity) == (1.0, 1.0)
    assert part.least_quality == pytest.approx(0.7)


def test_v_beats_that_are_not_kept_are_missed_in_one_figure_and_left_out_in_the_other() -> None:
    beats = _beats("VVNN", "VVNN", [0.9, 0.2, 0.8, 0.7], n_missed=1)
    whole, part = trace_selection(beats, shares=(1.0, 0.75))
    assert whole.v_f1 == pytest.approx(2 * 2 / (2 + 3))
    assert part.v_f1 == pytest.approx(2 * 1 / (1 + 3))
    assert part.v_f1_kept == 1.0


def test_fusion_called_v_is_neither_right_nor_wrong() -> None:
    (point,) = trace_selection(_beats("VFQ", "VVV", [1, 1, 1]), shares=(1.0,))
    assert point.v_predictivity == 1.0


def test_beats_of_one_quality_are_kept_or_left_together() -> None:
    beats = _beats("VNNN", "VNNV", [0.5, 0.5, 0.5, 0.4])
    points = trace_selection(beats, shares=(1.0, 0.7, 0.5, 0.3))
    assert [point.share for point in points] == [1.0, 0.75]


def test_detections_without_a_class_are_part_of_the_whole() -> None:
    beats = _beats("VN", "VN", [0.9, 0.8], n_missed=2, n_without=2)
    (point,) = trace_selection(beats, shares=(1.0, 0.9, 0.5))
    assert point.share == 0.5
    assert point.v_f1 == pytest.approx(2 / 4)


def test_nothing_has_no_figures() -> None:
    nothing = _beats("", "", [], n_without=3)
    assert trace_selection(nothing) == ()
    joined = join_beats([nothing, _beats("V", "N", [0.5], n_missed=1)])
    (point,) = trace_selection(joined, shares=(0.2,))
    assert (point.share, point.v_f1) == (0.25, 0.0)
    assert np.isnan(point.v_predictivity)
