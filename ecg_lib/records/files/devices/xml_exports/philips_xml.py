"""Read Philips XML exports (SierraECG and PhilipsECG 1.03, 1.04): the parsed waveforms.

Their samples are not compressed, or packed by XLI: dictionary codes of 10 bits (Welch 1984, DOI
10.1109/MC.1984.1659158) of the high and then the low bytes of second differences, which lag by a
sample; the limb leads that follow from I and II are stored as what is left of them. Philips has not
published XLI. It is read as the tools of C. Watford for SierraECG describe it, and checked against
them on five recordings of devices. Those end in a calibration pulse, which is cut off.
"""

from __future__ import annotations

import struct
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
    read_count,
    read_number,
)
from ecg_lib.records.files.devices.xml_exports.xml_tree import decode_base64, text_of
from ecg_lib.records.limits import MAX_SIGNALS

ROOT: Final = "restingecgdata"
KEPT: Final = frozenset(
    """dataacquisition parsedwaveforms samplingrate signalresolution resolution bitspersample
    numberchannelsallocated acquisitiontype""".split()
)

_STANDARD: Final = tuple("I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split())
_CODE_BITS: Final = 10
_END_CODE: Final = 2**_CODE_BITS - 1
_CALIBRATION_S: Final = 0.4
_BIAS: Final = 64
"""The number that the encoder adds to each difference."""


def read_philips(root: Element) -> DeviceFile:
    """Read the leads of the parsed waveforms.

    Raises
    ------
    CorruptRecordError, UnsupportedRecordError

    """
    waveforms = root.find(".//parsedwaveforms")
    acquisition = root.find("dataacquisition")
    signal = root.find("dataacquisition/signalcharacteristics")
    if waveforms is None or acquisition is None or signal is None:
        msg = "a Philips file must have parsed waveforms and their characteristics, it has not"
        raise UnsupportedRecordError(msg)
    fs = read_number(text_of(signal, "samplingrate"), "sampling rate of the Philips file")
    stated_uv = text_of(signal, "resolution") or text_of(signal, "signalresolution")
    step_uv = read_number(stated_uv, "resolution of the Philips file")
    if text_of(signal, "bitspersample", "16") != "16":
        msg = "the samples of a Philips file must have 16 bits, these have not"
        raise UnsupportedRecordError(msg)
    names = _read_names(signal, waveforms)
    duration_ms = read_count(waveforms.get("durationperchannel"), "duration of the Philips file")
    if not 0 < fs <= 1e6 or duration_ms == 0:
        msg = "the sampling rate and duration of a Philips file must be above 0, one is not"
        raise CorruptRecordError(msg)
    samples = _read_samples(waveforms, names, round(duration_ms * fs / 1000))
    samples = _cut_calibration(samples, pulse=round(1000 / step_uv) if step_uv > 0 else 0, fs=fs)
    return make_device_file(
        "philips",
        [
            DeviceLead(name=name, fs=fs, samples=values, gain_mv=step_uv * 1e-3)
            for name, values in zip(names, samples, strict=True)
        ],
        start_clock_s=read_clock(acquisition.get("time", "")),
    )


def _read_names(signal: Element, waveforms: Element) -> tuple[str, ...]:
    labels = waveforms.get("leadlabels", "").split()
    if labels:
        count = read_count(waveforms.get("numberofleads", len(labels)), "number of leads")
        names = tuple(map(name_lead, labels[:count]))
    else:
        allocated = text_of(signal, "numberchannelsallocated")
        count = read_count(allocated, "number of channels of the Philips file")
        names = tuple(
            _STANDARD[number] if number < len(_STANDARD) else f"channel{number + 1}"
            for number in range(min(count, MAX_SIGNALS + 1))
        )
    if not 1 <= len(names) <= MAX_SIGNALS:
        msg = f"a Philips file must have 1 to {MAX_SIGNALS} leads, it says {count}"
        raise CorruptRecordError(msg)
    return names


def _read_samples(
    waveforms: Element, names: tuple[str, ...], n_samples: int
) -> list[NDArray[np.int64]]:
    if waveforms.get("dataencoding", "Base64") != "Base64":
        msg = "the waveforms of a Philips file must be in base64, these are not"
        raise UnsupportedRecordError(msg)
    packed = decode_base64(waveforms.text or "", "waveforms of the Philips file")
    is_flagged = waveforms.get("compressflag", "True").lower() != "false"
    method = waveforms.get("compressmethod", waveforms.get("compression", "Uncompressed"))
    if not is_flagged or method == "Uncompressed":
        if len(packed) < 2 * n_samples * len(names):
            raise _too_few(n_samples)
        every = np.frombuffer(packed, dtype="<i2", count=n_samples * len(names)).astype(np.int64)
        return list(every.reshape(len(names), n_samples))
    if method != "XLI":
        msg = "a Philips file must be compressed by XLI or not at all, this one is otherwise"
        raise UnsupportedRecordError(msg)
    return _restore_limb_leads(names, _unpack_xli(packed, len(names), n_samples))


def _cut_calibration(
    samples: list[NDArray[np.int64]], *, pulse: int, fs: float
) -> list[NDArray[np.int64]]:
    """Cut off the pulse of 1 mV for 0.2 s, with 0.1 s of zero around it, that ends every lead.

    It would be taken for a beat. Leads that do not all end with it are left as they are.
    """
    quarter = round(_CALIBRATION_S / 4 * fs)
    expected = np.repeat([0, pulse, pulse, 0], quarter)
    is_there = pulse > 0 and all(
        len(lead) > len(expected) and np.array_equal(lead[-len(expected) :], expected)
        for lead in samples
    )
    return [lead[: -len(expected)] for lead in samples] if is_there and quarter else samples


def _too_few(n_samples: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"each lead of the Philips file must hold {n_samples} samples, one is cut off"
    )


def _unpack_xli(packed: bytes, n_leads: int, n_samples: int) -> list[NDArray[np.int64]]:
    """Unpack the chunk of each lead: its length, two unused bytes, a first value, and codes."""
    leads, at = [], 0
    for _ in range(n_leads):
        if at + 8 > len(packed):
            raise _too_few(n_samples)
        size, _, first = struct.unpack_from("<Ihh", packed, at)
        codes = packed[at + 8 : at + 8 + size]
        at += 8 + size
        unpacked = _expand(codes, limit=2 * n_samples + 2)
        half = (len(unpacked) + 1) // 2
        if half < n_samples or len(codes) < size:
            raise _too_few(n_samples)
        both = np.frombuffer(unpacked.ljust(2 * half, b"\x00"), dtype=np.uint8).reshape(2, half)
        words = (both[0].astype(np.uint16) << 8 | both[1]).astype(np.int16)
        leads.append(_sum_differences(words.astype(np.int64), first)[:n_samples])
    return leads


def _expand(codes: bytes, *, limit: int) -> bytes:
    """Expand dictionary codes, first bits first; the dictionary stays as it is when it is full."""
    words = [bytes([number]) for number in range(256)]
    expanded = bytearray()
    previous = b""
    held, n_held = 0, 0
    for byte in codes:
        held, n_held = (held << 8 | byte) & 0xFFFFFF, n_held + 8
        if n_held < _CODE_BITS:
            continue
        n_held -= _CODE_BITS
        code = held >> n_held & _END_CODE
        if code == _END_CODE:
            break
        if code > len(words) or (code == len(words) and not previous):
            msg = "the waveforms of the Philips file must be XLI codes, one is unknown"
            raise CorruptRecordError(msg)
        word = words[code] if code < len(words) else previous + previous[:1]
        if previous and len(words) < _END_CODE:
            words.append(previous + word[:1])
        expanded += word
        if len(expanded) > limit:
            msg = "the XLI codes of a lead of the Philips file must end with its samples"
            raise CorruptRecordError(msg)
        previous = word
    return bytes(expanded)


def _sum_differences(words: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Undo second differences; each takes effect one sample after the one that it stands at.

    ``x[n] = 2 x[n-1] - x[n-2] - d[n-1]``, where ``d[1]`` is the first value of the chunk, and
    ``d[n]`` the stored word less the bias; two samples are stored as they are.
    """
    if len(words) < 3:
        return words
    differences = np.concatenate([[first], words[2:-1] - _BIAS])
    steps = words[1] - words[0] - np.cumsum(differences)
    return np.concatenate([words[:2], words[1] + np.cumsum(steps)])


def _restore_limb_leads(
    names: tuple[str, ...], leads: list[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Restore the leads that follow from I and II, which are stored as the difference from that."""
    if names[:6] != _STANDARD[:6]:
        return leads
    one, two, three, right, left, foot = leads[:6]
    three = two - one - three
    return [
        one,
        two,
        three,
        -right - (one + two) // 2,
        (one - three) // 2 - left,
        (two + three) // 2 - foot,
        *leads[6:],
    ]
