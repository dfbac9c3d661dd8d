"""Classify the beats of a recording of any length up to a day, in bounded memory.

A recording of less than 45 minutes is classified as a whole, as a strip is. A longer one is taken
in equal parts of 22 to 38 minutes, as near as can be to half an hour, the length of the records
that the classifier is trained on, with a minute of room on both sides; each part goes the one
signal path, and of its beats those outside the room are kept. What this changes against the whole:
templates, and the scale of the signal, are those of the part and not of the day. Beats, RR
intervals and decisions were compared with the path over the whole signal
(``tests/ecg_lib/recordings/test_long_recordings.py``): the same beats within a sample, and the same
class for at least 99.9 % of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats
from ecg_lib.errors import InvalidSignalError
from ecg_lib.rhythm.morphology import cut_shapes
from ecg_lib.rhythm.run_evidence import find_credible
from ecg_lib.signal_path.readability.findings import (
    Finding,
    FindingKind,
    are_paced,
    are_readable,
    have_class,
)
from ecg_lib.signal_path.readability.quality import (
    Stretch,
    UnreadableReason,
    join_stretches,
)

PART_S: Final = 1800.0
ROOM_S: Final = 60.0
"""More than the detector, the quality check and the blocks of beats look around."""

MAX_INVALID_SHARE: Final = 0.5

Progress = Callable[[float], None]
"""Is given the share that is done, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordingBeats:
    """The beats of a recording, in time order; every array has one row for each R-peak."""

    r_peaks: NDArray[np.int64]
    """Positions in samples of the recording."""
    probability_v: NDArray[np.float64]
    is_v: NDArray[np.bool_]
    rule: NDArray[np.str_]
    rr_prev_s: NDArray[np.float64]
    """NaN for the first beat."""
    qrs_width_s: NDArray[np.float64]
    amplitude_mv: NDArray[np.float64]
    qrs_hz: NDArray[np.float64]
    t_peak_s: NDArray[np.float64]
    stray_line_hz: NDArray[np.float64]
    deflection: NDArray[np.float64]
    """See :class:`ecg_lib.signal_path.preprocessing.PreparedBeats`."""
    v_shapes: NDArray[np.float32]
    """Shapes of the V beats, see :func:`ecg_lib.rhythm.morphology.cut_shapes`."""
    quality: NDArray[np.str_]
    """``ok``, or why a beat has no class (``findings.BEAT_QUALITIES``)."""
    unreadable: tuple[Stretch, ...]
    """In samples of the recording, in time order."""
    findings: tuple[Finding, ...]
    """Suspicions, in samples of the recording."""
    quality_per_second: NDArray[np.float64]
    """See :class:`ecg_lib.signal_path.readability.findings.Judgement`."""
    n_samples: int
    invalid_samples: int
    """Samples that are NaN: missing."""
    fs: float
    threshold: float
    run_threshold: float
    is_helped: bool = False
    """True when another lead was used for the class of a beat."""

    def __len__(self) -> int:
        return len(self.r_peaks)

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return self.n_samples / self.fs

    @property
    def unreadable_s(self) -> float:
        """Seconds of it that cannot be read: flat, clipped, noise or missing."""
        return self._seconds(is_flutter=False)

    @property
    def missing_s(self) -> float:
        """Seconds of it that are missing, which `unreadable_s` counts too."""
        gaps = (s for s in self.unreadable if s.reason is UnreadableReason.MISSING)
        return sum(stretch.stop - stretch.start for stretch in gaps) / self.fs

    @property
    def flutter_s(self) -> float:
        """Seconds of it that are suspected to be flutter."""
        return self._seconds(is_flutter=True)

    def _seconds(self, *, is_flutter: bool) -> float:
        lengths = (
            stretch.stop - stretch.start
            for stretch in self.unreadable
            if (stretch.reason is UnreadableReason.FLUTTER) == is_flutter
        )
        return sum(lengths) / self.fs

    @property
    def readable_s(self) -> float:
        """Seconds of it that can be read; those of flutter are among them."""
        return self.duration_s - self.unreadable_s

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """See :func:`ecg_lib.signal_path.readability.findings.are_readable`."""
        return are_readable(self.quality)

    @property
    def is_paced(self) -> NDArray[np.bool_]:
        """See :func:`ecg_lib.signal_path.readability.findings.are_paced`."""
        return are_paced(self.quality)

    @property
    def has_class(self) -> NDArray[np.bool_]:
        """See :func:`ecg_lib.signal_path.readability.findings.have_class`."""
        return have_class(self.quality)

    @property
    def is_credible(self) -> NDArray[np.bool_]:
        """True for the V beats of which couplets and runs are made."""
        return find_credible(
            self.r_peaks,
            is_v=self.is_v,
            is_readable=self.is_readable,
            probability_v=self.probability_v,
            fs=self.fs,
            threshold=self.threshold,
            run_threshold=self.run_threshold,
            unreadable=self.unreadable,
        )


class _Part(NamedTuple):
    """Samples from `start` to `stop`, of which those from `first` to `last` count."""

    start: int
    first: int
    last: int
    stop: int


def classify_recording(
    signal_mv: NDArray[np.floating],
    *,
    fs: float,
    classifier: BeatClassifier,
    second_mv: NDArray[np.floating] | None = None,
    threads: int = 1,
    report: Progress | None = None,
) -> RecordingBeats:
    """Find and classify the beats of one lead.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        Samples in mV, NaN where one is missing; it may be a memory map.
    fs : float
        Sampling rate in Hz, 100 to 1000.
    classifier : BeatClassifier
    second_mv : ndarray of shape (n_samples,), optional
        Another lead of the same time, to be used in the classification.
    threads : int
        Parts that are worked on at a time.
    report : callable, optional
        Is given the share that is done.

    Returns
    -------
    RecordingBeats

    Raises
    ------
    InvalidSignalError
        If more than half of the samples are missing, or the signal cannot be prepared.
    InvalidSamplingRateError
        If `fs` is out of range.

    """
    parts = _divide(len(signal_mv), fs)
    found: list[RecordingBeats] = []
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(
            lambda part: _classify_part(signal_mv, second_mv, part, fs, classifier), parts
        )
        for number, result in enumerate(results, 1):
            found.append(result)
            if report is not None:
                report(number / len(parts))
    check_invalid(sum(part.invalid_samples for part in found), n_samples=len(signal_mv))
    return _join(found, parts, n_samples=len(signal_mv), fs=fs)


def check_invalid(n_invalid: int, *, n_samples: int) -> None:
    """Refuse a signal of which more than half is missing.

    Raises
    ------
    InvalidSignalError

    """
    if n_invalid > MAX_INVALID_SHARE * n_samples:
        msg = (
            f"at most {MAX_INVALID_SHARE:.0%} of the samples may be missing, "
            f"got {n_invalid} of {n_samples}"
        )
        raise InvalidSignalError(msg)


def _divide(n_samples: int, fs: float) -> list[_Part]:
    n_parts = max(1, round(n_samples / fs / PART_S))
    # Whole seconds, even ones: the bins of the quality check begin where those of the whole do.
    edges = [round(2 * round(n_samples / fs * part / n_parts / 2) * fs) for part in range(n_parts)]
    edges.append(n_samples)
    room = round(ROOM_S * fs)
    return [
        _Part(max(0, first - room), first, last, min(n_samples, last + room))
        for first, last in pairwise(edges)
    ]


def _classify_part(
    signal_mv: NDArray[np.floating],
    second_mv: NDArray[np.floating] | None,
    part: _Part,
    fs: float,
    classifier: BeatClassifier,
) -> RecordingBeats:
    """Classify a part; its beats are those of the room too, which :func:`_join` takes away."""
    samples = np.asarray(signal_mv[part.start : part.stop])
    is_invalid = np.isnan(samples)
    others = [] if second_mv is None else [np.asarray(second_mv[part.start : part.stop])]
    classified = classifier.classify(samples, others_mv=others, fs=fs)
    prepared = classified.prepared
    return RecordingBeats(
        r_peaks=classified.r_peaks + part.start,
        probability_v=classified.probability_v,
        is_v=classified.is_v,
        rule=classified.rule,
        rr_prev_s=prepared.rr_prev_s,
        qrs_width_s=prepared.qrs_width_s,
        amplitude_mv=prepared.amplitude_mv,
        qrs_hz=prepared.qrs_hz,
        t_peak_s=prepared.t_peak_s,
        stray_line_hz=prepared.stray_line_hz,
        deflection=prepared.deflection,
        v_shapes=_shapes_of(classified),
        quality=prepared.beat_quality,
        unreadable=_clip(prepared.unreadable, part),
        findings=_clip(prepared.findings, part),
        quality_per_second=_seconds_of(prepared.quality_per_second, part, fs),
        n_samples=part.last - part.first,
        invalid_samples=int(is_invalid[part.first - part.start : part.last - part.start].sum()),
        fs=fs,
        threshold=classified.threshold,
        run_threshold=classified.run_threshold,
        is_helped=classified.is_helped,
    )


def _shapes_of(classified: ClassifiedBeats) -> NDArray[np.float32]:
    # A copy: a view would keep the windows of all beats.
    return cut_shapes(classified.prepared.windows[classified.is_v, :, 0]).copy()


_Span = TypeVar("_Span", Stretch, Finding)


def _clip(spans: tuple[_Span, ...], part: _Part) -> tuple[_Span, ...]:
    """Give what of each span counts, in samples of the recording."""
    clipped = [
        span._replace(
            start=max(part.first, span.start + part.start),
            stop=min(part.last, span.stop + part.start),
        )
        for span in spans
    ]
    return tuple(span for span in clipped if span.start < span.stop)


def _seconds_of(per_second: NDArray[np.float64], part: _Part, fs: float) -> NDArray[np.float64]:
    """Take the seconds between the seams, which lie at whole seconds."""
    begin = round((part.first - part.start) / fs)
    return per_second[begin : begin + int(np.ceil((part.last - part.first) / fs - 0.01))]


def _join(
    found: list[RecordingBeats], parts: list[_Part], *, n_samples: int, fs: float
) -> RecordingBeats:
    """Take from each part the beats between its seams, which lie between two beats."""
    seams = [-1.0]
    for beats, part in zip(found[:-1], parts[:-1], strict=True):
        after = int(np.searchsorted(beats.r_peaks, part.last, side="right"))
        is_between = 0 < after < len(beats.r_peaks)
        seams.append(
            float(beats.r_peaks[after - 1 : after + 1].mean()) if is_between else part.last
        )
    seams.append(float(n_samples))
    kept = [
        (beats.r_peaks > low) & (beats.r_peaks <= high)
        for beats, low, high in zip(found, seams[:-1], seams[1:], strict=True)
    ]

    def joined(name: str) -> NDArray[np.generic]:
        columns = [getattr(beats, name)[keep] for beats, keep in zip(found, kept, strict=True)]
        return np.concatenate(columns)

    shapes = [beats.v_shapes[keep[beats.is_v]] for beats, keep in zip(found, kept, strict=True)]
    r_peaks = joined("r_peaks").astype(np.int64)
    return RecordingBeats(
        r_peaks=r_peaks,
        probability_v=joined("probability_v").astype(np.float64),
        is_v=joined("is_v").astype(np.bool_),
        rule=joined("rule").astype(np.str_),
        rr_prev_s=joined("rr_prev_s").astype(np.float64),
        qrs_width_s=joined("qrs_width_s").astype(np.float64),
        amplitude_mv=joined("amplitude_mv").astype(np.float64),
        qrs_hz=joined("qrs_hz").astype(np.float64),
        t_peak_s=joined("t_peak_s").astype(np.float64),
        stray_line_hz=joined("stray_line_hz").astype(np.float64),
        deflection=joined("deflection").astype(np.float64),
        v_shapes=np.concatenate(shapes),
        quality=joined("quality").astype(np.str_),
        unreadable=join_stretches(stretch for beats in found for stretch in beats.unreadable),
        findings=_merge_findings([finding for beats in found for finding in beats.findings]),
        quality_per_second=np.concatenate([beats.quality_per_second for beats in found]),
        n_samples=n_samples,
        invalid_samples=sum(beats.invalid_samples for beats in found),
        fs=fs,
        threshold=found[0].threshold,
        run_threshold=found[0].run_threshold,
        is_helped=any(beats.is_helped for beats in found),
    )


def _merge_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """Join what a seam has parted."""
    merged: list[Finding] = []
    of_kind: dict[FindingKind, int] = {}
    for finding in findings:
        place = of_kind.get(finding.kind)
        last = merged[place] if place is not None else None
        if place is not None and last is not None and last.stop >= finding.start:
            merged[place] = Finding(finding.kind, last.start, max(last.stop, finding.stop))
        else:
            of_kind[finding.kind] = len(merged)
            merged.append(finding)
    return tuple(merged)
