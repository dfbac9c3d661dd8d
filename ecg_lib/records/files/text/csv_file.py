"""Read recordings in text files: a column for each lead, with a column of time or a stated rate."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSamplingRateError,
    RecordError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.lead import (
    Lead,
    check_samples,
    mark_nines,
    missing_rate,
    rate_contradiction,
)
from ecg_lib.records.files.text import layout as layouts
from ecg_lib.records.files.text.cells import MISSING_CELLS, has_comment_mark, is_comment
from ecg_lib.records.files.text.columns import (
    CountColumn,
    CsvColumn,
    TimeColumn,
    explain_columns,
    find_count,
    find_leads,
    find_time,
    read_headings,
)
from ecg_lib.records.files.text.layout import Layout, find_layout
from ecg_lib.records.files.text.rounding import RoundedRate
from ecg_lib.records.files.text.times import (
    LOOSE_DEVIATION,
    RATE_DEVIATION,
    Clock,
    CountClock,
    Rate,
    read_clocks,
    read_time_of_day,
    settle_rate,
)
from ecg_lib.records.limits import check_sampling_rate

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES: Final = 2**22

_LEAST_ROWS: Final = 100
"""Rows of numbers that a text must have to be taken for a recording among other files."""

_MINUS: Final = layouts.MINUS.encode()

_END_BYTES: Final = 2**16
"""Read from the end of a file; more than a row has."""

_MAX_HELD_BYTES: Final = 2**20
"""Of words below the samples."""

_MAX_BLANKS: Final = 2**22
"""More than an hour at 1000 Hz."""


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
    count: CountColumn | None
    """Column that counts rows, and so shows which are lost; only used without a time column."""
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
        if layout.second_headings is not None:
            raise _explain_second_headings(layout.second_headings)
        headings = read_headings(layout)
        time, measured = find_time(layout, headings, given=fs)
        columns, others = find_leads(layout, headings, time, unit=unit)
        warnings = layout.warnings + explain_columns(layout, headings, columns)
        if measured is not None:
            _check_rate(measured.fs, is_clock=time is not None and not time.scale)
            fs, said = _settle(measured, given=fs, layout=layout)
            warnings += said
            if time is not None and measured.rounded is not None:
                # Stamps that were made of a rounded interval are too long, or too short.
                scale = time.scale * measured.rounded.as_written / fs
                time = time._replace(scale=scale)
        elif layout.fs is not None:
            fs, said = _take_stated(layout.fs, layout.rounded, given=fs)
            warnings += said
        if fs is None:
            raise missing_rate("a CSV file without a column of time")
        warnings += _explain_cut_off(path, layout)
        return cls(
            path=path,
            layout=layout,
            columns=columns,
            others=others,
            time=time,
            count=find_count(layout, headings) if time is None else None,
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
            Lead(name, self.fs, None, column.label, is_named=is_named, has_unit=column.has_unit)
            for name, column in self.columns.items()
        )

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`; an empty cell and a gap in time are missing samples."""
        return (block for (block,) in self.blocks_of([lead]))

    def blocks_of(self, leads: Sequence[Lead]) -> Iterator[tuple[NDArray[np.float32], ...]]:
        """Read several leads as :meth:`blocks` does, in one pass over the text."""
        columns = [self.columns[lead.name] for lead in leads]
        for samples_mv in self._place_rows(columns):
            yield tuple(check_samples(column) for column in samples_mv)

    def _place_rows(self, columns: Sequence[CsvColumn]) -> Iterator[NDArray[np.float64]]:
        """Give samples in mV, shape (columns, rows), with NaN where rows were lost."""
        clock: Clock | CountClock | None = None
        if self.time is not None:
            clock = Clock(self.fs, is_regular=self.is_regular, n_columns=len(columns))
        elif self.count is not None:
            clock = CountClock(self.fs, step=self.count.step, period=self.count.period)
        for values, places in self._read([column.number for column in columns]):
            samples_mv = np.stack(
                [
                    mark_nines(numbers, numbers * column.scale + column.offset)
                    for column, numbers in zip(columns, values, strict=True)
                ]
            )
            if clock is None:
                yield samples_mv
            else:
                yield from clock.take(samples_mv, places)
        if clock is not None:
            yield from clock.end()

    def _read(
        self, numbers: Sequence[int]
    ) -> Iterator[tuple[list[NDArray[np.float64]], NDArray[np.float64]]]:
        """Give the values of columns, and the seconds or counts of the rows."""
        import pyarrow as pa  # noqa: PLC0415  a second that other files need not wait
        from pyarrow import csv as pa_csv  # noqa: PLC0415  see above

        layout, time = self.layout, self.time
        place = time or self.count
        names = [f"column{at}" for at in range(layout.width)]
        wanted = {names[number]: pa.float64() for number in numbers}
        if time is not None:
            wanted[names[time.number]] = pa.float64() if time.scale else pa.string()
        elif place is not None:
            wanted[names[place.number]] = pa.float64()
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
                    values = [
                        batch.column(names[number])
                        .to_numpy(zero_copy_only=False)
                        .astype(np.float64)
                        for number in numbers
                    ]
                    stamps = None if place is None else batch.column(names[place.number])
                    yield values, times.read(stamps)
        except (pa.ArrowInvalid, UnicodeError) as error:
            self._refuse_second_headings()
            # Arrow's message repeats the cell.
            row = re.search(r"Row #(\d{1,12})", str(error))
            which = f"row {row[1]} of its samples" if row else "one"
            msg = (
                "every row of the CSV file must hold as many numbers as the first, "
                f"{which} does not; missing samples are empty cells or NaN, and thousands have "
                "no separator"
            )
            raise CorruptRecordError(msg) from error

    def _refuse_second_headings(self) -> None:
        layout = self.layout
        if layout.heading is None:
            return
        with self.path.open(encoding=layout.encoding, errors="replace") as file:
            lines = (
                (place, layouts.split_cells(line, layout.delimiter)[:1])
                for place, line in enumerate(file)
                if place > layout.first_line and layout.heading in line
            )
            second = layouts.find_second_headings(layout.heading, lines)
        if second is not None:
            raise _explain_second_headings(second)


def _explain_second_headings(place: int) -> UnsupportedRecordError:
    msg = (
        "the CSV file must hold one block of samples, its headings are repeated in line "
        f"{place + 1}; save each block as a file of its own and join the files"
    )
    return UnsupportedRecordError(msg)


def may_be_recording(start: bytes, *, is_whole: bool) -> bool:
    """Return whether a text begins as a recording does: with enough rows of numbers."""
    try:
        layout = find_layout(start, is_whole=is_whole)
    except RecordError:
        return False
    return len(layout.rows) >= _LEAST_ROWS


def _check_rate(fs: float, *, is_clock: bool) -> None:
    """Refuse a column of time whose rate is not that of an ECG, most often for want of a unit."""
    try:
        check_sampling_rate(fs)
    except InvalidSamplingRateError as error:
        hint = "; its heading must state ms, us or ns, or sampling_rate must be given"
        hint = "" if is_clock else hint
        msg = f"{error}, of the column of time{hint}"
        raise InvalidSamplingRateError(msg) from error


def _take_stated(
    stated: float, rounded: RoundedRate | None, *, given: float | None
) -> tuple[float, tuple[str, ...]]:
    """Take the rate stated above the samples; the caller may correct a rounded interval."""
    if given is not None and rounded is not None and rounded.allows(given):
        return given, ()
    if given is not None and abs(stated - given) > RATE_DEVIATION * given:
        raise rate_contradiction(stated)
    note = rounded.note if rounded is not None and given is None else ""
    return stated, (note,) if note else ()


def _settle(
    measured: Rate, *, given: float | None, layout: Layout
) -> tuple[float, tuple[str, ...]]:
    """Choose a rate: the given one, else that of the column of time, else the stated one."""
    stated = layout.fs
    note = measured.rounded.note if measured.rounded is not None and given is None else ""
    notes = (note,) if note else ()
    if stated is None or given is not None:
        return settle_rate(measured, given), notes
    if measured.rounded is not None and measured.rounded.allows(stated):
        return stated, () if layout.rounded is None else notes
    allowed = RATE_DEVIATION if measured.is_regular else LOOSE_DEVIATION
    if abs(measured.fs - stated) <= allowed * stated:
        return stated, ()
    if layout.rounded is not None and layout.rounded.allows(measured.fs):
        return settle_rate(measured, None), notes
    conflict = (
        f"the file states {stated:g} Hz above its samples, and its column of time gives "
        f"{measured.fs:.4g} Hz, which is taken"
    )
    return settle_rate(measured, None), (*notes, conflict)


def _explain_cut_off(path: Path, layout: Layout) -> tuple[str, ...]:
    """Warn of a last row that the end of the file cuts off, which :class:`_Cleaned` leaves out."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
        end = file.read()
    # Numbers and separators are ASCII in each encoding, beside zeros in UTF-16.
    *before, last = re.split(r"[\r\n]", end.replace(b"\0", b"").decode("latin-1"))
    if not before or not re.search(r"\d", last) or is_comment(last):
        return ()
    cells = layouts.split_cells(last.strip(), layout.delimiter)
    if len(cells) >= layout.width or layouts.has_words(cells, layout.is_numeric):
        return ()
    return ("the text ends within a row, which is left out",)


class _Times:
    """Turns the cells of a column of time or of counts into numbers, block by block."""

    def __init__(self, time: TimeColumn | None) -> None:
        self._time = time
        self._last_s: float | None = None

    def read(self, cells: pa.Array | None) -> NDArray[np.float64]:
        if cells is None:
            return np.zeros(0)
        if self._time is None or self._time.scale:
            values = np.asarray(cells.to_numpy(zero_copy_only=False), dtype=np.float64)
            return values * (1.0 if self._time is None else self._time.scale)
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
        self._is_numeric = layout.is_numeric
        self._words: list[bytes] = []
        self._n_held = 0
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
        text = b"".join(lines)
        if text.count(b"\r") > text.count(b"\r\n"):
            lines = [part for line in lines for part in line.splitlines(keepends=True)]
        return lines

    def _hold_words(self, lines: list[bytes]) -> list[bytes]:
        """Hold back lines at the end that are not samples unless a row of numbers follows.

        Too many of them are given on, for the reader to refuse what is not blank.
        """
        if lines and not lines[-1].endswith((b"\n", b"\r")) and self._are_words(lines[-1]):
            lines = lines[:-1]  # nothing follows the end of the file
        kept, n_bytes = len(lines), 0
        while kept and n_bytes <= _MAX_HELD_BYTES and self._are_words(lines[kept - 1]):
            kept -= 1
            n_bytes += len(lines[kept])
        given: list[bytes] = []
        if kept:
            given, self._words, self._n_held = self._words + lines[:kept], [], 0
        self._words += lines[kept:]
        self._n_held += n_bytes
        if self._n_held > _MAX_HELD_BYTES:
            given, self._words, self._n_held = given + self._words, [], 0
        return given

    def _are_words(self, line: bytes) -> bool:
        """Return whether a line is of words, blank, or the part of a row at the end of a file."""
        if line.isspace():
            return len(self._is_numeric) > 1  # a blank line of one column is a sample
        text = line.strip()
        if not text.strip(layouts.END_MARKS):
            return True
        is_cut_off = not line.endswith((b"\n", b"\r"))
        if re.search(rb"\d", line) and not is_cut_off:
            return False
        cells = layouts.split_cells(text.decode("utf-8", "replace"), self._delimiter)
        if is_cut_off and len(cells) < len(self._is_numeric):
            return True
        return layouts.is_word_row(cells, self._is_numeric)

    def _clean(self, lines: list[bytes]) -> bytes:
        lines = self._hold_words(lines)
        if not lines:
            return b""
        text = b"".join(lines).replace(_MINUS, b"-")
        if has_comment_mark(text):
            lines = [line for line in lines if not is_comment(line[:80].decode("latin-1"))]
            text = b"".join(lines).replace(_MINUS, b"-")
        if self._has_blank_samples:
            text = self._fill_blanks(lines)
        if self._has_quotes:
            text = text.replace(b"'", b"")
        if self._delimiter is None:
            # A run of blanks is looked at once, from its beginning: long ones would take hours.
            text = re.sub(rb"(?m)^[ \t]+|(?<![ \t\r])[ \t\r]+$", b"", text)
            text = re.sub(rb"[ \t]+", b"\t", text)
        elif b" " in text:
            ends = re.escape(self._delimiter).encode() + rb"\r\n"
            text = re.sub(rb"(?<! ) +(?=[" + ends + rb"])", b"", text)
            text = re.sub(rb"(?:(?<=[" + ends + rb"])|\A) +", b"", text)
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
