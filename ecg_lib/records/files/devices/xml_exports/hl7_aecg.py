"""Read HL7 annotated ECG (aECG, HL7 V3 PORT_RM020001, the format of the FDA): the recorded series.

Derived series, which hold averaged beats, are left out; the subject is never read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.devices.device_file import (
    DeviceFile,
    DeviceLead,
    make_device_file,
    name_lead,
    read_clock,
    read_number,
    scale_of,
)

ROOT: Final = "AnnotatedECG"
KEPT: Final = frozenset("sequence code value head increment origin scale digits low".split())

_TO_S: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_WORD: Final = re.compile(r"\S+")


def read_aecg(root: Element) -> DeviceFile:
    """Read the leads of the recorded series.

    Raises
    ------
    CorruptRecordError, UnsupportedRecordError

    """
    leads: list[DeviceLead] = []
    start_clock_s = None
    for series in root.iterfind("component/series"):
        if start_clock_s is None:
            low = series.find("effectiveTime/low")
            start_clock_s = read_clock("" if low is None else low.get("value", ""))
        for sequences in series.iterfind("component/sequenceSet"):
            leads += _read_set(sequences)
    return make_device_file("aecg", leads, start_clock_s=start_clock_s)


def _read_set(sequences: Element) -> Iterator[DeviceLead]:
    """Read the sequences of a set, of which one is time and the others are sampled at it."""
    fs = None
    found: list[tuple[str, Element]] = []
    for sequence in sequences.iterfind("component/sequence"):
        code, value = sequence.find("code"), sequence.find("value")
        if code is None or value is None:
            continue
        name = code.get("code", "")
        if name in {"TIME_ABSOLUTE", "TIME_RELATIVE"}:
            fs = _read_rate(value)
        else:
            found.append((name, value))
    for name, value in found:
        kind = value.get("type", "").rpartition(":")[2]
        if kind != "SLIST_PQ":
            continue
        scale, gain = _read_quantity(value, "scale")
        if scale is None:
            continue  # no voltage, as pressure
        offset_scale, offset = _read_quantity(value, "origin")
        if fs is None:
            msg = "a sequence set of an aECG file must have a time with its increment, it has none"
            raise UnsupportedRecordError(msg)
        yield DeviceLead(
            name=name_lead(name),
            fs=fs,
            samples=_read_digits(value.findtext("digits") or ""),
            gain_mv=gain * scale,
            offset_mv=offset * (scale if offset_scale is None else offset_scale),
        )


def _read_rate(value: Element) -> float:
    increment = value.find("increment")
    unit = "" if increment is None else increment.get("unit", "")
    if increment is None or unit not in _TO_S:
        msg = f"the increment of time of an aECG file must be in one of {', '.join(_TO_S)}"
        raise UnsupportedRecordError(msg)
    step_s = read_number(increment.get("value"), "increment of time of the aECG file")
    if not 1e-9 < step_s < 1e9:
        msg = "the increment of time of an aECG file must be above 0, a rate comes from it"
        raise CorruptRecordError(msg)
    # Steps are rounded in the file: 0.002778 s is 360 Hz and not 359.971 Hz.
    fs = 1.0 / (step_s * _TO_S[unit])
    return float(round(fs)) if math.isclose(fs, round(fs), rel_tol=2e-4) else fs


def _read_quantity(value: Element, name: str) -> tuple[float | None, float]:
    """Give the mV of its unit, None when it is not a voltage, and the number, 0 when left out."""
    quantity = value.find(name)
    if quantity is None:
        return None, 0.0
    number = read_number(quantity.get("value"), f"{name} of a lead of the aECG file")
    return scale_of(quantity.get("unit", "")), number


def _read_digits(text: str) -> NDArray[np.float64]:
    """Read numbers with white space between them; NaN stands for a missing one."""
    try:
        samples = np.fromiter((float(word[0]) for word in _WORD.finditer(text)), dtype=np.float64)
    except ValueError as error:
        msg = "the digits of an aECG file must be numbers, one is not"
        raise CorruptRecordError(msg) from error
    if np.isinf(samples).any() or len(samples) == 0:
        msg = "the digits of an aECG file must be numbers, they are none or one is infinite"
        raise CorruptRecordError(msg)
    return samples
