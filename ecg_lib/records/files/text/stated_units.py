"""Find the unit of the leads among the lines above the samples of a text file.

Such lines hold units of rates, filters and other signals too. Of those only a line that is about
nothing but the unit (``Unit: mmHg``) is about the samples; a voltage is theirs unless its line
names another signal.
"""

from __future__ import annotations

import re
from typing import Final

from ecg_lib.records.files.text.headings import UNIT_TO_S
from ecg_lib.records.signal_names import (
    COUNTS,
    UNIT_TO_MV,
    SignalKind,
    is_other_unit,
    kind_of,
    read_unit,
)

LEAD_KEY: Final = re.compile(
    r"lead|ableitung|derivaci[oó]n|d[eé]rivation|derivazione|deriva[cç][aã]o|canal|kanal"
    r"|afleiding|avledning|afledning|odprowadzenie|отведение|导联|導聯|導程|誘導",
    re.IGNORECASE,
)

_UNIT_KEY: Final = re.compile(
    r"(?P<before>.*?)[ _-]*"
    r"(?:(?:ma(?:ß|ss)|mess)?einheit(?:en)?|unit(?:s|\(s\))?|unidad(?:e|es)?|unit[ée]s?|unit[àa])"
    r"(?:[ _-]*(?:of measure(?:ment)?|de medida|de mesure|di misura))?"
    r"(?:[ _([-]+(?P<after>.*))?",
    re.IGNORECASE,
)

_LONGEST_UNIT_KEY: Final = 60
_LONGEST_KEY: Final = 30

_NAMES_A_LEAD: Final = re.compile(
    r"(?:leads?|channels?|ch|kan[aä]le?|canal(?:es)?|ableitung(?:en)?|d[eé]rivaci?[oó]n(?:e?s)?"
    r"|electrodes?|elektroden?|electrodos?|columns?|spalten?|columnas?)(?![^\W_])",
    re.IGNORECASE,
)

_OF_A_CONVERTER: Final = re.compile(r"resol|aufl[oö]s|gain|depth|tiefe", re.IGNORECASE)

_CONNECTORS: Final = frozenset("1 per pro por par and und y et e or".split())

_SCALED: Final = re.compile(r"(?P<number>\d[\d.,]*)\s*(?P<word>[^\W\d_]+)")


def is_unit_line(key: str, value: str) -> bool:
    """Return whether a key and its value state the unit of anything.

    >>> is_unit_line("Sampling rate unit", "Hz"), is_unit_line("ECG", "mV")
    (True, False)

    """
    is_unit = read_unit(value) or is_other_unit(value) or value.casefold() in UNIT_TO_S
    return bool(is_unit and _match_unit_key(key))


def find_units(stated: list[tuple[str, str]]) -> tuple[str, ...]:
    """Find the units that keys and their values state for the samples, each once.

    Returns
    -------
    tuple of str
        ``mV``, ``uV``, ``V``, ``nV``, ``counts``, or a unit of other signals. Two or more
        contradict each other.

    Examples
    --------
    >>> find_units([("Sampling rate unit", "Hz"), ("ECG unit", "microvolts"), ("HR unit", "bpm")])
    ('uV',)

    """
    return tuple(sorted({unit for key, value in stated for unit in _units_of(key, value)}))


def _units_of(key: str, value: str) -> set[str]:
    found = _match_unit_key(key)
    if LEAD_KEY.fullmatch(key) or (found is None and len(key) >= _LONGEST_KEY):
        return set()
    if found is None:
        unit = read_unit(value)
        is_lead = value.casefold() == "v" and _NAMES_A_LEAD.search(key)
        is_voltage = unit in UNIT_TO_MV and not is_lead and not _is_of_another(key)
        return {unit} if unit and is_voltage else set()
    subject = f"{found['before']} {found['after'] or ''}"
    subject = re.sub(r"\blabels?\b", "", subject, flags=re.IGNORECASE).strip()  # Y_Unit_Label
    if not subject:
        return {value.casefold()} if is_other_unit(value) else _electric_units_in(value)
    if _is_of_another(subject):
        return set()
    units = _electric_units_in(value)
    return units - {COUNTS} if _OF_A_CONVERTER.search(subject) else units


def _match_unit_key(key: str) -> re.Match[str] | None:
    return _UNIT_KEY.fullmatch(key) if len(key) < _LONGEST_UNIT_KEY else None


def _is_of_another(subject: str) -> bool:
    """Return whether a line is about another signal: ``HR``, but not ``Digital``."""
    return kind_of(f"ECG {subject}") is SignalKind.OTHER


def _electric_units_in(value: str) -> set[str]:
    """Find voltages and counts in a value, which may list units; a scale makes them unclear.

    >>> sorted(_electric_units_in("uV, bpm")), sorted(_electric_units_in("0.1 uV"))
    (['uV'], ['counts', 'uV'])

    """
    whole = read_unit(value)
    if whole is not None:
        return {whole}
    parts = [part for part in re.split(r"[\s\d.,;/|()\[\]]+", value) if part]
    parts = [part for part in parts if part.casefold() not in _CONNECTORS]
    is_list = all(
        read_unit(part) or is_other_unit(part) or part.casefold() in UNIT_TO_S for part in parts
    )
    # Among other words V, au and bit are words too.
    read = {read_unit(part) for part in parts if is_list or part.casefold() != "v"}
    units = {unit for unit in read if unit and (is_list or unit != COUNTS)}
    return units | {COUNTS} if _is_scaled(value) else units


def _is_scaled(value: str) -> bool:
    """Return whether a number other than 1 stands before a voltage."""
    return any(
        read_unit(match["word"]) in UNIT_TO_MV and match["number"] not in {"1", "1.0", "1,0"}
        for match in _SCALED.finditer(value)
    )
