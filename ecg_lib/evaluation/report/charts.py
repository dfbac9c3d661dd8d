"""The drawings of an evaluation page, as SVG elements that take their colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.evaluation.report.mistakes import ERROR_SPAN_S, BeatError

MM_PER_S: Final = 25.0
_STRIP_MM: Final = 34.0
_LABELS_MM: Final = 5.0
_SCALES_MM_PER_MV: Final = (10.0, 5.0, 2.5)


def draw_interval(figure: Mapping[str, Any], *, lowest: float) -> str:
    """Draw a figure and its interval as a bar on a scale from `lowest` to 1."""
    if figure["gross"] is None:
        return ""
    width, height = 72.0, 14.0

    def x(value: float | None) -> float:
        inside = lowest if value is None else min(max(value, lowest), 1.0)
        return 1 + (inside - lowest) / (1 - lowest) * (width - 2)

    left, right, at = x(figure["low"]), x(figure["high"]), x(figure["gross"])
    return (
        f'<svg class="interval" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" aria-hidden="true">'
        f'<line class="grid" x1="1" y1="7" x2="{width - 1:g}" y2="7"/>'
        f'<rect class="band" x="{left:.1f}" y="4" width="{max(right - left, 1):.1f}" height="6" '
        f'rx="2"/><circle class="dot" cx="{at:.1f}" cy="7" r="3"/></svg>'
    )


def draw_noise(
    points: Sequence[tuple[int, Mapping[str, Any], float | None]],
    *,
    clean: float | None,
    title: str,
) -> str:
    """Draw V-F1 over the signal-to-noise ratio.

    Args:
        points: Ratio in dB, the figure with its interval, and the figure without RuleGuard.
        clean: The figure without noise.
        title: What it shows.
    """
    frame = _Frame(width=420, height=250, left=46, bottom=40, title=title)
    shown = [point for point in points if point[1]["gross"] is not None]
    at = {snr_db: index for index, (snr_db, _, _) in enumerate(points)}
    span = (-0.35, len(points) - 0.65)
    values = [
        value
        for _, figure, plain in shown
        for value in (figure["low"], figure["gross"], plain)
        if value is not None
    ]
    low = max(0.0, np.floor(10 * min(values, default=0.0)) / 10)
    xs = {snr_db: frame.x(float(index), span) for snr_db, index in at.items()}

    def y(value: float) -> float:
        return frame.y(value, (low, 1.0))

    parts = frame.y_axis(np.arange(low, 1.0001, 0.1 if low >= 0.3 else 0.2), (low, 1.0), "{:.1f}")
    parts += [_text(x, 228, f"{snr_db} dB", "middle") for snr_db, x in xs.items()]
    if clean is not None:
        parts.append(_line(46, y(clean), 410, y(clean), "clean"))
    band = [(xs[s], y(f["high"])) for s, f, _ in shown if f["high"] is not None]
    band += [(xs[s], y(f["low"])) for s, f, _ in reversed(shown) if f["low"] is not None]
    if len(band) > 2:
        parts.append(f'<polygon class="band" points="{_points(band)}"/>')
    if clean is not None:
        parts.append(_text(410, y(clean) - 5, f"clean {clean:.3f}", "end", "soft"))
    plain = [(xs[s], y(p)) for s, _, p in shown if p is not None]
    parts.append(f'<polyline class="plain" points="{_points(plain)}"/>')
    curve = [(xs[s], y(f["gross"])) for s, f, _ in shown]
    parts.append(f'<polyline class="curve" points="{_points(curve)}"/>')
    for (x, at_y), (_, figure, _) in zip(curve, shown, strict=True):
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{at_y:.1f}" r="3.5"/>')
        parts.append(_text(x, at_y + 17, f"{figure['gross']:.3f}", "middle", "value"))
    return frame.finish(parts)


def draw_reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Draw the observed share of V over the stated probability, and how many beats there are."""
    frame = _Frame(width=420, height=330, left=46, bottom=110, title="Reliability")
    one = (0.0, 1.0)
    parts = frame.y_axis(np.arange(0, 1.01, 0.2), one, "{:.1f}")
    parts.append(_line(frame.x(0, one), frame.y(0, one), frame.x(1, one), frame.y(1, one), "clean"))
    filled = [b for b in bins if b["beats"]]
    curve = [(frame.x(b["stated"], one), frame.y(b["observed"], one)) for b in filled]
    parts.append(f'<polyline class="curve" points="{_points(curve)}"/>')
    parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in curve]
    # Below: beats of each bin, on a logarithmic scale.
    base, room = 305.0, 52.0
    most = max((b["beats"] for b in bins), default=1)
    for b in bins:
        left, right = frame.x(b["low"], one), frame.x(b["high"], one)
        tall = room * np.log10(1 + b["beats"]) / np.log10(1 + max(most, 9))
        parts.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{base - tall:.1f}" '
            f'width="{right - left - 2:.1f}" height="{tall:.1f}"><title>{b["beats"]} beats'
            f"</title></rect>"
        )
        if b["beats"]:
            label = _short(b["beats"])
            parts.append(_text((left + right) / 2, base - tall - 3, label, "middle", "tiny"))
    parts += [
        _text(frame.x(value, one), 322, f"{value:.1f}", "middle")
        for value in (0, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    return frame.finish(parts)


def _short(count: int) -> str:
    return f"{count / 1000:.0f}k" if count >= 10_000 else str(count)


def draw_strip(error: BeatError) -> str:
    """Draw the strip around an error on ECG paper, with the truth above and the call below."""
    width, height = ERROR_SPAN_S * MM_PER_S, _STRIP_MM + 2 * _LABELS_MM
    samples = np.asarray(error.strip_mv, dtype=np.float64)
    title = f"record {error.record} at {error.time_s:.1f} s"
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
    area = f'x="{here - 3.5:.2f}" y="{_LABELS_MM:g}" width="7" height="{_STRIP_MM:g}"'
    parts = [
        _paper(width, _LABELS_MM, _STRIP_MM),
        f'<rect class="here" {area}/>',
        f'<polyline class="ecg" points="{_points_mm(across[::step], heights[::step])}"/>',
    ]
    for time_s, truth, call in error.beats:
        x = min(max((time_s - error.strip_start_s) * MM_PER_S, 1.5), width - 1.5)
        wrong = " wrong" if (truth == "V") != (call == "V") and truth in "NSVO" else ""
        parts.append(
            f'<text class="truth" x="{x:.2f}" y="3.6" text-anchor="middle">{escape(truth)}</text>'
        )
        parts.append(
            f'<text class="call{wrong}" x="{x:.2f}" y="{height - 1.2:.2f}" '
            f'text-anchor="middle">{escape(call)}</text>'
        )
    return (
        f'<svg class="strip" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}, {scale:g} mm/mV</title>'
        f"{''.join(parts)}</svg>"
    )


def _paper(width: float, top: float, height: float) -> str:
    """Squares of 5 mm and of 1 mm."""

    def lines(step: int) -> str:
        down = "".join(f"M{x:g} {top:g}v{height:g}" for x in range(0, round(width) + 1, step))
        return down + "".join(
            f"M0 {top + y:g}h{width:g}" for y in range(0, round(height) + 1, step)
        )

    return (
        f'<rect class="paper" x="0" y="{top:g}" width="{width:g}" height="{height:g}"/>'
        f'<path class="paper-thin" d="{lines(1)}"/><path class="paper-thick" d="{lines(5)}"/>'
    )


class _Frame:
    """A chart's area with its axes."""

    def __init__(
        self, *, width: float, height: float, left: float, bottom: float, title: str
    ) -> None:
        self._size = (width, height)
        self._left, self._right = left, width - 10
        self._top, self._bottom = 12.0, height - bottom
        self._title = title

    def x(self, value: float, span: tuple[float, float]) -> float:
        share = (value - span[0]) / (span[1] - span[0])
        return float(self._left + share * (self._right - self._left))

    def y(self, value: float, span: tuple[float, float]) -> float:
        share = (value - span[0]) / (span[1] - span[0])
        return float(self._bottom - share * (self._bottom - self._top))

    def y_axis(self, ticks: NDArray[np.float64], span: tuple[float, float], form: str) -> list[str]:
        parts = []
        for tick in ticks.tolist():
            y = self.y(tick, span)
            parts.append(_line(self._left, y, self._right, y, "grid"))
            parts.append(_text(self._left - 7, y + 4, form.format(tick), "end"))
        return parts

    def finish(self, parts: Sequence[str]) -> str:
        width, height = self._size
        return (
            f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-label="{escape(self._title)}">{"".join(parts)}</svg>'
        )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _points_mm(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
