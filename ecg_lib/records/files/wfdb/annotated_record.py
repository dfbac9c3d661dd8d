"""Read whole WFDB records of annotated databases: any leads, rate, gain, segments, annotator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, RecordNotFoundError, UnknownLeadError
from ecg_lib.records.annotations import SYMBOL_OF_CODE, Annotations, decode_annotations
from ecg_lib.records.files.lead import Lead, choose_lead, no_leads
from ecg_lib.records.files.wfdb.annotation_file import find_time_resolution
from ecg_lib.records.files.wfdb.header import find_beside
from ecg_lib.records.files.wfdb.wfdb_file import WfdbFile
from ecg_lib.records.limits import check_sampling_rate
from ecg_lib.records.record import Record
from ecg_lib.records.signal_names import SignalKind, find_named, kind_of

_OTHER_MARK = '"'
"""Symbol of annotation codes that a database has defined for itself; none is a beat."""


def read_annotated_record(
    path: Path,
    *,
    annotations: str | None,
    name: str | None = None,
    person: str | None = None,
    lead: str | None = None,
) -> Record:
    """Read the ECG leads of a record and its annotations.

    Leads of another sampling rate than the first one's, and signals that are not an ECG by their
    name or unit, are left out.

    Parameters
    ----------
    path : Path
        The record, without extension.
    annotations : str or None
        Extension of the annotation file; no annotations when None.
    name : str, optional
        Name of the record in the result; that of the file when left out.
    person : str, optional
        The person that the record is of.
    lead : str, optional
        The one lead to read, by its name or the lead that the name spells.

    Raises
    ------
    RecordError
        If a file is missing, cut off or garbled, or there is no ECG.
    InvalidSamplingRateError
        If the sampling rate is not between 100 and 1000 Hz.
    UnknownLeadError
        If the record does not have the lead.

    """
    opened = WfdbFile.open(find_beside(path, f"{path.name}.hea"))
    leads = _choose_leads(opened, lead, record=path.name)
    fs = leads[0].fs
    check_sampling_rate(fs)
    signals = np.stack([np.concatenate(list(opened.blocks(one))) for one in leads], axis=1)
    return Record(
        name=name or path.name,
        fs=fs,
        leads=tuple(one.name for one in leads),
        signals_mv=signals,
        annotations=None
        if annotations is None
        else read_annotations(path, extension=annotations, header_fs=opened.fs, fs=fs),
        person=person,
    )


def _choose_leads(opened: WfdbFile, wanted: str | None, *, record: str) -> list[Lead]:
    leads = [one for one in opened.leads if kind_of(one.name) is not SignalKind.OTHER]
    if not leads:
        raise no_leads("a recording", [*opened.others, *(one.name for one in opened.leads)])
    if wanted is not None:
        place = find_named([one.name for one in leads], wanted)
        if place is None:
            known = ", ".join(one.name for one in leads)
            msg = f"record {record} has the leads {known}, not {wanted!r}"
            raise UnknownLeadError(msg)
        return [leads[place]]
    first = _first_lead(tuple(leads))
    return [first, *(one for one in leads if one.fs == first.fs and one != first)]


def _first_lead(leads: tuple[Lead, ...]) -> Lead:
    """Choose the lead that the product analyses; the first when no name is clearly an ECG's."""
    try:
        return choose_lead(leads)
    except UnknownLeadError:
        return leads[0]


def read_annotations(path: Path, *, extension: str, header_fs: float, fs: float) -> Annotations:
    """Read the annotations of a record, in samples of its leads.

    Parameters
    ----------
    path : Path
        The record, without extension.
    extension : str
        Extension of the annotation file.
    header_fs : float
        Frames a second: positions are frames, unless the file states its own time resolution.
    fs : float
        Sampling rate of the leads in Hz.

    Raises
    ------
    RecordNotFoundError
        If there is no such file.
    CorruptRecordError
        If it is cut off or garbled.

    """
    file = find_beside(path, f"{path.name}.{extension}")
    if not file.is_file():
        msg = f"annotation file {file.name} is missing"
        raise RecordNotFoundError(msg)
    content = file.read_bytes()
    ticks_hz = find_time_resolution(content) or header_fs
    marks = list(decode_annotations(content, name=file.name))
    samples = np.array([sample for sample, _ in marks], dtype=np.int64)
    symbols = np.array([SYMBOL_OF_CODE.get(code, _OTHER_MARK) for _, code in marks], dtype="U1")
    if len(samples) and samples.min() < 0:
        msg = f"{file.name} has annotations before the beginning of the record: it is garbled"
        raise CorruptRecordError(msg)
    order = np.argsort(samples, kind="stable")
    return Annotations(samples=_rescale(samples[order], fs / ticks_hz), symbols=symbols[order])


def _rescale(samples: NDArray[np.int64], ratio: float) -> NDArray[np.int64]:
    return samples if ratio == 1 else np.rint(samples * ratio).astype(np.int64)
