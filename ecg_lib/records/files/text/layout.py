"""Find out how a text file is laid out: encoding, separator, decimals, preamble, headings."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Final, NamedTuple

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.limits import MAX_SIGNALS
from ecg_lib.records.signal_names import SignalKind, kind_of, read_unit

PEEK_BYTES: Final = 2**20

COMMENTS: Final = ("#", "%", "//")

_SAMPLED_LINES: Final = 400

_MAX_COLUMNS: Final = 4 * MAX_SIGNALS

_MISSING: Final = ("", "nan", "na", "n/a", "null", "none", "-", "--", "missing", "nil")
"""How an empty cell is written."""

MISSING_CELLS: Final = tuple(
    sorted({form for word in _MISSING for form in (word, word.upper(), word.title())} | {"NaN"})
)

_NUMBER: Final = r"[-+]?(?:\d+{point}?\d*|{point}\d+)(?:[eE][-+]?\d+)?"

_RATE: Final = re.compile(
    r"(?:\bfs\b|sampl\w*[ _-]*(?:rate|freq\w*)|frequen\w*|frecuencia[\w ]*|abtast\w*"
    r"|fr[eé]quence[\w ]*)"
    r"[\"']?\s*[:=,;\t]\s*[\"']?\s*(?P<named>\d{2,5}(?:[.,]\d+)?)\s*(?:hz|hertz|sps)?\b"
    r"|(?P<bare>\d{2,5}(?:[.,]\d+)?)\s*(?:hz|hertz)\b",
    re.IGNORECASE,
)

_LEAD_KEY: Final = re.compile(
    r"lead|ableitung|derivaci[oó]n|d[eé]rivation|canal|kanal", re.IGNORECASE
)

_UNIT_CELL: Final = re.compile(
    r"|s|sec|secs|seconds|ms|us|ns|h+:m+:s+(?:[.,]\w+)?|mmhg|nu|bpm|%|a\.?u\.?|adu|date|text|string",
    re.IGNORECASE,
)

_MAKER_UV: Final = "OpenBCI"


class Converter(NamedTuple):
    """How a maker turns counts into mV: gain times count, and an offset."""

    gain_mv: float
    offset_mv: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the text is laid out, and what its preamble says."""

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
    fs: float | None
    unit: str | None
    lead: str | None
    """What the preamble states."""
    converters: dict[str, Converter]
    """By heading, where the maker of the device publishes them."""
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
        If decimals and separators cannot be told apart.

    """
    text, encoding = _decode(start)
    lines = text.splitlines()
    if not is_whole:
        del lines[-1:]
    comments = [line for line in lines if line.lstrip().startswith(COMMENTS)]
    content = [
        (place, line)
        for place, line in enumerate(lines)
        if line.strip() and not line.lstrip().startswith(COMMENTS)
    ]
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
        _is_numeric([row[at] for row in sampled], shape.decimal) for at in range(shape.width)
    )
    first = next((n for n, (_, row) in enumerate(table) if _is_data(row, is_numeric, shape)), None)
    if first is None:
        raise _no_rows(below=shape.width > 0 and len(content) <= 1)
    preamble = [line for place, line in content if place < table[first][0]]
    names, units = _find_headings(preamble, comments, shape)
    said = _Said.read(comments, preamble)
    if shape.width > _MAX_COLUMNS:
        msg = f"the CSV file must have one column for each lead, at most {MAX_SIGNALS}"
        raise CorruptRecordError(msg)
    return Layout(
        encoding=encoding,
        delimiter=shape.delimiter,
        decimal=shape.decimal,
        first_line=table[first][0],
        names=names,
        units=units,
        rows=[row for _, row in table[first:]],
        is_numeric=is_numeric,
        has_quotes=any("'" in cell for cell in table[first][1]),
        fs=said.fs,
        unit=said.unit,
        lead=said.lead if sum(is_numeric) == 1 else None,
        converters=said.converters,
        warnings=said.warnings,
    )


def _no_rows(*, below: bool = False) -> CorruptRecordError:
    where = " below its header" if below else ""
    return CorruptRecordError(f"the CSV file must have rows of numbers{where}, it has none")


def _decode(start: bytes) -> tuple[str, str]:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return start[: len(start) // 2 * 2].decode("utf-16", errors="replace"), "utf-16"
    half = start[:2000]
    if len(half) > 20 and half[1::2].count(0) > 0.9 * len(half[1::2]):
        return start[: len(start) // 2 * 2].decode("utf-16-le", errors="replace"), "utf-16-le"
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
    for delimiter in (",", ";", "\t", "|", None):
        rows = [split_cells(line, delimiter) for line in body]
        width, count = Counter(map(len, rows)).most_common(1)[0]
        rows = [row for row in rows if len(row) == width]
        for decimal in (".", ",") if delimiter != "," else (".",):
            numbers = sum(
                _is_number(cell, decimal) and not _is_missing(cell) for row in rows for cell in row
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


def _are_decimal_commas(body: list[str]) -> bool:
    """Tell whether two whole numbers a line are one number with a decimal comma.

    Decimals have no sign and begin with zeros, which counts do not; -0 is no count either.
    """
    pairs = [re.fullmatch(r"\s*([-+]?\d+),(\d+)\s*", line) for line in body]
    found = [pair for pair in pairs if pair]
    if len(found) < 0.9 * len(body):
        return False
    has_zeros = any(len(pair[2]) > 1 and pair[2].startswith("0") for pair in found)
    return has_zeros or any(pair[1] == "-0" for pair in found)


def _is_missing(cell: str) -> bool:
    return cell.strip("'\" ").casefold() in _MISSING


def _is_number(cell: str, decimal: str) -> bool:
    point = r"\." if decimal == "." else ","
    if _is_missing(cell):
        return True
    return bool(re.fullmatch(_NUMBER.replace("{point}", point), cell.strip("'\" ")))


def _is_numeric(cells: list[str], decimal: str) -> bool:
    told = [cell for cell in cells if not _is_missing(cell)]
    numbers = sum(_is_number(cell, decimal) for cell in told)
    return numbers > 0 and numbers >= 0.5 * len(told)


def _is_data(row: list[str], is_numeric: tuple[bool, ...], shape: _Shape) -> bool:
    cells = [cell for cell, numeric in zip(row, is_numeric, strict=True) if numeric]
    are_numbers = all(_is_number(cell, shape.decimal) for cell in cells)
    return are_numbers and not all(_is_missing(cell) for cell in cells)


def _find_headings(
    preamble: list[str], comments: list[str], shape: _Shape
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Find the headings above the samples, and the row of units below them."""
    rows = [split_cells(line, shape.delimiter) for line in preamble]
    if shape.decimal == "," and shape.delimiter is None:  # one column: a heading is a line
        rows = [[line.strip()] for line in preamble if "," not in line]
    fitting = [row for row in rows if _fits(row, shape.width) and not _is_statement(row)]
    if not fitting:
        commented = [split_cells(line.lstrip("#%/ "), shape.delimiter) for line in comments]
        fitting = [row for row in commented if _fits(row, shape.width)][-1:]
        fitting = [row for row in fitting if shape.width > 1 or kind_of(row[0]) is SignalKind.ECG]
    if not fitting:
        if rows and len(rows[-1]) == 1 and shape.width == 2 and shape.delimiter == ",":
            msg = (
                "decimal commas must not stand beside commas that part columns; write decimal "
                "points, or part columns by semicolons"
            )
            raise UnsupportedRecordError(msg)
        if rows and len(rows[-1]) > 1 and not _is_statement(rows[-1]):
            raise _explain_widths(len(rows[-1]), shape)
        return None, ()
    fitting = [row if len(row) == shape.width else ["", *row] for row in fitting]
    if len(fitting) > 1 and all(_is_unit(cell) for cell in fitting[-1]):
        return tuple(fitting[-2]), tuple(cell.strip("'\"()[] ") for cell in fitting[-1])
    return tuple(fitting[-1]), ()


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


def _fits(row: list[str], width: int) -> bool:
    """Tell whether a row may be headings; R leaves out the one of the row names."""
    return len(row) == width or (len(row) == width - 1 and width > 2)


def _is_statement(row: list[str]) -> bool:
    """Tell whether a row says something about the recording: a key and a value."""
    if len(row) != 2:
        return False
    key, value = row[0].strip(": \t"), row[1]
    if kind_of(value) is SignalKind.ECG and not _LEAD_KEY.fullmatch(key):
        return False  # two headings
    return bool(
        re.fullmatch(
            r"name|date.*|recorded.*|classification|symptoms?|software.*|device.*|unit\w*|einheit|"
            r"unidad|sampl\w*[ _-]*(?:rate|freq).*|frecuencia.*|frequen.*|abtast.*|geburt.*|"
            r"aufge.*|version.*|id|patient.*|serial.*|gender|sex|age",
            key,
            re.IGNORECASE,
        )
        or _RATE.search(",".join(row))
        or (_LEAD_KEY.fullmatch(key) and kind_of(value) is SignalKind.ECG)
    )


def _is_unit(cell: str) -> bool:
    text = cell.strip("'\"()[] ")
    return read_unit(text) is not None or bool(_UNIT_CELL.fullmatch(text))


class _Said(NamedTuple):
    """What comments and preamble state."""

    fs: float | None
    unit: str | None
    lead: str | None
    converters: dict[str, Converter]
    warnings: tuple[str, ...]

    @classmethod
    def read(cls, comments: list[str], preamble: list[str]) -> _Said:
        lines = [*comments, *preamble]
        converters, fs = _read_opensignals(comments)
        rates = {
            float((match["named"] or match["bare"]).replace(",", "."))
            for line in lines
            if len(line) < 500 and (match := _RATE.search(line))
        }
        if fs is None and len(rates) == 1:
            fs = rates.pop()
        pairs = [re.split(r"\s*[,;:=\t]\s*", line.strip("#% "), maxsplit=1) for line in lines]
        stated = [
            (pair[0].strip("\"' "), pair[1].strip("\"' ,;")) for pair in pairs if len(pair) == 2
        ]
        units = {unit for key, value in stated if len(key) < 30 and (unit := read_unit(value))}
        leads = [value for key, value in stated if _LEAD_KEY.fullmatch(key)]
        warnings: tuple[str, ...] = ()
        unit = units.pop() if len(units) == 1 else None
        if unit is None and any(_MAKER_UV in line for line in comments):
            unit, warnings = "uV", ("OpenBCI writes its EXG channels in uV: that unit is assumed",)
        if converters:
            warnings = ("counts are converted to mV by the formula that the maker publishes",)
        lead = leads[0][:64] if leads and kind_of(leads[0]) is SignalKind.ECG else None
        return cls(fs, unit, lead, converters, warnings)


_OPENSIGNALS: Final = {"bitalino": (3.3, 1100.0), "biosignalsplux": (3.0, 1000.0)}
"""Supply voltage in V and gain of the ECG sensors, of the data sheets of PLUX."""


def _read_opensignals(comments: list[str]) -> tuple[dict[str, Converter], float | None]:
    """Read the header that OpenSignals (BITalino, biosignalsplux) writes as JSON in a comment."""
    if not any("OpenSignals" in line for line in comments[:3]):
        return {}, None
    text = next((line.lstrip("# ") for line in comments if line.lstrip("# ").startswith("{")), "")
    try:
        (device, *_) = json.loads(text).values()
        fs = float(device["sampling rate"])
        model = str(device.get("device", "")).casefold()
        maker = next((known for known in _OPENSIGNALS if model.startswith(known)), None)
        converters = {}
        for label, sensor, bits in zip(
            device["label"],
            device["sensor"],
            device["resolution"][-len(device["label"]) :],
            strict=False,
        ):
            if maker is not None and kind_of(str(sensor)) is SignalKind.ECG and 1 < int(bits) <= 24:
                supply_v, gain = _OPENSIGNALS[maker]
                scale_mv = supply_v / gain * 1e3
                converters[str(label)] = Converter(scale_mv / 2 ** int(bits), -scale_mv / 2)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        msg = "the header of OpenSignals must be JSON that describes one device, it is not"
        raise CorruptRecordError(msg) from error
    return converters, fs
