"""DICOM waveforms, which pydicom writes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.lead import RecordingFile
from ecg_lib.records.signal_names import UNIT_TO_MV

Counts = dict[str, NDArray[np.int64]]
Open = Callable[..., RecordingFile]
Read = Callable[..., NDArray[np.float32]]


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]
)
def test_implicit_explicit_and_big_endian_files_are_read(
    syntax: str, writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    recording = opened(writers.write_dicom(counts, fs=250, syntax=syntax))
    np.testing.assert_allclose(read(recording), counts["II"] * 0.005, atol=1e-6)


def test_samples_are_those_that_pydicom_decodes(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    content = writers.write_dicom(counts, fs=500)
    dataset = pydicom.dcmread(io.BytesIO(content))
    expected = dataset.waveform_array(0)  # in the unit of each channel
    channels = dataset.WaveformSequence[0].ChannelDefinitionSequence
    units = [one.ChannelSensitivityUnitsSequence[0].CodeValue for one in channels]
    file = opened(content)
    assert len(file.leads) == len(units)
    for lead, unit, samples in zip(file.leads, units, expected.T, strict=True):
        np.testing.assert_allclose(read(file, lead.name), samples * UNIT_TO_MV[unit], atol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_ecg_class_is_read(
    number: int, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    sop_class = f"1.2.840.10008.5.1.4.1.1.9.1.{number}"
    assert opened(writers.write_dicom(counts, fs=250, sop_class=sop_class)).kind == "dicom"


@pytest.mark.parametrize(
    "sop_class",
    ["1.2.840.10008.5.1.4.1.1.9.2.1", "1.2.840.10008.5.1.4.1.1.9.7.1", "1.2.840.10008.5.1.4.1.1.2"],
)
def test_pressures_eeg_and_images_are_refused(
    sop_class: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises(UnsupportedRecordError, match="must be a 12-lead, general or ambulatory"):
        opened(writers.write_dicom(counts, fs=250, sop_class=sop_class))


def test_compressed_files_are_refused_before_they_unpack(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = writers.write_dicom(counts, fs=250)
    # Deflated: the identifier has the length of the one that it replaces, with a zero at its end.
    start = content.index(b"1.2.840.10008.1.2.1\0")
    deflated = content[: start - 2] + struct.pack("<H", 22) + b"1.2.840.10008.1.2.1.99"
    with pytest.raises(UnsupportedRecordError, match="without compression"):
        opened(deflated + content[start + 20 :])


def test_padding_samples_are_missing(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    two = counts["II"].copy()
    two[300:400] = -9999
    content = writers.write_dicom(
        {"II": two}, fs=250, WaveformPaddingValue=struct.pack("<h", -9999)
    )
    is_missing = np.isnan(read(opened(content)))
    assert np.flatnonzero(is_missing).tolist() == list(range(300, 400))


def test_sensitivity_correction_and_baseline_give_millivolts(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    group = writers.make_dicom_group({"II": counts["II"]}, fs=250, gain_uv=4)
    channel = group.ChannelDefinitionSequence[0]
    channel.ChannelSensitivityCorrectionFactor = 1.25
    channel.ChannelBaseline = -300
    content = writers.write_dicom(
        {"II": counts["II"]}, fs=250, ChannelDefinitionSequence=group.ChannelDefinitionSequence
    )
    np.testing.assert_allclose(read(opened(content)), counts["II"] * 0.005 - 0.3, atol=1e-6)


@pytest.mark.parametrize(("unit", "scale"), [("uV", 1e-3), ("mV", 1.0), ("nV", 1e-6)])
def test_the_unit_of_a_channel_is_heeded(
    unit: str, scale: float, writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    group = writers.make_dicom_group({"II": counts["II"] // 100}, fs=250, gain_uv=5)
    channels = group.ChannelDefinitionSequence
    channels[0].ChannelSensitivityUnitsSequence[0].CodeValue = unit
    content = writers.write_dicom(
        {"II": counts["II"] // 100}, fs=250, ChannelDefinitionSequence=channels
    )
    np.testing.assert_allclose(read(opened(content)), counts["II"] // 100 * 5 * scale, rtol=1e-6)


def test_a_pressure_beside_the_ecg_is_not_a_lead(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    group = writers.make_dicom_group(counts, fs=250)
    channels = group.ChannelDefinitionSequence
    channels[0].ChannelSensitivityUnitsSequence[0].CodeValue = "mm[Hg]"
    content = writers.write_dicom(counts, fs=250, ChannelDefinitionSequence=channels)
    assert [lead.name for lead in opened(content).leads] == ["II"]
    channels[1].ChannelSensitivityUnitsSequence[0].CodeValue = "1"
    content = writers.write_dicom(counts, fs=250, ChannelDefinitionSequence=channels)
    with pytest.raises(UnsupportedRecordError, match="must hold an ECG lead in volts"):
        opened(content)


def test_the_averaged_beat_beside_the_recording_is_left_out(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    beat = {name: values[:300] * 2 for name, values in counts.items()}
    for originality in ("DERIVED", "ORIGINAL"):
        group = writers.make_dicom_group(beat, fs=250)
        group.WaveformOriginality = originality
        recording = opened(writers.write_dicom(counts, fs=250, more_groups=[group]))
        assert [lead.n_samples for lead in recording.leads] == [5000, 5000]
        np.testing.assert_allclose(read(recording), counts["II"] * 0.005, atol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "code", "meaning", "name"),
    [
        ("MDC", "2:2", "Lead II", "II"),
        ("MDC", "131073", "x", "I"),
        ("SCPECG", "5.6.3-9-63", "x", "aVL"),
        ("99X", "1", "Lead V4 (chest)", "V4"),
        ("99X", "1", "", "lead1"),
    ],
)
def test_leads_are_named_by_their_codes_or_what_those_mean(
    scheme: str,
    code: str,
    meaning: str,
    name: str,
    writers: ModuleType,
    counts: Counts,
    opened: Open,
) -> None:
    group = writers.make_dicom_group({"II": counts["II"]}, fs=250)
    source = group.ChannelDefinitionSequence[0].ChannelSourceSequence[0]
    source.CodingSchemeDesignator, source.CodeValue, source.CodeMeaning = scheme, code, meaning
    content = writers.write_dicom(
        {"II": counts["II"]}, fs=250, ChannelDefinitionSequence=group.ChannelDefinitionSequence
    )
    assert opened(content).leads[0].name == name


@pytest.mark.parametrize(
    ("interpretation", "dtype"), [("SS", "<i2"), ("US", "<u2"), ("SL", "<i4"), ("SB", "i1")]
)
def test_each_format_of_samples_is_read(
    interpretation: str, dtype: str, writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    values = np.abs(counts["II"]) // 10
    content = writers.write_dicom(
        {"II": values},
        fs=250,
        WaveformSampleInterpretation=interpretation,
        WaveformBitsAllocated=8 * np.dtype(dtype).itemsize,
        WaveformData=values.astype(dtype).tobytes(),
    )
    np.testing.assert_allclose(read(opened(content)), values * 0.005, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"WaveformSampleInterpretation": "MB"}, UnsupportedRecordError, "must be one of SB"),
        ({"WaveformBitsAllocated": 8}, CorruptRecordError, "must have 16 bits"),
        ({"NumberOfWaveformSamples": 5001}, CorruptRecordError, "cut off"),
        ({"NumberOfWaveformSamples": 2**32 - 1}, CorruptRecordError, "cut off"),
        ({"NumberOfWaveformSamples": 0}, CorruptRecordError, "describe its samples"),
        ({"NumberOfWaveformChannels": 3}, CorruptRecordError, "says 3 and describes 2"),
        ({"SamplingFrequency": None}, CorruptRecordError, "must be a number"),
        ({"SamplingFrequency": "-250"}, CorruptRecordError, "must be numbers"),
    ],
)
def test_contradictions_are_refused(
    changes: dict[str, Any],
    error: type[Exception],
    match: str,
    writers: ModuleType,
    counts: Counts,
    opened: Open,
) -> None:
    with pytest.raises(error, match=match):
        opened(writers.write_dicom(counts, fs=250, **changes))


@pytest.mark.parametrize("is_undefined", [True, False])
def test_a_file_of_countless_elements_is_refused_in_bounded_memory(
    is_undefined: bool,  # noqa: FBT001
    writers: ModuleType,
    counts: Counts,
    opened: Open,
) -> None:
    item = Dataset()
    item.CodeValue = "x"
    channels = Sequence([item] * 60_000)
    channels.is_undefined_length = is_undefined
    content = writers.write_dicom(counts, fs=250, ChannelDefinitionSequence=channels)
    with pytest.raises(CorruptRecordError, match=r"at most 100000 elements|cut off or damaged"):
        opened(content)


def test_sequences_nested_without_end_are_refused(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = writers.write_dicom(counts, fs=250)
    start = content.index(b"\x00\x54\x00\x01SQ")
    nested = b"\x00\x54\x00\x01SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    with pytest.raises(CorruptRecordError):
        opened(content[:start] + nested)


def test_a_value_of_half_a_number_is_refused(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = writers.write_dicom(counts, fs=250)
    number = b"\x3a\x00\x05\x00US"  # the number of channels
    start = content.index(number) + len(number)
    with pytest.raises(CorruptRecordError, match="cut off or damaged"):
        opened(content[:start] + b"\x03\x00" + content[start + 2 :])
