"""Evidently's report on real Evidently."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.operations.drift.observation import NUMERICAL_COLUMNS, OBSERVED_COLUMNS
from flows.doors.drift_report import MIN_ROWS, Columns, write_drift_report


def draw_beats(n_beats: int, *, seed: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {
        name: rng.normal(shift, 1.0, n_beats) for name in NUMERICAL_COLUMNS
    }
    return columns | {
        "arrhythmia_type": rng.choice(["N", "V"], n_beats),
        "rule": np.full(n_beats, "none"),
    }


def test_the_report_tells_moved_columns_from_others(tmp_path: Path) -> None:
    reference, current = draw_beats(2000, seed=0), draw_beats(500, seed=1)
    current["qrs_width_ms"] = current["qrs_width_ms"] + 2.0
    report = write_drift_report(
        reference, current, directory=tmp_path / "drift", name="now", n_kept=50
    )
    assert report.left_out == ()
    assert set(report.distances) == set(OBSERVED_COLUMNS)
    assert report.distances["qrs_width_ms"] > 1.0
    assert report.distances["amplitude_mv"] < 0.1
    page = report.html.read_text(encoding="utf-8")
    assert "qrs_width_ms" in page
    assert json.loads(report.summary.read_text())["current_beats"] == 500


def test_columns_without_a_value_are_left_out_and_named(tmp_path: Path) -> None:
    reference, current = draw_beats(300, seed=0), draw_beats(300, seed=1)
    reference["heart_rate_bpm"][:] = np.nan
    current["rr_prev_s"][:] = np.nan
    current["amplitude_mv"][::10] = np.nan
    current["readable_share"][:] = 1.0
    report = write_drift_report(reference, current, directory=tmp_path, name="now", n_kept=50)
    assert report.left_out == ("rr_prev_s", "heart_rate_bpm")
    assert set(report.distances) == set(OBSERVED_COLUMNS) - set(report.left_out)
    assert all(np.isfinite(value) for value in report.distances.values())


@pytest.mark.parametrize("n_beats", [0, MIN_ROWS - 1])
def test_too_few_beats_are_refused(tmp_path: Path, n_beats: int) -> None:
    with pytest.raises(ValueError, match=f"current must have at least 100 beats, got {n_beats}"):
        write_drift_report(
            draw_beats(300, seed=0),
            draw_beats(n_beats, seed=1),
            directory=tmp_path,
            name="now",
            n_kept=50,
        )


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    current: Columns = {k: v for k, v in draw_beats(300, seed=1).items() if k != "rule"}
    with pytest.raises(ValueError, match=r"current must have all observed columns, lacks \['rule"):
        write_drift_report(
            draw_beats(300, seed=0), current, directory=tmp_path, name="now", n_kept=50
        )


def test_old_reports_make_room_and_those_of_decisions_stay(tmp_path: Path) -> None:
    for number in range(53):
        (tmp_path / f"2025-{number:03d}.html").touch()
        (tmp_path / f"2025-{number:03d}.json").touch()
    (tmp_path / "2025-000-decision.html").touch()
    beats = draw_beats(200, seed=0)
    write_drift_report(beats, beats, directory=tmp_path, name="2026-000", n_kept=50)
    decided = write_drift_report(
        beats, beats, directory=tmp_path, name="2026-001", n_kept=50, is_evidence=True
    )
    assert decided.html.name == "2026-001-decision.html"
    assert (tmp_path / "2025-000-decision.html").exists()
    pages = sorted(page.name for page in tmp_path.glob("*.html") if "decision" not in page.name)
    assert (len(pages), pages[0], pages[-1]) == (50, "2025-004.html", "2026-000.html")
