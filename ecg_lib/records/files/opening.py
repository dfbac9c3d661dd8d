"""Open recordings that people send: WFDB, EDF and BDF, text, NPY, and what ECG devices export.

One lead is read block by block, so that a day needs no more memory than a minute, and what a file
says about itself is checked before anything is believed. No message repeats the name of a file or
what it says about a person. :mod:`ecg_lib.records.record` reads whole WFDB records that are
trusted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ecg_lib.errors import (
    MissingDetailError,
    RecordNotFoundError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.devices.recognition import (
    DEVICE_SUFFIXES,
    is_export,
    open_device_file,
)
from ecg_lib.records.files.edf_file import EdfFile, is_edf
from ecg_lib.records.files.lead import (
    UNITS,
    RecordingFile,
    check_duration,
    no_leads,
    rate_contradiction,
)
from ecg_lib.records.files.npy_file import NPY_MAGIC, NpyFile
from ecg_lib.records.files.text.csv_file import CsvFile, may_be_recording
from ecg_lib.records.files.wfdb.encodings import refuse_workspace
from ecg_lib.records.files.wfdb.header import find_beside
from ecg_lib.records.files.wfdb.wfdb_file import WfdbFile
from ecg_lib.records.limits import check_sampling_rate
from ecg_lib.records.signal_names import UNIT_TO_MV, read_unit

TEXT_SUFFIXES: Final = (".csv", ".txt", ".tsv")

SUFFIXES: Final = (".hea", ".edf", ".bdf", *TEXT_SUFFIXES, ".npy", *DEVICE_SUFFIXES)
"""Suffixes of recordings; the signal files of a WFDB record are beside its header."""

UNKNOWN_SUFFIX: Final = ".unknown"
"""Suffix of files whose own suffix is not read; their content decides."""

_EDF: Final = frozenset({".edf", ".bdf"})
_SIGNALS: Final = frozenset({".dat", ".mat"})
"""Signal files of WFDB records, which are opened by their headers."""

_START_BYTES: Final = 2**16
"""Read to decide what a file of another name is."""


def open_recording(
    path: Path, *, fs: float | None = None, unit: str | None = None
) -> RecordingFile:
    """Open a recording: by its suffix, and under another name by its content.

    Parameters
    ----------
    path : Path
        ``.hea`` (or ``.dat``, ``.mat``, or the record's name), ``.edf``, ``.bdf``, ``.csv``,
        ``.txt``, ``.tsv`` or ``.npy``; or EDF, BDF, DICOM, ISHNE, SCP-ECG, HL7 aECG, GE MUSE or
        Philips XML or Kardia ATC under any name, and text or NPY under one that is not read.
    fs : float, optional
        Sampling rate in Hz of a file that does not state it.
    unit : str, optional
        Unit of a NPY file, of the leads of a text file whose headings state none, and of an ECG
        for which an EDF file states none: ``mV`` (when left out), ``uV`` or ``V`` in any spelling.

    Raises
    ------
    RecordError
        If it cannot be read; see its leaves.
    InvalidSamplingRateError
        If the sampling rate is not between 100 and 1000 Hz.

    """
    if unit is not None:
        stated, unit = unit, read_unit(unit)
        if unit is None or unit not in UNIT_TO_MV:
            msg = f"unit must be one of {', '.join(UNITS)}, got {stated[:32]!r}"
            raise MissingDetailError(msg, detail="unit")
    if path.is_dir():
        msg = "a recording must be a file, this is a directory"
        raise UnsupportedRecordError(msg)
    opened = _open_export(path, fs=fs, unit=unit) or _open(path, fs=fs, unit=unit)
    if not opened.leads:
        raise no_leads("a recording", opened.others)
    for lead in opened.leads:
        check_sampling_rate(lead.fs)
        if lead.n_samples is not None:
            check_duration(lead.n_samples / lead.fs)
    return opened


def begins_as_recording(start: bytes) -> bool:
    """Return whether a file begins as EDF, BDF or an export of a device, whatever its name is."""
    return is_edf(start) or is_export(start)


def begins_as_samples(start: bytes, *, is_whole: bool) -> bool:
    """Return whether a file begins as NPY or as a text of samples, whatever its name is."""
    return start.startswith(NPY_MAGIC) or may_be_recording(start, is_whole=is_whole)


def _open_export(path: Path, *, fs: float | None, unit: str | None) -> RecordingFile | None:
    """Open an export of a device, which is recognised by its content; None for other files."""
    exported = open_device_file(path) if path.is_file() else None
    if exported is None:
        return None
    if unit is not None:
        msg = f"unit must be left out for {exported.kind} files, which state it"
        raise MissingDetailError(msg, detail="unit")
    _refuse_contradiction(exported, fs=fs)
    return exported


def _open(path: Path, *, fs: float | None, unit: str | None) -> RecordingFile:
    suffix = path.suffix.lower()
    header = _header_of(path)
    if suffix not in {".hea", "", *_SIGNALS} or (path.is_file() and _begins_as_edf(path)):
        if not path.is_file():
            msg = "the file of the recording is missing"
            raise RecordNotFoundError(msg)
        if suffix in _EDF or _begins_as_edf(path):
            edf = EdfFile.open(path, unit=unit)
            _refuse_contradiction(edf, fs=fs)
            return edf
        if suffix in TEXT_SUFFIXES:
            return CsvFile.open(path, fs=fs, unit=unit)
        if suffix == ".npy":
            return NpyFile.open(path, fs=fs, unit=unit)
    if header.is_file() and (suffix in {".hea", "", *_SIGNALS} or not path.exists()):
        if unit is not None:
            msg = "unit must be left out for WFDB, whose header states it"
            raise MissingDetailError(msg, detail="unit")
        record = WfdbFile.open(header)
        _refuse_contradiction(record, fs=fs)
        return record
    if not path.is_file():
        msg = "the file of the recording is missing"
        raise RecordNotFoundError(msg)
    return _open_unnamed(path, fs=fs, unit=unit)


def _open_unnamed(path: Path, *, fs: float | None, unit: str | None) -> RecordingFile:
    """Open a NumPy array or a text of samples under any name."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    refuse_workspace(path)
    if start.startswith(NPY_MAGIC):
        return NpyFile.open(path, fs=fs, unit=unit)
    if may_be_recording(start, is_whole=len(start) < _START_BYTES):
        return CsvFile.open(path, fs=fs, unit=unit)
    if path.suffix.lower() in {"", *_SIGNALS}:
        msg = (
            "the header is missing: a WFDB record is read by its header (.hea), "
            "which must be next to its signals"
        )
        raise RecordNotFoundError(msg)
    known = ", ".join(SUFFIXES)
    msg = f"a recording must be one of {known}, or a .zip, .npz or .gz of one"
    raise UnsupportedRecordError(msg)


def _header_of(path: Path) -> Path:
    suffix = path.suffix.lower()
    if suffix == ".hea":
        return path
    return find_beside(path, f"{path.stem if suffix in _SIGNALS else path.name}.hea")


def _begins_as_edf(path: Path) -> bool:
    with path.open("rb") as file:
        return is_edf(file.read(8))


def _refuse_contradiction(opened: RecordingFile, *, fs: float | None) -> None:
    if fs is not None and any(abs(lead.fs - fs) > 1e-6 * fs for lead in opened.leads):
        raise rate_contradiction(opened.leads[0].fs)
