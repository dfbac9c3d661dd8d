"""Tell by name and unit whether a signal is an ECG lead, and which lead to analyse.

One rule for every format and route, tested with the table ``tests/lead_choices.json``. Names of
leads come in the spellings of many devices (``MLII``, ``Lead II``, ``ECG_II [uV]``, ``Abl. II``,
``Derivación II``, ``EXG Channel 0``), units as well (``µV`` in UTF-8 or Latin-1, ``microV``,
``Volt``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

PREFERRED_LEAD: Final = "MLII"
"""The lead that the classifier is trained on (modified limb lead II)."""

COUNTS: Final = "counts"
"""The unit of samples as a converter gave them."""

_LONGEST_NAME: Final = 200


class SignalKind(StrEnum):
    """The kinds of signals, by their names."""

    ECG = "ecg"
    OTHER = "other"
    """Known to be something else: a pleth, EEG, pressure, heart rate, ..."""
    UNKNOWN = "unknown"


_MILLIVOLT: Final = (
    *("mv", "millivolt", "millivolts", "milivolt", "milivolts", "mvolt", "mvolts"),
    *("milivoltio", "milivoltios", "мв"),
    *("milliv", "millivol"),  # the eight characters of EDF
)
_MICROVOLT: Final = (
    *(
        "uv",
        "μv",
        "âμv",
        "î¼v",
        "æv",  # of DOS, as Latin-1
        "mcv",
    ),  # casefold makes the micro sign Greek; then UTF-8 as Latin-1
    *("microv", "microvolt", "microvolts", "mikrovolt", "mikrov", "uvolt", "uvolts", "μvolt"),
    *("microvoltio", "microvoltios", "мкв"),
    "microvol",
)
_COUNTS: Final = (
    *("adu", "count", "counts", "lsb", "lsbs", "digit", "digits", "bit", "bits"),
    *("adc", "adccount", "adccounts", "adcunit", "adcunits", "rawadc", "adcraw", "cuentas"),
    *("nounit", "nounits", "unitless", "dimensionless"),
    *("au", "a.u.", "arb.u.", "arbitraryunits", "adcwerte", "rohwert", "rohwerte", "zählwerte"),
)
_OTHER_UNITS: Final = frozenset(
    "mmhg cmh2o kpa pa bpm /min 1/min min-1 min^-1 % nu °c degc celsius °f g mg m/s2 m/s^2 m/s² "
    "°/s deg/s dps l/s l/min ml/min ohm kohm ω lux hz db".split()
)
"""Units of other signals, in small letters."""

_UNITS: Final[dict[str, str]] = {
    **dict.fromkeys(_MILLIVOLT, "mV"),
    **dict.fromkeys(_MICROVOLT, "uV"),
    **dict.fromkeys(("v", "volt", "volts", "voltio", "voltios"), "V"),
    **dict.fromkeys(("nv", "nanovolt", "nanovolts", "nvolt"), "nV"),
    **dict.fromkeys(_COUNTS, COUNTS),
}

UNIT_TO_MV: Final[dict[str, float]] = {
    "mV": 1.0,
    "uV": 1e-3,
    "µV": 1e-3,  # the micro sign
    "μV": 1e-3,  # the Greek letter
    "V": 1e3,
    "nV": 1e-6,
}


def read_unit(text: str) -> str | None:
    """Read the unit of a signal in any usual spelling.

    Returns
    -------
    str or None
        ``mV``, ``uV``, ``V``, ``nV`` or ``counts``; None when it is blank, or is not a voltage.

    Examples
    --------
    >>> read_unit(" [microV] "), read_unit("mmHg")
    ('uV', None)

    """
    return _UNITS.get(_bare(text))


def is_other_unit(text: str) -> bool:
    """Return whether a text is the unit of a signal that is not a voltage.

    >>> is_other_unit("[mmHg]"), is_other_unit("mV")
    (True, False)

    """
    return _bare(text) in _OTHER_UNITS


def _bare(unit: str) -> str:
    return unit.strip(" \t\x00'\"()[]{}<>").casefold().replace(" ", "")


_OTHER_SIGNALS: Final = frozenset(
    "ppg spo2 sao2 so2 eeg eog emg resp rsp abp abpm nibp nbp ibp cvp pap icp cpp uap uvp rap lvp "
    "rvp aop hr heartrate bpm pr rr rri ibi hrv fc puls acc accel accx accy accz temp gsr eda co2 "
    "etco2 o2 po2 pcg phono scg bcg icg dzdt edr ptt pwv imp bvp skt gyr gyrx gyry gyrz egm iegm "
    "audio".split()
)

_OTHER_SIGNAL_STEM: Final = re.compile(
    # Words of many languages are put together, or inflected.
    r".*(?:pleth|pletism|pulso?x|oximet|oxymet|respir|atmung|breath|saettig|sattig|satura|temper"
    r"|schnarch|ronquid|snor|beschleunig|acceler|aceler|gyro|impedan|lagesensor"
    r"|elektroenzephal|electroencef|elektromyo|electromio|elektrookul).*"
    r"|(?:puls[ewkao]|pouls|atem|souffle|pression|presion|pressao|pressur"
    r"|(?:blut|arterien|venen)druck|(?:air|nasal|nasen)?(?:flow|fluss|flujo)).*"
)

_TRACKS: Final = frozenset(
    "nasal sound light lux battery event events marker markers annotation annotations label labels "
    "trigger status seq nseq index count counter timestamp speed cadence power steps altitude "
    "humidity weight chan_status peak peaks rpeak rpeaks quality sqi chin jaw eye crc time zeit "
    "tiempo".split()
)
"""Names of tracks that devices record or derive beside signals."""

_TRACKS_OF_LEADS: Final = frozenset(
    "rate rates valid validity off loff leadoff contact onset onsets offset offsets pace pacer "
    "pacing pacemaker qrs".split()
)
"""Tracks that devices derive of a lead: ``ECG_Rate``, ``lead off``; not ``ECG offset removed``."""

_TRACK_STEM: Final = re.compile(r".*(?:frequen[zc]|frecuen|herzrate|herzschlag).*")

_TRACK_PHRASE: Final = re.compile(
    r"\b(?:heart (?:rate|beat|sound)s?|ritmo card\w*"
    r"|phase (?:completion )?(?:atrial|ventricular))\b"
)

_PERHAPS_A_SIGNAL: Final = re.compile(
    # Of an ECG: printed (Ausdruck), compressed, of patient 12, of participant P1, band-pass (bp).
    r".*(?:puls[ewkao]|pouls|pression|presion|pressao|pressur|druck|atem|souffle|flow|fluss|flujo"
    r"|bewegung|movim|posicion|position).*"
    r"|thor|thorax|thoracic|abdo|abdomen|abdominal|p[1-9]|art|bp|co|fr|lap|mag|map|pat"
    r"|ir|red|green|led\d*"
)
"""Words for other signals that say nothing beside a word for the ECG."""

_PERHAPS_A_TRACK: Final = re.compile(r"digital|heart|.*ritmo.*")
"""Words that name no waveform, and that say nothing beside a word for the ECG."""

_EEG_ELECTRODE: Final = re.compile(
    r"(?:(?:loc|roc)(?: ?[am][12])?|e[12] ?[am][12])"
    r"|(?:fp[12z]|af[3478z]|f[3478z]|fc[1-6z]|c[34z]|cp[1-6z]|p[34z]|po[3478z]|o[12z]|t[3-8])"
    r"(?: ?(?:[am][12]|ref|le|av|cz))?"
)

_GENERIC: Final = re.compile(
    r"(?:ecg|ekg|exg)[a-z0-9]*|e[ck]gs?|[eé]le[ck]tro[ck]ard\w*"
    # Greek, Russian, Chinese, Japanese and Korean, as `_words_of` writes them.
    + "".join(
        rf"|{unicodedata.normalize('NFKD', word)}\w*" for word in "ηκγ экг 心电 心電 심전도".split()
    )
)

_LEAD_WORD: Final = re.compile(
    r"lead|abl|(?:brustwand|extremitaten|extremitaeten|standard|einthoven|goldberger|wilson)?"
    r"ableitung\w*|deriv\w*|afleiding|a[vf]ledning|odprowadzenie"
    r"|отведение|导联|導聯|導程|precordial|canal|brustwand|kanal|einthoven|goldberger|wilson"
)

_LEAD: Final = re.compile(
    r"(?:ml|m)?i{1,3}|li{2,3}|ml[123]|d[123]|di{1,3}|-?a?v[rlf]|v\d{0,2}r?|mv\d|mcl\d|cm\d|cc5|cs\d"
    r"|nasa|v[xyz]|e[sai]|a[si]|(?:la|ra|ll) (?:la|ra|ll)"
)

_ELECTRODES: Final = re.compile(r"\b(?:la ra|ll ra|ll la)\b")
"""The electrodes of a limb lead, the positive one first, as Shimmer names them."""

_OF_ELECTRODES: Final = {"la ra": "i", "ll ra": "ii", "ll la": "iii"}

_CLEAR_LEAD: Final = re.compile(r"(?:ml?)?i{2,3}|li{2,3}|ml[123]|di{2,3}|-?av[rlf]|v[1-9]r?|mcl\d")
"""Leads that no other word looks like."""

_NOISE_WORDS: Final = frozenset(
    "ecg ekg lead abl channel ch signal raw filtered filt limb mod modified wave waveform data "
    "rhythm rhythmus rythme ritmo strip tira mv uv µv v microv экг ηκγ".split()
)

_CHANNELS: Final = frozenset({"canal", "kanal"})

_NUMBER_TO_ROMAN: Final = {"1": "i", "2": "ii", "3": "iii"}


def kind_of(name: str) -> SignalKind:
    """Return what a signal is by its name.

    A word that can only be another signal counts most, then one for the ECG, then one that may be
    another signal: ``ECG-HR`` is not an ECG, ``ECG (Pat 12)`` is, and ``PAT`` alone is not.

    Examples
    --------
    >>> [kind_of(name).value for name in ("ECG 1", "Abl. II", "PLETH", "channel 3")]
    ['ecg', 'ecg', 'other', 'unknown']

    """
    words = _words_of(name)
    if not words:
        return SignalKind.UNKNOWN
    if _has_other(words):
        return SignalKind.OTHER
    is_ecg = any(map(_GENERIC.fullmatch, words)) or lead_of(name) is not None
    if _has_perhaps_other(words):
        return SignalKind.ECG if is_ecg or _has_lead(words) else SignalKind.OTHER
    joined = " ".join(words)
    begins_as_lead = _LEAD_WORD.fullmatch(words[0]) and words[0] not in _CHANNELS
    if is_ecg or begins_as_lead or re.fullmatch(r"lead ?\d{1,2}|leads?", joined):
        return SignalKind.ECG
    return SignalKind.OTHER if _EEG_ELECTRODE.fullmatch(joined) else SignalKind.UNKNOWN


def says_ecg(text: str) -> bool:
    """Return whether a text has a word for the ECG; names of leads are none.

    >>> says_ecg("Digital ECG recorder"), says_ecg("Lead II")
    (True, False)

    """
    return any(map(_GENERIC.fullmatch, _words_of(text)))


def names_other_signal(text: str) -> bool:
    """Return whether some words name a signal that is not an ECG, rather than an event or a device.

    >>> [names_other_signal(text) for text in ("RESP", "ART", "Heart rate", "Digital", "Event")]
    [True, True, True, False, False]

    """
    words = _words_of(text)
    return (
        _has_other_signal(words)
        or _TRACK_PHRASE.search(" ".join(words)) is not None
        or (len(words) == 1 and _PERHAPS_A_SIGNAL.fullmatch(words[0]) is not None)
    )


def _has_other(words: list[str]) -> bool:
    """Return whether a word can only be another signal, whatever stands beside it."""
    return (
        _has_other_signal(words)
        or bool(_TRACKS.intersection(words))
        or _names_track_of_lead(words)
        or any(map(_TRACK_STEM.fullmatch, words))
        or _TRACK_PHRASE.search(" ".join(words)) is not None
    )


def _has_other_signal(words: list[str]) -> bool:
    bare = {word.rstrip("0123456789") for word in words}  # EMG1
    named = _OTHER_SIGNALS.intersection(words) or any(
        word in _OTHER_SIGNALS for word in bare if len(word) > 2
    )
    return bool(named) or any(map(_OTHER_SIGNAL_STEM.fullmatch, words))


def _names_track_of_lead(words: list[str]) -> bool:
    """Return whether words name a lead and a track of it, and nothing else."""
    others = [word for word in words if word not in _TRACKS_OF_LEADS]
    return len(others) < len(words) and all(
        word in _NOISE_WORDS
        or _GENERIC.fullmatch(word)
        or _LEAD_WORD.fullmatch(word)
        or _LEAD.fullmatch(word)
        or re.fullmatch(r"\d{1,2}|[pqrst]|leads", word)
        for word in others
    )


def _has_perhaps_other(words: list[str]) -> bool:
    return any(
        _PERHAPS_A_SIGNAL.fullmatch(word) or _PERHAPS_A_TRACK.fullmatch(word) for word in words
    )


def _has_lead(words: list[str]) -> bool:
    """Return whether a word is a lead that no other word looks like, or any after ``lead``."""
    leads = _LEAD if any(map(_LEAD_WORD.fullmatch, words)) else _CLEAR_LEAD
    return any(map(leads.fullmatch, words))


def lead_of(name: str) -> str | None:
    """Name the ECG lead that a name spells, in small letters; None when it spells none.

    Examples
    --------
    >>> lead_of("Derivación II"), lead_of("ECG V5 [uV]"), lead_of("DII"), lead_of("EEG")
    ('ii', 'v5', 'ii', None)
    >>> lead_of("Shimmer_5F3A_ECG_LL-RA_24BIT_CAL")
    'ii'

    """
    words = _words_of(name)
    if (electrodes := _ELECTRODES.findall(" ".join(words))) and len(electrodes) == 1:
        return _OF_ELECTRODES[electrodes[0]]
    if _has_perhaps_other(words) and not _has_other(words):  # II (Pat 12)
        clear = [word for word in words if _CLEAR_LEAD.fullmatch(word)]
        words = clear if len(clear) == 1 else words
    # Channels are numbered, and their numbers are not those of leads.
    has_lead_word = any(_LEAD_WORD.fullmatch(word) and word not in _CHANNELS for word in words)
    kept = [
        word for word in words if word not in _NOISE_WORDS and not _LEAD_WORD.fullmatch(word)
    ] or words[-1:]
    text = " ".join(kept)
    if has_lead_word and text in _NUMBER_TO_ROMAN:
        return _NUMBER_TO_ROMAN[text]
    text = re.sub(r"^(?:ecg|ekg|lead|abl)(?=[a-z])", "", text)
    if not _LEAD.fullmatch(text):
        text = text.replace(" ", "")
        if not _LEAD.fullmatch(text):
            return None
    if re.fullmatch(r"d(?:[123]|i{1,3})", text):
        rest = text[1:]
        return _NUMBER_TO_ROMAN.get(rest, rest)
    return {"ml1": "mli", "ml2": "mlii", "ml3": "mliii", "lii": "ii", "liii": "iii"}.get(text, text)


def _words_of(name: str) -> list[str]:
    """Split a name in small words without accents, brackets and the units in them."""
    text = unicodedata.normalize("NFKD", name[:_LONGEST_NAME])
    text = "".join(char for char in text if not unicodedata.combining(char))
    text = re.sub(r"[(\[]\s*([^()\[\]]*)[)\]]", _without_unit, text)
    # ECGWaveform and heartRate are two words each; MLII, aVR and SpO2 are one.
    text = re.sub(r"(?<=[a-z]{2})(?=[A-Z][a-z])|(?<=[A-Z]{3})(?=[A-Z][a-z]{2})", " ", text)
    return [word for word in re.split(r"[^\w%]+|_+", text.casefold()) if word]


def _without_unit(match: re.Match[str]) -> str:
    return " " if read_unit(match[1]) is not None else f" {match[1]} "


_USUAL_WORDS: Final = (
    _NOISE_WORDS
    | _OTHER_SIGNALS
    | _TRACKS
    | _TRACKS_OF_LEADS
    | frozenset(
        "a adc amplitude analog b c chan col column d electrode in input la left ll mason likar "
        "on output r ra right rl s sample samples sensor series spalte columna value values "
        "voltage volts x y z".split()
    )
)

_USUAL_GENERIC: Final = re.compile(r"(?:ecg|ekg|exg)\d*|e[ck]gs?|[eé]le[ck]tro[ck]ard\w*")


def is_usual_name(name: str) -> bool:
    """Return whether each word of a name is of leads, signals and devices; a person's is not.

    A second number is not usual: several may be a date of birth.

    >>> [is_usual_name(name) for name in ("ECG_II [uV]", "lead 2", "Doe, Jane II", "1950-02-01")]
    [True, True, False, False]

    """
    words = _words_of(name)
    numbers = [word for word in words if word.isdigit()]
    return (
        len(name) <= _LONGEST_NAME
        and len(numbers) <= 1
        and all(len(number) <= 2 for number in numbers)
        and all(map(_is_usual_word, words))
    )


def _is_usual_word(word: str) -> bool:
    return (
        word.isdigit()
        or word in _USUAL_WORDS
        or word.rstrip("0123456789") in _USUAL_WORDS
        or any(
            pattern.fullmatch(word) is not None
            for pattern in (_LEAD, _LEAD_WORD, _USUAL_GENERIC, _EEG_ELECTRODE)
        )
    )


def preferred_lead(names: Sequence[str]) -> str:
    """Name the lead of a trusted record: MLII, or else the first."""
    return PREFERRED_LEAD if PREFERRED_LEAD in names else names[0]


def find_ecg(names: Sequence[str]) -> int | None:
    """Find the signal to analyse when nobody has named one.

    MLII, else II in any spelling, else the first that is an ECG by its name, else the only one
    there is, unless its name says that it is something else.

    Parameters
    ----------
    names : sequence of str
        Names of signals that are voltages.

    Returns
    -------
    int or None
        Its place; None when none is clearly an ECG.

    """
    kinds = [kind_of(name) for name in names]
    of_ecg = [place for place, kind in enumerate(kinds) if kind is SignalKind.ECG]
    leads = {place: lead_of(names[place]) for place in of_ecg}
    for wanted in ("mlii", "ii"):
        for place in of_ecg:
            if leads[place] == wanted and not re.fullmatch(r"lead\d", names[place]):
                return place
    if of_ecg:
        return of_ecg[0]
    return 0 if kinds == [SignalKind.UNKNOWN] else None


def find_named(names: Sequence[str], wanted: str) -> int | None:
    """Find the signal that was asked for: by its name, or by the one lead that both names spell."""
    if wanted in names:
        return list(names).index(wanted)
    lead = lead_of(wanted)
    same = [place for place, name in enumerate(names) if lead is not None and lead_of(name) == lead]
    return same[0] if len(same) == 1 else None
