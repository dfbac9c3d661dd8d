"""The drawings of an evaluation page, as SVG elements that take their colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.evaluation.report.mistakes import ERROR_SPAN_S, BeatError
from ecg_lib.records.documents.drawing import (
    Anchor,
    Area,
    Box,
    Colour,
    Dot,
    Drawing,
    Path,
    Shape,
    Text,
    draw_paper,
    line,
    to_themed_svg,
)

MM_PER_S: Final = 25.0
_STRIP_MM: Final = 34.0
_LABELS_MM: Final = 5.0
_SCALES_MM_PER_MV: Final = (10.0, 5.0, 2.5)
_LABEL: Final = 11.5
_ONE: Final = (0.0, 1.0)


def draw_interval(figure: Mapping[str, Any], *, lowest: float) -> str:
    """Draw a figure and its interval as a bar on a scale from `lowest` to 1."""
    if figure["gross"] is None:
        return ""
    width, height = 72.0, 14.0

    def x(value: float | None) -> float:
        inside = lowest if value is None else min(max(value, lowest), 1.0)
        return 1 + (inside - lowest) / (1 - lowest) * (width - 2)

    left, right, at = x(figure["low"]), x(figure["high"]), x(figure["gross"])
    shapes = (
        line(1, 7, width - 1, 7, Colour.LINE, 1.0),
        Box(left, 4, max(right - left, 1), 6, Colour.PALE),
        Dot(at, 7, 3, Colour.BLUE),
    )
    drawing = Drawing(width=width, height=height, shapes=shapes, title="")
    return to_themed_svg(drawing, css_class="interval")


def draw_noise(
    points: Sequence[tuple[int, Mapping[str, Any], float | None]],
    *,
    clean: float | None,
    title: str,
) -> str:
    """Draw V-F1 over the signal-to-noise ratio.

    Parameters
    ----------
    points : sequence of (int, mapping, float or None)
        Ratio in dB, the figure with its interval, and the figure without RuleGuard.
    clean : float or None
        The figure without noise.
    title : str

    """
    shown = [point for point in points if point[1]["gross"] is not None]
    values = [
        value
        for _, figure, plain in shown
        for value in (figure["low"], figure["gross"], plain)
        if value is not None
    ]
    low = max(0.0, float(np.floor(10 * min(values, default=0.0)) / 10))
    frame = _Frame(width=420, height=250, bottom=40, title=title, y_span=(low, 1.0))
    span = (-0.35, len(points) - 0.65)
    xs = {snr_db: frame.x(float(at), span) for at, (snr_db, _, _) in enumerate(points)}
    shapes = frame.y_axis(np.arange(low, 1.0001, 0.1 if low >= 0.3 else 0.2))
    shapes += [_text(x, 228, f"{snr_db} dB", Anchor.MIDDLE) for snr_db, x in xs.items()]
    if clean is not None:
        shapes.append(_dashed([(46, frame.y(clean)), (410, frame.y(clean))], 1.0, (2, 3)))
    band = [(xs[s], frame.y(f["high"])) for s, f, _ in shown if f["high"] is not None]
    band += [(xs[s], frame.y(f["low"])) for s, f, _ in reversed(shown) if f["low"] is not None]
    if len(band) > 2:
        shapes.append(Area(_array(band), Colour.PALE))
    if clean is not None:
        label = f"clean {clean:.3f}"
        shapes.append(_text(410, frame.y(clean) - 5, label, Anchor.END, size=11.0, has_halo=True))
    plain = [(xs[s], frame.y(p)) for s, _, p in shown if p is not None]
    shapes.append(_dashed(plain, 1.5, (5, 4)))
    curve = [(xs[s], frame.y(f["gross"])) for s, f, _ in shown]
    shapes.append(Path(_array(curve), Colour.BLUE, 2.0))
    for (x, y), (_, figure, _) in zip(curve, shown, strict=True):
        shapes.append(Dot(x, y, 3.5, Colour.BLUE))
        value = f"{figure['gross']:.3f}"
        shapes.append(
            Text(x, y + 17, value, _LABEL, Colour.INK, Anchor.MIDDLE, is_bold=True, has_halo=True)
        )
    return frame.finish(shapes)


def draw_reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw the observed share of V over the stated probability, and how many beats there are."""
    frame = _Frame(width=420, height=330, bottom=110, title="Reliability", y_span=_ONE)
    shapes = frame.y_axis(np.arange(0, 1.01, 0.2))
    ends = [(frame.x(value, _ONE), frame.y(value)) for value in _ONE]
    shapes.append(_dashed(ends, 1.0, (2, 3)))
    filled = [b for b in bins if b["beats"]]
    curve = [(frame.x(b["stated"], _ONE), frame.y(b["observed"])) for b in filled]
    shapes.append(Path(_array(curve), Colour.BLUE, 2.0))
    shapes += [Dot(x, y, 3.5, Colour.BLUE) for x, y in curve]
    # Below: beats of each bin, on a logarithmic scale.
    base, room = 305.0, 52.0
    most = max((b["beats"] for b in bins), default=1)
    for b in bins:
        left, right = frame.x(b["low"], _ONE), frame.x(b["high"], _ONE)
        tall = float(room * np.log10(1 + b["beats"]) / np.log10(1 + max(most, 9)))
        hint = f"{b['beats']} beats"
        shapes.append(Box(left + 1, base - tall, right - left - 2, tall, Colour.PALE, hint))
        if b["beats"]:
            middle, label = (left + right) / 2, _short(b["beats"])
            shapes.append(_text(middle, base - tall - 3, label, Anchor.MIDDLE, size=9.0))
    shapes += [
        _text(frame.x(value, _ONE), 322, f"{value:.1f}", Anchor.MIDDLE)
        for value in (0, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    return frame.finish(shapes)


def _short(count: int) -> str:
    return f"{count / 1000:.0f}k" if count >= 10_000 else str(count)


def draw_strip(error: BeatError) -> str:
    """Draw the strip around an error on ECG paper, with the truth above and the call below."""
    width, height = ERROR_SPAN_S * MM_PER_S, _STRIP_MM + 2 * _LABELS_MM
    samples = np.asarray(error.strip_mv, dtype=np.float64)
    base = float(np.median(samples))
    above, below = float(samples.max()) - base, base - float(samples.min())
    scale = next(
        (s for s in _SCALES_MM_PER_MV if (above + below) * s <= _STRIP_MM - 2),
        _SCALES_MM_PER_MV[-1],
    )
    middle = _LABELS_MM + _STRIP_MM / 2 + (above - below) / 2 * scale
    heights = np.clip(middle - (samples - base) * scale, _LABELS_MM, _LABELS_MM + _STRIP_MM)
    across = np.arange(len(samples)) / error.fs * MM_PER_S
    step = max(1, round(error.fs / 180))
    here = (error.time_s - error.strip_start_s) * MM_PER_S
    bottom = _LABELS_MM + _STRIP_MM
    corners = [
        (here - 3.5, _LABELS_MM), (here + 3.5, _LABELS_MM), (here + 3.5, bottom),
        (here - 3.5, bottom),
    ]  # fmt: skip
    shapes = [
        *draw_paper(0.0, _LABELS_MM, width, _STRIP_MM),
        Area(_array(corners), Colour.AMBER, 0.16),
        Path(np.stack([across[::step], heights[::step]], axis=1), Colour.INK, 0.32),
    ]
    for time_s, truth, call in error.beats:
        x = min(max((time_s - error.strip_start_s) * MM_PER_S, 1.5), width - 1.5)
        is_wrong = (truth == "V") != (call == "V") and truth in "NSVO"
        colour = Colour.RED if is_wrong else Colour.SOFT
        shapes += [
            Text(x, 3.6, truth, 3.2, Colour.INK, Anchor.MIDDLE),
            Text(x, height - 1.2, call, 3.2, colour, Anchor.MIDDLE, is_bold=is_wrong),
        ]
    title = f"record {error.record} at {error.time_s:.1f} s, {scale:g} mm/mV"
    drawing = Drawing(width=width, height=height, shapes=tuple(shapes), title=title)
    return to_themed_svg(drawing, css_class="strip")


class _Frame:
    """The area of a chart with its axes."""

    _LEFT: Final = 46.0
    _TOP: Final = 12.0

    def __init__(
        self,
        *,
        width: float,
        height: float,
        bottom: float,
        title: str,
        y_span: tuple[float, float],
    ) -> None:
        self._size = (width, height)
        self._right = width - 10
        self._bottom = height - bottom
        self._title = title
        self._y_span = y_span

    def x(self, value: float, span: tuple[float, float]) -> float:
        share = (value - span[0]) / (span[1] - span[0])
        return float(self._LEFT + share * (self._right - self._LEFT))

    def y(self, value: float) -> float:
        share = (value - self._y_span[0]) / (self._y_span[1] - self._y_span[0])
        return float(self._bottom - share * (self._bottom - self._TOP))

    def y_axis(self, ticks: NDArray[np.float64]) -> list[Shape]:
        shapes: list[Shape] = []
        for tick in ticks.tolist():
            y = self.y(tick)
            shapes.append(line(self._LEFT, y, self._right, y, Colour.LINE, 1.0))
            shapes.append(_text(self._LEFT - 7, y + 4, f"{tick:.1f}", Anchor.END))
        return shapes

    def finish(self, shapes: Sequence[Shape]) -> str:
        width, height = self._size
        drawing = Drawing(width=width, height=height, shapes=tuple(shapes), title=self._title)
        return to_themed_svg(drawing, css_class="chart")


def _text(
    x: float, y: float, text: str, anchor: Anchor, *, size: float = _LABEL, has_halo: bool = False
) -> Text:
    return Text(x, y, text, size, Colour.SOFT, anchor, has_halo=has_halo)


def _dashed(
    points: Sequence[tuple[float, float]], width: float, dashes: tuple[float, float]
) -> Path:
    return Path(_array(points), Colour.SOFT, width, dashes)


def _array(points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    return np.array(points, dtype=np.float64).reshape(-1, 2)
