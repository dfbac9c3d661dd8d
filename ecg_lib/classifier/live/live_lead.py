"""Classify the beats of a live lead, with the code that classifies recordings.

Two windows move along the signal. Both are classified by
:meth:`ecg_lib.classifier.beat_classifier.BeatClassifier.classify`, as every signal is:

- once a second the last eight to ten seconds, as a strip. Its beats are *provisional*;
- once in two minutes a window of a quarter of an hour: the two minutes, with ten minutes before
  and three minutes after them. The beats of the two minutes are *final*.

Whether a new shape is conducted or ventricular shows only when it stays; hence the history and the
look-ahead. Both were chosen on DS1, against the analysis of the whole record (``make bench-live``).

The final beats depend on the samples alone: not on the size of the pieces in which these came, nor
on breaks of the connection. Another process can continue a stream from its :class:`Mark` and the
samples from :attr:`LiveLead.needed_from` on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats
from ecg_lib.classifier.live.beats import LiveBeats, Mark, clip, no_beats, shift
from ecg_lib.classifier.live.provisional import ReportedBeats
from ecg_lib.classifier.live.recent_logits import RecentLogits
from ecg_lib.classifier.live.samples import LiveSamples
from ecg_lib.errors import InvalidSignalError
from ecg_lib.records.limits import MAX_ABS_MV, MAX_DURATION_S, check_sampling_rate
from ecg_lib.signal_path.preprocessing import MIN_DURATION_S
from ecg_lib.signal_path.readability.quality import (
    Stretch,
    UnreadableReason,
    join_stretches,
)

MAX_GAP_S: Final = 24 * 3600.0
"""Longest gap that may be declared; after a longer one a new stream must be started."""

_GRID_S: Final = 2
"""Windows start at multiples of it, so that the 2 s bins of the quality check stay in place."""

_SAME_BEAT_S: Final = 0.02
"""A beat that moves by no more than this from one look to the next is not reported again."""

_FIRST_LOOK_S: Final = 3.0

_SEAM_REACH_S: Final = 1.0
"""Largest distance of a seam from the end of its block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """When a live lead is analysed, and how much of it."""

    look_every_s: float = 1.0
    strip_s: float = 8.0
    """Least length of the window of a look; it is up to 2 s longer, as it starts on a grid."""
    settle_s: float = 0.25
    """Signal needed after a beat before it is reported."""
    warm_up_s: float = 4.0
    """Beats this near to the start of a strip are left to the strips before."""
    block_s: float = 120.0
    """Signal whose final beats are reported together."""
    ahead_s: float = 180.0
    history_s: float = 600.0

    def __post_init__(self) -> None:
        if self.block_s % _GRID_S or self.history_s % _GRID_S:
            msg = (
                f"blocks and history must be multiples of {_GRID_S} s, "
                f"got {self.block_s} and {self.history_s}"
            )
            raise ValueError(msg)

    @property
    def final_after_s(self) -> float:
        """Longest time in seconds after which a beat is final."""
        return self.block_s + self.ahead_s


class _Window(NamedTuple):
    """A part of the stream that was analysed."""

    start: int
    beats: ClassifiedBeats | None
    """None where every sample is missing."""


class LiveLead:
    """A live lead; not safe for several threads at a time.

    Parameters
    ----------
    classifier : BeatClassifier
        May be replaced between two calls.
    fs : float
        Sampling rate in Hz, 100 to 1000.
    start : int
        Position of the first sample that will come.
    mark : Mark
        Where the final beats end that another object of this class has reported.
    config : LiveConfig, optional

    Raises
    ------
    InvalidSamplingRateError
        If `fs` is out of range.
    InvalidSignalError
        If `mark` is not one that a stream of this rate can have.

    """

    def __init__(
        self,
        classifier: BeatClassifier,
        *,
        fs: float,
        start: int = 0,
        mark: Mark | None = None,
        config: LiveConfig | None = None,
    ) -> None:
        check_sampling_rate(fs)
        self.classifier = classifier
        self.fs = fs
        self.config = config or LiveConfig()
        self.mark = mark or Mark()
        _check_mark(self.mark, self._edge(self.mark.block), fs=fs)
        self._next_block_at = self._find_next_block()
        self._look_every = round(self.config.look_every_s * fs)
        self._samples = LiveSamples(start)
        self._seen_to = start
        """End of the samples at the last look."""
        self._reported = ReportedBeats(self.mark.position)
        self._recent = RecentLogits()

    @property
    def received_to(self) -> int:
        """The clock: position of the next sample."""
        return self._samples.stop

    @property
    def needed_from(self) -> int:
        """Position of the first sample that beats after the mark may depend on."""
        return needed_from(self.mark, fs=self.fs, config=self.config)

    def append(self, samples_mv: NDArray[np.floating]) -> None:
        """Add samples in mV; NaN marks one that is missing.

        Raises
        ------
        InvalidSignalError
            If a sample is infinite or beyond 10 V, or the stream is longer than 14 days.

        """
        if not _are_possible(samples_mv):
            msg = f"samples must be in mV, between -{MAX_ABS_MV:g} and {MAX_ABS_MV:g}"
            raise InvalidSignalError(msg)
        self._check_length(len(samples_mv))
        self._samples.append(samples_mv)

    def append_gap(self, n_samples: int) -> Iterator[LiveBeats]:
        """Add samples that were not recorded; yield the beats that become final meanwhile.

        Raises
        ------
        InvalidSignalError
            If the gap is longer than a day, or the stream than 14 days.

        """
        if not 0 < n_samples <= MAX_GAP_S * self.fs:
            msg = f"a gap must last up to {MAX_GAP_S:g} s, got {n_samples} samples"
            raise InvalidSignalError(msg)
        self._check_length(n_samples)
        # Piece by piece, so that a gap takes no more memory than a signal.
        piece = round(self.config.block_s * self.fs)
        for done in range(0, n_samples, piece):
            self._samples.append_missing(min(piece, n_samples - done))
            yield from self.settle()

    def _check_length(self, n_more: int) -> None:
        if (self.received_to + n_more) / self.fs > MAX_DURATION_S:
            msg = f"a stream may last {MAX_DURATION_S / 86400:g} days; begin another one"
            raise InvalidSignalError(msg)

    @property
    def is_due(self) -> bool:
        """True when :meth:`settle` or :meth:`look` has something to do."""
        return self.is_block_due or self.received_to - self._seen_to >= self._look_every

    @property
    def is_block_due(self) -> bool:
        """True when :meth:`settle` has something to do."""
        return self.received_to >= self._next_block_at

    def will_be_late(self, n_more: int) -> bool:
        """Return whether beats would be late if the next look waited for `n_more` samples."""
        return self.received_to + n_more - self._seen_to > self._look_every

    def settle(self) -> Iterator[LiveBeats]:
        """Yield the beats that are final now, block by block."""
        while self.is_block_due:
            yield self._end_block(self._edge(self.mark.block + 1), is_last=False)

    def look(self) -> LiveBeats | None:
        """Return the new and changed beats of the last seconds; None if it is too early."""
        stop, reported, fs = self.received_to, self._reported, self.fs
        self._seen_to = stop
        warm_up = round(self.config.warm_up_s * fs)
        begin = min(stop - round(self.config.strip_s * fs), reported.stop - warm_up)
        start = max(self._samples.start, self._on_grid(begin))
        last = stop - round(self.config.settle_s * fs)
        if stop - start < _FIRST_LOOK_S * fs or last <= reported.stop:
            return None
        window = self._analyze(start, stop, core=(start, stop), is_final=False)
        first = max(reported.start, start + warm_up if start > self._samples.start else start)
        found = self._cut(window, first, last, is_final=False, quality_from=reported.stop)
        return reported.update(found, within=round(_SAME_BEAT_S * fs))

    def finish(self) -> Iterator[LiveBeats]:
        """Yield the beats that are not final yet, as final ones; ends the stream."""
        end = self.received_to
        while self.mark.position < end:
            edge = self._edge(self.mark.block + 1)
            yield self._end_block(min(edge, end), is_last=edge >= end)

    def _find_next_block(self) -> int:
        """Find the position that must be received before the next block is analysed."""
        return self._edge(self.mark.block + 1) + round(self.config.ahead_s * self.fs)

    def _edge(self, block: int) -> int:
        return round(block * self.config.block_s * self.fs)

    def _on_grid(self, position: int) -> int:
        """Return the last position up to `position` at which a window may start."""
        return round(int(position / self.fs / _GRID_S) * _GRID_S * self.fs)

    def _end_block(self, edge: int, *, is_last: bool) -> LiveBeats:
        start = max(self._samples.start, self.needed_from)
        stop = min(self.received_to, edge + round(self.config.ahead_s * self.fs))
        first = self.mark.position
        window = self._analyze(start, stop, core=(first, edge), is_final=True)
        seam = edge if is_last else max(first, _find_seam(window, edge, fs=self.fs))
        self.mark = Mark(self.mark.block + 1, seam)
        self._next_block_at = self._find_next_block()
        ended = self._cut(window, first, seam, is_final=True, quality_from=first)
        self._reported.settle(seam)
        self._samples.forget(self.needed_from)
        return ended

    def _analyze(self, start: int, stop: int, *, core: tuple[int, int], is_final: bool) -> _Window:
        """Classify a window without the missing samples at its ends, if its core has samples."""
        samples = self._samples.read(start, stop)
        is_there = ~np.isnan(samples)
        if not is_there[max(0, core[0] - start) : max(0, core[1] - start)].any():
            return _Window(start, None)
        there, room = np.flatnonzero(is_there), round(_GRID_S * self.fs)
        # Gaps within are bridged. Of a gap at an end, its edge is enough.
        first = max(start, self._on_grid(start + int(there[0]) - room))
        samples = samples[first - start : int(there[-1]) + 1 + room]
        least = int(np.ceil(MIN_DURATION_S * self.fs))
        if len(samples) < least:
            rest = np.full(least - len(samples), np.nan, dtype=np.float32)
            samples = np.concatenate([samples, rest])
        prepared = self.classifier.prepare(samples, fs=self.fs, measures_plausibility=False)
        if is_final:
            return _Window(first, self.classifier.classify_prepared(prepared))
        logits = self._recent.predict(self.classifier, prepared, offset=first)
        return _Window(first, self.classifier.classify_prepared(prepared, logits=logits))

    def _cut(
        self, window: _Window, first: int, last: int, *, is_final: bool, quality_from: int
    ) -> LiveBeats:
        """Return the part of a window from `first` to `last`."""
        classified, offset = window.beats, window.start
        if classified is None:
            return no_beats(first, last, self.mark, is_final=is_final)
        prepared = classified.prepared
        r_peaks = classified.r_peaks + offset
        kept = slice(*np.searchsorted(r_peaks, [first, last]).tolist())
        end = offset + round(prepared.duration_s * self.fs)
        unreadable = [
            Stretch(first, offset, UnreadableReason.MISSING),
            *(shift(one, offset) for one in prepared.unreadable),
            Stretch(end, last, UnreadableReason.MISSING),
        ]
        seconds = slice(
            max(0, int((quality_from - offset) / self.fs)),
            max(1, int(np.ceil((last - offset) / self.fs))),
        )
        return LiveBeats(
            start=first,
            stop=last,
            is_final=is_final,
            mark=self.mark,
            r_peaks=r_peaks,
            is_v=classified.is_v,
            has_class=classified.has_class,
            probability_v=classified.probability_v,
            rr_prev_s=prepared.rr_prev_s,
            quality=prepared.beat_quality,
            rule=classified.rule,
            unreadable=join_stretches(clip(unreadable, first, last)),
            findings=clip([shift(one, offset) for one in prepared.findings], first, last),
            signal_quality=_mean(prepared.quality_per_second[seconds]),
        ).select(kept)


def needed_from(mark: Mark, *, fs: float, config: LiveConfig) -> int:
    """Return the position of the first sample that beats after a mark may depend on."""
    return max(0, round((mark.block * config.block_s - config.history_s) * fs))


def _are_possible(samples_mv: NDArray[np.floating]) -> bool:
    """Return whether all samples are missing or within the limits."""
    largest = float(np.maximum.reduce(np.abs(samples_mv), initial=0.0))
    if largest <= MAX_ABS_MV:  # without a missing sample
        return True
    with np.errstate(invalid="ignore"):
        return not bool((np.abs(samples_mv) > MAX_ABS_MV).any())


def _check_mark(mark: Mark, edge: int, *, fs: float) -> None:
    """Reject a mark that is not at the end of its block.

    Raises
    ------
    InvalidSignalError

    """
    reach = round(_SEAM_REACH_S * fs) if mark.block else 0
    if mark.block < 0 or abs(mark.position - edge) > reach:
        msg = (
            f"the mark after {mark.block} blocks must lie within {reach} samples of {edge}, "
            f"got {mark.position}"
        )
        raise InvalidSignalError(msg)


def _find_seam(window: _Window, edge: int, *, fs: float) -> int:
    """Find a place between the last beat up to `edge` and the first one after it."""
    if window.beats is None:
        return edge
    r_peaks = window.beats.r_peaks + window.start
    after = int(np.searchsorted(r_peaks, edge, side="right"))
    if not 0 < after < len(r_peaks):
        return edge
    middle = int(r_peaks[after - 1] + r_peaks[after] + 1) // 2
    reach = round(_SEAM_REACH_S * fs)
    return min(max(middle, edge - reach), edge + reach)


def _mean(per_second: NDArray[np.float64]) -> float:
    known = per_second[~np.isnan(per_second)]
    return float(known.mean()) if len(known) else float("nan")
