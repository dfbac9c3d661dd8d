"""Messages about the beats of a live lead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.readability.findings import Finding
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason


class Mark(NamedTuple):
    """The end of the part of a stream whose beats are final."""

    block: int = 0
    """Number of final blocks."""
    position: int = 0
    """First sample after them; it lies between two beats."""


class LiveBeats(NamedTuple):
    """The beats from `start` to `stop`, which replace earlier ones from that stretch."""

    start: int
    stop: int
    is_final: bool
    mark: Mark
    """The mark after these beats."""
    r_peaks: NDArray[np.int64]
    """Positions in samples since the start of the stream, like `start` and `stop`."""
    is_v: NDArray[np.bool_]
    has_class: NDArray[np.bool_]
    probability_v: NDArray[np.float64]
    rr_prev_s: NDArray[np.float64]
    """NaN for the first beat, and after a gap."""
    quality: NDArray[np.str_]
    """``ok``, or why a beat has no class."""
    rule: NDArray[np.str_]
    unreadable: tuple[Stretch, ...]
    findings: tuple[Finding, ...]
    signal_quality: float
    """Mean of the new seconds, 0 to 1; NaN where there is nothing to judge."""

    def select(self, kept: slice) -> LiveBeats:
        """Return the same stretch with a part of its beats."""
        return self._replace(
            r_peaks=self.r_peaks[kept],
            is_v=self.is_v[kept],
            has_class=self.has_class[kept],
            probability_v=self.probability_v[kept],
            rr_prev_s=self.rr_prev_s[kept],
            quality=self.quality[kept],
            rule=self.rule[kept],
        )


def no_beats(start: int, stop: int, mark: Mark, *, is_final: bool) -> LiveBeats:
    """Return a stretch of missing samples, which has no beats."""
    nothing, names = np.zeros(0), np.zeros(0, dtype="U8")
    return LiveBeats(
        start=start,
        stop=stop,
        is_final=is_final,
        mark=mark,
        r_peaks=nothing.astype(np.int64),
        is_v=nothing.astype(np.bool_),
        has_class=nothing.astype(np.bool_),
        probability_v=nothing,
        rr_prev_s=nothing,
        quality=names,
        rule=names,
        unreadable=clip([Stretch(start, stop, UnreadableReason.MISSING)], start, stop),
        findings=(),
        signal_quality=0.0,
    )


Span = TypeVar("Span", Stretch, Finding)


def shift(span: Span, offset: int) -> Span:
    """Shift a stretch or finding by a number of samples."""
    return span._replace(start=span.start + offset, stop=span.stop + offset)


def clip(spans: Iterable[Span], first: int, last: int) -> tuple[Span, ...]:
    """Return the parts of stretches or findings between two samples."""
    clipped = [
        span._replace(start=max(first, span.start), stop=min(last, span.stop)) for span in spans
    ]
    return tuple(span for span in clipped if span.start < span.stop)
