"""Read EDF, EDF+, BDF and BDF+ files block by block, without trusting them.

The format is that of Kemp et al. 1992, DOI 10.1016/0013-4694(92)90009-7, and Kemp & Olivan 2003,
DOI 10.1016/S1388-2457(03)00123-8 (EDF+); BDF has samples of 24 bits. The fields of patient and
recording are never read. Records that do not follow each other in time (EDF+D) leave a gap, whose
samples are missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, MissingDetailError, UnsupportedRecordError
from ecg_lib.records.files.lead import (
    Lead,
    check_samples,
    leads_of_usual_rate,
    no_leads,
    unique_names,
)
from ecg_lib.records.limits import MAX_SIGNALS
from ecg_lib.records.signal_names import (
    COUNTS,
    UNIT_TO_MV,
    SignalKind,
    kind_of,
    read_unit,
)

MAGIC: Final = b"0       "
BDF_MAGIC: Final = b"\xffBIOSEMI"

_HEADER_BYTES: Final = 256

_FIELDS: Final = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
"""Widths of the fields of each signal, field by field for all signals."""

_BYTES_AT_ONCE: Final = 2**22

_ANNOTATIONS: Final = frozenset({"EDF Annotations", "BDF Annotations"})

_MAX_TIMED_RECORDS: Final = 2**21

_TIMEKEEPING: Final = re.compile(rb"([+-]\d{1,9}(?:\.\d{0,9})?)(?:\x15[\d.]*)?\x14")

_LEAST_GAP_S: Final = 0.01
"""Clocks of recorders differ from the rate of their samples by less than this in a record."""


class EdfSignal(NamedTuple):
    """One signal with a voltage."""

    lead: Lead
    first: int
    """Place of its first sample in a data record."""
    per_record: int
    """Samples in a data record."""
    gain_mv: float
    offset_mv: float
    missing: int | None
    """The least whole number of its bits, where that is below the digital limits: no converter
    gives it, and programs that convert to EDF write it for a missing sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfHeader:
    """The header of a file, without the identity of the patient."""

    data_at: int
    n_records: int
    """Those that are read."""
    stated_records: int
    """0 where the recorder stated none, as it was cut short."""
    held_records: int
    record_samples: int
    """Samples of all signals in a data record."""
    record_s: float
    sample_bytes: int
    is_discontinuous: bool
    start_clock_s: float | None
    columns: tuple[tuple[bytes, ...], ...]
    """The fields of the signals, see `_FIELDS`."""
    per_record: tuple[int, ...]

    @property
    def annotations(self) -> tuple[tuple[int, int], ...]:
        """First sample and number of samples, in a data record, of each signal of annotations."""
        return tuple(
            (sum(self.per_record[:number]), self.per_record[number])
            for number, label in enumerate(self.columns[0])
            if _text(label) in _ANNOTATIONS
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfFile:
    """An EDF or BDF file; its signals in volts are leads.

    A signal whose rate is not that of an ECG, such as a trend of one value a second, is left out
    where there are others, and so is a spare channel, which has no limits or equal ones.
    """

    path: Path
    header: EdfHeader
    signals: tuple[EdfSignal, ...]
    leads: tuple[Lead, ...]
    others: tuple[str, ...]
    onsets_s: tuple[float, ...]
    """When each record begins; empty when each follows the one before."""
    warnings: tuple[str, ...] = ()
    kind: str = "edf"

    @classmethod
    def open(cls, path: Path, *, unit: str | None = None) -> EdfFile:
        """Open a file; `unit` is that of ECG signals for which it states none."""
        header = read_header(path)
        onsets_s = _read_onsets(path, header) if header.is_discontinuous else ()
        signals, others = _list_signals(header, onsets_s, unit=unit)
        return cls(
            path=path,
            header=header,
            signals=signals,
            leads=leads_of_usual_rate(tuple(signal.lead for signal in signals)),
            others=others,
            onsets_s=onsets_s,
            warnings=_explain_count(header),
        )

    @property
    def start_clock_s(self) -> float | None:
        """Start time of the header."""
        return self.header.start_clock_s

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`; a gap between records is missing."""
        signal = next(one for one in self.signals if one.lead.name == lead.name)
        return map(check_samples, _read_signal(self.path, self.header, signal, self.onsets_s))


def is_edf(start: bytes) -> bool:
    """Tell by its first bytes whether a file is EDF or BDF."""
    return start.startswith((MAGIC, BDF_MAGIC))


def blank_annotations(path: Path, header: EdfHeader) -> None:
    """Blank the annotations of an EDF+ file, whose texts may say whose it is.

    The times at which the records of an EDF+D file begin stay. Records beyond those that the
    header states are blanked too, and a part of a record at the end is cut off.
    """
    record_bytes = header.sample_bytes * header.record_samples
    os.truncate(path, header.data_at + header.held_records * record_bytes)
    values = _map_records(path, header, header.held_records, mode="r+")
    width = header.sample_bytes
    for place, (first, count) in enumerate(header.annotations):
        part = values[:, width * first : width * (first + count)]
        kept = [b""] * len(part)
        if header.is_discontinuous and place == 0:
            matches = [_TIMEKEEPING.match(record.tobytes()) for record in part]
            kept = [match[1] + b"\x14\x14\x00" if match else b"" for match in matches]
        part[:] = 0
        for record, onset in zip(part, kept, strict=True):
            if onset:
                record[: len(onset)] = np.frombuffer(onset[: len(record)], dtype=np.uint8)
    values.flush()


def blank_identity(start: bytes) -> bytes:
    """Blank who and when in the first 256 bytes of a file; the time of day stays.

    What comes is what EDF+ writes for the unknown, so the file stays valid.
    """
    if not is_edf(start) or len(start) < _HEADER_BYTES:
        return start
    recording = b"Startdate X X X X"
    return start[:8] + b"X X X X".ljust(80) + recording.ljust(80) + b"01.01.85" + start[176:]


def read_header(path: Path) -> EdfHeader:
    """Read the header of a file.

    Raises
    ------
    CorruptRecordError
        If it is not an EDF or BDF file, or holds no whole data record.

    """
    size = path.stat().st_size
    with path.open("rb") as file:
        fixed = file.read(_HEADER_BYTES)
        if len(fixed) < _HEADER_BYTES or not is_edf(fixed):
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
    columns = _split(described, n_signals)
    per_record = tuple(_whole(text, "samples in a data record") for text in columns[8])
    record_samples = sum(per_record)
    if min(per_record) < 0 or not 1 <= record_samples <= 2**26:
        msg = f"a data record of the EDF file must hold samples, it says {record_samples}"
        raise CorruptRecordError(msg)
    sample_bytes = 3 if fixed.startswith(BDF_MAGIC) else 2
    stated, held = _count_records(fixed, size - data_at, sample_bytes * record_samples)
    return EdfHeader(
        data_at=data_at,
        n_records=min(stated or held, held),
        stated_records=stated,
        held_records=held,
        record_samples=record_samples,
        record_s=_number(fixed[244:252], "duration of a data record"),
        sample_bytes=sample_bytes,
        is_discontinuous=fixed[192:236].startswith((b"EDF+D", b"BDF+D")),
        start_clock_s=_clock(fixed[176:184]),
        columns=columns,
        per_record=per_record,
    )


def _split(described: bytes, n_signals: int) -> tuple[tuple[bytes, ...], ...]:
    columns, at = [], 0
    for width in _FIELDS:
        columns.append(
            tuple(described[at + width * n : at + width * (n + 1)] for n in range(n_signals))
        )
        at += width * n_signals
    return tuple(columns)


def _count_records(fixed: bytes, data_bytes: int, record_bytes: int) -> tuple[int, int]:
    """Count the data records that are stated, 0 where none are, and those that are there."""
    held = data_bytes // record_bytes
    text = fixed[236:244].strip(b" \x00")
    stated = _whole(fixed[236:244], "number of data records") if text else 0
    stated = 0 if stated == -1 else stated  # the recorder did not get to write it
    if stated < 0 or held < 1:
        msg = f"the EDF file must hold {max(stated, 1)} data records or more, it holds {held}"
        raise CorruptRecordError(msg)
    return stated, held


def _explain_count(header: EdfHeader) -> tuple[str, ...]:
    """Warn where a file holds fewer data records than it states, or more."""
    stated, held = header.stated_records, header.held_records
    if stated > held:
        msg = (
            f"the EDF file is cut off: it states {stated} data records and holds {held}, "
            "which are analysed"
        )
        return (msg,)
    if 0 < stated < held:
        msg = f"the EDF file holds {held} data records and states {stated}: the others are left out"
        return (msg,)
    return ()


def _read_onsets(path: Path, header: EdfHeader) -> tuple[float, ...]:
    """Read when each record of an EDF+D file begins, in seconds since the first."""
    if not header.annotations or not 0 < header.n_records <= _MAX_TIMED_RECORDS:
        msg = (
            "an EDF+ file with gaps (EDF+D) must say in its annotations when each of at most "
            f"{_MAX_TIMED_RECORDS} records begins, it does not"
        )
        raise UnsupportedRecordError(msg)
    first, count = header.annotations[0]
    values = _map_records(path, header, header.n_records, mode="r")
    width = header.sample_bytes
    matches = [
        _TIMEKEEPING.match(record.tobytes())
        for record in values[:, width * first : width * (first + count)]
    ]
    onsets_s = np.array([float(match[1]) if match else np.nan for match in matches])
    steps_s = np.diff(onsets_s)
    if np.isnan(onsets_s).any() or (steps_s < header.record_s - 0.1).any():
        msg = "the records of an EDF+D file must say when they begin, one after the other; not so"
        raise CorruptRecordError(msg)
    return tuple((onsets_s - onsets_s[0]).tolist())


def _map_records(
    path: Path, header: EdfHeader, count: int, *, mode: Literal["r", "r+"]
) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    return np.memmap(
        path,
        dtype=np.uint8,
        mode=mode,
        offset=header.data_at,
        shape=(count, header.sample_bytes * header.record_samples),
    )


def _list_signals(
    header: EdfHeader, onsets_s: tuple[float, ...], *, unit: str | None
) -> tuple[tuple[EdfSignal, ...], tuple[str, ...]]:
    """List the signals in volts, and the names of the others."""
    columns = header.columns
    labels = [_text(label) for label in columns[0]]
    names = unique_names(
        [_short_name(label) or f"signal{number}" for number, label in enumerate(labels, 1)]
    )
    signals: list[EdfSignal] = []
    others: list[str] = []
    unitless: dict[str, str] = {}
    used_unit = False
    first = 0
    for number, count in enumerate(header.per_record):
        place, first = first, first + count
        stated = _text(columns[2][number])
        named = read_unit(stated)
        if labels[number] in _ANNOTATIONS or count == 0:
            continue
        limits = _limits_of(columns, number)
        is_ecg = kind_of(labels[number]) is SignalKind.ECG
        if named in {None, COUNTS} and is_ecg and limits is not None:
            if unit is None:
                unitless[names[number]] = stated
            named, used_unit = unit, used_unit or unit is not None
        if named is None or named == COUNTS or limits is None:
            others.append(names[number])
            continue
        if not header.record_s > 0:
            msg = (
                f"a data record of the EDF file must last some time, it says {header.record_s!r} s"
            )
            raise CorruptRecordError(msg)
        low, high, least, most = limits
        gain, scale = (high - low) / (most - least), UNIT_TO_MV[named]
        signals.append(
            EdfSignal(
                lead=_lead_of(header, onsets_s, names[number], labels[number], count),
                first=place,
                per_record=count,
                gain_mv=gain * scale,
                offset_mv=(low - gain * least) * scale,
                missing=_least_of(header.sample_bytes, below=min(least, most)),
            )
        )
    if unitless and not any(kind_of(signal.lead.label) is SignalKind.ECG for signal in signals):
        # Another signal with a unit, such as an EEG, is not a substitute.
        stated = next(iter(unitless.values()))
        msg = (
            f"unit must be given (mV, uV or V): the EDF file states {stated!r} for its ECG "
            f"({', '.join(unitless)}), which is not a voltage"
        )
        raise MissingDetailError(msg, detail="unit")
    if not signals:
        raise no_leads("an EDF file", others)
    if unit is not None and not used_unit:
        msg = "unit must be left out for an EDF file that states it"
        raise MissingDetailError(msg, detail="unit")
    return tuple(signals), tuple(others)


def _short_name(label: str) -> str:
    """Leave out the type of signal, which EDF+ puts first; the label says more to the choice."""
    is_pair = re.search(r"-\s*E[CK]G", label)  # ECG L-ECG R
    return label if is_pair else re.sub(r"^E[CK]G\s+", "", label)


def _limits_of(
    columns: tuple[tuple[bytes, ...], ...], number: int
) -> tuple[float, float, float, float] | None:
    """Read the physical and digital limits; None for a spare channel, which has none or equal ones.

    Physical limits may be inverted, as those of a signal of the other sign; digital limits that
    are inverted alone leave the sign open, so an ECG is rejected.
    """
    values = [_float(columns[field][number]) for field in (3, 4, 5, 6)]
    low, high, least, most = values
    if not np.isfinite(values).all() or low == high or least == most:
        return None
    if least > most and low < high:
        label = _text(columns[0][number])
        if kind_of(label) is SignalKind.ECG:
            msg = f"the digital limits of {label} must go up, they go from {least:g} to {most:g}"
            raise CorruptRecordError(msg)
        return None
    return low, high, least, most


def _least_of(sample_bytes: int, *, below: float) -> int | None:
    least = -(1 << (8 * sample_bytes - 1))
    return least if least < below else None


def _lead_of(
    header: EdfHeader, onsets_s: tuple[float, ...], name: str, label: str, per_record: int
) -> Lead:
    fs = per_record / header.record_s
    n_samples = per_record * header.n_records
    if onsets_s:
        n_samples = max(n_samples, round(onsets_s[-1] * fs) + per_record)
    return Lead(name, fs, n_samples, label)


def _read_signal(
    path: Path, header: EdfHeader, signal: EdfSignal, onsets_s: tuple[float, ...]
) -> Iterator[NDArray[np.float32]]:
    """Read one signal block by block, in mV; what no record covers is NaN."""
    least = max(2, round(_LEAST_GAP_S * signal.lead.fs))
    written = 0
    for start, samples in _read_records(path, header, signal):
        block = (samples * signal.gain_mv + signal.offset_mv).astype(np.float32)
        if signal.missing is not None:
            block[samples == signal.missing] = np.nan
        if not onsets_s:
            yield block.ravel()
            written += block.size
            continue
        for number, record in enumerate(block, start):
            gap = round(onsets_s[number] * signal.lead.fs) - written
            if gap >= least:
                written += gap
                yield from _missing(gap)
            written += len(record)
            yield record
    left = (signal.lead.n_samples or 0) - written
    if left > 0:  # by rounding
        yield from _missing(left)


def _missing(n_samples: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, n_samples, _BYTES_AT_ONCE):
        yield np.full(min(_BYTES_AT_ONCE, n_samples - start), np.nan, dtype=np.float32)


def _read_records(
    path: Path, header: EdfHeader, signal: EdfSignal
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Give the number of a record, and its samples and those of some that follow."""
    record_bytes = header.sample_bytes * header.record_samples
    at_once = max(1, _BYTES_AT_ONCE // record_bytes)
    width = header.sample_bytes
    columns = slice(width * signal.first, width * (signal.first + signal.per_record))
    with path.open("rb") as file:
        file.seek(header.data_at)
        for start in range(0, header.n_records, at_once):
            count = min(at_once, header.n_records - start)
            raw = np.fromfile(file, dtype=np.uint8, count=count * record_bytes)
            part = np.ascontiguousarray(raw.reshape(count, record_bytes)[:, columns])
            if width == 2:
                yield start, part.view("<i2").astype(np.int64)
            else:
                low, middle, high = part.reshape(count, -1, 3).astype(np.int64).transpose(2, 0, 1)
                yield start, ((high << 16 | middle << 8 | low) ^ 0x800000) - 0x800000


def _text(field: bytes) -> str:
    return field.decode("latin-1").strip(" \x00")


def _float(field: bytes) -> float:
    """Read a number; NaN where a field holds none."""
    try:
        return float(field.decode("ascii").strip(" \x00").replace(",", "."))
    except ValueError:
        return float("nan")


def _number(field: bytes, what: str) -> float:
    value = _float(field)
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
    match = re.fullmatch(rb"([01]\d|2[0-3])[.:]([0-5]\d)[.:]([0-5]\d)", field)
    return 3600.0 * int(match[1]) + 60.0 * int(match[2]) + int(match[3]) if match else None
