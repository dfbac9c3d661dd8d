"""Read recordings in CSV files: headings, the sampling rate from a column of time, samples.

The viewer reads headings by the same rule (``bentos/viewer/js/files/headings.js``), and both are
tested with one table, ``tests/csv_headings.json``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, MissingDetailError, UnsupportedRecordError
from ecg_lib.records.files.lead import (
    MAX_NAME,
    Lead,
    check_samples,
    missing_rate,
    rate_contradiction,
    unnamed_leads,
)
from ecg_lib.records.limits import (
    MAX_SIGNALS,
    UNIT_TO_MV,
)

_PEEK_BYTES: Final = 2**20


_CSV_BLOCK_BYTES: Final = 2**22


_COUNTED_ROWS: Final = 100
"""Rows by which a column that is called a count is known to be one."""


_RATE_DEVIATION: Final = 1e-3
"""Share by which the rate of a column of time may differ, of what was said or of its beginning."""


_LONGEST_STEP: Final = 2.5
"""Intervals of samples from which a step of time is a gap; rounding makes at most two of one."""


_LATEST_S: Final = 1e12
"""Beyond any clock: seconds since 1970 are below it."""


class CsvColumn(NamedTuple):
    """A column of a CSV file, with what its numbers are multiplied by."""

    number: int
    scale: float
    """To mV, or to seconds for time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFile:
    """A text file of numbers: a column for each lead, names in the first row or none.

    The first column of time (see :func:`read_heading`) gives the sampling rate and must go
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
            else [Heading(ColumnKind.LEAD, name) for name in unnamed_leads(width)]
        )
        time = _find_time(headings)
        if time is not None:
            stated = _rate_of(body, time)
            if fs is not None and abs(stated - fs) > _RATE_DEVIATION * fs:
                raise rate_contradiction(stated)
            fs = stated if fs is None else fs
        if fs is None:
            raise missing_rate("a CSV file without a column of time")
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
                    yield check_samples(values * samples.scale)
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
        name = long_name[:MAX_NAME]
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


LONGEST: Final = 200
"""Characters of a heading that is looked into; a longer one is the name of a lead."""


COUNTS: Final = "counts"
"""The unit of samples as a converter gave them."""


UNIT_TO_S: Final = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "μs", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
}


_UNITS: Final = {
    **dict.fromkeys(("mv", "millivolt", "millivolts"), "mV"),
    **dict.fromkeys(("uv", "µv", "μv", "microvolt", "microvolts"), "uV"),
    **dict.fromkeys(("v", "volt", "volts"), "V"),
    **dict.fromkeys(("adu", "count", "counts"), COUNTS),
}


_NAMELESS: Final = {"mv": "mV", "uv": "uV", "µv": "uV", "μv": "uV"}
"""Units that may be all of the heading of a lead; V is a lead too."""


_UNIT_IN_NAME: Final = re.compile(
    r"(.+?)(?:\s*\(([^()]+)\)|\s*\[([^\[\]]+)\]|_(mv|uv|µv|μv|s|ms|us|µs|μs|ns))", re.IGNORECASE
)


_TIME_NAME: Final = re.compile(r"(?:.*[ _-])?time(?:[ _-]?stamp)?|t", re.IGNORECASE)


_COUNT_NAME: Final = re.compile(
    r"|n|row|index|unnamed: 0|sample(?:[ _]?(?:#|number|index|no\.?))?", re.IGNORECASE
)


class ColumnKind(StrEnum):
    """What a column is."""

    LEAD = "lead"
    TIME = "time"
    COUNT = "count"
    """A lead after all where its numbers do not go up by one."""


class Heading(NamedTuple):
    """What a heading says."""

    kind: ColumnKind
    name: str
    unit: str | None = None
    """Of a lead ``mV``, ``uV``, ``V`` or ``counts``, None when it states none; of time a key of
    `UNIT_TO_S`, None when it states another."""


def read_heading(cell: str) -> Heading:
    """Read the heading of a column.

    Examples
    --------
    >>> read_heading("II (uV)")
    Heading(kind=<ColumnKind.LEAD: 'lead'>, name='II', unit='uV')
    >>> read_heading("time_ms")
    Heading(kind=<ColumnKind.TIME: 'time'>, name='time', unit='ms')

    """
    text = re.sub(r"^(['\"])(.*)\1$", r"\2", cell.strip())
    text = text.lstrip("#").strip()  # NumPy writes headings as a comment
    if len(text) > LONGEST:
        return Heading(ColumnKind.LEAD, text)
    found = _UNIT_IN_NAME.fullmatch(text)
    name = found[1] if found else text
    said = next(filter(None, found.groups()[1:])).strip().lower() if found else ""
    if text.lower() in UNIT_TO_S:
        return Heading(ColumnKind.TIME, text, text.lower())
    if _TIME_NAME.fullmatch(name):
        unit = said or "s"
        return Heading(ColumnKind.TIME, name, unit if unit in UNIT_TO_S else None)
    if said in _UNITS:
        return Heading(ColumnKind.LEAD, name, _UNITS[said])
    kind = ColumnKind.COUNT if _COUNT_NAME.fullmatch(text) else ColumnKind.LEAD
    return Heading(kind, text, _NAMELESS.get(text.lower()))
