"""Write a released classifier's beats as WFDB annotations, and print them for one recording."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats, require_readable
from ecg_lib.recordings.analysis import list_annotations
from ecg_lib.recordings.long_recordings import bridge, check_invalid
from ecg_lib.records.files.lead import check_duration, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.wfdb.annotation_file import encode_annotations
from ecg_lib.records.record import read_wfdb
from ecg_lib.rhythm.patterns import summarize_rhythm
from ecg_lib.rhythm.risk import assess_risk
from ecg_lib.signal_path.readability.findings import list_alarms

ANNOTATOR: Final = "pvc"
"""Extension of the annotation files."""


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
    :func:`ecg_lib.recordings.analysis.list_annotations`.

    Args:
        path: A WFDB record.
        classifier: The classifier to use.
        output_dir: Where the file goes.
        lead: Name of the lead; MLII, else the first, when left out.
    """
    record = read_wfdb(path)
    name = record.choose_lead(lead)
    classified, n_invalid = _classify(record.signal_mv(name), fs=record.fs, classifier=classifier)
    samples, symbols = list_annotations(
        classified.r_peaks,
        is_v=classified.is_v,
        quality=classified.prepared.beat_quality,
        unreadable=classified.prepared.unreadable,
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    written = output_dir / f"{record.name}.{ANNOTATOR}"
    written.write_bytes(encode_annotations(samples, symbols))
    return Annotated(
        path=written,
        lead=name,
        beats=len(classified),
        v_beats=int(classified.is_v.sum()),
        unreadable_s=classified.prepared.unreadable_s,
        invalid_samples=n_invalid,
    )


def _classify(
    signal_mv: NDArray[np.float32], *, fs: float, classifier: BeatClassifier
) -> tuple[ClassifiedBeats, int]:
    """Classify a signal whose invalid samples, which are counted, are bridged."""
    bridged, is_invalid = bridge(signal_mv)
    n_invalid = int(is_invalid.sum())
    check_invalid(n_invalid, n_samples=len(signal_mv))
    return classifier.classify(bridged, fs=fs), n_invalid


class Prediction(NamedTuple):
    """The classified beats of one recording."""

    name: str
    lead: str
    fs: float
    classified: ClassifiedBeats
    invalid_samples: int


def predict_file(
    path: Path, *, classifier: BeatClassifier, lead: str | None = None, fs: float | None = None
) -> Prediction:
    """Classify the beats of a file as a whole: WFDB, EDF, CSV or NPY.

    Raises
    ------
        RecordError: If it cannot be read, or does not state its sampling rate and `fs` neither.
        InvalidSignalError: If it is too short or cannot be read.
        UnknownLeadError: If it has no lead of that name.
    """
    opened = open_recording(path, fs=fs)
    chosen = choose_lead(opened.leads, lead)
    signal = np.concatenate(list(opened.blocks(chosen)))
    check_duration(len(signal) / chosen.fs)
    classified, n_invalid = _classify(signal, fs=chosen.fs, classifier=classifier)
    require_readable(classified.prepared)
    return Prediction(path.stem, chosen.name, chosen.fs, classified, n_invalid)


def describe(prediction: Prediction) -> str:
    """Describe a prediction in a few lines."""
    classified, fs = prediction.classified, prediction.fs
    prepared = classified.prepared
    rhythm = summarize_rhythm(
        classified.r_peaks,
        is_v=classified.is_v,
        is_readable=classified.is_readable,
        fs=fs,
        unreadable=prepared.unreadable,
        is_paced=prepared.is_paced,
    )
    risk = assess_risk(
        rhythm,
        duration_s=prepared.duration_s,
        readable_s=prepared.readable_s,
        alarms=list_alarms(prepared.findings, fs=fs),
    )
    overall = "V" if rhythm.v_beats else "N" if classified.has_class.any() else "no class"
    rate = "-" if rhythm.heart_rate_bpm is None else f"{rhythm.heart_rate_bpm:.0f}/min"
    return (
        f"{prediction.name}: {overall}, {rhythm.v_beats} V of {rhythm.beats} beats in "
        f"{prepared.duration_s:.1f} s of lead {prediction.lead}, heart rate {rate}, "
        f"risk {risk.level} ({'; '.join(risk.reasons)}), "
        f"{prepared.unreadable_s:.0f} s unreadable"
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
