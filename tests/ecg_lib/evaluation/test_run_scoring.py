"""Run-by-run scores: tables that are written down, and the real development records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_lib.evaluation.run_scoring import (
    RunCounts,
    add_up_runs,
    count_false_runs,
    score_runs,
)
from ecg_lib.records.annotations import DS1, PACED, Annotations
from ecg_lib.records.record import read_wfdb
from ecg_lib.rhythm.patterns import summarize_rhythm


def _score(truth: str, calls: str, *, shift: int = 0, start_s: float = 0.0) -> RunCounts:
    """Score calls at one beat a second; ``-`` stands for no beat, ``?`` an unreadable one."""
    at = np.arange(len(truth), dtype=np.int64) * 1000 + 500
    is_beat = np.array([beat != "-" for beat in truth])
    is_found = np.array([beat != "-" for beat in calls])
    return score_runs(
        Annotations(samples=at[is_beat], symbols=np.array(list(truth.replace("-", "")))),
        detections=at[is_found] + shift,
        is_v=np.array([beat in "V?" for beat in calls.replace("-", "")], dtype=np.bool_),
        is_readable=np.array([beat != "?" for beat in calls.replace("-", "")], dtype=np.bool_),
        fs=1000.0,
        start_s=start_s,
    )


def test_equal_runs_are_all_found_and_all_true() -> None:
    beats = "NVNVVNVVVNVVVVVVVVN"
    counts = _score(beats, beats)
    for figure in (
        counts.couplet_sensitivity,
        counts.short_run_sensitivity,
        counts.long_run_sensitivity,
        counts.couplet_predictivity,
        counts.short_run_predictivity,
        counts.long_run_predictivity,
    ):
        assert figure == (1, 1)
    assert counts.of_reference[1, 1] == 1


@pytest.mark.parametrize(
    ("truth", "calls", "cell"),
    [
        ("NVVN", "NNNN", (2, 0)),
        ("NVVN", "NVNN", (2, 1)),
        ("NVVN", "NV-N", (2, 1)),
        ("NVVN", "NV?N", (2, 1)),
        ("NVVVN", "NVVNN", (3, 2)),
        ("NVVVVVVVN", "NVVVVVVVN", (6, 6)),
        ("NVVVVVVVN", "NVVVNVVVN", (6, 3)),
        ("NFVN", "NVVN", (2, 2)),  # fusion counts as V in runs
        ("NVVN", "VVVV", (2, 2)),  # what is outside of the run does not count
    ],
)
def test_a_true_run_is_in_the_row_of_its_length(
    truth: str, calls: str, cell: tuple[int, int]
) -> None:
    counts = _score(truth, calls)
    assert counts.of_reference[cell] == 1
    assert counts.of_reference.sum() == 1


@pytest.mark.parametrize(
    ("truth", "calls", "cell"),
    [
        ("NNNN", "NVVN", (0, 2)),
        ("NVNN", "NVVN", (1, 2)),
        ("NVVVN", "NVVNN", (2, 2)),
        ("NVVNN", "NVVVN", (2, 3)),
        ("NN[N]NN", "NNVVNNN", (6, 2)),  # flutter is a run of the greatest length
    ],
)
def test_a_reported_run_is_in_the_column_of_its_length(
    truth: str, calls: str, cell: tuple[int, int]
) -> None:
    counts = _score(truth, calls)
    assert counts.of_detected[cell] == 1
    assert counts.of_detected.sum() == 1


def test_room_is_150_ms_on_both_sides() -> None:
    for shift in (-150, 150):
        assert _score("NNVVNN", "NNVVNN", shift=shift).couplet_sensitivity == (1, 1)
    for shift in (-151, 151):
        assert _score("NNVVNN", "NNVVNN", shift=shift).couplet_sensitivity == (0, 1)


def test_runs_of_the_learning_period_do_not_count() -> None:
    counts = _score("NVVNVVN", "NVVNVVN", start_s=3.0)
    assert counts.couplet_sensitivity == (1, 1)


def test_without_runs_there_is_no_figure() -> None:
    assert np.isnan(_score("NN", "NN").couplet_sensitivity.share)


@settings(max_examples=100, deadline=None)
@given(truth=st.text("NVF", min_size=1, max_size=40), calls=st.text("NV", max_size=40))
def test_every_run_is_in_one_cell(truth: str, calls: str) -> None:
    calls = calls.ljust(len(truth), "N")[: len(truth)]
    counts = _score(truth, calls)
    true_runs = [run for run in truth.replace("F", "V").split("N") if run]
    assert counts.of_reference.sum() == len(true_runs)
    assert counts.of_detected.sum() == len([run for run in calls.split("N") if run])
    assert add_up_runs([counts, counts]).of_reference.sum() == 2 * len(true_runs)


@pytest.mark.data
def test_runs_of_the_development_records_are_those_that_the_rhythm_reports(
    mitdb_dir: Path,
) -> None:
    """Two ways of counting, one by scores and one by rhythm, find the same runs of V in DS1."""
    for name in DS1 + PACED:
        record = read_wfdb(mitdb_dir / name, with_annotations=True)
        annotations = record.annotations
        assert annotations is not None
        beats, is_v = annotations.beat_samples, annotations.beat_classes == "V"
        kept = ~annotations.is_in_flutter(beats)
        # Only V and its own classes: fusion ends a run here, as it does in the rhythm.
        plain = Annotations(samples=beats[kept], symbols=np.where(is_v[kept], "V", "N"))
        counts = score_runs(
            plain, detections=beats[kept], is_v=is_v[kept], fs=record.fs, start_s=0.0
        )
        rhythm = summarize_rhythm(
            beats[kept], is_v=is_v[kept], is_readable=np.ones(kept.sum(), np.bool_), fs=record.fs
        )
        lengths = [run.beats for run in rhythm.runs]
        assert counts.couplet_sensitivity == (rhythm.couplets, rhythm.couplets)
        short = sum(length < 6 for length in lengths)
        assert counts.short_run_sensitivity == (short, short)
        assert counts.long_run_sensitivity.total == len(lengths) - short


@pytest.mark.parametrize(
    ("truth", "calls", "expected"),
    [
        ("NNNNN", "NVVVN", 1),
        ("NNNNN", "NVVNN", 0),  # a couplet is not an alarm
        ("NVVNN", "NVVVN", 1),  # no three in a row are annotated
        ("NVVVN", "NVVVN", 0),
        ("NFVVN", "NVVVN", 0),
        ("N-----N", "NVVV--N", 1),  # noise that was taken for beats
        ("NNNNN", "NVV?VN"[:5], 0),
        ("NNNNNNNNN", "VVVNNVVVV", 2),
    ],
)
def test_a_false_run_is_three_v_in_a_row_where_there_are_none(
    truth: str, calls: str, expected: int
) -> None:
    at = np.arange(len(truth), dtype=np.int64) * 1000 + 500
    is_beat, is_found = (np.array([one != "-" for one in word]) for word in (truth, calls))
    called = calls.replace("-", "")

    def count(spans: list[tuple[float, float]]) -> int:
        return count_false_runs(
            Annotations(samples=at[is_beat], symbols=np.array(list(truth.replace("-", "")))),
            detections=at[is_found],
            is_v=np.array([one in "V?" for one in called]),
            is_readable=np.array([one != "?" for one in called]),
            fs=1000.0,
            spans=spans,
        )

    assert count([(0.0, 100.0)]) == expected
    assert count([(0.0, 3.0), (3.0, 100.0)]) == expected
    assert count([]) == 0


def test_a_run_in_flutter_is_not_false() -> None:
    marks = Annotations(
        samples=np.array([500, 1000, 5000, 6000]), symbols=np.array(["N", "[", "]", "N"])
    )
    found = count_false_runs(
        marks,
        detections=np.array([2000, 2500, 3000]),
        is_v=np.ones(3, dtype=np.bool_),
        is_readable=np.ones(3, dtype=np.bool_),
        fs=1000.0,
        spans=[(0.0, 10.0)],
    )
    assert found == 0
