"""Read recordings in text files: a column for each lead, with a column of time or a stated rate."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, MissingDetailError, UnsupportedRecordError
from ecg_lib.records.files.lead import (
    MAX_NAME,
    Lead,
    check_samples,
    missing_rate,
    no_leads,
    rate_contradiction,
    unnamed_leads,
)
from ecg_lib.records.files.text import layout as layouts
from ecg_lib.records.files.text.cells import MISSING_CELLS, has_comment_mark, is_comment
from ecg_lib.records.files.text.headings import (
    DATE_NAME,
    UNIT_TO_S,
    ColumnKind,
    Heading,
    read_heading,
)
from ecg_lib.records.files.text.layout import Layout, find_layout
from ecg_lib.records.files.text.times import (
    LOOSE_DEVIATION,
    RATE_DEVIATION,
    Clock,
    Rate,
    measure_rate,
    read_clocks,
    read_time_of_day,
    settle_rate,
    size_of_unit,
)
from ecg_lib.records.limits import MAX_FS_HZ, MAX_SIGNALS, MIN_FS_HZ
from ecg_lib.records.signal_names import (
    COUNTS,
    UNIT_TO_MV,
    SignalKind,
    kind_of,
    read_unit,
)

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES: Final = 2**22

_MAX_CYCLES: Final = 0.2
"""Share of the rows at which a count begins again; OpenSignals counts to 15."""

_MAX_BLANKS: Final = 2**22
"""More than an hour at 1000 Hz."""

_COUNTED_ROWS: Final = 100
"""Rows by which a column that is called a count is known to be one."""


class CsvColumn(NamedTuple):
    """A column of numbers, with what they are multiplied by and what is added."""

    number: int
    scale: float
    """To mV."""
    offset: float = 0.0
    has_unit: bool = True
    """See :class:`Lead`."""


class TimeColumn(NamedTuple):
    """A column of time."""

    number: int
    scale: float
    """To seconds; 0 for times of day, with or without a date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFile:
    """A text file of numbers: a column for each lead, names above them or none.

    A column of time (see :func:`read_heading`) gives the sampling rate and must go on at that rate
    to the end; where it jumps, samples are missing. Columns of time, of text and counts of rows
    are left out.
    """

    path: Path
    layout: Layout
    columns: Mapping[str, CsvColumn]
    """The leads."""
    others: tuple[str, ...]
    time: TimeColumn | None
    fs: float
    is_regular: bool
    warnings: tuple[str, ...]
    kind: str = "csv"
    start_clock_s: float | None = None

    @classmethod
    def open(cls, path: Path, *, fs: float | None, unit: str | None) -> CsvFile:
        """Open a file by its first rows."""
        with path.open("rb") as file:
            start = file.read(layouts.PEEK_BYTES)
        layout = find_layout(start, is_whole=len(start) < layouts.PEEK_BYTES)
        headings = _read_headings(layout)
        time, measured = _find_time(layout, headings)
        columns, others = _find_leads(layout, headings, time, unit=unit)
        warnings = layout.warnings
        if measured is not None:
            fs, said = _settle(measured, given=fs, stated=layout.fs)
            warnings += said
        elif layout.fs is not None:
            if fs is not None and abs(layout.fs - fs) > RATE_DEVIATION * fs:
                raise rate_contradiction(layout.fs)
            fs = layout.fs
        if fs is None:
            raise missing_rate("a CSV file without a column of time")
        return cls(
            path=path,
            layout=layout,
            columns=columns,
            others=others,
            time=time,
            fs=fs,
            is_regular=measured is None or measured.is_regular,
            warnings=warnings,
            start_clock_s=None
            if time is None or time.scale
            else read_time_of_day(layout.rows[0][time.number]),
        )

    @property
    def leads(self) -> tuple[Lead, ...]:
        """Every column of numbers but time and counts of rows."""
        is_named = self.layout.names is not None or bool(self.layout.lead)
        return tuple(
            Lead(name, self.fs, None, is_named=is_named, has_unit=column.has_unit)
            for name, column in self.columns.items()
        )

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`; an empty cell and a gap in time are missing samples."""
        return (block for (block,) in self.blocks_of([lead]))

    def blocks_of(self, leads: Sequence[Lead]) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """Read several leads as :meth:`blocks` does, in one pass over the text."""
        columns = [self.columns[lead.name] for lead in leads]
        clocks = [Clock(self.fs, is_regular=self.is_regular) for _ in leads]
        empty = np.zeros(0)
        for values, times_s in self._read([column.number for column in columns]):
            values_mv = [
                numbers * column.scale + column.offset
                for column, numbers in zip(columns, values, strict=True)
            ]
            if self.time is None:
                yield tuple(map(check_samples, values_mv))
                continue
            taken = map(Clock.take, clocks, values_mv, repeat(times_s))
            for parts in zip(*taken, strict=True):
                yield tuple(map(check_samples, parts))
        if self.time is not None:
            last = [clock.take(empty, empty, is_last=True) for clock in clocks]
            for parts in zip(*last, strict=True):
                yield tuple(map(check_samples, parts))

    def _read(
        self, numbers: Sequence[int]
    ) -> Iterator[tuple[list[NDArray[np.float64]], NDArray[np.float64]]]:
        """Give the values of columns, and the seconds of the column of time."""
        import pyarrow as pa  # noqa: PLC0415  a second that other files need not wait
        from pyarrow import csv as pa_csv  # noqa: PLC0415  see above

        layout, time = self.layout, self.time
        names = [f"column{at}" for at in range(layout.width)]
        wanted = {names[number]: pa.float64() for number in numbers}
        if time is not None:
            wanted[names[time.number]] = pa.float64() if time.scale else pa.string()
        times = _Times(time)
        try:
            with (
                _Cleaned(self.path, layout) as cleaned,
                pa_csv.open_csv(
                    cleaned,
                    read_options=pa_csv.ReadOptions(
                        column_names=names, block_size=BLOCK_BYTES, use_threads=False
                    ),
                    parse_options=pa_csv.ParseOptions(delimiter=layout.delimiter or "\t"),
                    convert_options=pa_csv.ConvertOptions(
                        include_columns=list(wanted),
                        column_types=wanted,
                        null_values=list(MISSING_CELLS),
                        decimal_point=layout.decimal,
                    ),
                ) as reader,
            ):
                for batch in reader:
                    if batch.num_rows == 0:
                        continue  # a block of blank lines
                    columns = batch.columns
                    values = [
                        column.to_numpy(zero_copy_only=False).astype(np.float64)
                        for column in columns[: len(numbers)]
                    ]
                    yield values, times.read(None if time is None else columns[-1])
        except (pa.ArrowInvalid, UnicodeError) as error:
            # Arrow's message repeats the cell.
            msg = (
                "every row of the CSV file must hold as many numbers as the first, one does not; "
                "missing samples are empty cells or NaN"
            )
            raise CorruptRecordError(msg) from error


def _settle(
    measured: Rate, *, given: float | None, stated: float | None
) -> tuple[float, tuple[str, ...]]:
    """Decide for a rate: a column of time is trusted more than words above it, a caller more."""
    if stated is None or given is not None:
        return settle_rate(measured, given), ()
    allowed = RATE_DEVIATION if measured.is_regular else LOOSE_DEVIATION
    if abs(measured.fs - stated) <= allowed * stated:
        return stated, ()
    conflict = (
        f"the file states {stated:g} Hz above its samples, and its column of time gives "
        f"{measured.fs:.4g} Hz, which is taken"
    )
    return settle_rate(measured, None), (conflict,)


class _Times:
    """Turns the cells of a column of time into seconds, block by block."""

    def __init__(self, time: TimeColumn | None) -> None:
        self._time = time
        self._last_s: float | None = None

    def read(self, cells: pa.Array | None) -> NDArray[np.float64]:
        if self._time is None or cells is None:
            return np.zeros(0)
        if self._time.scale:
            values = cells.to_numpy(zero_copy_only=False)
            return np.asarray(values, dtype=np.float64) * self._time.scale
        texts: list[str | None] = cells.to_pylist()
        times_s = read_clocks([text or "" for text in texts])
        if self._last_s is not None and times_s[0] < self._last_s:  # past midnight
            times_s += 86_400 * np.ceil((self._last_s - times_s[0]) / 86_400)
        self._last_s = float(times_s[-1])
        return times_s


class _Cleaned(io.RawIOBase):
    """The rows of samples alone, as UTF-8, for a reader that takes one kind of CSV."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._file: IO[bytes] = path.open("rb")
        self._encoding = layout.encoding if layout.encoding.startswith("utf-16") else None
        self._text = (
            io.TextIOWrapper(self._file, encoding=self._encoding, errors="replace", newline=None)
            if self._encoding
            else None
        )
        self._delimiter = layout.delimiter
        self._has_blank_samples = layout.has_blank_samples
        self._blanks = 0
        self._has_quotes = layout.has_quotes
        self._left = layout.first_line
        self._ready = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        (self._text or self._file).close()
        super().close()

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  any buffer, which 3.11 cannot name
        view = memoryview(buffer)
        while not self._ready:
            lines = self._read_lines()
            if not lines:
                return 0
            skipped = min(self._left, len(lines))
            self._left -= skipped
            if skipped < len(lines):
                self._ready = self._clean(lines[skipped:])
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _read_lines(self) -> list[bytes]:
        if self._text is not None:
            lines = [line.encode() for line in self._text.readlines(BLOCK_BYTES)]
        else:
            lines = self._file.readlines(BLOCK_BYTES)
        # Python and editors end a line at a lone carriage return too.
        if any(b"\r" in line[:-2] for line in lines):
            lines = [part for line in lines for part in line.splitlines(keepends=True)]
        return lines

    def _clean(self, lines: list[bytes]) -> bytes:
        text = b"".join(lines)
        if has_comment_mark(text):
            lines = [line for line in lines if not is_comment(line[:80].decode("latin-1"))]
            text = b"".join(lines)
        if self._has_blank_samples:
            text = self._fill_blanks(lines)
        if self._has_quotes:
            text = text.replace(b"'", b"")
        if self._delimiter is None:
            text = re.sub(rb"(?m)^[ \t]+|[ \t\r]+$", b"", text)
            text = re.sub(rb"[ \t]+", b"\t", text)
        elif b" " in text:
            text = re.sub(
                rb" *([" + re.escape(self._delimiter).encode() + rb"\r\n]) *", rb"\1", text
            )
        return text if text.endswith(b"\n") else text + b"\n"

    def _fill_blanks(self, lines: list[bytes]) -> bytes:
        """Write blank lines as missing samples when a sample follows them."""
        kept = []
        for line in lines:
            if not line.strip():
                self._blanks += 1
                continue
            if self._blanks > _MAX_BLANKS:
                msg = (
                    f"at most {_MAX_BLANKS} lines of the CSV file may be blank one after the "
                    f"other, got {self._blanks}"
                )
                raise CorruptRecordError(msg)
            kept += [b"nan\n" * self._blanks, line]
            self._blanks = 0
        return b"".join(kept)


def _read_headings(layout: Layout) -> list[Heading]:
    """Read the heading of each column, with the unit of the row below it."""
    if layout.names is None:
        numbers = [at for at, numeric in enumerate(layout.is_numeric) if numeric]
        names = dict(zip(numbers, unnamed_leads(len(numbers)), strict=True))
        if len(numbers) == 1 and layout.lead:
            names[numbers[0]] = layout.lead
        headings = [
            Heading(ColumnKind.LEAD, names[at]) if at in names else Heading(ColumnKind.COUNT, "")
            for at in range(layout.width)
        ]
        return _find_unnamed_time(layout, headings)
    headings = [read_heading(cell) for cell in layout.names]
    for at, stated in enumerate(layout.units):
        kind, name, unit = headings[at]
        if kind is ColumnKind.TIME and stated.lower() in UNIT_TO_S:
            headings[at] = Heading(kind, name, stated.lower())
        elif kind is not ColumnKind.TIME and unit is None:
            headings[at] = Heading(kind, name, read_unit(stated) or (stated or None))
    return headings


def _find_unnamed_time(layout: Layout, headings: list[Heading]) -> list[Heading]:
    """Take a first column without a name for time or a count, where its numbers say so.

    Time is of day, or goes up from 0 at the rate of an ECG; a count goes up in other equal steps.
    """
    if layout.width < 2:
        return headings
    if not layout.is_numeric[0]:
        clocks = read_clocks([row[0] for row in layout.rows[:_COUNTED_ROWS]])
        if np.isfinite(clocks).all():
            return [Heading(ColumnKind.TIME, "time", "s"), *headings[1:]]
        return headings
    first = _describe_first(_numbers_of(layout, 0))
    if first is None:
        return headings
    left = [at for at, numeric in enumerate(layout.is_numeric) if numeric and at > 0]
    named = dict(zip(left, unnamed_leads(len(left)), strict=True))
    rest = (
        Heading(kind, named.get(at, name)) for at, (kind, name, _) in enumerate(headings) if at > 0
    )
    return [first, *rest]


def _describe_first(numbers: NDArray[np.float64]) -> Heading | None:
    """Describe a first column without a name: time, a count, or None for a lead."""
    if len(numbers) <= _COUNTED_ROWS or not np.isfinite(numbers).all():
        return None
    steps = np.diff(numbers)
    step = float(steps.mean())
    is_time = numbers[0] == 0.0 and 1 / MAX_FS_HZ <= step <= 1 / MIN_FS_HZ
    if is_time and (np.abs(steps - step) <= 0.5 * step).all():
        return Heading(ColumnKind.TIME, "time", "s")
    is_even = step > 0 and (np.abs(steps - step) <= 1e-9 * np.abs(numbers).max()).all()
    return Heading(ColumnKind.COUNT, "") if is_even or _is_cyclic(steps) else None


def _is_cyclic(steps: NDArray[np.float64]) -> bool:
    """Return whether numbers count up by one and begin again, as those of packets do."""
    back = steps[steps != 1]
    return bool(0 < len(back) < _MAX_CYCLES * len(steps) and (back < 0).all())


def _numbers_of(layout: Layout, number: int) -> NDArray[np.float64]:
    """The numbers of a column in the first rows; NaN where a cell is empty or broken."""
    return np.array([_number_of(row[number], layout) for row in layout.rows], dtype=np.float64)


def _number_of(cell: str, layout: Layout) -> float:
    text = cell.strip("'\" ")
    try:
        return float(text.replace(",", ".") if layout.decimal == "," else text)
    except ValueError:
        return float("nan")


def _find_time(layout: Layout, headings: list[Heading]) -> tuple[TimeColumn | None, Rate | None]:
    """Find the column of time that keeps its rate best: a regular one before one that repeats."""
    refused: Exception | None = None
    found: list[tuple[TimeColumn, Rate]] = []
    for number, (kind, name, unit) in enumerate(headings):
        if kind is not ColumnKind.TIME:
            continue
        try:
            column, times_s = _read_time(layout, number, unit)
            found.append((column, measure_rate(times_s)))
        except (CorruptRecordError, UnsupportedRecordError, MissingDetailError) as error:
            if DATE_NAME.fullmatch(name) is None:
                refused = refused or error
    usual = [one for one in found if one[1].is_regular] or found
    if usual:
        return usual[0]
    if refused is not None:
        raise refused
    return None, None


def _read_time(
    layout: Layout, number: int, unit: str | None
) -> tuple[TimeColumn, NDArray[np.float64]]:
    if not layout.is_numeric[number]:
        times_s = read_clocks([row[number] for row in layout.rows])
        if not np.isfinite(times_s[:2]).all():
            msg = (
                "the column of time of the CSV file must hold seconds, or times like "
                "2026-03-14 09:15:00.004 or 0:00.004, it does not"
            )
            raise CorruptRecordError(msg)
        return TimeColumn(number, 0.0), times_s
    if unit is None:
        msg = "the column of time of the CSV file must be in s, ms, us or ns, it is not"
        raise UnsupportedRecordError(msg)
    times = _numbers_of(layout, number)
    scale = UNIT_TO_S[unit]
    if scale == 1.0:
        scale = size_of_unit(times)
    return TimeColumn(number, scale), times * scale


def _find_leads(
    layout: Layout, headings: list[Heading], time: TimeColumn | None, *, unit: str | None
) -> tuple[dict[str, CsvColumn], tuple[str, ...]]:
    """Find the columns of leads by name; `unit` is that of those that state none."""
    leads: dict[str, CsvColumn] = {}
    others: list[str] = []
    unclear: list[str] = []
    default = unit or next(iter(layout.stated_units), "mV")
    has_default = unit is not None or len(layout.stated_units) <= 1
    doubled: set[str] = set()
    has_counts = False
    for number, (_, long_name, stated) in enumerate(headings):
        if not _holds_samples(layout, headings, number) or (time and time.number == number):
            continue
        name = long_name[:MAX_NAME]
        voltage = read_unit(stated or default)
        converter = layout.converters.get(long_name)
        if converter is None and not stated and not has_default and not layout.has_counts:
            unclear.append(name)
            continue
        if converter is None and (voltage in {None, COUNTS} or layout.has_counts):
            has_counts = has_counts or voltage == COUNTS or layout.has_counts
            others.append(name)
            continue
        if stated and unit and UNIT_TO_MV.get(voltage or "") not in {None, UNIT_TO_MV[unit]}:
            msg = f"the file states {voltage}; unit must be that or left out"
            raise MissingDetailError(msg, detail="unit")
        if name in leads or name in doubled:
            doubled.add(name)
            leads.pop(name, None)
            continue
        if converter is not None:
            name = name if "ECG" in leads else "ECG"
            leads[name] = CsvColumn(number, converter.gain_mv, converter.offset_mv)
            continue
        has_unit = bool(stated or unit or layout.stated_units)
        leads[name] = CsvColumn(number, UNIT_TO_MV[voltage or "mV"], has_unit=has_unit)
    _refuse_unclear(unclear, layout, has_others=bool(leads))
    others += unclear
    if not leads:
        raise _no_lead(doubled=bool(doubled), has_counts=has_counts, others=others)
    if len(leads) > MAX_SIGNALS:
        msg = f"the CSV file must have one column for each lead, at most {MAX_SIGNALS}"
        raise CorruptRecordError(msg)
    return leads, (*others, *sorted(doubled))


def _holds_samples(layout: Layout, headings: list[Heading], number: int) -> bool:
    """Return whether a column holds numbers that are neither time nor a count of rows."""
    kind, name, _ = headings[number]
    if kind is ColumnKind.TIME or not layout.is_numeric[number]:
        return False
    return kind is not ColumnKind.COUNT or bool(name and not _counts_rows(layout, number))


def _refuse_unclear(names: list[str], layout: Layout, *, has_others: bool) -> None:
    """Refuse leads for which contradictory units are stated, unless others can be analysed."""
    kinds = {kind_of(name) for name in names}
    if SignalKind.ECG in kinds or (SignalKind.UNKNOWN in kinds and not has_others):
        msg = (
            "unit must be given (mV, uV or V): above its samples the CSV file states "
            f"{' and '.join(layout.stated_units)}"
        )
        raise MissingDetailError(msg, detail="unit")


def _no_lead(
    *, doubled: bool, has_counts: bool, others: list[str]
) -> CorruptRecordError | UnsupportedRecordError:
    if doubled:
        msg = "each lead of the CSV file must have a name of its own, two have the same"
        return CorruptRecordError(msg)
    if has_counts:
        msg = (
            "the leads of a CSV file must be in mV, uV or V, one states counts, which need the "
            "gain of the device"
        )
        return UnsupportedRecordError(msg)
    if others:
        return no_leads("a CSV file", others)
    msg = "the CSV file must have a column for a lead, it has none but time and counts of rows"
    return CorruptRecordError(msg)


def _counts_rows(layout: Layout, number: int) -> bool:
    counts = _numbers_of(layout, number)[:_COUNTED_ROWS]
    with np.errstate(invalid="ignore"):  # of two infinities
        return len(counts) > 1 and bool((np.diff(counts) == 1).all())
