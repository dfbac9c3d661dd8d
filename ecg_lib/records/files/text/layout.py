"""Find out how a text file is laid out: encoding, separator, decimals, preamble, headings."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Final, NamedTuple

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.text.cells import (
    NUMBERED_ROWS,
    find_nameless,
    is_comment,
    is_missing,
    is_number,
    is_numeric_column,
    without_ends,
)
from ecg_lib.records.files.text.headings import (
    UNIT_TO_S,
    ColumnKind,
    is_unit,
    read_heading,
    seconds_of,
)
from ecg_lib.records.files.text.preamble import (
    CHANNELS,
    Converter,
    Statements,
    find_described,
    find_rate_in_rows,
    is_key,
    is_statement,
)
from ecg_lib.records.files.text.rounding import RoundedRate
from ecg_lib.records.limits import MAX_SIGNALS
from ecg_lib.records.signal_names import SignalKind, is_other_unit, kind_of

PEEK_BYTES: Final = 2**20

_SAMPLED_LINES: Final = 400

_MAX_COLUMNS: Final = 4 * MAX_SIGNALS

_USUAL_BLANKS: Final = 2
"""Blank lines below the headings that are layout; more of them are missing samples."""

_MAX_SPACED: Final = 0.5
"""Share of lines with a blank line below, above which lines are double-spaced."""

_UNIT_CELL: Final = re.compile(
    r"|s|sec|secs|seconds|ms|us|ns|h+:m+:s+(?:[.,]\w+)?|date|text|string",
    re.IGNORECASE,
)


END_MARKS: Final = b"\x00\x1a"
"""Bytes that loggers and old systems leave behind the end of a text."""

MINUS: Final = "\N{MINUS SIGN}"
"""The sign that some languages write instead of a hyphen."""

_MOST_BLANKS: Final = 100

_LONG_BLANKS: Final = re.compile(rf"[^\S\t\r\n]{{{_MOST_BLANKS},}}")
"""A line of a million blanks would take hours to part."""

_NO_WORD: Final = r"(?i)[-+]?inf(?:inity)?"


_HEADING_LINES: Final = 200
_LINES_OF_A_HEADING: Final = 6
_TAKEN_LINE: Final = "#"
"""Placeholder of a line that was joined to one above it."""

_OPEN_QUOTE: Final = re.compile(r'(?:^|[,;\t|])\s{0,9}"[^"]*$')

_LIST_IN_CELL: Final = re.compile(rb"\"\s*\[\s*(?:-?\d[\d.eE+-]{0,24}\s*,\s*){50}")

_KINDS_OF_VALUES: Final = frozenset("cal raw uncal calibrated uncalibrated".split())
"""A row of Shimmer between names and units."""

_CHANNEL: Final = re.compile(r"CH ?\d+|min|m?sec|hr|", re.IGNORECASE)
"""A heading of AcqKnowledge, above counts of samples."""

_ABOUT: Final = 0.1
"""Share by which a count of samples may differ from the number of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The layout of a text, with the statements of its preamble."""

    encoding: str
    delimiter: str | None
    """None for blanks."""
    decimal: str
    first_line: int
    """Place of the first row of samples among the lines of the file."""
    names: tuple[str, ...] | None
    """The headings, None when there are none."""
    units: tuple[str, ...]
    """The row of units below the headings, empty when there is none."""
    rows: list[list[str]]
    """The first rows of samples."""
    is_numeric: tuple[bool, ...]
    """Columns of numbers; the others are text, or empty."""
    has_quotes: bool
    """True when single quotes stand around cells."""
    has_blank_samples: bool
    """True when blank lines between samples are missing samples: of one column."""
    fs: float | None
    rounded: RoundedRate | None
    """The rate, where the file states it as an interval."""
    heading: str | None
    """First cell of the headings."""
    second_headings: int | None
    """Line among the samples in which the headings are repeated."""
    stated_units: tuple[str, ...]
    lead: str | None
    """As the preamble states them; two units or more contradict each other."""
    converters: dict[str, Converter]
    """By heading, where the maker of the device publishes them."""
    has_counts: bool
    """True when columns without a converter are counts."""
    warnings: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.is_numeric)


class _Shape(NamedTuple):
    delimiter: str | None
    decimal: str
    width: int
    score: float


def find_layout(start: bytes, *, is_whole: bool) -> Layout:
    """Find out how a file is laid out from its beginning.

    Parameters
    ----------
    start : bytes
        The first :data:`PEEK_BYTES` of the file.
    is_whole : bool
        False when the file goes on; its last line is then left out.

    Raises
    ------
    CorruptRecordError
        If there are no rows of numbers.
    UnsupportedRecordError
        If decimals and separators cannot be distinguished.

    """
    _refuse_other_content(start)
    text, encoding = _decode(start)
    lines = _part_lines(text, is_whole=is_whole)
    comments = [line for line in lines if is_comment(line)]
    content = [
        (place, line) for place, line in enumerate(lines) if line.strip() and not is_comment(line)
    ]
    fs = find_rate_in_rows([line for _, line in content[:2]])
    content = content if fs is None else content[2:]
    if not content or "\x00" in text:
        raise _no_rows()
    body = _sample([line for _, line in content])
    shape = _find_shape(body)
    cells_of = {place: split_cells(line, shape.delimiter) for place, line in content}
    table = [(place, cells) for place, cells in cells_of.items() if len(cells) == shape.width]
    sampled = [
        cells for line in body if len(cells := split_cells(line, shape.delimiter)) == shape.width
    ]
    is_numeric = tuple(
        is_numeric_column([row[at] for row in sampled], shape.decimal) for at in range(shape.width)
    )
    first = _find_first(table, is_numeric, shape)
    if first is None:
        raise _no_rows(below=shape.width > 0 and len(content) <= 1)
    preamble = [line for place, line in content if place < table[first][0]]
    heading = _find_first_heading(preamble, shape)
    first_data, last_data = (
        next(place for place, row in rows if _is_data(row, is_numeric, shape))
        for rows in (table[first:], reversed(table[first:]))
    )
    between = (place for place in cells_of if first_data < place < last_data)
    second = find_second_headings(heading, ((place, cells_of[place][:1]) for place in between))
    has_count_row = _is_count_row(table, first, preamble, is_whole=is_whole)
    first += has_count_row
    first_line, rows = table[first][0], [row for _, row in table[first:]]
    while is_whole and is_word_row(rows[-1], is_numeric):
        rows.pop()  # a line of words below the samples
    described = find_described(preamble, is_numeric)
    nameless = find_nameless(sampled, [row for _, row in table[first:]])
    names, units = described or _find_headings(preamble, comments, shape, nameless=nameless)
    if has_count_row and names is not None and names[0] in UNIT_TO_S:
        names, units = ("time", *names[1:]), (names[0], *[""] * (len(names) - 1))
    said = Statements.read(comments, preamble)
    if names is None and 0 <= shape.width - len(said.columns) <= 1 and said.columns:
        # A separator at the end of each row makes one more column.
        names = (*said.columns, "")[: shape.width]
    has_blank_samples = shape.width == 1 and not _is_double_spaced(lines[first_line:])
    if has_blank_samples:
        blanks = _count_blanks(lines[:first_line])
        if blanks > _USUAL_BLANKS:
            first_line -= blanks
    if shape.width > _MAX_COLUMNS:
        msg = (
            f"the CSV file must have one column for each lead, at most {MAX_SIGNALS}, it has "
            f"{shape.width}; the samples of a lead stand one below the other"
        )
        raise CorruptRecordError(msg)
    return Layout(
        encoding=encoding,
        delimiter=shape.delimiter,
        decimal=shape.decimal,
        first_line=first_line,
        names=names,
        units=units,
        rows=rows,
        is_numeric=is_numeric,
        has_quotes=any("'" in cell for _, row in table[first : first + 5] for cell in row),
        has_blank_samples=has_blank_samples,
        fs=said.fs if fs is None else fs,
        rounded=said.rounded,
        heading=heading,
        second_headings=second,
        stated_units=said.units,
        lead=said.lead if sum(is_numeric) == 1 else None,
        converters=said.converters,
        has_counts=said.has_counts,
        warnings=said.warnings,
    )


def _part_lines(text: str, *, is_whole: bool) -> list[str]:
    lines = _LONG_BLANKS.sub(" " * _MOST_BLANKS, text.replace(MINUS, "-")).splitlines()
    return _join_quoted(lines if is_whole else lines[:-1])


def _join_quoted(lines: list[str]) -> list[str]:
    """Join quoted headings that span lines; other lines keep their places."""
    joined = list(lines)
    for place, line in enumerate(lines[:_HEADING_LINES]):
        is_open = line.count('"') % 2 == 1 and _OPEN_QUOTE.search(line)
        if not is_open or joined[place] == _TAKEN_LINE or is_comment(line):
            continue
        for count in range(2, _LINES_OF_A_HEADING + 1):
            text = " ".join(lines[place : place + count])
            if text.count('"') % 2 == 0:
                rest = len(lines[place + 1 : place + count])
                joined[place : place + 1 + rest] = [text, *rest * [_TAKEN_LINE]]
                break
    return joined


def _find_first_heading(preamble: list[str], shape: _Shape) -> str | None:
    cells = (split_cells(line, shape.delimiter)[:1] for line in reversed(preamble))
    return next((cell for (cell,) in filter(None, cells) if re.search(r"[^\W\d_]{2}", cell)), None)


def find_second_headings(heading: str | None, lines: Iterable[tuple[int, list[str]]]) -> int | None:
    """Find headings among the samples: of another block, or of a file that was appended.

    Parameters
    ----------
    heading : str, optional
        First cell of the headings.
    lines : iterable of (int, list of str)
        Place and first cell of the lines between the first row of samples and the last.

    Returns
    -------
    int or None
        Place of the first line that begins with the heading.

    """
    return next((place for place, cells in lines if cells == [heading]), None)


def _no_rows(*, below: bool = False) -> CorruptRecordError:
    where = " below its header" if below else ""
    return CorruptRecordError(f"the CSV file must have rows of numbers{where}, it has none")


_TWO_NUMBERS: Final = re.compile(r"(?<![^\t ])[-+]?[\d.,]+ +[-+]?[\d.,]+(?![^\t ])")

_WORKBOOKS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


def _refuse_other_content(start: bytes) -> None:
    """Refuse workbooks, archives and JSON, which are called CSV by mistake."""
    if start.startswith(_WORKBOOKS):
        msg = "the CSV file must be text, it is an Excel workbook or an archive; save it as CSV"
        raise UnsupportedRecordError(msg)
    if _LIST_IN_CELL.search(start):
        msg = (
            "the CSV file must have one sample a row, a cell holds a list of samples; write them "
            "one below the other"
        )
        raise UnsupportedRecordError(msg)
    if re.match(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*\"|\[\s*(?:\{|[-\[\d][^:\n]{0,40}[,\n]))", start):
        msg = "the CSV file must hold columns of numbers, it is JSON; write a column for each lead"
        raise UnsupportedRecordError(msg)


def _decode(start: bytes) -> tuple[str, str]:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return start[: len(start) // 2 * 2].decode("utf-16", errors="replace"), "utf-16"
    half = start[:2000]
    for odd, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # without a mark of their order
        if len(half) > 20 and half[odd::2].count(0) > 0.9 * len(half[odd::2]):
            return start[: len(start) // 2 * 2].decode(encoding, errors="replace"), encoding
    start = start.rstrip(END_MARKS)
    if b"\x00" in start:
        msg = "the CSV file must be UTF-8, UTF-16 or Latin-1 text, it is not text"
        raise CorruptRecordError(msg)
    cut = start if len(start) < PEEK_BYTES else start[: start.rfind(b"\n") + 1]
    try:
        return cut.decode("utf-8-sig"), "utf-8-sig"
    except UnicodeDecodeError:
        return start.decode("latin-1"), "latin-1"


def split_cells(line: str, delimiter: str | None) -> list[str]:
    """Split a line into cells; quotes are taken off."""
    if delimiter is None:
        return line.split()
    # The reader, which knows quotes, takes four times as long.
    if '"' not in line and len(line) <= csv.field_size_limit():
        return [cell.strip() for cell in line.split(delimiter)] if line.strip("\r\n") else []
    try:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error as error:
        msg = "the CSV file must have rows of numbers, its quotes do not end"
        raise CorruptRecordError(msg) from error
    return [cell.strip() for cell in cells]


def _sample(lines: list[str]) -> list[str]:
    """Take lines from the later two thirds: preambles stand before them."""
    later = lines[len(lines) // 3 :] if len(lines) > 60 else lines
    step = max(1, len(later) // _SAMPLED_LINES)
    return later[::step]


def _find_shape(body: list[str]) -> _Shape:
    shapes = []
    separators = (",", ";", "\t", "|") if _are_parted_by_tabs(body) else (",", ";", "\t", "|", None)
    for delimiter in separators:
        rows = [split_cells(line, delimiter) for line in body]
        width, count = Counter(map(len, rows)).most_common(1)[0]
        rows = [row for row in rows if len(row) == width]
        # A decimal comma beside commas that part columns stands in quotes.
        may_be_comma = delimiter != "," or any('"' in line for line in body)
        for decimal in (".", ",") if may_be_comma else (".",):
            numbers = sum(
                is_number(cell, decimal) and not is_missing(cell) for row in rows for cell in row
            )
            share = numbers / (width * len(rows))
            shapes.append(_Shape(delimiter, decimal, width, count / len(body) * share))
            if decimal == "." and share == 1.0:
                break  # a point, or none: no comma was needed
    # Columns of text lower the share, so one number of one must not beat five of which two are.
    best = max(shapes, key=lambda shape: (round(shape.score * shape.width, 2), shape.score))
    if best.delimiter == "," and _are_decimal_commas(body):
        return _Shape(None, ",", 1, 1.0)
    return best


def _are_parted_by_tabs(body: list[str]) -> bool:
    """Return whether each line has as many tabs as the others, and no numbers with a blank between.

    Cells at the end may be empty, and blanks part the words of those of text.
    """
    counts = {line.count("\t") for line in body}
    return len(counts) == 1 and counts != {0} and not any(map(_TWO_NUMBERS.search, body))


def _are_decimal_commas(body: list[str]) -> bool:
    """Return whether two whole numbers a line are one number with a decimal comma.

    Decimals have no sign and begin with zeros, which counts do not; -0 is not a count either.
    """
    pairs = [re.fullmatch(r"\s*([-+]?\d+),(\d+)\s*", line) for line in body]
    found = [pair for pair in pairs if pair]
    if len(found) < 0.9 * len(body):
        return False
    has_zeros = any(len(pair[2]) > 1 and pair[2].startswith("0") for pair in found)
    return has_zeros or any(pair[1] == "-0" for pair in found)


def _find_first(
    table: list[tuple[int, list[str]]], is_numeric: tuple[bool, ...], shape: _Shape
) -> int | None:
    """Find the first row of samples in a table of lines with their places."""
    first = next((n for n, (_, row) in enumerate(table) if _is_data(row, is_numeric, shape)), None)
    if first is None:
        return None
    while first > 0 and _is_missing_row(table[first - 1], table[first], is_numeric):
        first -= 1
    rows = [row for _, row in table[first : first + NUMBERED_ROWS]]
    return first + 1 if _numbers_columns(rows) else first


def _is_data(row: list[str], is_numeric: tuple[bool, ...], shape: _Shape) -> bool:
    cells = [cell for cell, numeric in zip(row, is_numeric, strict=True) if numeric]
    are_numbers = all(is_number(cell, shape.decimal) for cell in cells)
    return are_numbers and not all(is_missing(cell) for cell in cells)


def is_word_row(row: list[str], is_numeric: tuple[bool, ...]) -> bool:
    """Return whether columns of numbers hold words in a row, and nothing else."""
    cells = [cell for cell, numeric in zip(row, is_numeric, strict=False) if numeric]
    numbers = any(re.search(r"\d", cell) or re.fullmatch(_NO_WORD, cell) for cell in cells)
    return has_words(row, is_numeric) and not numbers


def has_words(row: list[str], is_numeric: tuple[bool, ...]) -> bool:
    """Return whether a column of numbers holds a word in a row."""
    cells = [cell for cell, numeric in zip(row, is_numeric, strict=False) if numeric]
    return any(re.search(r"[^\W\d_]{3}", cell) and not is_missing(cell) for cell in cells)


def _numbers_columns(rows: list[list[str]]) -> bool:
    """Return whether the first row numbers the columns, as pandas does for nameless ones."""
    named, *below = rows
    is_index = named[0] in {"", "0"}
    if named[0] == "":
        counts = [row[0] for row in below]
        is_index = counts == [str(number) for number in range(len(counts))]
        named = named[1:]
    are_numbers = named == [str(number) for number in range(len(named))]
    has_decimals = any(re.search(r"\d[.,]\d", cell) for row in below for cell in row)
    return is_index and are_numbers and has_decimals and len(below) > 1 and len(rows[0]) > 1


def _is_count_row(
    table: list[tuple[int, list[str]]], first: int, preamble: list[str], *, is_whole: bool
) -> bool:
    """Return whether the first row holds the count of samples that AcqKnowledge writes.

    It is empty above the column of time. Without that column it is a row of counts only if
    it fits the rows and stands below a line with the number of channels.
    """
    row, n_rows = table[first][1], len(table) - first - 1
    values = {cell for cell in row if cell}
    are_channels = first > 0 and all(map(_CHANNEL.fullmatch, table[first - 1][1]))
    if not are_channels or n_rows == 0 or len(values) != 1:
        return False
    (count,) = values
    if re.fullmatch(r"\d{1,12}", count) is None:
        return False
    rest = int(count) - n_rows
    fits = abs(rest) <= _ABOUT * n_rows or (rest > 0 and not is_whole)
    says_channels = any(map(CHANNELS.fullmatch, preamble))
    return (fits or says_channels) if row[0] == "" else (fits and says_channels)


def _is_missing_row(
    row: tuple[int, list[str]], below: tuple[int, list[str]], is_numeric: tuple[bool, ...]
) -> bool:
    """Return whether a row just above another one holds missing samples alone."""
    cells = [cell for cell, numeric in zip(row[1], is_numeric, strict=True) if numeric]
    return row[0] == below[0] - 1 and all(map(is_missing, cells))


def _is_double_spaced(lines: list[str]) -> bool:
    """Return whether nearly every line has one blank line below it, which says nothing."""
    pairs = [bool(line.strip()) and not below.strip() for line, below in pairwise(lines)]
    n_samples = sum(bool(line.strip()) for line in lines[:-1])
    return sum(pairs) > _MAX_SPACED * n_samples


def _count_blanks(lines: list[str]) -> int:
    """Count the blank lines at the end."""
    return sum(1 for _ in takewhile(lambda line: not line.strip(), reversed(lines)))


def _find_headings(
    preamble: list[str], comments: list[str], shape: _Shape, *, nameless: int | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Find the headings above the samples, and the row of units below them.

    Only the column `nameless` may lack a heading.
    """
    rows = [split_cells(line, shape.delimiter) for line in preamble]
    rows = [without_ends(row, shape.width) for row in rows]
    if shape.width == 1:
        if shape.decimal == "," and shape.delimiter is None:  # a heading is a line
            rows = [[line.strip()] for line in preamble if "," not in line]
        rows = [row for row in rows if not is_statement(re.split(r"\s*[;:=\t]\s*", ",".join(row)))]
        rows = _without_pairs([row for row in rows if not is_key(row)])
    # One blank parts the words of a heading, more of them part headings.
    elif shape.delimiter is None:
        parts = [re.split(r"\s{2,}|\t", line.strip()) for line in preamble]
        rows = [
            part if len(row) != shape.width == len(part) else row
            for row, part in zip(rows, parts, strict=True)
        ]
    width = shape.width
    least = width if nameless is None or width <= 2 else width - 1
    fitting = [row for row in rows if least <= len(row) <= width and not is_statement(row)]
    if not fitting:
        commented = [split_cells(line.lstrip("#%/ "), shape.delimiter) for line in comments]
        fitting = [row for row in commented if least <= len(row) <= width][-1:]
        fitting = [row for row in fitting if width > 1 or kind_of(row[0]) is SignalKind.ECG]
    if not fitting:
        if rows and len(rows[-1]) == 1 and shape.width == 2 and shape.delimiter == ",":
            msg = (
                "decimal commas must not stand beside commas that part columns; write decimal "
                "points, or part columns by semicolons"
            )
            raise UnsupportedRecordError(msg)
        if rows and len(rows[-1]) > 1 and not is_statement(rows[-1]):
            raise _explain_widths(len(rows[-1]), shape)
        return None, ()
    fitting = [
        row if len(row) == width else [*row[:nameless], "", *row[nameless:]] for row in fitting
    ]
    fitting = [row for row in fitting if not _describes_values(row)] or fitting
    fitting = _without_remarks(fitting)
    if len(fitting) > 1 and _are_units(fitting[-1]):
        return tuple(fitting[-2]), tuple(cell.strip("'\"()[] ") for cell in fitting[-1])
    return tuple(fitting[-1]), ()


def _without_pairs(rows: list[list[str]]) -> list[list[str]]:
    """Drop rows above one column that pair a key with a value, in any language.

    A single pair may be two headings, one of which has no column.
    """
    pairs = [row for row in rows if len(row) == 2 and not _names_signal(row[0])]
    return [row for row in rows if row not in pairs] if len(pairs) > 1 else rows


def _describes_values(row: list[str]) -> bool:
    """Return whether a row above several columns names the device or the kind of their values."""
    words = {cell.casefold() for cell in row}
    if words <= _KINDS_OF_VALUES:
        return True
    return len(row) > 1 and len(words) == 1 and not _is_unit(row[0]) and not _names_signal(row[0])


def _without_remarks(rows: list[list[str]]) -> list[list[str]]:
    """Drop rows below the headings in which no cell names a signal or a unit."""
    while len(rows) > 1 and not any(map(_says_column, rows[-1])):
        if not all(map(_says_column, rows[-2])):
            break
        rows = rows[:-1]
    return rows


def _says_column(cell: str) -> bool:
    has_unit = bool(cell) and (_is_unit(cell) or read_heading(cell).unit is not None)
    return has_unit or _names_signal(cell)


def _names_signal(cell: str) -> bool:
    kind = kind_of(cell)
    return kind is not SignalKind.UNKNOWN or read_heading(cell).kind is ColumnKind.TIME


def _explain_widths(n_headings: int, shape: _Shape) -> CorruptRecordError | UnsupportedRecordError:
    if shape.delimiter == "," and shape.width in {2 * n_headings, 2 * n_headings - 1}:
        msg = (
            "decimal commas must not stand beside commas that part columns; write decimal points, "
            "or part columns by semicolons"
        )
        return UnsupportedRecordError(msg)
    msg = (
        f"the CSV file must have a heading for each column, it has {n_headings} headings for "
        f"{shape.width} columns"
    )
    return CorruptRecordError(msg)


def _are_units(row: list[str]) -> bool:
    """Return whether a row below headings holds units: most of its cells, and no heading."""
    others = [cell for cell in row if not _is_unit(cell)]
    are_headings = any(
        read_heading(cell).kind is ColumnKind.TIME or kind_of(cell) is not SignalKind.UNKNOWN
        for cell in others
    )
    return len(others) < len(row) / 2 and not are_headings


def _is_unit(cell: str) -> bool:
    text = cell.strip("'\"()[] ")
    is_named = is_unit(text) or is_other_unit(text) or seconds_of(text) is not None
    return is_named or bool(_UNIT_CELL.fullmatch(text))
