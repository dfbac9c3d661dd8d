"""Classify cells and lines of a text file: numbers, missing samples, comments."""

from __future__ import annotations

import re
from typing import Final

_COMMENTS: Final = ("#", "%", "//")

_MISSING: Final = (
    *("", "nan", "na", "n/a", "null", "none", "-", "--", "missing", "nil", "?", "*", ".", "<na>"),
    *("#n/a", "#na", "#nv", "#null!", "#value!", "#wert!", "#div/0!", "#num!", "#zahl!"),
    *("1.#qnan", "1.#ind", "-1.#ind", "nan(ind)", "-nan", "-nan(ind)", "nat", "undef"),
    *("k.a.", "k. a.", "n.v.", "n. v.", "n.a.", "s/d", "s.d.", "n.d.", "n/d", "nd", "---", "----"),
    *("-32768", "-32768.0", "-2147483648"),  # of 16 and 32 bits, which no converter gives
)
"""How a missing sample is written, by spreadsheets and by the libraries of many languages."""

MISSING_CELLS: Final = tuple(
    sorted(
        {form for word in _MISSING for form in (word, word.upper(), word.title())}
        | {"NaN", "k.A.", "k. A.", "<NA>"}
    )
)

_MISSING_FORMS: Final = frozenset(_MISSING)

_MISSING_AS_COMMENTS: Final = tuple(word for word in _MISSING if word.startswith(_COMMENTS))

NUMBERED_ROWS: Final = 20
"""Rows inspected to decide whether a column numbers them."""

_MOSTLY: Final = 0.9

_NUMBER: Final = r"[-+]?(?:\d+(?:{point}\d*)?|{point}\d+)(?:[eE][-+]?\d+)?"

_NUMBERS: Final = {
    decimal: re.compile(_NUMBER.replace("{point}", re.escape(decimal))) for decimal in (".", ",")
}


def is_comment(line: str) -> bool:
    """Return whether a line is a comment; ``#N/A`` of a spreadsheet is a cell.

    >>> is_comment("# 250 Hz"), is_comment("#N/A,0.1")
    (True, False)

    """
    text = line.lstrip()
    return text.startswith(_COMMENTS) and not text.casefold().startswith(_MISSING_AS_COMMENTS)


def has_comment_mark(text: bytes) -> bool:
    """Return whether there may be comments in a text."""
    return any(mark.encode() in text for mark in _COMMENTS)


def is_missing(cell: str) -> bool:
    """Return whether a cell is that of a missing sample."""
    return cell.strip("'\" ").casefold() in _MISSING_FORMS


def is_number(cell: str, decimal: str) -> bool:
    """Return whether a cell holds a number, or is that of a missing one."""
    return bool(_NUMBERS[decimal].fullmatch(cell.strip("'\" "))) or is_missing(cell)


def is_numeric_column(cells: list[str], decimal: str) -> bool:
    """Return whether a column holds numbers, by some of its cells."""
    present = [cell for cell in cells if not is_missing(cell)]
    numbers = sum(is_number(cell, decimal) for cell in present)
    return numbers > 0 and numbers >= 0.5 * len(present)


def find_nameless(sampled: list[list[str]], first: list[list[str]]) -> int | None:
    """Find the column that may lack a heading: an empty last one, or the row names of R."""
    if sum(not row[-1] for row in sampled) >= _MOSTLY * len(sampled):
        return len(sampled[0]) - 1
    names = [row[0].strip("'\" ") for row in first[:NUMBERED_ROWS]]
    if not any(is_number(name, ".") for name in names):
        return 0
    counts = [int(name) for name in names if re.fullmatch(r"\d{1,12}", name)]
    are_counted = counts == list(range(counts[0], counts[0] + len(names))) if counts else False
    return 0 if are_counted else None


def without_ends(row: list[str], width: int) -> list[str]:
    """Drop empty headings at the end that have no column below them.

    >>> without_ends(["t", "II", ""], 2), without_ends(["Symptoms", ""], 1)
    (['t', 'II'], ['Symptoms', ''])

    """
    is_table = width > 1 and len(row) > width and all(row[1:width])
    return row[:width] if is_table and not any(row[width:]) else row
