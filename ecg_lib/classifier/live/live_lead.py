"""Classify the beats of a lead while it streams, with the code that classifies recordings.

Two windows move along the signal, and each goes the one path of every signal,
:meth:`ecg_lib.classifier.beat_classifier.BeatClassifier.classify`:

- once a second the last eight to ten seconds, as a strip: what it gives is new and *provisional*;
- once in two minutes a window of a quarter of an hour: ten minutes before these two minutes, they
  themselves, and three minutes after them. What it gives is *final*.

Three minutes of look-ahead, because what is conducted and what is ventricular shows when a new
shape stays; ten minutes of history for the same reason. Both were chosen on DS1, against the
analysis of the whole record (``make bench-live``).

The final beats follow from the samples alone: neither the size of the pieces in which they came,
nor a connection that broke in between, changes one of them. All that a next process must know is
the :class:`Mark` up to which beats are final, and the samples from
:attr:`LiveLead.needed_from` on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats
from ecg_lib.classifier.live.beats import LiveBeats, Mark, clip, no_beats, shift
from ecg_lib.classifier.live.provisional import Told
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
"""Longest gap that may be declared; after a longer one a stream must begin again."""

_GRID_S: Final = 2
"""Windows begin at multiples of it: the bins of the quality check, of 2 s, then stay in place."""

_SAME_BEAT_S: Final = 0.02
"""A beat that moves by no more than this from one look to the next stays where it was."""

_FIRST_LOOK_S: Final = 3.0

_SEAM_REACH_S: Final = 1.0
"""A seam lies so near to the end of its block at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """When a live lead is analysed, and how much of it."""

    look_every_s: float = 1.0
    strip_s: float = 8.0
    """Least length of what a look sees; up to 2 s more, as it begins on a grid."""
    settle_s: float = 0.25
    """A beat is given when so much of the signal after it is there."""
    warm_up_s: float = 4.0
    """Beats so near to the begin of a strip were seen better by the strips before."""
    block_s: float = 120.0
    """The final beats of so much signal come together."""
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
    """One lead that streams; for one thread at a time.

    Parameters
    ----------
    classifier : BeatClassifier
        May be replaced between two calls.
    fs : float
        Sampling rate in Hz, 100 to 1000.
    start : int
        Position of the first sample that will come.
    mark : Mark
        Up to where beats are final already, as another object of this class has told.
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
        self._samples = LiveSamples(start)
        self._seen_to = start
        """End of the samples at the last look."""
        self._told = Told(self.mark.position)
        self._recent = RecentLogits()

    @property
    def received_to(self) -> int:
        """The clock: position of the next sample."""
        return self._samples.stop

    @property
    def needed_from(self) -> int:
        """Position of the first sample that the beats after the mark may depend on."""
        return needed_from(self.mark, fs=self.fs, config=self.config)

    def append(self, samples_mv: NDArray[np.floating]) -> None:
        """Add samples in mV; NaN marks one that is missing.

        Raises
        ------
        InvalidSignalError
            If a sample is infinite or beyond 10 V, or the stream is longer than 14 days.

        """
        with np.errstate(invalid="ignore"):
            is_wrong = np.abs(samples_mv) > MAX_ABS_MV
        if is_wrong.any():
            msg = f"samples must be in mV, between -{MAX_ABS_MV:g} and {MAX_ABS_MV:g}"
            raise InvalidSignalError(msg)
        self._check_length(len(samples_mv))
        self._samples.append(samples_mv)

    def append_gap(self, n_samples: int) -> Iterator[LiveBeats]:
        """Move the clock by samples that were not recorded; yield what becomes final meanwhile.

        Raises
        ------
        InvalidSignalError
            If the gap is longer than a day, or the stream than 14 days.

        """
        if not 0 < n_samples <= MAX_GAP_S * self.fs:
            msg = f"a gap must last up to {MAX_GAP_S:g} s, got {n_samples} samples"
            raise InvalidSignalError(msg)
        self._check_length(n_samples)
        # Piece by piece, so that no more is held than of a signal.
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
        return self._is_block_due() or self.received_to - self._seen_to >= self._look_every

    @property
    def _look_every(self) -> int:
        return round(self.config.look_every_s * self.fs)

    def will_be_late(self, n_more: int) -> bool:
        """Return whether a beat would be given late if the next look waits for `n_more` samples."""
        return self.received_to + n_more - self._seen_to > self._look_every

    def settle(self) -> Iterator[LiveBeats]:
        """Yield the beats that are final now, block by block."""
        while self._is_block_due():
            yield self._end_block(self._edge(self.mark.block + 1), is_last=False)

    def look(self) -> LiveBeats | None:
        """Give what the last seconds hold, as far as it is new or other than it was given."""
        stop, told, fs = self.received_to, self._told, self.fs
        self._seen_to = stop
        warm_up = round(self.config.warm_up_s * fs)
        begin = min(stop - round(self.config.strip_s * fs), told.stop - warm_up)
        start = max(self._samples.start, self._on_grid(begin))
        last = stop - round(self.config.settle_s * fs)
        if stop - start < _FIRST_LOOK_S * fs or last <= told.stop:
            return None
        window = self._analyze(start, stop, core=(start, stop), is_final=False)
        first = max(told.start, start + warm_up if start > self._samples.start else start)
        found = self._cut(window, first, last, is_final=False, quality_from=told.stop)
        return told.update(found, within=round(_SAME_BEAT_S * fs))

    def finish(self) -> Iterator[LiveBeats]:
        """Yield the beats that are not final yet; nothing more can be added."""
        end = self.received_to
        while self.mark.position < end:
            edge = self._edge(self.mark.block + 1)
            yield self._end_block(min(edge, end), is_last=edge >= end)

    def _is_block_due(self) -> bool:
        ahead = round(self.config.ahead_s * self.fs)
        return self.received_to >= self._edge(self.mark.block + 1) + ahead

    def _edge(self, block: int) -> int:
        return round(block * self.config.block_s * self.fs)

    def _on_grid(self, position: int) -> int:
        """The last position at or before one at which a window may begin."""
        return round(int(position / self.fs / _GRID_S) * _GRID_S * self.fs)

    def _end_block(self, edge: int, *, is_last: bool) -> LiveBeats:
        start = max(self._samples.start, self.needed_from)
        stop = min(self.received_to, edge + round(self.config.ahead_s * self.fs))
        first = self.mark.position
        window = self._analyze(start, stop, core=(first, edge), is_final=True)
        seam = edge if is_last else max(first, _find_seam(window, edge, fs=self.fs))
        self.mark = Mark(self.mark.block + 1, seam)
        ended = self._cut(window, first, seam, is_final=True, quality_from=first)
        self._told.settle(seam)
        self._samples.forget(self.needed_from)
        return ended

    def _analyze(self, start: int, stop: int, *, core: tuple[int, int], is_final: bool) -> _Window:
        """Classify a window, less the missing samples at its ends, if its core has a sample."""
        samples = self._samples.read(start, stop)
        is_there = ~np.isnan(samples)
        if not is_there[max(0, core[0] - start) : max(0, core[1] - start)].any():
            return _Window(start, None)
        there, room = np.flatnonzero(is_there), round(_GRID_S * self.fs)
        # A gap within is bridged; of one at an end the edge is enough.
        first = max(start, self._on_grid(start + int(there[0]) - room))
        samples = samples[first - start : int(there[-1]) + 1 + room]
        least = int(np.ceil(MIN_DURATION_S * self.fs))
        if len(samples) < least:
            rest = np.full(least - len(samples), np.nan, dtype=np.float32)
            samples = np.concatenate([samples, rest])
        if is_final:
            return _Window(first, self.classifier.classify(samples, fs=self.fs))
        prepared = self.classifier.prepare(samples, fs=self.fs, finds_stray_line=False)
        logits = self._recent.predict(self.classifier, prepared, offset=first)
        return _Window(first, self.classifier.classify_prepared(prepared, logits=logits))

    def _cut(
        self, window: _Window, first: int, last: int, *, is_final: bool, quality_from: int
    ) -> LiveBeats:
        """Take what lies from `first` to `last`."""
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
            r_peaks=r_peaks[kept],
            is_v=classified.is_v[kept],
            has_class=classified.has_class[kept],
            probability_v=classified.probability_v[kept],
            rr_prev_s=prepared.rr_prev_s[kept],
            quality=prepared.beat_quality[kept],
            rule=classified.rule[kept],
            unreadable=join_stretches(clip(unreadable, first, last)),
            findings=clip([shift(one, offset) for one in prepared.findings], first, last),
            signal_quality=_mean(prepared.quality_per_second[seconds]),
        )


def needed_from(mark: Mark, *, fs: float, config: LiveConfig) -> int:
    """Return the position of the first sample that the beats after a mark may depend on."""
    return max(0, round((mark.block * config.block_s - config.history_s) * fs))


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
