from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecg_lib.bundle import Bundle
from ecg_lib.evaluation import BeatCounts
from flows.evaluation_report import (
    OPENINGS,
    EvaluationError,
    describe_r_peaks,
    measure_r_peaks,
    note_opening,
    write_report,
)

FIGURES = {
    name: {
        "v_f1": 0.9, "v_f1_low": 0.8, "v_f1_high": 0.95, "v_f1_strict": 0.88, "v_se": 0.91,
        "v_ppv": 0.89, "v_fpr": 0.01, "accuracy": 0.98, "qrs_se": 0.999, "qrs_ppv": 0.998,
    }
    for name in ("whole", "without_202", "after_5_min", "reference_r_peaks", "strips_10_s")
}  # fmt: skip


def test_r_peaks_of_ds2_are_refused_outside_an_opening(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="opening alone"):
        measure_r_peaks(tmp_path, ("101", "100"))


def test_an_opening_is_appended_with_its_figures(tmp_path: Path, toy_bundle: Bundle) -> None:
    for reason in ("first", "second | with a bar"):
        note_opening(tmp_path, bundle=toy_bundle, commit="a" * 40, reason=reason, figures=FIGURES)
    lines = (tmp_path / OPENINGS).read_text().splitlines()
    rows = [line for line in lines if line.startswith("| 20")]
    assert len(rows) == 2
    header = next(line for line in lines if line.startswith("| Date"))
    assert all(row.count("|") == header.count("|") for row in rows)
    assert "0.9000 (0.800 to 0.950)" in rows[0]
    assert toy_bundle.hash[:12] in rows[0]
    assert "second / with a bar" in rows[1]


def test_r_peak_figures_are_described_with_the_worst_records() -> None:
    counts = {
        "a": BeatCounts(beats=100, found=99, extra=0, v_beats=10, v_found=9),
        "b": BeatCounts(beats=100, found=100, extra=1),
    }
    lines = describe_r_peaks(counts)
    assert "Se 99.50 %, +P 99.50 %, 1 of 10 V missed" in lines[0]
    assert lines[1].startswith("  a: Se 99.00 %")


def test_a_report_is_json(tmp_path: Path) -> None:
    path = write_report(tmp_path / "reports", "ds2", {"v_f1": 0.5})
    assert json.loads(path.read_text()) == {"v_f1": 0.5}
