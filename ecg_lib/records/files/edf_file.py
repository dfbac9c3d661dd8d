"""Read EDF and EDF+ files block by block, without trusting them.

The format is that of Kemp et al. 1992, DOI 10.1016/0013-4694(92)90009-7, and Kemp & Olivan 2003,
DOI 10.1016/S1388-2457(03)00123-8 (EDF+). The fields of patient and recording are never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.lead import (
    Lead,
    check_samples,
)
from ecg_lib.records.limits import (
    MAX_FS_HZ,
    MAX_SIGNALS,
    MIN_FS_HZ,
    UNIT_TO_MV,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfFile:
    """An EDF or continuous EDF+ file; its signals in volts are leads.

    A signal whose rate is none of an ECG, such as a trend of one value a second, is no lead where
    there are others.
    """

    path: Path
    header: EdfHeader
    kind: str = "edf"

    @classmethod
    def open(cls, path: Path) -> EdfFile:
        """Open a file."""
        return cls(path=path, header=read_header(path))

    @property
    def leads(self) -> tuple[Lead, ...]:
        """Every signal in volts of a rate that can be analysed; without one all, to be refused."""
        every = tuple(
            Lead(signal.name, signal.fs, signal.per_record * self.header.n_records)
            for signal in self.header.signals
        )
        return tuple(lead for lead in every if MIN_FS_HZ <= lead.fs <= MAX_FS_HZ) or every

    @property
    def start_clock_s(self) -> float | None:
        """Start time of the header."""
        return self.header.start_clock_s

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`."""
        names = [signal.name for signal in self.header.signals]
        blocks = read_blocks(self.path, self.header, names.index(lead.name))
        return map(check_samples, blocks)


MAGIC: Final = b"0       "


_HEADER_BYTES: Final = 256


_FIELDS: Final = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
"""Widths of the fields of each signal, field by field for all signals."""


_BYTES_AT_ONCE: Final = 2**22


_ANNOTATIONS: Final = "EDF Annotations"


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfSignal:
    """One signal in volts."""

    name: str
    fs: float
    first: int
    """Place of its first sample in a data record."""
    per_record: int
    """Samples in a data record."""
    gain_mv: float
    offset_mv: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfHeader:
    """What a file says about itself, without whose it is."""

    data_at: int
    n_records: int
    record_samples: int
    """Samples of all signals in a data record."""
    start_clock_s: float | None
    signals: tuple[EdfSignal, ...]
    annotations: tuple[tuple[int, int], ...]
    """First sample and number of samples, in a data record, of each signal of annotations."""


def blank_annotations(path: Path, header: EdfHeader) -> None:
    """Blank the annotations of an EDF+ file, whose texts may say whose it is."""
    values = np.memmap(
        path,
        dtype="<i2",
        mode="r+",
        offset=header.data_at,
        shape=(header.n_records, header.record_samples),
    )
    for first, count in header.annotations:
        values[:, first : first + count] = 0
    values.flush()


def blank_identity(start: bytes) -> bytes:
    """Blank who and when in the first 256 bytes of a file; the time of day stays.

    What comes is what EDF+ writes for the unknown, so the file stays valid.
    """
    if not start.startswith(MAGIC) or len(start) < _HEADER_BYTES:
        return start
    recording = b"Startdate X X X X"
    return start[:8] + b"X X X X".ljust(80) + recording.ljust(80) + b"01.01.85" + start[176:]


def read_header(path: Path) -> EdfHeader:
    """Read the header of a file.

    Raises
    ------
    CorruptRecordError
        If it is no EDF file, or cut off.
    UnsupportedRecordError
        If it has gaps (EDF+D) or no signal in volts.

    """
    size = path.stat().st_size
    with path.open("rb") as file:
        fixed = file.read(_HEADER_BYTES)
        if len(fixed) < _HEADER_BYTES or not fixed.startswith(MAGIC):
            msg = "an EDF file must begin with its header of 256 bytes, this one does not"
            raise CorruptRecordError(msg)
        n_signals = _whole(fixed[252:256], "number of signals")
        if not 1 <= n_signals <= 4 * MAX_SIGNALS:
            msg = f"an EDF file must have 1 to {4 * MAX_SIGNALS} signals, it says {n_signals}"
            raise CorruptRecordError(msg)
        described = file.read(_HEADER_BYTES * n_signals)
    data_at = _HEADER_BYTES * (n_signals + 1)
    if len(described) < _HEADER_BYTES * n_signals or _whole(fixed[184:192], "header") != data_at:
        msg = f"the header of the EDF file must have {data_at} bytes, it has not"
        raise CorruptRecordError(msg)
    if fixed[192:236].startswith(b"EDF+D"):
        msg = "an EDF+ file must be continuous, this one has gaps (EDF+D)"
        raise UnsupportedRecordError(msg)
    duration_s = _number(fixed[244:252], "duration of a data record")
    columns = _split(described, n_signals)
    per_record = [_whole(text, "samples in a data record") for text in columns[8]]
    record_samples = sum(per_record)
    if min(per_record) < 0 or not 1 <= record_samples <= 2**26:
        msg = f"a data record of the EDF file must hold samples, it says {record_samples}"
        raise CorruptRecordError(msg)
    return EdfHeader(
        data_at=data_at,
        n_records=_count_records(fixed, size - data_at, record_samples),
        record_samples=record_samples,
        start_clock_s=_clock(fixed[176:184]),
        signals=_list_signals(columns, per_record, duration_s),
        annotations=tuple(
            (sum(per_record[:number]), per_record[number])
            for number, label in enumerate(columns[0])
            if _text(label) == _ANNOTATIONS
        ),
    )


def _split(described: bytes, n_signals: int) -> list[list[bytes]]:
    columns, at = [], 0
    for width in _FIELDS:
        columns.append([described[at + width * n : at + width * (n + 1)] for n in range(n_signals)])
        at += width * n_signals
    return columns


def _count_records(fixed: bytes, data_bytes: int, record_samples: int) -> int:
    held = data_bytes // (2 * record_samples)
    stated = _whole(fixed[236:244], "number of data records")
    if stated == -1:  # the recorder did not get to write it
        stated = held
    if not 1 <= stated <= held:
        msg = f"the EDF file must hold {max(stated, 1)} data records, it holds {held}"
        raise CorruptRecordError(msg)
    return stated


def _list_signals(
    columns: list[list[bytes]], per_record: list[int], duration_s: float
) -> tuple[EdfSignal, ...]:
    signals: list[EdfSignal] = []
    first = 0
    for number, count in enumerate(per_record):
        label = _text(columns[0][number])
        unit = _text(columns[2][number])
        if unit in UNIT_TO_MV and label != _ANNOTATIONS and count > 0:
            if not duration_s > 0:
                msg = f"a data record of the EDF file must last some time, it says {duration_s!r} s"
                raise CorruptRecordError(msg)
            low, high = (_number(columns[field][number], "physical limit") for field in (3, 4))
            least, most = (_whole(columns[field][number], "digital limit") for field in (5, 6))
            if least >= most or low == high:
                msg = "the limits of an EDF signal must differ, two are the same"
                raise CorruptRecordError(msg)
            gain = (high - low) / (most - least)
            signals.append(
                EdfSignal(
                    name=re.sub(r"^E[CK]G\s+", "", label) or f"signal{number + 1}",
                    fs=count / duration_s,
                    first=first,
                    per_record=count,
                    gain_mv=gain * UNIT_TO_MV[unit],
                    offset_mv=(low - gain * least) * UNIT_TO_MV[unit],
                )
            )
        first += count
    if not signals:
        msg = "an EDF file must have a signal in V, mV or uV, this one has none"
        raise UnsupportedRecordError(msg)
    names = [signal.name for signal in signals]
    if len(set(names)) < len(names):
        msg = "each signal of an EDF file must have a name of its own, two have the same"
        raise CorruptRecordError(msg)
    return tuple(signals)


def read_blocks(path: Path, header: EdfHeader, number: int) -> Iterator[NDArray[np.float32]]:
    """Read one signal block by block, in mV."""
    signal = header.signals[number]
    at_once = max(1, _BYTES_AT_ONCE // (2 * header.record_samples))
    columns = slice(signal.first, signal.first + signal.per_record)
    with path.open("rb") as file:
        file.seek(header.data_at)
        for start in range(0, header.n_records, at_once):
            count = min(at_once, header.n_records - start)
            raw = np.fromfile(file, dtype="<i2", count=count * header.record_samples)
            samples = raw.reshape(count, header.record_samples)[:, columns].ravel()
            yield (samples * signal.gain_mv + signal.offset_mv).astype(np.float32)


def _text(field: bytes) -> str:
    return field.decode("latin-1").strip()


def _number(field: bytes, what: str) -> float:
    try:
        value = float(field.decode("ascii").strip())
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        msg = f"the {what} of the EDF file must be a number, it is not"
        raise CorruptRecordError(msg)
    return value


def _whole(field: bytes, what: str) -> int:
    value = _number(field, what)
    if value != int(value):
        msg = f"the {what} of the EDF file must be a whole number, it is not"
        raise CorruptRecordError(msg)
    return int(value)


def _clock(field: bytes) -> float | None:
    match = re.fullmatch(rb"([01]\d|2[0-3])\.([0-5]\d)\.([0-5]\d)", field)
    return 3600.0 * int(match[1]) + 60.0 * int(match[2]) + int(match[3]) if match else None
