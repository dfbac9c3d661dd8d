"""Open recordings that people send: WFDB, EDF and EDF+, CSV, NPY; a day, several leads.

One lead is read block by block, so that a day needs no more memory than a minute, and what a file
says about itself is checked before anything is believed. No message repeats the name of a file or
what it says about a person. :mod:`ecg_lib.records` reads whole WFDB records that are trusted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ecg_lib import edf_format, wfdb_format
from ecg_lib.csv_headings import COUNTS, UNIT_TO_S, ColumnKind, Heading, read_heading
from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSignalError,
    MissingDetailError,
    RecordNotFoundError,
    RecordTooLongError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.filtering import MAX_FS_HZ, MIN_FS_HZ, check_sampling_rate
from ecg_lib.records import PREFERRED_LEAD, UNIT_TO_MV, preferred_lead
from ecg_lib.wfdb_format import MAX_SIGNALS

MAX_DURATION_S: Final = 24 * 3600.0
MIN_DURATION_S: Final = 10.0
MAX_ABS_MV: Final = 1e4
"""No electrode gives 10 V: samples beyond it are counts of a converter, not mV."""

UNITS: Final = ("mV", "uV", "V")

SUFFIXES: Final = (".hea", ".edf", ".csv", ".npy")
"""What names a recording; the signal files of a WFDB record are beside its header."""

_PEEK_BYTES: Final = 2**20
_NPY_HEADER_BYTES: Final = 65_536
_CSV_BLOCK_BYTES: Final = 2**22
_NPY_SAMPLES_AT_ONCE: Final = 2**20
_COUNTED_ROWS: Final = 100
"""Rows by which a column that is called a count is known to be one."""
_RATE_DEVIATION: Final = 1e-3
"""Share by which the rate of a column of time may differ, of what was said or of its beginning."""
_LONGEST_STEP: Final = 2.5
"""Intervals of samples from which a step of time is a gap; rounding makes at most two of one."""
_LATEST_S: Final = 1e12
"""Beyond any clock: seconds since 1970 are below it."""
_MAX_NAME: Final = 64


class Lead(NamedTuple):
    """A lead of a file, with what is known before it is read."""

    name: str
    fs: float
    n_samples: int | None
    """None for text, whose rows are not counted yet."""


class RecordingFile(Protocol):
    """A file that was opened and checked."""

    @property
    def kind(self) -> str:
        """``wfdb``, ``edf``, ``csv`` or ``npy``."""
        ...

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The leads that can be analysed."""
        ...

    @property
    def start_clock_s(self) -> float | None:
        """Time of day at which it begins, in seconds since midnight."""
        ...

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """Read a lead block by block, in mV, NaN where a sample is invalid."""
        ...


def open_recording(
    path: Path, *, fs: float | None = None, unit: str | None = None
) -> RecordingFile:
    """Open a recording by the extension of its file.

    Parameters
    ----------
    path : Path
        ``.hea`` (or ``.dat``, or the record's name), ``.edf``, ``.csv`` or ``.npy``.
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
    opened: RecordingFile
    if suffix == ".edf":
        opened = EdfFile.open(path)
    elif suffix == ".csv":
        opened = CsvFile.open(path, fs=fs, unit=unit)
    elif suffix == ".npy":
        opened = NpyFile.open(path, fs=fs, unit=unit)
    elif suffix in {".hea", ".dat", ""}:
        opened = WfdbFile.open(header)
    else:
        known = ", ".join(SUFFIXES)
        msg = f"a recording must be one of {known}, or a .zip of a WFDB record"
        raise UnsupportedRecordError(msg)
    if opened.kind in {"wfdb", "edf"}:
        _refuse_contradiction(opened, fs=fs, unit=unit)
    for lead in opened.leads:
        check_sampling_rate(lead.fs)
        if lead.n_samples is not None:
            check_duration(lead.n_samples / lead.fs)
    return opened


def _stem(path: Path) -> str:
    return path.stem if path.suffix.lower() in {".hea", ".dat"} else path.name


def _refuse_contradiction(opened: RecordingFile, *, fs: float | None, unit: str | None) -> None:
    if unit is not None:
        msg = "unit must be left out for WFDB and EDF, which state it"
        raise MissingDetailError(msg, detail="unit")
    if fs is not None and any(abs(lead.fs - fs) > 1e-6 * fs for lead in opened.leads):
        raise _contradiction(opened.leads[0].fs)


def _contradiction(stated_hz: float) -> MissingDetailError:
    msg = f"the file states {stated_hz:g} Hz; sampling_rate must be that or left out"
    return MissingDetailError(msg, detail="sampling_rate")


def check_duration(duration_s: float) -> None:
    """Refuse a recording that is too short or too long.

    Raises
    ------
    RecordTooLongError, InvalidSignalError

    """
    refuse_too_long(duration_s)
    if duration_s < MIN_DURATION_S:
        msg = f"a recording must last at least {MIN_DURATION_S:g} s, got {duration_s:.1f} s"
        raise InvalidSignalError(msg)


def refuse_too_long(duration_s: float) -> None:
    """Refuse a recording that is too long, as soon as it is.

    Raises
    ------
    RecordTooLongError

    """
    if duration_s > MAX_DURATION_S:
        msg = f"a recording must last at most 24 h, got {duration_s / 3600:.2f} h"
        raise RecordTooLongError(msg)


def choose_lead(leads: tuple[Lead, ...], name: str | None = None) -> Lead:
    """Choose a lead by name; without one MLII, or else the first.

    Raises
    ------
    UnknownLeadError
        If there is none of that name; says which there are.

    """
    by_name = {lead.name: lead for lead in leads}
    if name is None:
        return by_name[preferred_lead(tuple(by_name))]
    if name not in by_name:
        known = ", ".join(lead[:_MAX_NAME] for lead in list(by_name)[:MAX_SIGNALS])
        msg = f"lead must be one of those of the recording: {known}"
        raise UnknownLeadError(msg)
    return by_name[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbFile:
    """A WFDB record of one segment."""

    header: wfdb_format.WfdbHeader
    files: Mapping[str, Path]
    n_samples: int
    kind: str = "wfdb"

    @classmethod
    def open(cls, path: Path) -> WfdbFile:
        """Open a record by its header; its signal files are beside it."""
        if path.stat().st_size > wfdb_format.MAX_HEADER_BYTES:
            msg = f"a WFDB header must have at most {wfdb_format.MAX_HEADER_BYTES} bytes"
            raise CorruptRecordError(msg)
        header = wfdb_format.parse_header(path.read_text(encoding="latin-1"))
        files = {signal.file: path.with_name(signal.file) for signal in header.signals}
        count = wfdb_format.count_samples(header, files)
        return cls(header=header, files=files, n_samples=count)

    @property
    def leads(self) -> tuple[Lead, ...]:
        """Every signal of the header."""
        return tuple(
            Lead(signal.name, self.header.fs, self.n_samples) for signal in self.header.signals
        )

    @property
    def start_clock_s(self) -> float | None:
        """Base time of the header."""
        return self.header.start_clock_s

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`."""
        number = self.leads.index(lead)
        blocks = wfdb_format.read_blocks(self.header, number, self.files, self.n_samples)
        return map(_checked, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdfFile:
    """An EDF or continuous EDF+ file; its signals in volts are leads.

    A signal whose rate is none of an ECG, such as a trend of one value a second, is no lead where
    there are others.
    """

    path: Path
    header: edf_format.EdfHeader
    kind: str = "edf"

    @classmethod
    def open(cls, path: Path) -> EdfFile:
        """Open a file."""
        return cls(path=path, header=edf_format.read_header(path))

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
        blocks = edf_format.read_blocks(self.path, self.header, names.index(lead.name))
        return map(_checked, blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpyFile:
    """A NumPy array of numbers, shape ``(n_samples,)`` or ``(n_samples, n_leads)``."""

    values: NDArray[np.generic]
    fs: float
    scale_to_mv: float
    kind: str = "npy"
    start_clock_s: float | None = None

    @classmethod
    def open(cls, path: Path, *, fs: float | None, unit: str | None) -> NpyFile:
        """Open a file; its samples are mapped, not read."""
        if fs is None:
            raise _missing_rate("a NumPy file")
        values = _map_array(path)
        if not 1 <= values.shape[1] <= MAX_SIGNALS:
            msg = (
                f"the NumPy file must have 1 to {MAX_SIGNALS} leads, as columns, "
                f"got shape {values.shape}"
            )
            raise CorruptRecordError(msg)
        return cls(values=values, fs=fs, scale_to_mv=UNIT_TO_MV[unit or "mV"])

    @property
    def leads(self) -> tuple[Lead, ...]:
        """One lead is called MLII, several are numbered."""
        n_samples, count = self.values.shape
        return tuple(Lead(name, self.fs, n_samples) for name in _unnamed_leads(count))

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`."""
        column = self.leads.index(lead)
        for start in range(0, len(self.values), _NPY_SAMPLES_AT_ONCE):
            samples = self.values[start : start + _NPY_SAMPLES_AT_ONCE, column]
            if samples.dtype == np.float32 and self.scale_to_mv == 1.0:
                yield _checked(samples.astype(np.float32))
            else:
                yield _checked(samples.astype(np.float64) * self.scale_to_mv)


class CsvColumn(NamedTuple):
    """A column of a CSV file, with what its numbers are multiplied by."""

    number: int
    scale: float
    """To mV, or to seconds for time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFile:
    """A text file of numbers: a column for each lead, names in the first row or none.

    The first column of time (see :mod:`ecg_lib.csv_headings`) gives the sampling rate and must go
    on at that rate, without gaps, to the end. Columns of time and counts of rows are no leads.
    """

    path: Path
    width: int
    columns: Mapping[str, CsvColumn]
    """The leads."""
    time: CsvColumn | None
    has_header: bool
    delimiter: str
    fs: float
    kind: str = "csv"
    start_clock_s: float | None = None

    @classmethod
    def open(cls, path: Path, *, fs: float | None, unit: str | None) -> CsvFile:
        """Open a file by its first rows."""
        with path.open("rb") as file:
            start = file.read(_PEEK_BYTES)
        try:
            text = start.decode(
                "utf-8-sig", errors="strict" if len(start) < _PEEK_BYTES else "ignore"
            )
        except UnicodeDecodeError as error:
            msg = "the CSV file must be UTF-8 text, it is not"
            raise CorruptRecordError(msg) from error
        # The last line may be cut.
        lines = text.splitlines()[: None if len(start) < _PEEK_BYTES else -1]
        delimiter = max(",;\t", key=lines[0].count) if lines else ","
        rows = _split_rows(lines, delimiter)
        if not rows or "\x00" in text:
            msg = "the CSV file must have rows of numbers, it has none"
            raise CorruptRecordError(msg)
        has_header = not all(_is_number(cell) for cell in rows[0])
        body = rows[1:] if has_header else rows
        if not body or not all(_is_number(cell) for cell in body[0]):
            msg = "the CSV file must have rows of numbers below its header, it has none"
            raise CorruptRecordError(msg)
        width = len(rows[0])
        if width > MAX_SIGNALS + 1 or len(body[0]) != width:
            msg = f"the CSV file must have one column for each lead, at most {MAX_SIGNALS}"
            raise CorruptRecordError(msg)
        headings = (
            [read_heading(cell) for cell in rows[0]]
            if has_header
            else [Heading(ColumnKind.LEAD, name) for name in _unnamed_leads(width)]
        )
        time = _find_time(headings)
        if time is not None:
            stated = _rate_of(body, time)
            if fs is not None and abs(stated - fs) > _RATE_DEVIATION * fs:
                raise _contradiction(stated)
            fs = stated if fs is None else fs
        if fs is None:
            raise _missing_rate("a CSV file without a column of time")
        return cls(
            path=path,
            width=width,
            columns=_find_leads(headings, body, unit=unit),
            time=time,
            has_header=has_header,
            delimiter=delimiter,
            fs=fs,
        )

    @property
    def leads(self) -> tuple[Lead, ...]:
        """Every column but time and counts of rows."""
        return tuple(Lead(name, self.fs, None) for name in self.columns)

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`; an empty cell is an invalid sample."""
        import pyarrow as pa  # noqa: PLC0415  a second that other files need not wait
        from pyarrow import csv as pa_csv  # noqa: PLC0415  see above

        columns = [f"column{number}" for number in range(self.width)]
        samples, clock = self.columns[lead.name], _Clock(self.fs)
        wanted = [columns[column.number] for column in (samples, self.time) if column is not None]
        try:
            with pa_csv.open_csv(
                self.path,
                read_options=pa_csv.ReadOptions(
                    column_names=columns,
                    skip_rows=int(self.has_header),
                    block_size=_CSV_BLOCK_BYTES,
                    use_threads=False,
                ),
                parse_options=pa_csv.ParseOptions(delimiter=self.delimiter),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.float64()),
                    null_values=["", "NaN", "nan", "NA"],
                ),
            ) as reader:
                for batch in reader:
                    if batch.num_rows == 0:
                        continue  # a block of blank lines
                    values, *times = (
                        column.to_numpy(zero_copy_only=False).astype(np.float64)
                        for column in batch.columns
                    )
                    if self.time is not None:
                        clock.check(times[0] * self.time.scale)
                    yield _checked(values * samples.scale)
        except pa.ArrowInvalid as error:
            # Arrow's message repeats the cell.
            msg = "every row of the CSV file must hold as many numbers as the first, one does not"
            raise CorruptRecordError(msg) from error


class _Clock:
    """Follows a column of time block by block, and refuses one that leaves its rate."""

    def __init__(self, fs: float) -> None:
        self._fs = fs
        self._first_s = 0.0
        self._last_s: list[float] = []  # none before the first row
        self._rows = 0

    def check(self, times_s: NDArray[np.float64]) -> None:
        """Check the seconds of the next rows, one or more.

        Raises
        ------
        CorruptRecordError
            If time stands still or goes back, has a gap, or goes at another rate.

        """
        if self._rows == 0:
            self._first_s = float(times_s[0])
        steps_s = _steps_of(np.append(self._last_s, times_s))
        if (steps_s > _LONGEST_STEP / self._fs).any():
            msg = "the column of time of the CSV file must have no gaps, it has one"
            raise CorruptRecordError(msg)
        self._rows += len(times_s)
        self._last_s = [float(times_s[-1])]
        lasts_s, expected_s = float(times_s[-1]) - self._first_s, (self._rows - 1) / self._fs
        # A second is left to the times of few rows, which are rounded.
        if abs(lasts_s - expected_s) > _RATE_DEVIATION * expected_s + 1.0:
            msg = "the column of time of the CSV file must keep the rate of its beginning"
            raise CorruptRecordError(msg)


_NPY_HEADER: Final = re.compile(
    rb"\{'descr': '(?P<dtype>[<>=|]?[iu][1248]|[<>=]?f[248])', "
    rb"'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<rows>\d{1,12}),(?: ?(?P<columns>\d{1,6}),?)?\),? ?\}\s*"
)


def _map_array(path: Path) -> NDArray[np.generic]:
    """Map the numbers of a NumPy file, shape ``(n_samples, n_leads)``.

    Not by NumPy itself, which evaluates the header as Python's literals, takes archives, and
    raises whatever comes up.
    """
    with path.open("rb") as file:
        start = file.read(12)
        width = 2 if start[6:7] == b"\x01" else 4
        size = int.from_bytes(start[8 : 8 + width], "little")
        file.seek(8 + width)
        header = _NPY_HEADER.fullmatch(file.read(min(size, _NPY_HEADER_BYTES)))
    if not start.startswith(b"\x93NUMPY") or header is None:
        msg = "the NumPy file must hold numbers of shape (n_samples,) or (n_samples, n_leads)"
        raise CorruptRecordError(msg)
    dtype = np.dtype(header["dtype"].decode())
    shape = (int(header["rows"]), int(header["columns"] or 1))
    offset = 8 + width + size
    if shape[0] * shape[1] == 0 or path.stat().st_size - offset < (
        shape[0] * shape[1] * dtype.itemsize
    ):
        msg = f"the NumPy file must hold samples of shape {shape}, it is shorter or empty"
        raise CorruptRecordError(msg)
    order: Literal["C", "F"] = "F" if header["order"] == b"True" else "C"
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)


def _missing_rate(what: str) -> MissingDetailError:
    msg = f"sampling_rate must be given for {what}, which does not state it"
    return MissingDetailError(msg, detail="sampling_rate")


def _unnamed_leads(count: int) -> tuple[str, ...]:
    return (PREFERRED_LEAD,) if count == 1 else tuple(f"lead{n}" for n in range(1, count + 1))


def _split_rows(lines: list[str], delimiter: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(lines, delimiter=delimiter) if row]
    except csv.Error as error:
        msg = "the CSV file must have rows of numbers, its quotes do not end"
        raise CorruptRecordError(msg) from error


def _find_time(headings: list[Heading]) -> CsvColumn | None:
    kinds = [heading.kind for heading in headings]
    if ColumnKind.TIME not in kinds:
        return None
    number = kinds.index(ColumnKind.TIME)
    unit = headings[number].unit
    if unit is None:
        msg = "the column of time of the CSV file must be in s, ms, us or ns, it is not"
        raise UnsupportedRecordError(msg)
    return CsvColumn(number, UNIT_TO_S[unit])


def _find_leads(
    headings: list[Heading], rows: list[list[str]], *, unit: str | None
) -> dict[str, CsvColumn]:
    """Find the columns of leads by name; `unit` is that of those that state none."""
    leads: dict[str, CsvColumn] = {}
    for number, (kind, long_name, stated) in enumerate(headings):
        if kind is ColumnKind.TIME or (kind is ColumnKind.COUNT and _counts_rows(rows, number)):
            continue
        if stated == COUNTS:
            msg = "the leads of a CSV file must be in mV, uV or V, one states counts"
            raise UnsupportedRecordError(msg)
        if stated and unit and UNIT_TO_MV[stated] != UNIT_TO_MV[unit]:
            msg = f"the file states {stated}; unit must be that or left out"
            raise MissingDetailError(msg, detail="unit")
        name = long_name[:_MAX_NAME]
        if name in leads:
            msg = "each lead of the CSV file must have a name of its own, two have the same"
            raise CorruptRecordError(msg)
        leads[name] = CsvColumn(number, UNIT_TO_MV[stated or unit or "mV"])
    if not leads:
        msg = "the CSV file must have a column for a lead, it has none but time and counts of rows"
        raise CorruptRecordError(msg)
    return leads


def _counts_rows(rows: list[list[str]], number: int) -> bool:
    try:
        counts = np.array([float(row[number]) for row in rows[:_COUNTED_ROWS]], dtype=np.float64)
    except (ValueError, IndexError):
        return False  # a broken row is told of where it is read
    return len(counts) > 1 and bool((np.diff(counts) == 1).all())


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"\s*(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|NaN|)\s*", cell))


def _rate_of(rows: list[list[str]], time: CsvColumn) -> float:
    """Sampling rate from a column of time; near a whole number it is that number."""
    try:
        times = np.array([float(row[time.number]) for row in rows], dtype=np.float64)
    except (ValueError, IndexError) as error:
        msg = "the column of time of the CSV file must hold seconds, it does not"
        raise CorruptRecordError(msg) from error
    times_s = times * time.scale
    if len(_steps_of(times_s)) == 0:
        msg = "the CSV file must have two rows or more for a rate, it has one"
        raise CorruptRecordError(msg)
    lasts_s = float(times_s[-1] - times_s[0])
    fs = (len(times_s) - 1) / lasts_s
    # Times are rounded to milliseconds as a rule.
    return float(round(fs)) if abs(fs - round(fs)) < 2e-4 * fs else fs


def _steps_of(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds from each row to the next, all of them greater than 0."""
    if not (np.abs(times_s) < _LATEST_S).all():  # not so where one is NaN
        msg = "the column of time of the CSV file must hold seconds, it does not"
        raise CorruptRecordError(msg)
    steps_s = np.diff(times_s)
    if not (steps_s > 0).all():
        msg = "time must go forwards in the CSV file, it does not"
        raise CorruptRecordError(msg)
    return steps_s


def _checked(samples_mv: NDArray[np.floating]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        # Not fmax.reduce, in which a signalling NaN hides all other samples.
        is_beyond = np.abs(samples_mv) > MAX_ABS_MV
    if is_beyond.any():
        msg = (
            f"samples must be in the unit that is given (mV when none is), at most {MAX_ABS_MV:g} "
            "mV; these are more"
        )
        raise InvalidSignalError(msg)
    checked = samples_mv.astype(np.float32)
    checked[np.isnan(checked)] = np.nan
    return checked
