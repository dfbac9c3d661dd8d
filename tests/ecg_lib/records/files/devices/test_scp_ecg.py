"""SCP-ECG, EN 1064."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, RecordTooLongError, UnsupportedRecordError
from ecg_lib.records.files.lead import RecordingFile

Counts = dict[str, NDArray[np.int64]]
Open = Callable[..., RecordingFile]
Read = Callable[..., NDArray[np.float32]]

DEFAULT_TABLE = struct.pack("<H", 19999)


@pytest.mark.parametrize("table", [None, DEFAULT_TABLE])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_differences_and_huffman_codes_are_undone(
    order: int, table: bytes | None, writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    recording = opened(writers.write_scp(counts, fs=250, order=order, table=table))
    for name in ("I", "II"):
        np.testing.assert_allclose(read(recording, name), counts[name] * 0.005, atol=1e-6)


def test_every_code_of_the_default_table_is_read(
    writers: ModuleType, opened: Open, read: Read
) -> None:
    edges = [*range(-10, 11), -128, 127, -129, 128, -32768, -32767, 32767]
    values = np.resize(np.array(edges), 2700)
    recording = opened(writers.write_scp({"II": values}, fs=250, table=DEFAULT_TABLE, gain_nv=100))
    wanted = np.where(values == -32768, np.nan, values * 1e-4)  # no converter gives this one
    np.testing.assert_allclose(read(recording), wanted, rtol=1e-6)


def test_a_table_of_the_file_is_read(writers: ModuleType, opened: Open, read: Read) -> None:
    # 0 is "0", 5 is "10", and "11" stands before four bits of a value.
    codes = [(1, 1, 1, 0, 0b0), (2, 2, 1, 5, 0b01), (2, 6, 1, 0, 0b11)]
    table = struct.pack("<HH", 1, 3) + b"".join(struct.pack("<BBBhI", *code) for code in codes)
    values = np.resize([0, 5, -8, 7, 5, 0], 2500)
    words = {0: "0", 5: "10", -8: "111000", 7: "110111"}
    bits = "".join(words[value] for value in values.tolist())
    bits += "0" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8)
    section = struct.pack("<HHBBH", 5000, 4000, 0, 0, len(packed)) + packed
    content = writers.write_scp({"II": values}, fs=250, changes={2: table, 6: section})
    np.testing.assert_allclose(read(opened(content)), values * 0.005, atol=1e-6)


def test_bits_that_are_not_a_code_are_refused(writers: ModuleType, opened: Open) -> None:
    table = struct.pack("<HH", 1, 1) + struct.pack("<BBBhI", 1, 1, 1, 0, 0)
    section = struct.pack("<HHBBH", 5000, 4000, 0, 0, 400) + b"\x00" * 100 + b"\xff" * 300
    zeros = np.zeros(2500, dtype=np.int64)
    with pytest.raises(CorruptRecordError, match="must be codes of its table"):
        opened(writers.write_scp({"II": zeros}, fs=250, changes={2: table, 6: section}))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"flags": 5}, "reference beat was subtracted are not read; export"),
        ({"bimodal": 1}, "bimodal compression are not read; export"),
        ({"table": struct.pack("<H", 2)}, "must use one table"),
    ],
)
def test_other_compressions_are_refused_with_what_to_do(
    options: dict[str, Any], match: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises(UnsupportedRecordError, match=match):
        opened(writers.write_scp(counts, fs=250, **options))


def test_a_table_that_switches_to_another_is_refused(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    table = struct.pack("<HH", 1, 1) + struct.pack("<BBBhI", 1, 1, 0, 2, 0)
    with pytest.raises(UnsupportedRecordError, match="switch no table"):
        opened(writers.write_scp(counts, fs=250, table=table))


@pytest.mark.parametrize("number", [3, 6])
def test_a_file_without_leads_or_rhythm_is_refused(
    number: int, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = bytearray(writers.write_scp(counts, fs=250))
    # The length of the section in the list of section 0.
    struct.pack_into("<I", content, 22 + 10 * number + 2, 0)
    with pytest.raises(UnsupportedRecordError, match="sections 3 and 6"):
        opened(writers.mend_scp(bytes(content)))


def test_a_wrong_checksum_is_refused(writers: ModuleType, counts: Counts, opened: Open) -> None:
    content = bytearray(writers.write_scp(counts, fs=250))
    content[5000] ^= 1
    with pytest.raises(CorruptRecordError, match="checksum of the SCP-ECG file"):
        opened(bytes(content))


@pytest.mark.parametrize(
    ("start", "match"),
    [
        (struct.pack("<HHBBHH", 0, 4000, 0, 0, 0, 0), "state its gain"),
        (struct.pack("<HHBBHH", 5000, 0, 0, 0, 0, 0), "state its gain"),
        (struct.pack("<HHBBHH", 5000, 4000, 3, 0, 0, 0), "state its gain"),
        (struct.pack("<HHBBHH", 5000, 4000, 0, 0, 65535, 65535), "cut off"),
        (b"", "cut off"),
    ],
)
def test_impossible_rhythm_sections_are_refused(
    start: bytes, match: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises(CorruptRecordError, match=match):
        opened(writers.write_scp(counts, fs=250, changes={6: start}))


@pytest.mark.parametrize(("first", "last"), [(1, 0), (5000, 1), (1, 2**32 - 1), (0, 5_000_000)])
def test_impossible_numbers_of_samples_are_refused(
    first: int, last: int, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    leads = bytes([1, 12]) + struct.pack("<IIB", first, last, 2)
    with pytest.raises(CorruptRecordError, match="5000000 samples together"):
        opened(writers.write_scp(counts, fs=250, changes={3: leads}))


@pytest.mark.parametrize("n_leads", [0, 65, 255])
def test_impossible_numbers_of_leads_are_refused(
    n_leads: int, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    leads = bytes([n_leads, 4]) + struct.pack("<IIB", 1, 9, 2) * n_leads
    with pytest.raises(CorruptRecordError, match="1 to 64 leads"):
        opened(writers.write_scp(counts, fs=250, changes={3: leads}))


def test_a_section_that_lies_elsewhere_is_refused(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    for index in (0, 1, 2**32 - 1):
        content = bytearray(writers.write_scp(counts, fs=250))
        struct.pack_into("<I", content, 22 + 10 * 6 + 6, index)
        with pytest.raises(CorruptRecordError, match=r"section 6 .* where section 0 says"):
            opened(writers.mend_scp(bytes(content)))


def test_a_lead_without_a_name_is_called_by_its_code(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    leads = bytes([1, 12]) + struct.pack("<IIB", 1, 5000, 200)
    plain = counts["II"].astype("<i2").tobytes()
    rhythm = struct.pack("<HHBBH", 5000, 4000, 0, 0, len(plain)) + plain
    content = writers.write_scp(counts, fs=250, changes={3: leads, 6: rhythm})
    assert opened(content).leads[0].name == "SCP lead 200"


def test_more_than_16_mib_are_refused(opened: Open, writers: ModuleType, counts: Counts) -> None:
    content = writers.write_scp(counts, fs=250)
    with pytest.raises(RecordTooLongError, match="at most 16 MiB"):
        opened(content.ljust(16 * 2**20 + 1, b"\0"))
    assert opened(content.ljust(16 * 2**20, b"\0")).kind == "scp"
