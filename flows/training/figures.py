"""Figures of runs, as SVG for the artifacts of MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.calibration import reliability_bins
from ecg_lib.evaluation.beat_scoring import BeatCounts
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
    to_svg,
)

_HEIGHT: Final = 100.0
_LEFT: Final = 18.0
_RIGHT: Final = 6.0
_TOP: Final = 10.0
_BOTTOM: Final = 18.0
_TEXT: Final = 3.4
_CURVE_COLOURS: Final = (Colour.BLUE, Colour.RED, Colour.AMBER, Colour.INK, Colour.SOFT)


def draw_precision_recall(
    probabilities: NDArray[np.float64],
    is_v: NDArray[np.bool_],
    *,
    n_missed: int,
    threshold: float,
) -> str:
    """Draw +P over Se, with the chosen threshold; missed V beats keep Se below one."""
    order = np.argsort(-probabilities)
    true = np.cumsum(is_v[order])
    sensitivity = true / (is_v.sum() + n_missed)
    predictivity = true / np.arange(1, len(order) + 1)
    chart = _Chart("Out-of-fold predictions", x_span=(0.5, 1.0), y_span=(0.5, 1.0))
    shapes = chart.axes("VEB Se", "VEB +P")
    inside = (sensitivity >= 0.5) & (predictivity >= 0.5)
    shapes.append(chart.curve(_thin(sensitivity[inside]), _thin(predictivity[inside])))
    at = int(np.searchsorted(-probabilities[order], -threshold))
    if at > 0 and inside[at - 1]:
        x, y = chart.x(sensitivity[at - 1]), chart.y(predictivity[at - 1])
        label = f"threshold {threshold:.3f}"
        shapes += [
            Dot(x, y, 1.3, Colour.RED),
            Text(x - 3, y + 5, label, _TEXT, Colour.INK, Anchor.END),
        ]
    return chart.finish(shapes)


def draw_reliability(
    probabilities: NDArray[np.float64], is_v: NDArray[np.bool_], *, n_bins: int = 15
) -> str:
    """Draw the observed share of V over the stated probability."""
    bins = [one for one in reliability_bins(probabilities, is_v, n_bins=n_bins) if one.beats]
    chart = _Chart("Reliability, out of fold", x_span=(0.0, 1.0), y_span=(0.0, 1.0))
    shapes = chart.axes("stated probability of V", "observed share of V")
    shapes.append(line(chart.x(0), chart.y(0), chart.x(1), chart.y(1), Colour.SOFT, 0.3))
    stated, observed = ([getattr(one, name) for one in bins] for name in ("stated", "observed"))
    shapes.append(chart.curve(np.array(stated), np.array(observed)))
    shapes += [
        Dot(chart.x(x), chart.y(y), 1.2, Colour.BLUE) for x, y in zip(stated, observed, strict=True)
    ]
    return chart.finish(shapes)


def draw_losses(losses: Sequence[Sequence[float]]) -> str:
    """Draw the training loss of each fold over the epochs."""
    most = max((value for loss in losses for value in loss), default=1.0)
    n_epochs = max((len(loss) for loss in losses), default=1)
    chart = _Chart("Training loss", x_span=(1.0, max(n_epochs, 2)), y_span=(0.0, most or 1.0))
    shapes = chart.axes("epoch", "training loss")
    for fold, loss in enumerate(losses):
        colour = _CURVE_COLOURS[fold % len(_CURVE_COLOURS)]
        shapes.append(chart.curve(np.arange(1, len(loss) + 1), np.array(loss), colour))
        label = f"fold {fold}"
        shapes.append(
            Text(chart.width - _RIGHT, _TOP + 5 * (fold + 1), label, _TEXT, colour, Anchor.END)
        )
    return chart.finish(shapes)


def draw_history(values: Sequence[float | None]) -> str:
    """Draw the V-F1 of each trial and the best so far; None for a trial that was pruned."""
    scores = [value for value in values if value is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    margin = max(0.1 * (high - low), 0.005)
    chart = _Chart(
        "V-F1 of trials (dots), best so far (line), pruned (grey)",
        x_span=(0.0, 5.0 * max(-(-(len(values) - 1) // 5), 1)),  # ticks at whole trials
        y_span=(low - 2 * margin, min(high + margin, 1.0)),
    )
    shapes = chart.axes("trial", "V-F1")
    best: list[tuple[int, float]] = []
    for trial, value in enumerate(values):
        if value is None:
            shapes.append(Dot(chart.x(trial), chart.y(low - margin), 1.0, Colour.SOFT))
            continue
        shapes.append(Dot(chart.x(trial), chart.y(value), 1.2, Colour.BLUE))
        before = best[-1][1] if best else value
        best += [(trial, before), (trial, max(before, value))]
    if best:
        best.append((len(values) - 1, best[-1][1]))
        trials, heights = zip(*best, strict=True)
        shapes.append(chart.curve(np.array(trials), np.array(heights), Colour.RED))
    return chart.finish(shapes)


def draw_importances(importances: Mapping[str, float], *, n_trials: int) -> str:
    """Draw the share of each parameter in how the trials differ, the greatest first."""
    ordered = sorted(importances.items(), key=lambda item: -item[1])
    left, step = 42.0, 7.0
    height = _TOP + step * len(ordered) + 8
    title = f"Importance of parameters (PED-ANOVA, {n_trials} complete trials)"
    shapes: list[Shape] = [Text(4, 6, title, 4.0, Colour.INK, is_bold=True)]
    for at, (name, share) in enumerate(ordered):
        y = _TOP + step * at
        shapes += [
            Text(left - 2, y + 4, name, _TEXT, Colour.INK, Anchor.END),
            Box(left, y + 1, max(80 * share, 0.3), step - 3, Colour.BLUE, f"{name}: {share:.3f}"),
            Text(left + 80 * share + 2, y + 4, f"{share:.2f}", _TEXT, Colour.SOFT),
        ]
    drawing = Drawing(width=140.0, height=height, shapes=tuple(shapes), title=title)
    return to_svg(drawing)


def draw_records(counts: Mapping[str, BeatCounts]) -> str:
    """Draw missed and false V beats of each record."""
    names = sorted(counts, key=lambda name: -(counts[name].v_false + _missed(counts[name])))
    most = max((counts[name].v_false + _missed(counts[name]) for name in names), default=0)
    chart = _Chart(
        "Errors of each record, out of fold: V missed or called N (red), false V (blue)",
        x_span=(0.0, max(len(names), 1)),
        y_span=(0.0, max(most, 1)),
        width=220.0,
    )
    shapes = chart.axes("record", "beats", with_x_ticks=False)
    for at, name in enumerate(names):
        left, right = chart.x(at + 0.1), chart.x(at + 0.9)
        missed, false = _missed(counts[name]), counts[name].v_false
        for low, high, colour in ((0, missed, Colour.RED), (missed, missed + false, Colour.BLUE)):
            top, bottom = chart.y(high), chart.y(low)
            hint = f"{name}: {high - low}"
            shapes.append(Box(left, top, right - left, bottom - top, colour, hint))
        middle, base = (left + right) / 2, chart.y(0) + 4
        shapes.append(Text(middle, base, name, 2.4, Colour.SOFT, Anchor.MIDDLE))
    return chart.finish(shapes)


def _missed(counts: BeatCounts) -> int:
    return counts.v_beats - counts.v_true


def _thin(values: NDArray[np.float64], n_most: int = 2000) -> NDArray[np.float64]:
    return values[:: max(1, len(values) // n_most)]


class _Chart:
    """The area of a chart with linear axes."""

    def __init__(
        self,
        title: str,
        *,
        x_span: tuple[float, float],
        y_span: tuple[float, float],
        width: float = 140.0,
    ) -> None:
        self._title = title
        self._x_span, self._y_span = x_span, y_span
        self.width = width

    def x(self, value: float) -> float:
        low, high = self._x_span
        return float(_LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT))

    def y(self, value: float) -> float:
        low, high = self._y_span
        return float(_HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM))

    def axes(self, x_label: str, y_label: str, *, with_x_ticks: bool = True) -> list[Shape]:
        shapes: list[Shape] = [Text(_LEFT, 6, self._title, 4.0, Colour.INK, is_bold=True)]
        right, base = self.width - _RIGHT, _HEIGHT - _BOTTOM
        for value in np.linspace(*self._y_span, 6).tolist():
            y = self.y(value)
            shapes.append(line(_LEFT, y, right, y, Colour.LINE, 0.2))
            label = f"{value:.3g}"
            shapes.append(Text(_LEFT - 1.5, y + 1.2, label, _TEXT, Colour.SOFT, Anchor.END))
        for value in np.linspace(*self._x_span, 6).tolist() if with_x_ticks else ():
            label = f"{value:.3g}"
            shapes.append(Text(self.x(value), base + 5, label, _TEXT, Colour.SOFT, Anchor.MIDDLE))
        middle = (_LEFT + right) / 2
        label = f"{x_label} (across), {y_label} (up)"
        shapes.append(Text(middle, _HEIGHT - 4, label, _TEXT, Colour.INK, Anchor.MIDDLE))
        return shapes

    def curve(
        self,
        x: NDArray[np.float64] | NDArray[np.int64],
        y: NDArray[np.float64],
        colour: Colour = Colour.BLUE,
    ) -> Path:
        points = [(self.x(a), self.y(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        return Path(np.array(points, dtype=np.float64).reshape(-1, 2), colour, 0.5)

    def finish(self, shapes: list[Shape]) -> str:
        drawing = Drawing(width=self.width, height=_HEIGHT, shapes=tuple(shapes), title=self._title)
        return to_svg(drawing)
