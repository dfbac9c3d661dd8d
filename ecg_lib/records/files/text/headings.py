"""Read the headings of text files: leads with their units, time, counts of rows.

Tested with the table ``tests/csv_headings.json``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from ecg_lib.records.signal_names import COUNTS, is_other_unit, read_unit

LONGEST: Final = 200
"""Characters of a heading that is looked into; a longer one is the name of a lead."""


UNIT_TO_S: Final = {
    **dict.fromkeys(
        "s sec secs second seconds sek sekunde sekunden seg segundo segundos".split(), 1.0
    ),
    **dict.fromkeys(
        "ms msec millis millisecond milliseconds millisekunden milisegundos".split(), 1e-3
    ),
    **dict.fromkeys(
        "us µs μs usec microsecond microseconds mikrosekunden microsegundos".split(), 1e-6
    ),
    **dict.fromkeys("ns nsec nanosecond nanoseconds nanosekunden nanosegundos".split(), 1e-9),
    **dict.fromkeys("min mins minute minutes minuten minuto minutos".split(), 60.0),
    **dict.fromkeys("h hr hrs hour hours stunde stunden horas".split(), 3600.0),
    **dict.fromkeys("d day days tag tage dias días".split(), 86_400.0),
}

_TICKS: Final = re.compile(
    r"s(?:ec(?:onds?)?)?\s*/\s*(?P<over>\d{1,7})|1\s*/\s*(?P<part>\d{1,7})\s*s(?:ec(?:onds?)?)?"
    r"|(?P<count>\d{1,7})\s*(?P<unit>[mnuµμ]?s)",
    re.IGNORECASE,
)
"""Ticks of a clock as units of time: s/256, 1/250 s, 10 us."""

_NOT_ALONE: Final = frozenset("min mins h hr hrs d day days tag tage".split())
"""Units of time that are other headings where they stand alone: of a minimum, a date, ..."""


_NAMELESS: Final = {"mv": "mV", "uv": "uV", "µv": "uV", "μv": "uV"}
"""Units that may be all of the heading of a lead; V is a lead too."""


_VOLTS: Final = r"m|u|µ|μ|n|milli|micro|mikro|nano"
_VOLTAGE: Final = re.compile(
    rf"(?<![^\W\d_])(?:(?P<unit>(?:{_VOLTS}|k|p)v(?:olts?)?)|(?<=\d)\s?(?P<plain>v(?:olts?)?))(?![^\W_])",
    re.IGNORECASE,
)
_SCALE: Final = re.compile(
    r"[\d*\N{MULTIPLICATION SIGN}/]|\bx|\b(?:lsb|bits?|counts?|adu|div)\b", re.IGNORECASE
)
_BESIDE_UNIT: Final = re.compile(r"\b(?:e|rms|raw|filtered|filt)\b", re.IGNORECASE)
_ONE: Final = re.compile(r"^1(?:[.,]0+)?\s*(?=[^\d.,/e])")
_BRACKETS: Final = re.compile(r"[(\[{<](.*)[)\]}>]")

_LONGEST_UNIT: Final = 40

_UNIT_IN_NAME: Final = re.compile(
    r"(.+?)(?:\s*\(([^()]+)\)|\s*\[([^\[\]]+)\]|\s*\{([^{}]+)\}|\s*<([^<>]+)>"
    # ECG_uV, time_ms, ecg.uV, ECG: uV, ecg_counts
    rf"|_((?:{_VOLTS})v(?:olts?)?|[mnuµμ]?s|counts|adu|adc|lsb|bits)"
    rf"|[.:]\s*((?:{_VOLTS})v(?:olts?)?)"
    # ECG / V, Zeit in s, Time, ms
    rf"|\s*(?:[/,]|\bin\b|\ben\b)\s*((?:{_VOLTS})?v(?:olts?)?|[mnuµμ]?s(?:ec|ek|eg)?)"
    # ECG uV; but not ECG V, which is a lead
    rf"|\s+((?:{_VOLTS})v(?:olts?)?))",
    re.IGNORECASE,
)


_ADDRESS: Final = re.compile(r"\(/[\w/.-]{1,80}\)$")
"""Link by which Hexoskin describes the signal of a column."""

_NO_UNIT: Final = re.compile(r"([^\[\]]+?)\s*\[\s*\]")
"""Hexoskin writes an empty unit for counts."""

_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
"""Where words are put together: LocalTimestamp."""

# Some say of which clock it is: Timestamp_Unix_CAL.
_TIME_NAME: Final = re.compile(
    r"(?:.*[ _/-])?(?:time|zeit|uhrzeit|zeitpunkt|tiempo|hora|temps|heure|tempo)(?:[ _-]?stamp)?"
    r"|(?:.*[ _-])?(?:zeitstempel|datetime|marca temporal)|(?:mess|system|aufnahme)zeit|t|elapsed"
    r"|x[ _]?value"
    r"|(?:.*[ _-])?(?:time|time[ _-]?stamp)(?:[ _-](?:unix|cal|raw|utc|gmt|local|sync|relative"
    r"|elapsed|absolute|formatted|iso|iso8601|device|sensor|epoch|of day))+"
    r"|(?:unix|posix)?[ _-]?epoch|unix|(?:time[ _-])?since[ _-]start"
    r"|(?:time|seconds|sekunden|segundos|secs?|s|milliseconds|ms)[ _-]"
    r"(?:since|elapsed|from|seit|desde)(?:[ _-].*)?",
    re.IGNORECASE,
)

DATE_NAME: Final = re.compile(r"(?:.*[ _-])?(?:date|datum|fecha)", re.IGNORECASE)
"""Names of a column that may hold times too; where it does not, it says nothing."""


_COUNT_NAME: Final = re.compile(
    r"|n|nr\.?|no\.?|row|index|unnamed: 0|muestra|abtastwert"
    r"|samp(?:le)?(?:[ _]?(?:#|number|index|no\.?))?",
    re.IGNORECASE,
)


class ColumnKind(StrEnum):
    """The kinds of columns."""

    LEAD = "lead"
    TIME = "time"
    COUNT = "count"
    """A lead after all where its numbers do not go up by one."""


class Heading(NamedTuple):
    """A heading, read."""

    kind: ColumnKind
    name: str
    unit: str | None = None
    """Of a lead ``mV``, ``uV``, ``V``, ``nV`` or ``counts``, or that of another signal (``mmhg``);
    None when it states none. Of time a unit that :func:`seconds_of` knows, else None."""


def seconds_of(unit: str) -> float | None:
    """Return the seconds of a unit of time, which may be a tick; None for other units.

    >>> seconds_of("ms"), seconds_of("s/256"), seconds_of("mV")
    (0.001, 0.00390625, None)

    """
    text = unit.strip().lower()
    if text in UNIT_TO_S:
        return UNIT_TO_S[text]
    ticks = _TICKS.fullmatch(text)
    if ticks is None:
        return None
    if ticks["unit"]:
        return float(ticks["count"]) * UNIT_TO_S[ticks["unit"]] or None
    parts = float(ticks["over"] or ticks["part"])
    return 1 / parts if parts else None


def find_unit(text: str) -> str | None:
    """Find a unit among other words; return one with a scale unchanged.

    >>> find_unit("uV, filtered"), find_unit("1 mV"), find_unit("0.001 mV"), find_unit("V1")
    ('uV', 'mV', '0.001 mV', None)

    """
    text = _ONE.sub("", text.strip())
    if read_unit(text) is not None or len(text) > _LONGEST_UNIT:
        return read_unit(text)
    found = _VOLTAGE.search(text)
    if found is None:
        return None
    rest = text[: found.start()] + text[found.end() :]
    is_scaled = found["plain"] or _SCALE.search(rest)
    return text if is_scaled else read_unit(found["unit"]) or text


def is_unit(text: str) -> bool:
    """Return whether a text names a voltage and nothing else.

    >>> is_unit("0.001 mV"), is_unit("uV (filtered)"), is_unit("ECG (mV)")
    (True, True, False)

    """
    if find_unit(text) is None:
        return False
    rest = _BESIDE_UNIT.sub("", _SCALE.sub(" ", _VOLTAGE.sub(" ", text)))
    return read_unit(text) is not None or re.search(r"[^\W\d_]", rest) is None


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
    text = _ADDRESS.sub("", text)
    empty = _NO_UNIT.fullmatch(text)
    if empty is None:
        return _read_text(text)
    kind, name, _ = _read_text(empty[1])
    return Heading(kind, name, None if kind is ColumnKind.TIME else COUNTS)


def _read_text(text: str) -> Heading:
    found = _UNIT_IN_NAME.fullmatch(text)
    name = found[1] if found else text
    said = next(filter(None, found.groups()[1:])).strip().lower() if found else ""
    if text.lower() in UNIT_TO_S.keys() - _NOT_ALONE:
        return Heading(ColumnKind.TIME, text, text.lower())
    if _TIME_NAME.fullmatch(_CAMEL.sub(" ", name)):
        first = re.split(r"[ _-]", name.lower())[0]  # ms since start
        unit = said or (first if first in UNIT_TO_S else "s")
        return Heading(ColumnKind.TIME, name, unit if seconds_of(unit) is not None else None)
    if DATE_NAME.fullmatch(text):
        return Heading(ColumnKind.TIME, text, "s")
    if read_unit(said) is not None or is_other_unit(said):
        return Heading(ColumnKind.LEAD, name, read_unit(said) or said)
    bracket = _BRACKETS.search(text)
    unit = find_unit(bracket[1]) if bracket and bracket.start() else None
    if bracket and unit is not None:
        return Heading(ColumnKind.LEAD, text[: bracket.start()].strip(), unit)
    kind = ColumnKind.COUNT if _COUNT_NAME.fullmatch(text) else ColumnKind.LEAD
    return Heading(kind, text, _NAMELESS.get(text.lower()))


def states_unit(cell: str, heading: Heading) -> bool:
    """Return whether the heading of a column of time states its unit; seconds may be implied.

    >>> [states_unit(one, read_heading(one)) for one in ("timestamp", "time [s]", "ms")]
    [False, True, True]

    """
    text = cell.strip(" '\"#")
    return heading.unit != "s" or heading.name != text or text.lower().split()[0] in UNIT_TO_S
