"""Score beats as EC57 and WFDB's ``bxb`` do.

A detection belongs to an annotation when both are within 150 ms
(:func:`ecg_lib.signal_path.r_peaks.matching.match_beats`). Of V: a matched V called V is a true
positive; a V that was called N, or not found, or lies where nothing could be read is a false
negative; a matched N or S called V, or a detection that belongs to no annotation called V, is a
false positive. F and Q called V do not count (EC57), and do in the strict variant. Detections and
annotations inside ventricular flutter are left out, and counted apart. ``bxb`` scores from minute
five on; here the start is an argument, and both are published. ``docs/evaluation.md`` lists where
the results differ from ``bxb``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.annotations import Annotations, subject_of
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatCounts:
    """Counts of the beats of one record, or of several added up."""

    beats: int = 0
    """Annotated beats, of any class."""
    found: int = 0
    """Annotated beats with a detection."""
    extra: int = 0
    """Detections without an annotation."""
    v_beats: int = 0
    v_found: int = 0
    """V beats with a detection, whatever it was called."""
    v_true: int = 0
    """V called V."""
    v_false: int = 0
    """N, S or no beat at all called V."""
    v_false_fq: int = 0
    """F or Q called V."""
    n_beats: int = 0
    """Annotated N and S beats."""
    n_true: int = 0
    """N or S called N."""
    n_wrong: int = 0
    """Matched N or S called V."""
    v_wrong: int = 0
    """Matched V called N."""
    other_true: int = 0
    """F, Q or no beat at all called N, which ``bxb`` counts among what is rightly not V."""
    abstained: int = 0
    """Matched detections that were reported as unreadable."""
    in_flutter: int = 0
    """Annotations and detections inside flutter, in none of the above."""
    s_beats: int = 0
    """Annotated S beats, which `n_beats` counts too."""
    s_wrong: int = 0
    """Matched S called V."""

    def __add__(self, other: Self) -> Self:
        return type(self)(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    @property
    def qrs_sensitivity(self) -> float:
        """Share of the annotated beats that were found (QRS Se)."""
        return _ratio(self.found, self.beats)

    @property
    def qrs_predictivity(self) -> float:
        """Share of the detections that are beats (QRS +P)."""
        return _ratio(self.found, self.found + self.extra)

    @property
    def v_sensitivity(self) -> float:
        """VEB Se."""
        return _ratio(self.v_true, self.v_beats)

    @property
    def v_predictivity(self) -> float:
        """VEB +P."""
        return _ratio(self.v_true, self.v_true + self.v_false)

    @property
    def v_f1(self) -> float:
        """Harmonic mean of VEB Se and +P."""
        return _ratio(2 * self.v_true, self.v_true + self.v_false + self.v_beats)

    @property
    def v_f1_strict(self) -> float:
        """F1 with F and Q called V counted as false."""
        return _ratio(2 * self.v_true, self.v_true + self.v_false + self.v_false_fq + self.v_beats)

    @property
    def v_false_positive_rate(self) -> float:
        """Share of what is not V that was called V (VEB FPR = FP / (TN + FP))."""
        return _ratio(self.v_false, self.n_true + self.other_true + self.v_false)

    @property
    def s_called_v(self) -> float:
        """Share of the S beats that were called V."""
        return _ratio(self.s_wrong, self.s_beats)

    @property
    def unreadable_share(self) -> float:
        """Share of the detected beats that were reported as unreadable."""
        return _ratio(self.abstained, self.found)

    @property
    def accuracy(self) -> float:
        """Share of the matched, readable N, S and V beats that got the right class."""
        right = self.n_true + self.v_true
        return _ratio(right, right + self.n_wrong + self.v_wrong)

    @property
    def accuracy_with_detection(self) -> float:
        """Accuracy with missed N, S and V beats and extra detections counted as wrong."""
        right = self.n_true + self.v_true
        return _ratio(right, self.n_beats + self.v_beats + self.extra)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


TRUTHS: Final = ("N", "S", "V", "F", "Q", "O")
"""Rows of the beat-by-beat table: the AAMI class of the annotation, or O for none."""

CALLS: Final = ("N", "V", "unreadable", "missed")
"""Columns of the beat-by-beat table: what was reported; the last is ``bxb``'s column o."""


class _Compared(NamedTuple):
    """Both sides of a comparison, and which of them count."""

    classes: NDArray[np.str_]
    """AAMI class of each annotated beat."""
    is_found: NDArray[np.bool_]
    counts_beat: NDArray[np.bool_]
    truth: NDArray[np.str_]
    """One of :data:`TRUTHS` for each detection."""
    counts_found: NDArray[np.bool_]
    in_flutter: int


def score_beats(
    annotations: Annotations,
    *,
    detections: NDArray[np.int64],
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_] | None = None,
    fs: float,
    start_s: float = 0.0,
    stop_s: float = float("inf"),
    tolerance_s: float = MATCH_TOLERANCE_S,
) -> BeatCounts:
    """Score the beats of one record against its annotations.

    Parameters
    ----------
    annotations : Annotations
        Reference annotations.
    detections : ndarray of int64, shape (n_detections,)
        Ascending positions in samples of the record.
    is_v : ndarray of bool, shape (n_detections,)
        True where the detection was called V.
    is_readable : ndarray of bool, shape (n_detections,), optional
        False where the detection was reported as unreadable; its class then does not count, and
        a V beat there is missed.
    fs : float
        Sampling rate of the record in Hz.
    start_s, stop_s : float
        Annotations and detections outside are left out, after matching.
    tolerance_s : float
        Largest distance of a detection from its annotation in seconds.

    Returns
    -------
    BeatCounts

    """
    readable = np.ones(len(detections), dtype=np.bool_) if is_readable is None else is_readable
    compared = _compare(
        annotations, detections, fs=fs, start_s=start_s, stop_s=stop_s, tolerance_s=tolerance_s
    )
    classes, is_found, counts_beat, truth, counts_found, in_flutter = compared
    called_v = is_v & readable & counts_found
    called_n = ~is_v & readable & counts_found
    is_n = np.isin(truth, ["N", "S"])
    is_fq = np.isin(truth, ["F", "Q"])
    is_extra = truth == "O"
    v_beats = counts_beat & (classes == "V")
    return BeatCounts(
        beats=int(counts_beat.sum()),
        found=int((counts_beat & is_found).sum()),
        extra=int((counts_found & is_extra).sum()),
        v_beats=int(v_beats.sum()),
        v_found=int((v_beats & is_found).sum()),
        v_true=int((called_v & (truth == "V")).sum()),
        v_false=int((called_v & (is_n | is_extra)).sum()),
        v_false_fq=int((called_v & is_fq).sum()),
        n_beats=int((counts_beat & np.isin(classes, ["N", "S"])).sum()),
        n_true=int((called_n & is_n).sum()),
        n_wrong=int((called_v & is_n).sum()),
        v_wrong=int((called_n & (truth == "V")).sum()),
        other_true=int((called_n & (is_fq | is_extra)).sum()),
        abstained=int((counts_found & ~is_extra & ~readable).sum()),
        in_flutter=in_flutter,
        s_beats=int((counts_beat & (classes == "S")).sum()),
        s_wrong=int((called_v & (truth == "S")).sum()),
    )


def tabulate_beats(
    annotations: Annotations,
    *,
    detections: NDArray[np.int64],
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_] | None = None,
    fs: float,
    start_s: float = 0.0,
    stop_s: float = float("inf"),
) -> NDArray[np.int64]:
    """Count beats by what they are and what they were called, as the table of ``bxb`` does.

    Parameters are those of :func:`score_beats`.

    Returns
    -------
    ndarray of int64, shape (len(TRUTHS), len(CALLS))
        No extra detection can be missed, so the last cell is 0.

    """
    readable = np.ones(len(detections), dtype=np.bool_) if is_readable is None else is_readable
    compared = _compare(annotations, detections, fs=fs, start_s=start_s, stop_s=stop_s)
    missed = compared.counts_beat & ~compared.is_found
    calls = (~is_v & readable, is_v & readable, ~readable)
    table = np.zeros((len(TRUTHS), len(CALLS)), dtype=np.int64)
    for row, truth in enumerate(TRUTHS):
        is_row = compared.counts_found & (compared.truth == truth)
        table[row, :-1] = [int((is_row & call).sum()) for call in calls]
        table[row, -1] = int((missed & (compared.classes == truth)).sum())
    return table


def _compare(
    annotations: Annotations,
    detections: NDArray[np.int64],
    *,
    fs: float,
    start_s: float,
    stop_s: float,
    tolerance_s: float = MATCH_TOLERANCE_S,
) -> _Compared:
    beats, classes = annotations.beat_samples, annotations.beat_classes
    beat_in_flutter = annotations.is_in_flutter(beats)
    found_in_flutter = annotations.is_in_flutter(detections)
    match = match_beats(beats, detections, tolerance=round(tolerance_s * fs))

    first, last = start_s * fs, stop_s * fs
    beat_in_time = (beats >= first) & (beats < last)
    # A matched detection is counted with its annotation, an extra one by its own position.
    is_matched = match.of_detected >= 0
    matched = match.of_detected[is_matched]
    found_in_time = (detections >= first) & (detections < last)
    found_in_time[is_matched] = beat_in_time[matched]
    found_in_flutter[is_matched] = beat_in_flutter[matched]
    truth = np.full(len(detections), "O")
    truth[is_matched] = classes[matched]
    return _Compared(
        classes=classes,
        is_found=match.of_reference >= 0,
        counts_beat=beat_in_time & ~beat_in_flutter,
        truth=truth,
        counts_found=found_in_time & ~found_in_flutter,
        in_flutter=int(
            (beat_in_time & beat_in_flutter).sum() + (found_in_time & found_in_flutter).sum()
        ),
    )


def add_up(counts: Sequence[BeatCounts]) -> BeatCounts:
    """Add up the counts of several records (EC57's gross statistics)."""
    return sum(counts[1:], counts[0]) if counts else BeatCounts()


def by_subject(
    counts: Mapping[str, BeatCounts], subjects: Mapping[str, str] | None = None
) -> dict[str, BeatCounts]:
    """Add up the counts of records of one person.

    Parameters
    ----------
    counts : mapping of str to BeatCounts
        By record.
    subjects : mapping of str to str, optional
        The person of a record, where its name does not tell.

    """
    known = subjects or {}
    added: dict[str, BeatCounts] = {}
    for name, record_counts in counts.items():
        subject = known.get(name) or subject_of(name)
        added[subject] = added.get(subject, BeatCounts()) + record_counts
    return added


NO_BEAT: Final = "-"
"""Label of a detection that belongs to no annotated beat."""


IN_FLUTTER: Final = "!"
"""Label of a detection inside ventricular flutter, which is neither trained nor scored."""


def label_beats(
    annotations: Annotations, r_peaks: NDArray[np.int64], *, fs: float
) -> NDArray[np.str_]:
    """Give each detection the class of its annotation.

    Returns
    -------
    ndarray of str, shape of `r_peaks`
        One of ``N S V F Q``, :data:`NO_BEAT` or :data:`IN_FLUTTER`.

    """
    match = match_beats(annotations.beat_samples, r_peaks, tolerance=round(MATCH_TOLERANCE_S * fs))
    labels = np.full(len(r_peaks), NO_BEAT, dtype="U1")
    is_matched = match.of_detected >= 0
    labels[is_matched] = annotations.beat_classes[match.of_detected[is_matched]]
    labels[annotations.is_in_flutter(r_peaks)] = IN_FLUTTER
    return labels
