"""Read the XML exports of GE MUSE (RestingECG): the rhythm waveform.

MUSE stores eight leads; III, aVR, aVL and aVF follow from I and II (Einthoven 1913, Goldberger
1942). The median beats are left out, and demographics but the time of acquisition are never read.
"""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element

import numpy as np

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.devices.device_file import (
    MISSING_16,
    DeviceFile,
    DeviceLead,
    make_device_file,
    name_lead,
    read_clock,
    read_count,
    read_number,
    scale_of,
)
from ecg_lib.records.files.devices.xml_exports.xml_tree import decode_int16, text_of

ROOT: Final = "RestingECG"
KEPT: Final = frozenset(
    """AcquisitionTime WaveformType SampleBase SampleExponent LeadID LeadSampleCountTotal
    LeadOffsetFirstSample LeadSampleSize LeadAmplitudeUnitsPerBit LeadAmplitudeUnits
    WaveFormData""".split()
)

_DERIVED: Final = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""Shares of I and II in each lead."""


def read_muse(root: Element) -> DeviceFile:
    """Read the leads of the rhythm waveform.

    Raises
    ------
    CorruptRecordError, UnsupportedRecordError

    """
    leads: list[DeviceLead] = []
    for waveform in root.iterfind("Waveform"):
        if text_of(waveform, "WaveformType").lower() != "rhythm":
            continue
        base = read_number(text_of(waveform, "SampleBase"), "sampling rate of the MUSE file")
        exponent = read_number(text_of(waveform, "SampleExponent", "0"), "exponent of the rate")
        if not 0 < base <= 1e6 or abs(exponent) > 9:
            msg = "the sampling rate of a MUSE file must be above 0 Hz, and below 1 MHz"
            raise CorruptRecordError(msg)
        fs = base * 10.0**exponent
        own = [_read_lead(lead, fs) for lead in waveform.iterfind("LeadData")]
        leads += [*own, *_derive(own)]
    clock = text_of(root, "TestDemographics/AcquisitionTime")
    return make_device_file("muse", leads, start_clock_s=read_clock(clock))


def _read_lead(lead: Element, fs: float) -> DeviceLead:
    scale = scale_of(text_of(lead, "LeadAmplitudeUnits"))
    if scale is None:
        msg = "the unit of a lead of a MUSE file must be MICROVOLTS or MILLIVOLTS, it is another"
        raise UnsupportedRecordError(msg)
    if text_of(lead, "LeadSampleSize", "2") != "2":
        msg = "the samples of a MUSE file must have 2 bytes, these have not"
        raise UnsupportedRecordError(msg)
    if read_number(text_of(lead, "LeadOffsetFirstSample", "0"), "offset of a lead") != 0:
        msg = "the leads of a MUSE file must begin together, one begins later"
        raise UnsupportedRecordError(msg)
    samples = decode_int16(text_of(lead, "WaveFormData"), "waveform of a MUSE file")
    stated = text_of(lead, "LeadSampleCountTotal")
    count = read_count(stated, "number of samples of a lead") if stated else len(samples)
    if count > len(samples) or count == 0:
        msg = f"a lead of the MUSE file must hold {count} samples, it holds {len(samples)}"
        raise CorruptRecordError(msg)
    return DeviceLead(
        name=name_lead(text_of(lead, "LeadID")),
        fs=fs,
        samples=samples[:count],
        gain_mv=scale * read_number(text_of(lead, "LeadAmplitudeUnitsPerBit"), "gain of a lead"),
    )


def _derive(own: list[DeviceLead]) -> list[DeviceLead]:
    """Derive the leads that are not stored; none unless I and II are there and fit together."""
    by_name = {lead.name: lead for lead in own}
    one, two = by_name.get("I"), by_name.get("II")
    if one is None or two is None or len(one.samples) != len(two.samples):
        return []
    first_mv, second_mv = (
        np.where(lead.samples == MISSING_16, np.nan, lead.samples.astype(np.float64) * lead.gain_mv)
        for lead in (one, two)
    )
    return [
        DeviceLead(name=name, fs=one.fs, samples=share_i * first_mv + share_ii * second_mv)
        for name, (share_i, share_ii) in _DERIVED.items()
        if name not in by_name
    ]
