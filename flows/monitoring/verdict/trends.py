"""Trends of drift checks over releases: figures of the last checks, as small charts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np

from ecg_lib.operations.drift.decision import DriftPolicy
from ecg_lib.operations.prediction_rows import DriftCheckRow
from ecg_lib.records.documents.drawing import (
    Anchor,
    Box,
    Colour,
    Dot,
    Drawing,
    Path,
    Shape,
    Text,
    line,
    to_themed_svg,
)
from flows.doors.ui.artifacts import shorten

N_SHOWN: Final = 96
"""Checks that are shown: a day of checks every quarter of an hour."""

_WIDTH: Final = 320.0
_HEIGHT: Final = 92.0
_LEFT: Final = 30.0
_RIGHT: Final = 6.0
_TOP: Final = 20.0
_BOTTOM: Final = 16.0
_SIZE: Final = 8.0
_LEAST_LABEL: Final = 34.0
_LONGEST_TAG: Final = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    """The figures of a check; None where it has none."""

    at: datetime
    release: str
    """Bento tag."""
    is_conclusive: bool
    drifted_share: float | None
    """Share of the columns that drifted."""
    refused_low: float | None
    """Lower bound of the share of refused signals, which is what the alarm is on."""
    estimated_f1: float | None
    """V-F1 expected without labels."""
    reviewed_f1: float | None
    """V-F1 on the random sample that readers reviewed."""


class _Series(NamedTuple):
    title: str
    value: Callable[[TrendPoint], float | None]
    colour: Colour
    limit: Callable[[DriftPolicy], float] | None = None


_CHARTS: Final[tuple[tuple[_Series, ...], ...]] = (
    (
        _Series(
            "Drifted columns",
            lambda one: one.drifted_share,
            Colour.BLUE,
            lambda policy: policy.min_drifted_share,
        ),
    ),
    (
        _Series(
            "Refused signals, lower bound",
            lambda one: one.refused_low,
            Colour.AMBER,
            lambda policy: policy.max_refused_share,
        ),
    ),
    (
        _Series("V-F1, estimated", lambda one: one.estimated_f1, Colour.SOFT),
        _Series("reviewed", lambda one: one.reviewed_f1, Colour.RED),
    ),
)


def read_trend(checks: Sequence[DriftCheckRow]) -> tuple[TrendPoint, ...]:
    """Read the figures of checks, those of earlier code too.

    Args:
        checks: Latest first.

    Returns:
        Oldest first.
    """
    return tuple(
        trend_point(
            row.created_at,
            str(row.summary["bento_tag"]),
            row.summary.get("figures", {}),
            is_conclusive=bool(row.summary["is_conclusive"]),
        )
        for row in reversed(checks[:N_SHOWN])
    )


def trend_point(
    at: datetime, release: str, figures: Mapping[str, Any], *, is_conclusive: bool
) -> TrendPoint:
    """Take what is shown from the figures of a decision."""
    return TrendPoint(
        at=at,
        release=release,
        is_conclusive=is_conclusive,
        drifted_share=_find(figures, "drifted_share") if is_conclusive else None,
        refused_low=_find(figures, "refused", "low"),
        estimated_f1=_find(figures, "estimate", "f1", "estimate"),
        reviewed_f1=_find(figures, "labelled", "f1", "estimate"),
    )


def _find(figures: Mapping[str, Any], *names: str) -> float | None:
    found: Any = figures
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) else None


def draw_trends(points: Sequence[TrendPoint], policy: DriftPolicy) -> list[str]:
    """Draw a chart for each figure that any check has, as SVG in the colours of the page.

    Args:
        points: Oldest first.
        policy: The limits of the last check.
    """
    if len(points) < 2:
        return []
    return [
        to_themed_svg(_draw(points, chart, policy), css_class="trend")
        for chart in _CHARTS
        if any(series.value(one) is not None for series in chart for one in points)
    ]


def _draw(points: Sequence[TrendPoint], chart: tuple[_Series, ...], policy: DriftPolicy) -> Drawing:
    title = " (grey), ".join(series.title for series in chart) + (" (red)" if chart[1:] else "")
    shapes: list[Shape] = [Text(_LEFT, 9, title, _SIZE, Colour.INK, is_bold=True)]
    shapes += _draw_releases(points)
    for value in (0.0, 0.5, 1.0):
        shapes.append(line(_LEFT, _y(value), _WIDTH - _RIGHT, _y(value), Colour.LINE, 0.5))
        label = f"{value:.0%}" if not chart[1:] else f"{value:g}"
        shapes.append(Text(_LEFT - 3, _y(value) + 3, label, _SIZE, Colour.SOFT, Anchor.END))
    for series in chart:
        if series.limit is not None:
            limit = _y(series.limit(policy))
            ends = np.array([[_LEFT, limit], [_WIDTH - _RIGHT, limit]])
            shapes.append(Path(ends, Colour.RED, 0.7, (3.0, 3.0)))
        shapes += _draw_series([series.value(one) for one in points], series.colour)
    first, last = points[0].at, points[-1].at
    base = _HEIGHT - 4
    shapes.append(Text(_LEFT, base, f"{first:%m-%d %H:%M}", _SIZE, Colour.SOFT))
    shapes.append(
        Text(_WIDTH - _RIGHT, base, f"{last:%m-%d %H:%M}", _SIZE, Colour.SOFT, Anchor.END)
    )
    span = f"from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M UTC}"
    described = f"{title}: {len(points)} checks {span}"
    return Drawing(width=_WIDTH, height=_HEIGHT, shapes=tuple(shapes), title=described)


def _draw_series(values: Sequence[float | None], colour: Colour) -> list[Shape]:
    shapes: list[Shape] = []
    n = len(values)
    known = [(_x(at, n), _y(value)) for at, value in enumerate(values) if value is not None]
    if len(known) > 1:
        shapes.append(Path(np.array(known), colour, 1.2))
    shapes += [Dot(x, y, 1.6 if n <= N_SHOWN // 2 else 1.0, colour) for x, y in known]
    return shapes


def _draw_releases(points: Sequence[TrendPoint]) -> list[Shape]:
    """Draw a band for each release, every other one tinted, with its version where it fits."""
    shapes: list[Shape] = []
    n, at = len(points), 0
    half = (_x(1, n) - _x(0, n)) / 2
    for index, (release, of_release) in enumerate(itertools.groupby(p.release for p in points)):
        count = len(list(of_release))
        left = max(_x(at, n) - half, _LEFT)
        right = min(_x(at + count - 1, n) + half, _WIDTH - _RIGHT)
        at += count
        if index % 2:
            shapes.append(Box(left, _TOP, right - left, _y(0.0) - _TOP, Colour.PALE, release))
        if right - left >= _LEAST_LABEL:
            # The start of its version distinguishes releases.
            shown = shorten(release, longest=_LONGEST_TAG)
            shapes.append(Text(left + 2, _TOP - 2, shown, 6.5, Colour.SOFT))
    return shapes


def _x(at: int, n: int) -> float:
    return _LEFT + 4 + (_WIDTH - _LEFT - _RIGHT - 8) * at / max(n - 1, 1)


def _y(value: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(max(value, 0.0), 1.0))
