"""R-peaks by hand: near, far, missed, and in flutter."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.evaluation.peak_scoring import PeakScores, add_up_peaks, score_peaks
from ecg_lib.records.annotations import Annotations

FS = 360.0


def _score(beats: dict[int, str], detections: list[int]) -> PeakScores:
    annotations = Annotations(
        samples=np.array(list(beats), dtype=np.int64), symbols=np.array(list(beats.values()))
    )
    return score_peaks(annotations, detections=np.array(detections, dtype=np.int64), fs=FS)


def test_peaks_on_the_spot_are_perfect() -> None:
    scores = _score({100: "N", 400: "V"}, [100, 400])
    assert scores.counts.qrs_sensitivity == scores.counts.qrs_predictivity == 1
    assert (scores.v_missed, scores.narrow_f1, scores.median_offset_ms) == (0, 1, 0)
    assert scores.spread_ms == (0, 0)


def test_a_peak_18_samples_off_is_near_and_one_19_off_is_not() -> None:
    """50 ms are 18 samples."""
    scores = _score({1000: "N", 2000: "N"}, [1018, 2019])
    assert scores.counts.found == 2
    assert scores.narrow.found == 1
    assert scores.narrow_f1 == pytest.approx(0.5)
    assert scores.offset_ms.tolist() == [50.0, 1000 * 19 / 360]


def test_a_missed_v_is_told_apart_from_a_missed_n() -> None:
    scores = _score({1000: "N", 2000: "V", 3000: "V"}, [3000])
    assert (scores.counts.found, scores.v_missed) == (1, 1)


def test_the_sign_of_the_offset_is_that_of_a_late_detection() -> None:
    assert _score({1000: "N"}, [1009]).median_offset_ms == 25
    assert _score({1000: "N"}, [991]).median_offset_ms == -25


def test_flutter_is_left_out() -> None:
    scores = _score({1000: "[", 1500: "V", 2000: "]", 3000: "N"}, [1490, 1700, 3000])
    assert (scores.counts.beats, scores.counts.extra, scores.v_missed) == (1, 0, 0)
    assert scores.offset_ms.tolist() == [0.0]


def test_nothing_has_no_offset() -> None:
    scores = _score({1000: "N"}, [])
    assert np.isnan(scores.median_offset_ms)
    assert np.isnan(scores.spread_ms).all()
    assert scores.narrow_f1 == 0
    assert np.isnan(add_up_peaks([]).narrow_f1)


def test_records_add_up() -> None:
    parts = [_score({1000: "N"}, [1009]), _score({1000: "V", 2000: "V"}, [1000])]
    both = add_up_peaks(parts)
    assert (both.counts.beats, both.counts.found, both.v_missed) == (3, 2, 1)
    assert both.median_offset_ms == 12.5
