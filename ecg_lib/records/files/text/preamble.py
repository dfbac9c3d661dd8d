"""Read what the comments and the preamble of a text file state: rate, unit, lead, converters."""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

from ecg_lib.errors import CorruptRecordError
from ecg_lib.records.files.text.stated_units import LEAD_KEY, find_units
from ecg_lib.records.signal_names import SignalKind, kind_of, names_other_signal, says_ecg

_LONGEST_LINE: Final = 500

_RATE_NAME: Final = (
    r"fs|f_s|(?:ecg[ _-]?)?sampl(?:e|es|ing)?[ _-]*(?:rate|freq(?:uency|\.)?|frq)"
    r"|(?:abtast|mess|aufnahme|aufzeichnungs)(?:rate|frequenz)|abtastung"
    r"|frecuencia (?:de )?muestreo|tasa de muestreo"
    r"|fr[eé]quence d.[eé]chantillonnage|taux d.[eé]chantillonnage"
    r"|frequenza di campionamento|(?:frequ[eê]ncia|taxa) de amostragem"
)
_FREQUENCY: Final = r"frequen(?:cy|z)|frecuencia|fr[eé]quence|frequenza|frequ[eê]ncia"
"""A frequency that is not said to be one of filters or mains: it must be all of the key."""

_NUMBER: Final = r"(?P<value>\d{1,6}(?:[.,]\d+)?)\s*(?P<kilo>k)?"
_VALUE: Final = _NUMBER + r"(?:hz|hertz|sps|/s|1/s)?(?!\d|\s*[.,:/-]\s*\d)"
_PER_S: Final = r"samples?\s*(?:/|per)\s*s(?:ec|econd)?"
_UNIT_OF_RATE: Final = r"\s*(?:[(\[]\s*(?:hz|hertz|sps|1/s)\s*[)\]]|[ _](?:hz|sps))?"
_IS: Final = r"[\"']?\s*(?:[:=,;\t]|\bis\b|\bof\b|\s)\s*[\"']?\s*"

_RATES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![a-z-])(?:{_RATE_NAME}){_UNIT_OF_RATE}{_IS}{_VALUE}",
        rf"^[\s#%/\"']*(?:{_FREQUENCY}){_UNIT_OF_RATE}{_IS}{_VALUE}\W*$",
        rf"(?<![\d.,-]){_NUMBER}(?:sps\b|{_PER_S}\b|(?:hz|hertz)\s*sampl)",
        rf"(?:sampled|recorded|digiti[sz]ed|acquired)\s+(?:at|with)\s+{_VALUE}",
    )
)

_PLAUSIBLE_HZ: Final = (10.0, 100_000.0)

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
        lines = [*comments, *preamble]
        device = _read_opensignals(comments)
        converters, fs = device.converters, device.fs
        rates = {rate for line in lines if (rate := find_rate(line)) is not None}
        if fs is None and len(rates) == 1:
            fs = rates.pop()
        lines = [line.lstrip("#%/*- \t").rstrip("# \t") for line in lines]
        pairs = [re.split(r"\s*[,;:=\t]\s*", line, maxsplit=1) for line in lines]
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
        return cls(fs, units, lead, device.columns, converters, device.fs is not None, warnings)


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
