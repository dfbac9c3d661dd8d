"""Analyse an opened recording and write its results, for service, command line and flow.

Strips, which leave nothing on disk, are classified by :mod:`ecg_lib.classifier.beat_classifier`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, explain_unreadable
from ecg_lib.errors import UnreadableSignalError
from ecg_lib.recordings.fhir import make_bundle
from ecg_lib.recordings.leads import choose_leads, read_second_lead, require_unit
from ecg_lib.recordings.long_recordings import Progress, RecordingBeats, classify_recording
from ecg_lib.recordings.report.content import Report, make_report
from ecg_lib.recordings.report.html import write_html
from ecg_lib.recordings.report.pdf import write_pdf
from ecg_lib.recordings.signal_file import read_signal, release_memory, write_signal
from ecg_lib.recordings.summary import (
    RecordingSource,
    RecordingSummary,
    ResultFormat,
    describe_summary,
    summarize_recording,
)
from ecg_lib.records.atomic_files import replacing
from ecg_lib.records.files.lead import (
    Lead,
    RecordingFile,
    check_duration,
    choose_lead,
    list_other_leads,
    refuse_too_long,
)
from ecg_lib.records.files.wfdb.annotation_file import encode_annotations
from ecg_lib.signal_path.readability.findings import OK, PACED
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason

READ_SHARE: Final = 0.1
"""Share of the progress when the file is read; the rest is for classification."""
_CLASSIFIED_SHARE: Final = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """An analysed recording; its signal is on disk."""

    summary: RecordingSummary
    signal_mv: NDArray[np.float32]
    described: dict[str, Any]

    @cached_property
    def report(self) -> Report:
        """The report, made once for all that is written from it."""
        return make_report(
            self.summary,
            self.signal_mv,
            model=self.described["model"],
            analysed_at=self.described["analysed_at"],
        )


def analyze_recording(
    opened: RecordingFile,
    *,
    lead: str | None = None,
    second_lead: str | None = None,
    classifier: BeatClassifier,
    model: Mapping[str, Any],
    directory: Path,
    threads: int = 1,
    report: Progress | None = None,
    source: RecordingSource | None = None,
    warnings: Sequence[str] = (),
) -> Analysis:
    """Read one lead to disk, classify its beats with the help of a second one, and sum them up.

    Parameters
    ----------
    opened : RecordingFile
    lead : str, optional
        Name of the lead; when left out,
        :func:`ecg_lib.recordings.leads.choose_leads` chooses both.
    second_lead : str, optional
        Name of the second lead of the classification, beside a lead that is named.
    classifier : BeatClassifier
    model : mapping
        Description of the model, for results.
    directory : Path
        Where the lead goes, see :mod:`ecg_lib.recordings.signal_file`.
    threads : int
        Number of parts that are processed at a time.
    report : callable, optional
        Called with the share that is done.
    source : RecordingSource, optional
        File and patient as results name them; unknown when left out.
    warnings : sequence of str
        Warnings of whoever chose the leads, for the results.

    Raises
    ------
    RecordError, InvalidSignalError, UnknownLeadError
        If the file cannot be read, or too little of it can be analysed.

    """
    report = report or _ignore
    leads = choose_leads(opened, lead)
    chosen, second = leads.first, leads.second
    if lead is not None and second_lead is not None:
        second = choose_lead(opened.leads, second_lead)
    n_samples = write_signal(_count_blocks(opened, chosen, report), directory)
    check_duration(n_samples / chosen.fs)
    signal_mv = read_signal(directory)
    read = read_second_lead(opened, second, n_samples=n_samples, directory=directory)

    def report_part(share: float) -> None:
        release_memory(signal_mv)
        report(READ_SHARE + share * (_CLASSIFIED_SHARE - READ_SHARE))

    beats = classify_recording(
        signal_mv,
        second_mv=read.signal_mv,
        fs=chosen.fs,
        classifier=classifier,
        threads=threads,
        report=report_part,
    )
    if (problem := _explain_unreadable(beats)) is not None:
        require_unit(signal_mv, lead=chosen, opened=opened)
        raise UnreadableSignalError(problem + list_other_leads(opened, chosen.name))
    used, unused = read.outcome(is_used=beats.is_helped)
    summary = summarize_recording(
        beats,
        lead=chosen.name,
        second_lead=used,
        leads=tuple(other.name for other in opened.leads),
        start_clock_s=opened.start_clock_s,
        source=source,
        warnings=(*opened.warnings, *warnings, *leads.describe(), *unused),
    )
    analysed_at = datetime.now(UTC).isoformat(timespec="seconds")
    return Analysis(
        summary=summary,
        signal_mv=signal_mv,
        described=describe_summary(summary, model=model, analysed_at=analysed_at),
    )


def _ignore(_share: float) -> None:
    """Ignore a report."""


def _count_blocks(
    opened: RecordingFile, lead: Lead, report: Progress
) -> Iterator[NDArray[np.float32]]:
    """Pass blocks on; stop a text file that holds more than a day."""
    n_read = 0
    for block in opened.blocks(lead):
        n_read += len(block)
        if lead.n_samples is None:
            refuse_too_long(n_read / lead.fs)
        else:
            report(READ_SHARE * n_read / lead.n_samples)
        yield block


def _explain_unreadable(beats: RecordingBeats) -> str | None:
    return explain_unreadable(
        beats.unreadable,
        readable_s=beats.readable_s,
        duration_s=beats.duration_s,
        has_beats=bool(beats.is_readable.any()),
    )


def write_result(analysis: Analysis, path: Path, *, kind: ResultFormat, recording_id: str) -> None:
    """Write one result; whole or not at all."""
    with replacing(path) as draft:
        _WRITERS[kind](analysis, draft, recording_id)


def _write_json(analysis: Analysis, path: Path, _id: str) -> None:
    path.write_text(json.dumps(analysis.described, allow_nan=False), encoding="utf-8")


def _write_fhir(analysis: Analysis, path: Path, recording_id: str) -> None:
    bundle = make_bundle(analysis.described, recording_id=recording_id)
    path.write_text(json.dumps(bundle, allow_nan=False), encoding="utf-8")


_CSV_HEADER: Final = (
    "beat_index,time_s,position_sample,arrhythmia_type,probability_v,rr_previous_s,qrs_width_ms,"
    "rule,quality,form\n"
)


_CSV_ROWS_AT_ONCE: Final = 65_536
"""A row takes a kilobyte while it is made, and there may be a million and more."""


def _write_csv(analysis: Analysis, path: Path, _id: str) -> None:
    form_of_beats = analysis.summary.form_of_beats
    with path.open("w", encoding="utf-8") as file:
        file.write(_CSV_HEADER)
        for start in range(0, len(form_of_beats), _CSV_ROWS_AT_ONCE):
            part = slice(start, min(start + _CSV_ROWS_AT_ONCE, len(form_of_beats)))
            file.writelines(_list_rows(analysis.summary, part, form_of_beats))


def _list_rows(
    summary: RecordingSummary, part: slice, form_of_beats: NDArray[np.int64]
) -> Iterator[str]:
    beats = summary.beats
    forms = [*(form.name for form in summary.forms), ""]
    has_class, r_peaks = beats.has_class[part], beats.r_peaks[part]
    width_ms = beats.qrs_width_s[part] * 1e3
    # No cell needs quotes: numbers, and names of our own.
    columns = (
        range(part.start, part.stop),
        _cells(r_peaks / beats.fs, 4),
        r_peaks.tolist(),
        np.where(has_class, np.where(beats.is_v[part], "V", "N"), "").tolist(),
        _cells(np.where(has_class, beats.probability_v[part], np.nan), 6),
        _cells(beats.rr_prev_s[part], 4),
        _cells(np.where(beats.is_readable[part], width_ms, np.nan), 1),
        beats.rule[part].tolist(),
        beats.quality[part].tolist(),
        [forms[form] for form in form_of_beats[part].tolist()],
    )
    for row in zip(*columns, strict=True):
        yield ",".join(map(str, row)) + "\n"


def _cells(values: NDArray[np.float64], digits: int) -> list[float | str]:
    rounded: list[float | str] = np.round(values, digits).tolist()
    for place in np.flatnonzero(np.isnan(values)).tolist():
        rounded[place] = ""
    return rounded


def _write_annotations(analysis: Analysis, path: Path, _id: str) -> None:
    beats = analysis.summary.beats
    samples, symbols = list_annotations(
        beats.r_peaks, is_v=beats.is_v, quality=beats.quality, unreadable=beats.unreadable
    )
    path.write_bytes(encode_annotations(samples, symbols))


def _write_html(analysis: Analysis, path: Path, _id: str) -> None:
    path.write_text(write_html(analysis.report), encoding="utf-8")


def _write_pdf(analysis: Analysis, path: Path, _id: str) -> None:
    path.write_bytes(write_pdf(analysis.report))


_WRITERS: Final[dict[ResultFormat, Callable[[Analysis, Path, str], None]]] = {
    ResultFormat.JSON: _write_json,
    ResultFormat.CSV: _write_csv,
    ResultFormat.ATR: _write_annotations,
    ResultFormat.FHIR: _write_fhir,
    ResultFormat.HTML: _write_html,
    ResultFormat.PDF: _write_pdf,
}


def list_annotations(
    r_peaks: NDArray[np.int64],
    *,
    is_v: NDArray[np.bool_],
    quality: NDArray[np.str_],
    unreadable: tuple[Stretch, ...],
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """List beats as WFDB annotations, and mark what cannot be read.

    A beat is ``N`` or ``V``, or ``/`` when a pacemaker seems to have made it. Suspected flutter
    stands between ``[`` and ``]``, its waves are ``!``, which is not a beat; everything else that
    cannot be read stands between two ``~``, and detections there, which have no class, are ``Q``
    (unclassifiable).

    Parameters
    ----------
    r_peaks : ndarray of int64, shape (n_beats,)
    is_v : ndarray of bool, shape (n_beats,)
    quality : ndarray of str, shape (n_beats,)
        See :data:`ecg_lib.signal_path.readability.findings.BEAT_QUALITIES`.
    unreadable : tuple of Stretch

    """
    symbols = np.where(is_v, "V", "N")
    symbols[quality != OK] = "Q"
    symbols[quality == PACED] = "/"
    symbols[quality == UnreadableReason.FLUTTER.value] = "!"
    samples, marks = [r_peaks], [symbols]
    for start, stop, reason in unreadable:
        samples.append(np.array([start, stop - 1]))
        marks.append(np.array(["[", "]"] if reason is UnreadableReason.FLUTTER else ["~", "~"]))
    every, named = np.concatenate(samples), np.concatenate(marks)
    order = np.argsort(every, kind="stable")
    return every[order], named[order]
