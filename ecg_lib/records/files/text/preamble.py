"""Read what the comments and the preamble of a text file state: rate, unit, lead, converters."""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.text.headings import UNIT_TO_S, ColumnKind, read_heading
from ecg_lib.records.files.text.rounding import RoundedRate, read_interval
from ecg_lib.records.files.text.stated_units import LEAD_KEY, find_units, is_unit_line
from ecg_lib.records.limits import MAX_FS_HZ, MIN_FS_HZ
from ecg_lib.records.signal_names import SignalKind, kind_of, names_other_signal, says_ecg

_LONGEST_LINE: Final = 500

_RATE_NAME: Final = (
    r"fs|f_s|(?:ecg[ _-]?)?sampl(?:e|es|ing)?[ _-]*(?:rate|freq(?:uency|\.)?|frq)"
    r"|(?:abtast|mess|aufnahme|aufzeichnungs)(?:rate|frequenz)|abtastung"
    r"|frecuencia (?:de )?muestreo|tasa de muestreo"
    r"|fr[eé]quence d.[eé]chantillonnage|taux d.[eé]chantillonnage"
    r"|frequenza di campionamento|(?:frequ[eê]ncia|taxa) de amostragem"
    r"|(?:be)?monsterfrequentie|samplefrequentie|samplingsfre[kc]vens|samplingfrekvens"
    r"|cz[eę]stotliwo[sś][cć] pr[oó]bkowania|vzorkovac[ií] frekvence|частота дискретизации"
    r"|サンプル(?:レート|周波数)|サンプリング(?:レート|周波数)|采样[率频]率?|取樣率|採樣率"
)
_FREQUENCY: Final = r"frequen(?:cy|z)|frecuencia|fr[eé]quence|frequenza|frequ[eê]ncia"
"""A frequency that is not said to be one of filters or mains: it must be all of the key."""

_NUMBER: Final = r"(?P<value>\d{1,6}(?:[.,]\d+)?)\s*(?P<kilo>k)?"
_VALUE: Final = _NUMBER + r"(?:hz|hertz|sps|/s|1/s)?(?!\d|\s*[.,:/-]\s*\d)"
_PER_S: Final = r"samples?\s*(?:/|per)\s*s(?:ec|econd)?"
_UNIT_OF_RATE: Final = r"\s*(?:[(\[]\s*(?:hz|hertz|sps|1/s)\s*[)\]]|[ _](?:hz|sps))?"
_IS: Final = r"[\"']?\s*(?::=|[:=,;\t]|\bis\b|\bof\b|\s)\s*[\"']?\s*"

_RATES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![a-z-])(?:{_RATE_NAME}){_UNIT_OF_RATE}{_IS}{_VALUE}",
        rf"^[\s#%/\"']*(?:{_FREQUENCY}){_UNIT_OF_RATE}{_IS}{_VALUE}\W*$",
        rf"(?<![\d.,-]){_NUMBER}(?:sps\b|{_PER_S}\b|(?:hz|hertz)\s*sampl)",
        rf"(?:sampled|recorded|digiti[sz]ed|acquired)\s+(?:at|with)\s+{_VALUE}",
    )
)

_INTERVAL_NAME: Final = (
    r"(?:^[\s#%/\"']*|\bsampl(?:e|ing)[ _-]*)interval|sampl(?:e|ing)[ _-]*period|abtastintervall"
    r"|intervalo de muestreo|^[\s#%/\"']*(?:delta[ _-]?t|dt|time[ _-]?step)"
)
_UNIT_OF_INTERVAL: Final = r"(?P<unit>ms(?:ec)?|[uµμ]s(?:ec)?|s(?:ec(?:ond)?s?)?)"
_INTERVAL: Final = r"(?P<value>\d+(?:[.,]\d+)?(?:e-?\d{1,2})?)\s*" + _UNIT_OF_INTERVAL

_INTERVALS: Final = (
    re.compile(rf"(?:{_INTERVAL_NAME}){_IS}[=,;]?\s*{_INTERVAL}\b", re.IGNORECASE),
    re.compile(rf"(?<![\d.,-]){_INTERVAL}\s*/\s*sample", re.IGNORECASE),
    re.compile(
        rf"(?:{_INTERVAL_NAME})\s*[(\[]\s*{_UNIT_OF_INTERVAL}\s*[)\]]{_IS}"
        r"(?P<value>\d+(?:[.,]\d+)?(?:e-?\d{1,2})?)\s*$",
        re.IGNORECASE,
    ),
)
"""The time from one sample to the next, as LabChart and AcqKnowledge state it."""

_PLAUSIBLE_HZ: Final = (10.0, 100_000.0)

_PLAIN: Final = re.compile(r"\d{1,10}(?:\.\d{1,9})?")

_FIRST_START_S: Final = 1e9
_LAST_START_S: Final = 4e9
"""Seconds since 1970 of the years 2001 to 2096."""

_MAINS_HZ: Final = 60.0

_MOST_WORDS: Final = 3
"""Words before a rate that may name the signal that it is of, as in "arterial blood pressure"."""

_DEVICE: Final = re.compile(
    r"\b\w*(?:monitor|recorder|rekorder|holter|logger|device|system|ger[aä]t)\w*",
    re.IGNORECASE,
)
"""Names of devices hold names of signals too."""

_MAKER_UV: Final = "OpenBCI"


class Converter(NamedTuple):
    """How a maker turns counts into mV: gain times count, and an offset."""

    gain_mv: float
    offset_mv: float


def find_rate(line: str) -> float | None:
    """Find the sampling rate that a line states; frequencies of filters and mains are others.

    >>> find_rate("# Sample Rate = 250 Hz"), find_rate("# low-pass 150 Hz")
    (250.0, None)

    """
    if len(line) > _LONGEST_LINE:
        return None
    if any(pattern.search(line) for pattern in _RATES):
        return _find_frequency(line)
    interval = _find_interval(line)
    return None if interval is None else interval.fs


def _find_frequency(line: str) -> float | None:
    for pattern in _RATES:
        matches = list(pattern.finditer(line))
        of_ecg = [match for match in matches if not _is_of_another(line[: match.start()])]
        if matches and not of_ecg and not says_ecg(line):
            return None
        if matches:
            match = (of_ecg or matches)[0]
            fs = float(match["value"].replace(",", ".")) * (1000.0 if match["kilo"] else 1.0)
            least = _MAINS_HZ if pattern is _RATES[1] else _PLAUSIBLE_HZ[0]
            return fs if least < fs <= _PLAUSIBLE_HZ[1] else None
    return None


def _find_interval(line: str) -> RoundedRate | None:
    if any(pattern.search(line) for pattern in _RATES):
        return None
    for pattern in _INTERVALS:
        match = pattern.search(line)
        if match is None or _is_of_another(line[: match.start()]):
            continue
        scale = {"m": 1e-3, "s": 1.0}.get(match["unit"][0].casefold(), 1e-6)
        rate = read_interval(match["value"], scale)
        is_plausible = rate and _PLAUSIBLE_HZ[0] < rate.fs <= _PLAUSIBLE_HZ[1]
        return rate if is_plausible else None
    return None


def find_rate_in_rows(lines: list[str]) -> float | None:
    """Find the rate that Empatica writes in the second row, below the start time.

    Raises
    ------
    UnsupportedRecordError
        If the rate is not that of an ECG.

    """
    rows = [{cell.strip() for cell in line.split(",")} for line in lines]
    numbers = [row.pop() for row in rows if len(row) == 1]
    if len(numbers) != 2 or not all(map(_PLAIN.fullmatch, numbers)):
        return None
    start_s, fs = map(float, numbers)
    if not (_FIRST_START_S <= start_s <= _LAST_START_S and 0 < fs <= MAX_FS_HZ):
        return None
    if fs < MIN_FS_HZ:
        msg = (
            f"an ECG must have at least {MIN_FS_HZ:g} Hz, the second row states {fs:g} Hz; "
            "Empatica writes BVP, EDA, ACC, TEMP and HR so, and none of them is an ECG"
        )
        raise UnsupportedRecordError(msg)
    return fs


def _is_of_another(before: str) -> bool:
    """Return whether the words directly before a rate name the signal that it is of.

    >>> [_is_of_another(text) for text in ("# RESP ", "PPG: ", "Status: resp off, ", "Digital ")]
    [True, True, False, False]

    """
    text = before.rstrip("\"' ")
    *_, clause, words = ["", *re.split(r"[,;:|]", text)]
    if text.endswith(":"):
        words = clause if len(clause.split()) <= _MOST_WORDS else ""
    words = _DEVICE.split(words)[-1]
    return names_other_signal(" ".join(words.split()[-_MOST_WORDS:]))


class Statements(NamedTuple):
    """The statements of comments and preamble."""

    fs: float | None
    rounded: RoundedRate | None
    """The rate, where the file states it as an interval."""
    units: tuple[str, ...]
    """Of the samples; two or more contradict each other."""
    lead: str | None
    columns: tuple[str, ...]
    """Headings that stand in a comment; empty when there are none."""
    converters: dict[str, Converter]
    """By heading, where the maker of the device publishes them."""
    has_counts: bool
    """True when columns without a converter are counts."""
    warnings: tuple[str, ...]

    @classmethod
    def read(cls, comments: list[str], preamble: list[str]) -> Statements:
        """Read them from the lines above the samples, and from the comments between those."""
        lines = [line for line in (*comments, *preamble) if len(line) <= _LONGEST_LINE]
        device = _read_opensignals(comments)
        converters, fs = device.converters, device.fs
        # An interval is rounded, so one beside a frequency says nothing.
        rates = {*map(_find_frequency, lines)} - {None}
        intervals = {*map(_find_interval, lines)} - {None} if not rates and fs is None else set()
        rounded = intervals.pop() if len(intervals) == 1 else None
        if fs is None and len(rates) == 1:
            fs = rates.pop()
        elif rounded is not None:
            fs = rounded.fs
        lines = [line.lstrip("#%/*- \t").rstrip("# \t") for line in lines]
        pairs = [re.split(r"\s*(?::=|[,;:=\t])\s*", line, maxsplit=1) for line in lines]
        stated = [
            (pair[0].strip("\"' "), pair[1].strip("\"' ,;\t")) for pair in pairs if len(pair) == 2
        ]
        units = find_units(stated)
        leads = [value for key, value in stated if LEAD_KEY.fullmatch(key)]
        warnings: tuple[str, ...] = ()
        if not units and any(_MAKER_UV in line for line in comments):
            units, warnings = (
                ("uV",),
                ("OpenBCI writes its EXG channels in uV: that unit is assumed",),
            )
        if converters:
            warnings = ("counts are converted to mV by the formula that the maker publishes",)
        lead = leads[0][:64] if leads and kind_of(leads[0]) is SignalKind.ECG else None
        return cls(
            fs, rounded, units, lead, device.columns, converters, device.fs is not None, warnings
        )


class Described(NamedTuple):
    """Columns that lines above the samples describe one by one."""

    names: tuple[str, ...]
    units: tuple[str, ...]


_TITLES: Final = re.compile(r"channel ?titles?\s*[=:]", re.IGNORECASE)
_UNITS_OF: Final = re.compile(r"(?:unit ?names?|range)\s*[=:]", re.IGNORECASE)
CHANNELS: Final = re.compile(r"\s*(\d{1,3}) channels?\s*", re.IGNORECASE)
"""The line of AcqKnowledge above the names and units of its channels."""


def find_described(preamble: list[str], is_numeric: tuple[bool, ...]) -> Described | None:
    """Find the names and units that LabChart and AcqKnowledge write in lines of their own.

    Parameters
    ----------
    preamble : list of str
        Lines above the samples.
    is_numeric : tuple of bool
        Of each column; a first one that is not described is that of time.

    """
    rows = [[cell.strip() for cell in _split_described(line)] for line in preamble]
    names: list[str] = []
    units: list[str] = []
    for place, row in enumerate(rows):
        count = CHANNELS.fullmatch(preamble[place])
        if _TITLES.fullmatch(row[0]):
            names = row[1:]
        elif _UNITS_OF.fullmatch(row[0]) and not units:
            units = [cell.split()[-1] if cell else "" for cell in row[1:]]
        elif count and 0 < 2 * int(count[1]) < len(rows) - place:
            pairs = [line.strip() for line in preamble[place + 1 : place + 1 + 2 * int(count[1])]]
            names, units = pairs[::2], pairs[1::2]
    if not names:
        return None
    units = (units + len(names) * [""])[: len(names)]
    width = len(is_numeric)
    before = int(len(names) < width and is_numeric[-1]) or int(len(names) < width - 1)
    after = width - before - len(names)
    if after < 0:
        return None
    of_time = next((row[0] for row in reversed(rows) if row[0] in UNIT_TO_S), "")
    times = ("time" if of_time else "",) * before
    return Described(
        (*times, *names, *after * ("",)), (*before * (of_time,), *units, *after * ("",))
    )


def _split_described(line: str) -> list[str]:
    """Split a line of LabChart by tabs, or by what a spreadsheet replaced them with."""
    by = next((mark for mark in ",;" if f"={mark}" in line), None) if "\t" not in line else None
    return line.rstrip().rstrip(by or "").split(by or "\t")


_OPENSIGNALS: Final = {"bitalino": (3.3, 1100.0), "biosignalsplux": (3.0, 1000.0)}
"""Supply voltage in V and gain of the ECG sensors, of the data sheets of PLUX."""


class _Device(NamedTuple):
    """The description of a device by OpenSignals; without a rate where there is none."""

    columns: tuple[str, ...] = ()
    converters: dict[str, Converter] = {}  # noqa: RUF012  it is not changed
    fs: float | None = None


def _read_opensignals(comments: list[str]) -> _Device:
    """Read the header that OpenSignals (BITalino, biosignalsplux) writes as JSON in a comment.

    Columns of an ECG sensor have a converter: the formula of the maker, or none where OpenSignals
    has converted the values to mV.
    """
    if not any("OpenSignals" in line for line in comments[:3]):
        return _Device()
    text = next((line.lstrip("# ") for line in comments if line.lstrip("# ").startswith("{")), "")
    try:
        (device, *_) = json.loads(text).values()
        labels = [str(label) for label in device["label"]]
        model = str(device.get("device", "")).casefold()
        maker = next((known for known in _OPENSIGNALS if model.startswith(known)), None)
        converters = {}
        for label, sensor, bits in zip(
            labels, device["sensor"], device["resolution"][-len(labels) :], strict=False
        ):
            if kind_of(str(sensor)) is not SignalKind.ECG:
                continue
            if device.get("convertedValues"):
                converters[label] = Converter(1.0, 0.0)
            elif maker is not None and 1 < int(bits) <= 24:
                supply_v, gain = _OPENSIGNALS[maker]
                scale_mv = supply_v / gain * 1e3
                converters[label] = Converter(scale_mv / 2 ** int(bits), -scale_mv / 2)
        columns = tuple(str(name) for name in device.get("column", ()))
        return _Device(columns, converters, float(device["sampling rate"]))
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


def is_statement(row: list[str]) -> bool:
    """Return whether a row is a key and a value, which describe the recording."""
    if len(row) != 2:
        return False
    key, value = row[0].strip(": \t"), row[1]
    if kind_of(value) is SignalKind.ECG and not LEAD_KEY.fullmatch(key):
        return False  # two headings
    if read_heading(key).kind is ColumnKind.TIME and not any(map(str.isdigit, value)):
        return False  # device time, value
    return bool(
        re.fullmatch(
            r"name|date.*|recorded.*|classification|symptoms?|software.*|device.*|unit\w*|einheit|"
            r"unidad|sampl\w*[ _-]*(?:rate|freq).*|frecuencia.*|frequen.*|abtast.*|geburt.*|"
            r"aufge.*|version.*|id|patient.*|serial.*|gender|sex|age",
            key,
            re.IGNORECASE,
        )
        or is_unit_line(key, value)
        or find_rate(",".join(row)) is not None
        or (LEAD_KEY.fullmatch(key) and kind_of(value) is SignalKind.ECG)
    )


def is_key(row: list[str]) -> bool:
    """Return whether a row above one column is a key, with a value or none, and names no signal.

    ``Symptoms;`` and ``Gain: 0.001 mV`` are keys; ``PPG: red`` and ``Signal: PPG`` are headings.
    """
    if re.search(r"[:;=\t]", read_heading(row[0]).name) is None:
        return False
    parts = re.split(r"[:;=\t]", ",".join(row), maxsplit=1)
    return all(kind_of(part) is SignalKind.UNKNOWN for part in parts)
