"""Choose the errors of an evaluation that the report shows, with the strip around each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.evaluation.report.conditions import Calls, truth_of
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.record import Record
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats

ERROR_SPAN_S: Final = 6.0
"""Length of the strip around an error."""

NO_CALL: Final = "-"
"""Call of a beat without a detection."""

NO_CLASS: Final = "~"
"""Call of a detection that was reported as unreadable or paced."""

_KEPT: Final = 3
"""Of each record and kind, so many errors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeatError:
    """A V beat that was not called V, or a detection called V that is not V."""

    record: str
    lead: str
    time_s: float
    truth: str
    """AAMI class, or O for no beat."""
    call: str
    """N, V, :data:`NO_CALL` or :data:`NO_CLASS`."""
    probability_v: float | None
    rule: str
    strip_start_s: float
    beats: tuple[tuple[float, str, str], ...]
    """Time, truth and call of what was detected in the strip, or missed."""
    fs: float
    strip_mv: NDArray[np.float32]
    """The lead in the strip."""


def find_errors(
    record: Record,
    *,
    lead: str,
    annotations: Annotations,
    calls: Calls,
) -> tuple[BeatError, ...]:
    """Find the first V beats without detection or class, and the surest false and wrong calls."""
    truth = truth_of(annotations, calls.detections, fs=record.fs)
    time_s = calls.detections / record.fs
    missed_s = _missed_v(annotations, calls, fs=record.fs) / record.fs
    words = [
        (float(at), str(is_), _word(calls, index))
        for index, (at, is_) in enumerate(zip(time_s, truth, strict=True))
    ]
    beats = sorted([*words, *((float(at), "V", NO_CALL) for at in missed_s)])
    signal = record.signal_mv(lead)
    is_false = calls.is_v & np.isin(truth, ["N", "S", "O"])
    is_wrong = calls.has_class & ~calls.is_v & (truth == "V")
    chosen: list[tuple[float, str, str, float | None, str]] = [
        (float(at), "V", NO_CALL, None, "") for at in missed_s[:_KEPT]
    ]
    abstained = np.flatnonzero(~calls.has_class & (truth == "V"))[:_KEPT]
    chosen += [(*words[index], None, "") for index in abstained.tolist()]
    for is_error, sign in ((is_false, -1.0), (is_wrong, 1.0)):
        at = np.flatnonzero(is_error)
        surest = at[np.argsort(sign * calls.probability_v[at], kind="stable")][:_KEPT]
        chosen += [
            (*words[index], float(calls.probability_v[index]), str(calls.rule[index]))
            for index in surest.tolist()
        ]
    errors = []
    for at_s, is_, call, probability_v, rule in chosen:
        latest_s = max(record.duration_s - ERROR_SPAN_S, 0.0)
        start_s = min(max(at_s - ERROR_SPAN_S / 2, 0.0), latest_s)
        first = round(start_s * record.fs)
        errors.append(
            BeatError(
                record=record.name,
                lead=lead,
                time_s=at_s,
                truth=is_,
                call=call,
                probability_v=probability_v,
                rule=rule,
                strip_start_s=start_s,
                beats=tuple(b for b in beats if start_s <= b[0] < start_s + ERROR_SPAN_S),
                fs=record.fs,
                strip_mv=signal[first : first + round(ERROR_SPAN_S * record.fs)],
            )
        )
    return tuple(errors)


def _missed_v(annotations: Annotations, calls: Calls, *, fs: float) -> NDArray[np.int64]:
    beats = annotations.beat_samples
    match = match_beats(beats, calls.detections, tolerance=round(MATCH_TOLERANCE_S * fs))
    is_missed = (annotations.beat_classes == "V") & (match.of_reference < 0)
    is_missed &= ~annotations.is_in_flutter(beats)
    return np.asarray(beats[is_missed])


def _word(calls: Calls, index: int) -> str:
    if not calls.has_class[index]:
        return NO_CLASS
    return "V" if calls.is_v[index] else "N"
