"""Evidently's report on real Evidently."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.operations.drift.comparison import Comparison, ComparisonConfig, compare_beats
from ecg_lib.operations.drift.decision import DriftPolicy, is_drift
from ecg_lib.operations.drift.observation import (
    COMPARED_COLUMNS,
    DERIVED_COLUMNS,
    NUMERICAL_COLUMNS,
    ObservedBeats,
)
from flows.doors.drift_report import (
    MIN_ROWS,
    DriftReport,
    balance_beats,
    write_drift_report,
)

QUICK = ComparisonConfig(n_draws=2, n_permutations=499)
POLICY = DriftPolicy(comparison=QUICK)


def draw_beats(n_groups: int, *, seed: int, n_strips: int = 4) -> ObservedBeats:
    rng = np.random.default_rng(seed)
    n_beats = 12 * n_strips * n_groups
    group = np.repeat([f"p{number}" for number in range(n_groups)], n_strips)
    level = np.repeat(rng.normal(0, 1, n_groups), 12 * n_strips)
    columns: dict[str, np.ndarray] = {
        name: level + rng.normal(0, 1.0, n_beats) for name in (*NUMERICAL_COLUMNS, *DERIVED_COLUMNS)
    }
    columns |= {
        "arrhythmia_type": rng.choice(["N", "V"], n_beats),
        "rule": np.full(n_beats, "none"),
    }
    return ObservedBeats(
        columns=dict(columns),
        strip=np.repeat(np.arange(n_strips * n_groups), 12),
        group=group,
        strip_s=np.full(n_strips * n_groups, 10.0),
    )


def move(beats: ObservedBeats, **shifts: float) -> ObservedBeats:
    moved = {name: beats.columns[name].astype(float) + shift for name, shift in shifts.items()}
    return replace(beats, columns={**beats.columns, **moved})


def write(
    reference: ObservedBeats, current: ObservedBeats, directory: Path, name: str = "now"
) -> tuple[Comparison, DriftReport]:
    comparison = compare_beats(reference, current, config=QUICK)
    report = write_drift_report(
        reference,
        current,
        comparison,
        is_drift=is_drift(comparison, POLICY),
        directory=directory,
        name=name,
        n_kept=50,
    )
    return comparison, report


@pytest.mark.slow
def test_the_page_says_what_the_check_says_of_traffic_like_the_reference(tmp_path: Path) -> None:
    comparison, report = write(draw_beats(22, seed=0), draw_beats(22, seed=1), tmp_path / "drift")
    assert not is_drift(comparison, POLICY)
    assert (report.is_detected, report.detected) == (False, ())
    assert report.distances == pytest.approx(
        {drift.column: drift.distance for drift in comparison.columns}
    )
    page = report.html.read_text(encoding="utf-8")
    assert "Dataset Drift is NOT detected" in page
    assert "Dataset Drift is detected" not in page
    summary = json.loads(report.summary.read_text())
    assert (summary["reference_groups"], summary["current_groups"]) == (22, 22)
    assert report.html.name == "now-evidently.html"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shifts", "detected", "is_found"),
    [
        ({"rr_irregularity": 6.0}, ("rr_irregularity",), True),
        ({"amplitude_mv": 6.0}, (), False),
    ],
    ids=["one column that moved far", "a harmless one"],
)
def test_the_page_calls_drift_what_the_check_calls_drift(
    tmp_path: Path, shifts: dict[str, float], detected: tuple[str, ...], *, is_found: bool
) -> None:
    comparison, report = write(
        draw_beats(22, seed=0), move(draw_beats(22, seed=1), **shifts), tmp_path
    )
    assert is_drift(comparison, POLICY) is is_found
    assert report.detected == detected
    assert report.is_detected is is_found
    page = report.html.read_text(encoding="utf-8")
    assert ("Dataset Drift is detected" in page) is is_found
    assert ("Dataset Drift is NOT detected" in page) is not is_found


def test_groups_are_shown_alike_however_many_beats_they_have() -> None:
    few, many = draw_beats(1, seed=0, n_strips=1), draw_beats(1, seed=1, n_strips=9)
    both = ObservedBeats(
        columns={
            name: np.concatenate([few.columns[name], many.columns[name]])
            for name in COMPARED_COLUMNS
        },
        strip=np.concatenate([few.strip, many.strip + 1]),
        group=np.array(["few"] + ["many"] * 9),
        strip_s=np.full(10, 10.0),
    )
    shown = balance_beats(both)["rr_prev_s"]
    assert len(shown) == 120
    assert np.isin(shown, few.columns["rr_prev_s"]).sum() == 60
    # All beats of the few, each as often.
    _, counts = np.unique(shown[:60], return_counts=True)
    assert counts.tolist() == [5] * 12


def test_a_page_shows_no_more_than_20_000_beats() -> None:
    shown = balance_beats(draw_beats(25, seed=0, n_strips=80))
    assert len(shown["rule"]) == 20_000


@pytest.mark.parametrize("n_strips", [0, (MIN_ROWS - 1) // 12])
def test_too_few_beats_are_refused(tmp_path: Path, n_strips: int) -> None:
    reference, few = draw_beats(10, seed=0), draw_beats(1, seed=1, n_strips=n_strips)
    comparison = compare_beats(reference, draw_beats(10, seed=1), config=QUICK)
    with pytest.raises(ValueError, match=f"at least 100 beats, got {12 * n_strips}"):
        write_drift_report(
            reference,
            few,
            comparison,
            is_drift=False,
            directory=tmp_path,
            name="now",
            n_kept=50,
        )


def test_a_comparison_without_columns_is_refused(tmp_path: Path) -> None:
    reference = draw_beats(10, seed=0)
    comparison = compare_beats(reference, reference.select(np.zeros(40, dtype=bool)), config=QUICK)
    with pytest.raises(ValueError, match="at least one column"):
        write_drift_report(
            reference,
            reference,
            comparison,
            is_drift=False,
            directory=tmp_path,
            name="now",
            n_kept=50,
        )


@pytest.mark.slow
def test_old_reports_make_room_and_those_of_decisions_stay(tmp_path: Path) -> None:
    for number in range(53):
        (tmp_path / f"2025-{number:03d}-evidently.html").touch()
        (tmp_path / f"2025-{number:03d}-evidently.json").touch()
    (tmp_path / "2025-000-evidently-decision.html").touch()
    (tmp_path / "2025-000.html").touch()  # the page of the verdict
    beats = draw_beats(10, seed=0)
    comparison = compare_beats(beats, beats, config=QUICK)
    _, kept = write(beats, beats, tmp_path, "2026-000")
    decided = write_drift_report(
        beats,
        beats,
        comparison,
        is_drift=False,
        directory=tmp_path,
        name="2026-001",
        n_kept=50,
        is_evidence=True,
    )
    assert decided.html.name == "2026-001-evidently-decision.html"
    assert (tmp_path / "2025-000-evidently-decision.html").exists()
    assert (tmp_path / "2025-000.html").exists()
    pages = sorted(page.name for page in tmp_path.glob("*-evidently.html"))
    assert (len(pages), pages[0], pages[-1]) == (50, "2025-004-evidently.html", kept.html.name)
