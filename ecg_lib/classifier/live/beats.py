"""The beats of a stretch of a lead that streams, and up to where they are final."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.readability.findings import Finding
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason


class Mark(NamedTuple):
    """Up to where beats are final."""

    block: int = 0
    """Blocks that are final."""
    position: int = 0
    """First sample whose beats are not; it lies between two beats."""


class LiveBeats(NamedTuple):
    """The beats from `start` to `stop`, which replace those that were given there before."""

    start: int
    stop: int
    is_final: bool
    mark: Mark
    """Up to where beats are final now."""
    r_peaks: NDArray[np.int64]
    """Positions in samples since the begin of the stream; so are `start` and `stop`."""
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
    """Mean of the seconds that are new in it, 0 to 1; NaN where there is nothing to judge."""


def no_beats(start: int, stop: int, mark: Mark, *, is_final: bool) -> LiveBeats:
    """Return the answer for missing samples."""
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


_Span = TypeVar("_Span", Stretch, Finding)


def shift(span: _Span, offset: int) -> _Span:
    """Move a stretch or finding by some samples."""
    return span._replace(start=span.start + offset, stop=span.stop + offset)


def clip(spans: Iterable[_Span], first: int, last: int) -> tuple[_Span, ...]:
    """Give what of each stretch or finding lies between two samples."""
    clipped = [
        span._replace(start=max(first, span.start), stop=min(last, span.stop)) for span in spans
    ]
    return tuple(span for span in clipped if span.start < span.stop)
