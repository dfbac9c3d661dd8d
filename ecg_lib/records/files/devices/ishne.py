"""Read ISHNE Holter 1.0 files.

The format is that of Badilini 1998, "The ISHNE Holter Standard Output File Format", DOI
10.1111/j.1542-474X.1998.tb00353.x: a magic number, a checksum (CRC-CCITT) of the header, a header
of 512 bytes, a block of variable length, and interleaved 16-bit samples. The fields of the subject
and the variable block are never read. Deviations: files without a checksum (0) are read; the number
of samples may be that of a lead or of all leads together, because writers do both; and a sample of
-32768, which no converter gives, is missing.
"""

from __future__ import annotations

import binascii
import struct
from pathlib import Path
from typing import Final

import numpy as np

from ecg_lib.errors import CorruptRecordError
from ecg_lib.records.files.devices.device_file import (
    DeviceFile,
    DeviceLead,
    make_device_file,
)

MAGIC: Final = b"ISHNE1.0"

_FIXED_BYTES: Final = 522
_MAX_HEADER_BYTES: Final = 2**20
_MAX_LEADS: Final = 12
_NAMES: Final = dict(
    enumerate("X Y Z I II III aVR aVL aVF V1 V2 V3 V4 V5 V6 ES AS AI".split(), start=2)
)


def read_ishne(path: Path) -> DeviceFile:
    """Read the header of a file, and map its samples.

    Raises
    ------
    CorruptRecordError
        If the header is damaged, or the file is shorter than it says.

    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_FIXED_BYTES)
        if len(header) < _FIXED_BYTES or not header.startswith(MAGIC):
            msg = f"an ISHNE file must begin with {_FIXED_BYTES} bytes of header, it is cut off"
            raise CorruptRecordError(msg)
        stated, _, data_at = struct.unpack_from("<iii", header, 14)
        if not _FIXED_BYTES <= data_at <= min(size, _MAX_HEADER_BYTES):
            msg = f"the samples of an ISHNE file must begin in it, it says at byte {data_at}"
            raise CorruptRecordError(msg)
        _check_sum(header + file.read(data_at - _FIXED_BYTES))
    n_leads, *others = struct.unpack_from("<37h", header, 156)
    (rate_hz,) = struct.unpack_from("<h", header, 272)
    codes, resolutions_nv = others[:12], others[24:36]
    if not 1 <= n_leads <= _MAX_LEADS:
        msg = f"an ISHNE file must have 1 to {_MAX_LEADS} leads, it says {n_leads}"
        raise CorruptRecordError(msg)
    if rate_hz <= 0 or min(resolutions_nv[:n_leads]) <= 0:
        msg = "the sampling rate and resolutions of an ISHNE file must be above 0, one is not"
        raise CorruptRecordError(msg)
    n_samples = _count_samples(stated, n_leads, (size - data_at) // 2)
    samples = np.memmap(path, dtype="<i2", mode="r", offset=data_at, shape=(n_samples, n_leads))
    return make_device_file(
        "ishne",
        [
            DeviceLead(
                name=_name(codes, number),
                fs=float(rate_hz),
                samples=samples[:, number],
                gain_mv=resolutions_nv[number] * 1e-6,
            )
            for number in range(n_leads)
        ],
        start_clock_s=_clock(*struct.unpack_from("<hhh", header, 150)),
    )


def _check_sum(header: bytes) -> None:
    stated = int.from_bytes(header[8:10], "little")
    if stated not in {0, binascii.crc_hqx(header[10:], 0xFFFF)}:
        msg = "the checksum of the ISHNE header must match its bytes, the header is damaged"
        raise CorruptRecordError(msg)


def _count_samples(stated: int, n_leads: int, held: int) -> int:
    """Count the samples of a lead, by what the header says and what the file holds."""
    if 0 < stated * n_leads <= held:
        return stated
    if stated > 0 and stated % n_leads == 0 and stated <= held < stated + n_leads:
        return stated // n_leads
    if stated <= 0 and held >= n_leads:  # the recorder did not get to write it
        return held // n_leads
    msg = f"the ISHNE file must hold {stated} samples, it holds {held} of all leads; it is cut off"
    raise CorruptRecordError(msg)


def _name(codes: list[int], number: int) -> str:
    """Name a lead by its code; those that say nothing, or the same as another, by number."""
    name = _NAMES.get(codes[number])
    return name if name and codes.index(codes[number]) == number else f"lead{number + 1}"


def _clock(hour: int, minute: int, second: int) -> float | None:
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return None
    return 3600.0 * hour + 60.0 * minute + second
