"""Write a released classifier's beats as WFDB annotations, and print them for one recording."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats, require_readable
from ecg_lib.errors import UnreadableSignalError
from ecg_lib.recordings.analysis import list_annotations
from ecg_lib.recordings.leads import choose_leads, read_second_lead, require_unit
from ecg_lib.recordings.long_recordings import check_invalid
from ecg_lib.records.files.archives import name_of, unpacked
from ecg_lib.records.files.lead import (
    Lead,
    RecordingFile,
    check_duration,
    list_other_leads,
)
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.wfdb.annotation_file import encode_annotations
from ecg_lib.rhythm.patterns import summarize_rhythm
from ecg_lib.rhythm.risk import assess_risk
from ecg_lib.rhythm.run_evidence import find_credible_of
from ecg_lib.signal_path.readability.findings import list_alarms
from ecg_lib.signal_path.readability.plausibility import list_doubts

ANNOTATOR: Final = "pvc"
"""Extension of the annotation files."""


class Prediction(NamedTuple):
    """The classified beats of one recording."""

    name: str
    lead: str
    fs: float
    classified: ClassifiedBeats
    invalid_samples: int
    warnings: tuple[str, ...]
    """Assumptions about the file, and doubts that the signal raises."""


class Annotated(NamedTuple):
    """The annotations that were written for one record."""

    path: Path
    lead: str
    beats: int
    v_beats: int
    unreadable_s: float
    invalid_samples: int
    """Samples that the file marks as missing."""
    warnings: tuple[str, ...]


def annotate_record(
    path: Path,
    *,
    classifier: BeatClassifier,
    output_dir: Path,
    lead: str | None = None,
    fs: float | None = None,
    unit: str | None = None,
) -> Annotated:
    """Write ``RECORD.pvc`` with a symbol for every detection.

    ``N`` or ``V``, ``/`` for paced beats, ``Q`` between ``~`` marks where nothing can be read, and
    ``!`` between ``[`` and ``]`` in suspected flutter; see
    :func:`ecg_lib.recordings.analysis.list_annotations`.

    Parameters
    ----------
    path : Path
        A recording; annotations are in samples of its lead.
    classifier : BeatClassifier
    output_dir : Path
        Where the file goes.
    lead : str, optional
        Name of the lead, see :func:`ecg_lib.recordings.leads.choose_leads`.
    fs : float, optional
        Sampling rate in Hz of a file that does not state it.
    unit : str, optional
        See :func:`ecg_lib.records.files.opening.open_recording`.

    Raises
    ------
    RecordError, InvalidSignalError, UnknownLeadError
        If the file cannot be read.

    """
    with unpacked(path) as source:
        opened = open_recording(source, fs=fs, unit=unit)
        done = _classify(opened, path, classifier=classifier, lead=lead)
    classified = done.classified
    samples, symbols = list_annotations(
        classified.r_peaks,
        is_v=classified.is_v,
        quality=classified.prepared.beat_quality,
        unreadable=classified.prepared.unreadable,
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    written = output_dir / f"{done.name}.{ANNOTATOR}"
    written.write_bytes(encode_annotations(samples, symbols))
    return Annotated(
        path=written,
        lead=done.lead,
        beats=len(classified),
        v_beats=int(classified.is_v.sum()),
        unreadable_s=classified.prepared.unreadable_s,
        invalid_samples=done.invalid_samples,
        warnings=done.warnings,
    )


def predict_file(
    path: Path,
    *,
    classifier: BeatClassifier,
    lead: str | None = None,
    fs: float | None = None,
    unit: str | None = None,
) -> Prediction:
    """Classify the beats of a file as a whole, of any format that is read.

    Raises
    ------
    RecordError
        If it cannot be read, or does not state its sampling rate and `fs` neither.
    InvalidSignalError
        If it is too short or cannot be read.
    UnknownLeadError
        If it has no lead of that name, or none that is an ECG by its name.

    """
    with unpacked(path) as source:
        opened = open_recording(source, fs=fs, unit=unit)
        return _classify(opened, path, classifier=classifier, lead=lead, is_strip=True)


def _classify(
    opened: RecordingFile,
    path: Path,
    *,
    classifier: BeatClassifier,
    lead: str | None,
    is_strip: bool = False,
) -> Prediction:
    leads = choose_leads(opened, lead)
    chosen, second = leads.first, leads.second
    signal = _read_lead(opened, chosen)
    if is_strip:
        check_duration(len(signal) / chosen.fs)
    n_missing = int(np.isnan(signal).sum())
    check_invalid(n_missing, n_samples=len(signal))
    with TemporaryDirectory() as directory:
        read = read_second_lead(opened, second, n_samples=len(signal), directory=Path(directory))
        others = [] if read.signal_mv is None else [read.signal_mv]
        classified = classifier.classify(signal, others_mv=others, fs=chosen.fs)
    prepared = classified.prepared
    if is_strip:
        try:
            require_readable(prepared)
        except UnreadableSignalError as error:
            require_unit(signal, lead=chosen, opened=opened)
            msg = f"{error}{list_other_leads(opened, chosen.name)}"
            raise UnreadableSignalError(msg) from error
    doubts = list_doubts(prepared, what="samples")
    _, unused = read.outcome(is_used=classified.is_helped)
    return Prediction(
        name=name_of(path),
        lead=chosen.name,
        fs=chosen.fs,
        classified=classified,
        invalid_samples=n_missing,
        warnings=(*opened.warnings, *leads.describe(), *unused, *doubts),
    )


def _read_lead(opened: RecordingFile, lead: Lead) -> NDArray[np.float32]:
    blocks = list(opened.blocks(lead))
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


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
        is_credible=find_credible_of(classified),
    )
    risk = assess_risk(
        rhythm,
        duration_s=prepared.duration_s,
        readable_s=prepared.readable_s,
        alarms=list_alarms(prepared.findings, fs=fs),
        doubts=list_doubts(prepared, what="samples"),
    )
    overall = "V" if rhythm.v_beats else "N" if classified.has_class.any() else "no class"
    rate = "-" if rhythm.heart_rate_bpm is None else f"{rhythm.heart_rate_bpm:.0f}/min"
    missing = f", {prediction.invalid_samples} missing samples" * bool(prediction.invalid_samples)
    warnings = "".join(f"\n  warning: {warning}" for warning in prediction.warnings)
    return (
        f"{prediction.name}: {overall}, {rhythm.v_beats} V of {rhythm.beats} beats in "
        f"{prepared.duration_s:.1f} s of lead {prediction.lead}, heart rate {rate}, "
        f"risk {risk.level} ({'; '.join(risk.reasons)}), "
        f"{prepared.unreadable_s:.0f} s unreadable{missing}{warnings}"
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
