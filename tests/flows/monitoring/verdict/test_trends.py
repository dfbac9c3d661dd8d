"""Trends of checks: figures by release, also those of earlier code."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

from ecg_lib.operations.drift.decision import DriftPolicy
from ecg_lib.operations.prediction_rows import DriftCheckRow
from flows.monitoring.verdict.trends import TrendPoint, draw_trends, read_trend

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = DriftPolicy()
SVG = "{http://www.w3.org/2000/svg}"


def row(ago: int, *, is_conclusive: bool = True, **figures: Any) -> DriftCheckRow:  # noqa: ANN401
    return DriftCheckRow(
        check_id=str(ago),
        created_at=NOW - timedelta(minutes=15 * ago),
        bundle_hash="b",
        action="KEEP",
        summary={"bento_tag": "ecg:7", "is_conclusive": is_conclusive, "figures": figures},
    )


def point(ago: int, *, release: str = "ecg:7", share: float | None = 0.1) -> TrendPoint:
    return TrendPoint(
        at=NOW - timedelta(minutes=15 * ago),
        release=release,
        is_conclusive=share is not None,
        drifted_share=share,
        refused_low=None,
        estimated_f1=None,
        reviewed_f1=None,
    )


def test_the_figures_of_checks_are_read_oldest_first() -> None:
    full = row(
        0,
        drifted_share=0.3,
        refused={"share": 0.3, "low": 0.05},
        estimate={"f1": {"estimate": 0.8, "low": 0.7}},
        labelled={"f1": {"estimate": None}},
    )
    sparse = row(1, is_conclusive=False, drifted_share=0.9, refused=None)
    old = DriftCheckRow(
        check_id="old",
        created_at=NOW - timedelta(days=1),
        bundle_hash="b",
        action="KEEP",
        summary={"bento_tag": "ecg:6", "is_conclusive": True},
    )
    first, second, third = read_trend([full, sparse, old])
    assert (first.release, first.drifted_share, first.refused_low) == ("ecg:6", None, None)
    assert (second.drifted_share, second.is_conclusive) == (None, False)  # of too little traffic
    assert (third.drifted_share, third.refused_low) == (0.3, 0.05)
    assert (third.estimated_f1, third.reviewed_f1) == (0.8, None)


def test_the_latest_96_checks_are_shown() -> None:
    shown = read_trend([row(ago) for ago in range(97)])
    assert len(shown) == 96
    assert shown[-1].at == NOW


def test_each_release_has_a_band_and_each_known_figure_a_chart() -> None:
    points = [point(ago, release="ecg:6") for ago in range(9, 4, -1)]
    points += [point(ago, share=0.5) for ago in range(4, -1, -1)]
    (chart,) = draw_trends(points, POLICY)  # nothing else is known
    root = ET.fromstring(chart)  # noqa: S314  our own
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Drifted columns", "ecg:6", "ecg:7", "100%"} <= set(words)
    heights = [float(dot.attrib["cy"]) for dot in root.iter(f"{SVG}circle")]
    assert len(heights) == 10
    assert heights[0] > heights[-1]  # a greater share is higher
    (band,) = root.iter(f"{SVG}rect")
    assert band[0].text == "ecg:7"
    assert "10 checks from 2026-03-01 09:45 to 2026-03-01 12:00 UTC" in root.attrib["aria-label"]


def test_a_check_without_a_figure_has_no_point() -> None:
    (chart,) = draw_trends([point(2), point(1, share=None), point(0)], POLICY)
    assert chart.count("<circle") == 2


def test_one_check_has_no_chart() -> None:
    assert draw_trends([point(0)], POLICY) == []
    assert draw_trends([point(1, share=None), point(0, share=None)], POLICY) == []


def limits(chart: str) -> list[float]:
    """Heights of the dashed lines."""
    paths = ET.fromstring(chart).iter()  # noqa: S314  our own
    dashed = [one for one in paths if one.get("stroke-dasharray")]
    return [float(one.attrib["points"].split()[0].split(",")[1]) for one in dashed]


def test_the_limits_are_those_that_the_check_judged_by() -> None:
    points = [replace(point(ago, share=0.5), refused_low=0.5) for ago in (1, 0)]
    charts = draw_trends(points, replace(POLICY, min_drifted_share=0.5, max_refused_share=1.0))
    drifted, refused = charts
    assert "Refused signals, lower bound" in refused
    middle = float(re.findall(r'cy="([\d.]+)"', drifted)[0])
    assert limits(drifted) == [middle]
    assert limits(refused) == [20.0]  # at the top
