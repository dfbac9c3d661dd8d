"""Draw the figures of a recording's report: trends, histogram, and strips on ECG paper.

Strips have the usual scale of 25 mm a second and 10 mm a millivolt; a lower gain is written in red.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.recordings.summary import RecordingSummary
from ecg_lib.records.documents.drawing import (
    Anchor,
    Box,
    Colour,
    Drawing,
    Path,
    Shape,
    Text,
    draw_paper,
    line,
)
from ecg_lib.records.limits import MAX_DURATION_S
from ecg_lib.rhythm.heart_rate import HOUR_S
from ecg_lib.signal_path.readability.findings import OK, PACED
from ecg_lib.signal_path.readability.quality import find_spans

WIDTH_MM: Final = 180.0
MM_PER_S: Final = 25.0
STRIP_S: Final = 7.0

GAINS_MM_PER_MV: Final = (10.0, 5.0, 2.5)
"""Gains of strips, the usual one first: the first that the strip fits at, or the last."""

_STRIP_HEIGHT_MM: Final = 40.0
_CHART_HEIGHT_MM: Final = 46.0
_LEFT: Final = 12.0
_RIGHT: Final = 3.0
_TOP: Final = 7.0
_BOTTOM: Final = 7.0
_TICKS: Final = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500)
_LABELLED_RR_S: Final = 0.3  # a shorter one has no room for its figure
_MAX_POINTS: Final = 3000
_MOST_SHARES: Final = 48
"""Hours of which the share of V beats is written above its bar; of more there is no room."""


def draw_heart_rate(summary: RecordingSummary) -> Drawing:
    """Draw the heart rate of each minute."""
    rates = summary.rate_by_minute_bpm
    known = rates[np.isfinite(rates)]
    low = 20.0 * np.floor(min(known.min(initial=60.0), 60.0) / 20.0)
    high = 20.0 * np.ceil(max(known.max(initial=100.0), 100.0) / 20.0)
    frame = _Frame(summary, low, high, title="Heart rate (beats a minute), each minute")
    minutes = np.arange(len(rates)) + 0.5
    shapes = frame.axes()
    for part in _parts_of(rates):
        points = np.stack([frame.x(60 * minutes[part]), frame.y(rates[part])], axis=1)
        if len(points) == 1:
            points = np.concatenate([points, points + np.array([0.3, 0.0])])
        shapes.append(Path(points, Colour.BLUE, 0.3))
    return frame.finish(shapes)


def draw_burden(summary: RecordingSummary) -> Drawing:
    """Draw the V beats of each hour, with their share of all beats."""
    counts = np.array([hour.v_beats for hour in summary.hours], dtype=np.float64)
    high = _round_up(max(float(counts.max(initial=0.0)), 4.0))
    frame = _Frame(summary, 0.0, high, title="V beats in each hour, and their share of the beats")
    shapes = frame.axes()
    for hour in summary.hours:
        left, right = (float(frame.x(s)) for s in (hour.start_s, hour.start_s + hour.duration_s))
        top, bottom = float(frame.y(float(hour.v_beats))), float(frame.y(0.0))
        gap = min(0.5, (right - left) / 6)
        shapes.append(Box(left + gap, top, right - left - 2 * gap, bottom - top, Colour.RED))
        if hour.burden and len(summary.hours) <= _MOST_SHARES:
            text = f"{hour.burden:.0%}" if hour.burden >= 0.095 else f"{hour.burden:.1%}"
            middle = (left + right) / 2
            shapes.append(Text(middle, top - 0.8, text, 2.0, Colour.SOFT, Anchor.MIDDLE))
    return frame.finish(shapes)


def draw_intervals(summary: RecordingSummary) -> Drawing:
    """Draw the histogram of RR intervals, those that end in a V beat in red."""
    beats = summary.beats
    rr_s = np.diff(beats.r_peaks) / beats.fs
    counts = beats.is_readable[1:] & beats.is_readable[:-1]
    edges = np.arange(0.2, 2.0001, 0.02)
    shown = np.clip(rr_s, edges[0], edges[-1] - 1e-9)
    of_v, _ = np.histogram(shown[counts & beats.is_v[1:]], edges)
    of_all, _ = np.histogram(shown[counts], edges)
    high = _round_up(max(float(of_all.max(initial=0)), 4.0))
    title = "RR intervals (s), those before V beats in red; longer ones are at the right edge"
    frame = _Frame(summary, 0.0, high, title=title, span=(0.2, 2.0))
    shapes = frame.axes()
    bottom = float(frame.y(0.0))
    for counted, colour in ((of_all, Colour.BLUE), (of_v, Colour.RED)):
        for left_s, count in zip(edges[:-1].tolist(), counted.tolist(), strict=True):
            if count:
                left, top = float(frame.x(left_s)), float(frame.y(float(count)))
                shapes.append(
                    Box(left, top, float(frame.x(left_s + 0.02)) - left, bottom - top, colour)
                )
    return frame.finish(shapes)


def draw_strip(
    summary: RecordingSummary,
    signal_mv: NDArray[np.floating],
    *,
    middle_s: float,
    title: str,
    form: int | None = None,
) -> Drawing:
    """Draw seven seconds on ECG paper, each beat with its class, and RR intervals in ms.

    Parameters
    ----------
    summary : RecordingSummary
    signal_mv : ndarray of shape (n_samples,)
        The lead that was analysed; it may be a memory map.
    middle_s : float
        Time in the middle of the strip.
    title : str
    form : int, optional
        Index of the form whose V beats are marked with its letter.

    """
    beats, fs = summary.beats, summary.beats.fs
    start_s = max(0.0, min(middle_s - STRIP_S / 2, beats.duration_s - STRIP_S))
    first = round(start_s * fs)
    samples = np.asarray(signal_mv[first : first + round(STRIP_S * fs)], dtype=np.float64)
    known = samples[np.isfinite(samples)]
    base_mv = float(np.median(known)) if len(known) else 0.0
    span_mv = float(np.ptp(known)) if len(known) else 0.0
    usual = GAINS_MM_PER_MV[0]
    fitting = [gain for gain in GAINS_MM_PER_MV if span_mv * gain <= _STRIP_HEIGHT_MM]
    scale = fitting[0] if fitting else GAINS_MM_PER_MV[-1]
    top, width = 9.0, STRIP_S * MM_PER_S
    left = (WIDTH_MM - width) / 2
    shapes = draw_paper(left, top, width, _STRIP_HEIGHT_MM)
    step = max(1, len(samples) // _MAX_POINTS)
    at = np.arange(0, len(samples), step)
    above_mv = float(known.max(initial=base_mv)) - base_mv
    below_mv = base_mv - float(known.min(initial=base_mv))
    zero = top + _STRIP_HEIGHT_MM / 2 + (above_mv - below_mv) / 2 * scale
    heights = np.clip(zero - (samples[at] - base_mv) * scale, top, top + _STRIP_HEIGHT_MM)
    for part in _parts_of(heights):
        points = np.stack([left + at[part] / fs * MM_PER_S, heights[part]], axis=1)
        shapes.append(Path(points, Colour.INK, 0.22))
    shapes += _label_beats(summary, start_s, left, top, form=form)
    shapes.append(Text(left, 3.2, title, 2.9, Colour.INK, is_bold=True))
    lead, begin = summary.lead[:20], summary.name_time(start_s)
    where = f"lead {lead}   25 mm/s   from {begin}"
    shapes.append(Text(left + width - 24, 3.2, where, 2.4, Colour.SOFT, Anchor.END))
    gain, is_usual = f"gain {scale:g} mm/mV", scale == usual
    colour = Colour.SOFT if is_usual else Colour.RED
    shapes.append(Text(left + width, 3.2, gain, 2.4, colour, Anchor.END, is_bold=not is_usual))
    return Drawing(
        width=WIDTH_MM, height=top + _STRIP_HEIGHT_MM + 1, shapes=tuple(shapes), title=title
    )


def _label_beats(
    summary: RecordingSummary, start_s: float, left: float, top: float, *, form: int | None
) -> list[Shape]:
    beats, forms = summary.beats, summary.form_of_beats
    times_s = beats.r_peaks / beats.fs
    first, last = np.searchsorted(times_s, [start_s, start_s + STRIP_S])
    shapes: list[Shape] = []
    for beat in range(int(first), int(last)):
        x = left + (float(times_s[beat]) - start_s) * MM_PER_S
        is_v, quality = bool(beats.is_v[beat]), str(beats.quality[beat])
        letter = {OK: "V" if is_v else "N", PACED: "P"}.get(quality, "?")
        if form is not None and forms[beat] == form:
            letter += f" {summary.forms[form].name}"
        colour = Colour.RED if is_v else Colour.SOFT
        shapes.append(Text(x, top - 0.9, letter, 2.8, colour, Anchor.MIDDLE, is_bold=is_v))
        rr_s = float(times_s[beat] - times_s[beat - 1]) if beat > first else 0.0
        if rr_s >= _LABELLED_RR_S:
            shapes.append(
                Text(
                    x - rr_s * MM_PER_S / 2,
                    top - 0.9,
                    f"{rr_s * 1e3:.0f}",
                    2.0,
                    Colour.SOFT,
                    Anchor.MIDDLE,
                )
            )
    return shapes


_MOST_STEPS: Final = 13
_TIME_STEPS_S: Final = (
    *(60.0, 300.0, 600.0, 1800.0),
    *(hours * HOUR_S for hours in (1, 2, 3, 6, 12, 24)),
    MAX_DURATION_S / _MOST_STEPS,
)


class _Frame:
    """Axes of a chart: time or intervals to the right, a figure upwards."""

    def __init__(
        self,
        summary: RecordingSummary,
        low: float,
        high: float,
        *,
        title: str,
        span: tuple[float, float] | None = None,
    ) -> None:
        self._summary = summary
        self._low, self._high, self._title = low, high, title
        self._is_time = span is None
        self._first, self._last = span or (0.0, summary.beats.duration_s)

    def x(self, value: NDArray[np.floating] | float) -> NDArray[np.float64]:
        width = WIDTH_MM - _LEFT - _RIGHT
        share = (np.asarray(value) - self._first) / (self._last - self._first)
        return np.asarray(_LEFT + width * share)

    def y(self, value: NDArray[np.floating] | float) -> NDArray[np.float64]:
        height = _CHART_HEIGHT_MM - _TOP - _BOTTOM
        share = (np.asarray(value) - self._low) / (self._high - self._low)
        return np.asarray(_CHART_HEIGHT_MM - _BOTTOM - height * share)

    def axes(self) -> list[Shape]:
        shapes: list[Shape] = [Text(_LEFT, 3.2, self._title, 2.9, Colour.INK, is_bold=True)]
        span = self._high - self._low
        step = next((float(tick) for tick in _TICKS if span / tick <= 6), span / 4)
        for value in np.arange(self._low, self._high + step / 2, step).tolist():
            y = float(self.y(value))
            shapes.append(line(_LEFT, y, WIDTH_MM - _RIGHT, y, Colour.LINE))
            shapes.append(Text(_LEFT - 1, y + 0.8, f"{value:g}", 2.3, Colour.SOFT, Anchor.END))
        base = _CHART_HEIGHT_MM - _BOTTOM
        for value, label in self._ticks():
            x = float(self.x(value))
            shapes.append(line(x, base, x, base + 1, Colour.SOFT))
            shapes.append(Text(x, base + 4, label, 2.3, Colour.SOFT, Anchor.MIDDLE))
        return shapes

    def _ticks(self) -> list[tuple[float, str]]:
        if not self._is_time:
            return [(value, f"{value:.1f}") for value in np.arange(0.2, 2.01, 0.2).tolist()]
        duration_s = self._last
        step_s = next(step_s for step_s in _TIME_STEPS_S if duration_s / step_s <= _MOST_STEPS)
        if duration_s < 60.0:
            step_s = 10.0
        start_s = self._summary.start_clock_s
        first_s = -start_s % step_s if start_s is not None else 0.0
        times_s = np.arange(first_s, duration_s + 0.5, step_s).tolist()
        return [(time_s, self._summary.name_time(time_s)[:-3]) for time_s in times_s]

    def finish(self, shapes: list[Shape]) -> Drawing:
        return Drawing(
            width=WIDTH_MM, height=_CHART_HEIGHT_MM, shapes=tuple(shapes), title=self._title
        )


def _parts_of(values: NDArray[np.float64]) -> list[slice]:
    """Find the parts without a gap, which a line is drawn through."""
    return [slice(*span) for span in find_spans(np.isfinite(values))]


def _round_up(value: float) -> float:
    """Round up to 1, 2, 4, 5 or 8 times a power of ten, with some room above the bars."""
    power = 10.0 ** np.floor(np.log10(value * 1.1))
    return float(
        next(factor * power for factor in (1, 2, 4, 5, 8, 10) if factor * power >= value * 1.1)
    )
