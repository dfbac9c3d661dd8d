"""Write what ECG devices export, by the texts of the formats and not by our readers.

Every writer takes counts, shape ``(n_samples,)``, by the name of the lead. Every file names a
person, :data:`PERSON`, where its format has a place for one.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PERSON: Final = "Mustermann"
Counts = Mapping[str, NDArray[np.integer]]

_MDC: Final = {"I": 1, "II": 2, "V1": 3, "V2": 4, "III": 61, "aVR": 62, "aVL": 63, "aVF": 64}
_ISHNE: Final = {"X": 2, "I": 5, "II": 6, "III": 7, "aVR": 8, "V1": 11, "V2": 12, "V5": 15}


def write_dicom(
    leads: Counts,
    *,
    fs: float,
    gain_uv: float = 5.0,
    sop_class: str = "1.2.840.10008.5.1.4.1.1.9.1.1",
    syntax: str = "1.2.840.10008.1.2.1",
    more_groups: Sequence[Any] = (),
    **changes: Any,  # noqa: ANN401  elements of the first channel group, by keyword
) -> bytes:
    """Write a DICOM waveform by pydicom."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence as DicomSequence

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = PERSON
    dataset.PatientID = PERSON
    dataset.AcquisitionDateTime = "20260102134501.250000+0100"
    group = make_dicom_group(leads, fs=fs, gain_uv=gain_uv, is_big=syntax.endswith("1.2.2"))
    for keyword, value in changes.items():
        setattr(group, keyword, value)
    dataset.WaveformSequence = DicomSequence([group, *more_groups])
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def make_dicom_group(
    leads: Counts, *, fs: float, gain_uv: float = 5.0, is_big: bool = False
) -> Any:  # noqa: ANN401  pydicom is loaded when it is needed
    """Make a multiplex group."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as DicomSequence

    group = Dataset()
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformChannels = len(leads)
    group.NumberOfWaveformSamples = len(next(iter(leads.values())))
    group.SamplingFrequency = fs
    channels = []
    for name in leads:
        source, unit, channel = Dataset(), Dataset(), Dataset()
        source.CodeValue = f"2:{_MDC[name]}" if name in _MDC else name
        source.CodingSchemeDesignator = "MDC" if name in _MDC else "99LOCAL"
        source.CodeMeaning = f"Lead {name} (Einthoven)"
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "uV", "UCUM", "microvolt"
        channel.ChannelSourceSequence = DicomSequence([source])
        channel.ChannelSensitivity = gain_uv
        channel.ChannelSensitivityUnitsSequence = DicomSequence([unit])
        channel.ChannelSensitivityCorrectionFactor = 1
        channel.ChannelBaseline = 0
        channel.WaveformBitsStored = 16
        channels.append(channel)
    group.ChannelDefinitionSequence = DicomSequence(channels)
    group.WaveformBitsAllocated = 16
    group.WaveformSampleInterpretation = "SS"
    samples = np.stack(list(leads.values()), axis=1)
    group.WaveformData = samples.astype(">i2" if is_big else "<i2").tobytes()
    return group


def write_ishne(
    leads: Counts,
    *,
    fs: int,
    gain_nv: int = 5000,
    variable: bytes = b"",
    n_samples: int | None = None,
    check_sum: int | None = None,
) -> bytes:
    """Write ISHNE Holter 1.0, Table 1 of Badilini 1998."""
    n_leads, length = len(leads), len(next(iter(leads.values())))
    absent = [-9] * (12 - n_leads)
    header = struct.pack(
        "<iiiih",
        len(variable),
        length if n_samples is None else n_samples,
        522,
        522 + len(variable),
        1,
    )
    header += PERSON.encode().ljust(40, b"\0") * 2 + PERSON.encode().ljust(20, b"\0")
    header += struct.pack("<hh", 1, 1) + struct.pack("<hhh", 1, 2, 1950)
    header += struct.pack("<hhh", 2, 1, 2026) * 2 + struct.pack("<hhh", 13, 45, 1)
    header += struct.pack("<h", n_leads)
    header += struct.pack("<12h", *(_ISHNE.get(name, 0) for name in leads), *absent)
    header += struct.pack("<12h", *[1] * n_leads, *absent)
    header += struct.pack("<12h", *[gain_nv] * n_leads, *absent)
    header += struct.pack("<h", 0) + b"digital".ljust(40, b"\0") + struct.pack("<h", fs)
    header = header.ljust(512, b"\0") + variable
    total = binascii.crc_hqx(header, 0xFFFF) if check_sum is None else check_sum
    samples = np.stack(list(leads.values()), axis=1).astype("<i2")
    return b"ISHNE1.0" + struct.pack("<H", total) + header + samples.tobytes()


_ATC_BLOCKS: Final = dict(
    zip(
        "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split(),
        ("ecg ", *(f"ecg{digit}" for digit in "23456789abc")),
        strict=True,
    )
)


def write_atc(
    leads: Counts, *, fs: int, gain_nv: int = 5000, sums: str = "crc", kind: int = 1
) -> bytes:
    """Write ATC of Kardia, specification 1.7 of AliveCor."""

    def block(name: str, content: bytes) -> bytes:
        whole = name.encode() + struct.pack("<I", len(content)) + content
        total = {"crc": zlib.crc32(whole), "sum": sum(whole), "none": 0, "wrong": 1}[sums]
        return whole + struct.pack("<I", total)

    info = b"2026-03-14T13:45:01.245+10:00".ljust(32, b"\0") + b"Mustermann".ljust(232, b"\0")
    blocks = [block("info", info), block("fmt ", struct.pack("<BHHBH", kind, fs, gain_nv, 14, 0))]
    blocks += [
        block(_ATC_BLOCKS[name], samples.astype("<i2").tobytes())
        for name, samples in leads.items()
        if name in _ATC_BLOCKS
    ]
    blocks.append(block("avg ", np.zeros(450, dtype="<i2").tobytes()))
    return b"ALIVE\0\0\0" + struct.pack("<I", 5) + b"".join(blocks)


def mend_ishne(content: bytes) -> bytes:
    """Write the checksum that the header should have."""
    data_at = int.from_bytes(content[22:26], "little")
    return (
        content[:8]
        + struct.pack("<H", binascii.crc_hqx(content[10:data_at], 0xFFFF))
        + (content[10:])
    )


_SCP: Final = {**_MDC, "V3": 5, "V4": 6, "V5": 7, "V6": 8}


def write_scp(
    leads: Counts,
    *,
    fs: float,
    gain_nv: int = 5000,
    order: int = 0,
    table: bytes | None = None,
    flags: int = 4,
    bimodal: int = 0,
    changes: Mapping[int, bytes] | None = None,
) -> bytes:
    """Write SCP-ECG; with `table`, the data of section 2, samples are in the default codes."""
    count = len(next(iter(leads.values())))
    packed = []
    for counts in leads.values():
        values = counts.astype(np.int64)
        # The first `order` samples stay as they are.
        values = np.concatenate([values[:order], np.diff(values, n=order)])
        is_plain = table is None
        packed.append(values.astype("<i2").tobytes() if is_plain else encode_huffman(values))
    spans = b"".join(struct.pack("<IIB", 1, count, _SCP[name]) for name in leads)
    lengths = struct.pack(f"<{len(packed)}H", *map(len, packed))
    start = struct.pack("<HHBB", gain_nv, round(1e6 / fs), order, bimodal)
    name = PERSON.encode() + b"\0"
    sections = {
        1: b"\x00" + struct.pack("<H", len(name)) + name
        + b"\x1a" + struct.pack("<HBBB", 3, 13, 45, 1) + b"\xff\0\0",
        3: bytes([len(leads), flags | len(leads) << 3]) + spans,
        6: start + lengths + b"".join(packed),
        **({2: table} if table is not None else {}),
        **(changes or {}),
    }  # fmt: skip
    return make_scp(sections)


def make_scp(sections: Mapping[int, bytes]) -> bytes:
    """Put sections into a record."""
    data_at = 6 + 16 + 10 * 12
    pointers, body = {}, b""
    for number, data in sorted(sections.items()):
        whole = _scp_section(number, data)
        pointers[number] = (len(whole), data_at + len(body) + 1)
        body += whole
    listed = struct.pack("<HII", 0, 16 + 10 * 12, 7)
    for number in range(1, 12):
        listed += struct.pack("<HII", number, *pointers.get(number, (0, 0)))
    content = _scp_section(0, listed, reserved=b"SCPECG") + body
    return mend_scp(b"\0\0" + struct.pack("<I", 6 + len(content)) + content)


def _scp_section(number: int, data: bytes, *, reserved: bytes = b"\0" * 6) -> bytes:
    data += b"\0" * (len(data) % 2)
    rest = struct.pack("<HIBB", number, 16 + len(data), 20, 20) + reserved + data
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def mend_scp(content: bytes) -> bytes:
    """Write the checksum that the record should have."""
    length = int.from_bytes(content[2:6], "little")
    return struct.pack("<H", binascii.crc_hqx(content[2:length], 0xFFFF)) + content[2:]


def encode_huffman(values: NDArray[np.int64]) -> bytes:
    """Encode by the default table of EN 1064, C.3.7.6."""
    bits = []
    for value in values.tolist():
        if abs(value) <= 8:
            bits.append("0" if value == 0 else "1" * abs(value) + ("00" if value > 0 else "01"))
        elif -128 <= value < 128:
            bits.append("1111111110" + format(value & 0xFF, "08b"))
        else:
            bits.append("1111111111" + format(value & 0xFFFF, "016b"))
    joined = "".join(bits)
    joined += "0" * (-len(joined) % 8)
    return int(joined, 2).to_bytes(len(joined) // 8)


def write_aecg(
    leads: Mapping[str, NDArray[np.integer] | Sequence[str]],
    *,
    fs: float,
    gain_uv: float = 5.0,
    increment: str | None = None,
    prolog: str = "",
) -> bytes:
    """Write HL7 aECG."""
    time = (
        f'<component><sequence><code code="TIME_ABSOLUTE"/><value xsi:type="GLIST_TS"><head '
        f'value="20260102134501.250"/>{increment or _increment(fs)}</value></sequence></component>'
    )
    sequences = "".join(
        f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper()}" '
        f'codeSystem="2.16.840.1.113883.6.24"/><value xsi:type="SLIST_PQ"><origin value="0" '
        f'unit="uV"/><scale value="{gain_uv}" unit="uV"/><digits>'
        f"{' '.join(map(str, counts))}</digits></value></sequence></component>"
        for name, counts in leads.items()
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{prolog}<AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><componentOf><subject>'
        f"<name>{PERSON}</name></subject></componentOf><component><series><effectiveTime>"
        '<low value="20260102134501.250"/></effectiveTime><component><sequenceSet>'
        f"{time}{sequences}</sequenceSet></component><derivation><derivedSeries><component>"
        '<sequenceSet><component><sequence><code code="MDC_ECG_LEAD_II"/></sequence></component>'
        "</sequenceSet></component></derivedSeries></derivation></series></component>"
        "</AnnotatedECG>"
    ).encode()


def _increment(fs: float) -> str:
    return f'<increment value="{1 / fs:.6f}" unit="s"/>'


def write_muse(
    leads: Counts, *, fs: int, gain_uv: float = 4.88, median: Counts | None = None
) -> bytes:
    """Write the XML of GE MUSE."""
    waveforms = _muse_waveform("Rhythm", leads, fs=fs, gain_uv=gain_uv)
    if median is not None:
        waveforms = _muse_waveform("Median", median, fs=fs, gain_uv=gain_uv) + waveforms
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>'
        '<!DOCTYPE RestingECG SYSTEM "restecg.dtd">'
        f"<RestingECG><PatientDemographics><PatientLastName>{PERSON}</PatientLastName>"
        "</PatientDemographics><TestDemographics><AcquisitionTime>13:45:01</AcquisitionTime>"
        f"</TestDemographics>{waveforms}</RestingECG>"
    ).encode("latin-1")


def _muse_waveform(kind: str, leads: Counts, *, fs: int, gain_uv: float) -> str:
    data = "".join(
        f"<LeadData><LeadByteCountTotal>{2 * len(counts)}</LeadByteCountTotal>"
        f"<LeadSampleCountTotal>{len(counts)}</LeadSampleCountTotal>"
        f"<LeadAmplitudeUnitsPerBit>{gain_uv}</LeadAmplitudeUnitsPerBit>"
        f"<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadID>{name}</LeadID>"
        "<LeadOffsetFirstSample>0</LeadOffsetFirstSample><LeadSampleSize>2</LeadSampleSize>"
        f"<WaveFormData>\n{_base64(counts.astype('<i2').tobytes())}\n</WaveFormData></LeadData>"
        for name, counts in leads.items()
    )
    return (
        f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{fs}</SampleBase>"
        f"<SampleExponent>0</SampleExponent>{data}</Waveform>"
    )


def _base64(packed: bytes) -> str:
    return base64.encodebytes(packed).decode()


def write_philips(
    leads: Counts,
    *,
    fs: int,
    gain_uv: float = 5.0,
    packed: bytes | None = None,
    method: str = 'compression="XLI"',
) -> bytes:
    """Write Philips XML; `packed` are the bytes of the waveforms, plain ones when left out."""
    count = len(next(iter(leads.values())))
    if packed is None:
        method = ""
        packed = b"".join(counts.astype("<i2").tobytes() for counts in leads.values())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<restingecgdata xmlns="http://www3.medical.philips.com"><documentinfo>'
        "<documentversion>1.04</documentversion></documentinfo>"
        '<dataacquisition date="2026-01-02" time="13:45:01"><signalcharacteristics>'
        f"<samplingrate>{fs}</samplingrate><resolution>{gain_uv}</resolution>"
        "<bitspersample>16</bitspersample></signalcharacteristics></dataacquisition>"
        f"<patient><lastname>{PERSON}</lastname></patient><waveforms><parsedwaveforms "
        f'dataencoding="Base64" {method} durationperchannel="{round(1000 * count / fs)}" '
        f'numberofleads="{len(leads)}" leadlabels="{" ".join(leads)}">{_base64(packed)}'
        "</parsedwaveforms></waveforms></restingecgdata>"
    ).encode()


def pack_xli(leads: Sequence[NDArray[np.int64]]) -> bytes:
    """Pack leads by XLI, each in a chunk."""
    packed = b""
    for samples in leads:
        x = samples.tolist()
        differences = [2 * x[n - 1] - x[n - 2] - x[n] for n in range(2, len(x))]
        # The second difference of sample n is stored at n - 1; the first one is in the header.
        words = [x[0], x[1], *(difference + 64 for difference in differences[1:]), 64]
        raw = np.array(words).astype(">i2").tobytes()
        codes = _pack_codes(raw[::2] + raw[1::2])
        packed += struct.pack("<IHh", len(codes), 1, differences[0]) + codes
    return packed


def _pack_codes(raw: bytes) -> bytes:
    words = {bytes([number]): number for number in range(256)}
    codes, word = [], b""
    for byte in raw:
        longer = word + bytes([byte])
        if longer in words:
            word = longer
            continue
        codes.append(words[word])
        if len(words) < 1023:
            words[longer] = len(words)
        word = bytes([byte])
    codes += [words[word], 1023]
    bits = "".join(format(code, "010b") for code in codes)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)
