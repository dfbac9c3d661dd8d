"""Write a released classifier's beats as WFDB annotations, and print them for one recording."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier import BeatClassifier, ClassifiedBeats, require_readable
from ecg_lib.errors import InvalidSignalError
from ecg_lib.findings import list_alarms
from ecg_lib.recording_analysis import list_annotations
from ecg_lib.records import Record, read_record, read_wfdb, write_annotations
from ecg_lib.rhythm import summarize_rhythm
from ecg_lib.risk import assess_risk

logger = logging.getLogger(__name__)

ANNOTATOR: Final = "pvc"
"""Extension of the annotation files."""

MIN_PREDICTION_S: Final = 10.0
_MAX_INVALID_SHARE: Final = 0.5


class Annotated(NamedTuple):
    """What was written for one record."""

    path: Path
    lead: str
    beats: int
    v_beats: int
    unreadable_s: float
    invalid_samples: int
    """Samples that the file marks as invalid, and that were bridged."""


def annotate_record(
    path: Path, *, classifier: BeatClassifier, output_dir: Path, lead: str | None = None
) -> Annotated:
    """Write ``RECORD.pvc`` with a symbol for every detection.

    ``N`` or ``V``, ``/`` for paced beats, ``Q`` between ``~`` marks where nothing can be read, and
    ``!`` between ``[`` and ``]`` in suspected flutter; see
    :func:`ecg_lib.recording_analysis.list_annotations`.

    Args:
        path: A WFDB record.
        classifier: The classifier to use.
        output_dir: Where the file goes.
        lead: Name of the lead; MLII, else the first, when left out.
    """
    record = read_wfdb(path)
    name = record.choose_lead(lead)
    signal, n_invalid = bridge_invalid(record.signal_mv(name), record=record)
    classified = classifier.classify(signal, fs=record.fs)
    samples, symbols = list_annotations(
        classified.r_peaks,
        is_v=classified.is_v,
        quality=classified.prepared.beat_quality,
        unreadable=classified.prepared.unreadable,
    )
    written = write_annotations(
        output_dir / record.name,
        extension=ANNOTATOR,
        samples=samples,
        symbols=symbols,
        fs=record.fs,
    )
    return Annotated(
        path=written,
        lead=name,
        beats=len(classified),
        v_beats=int(classified.is_v.sum()),
        unreadable_s=classified.prepared.unreadable_s,
        invalid_samples=n_invalid,
    )


def bridge_invalid(
    signal_mv: NDArray[np.float32], *, record: Record
) -> tuple[NDArray[np.float32], int]:
    """Bridge samples that the file marks as invalid by straight lines, and count them.

    A long bridge is flat to the eye of the quality check, and so reported as unreadable.

    Raises:
        InvalidSignalError: If more than half of the samples are invalid.
    """
    is_valid = np.isfinite(signal_mv)
    n_invalid = int((~is_valid).sum())
    if n_invalid > _MAX_INVALID_SHARE * len(signal_mv):
        msg = (
            f"at most {_MAX_INVALID_SHARE:.0%} of the samples of record {record.name} may be "
            f"invalid, got {n_invalid} of {len(signal_mv)}"
        )
        raise InvalidSignalError(msg)
    if n_invalid == 0:
        return signal_mv, 0
    at = np.arange(len(signal_mv))
    bridged = np.interp(at, at[is_valid], signal_mv[is_valid])
    return bridged.astype(np.float32), n_invalid


class Prediction(NamedTuple):
    """The classified beats of one recording."""

    record: Record
    lead: str
    classified: ClassifiedBeats
    invalid_samples: int


def predict_file(
    path: Path, *, classifier: BeatClassifier, lead: str | None = None, fs: float | None = None
) -> Prediction:
    """Classify the beats of a file: WFDB, EDF, CSV or NPY.

    Raises:
        InvalidSignalError: If it is too short or cannot be read.
    """
    record = read_record(path, fs=fs)
    if record.duration_s < MIN_PREDICTION_S:
        msg = (
            f"a recording must last at least {MIN_PREDICTION_S:g} s, got {record.duration_s:.1f} s"
        )
        raise InvalidSignalError(msg)
    name = record.choose_lead(lead)
    signal, n_invalid = bridge_invalid(record.signal_mv(name), record=record)
    classified = classifier.classify(signal, fs=record.fs)
    require_readable(classified.prepared)
    return Prediction(record, name, classified, n_invalid)


def describe(prediction: Prediction) -> str:
    """Describe a prediction in a few lines."""
    classified, record = prediction.classified, prediction.record
    rhythm = summarize_rhythm(
        classified.r_peaks,
        is_v=classified.is_v,
        is_readable=classified.is_readable,
        fs=record.fs,
    )
    findings = classified.prepared.findings
    risk = assess_risk(
        rhythm, duration_s=record.duration_s, alarms=list_alarms(findings, fs=record.fs)
    )
    overall = "V" if rhythm.v_beats else "N" if classified.has_class.any() else "no class"
    rate = "-" if rhythm.heart_rate_bpm is None else f"{rhythm.heart_rate_bpm:.0f}/min"
    return (
        f"{record.name}: {overall}, {rhythm.v_beats} V of {rhythm.beats} beats in "
        f"{record.duration_s:.1f} s of lead {prediction.lead}, heart rate {rate}, "
        f"risk {risk.level} ({'; '.join(risk.reasons)}), "
        f"{classified.prepared.unreadable_s:.0f} s unreadable"
        + (f", {prediction.invalid_samples} invalid samples" if prediction.invalid_samples else "")
    )


def list_beats(prediction: Prediction) -> list[dict[str, object]]:
    """List the beats with the names of the wire."""
    classified = prediction.classified
    return [
        {
            "beat_index": index,
            "position_sample": int(classified.r_peaks[index]),
            "arrhythmia_type": (
                None if not classified.has_class[index] else "V" if classified.is_v[index] else "N"
            ),
            "probability_v": round(float(classified.probability_v[index]), 6),
            "rule": str(classified.rule[index]) or None,
        }
        for index in range(len(classified))
    ]
