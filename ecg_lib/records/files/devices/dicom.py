"""Read DICOM waveforms: 12-lead, general, general 32-bit and ambulatory ECG (PS3.3 A.34, C.10.9).

pydicom reads the elements; asked for are the waveform, its kind and the time of acquisition, so the
modules of the patient are skipped. How much pydicom may read is counted, because the length of a
file does not bound what is made of it.
"""

from __future__ import annotations

import mmap
import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, EcgError, UnsupportedRecordError
from ecg_lib.records.files.devices.device_file import (
    LEAD_NAMES,
    MISSING_16,
    DeviceFile,
    DeviceLead,
    check_size,
    make_device_file,
    name_lead,
    read_clock,
    read_count,
    read_number,
    scale_of,
)
from ecg_lib.records.limits import MAX_SIGNALS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAGIC: Final = b"DICM"
MAGIC_AT: Final = 128
MAX_DICOM_BYTES: Final = 256 * 2**20

_MAX_READS: Final = 100_000
_IMPLICIT: Final = "1.2.840.10008.1.2"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_SYNTAXES: Final = (_IMPLICIT, "1.2.840.10008.1.2.1", _BIG_ENDIAN)
_ECG_CLASSES: Final = tuple(f"1.2.840.10008.5.1.4.1.1.9.1.{number}" for number in (1, 2, 3, 4))
_FORMATS: Final = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4"}

_SOP_CLASS: Final = 0x0008_0016
_ACQUIRED_AT: Final = 0x0008_002A
_WAVEFORMS: Final = 0x5400_0100
_WAVEFORM_DATA: Final = 0x5400_1010
_PADDING: Final = 0x5400_100A
_CHANNELS: Final = 0x003A_0200
_CHANNEL_SOURCE: Final = 0x003A_0208
_CHANNEL_UNITS: Final = 0x003A_0211

# Errors of pydicom at damaged files have no common base; its own errors come on top.
_DAMAGE: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    EOFError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class _Counted:
    """A source that is read a bounded number of times."""

    def __init__(self, source: mmap.mmap | BytesIO, left: list[int]) -> None:
        self._source = source
        self._left = left
        self.seek, self.tell = source.seek, source.tell

    def read(self, size: int = -1) -> bytes:
        self._left[0] -= 1
        if self._left[0] < 0:
            msg = f"a DICOM file must have at most {_MAX_READS} elements, this one has more"
            raise CorruptRecordError(msg)
        return self._source.read(size)


def read_dicom(path: Path) -> DeviceFile:
    """Read the leads of a file.

    Raises
    ------
    UnsupportedRecordError
        If it is not an ECG waveform, or is encoded in a way that is not read here.
    CorruptRecordError
        If it is damaged.
    RecordTooLongError
        If it is too large.

    """
    from pydicom.errors import BytesLengthException, InvalidDicomError  # noqa: PLC0415  half a second

    check_size(path, MAX_DICOM_BYTES, "DICOM")
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            return _read(mapped)
    except EcgError:
        raise
    except (*_DAMAGE, BytesLengthException, InvalidDicomError) as error:
        msg = "the DICOM file must hold whole elements, it is cut off or damaged"
        raise CorruptRecordError(msg) from error


def _read(mapped: mmap.mmap) -> DeviceFile:
    from pydicom import config  # noqa: PLC0415  half a second, which other files need not wait
    from pydicom.filereader import read_dataset  # noqa: PLC0415  see above

    # Values that break the rules of their type are checked here, and warn nobody.
    config.settings.reading_validation_mode = config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    left = [_MAX_READS]
    source: Any = _Counted(mapped, left)
    source.seek(MAGIC_AT + len(MAGIC))
    meta = read_dataset(
        source,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
    )
    syntax = str(meta.get("TransferSyntaxUID"))
    if syntax not in _SYNTAXES:
        msg = "a DICOM file must be stored without compression, this one is not; export it again"
        raise UnsupportedRecordError(msg)
    dataset = read_dataset(
        source,
        is_implicit_VR=syntax == _IMPLICIT,
        is_little_endian=syntax != _BIG_ENDIAN,
        specific_tags=[_SOP_CLASS, _ACQUIRED_AT, _WAVEFORMS],
    )
    if str(dataset.get("SOPClassUID")) not in _ECG_CLASSES:
        msg = "a DICOM file must be a 12-lead, general or ambulatory ECG, this one is another"
        raise UnsupportedRecordError(msg)
    groups = _items(dataset, _WAVEFORMS, left)
    originals = [group for group in groups if group.get("WaveformOriginality") != "DERIVED"]
    order = ">" if syntax == _BIG_ENDIAN else "<"
    return make_device_file(
        "dicom",
        [lead for group in originals or groups for lead in _read_group(group, order, left)],
        start_clock_s=read_clock(str(dataset.get("AcquisitionDateTime") or "")),
    )


def _items(dataset: Dataset, tag: int, left: list[int]) -> list[Dataset]:
    """Give the items of a sequence; one of known length is parsed here, so that it is counted."""
    from pydicom.dataelem import RawDataElement  # noqa: PLC0415  see above
    from pydicom.filereader import read_sequence  # noqa: PLC0415  see above

    if tag not in dataset:
        return []
    element: Any = dataset.get_item(tag)
    if not isinstance(element, RawDataElement):
        return list(element.value)
    packed = element.value or b""
    source: Any = _Counted(BytesIO(packed), left)
    return list(
        read_sequence(
            source,
            is_implicit_VR=element.is_implicit_VR,
            is_little_endian=element.is_little_endian,
            bytelength=len(packed),
            encoding="iso8859",
        )
    )


def _read_group(group: Dataset, order: str, left: list[int]) -> list[DeviceLead]:
    """Give the leads of a multiplex group, whose channels are sampled together."""
    n_channels = read_count(group.get("NumberOfWaveformChannels"), "number of DICOM channels")
    n_samples = read_count(group.get("NumberOfWaveformSamples"), "number of DICOM samples")
    channels = _items(group, _CHANNELS, left)
    if not 1 <= n_channels <= MAX_SIGNALS or len(channels) != n_channels or n_samples == 0:
        msg = (
            f"a DICOM waveform must describe its samples and 1 to {MAX_SIGNALS} channels, "
            f"this one says {n_channels} and describes {len(channels)}"
        )
        raise CorruptRecordError(msg)
    stored = _format_of(group, order)
    data = _raw(group, _WAVEFORM_DATA)
    if len(data) < n_samples * n_channels * stored.itemsize:
        msg = f"the DICOM waveform must hold {n_samples} samples of each channel, it is cut off"
        raise CorruptRecordError(msg)
    samples = np.frombuffer(data, stored, n_samples * n_channels).reshape(n_samples, n_channels)
    padding = _raw(group, _PADDING)[: stored.itemsize]
    missing = (MISSING_16,) if stored.kind == "i" and stored.itemsize == 2 else ()
    if len(padding) == stored.itemsize:
        missing = (int(np.frombuffer(padding, stored)[0]),)
    fs = read_number(group.get("SamplingFrequency"), "sampling frequency of the DICOM waveform")
    leads = [
        _read_channel(channel, samples[:, number], number, fs=fs, missing=missing, left=left)
        for number, channel in enumerate(channels)
    ]
    return [lead for lead in leads if lead is not None]


def _format_of(group: Dataset, order: str) -> np.dtype[Any]:
    interpretation = str(group.get("WaveformSampleInterpretation"))
    if interpretation not in _FORMATS:
        known = ", ".join(_FORMATS)
        msg = f"the samples of a DICOM waveform must be one of {known}, these are not"
        raise UnsupportedRecordError(msg)
    stored = np.dtype(order + _FORMATS[interpretation])
    bits = read_count(group.get("WaveformBitsAllocated"), "bits of a DICOM sample")
    if bits != 8 * stored.itemsize:
        msg = f"DICOM samples of {interpretation} must have {8 * stored.itemsize} bits, got {bits}"
        raise CorruptRecordError(msg)
    return stored


def _raw(group: Dataset, tag: int) -> bytes:
    value = group.get_item(tag).value if tag in group else b""
    return value if isinstance(value, bytes) else b""


def _read_channel(
    channel: Dataset,
    samples: NDArray[np.number],
    number: int,
    *,
    fs: float,
    missing: tuple[int, ...],
    left: list[int],
) -> DeviceLead | None:
    """Give the lead of a channel, None when it is not a voltage."""
    units = _items(channel, _CHANNEL_UNITS, left)
    scale = scale_of(str(units[0].get("CodeValue"))) if units else None
    if scale is None:
        return None
    sensitivity = read_number(channel.get("ChannelSensitivity"), "sensitivity of a DICOM channel")
    correction = channel.get("ChannelSensitivityCorrectionFactor")
    baseline = channel.get("ChannelBaseline")
    factor = 1.0 if correction is None else read_number(correction, "correction of a DICOM channel")
    offset = 0.0 if baseline is None else read_number(baseline, "baseline of a DICOM channel")
    return DeviceLead(
        name=_name(_items(channel, _CHANNEL_SOURCE, left), number),
        fs=fs,
        samples=samples,
        gain_mv=sensitivity * factor * scale,
        offset_mv=offset * scale,
        missing=missing,
    )


def _name(sources: list[Dataset], number: int) -> str:
    """Name a lead by the code of its source (MDC or SCP-ECG), or else by what the code means."""
    if not sources:
        return f"lead{number + 1}"
    code = str(sources[0].get("CodeValue") or "")
    scheme = str(sources[0].get("CodingSchemeDesignator") or "")
    last = code.replace("-", ":").rpartition(":")[2]
    if scheme in {"MDC", "SCPECG"} and last.isascii() and last.isdigit() and len(last) <= 6:
        # 131073 is 2:1 as one number.
        known = LEAD_NAMES.get(int(last) & 0xFFFF)
        if known is not None:
            return known
    return name_lead(str(sources[0].get("CodeMeaning") or "")) or f"lead{number + 1}"
