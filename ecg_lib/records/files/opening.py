"""Open recordings that people send: WFDB, EDF and EDF+, CSV, NPY, and what ECG devices export.

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
from ecg_lib.records.files.csv_file import CsvFile
from ecg_lib.records.files.devices.recognition import DEVICE_SUFFIXES, open_device_file
from ecg_lib.records.files.edf_file import EdfFile
from ecg_lib.records.files.lead import (
    UNITS,
    RecordingFile,
    check_duration,
    rate_contradiction,
)
from ecg_lib.records.files.npy_file import NpyFile
from ecg_lib.records.files.wfdb_file import WfdbFile
from ecg_lib.records.limits import (
    UNIT_TO_MV,
    check_sampling_rate,
)

SUFFIXES: Final = (".hea", ".edf", ".csv", ".npy", *DEVICE_SUFFIXES)
"""What names a recording; the signal files of a WFDB record are beside its header."""


def open_recording(
    path: Path, *, fs: float | None = None, unit: str | None = None
) -> RecordingFile:
    """Open a recording: an export of a device by its content, others by the extension of the file.

    Parameters
    ----------
    path : Path
        ``.hea`` (or ``.dat``, or the record's name), ``.edf``, ``.csv`` or ``.npy``; or DICOM,
        ISHNE, SCP-ECG, HL7 aECG, GE MUSE or Philips XML under any name.
    fs : float, optional
        Sampling rate in Hz of a file that does not state it.
    unit : str, optional
        Unit of a NPY file, and of the leads of a CSV file whose headings state none: one of ``mV``
        (when left out), ``uV``, ``V``.

    Raises
    ------
    RecordError
        If it cannot be read; see its leaves.
    InvalidSamplingRateError
        If the sampling rate is not between 100 and 1000 Hz.

    """
    if unit is not None and unit not in UNIT_TO_MV:
        msg = f"unit must be one of {', '.join(UNITS)}"
        raise MissingDetailError(msg, detail="unit")
    suffix = path.suffix.lower()
    header = path if suffix == ".hea" else path.with_name(f"{_stem(path)}.hea")
    if not (path.is_file() or header.is_file()):
        msg = "the file of the recording is missing"
        raise RecordNotFoundError(msg)
    exported = open_device_file(path) if path.is_file() else None
    opened = exported or _open_by_suffix(path, header, fs=fs, unit=unit)
    if opened.kind not in {"csv", "npy"}:
        _refuse_contradiction(opened, fs=fs, unit=unit)
    for lead in opened.leads:
        check_sampling_rate(lead.fs)
        if lead.n_samples is not None:
            check_duration(lead.n_samples / lead.fs)
    return opened


def _open_by_suffix(
    path: Path, header: Path, *, fs: float | None, unit: str | None
) -> RecordingFile:
    suffix = path.suffix.lower()
    if suffix == ".edf":
        return EdfFile.open(path)
    if suffix == ".csv":
        return CsvFile.open(path, fs=fs, unit=unit)
    if suffix == ".npy":
        return NpyFile.open(path, fs=fs, unit=unit)
    if suffix in {".hea", ".dat", ""}:
        return WfdbFile.open(header)
    known = ", ".join(SUFFIXES)
    msg = f"a recording must be one of {known}, or a .zip of a WFDB record"
    raise UnsupportedRecordError(msg)


def _stem(path: Path) -> str:
    return path.stem if path.suffix.lower() in {".hea", ".dat"} else path.name


def _refuse_contradiction(opened: RecordingFile, *, fs: float | None, unit: str | None) -> None:
    if unit is not None:
        msg = "unit must be left out for a file that states it; CSV and NPY do not"
        raise MissingDetailError(msg, detail="unit")
    if fs is not None and any(abs(lead.fs - fs) > 1e-6 * fs for lead in opened.leads):
        raise rate_contradiction(opened.leads[0].fs)
