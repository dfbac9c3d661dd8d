"""Read ATC files, which Kardia (AliveCor) exports.

The layout is that of AliveCor's ATC File Format Specification 1.7 (2021): a signature, a version,
and blocks of an identifier, a length, content and a checksum. Only the format, the leads and the
time of the recording are read; identifiers of phone and recording are passed over. Deviation: the
checksum may be the CRC-32 of the specification or the sum of the bytes that recorders write, or 0.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.devices.device_file import (
    DeviceFile,
    DeviceLead,
    make_device_file,
    read_clock,
)

MAGIC: Final = b"ALIVE\x00\x00\x00"

_FIRST_BLOCK_AT: Final = 12
_MAX_BLOCKS: Final = 200
_MAX_BYTES: Final = 2**26
_SIGNED_16: Final = 1
_DATE_BYTES: Final = 32
_LEADS: Final = {
    b"ecg" + digit.encode(): name
    for digit, name in zip(
        " 23456789abc", "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split(), strict=True
    )
}


class _Format(NamedTuple):
    fs: float
    gain_mv: float


def read_atc(path: Path) -> DeviceFile:
    """Read the leads of a file.

    Raises
    ------
    CorruptRecordError
        If it is damaged or cut off, or too large for the strip of a phone.
    UnsupportedRecordError
        If its samples are not whole numbers of 16 bits.

    """
    if path.stat().st_size > _MAX_BYTES:
        msg = f"an ATC file must have at most {_MAX_BYTES} bytes, this one has more"
        raise CorruptRecordError(msg)
    blocks = _read_blocks(path.read_bytes())
    if b"fmt " not in blocks:
        msg = "an ATC file must have a block that states rate and resolution, it has none"
        raise CorruptRecordError(msg)
    fs, gain_mv = _read_format(blocks[b"fmt "])
    return make_device_file(
        "atc",
        [
            DeviceLead(
                name=name,
                fs=fs,
                samples=np.frombuffer(blocks[block][: len(blocks[block]) // 2 * 2], dtype="<i2"),
                gain_mv=gain_mv,
            )
            for block, name in _LEADS.items()
            if blocks.get(block)
        ],
        start_clock_s=read_clock(
            blocks.get(b"info", b"")[:_DATE_BYTES].partition(b"\x00")[0].decode("latin-1")
        ),
    )


def _read_blocks(content: bytes) -> dict[bytes, bytes]:
    """Read the blocks by their identifiers; of several with one identifier the first."""
    blocks: dict[bytes, bytes] = {}
    at = _FIRST_BLOCK_AT
    for _ in range(_MAX_BLOCKS):
        if at == len(content):
            return blocks
        head = content[at : at + 8]
        length = int.from_bytes(head[4:], "little")
        end = at + 8 + length
        if len(head) < 8 or end + 4 > len(content):
            msg = "the blocks of an ATC file must be whole, one is cut off"
            raise CorruptRecordError(msg)
        stated = int.from_bytes(content[end : end + 4], "little")
        block = content[at:end]
        if stated not in {0, zlib.crc32(block), sum(block) & 0xFFFFFFFF}:
            msg = "the checksum of an ATC block must match its bytes, a block is damaged"
            raise CorruptRecordError(msg)
        blocks.setdefault(head[:4], block[8:])
        at = end + 4
    msg = f"an ATC file must have at most {_MAX_BLOCKS} blocks, it has more"
    raise CorruptRecordError(msg)


def _read_format(block: bytes) -> _Format:
    if len(block) < 5:
        msg = "the format of an ATC file must have 5 bytes or more, it is cut off"
        raise CorruptRecordError(msg)
    kind, fs, resolution_nv = struct.unpack_from("<BHH", block)
    if kind != _SIGNED_16:
        msg = f"the samples of an ATC file must be of 16 bits (format 1), it says format {kind}"
        raise UnsupportedRecordError(msg)
    return _Format(float(fs), resolution_nv * 1e-6)
