"""Gathering, choosing and irregularity of strips that are made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ecg_lib.operations.drift.observation import (
    INPUT_COLUMNS,
    NUMERICAL_COLUMNS,
    STRETCH,
    ObservedStrip,
    gather_strips,
)

NAN = float("nan")


def observe(rr_s: list[float], called: str | None = None) -> dict[str, list[Any]]:
    """Beats with these intervals; N when nothing else is said."""
    numbers: dict[str, list[Any]] = {name: [0.5] * len(rr_s) for name in NUMERICAL_COLUMNS}
    return numbers | {
        "rr_prev_s": rr_s,
        "arrhythmia_type": list(called or "N" * len(rr_s)),
        "rule": ["none"] * len(rr_s),
    }


def measure_irregularity(rr_s: list[float], called: str | None = None) -> float:
    beats = gather_strips([ObservedStrip("a", 10.0, observe(rr_s, called))])
    found = np.unique(beats.columns["rr_irregularity"])
    assert len(found) == 1
    return float(found[0])


def test_the_input_is_what_the_classifier_does_not_decide() -> None:
    assert INPUT_COLUMNS == (
        "rr_prev_s",
        "heart_rate_bpm",
        "qrs_width_ms",
        "template_correlation",
        "amplitude_mv",
        "readable_share",
        "rr_irregularity",
    )


def test_chosen_strips_are_numbered_from_zero() -> None:
    strips = [ObservedStrip(name, 10.0, observe([1.0] * n)) for n, name in enumerate("abcd", 1)]
    chosen = gather_strips(strips).select(np.array([False, True, False, True]))
    assert chosen.strip.tolist() == [0, 0, 1, 1, 1, 1]
    assert chosen.group.tolist() == ["b", "d"]


def test_a_long_strip_without_a_readable_beat_is_skipped() -> None:
    nothing = observe([]) | {STRETCH: []}
    beats = gather_strips(
        [ObservedStrip("a", 60.0, nothing), ObservedStrip("b", 10.0, observe([1.0]))]
    )
    assert beats.group.tolist() == ["b"]
    assert beats.strip.tolist() == [0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_irregularity_is_relative_to_the_interval(scale: float) -> None:
    rr_s = [NAN, 1.0, 1.2, 1.0, 1.2, 1.0]
    assert measure_irregularity([scale * one for one in rr_s]) == pytest.approx(0.2)


def test_the_pause_after_a_premature_beat_is_not_an_interval_between_normal_beats() -> None:
    # 1.0 to 1.2 to 1.0: two changes are too few; with the pause of 1.4 s there would be three.
    assert np.isnan(measure_irregularity([NAN, 0.6, 1.4, 1.0, 1.2, 1.0], "NVNNNN"))
