"""Read SCP-ECG files (EN 1064 / ISO 11073-91064): the long-term rhythm data of section 6.

Samples are read as they are or as first or second differences, not compressed or in Huffman codes
(the default table, or one table of the file). Bimodal compression and subtraction of a reference
beat are refused: parts of such a signal have another rate, or rest on an averaged beat. Of section
1, which says whose the file is, only the time of acquisition is read.
"""

from __future__ import annotations

import binascii
import re
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.devices.device_file import (
    LEAD_NAMES,
    DeviceFile,
    DeviceLead,
    check_size,
    make_device_file,
)
from ecg_lib.records.limits import MAX_SIGNALS

MARK: Final = b"SCPECG"
MARK_AT: Final = 16
"""Where files since version 1.3 hold the mark, in the header of section 0."""

MAX_SCP_BYTES: Final = 16 * 2**20
MAX_SAMPLES: Final = 5_000_000
"""Of all leads together; a lead has 65,535 bytes at most."""

_RECORD_HEADER: Final = 6
_SECTION_HEADER: Final = 16
_DEFAULT_TABLE: Final = 19_999
_ACQUISITION_TIME: Final = 26
_END_OF_TAGS: Final = 255


class _Code(NamedTuple):
    """A Huffman code."""

    prefix: str
    """Its bits, ``0`` and ``1``."""
    value_bits: int
    """Bits of a value in two's complement behind the prefix; 0 when the code is a value."""
    value: int


class _Table(NamedTuple):
    """Codes, and an expression that finds one after another."""

    expression: re.Pattern[str]
    codes: tuple[_Code, ...]


def read_scp(path: Path) -> DeviceFile:
    """Read the leads of a file.

    Raises
    ------
    CorruptRecordError
        If a checksum, a length or a code is wrong.
    UnsupportedRecordError
        If it has no rhythm data, or is compressed in a way that is not read here.
    RecordTooLongError
        If it is too large.

    """
    check_size(path, MAX_SCP_BYTES, "SCP-ECG")
    sections = _split(path.read_bytes())
    if 3 not in sections or 6 not in sections:
        msg = "an SCP-ECG file must have leads and rhythm data (sections 3 and 6), it has not"
        raise UnsupportedRecordError(msg)
    spans = _read_leads(sections[3])
    rhythm = sections[6]
    if len(rhythm) < 6 + 2 * len(spans):
        msg = "section 6 of the SCP-ECG file must have a length for each lead, it is cut off"
        raise CorruptRecordError(msg)
    step_nv, interval_us, differences, is_bimodal = struct.unpack_from("<HHBB", rhythm)
    if is_bimodal:
        msg = (
            "SCP-ECG files with bimodal compression are not read; "
            "export without compression, or with Huffman codes only"
        )
        raise UnsupportedRecordError(msg)
    if step_nv == 0 or interval_us == 0 or differences > 2:
        msg = "section 6 of the SCP-ECG file must state its gain, rate and encoding, it does not"
        raise CorruptRecordError(msg)
    table = _read_table(sections[2]) if sections.get(2) else None
    at = 6 + 2 * len(spans)
    leads = []
    for (code, count), length in zip(
        spans, struct.unpack_from(f"<{len(spans)}H", rhythm, 6), strict=True
    ):
        packed = rhythm[at : at + length]
        at += length
        stored = _unpack(packed, count) if table is None else _decode(packed, count, table)
        leads.append(
            DeviceLead(
                name=LEAD_NAMES.get(code, f"SCP lead {code}"),
                fs=1e6 / interval_us,
                samples=_sum_differences(stored, differences),
                gain_mv=step_nv * 1e-6,
            )
        )
    return make_device_file("scp", leads, start_clock_s=_read_clock(sections.get(1, b"")))


def _split(content: bytes) -> Mapping[int, bytes]:
    """Give the data of each section, by its number."""
    if len(content) < _RECORD_HEADER + _SECTION_HEADER:
        msg = "an SCP-ECG file must begin with section 0, it is cut off"
        raise CorruptRecordError(msg)
    check_sum, length = struct.unpack_from("<HI", content)
    if not _RECORD_HEADER + _SECTION_HEADER <= length <= len(content):
        msg = f"the SCP-ECG file must have {length} bytes, it has {len(content)}; it is cut off"
        raise CorruptRecordError(msg)
    content = content[:length]
    if check_sum != binascii.crc_hqx(content[2:], 0xFFFF):
        msg = "the checksum of the SCP-ECG file must match its bytes, the file is damaged"
        raise CorruptRecordError(msg)
    sections: dict[int, bytes] = {}
    for number, size, index in struct.iter_unpack("<HII", _pointers(content)):
        if size == 0:
            continue
        section = content[index - 1 : index - 1 + size]
        is_whole = index > 0 and size >= _SECTION_HEADER and len(section) == size
        if not is_whole or struct.unpack_from("<HI", section, 2) != (number, size):
            msg = f"section {number} of the SCP-ECG file must be where section 0 says, it is not"
            raise CorruptRecordError(msg)
        sections[number] = section[_SECTION_HEADER:]
    return sections


def _pointers(content: bytes) -> bytes:
    number, size = struct.unpack_from("<HI", content, _RECORD_HEADER + 2)
    pointers = content[_RECORD_HEADER + _SECTION_HEADER : _RECORD_HEADER + size]
    if number != 0 or not _SECTION_HEADER < size <= len(content) - _RECORD_HEADER:
        msg = "an SCP-ECG file must begin with section 0, it does not"
        raise CorruptRecordError(msg)
    return pointers[: len(pointers) // 10 * 10]


def _read_leads(section: bytes) -> list[tuple[int, int]]:
    """Give the code and the number of samples of each lead."""
    n_leads = section[0] if section else 0
    if not 1 <= n_leads <= MAX_SIGNALS or len(section) < 2 + 9 * n_leads:
        msg = f"section 3 of the SCP-ECG file must describe 1 to {MAX_SIGNALS} leads, it does not"
        raise CorruptRecordError(msg)
    if section[1] & 1:
        msg = (
            "SCP-ECG files from which a reference beat was subtracted are not read; "
            "export without compression, or with Huffman codes only"
        )
        raise UnsupportedRecordError(msg)
    spans = []
    for first, last, code in struct.iter_unpack("<IIB", section[2 : 2 + 9 * n_leads]):
        spans.append((code, last - first + 1))
    if min(count for _, count in spans) < 1 or sum(count for _, count in spans) > MAX_SAMPLES:
        msg = f"the leads of an SCP-ECG file must have 1 to {MAX_SAMPLES} samples together"
        raise CorruptRecordError(msg)
    return spans


def _too_few(count: int) -> CorruptRecordError:
    msg = f"a lead of the SCP-ECG file must hold {count} samples, it is cut off"
    return CorruptRecordError(msg)


def _unpack(packed: bytes, count: int) -> NDArray[np.int64]:
    if len(packed) < 2 * count:
        raise _too_few(count)
    return np.frombuffer(packed, dtype="<i2", count=count).astype(np.int64)


def _sum_differences(stored: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Undo the differences; the first samples, as many as the order, are stored as they are."""
    if order == 0 or len(stored) < 2:
        return stored
    if order == 1:
        return np.cumsum(stored)
    steps = stored[1:].copy()
    steps[0] -= stored[0]
    return np.concatenate([stored[:1], stored[0] + np.cumsum(np.cumsum(steps))])


def _default_codes() -> Iterator[_Code]:
    """Make the default table: the more ones before the zero, the larger the difference."""
    yield _Code("0", 0, 0)
    for size in range(1, 9):
        yield _Code("1" * size + "00", 0, size)
        yield _Code("1" * size + "01", 0, -size)
    yield _Code("1" * 9 + "0", 8, 0)
    yield _Code("1" * 10, 16, 0)


def _read_table(section: bytes) -> _Table:
    """Read the table of Huffman codes."""
    (n_tables,) = struct.unpack_from("<H", section) if len(section) >= 2 else (0,)
    if n_tables == _DEFAULT_TABLE:
        return _make_table(tuple(_default_codes()))
    if n_tables != 1 or len(section) < 4:
        msg = f"an SCP-ECG file must use one table of Huffman codes, this one uses {n_tables}"
        raise UnsupportedRecordError(msg)
    (n_codes,) = struct.unpack_from("<H", section, 2)
    if not 1 <= n_codes <= 1024 or len(section) < 4 + 9 * n_codes:
        msg = "section 2 of the SCP-ECG file must hold 1 to 1024 codes, it is cut off"
        raise CorruptRecordError(msg)
    codes = []
    for prefix_bits, all_bits, mode, value, bits in struct.iter_unpack(
        "<BBBhI", section[4 : 4 + 9 * n_codes]
    ):
        if not 1 <= prefix_bits <= 32 or not 0 <= all_bits - prefix_bits <= 32 or mode != 1:
            msg = "a Huffman code of the SCP-ECG file must have 1 to 32 bits and switch no table"
            raise UnsupportedRecordError(msg)
        # The first bit of a code is the lowest of the number.
        prefix = format(bits & ((1 << prefix_bits) - 1), f"0{prefix_bits}b")[::-1]
        codes.append(_Code(prefix, all_bits - prefix_bits, value))
    return _make_table(tuple(codes))


def _make_table(codes: tuple[_Code, ...]) -> _Table:
    # Every code is a group, so that lastindex says which it was; any other bit is not a code.
    patterns = [f"({code.prefix}[01]{{{code.value_bits}}})" for code in codes]
    return _Table(re.compile("|".join([*patterns, "[01]"])), codes)


def _decode(packed: bytes, count: int, table: _Table) -> NDArray[np.int64]:
    bits = format(int.from_bytes(packed), f"0{8 * len(packed)}b") if packed else ""
    found = islice(table.expression.finditer(bits), count)
    values = np.fromiter((_value(match, table) for match in found), dtype=np.int64)
    if len(values) < count:
        raise _too_few(count)
    return values


def _value(match: re.Match[str], table: _Table) -> int:
    if match.lastindex is None:
        msg = "the samples of the SCP-ECG file must be codes of its table, one is not"
        raise CorruptRecordError(msg)
    code = table.codes[match.lastindex - 1]
    if code.value_bits == 0:
        return code.value
    value = int(match[0][len(code.prefix) :], 2)
    return value - (1 << code.value_bits) if value >> (code.value_bits - 1) else value


def _read_clock(section: bytes) -> float | None:
    """Read the time of acquisition, and no other tag."""
    at = 0
    while at + 3 <= len(section) and section[at] != _END_OF_TAGS:
        (length,) = struct.unpack_from("<H", section, at + 1)
        value = section[at + 3 : at + 3 + length]
        if section[at] == _ACQUISITION_TIME and len(value) == 3:
            hour, minute, second = value
            if hour < 24 and minute < 60 and second < 60:
                return 3600.0 * hour + 60.0 * minute + second
        at += 3 + length
    return None
