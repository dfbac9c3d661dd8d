"""Read the headings of text files: leads with their units, time, counts of rows.

Tested with the table ``tests/csv_headings.json``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from ecg_lib.records.signal_names import is_other_unit, read_unit

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

_NOT_ALONE: Final = frozenset("min mins h hr hrs d day days tag tage".split())
"""Units of time that are other headings where they stand alone: of a minimum, a date, ..."""


_NAMELESS: Final = {"mv": "mV", "uv": "uV", "µv": "uV", "μv": "uV"}
"""Units that may be all of the heading of a lead; V is a lead too."""


_VOLTS: Final = r"m|u|µ|μ|n|milli|micro|mikro|nano"
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
    None when it states none. Of time a key of `UNIT_TO_S`, None when it states another."""


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
    if text.lower() in UNIT_TO_S.keys() - _NOT_ALONE:
        return Heading(ColumnKind.TIME, text, text.lower())
    if _TIME_NAME.fullmatch(name):
        first = re.split(r"[ _-]", name.lower())[0]  # ms since start
        unit = said or (first if first in UNIT_TO_S else "s")
        return Heading(ColumnKind.TIME, name, unit if unit in UNIT_TO_S else None)
    if DATE_NAME.fullmatch(text):
        return Heading(ColumnKind.TIME, text, "s")
    if read_unit(said) is not None or is_other_unit(said):
        return Heading(ColumnKind.LEAD, name, read_unit(said) or said)
    kind = ColumnKind.COUNT if _COUNT_NAME.fullmatch(text) else ColumnKind.LEAD
    return Heading(kind, text, _NAMELESS.get(text.lower()))
