"""ISHNE Holter 1.0."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError
from ecg_lib.records.files.devices.ishne import read_ishne
from ecg_lib.records.files.lead import RecordingFile

Counts = dict[str, NDArray[np.int64]]
Open = Callable[..., RecordingFile]
Read = Callable[..., NDArray[np.float32]]


def test_the_variable_block_is_passed_over(
    writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    recording = opened(writers.write_ishne(counts, fs=250, variable=b"Mustermann was here"))
    np.testing.assert_allclose(read(recording), counts["II"] * 0.005, atol=1e-6)


@pytest.mark.parametrize("n_samples", [5000, 10_000, 0, -1])
def test_the_number_of_samples_may_be_that_of_a_lead_of_all_or_missing(
    n_samples: int, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    recording = opened(writers.write_ishne(counts, fs=250, n_samples=n_samples))
    assert [lead.n_samples for lead in recording.leads] == [5000, 5000]


@pytest.mark.parametrize("n_samples", [5001, 9998, 2**31 - 1])
def test_another_number_of_samples_is_refused(
    n_samples: int, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises(CorruptRecordError, match="cut off"):
        opened(writers.write_ishne(counts, fs=250, n_samples=n_samples))


def test_a_wrong_checksum_is_refused_and_none_is_taken(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    with pytest.raises(CorruptRecordError, match="checksum of the ISHNE header"):
        opened(writers.write_ishne(counts, fs=250, check_sum=1))
    assert opened(writers.write_ishne(counts, fs=250, check_sum=0)).kind == "ishne"


def test_the_checksum_is_that_of_crc_ccitt_false(writers: ModuleType, counts: Counts) -> None:
    # The check value of CRC-16/CCITT-FALSE, from the catalogue of CRC algorithms.
    assert writers.binascii.crc_hqx(b"123456789", 0xFFFF) == 0x29B1
    assert writers.mend_ishne(writers.write_ishne(counts, fs=250, check_sum=7)) == (
        writers.write_ishne(counts, fs=250)
    )


@pytest.mark.parametrize(("gain_nv", "gain_mv"), [(2500, 0.0025), (32_767, 0.032767)])
def test_the_resolution_in_nanovolts_is_the_gain(
    gain_nv: int, gain_mv: float, writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    recording = opened(writers.write_ishne(counts, fs=250, gain_nv=gain_nv))
    np.testing.assert_allclose(read(recording), counts["II"] * gain_mv, rtol=1e-6)


def test_leads_without_a_name_of_their_own_are_numbered(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    leads = {"I": counts["I"], "left": counts["I"], "right": counts["II"]}
    assert [lead.name for lead in opened(writers.write_ishne(leads, fs=250)).leads] == [
        "I",
        "lead2",
        "lead3",
    ]


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (156, 0, "1 to 12 leads"),
        (156, 13, "1 to 12 leads"),
        (156, -1, "1 to 12 leads"),
        (272, 0, "above 0"),
        (206, 0, "above 0"),
        (206, -5, "above 0"),
    ],
)
def test_impossible_headers_are_refused(
    at: int, value: int, match: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = bytearray(writers.write_ishne(counts, fs=250))
    struct.pack_into("<h", content, at, value)
    with pytest.raises(CorruptRecordError, match=match):
        opened(writers.mend_ishne(bytes(content)))


@pytest.mark.parametrize("data_at", [-1, 0, 521, 2**31 - 1])
def test_samples_that_begin_elsewhere_are_refused(
    data_at: int, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = bytearray(writers.write_ishne(counts, fs=250))
    struct.pack_into("<i", content, 22, data_at)
    with pytest.raises(CorruptRecordError, match="must begin in it"):
        opened(bytes(content))


def test_a_time_that_no_clock_shows_is_not_told(
    writers: ModuleType, counts: Counts, opened: Open
) -> None:
    content = bytearray(writers.write_ishne(counts, fs=250, check_sum=0))
    struct.pack_into("<hhh", content, 150, -9, 0, 0)
    assert opened(bytes(content)).start_clock_s is None


def test_the_samples_of_a_long_file_are_mapped_and_not_read(
    writers: ModuleType, counts: Counts, opened: Open, tmp_path: Path
) -> None:
    path = tmp_path / "r.ecg"
    path.write_bytes(writers.write_ishne(counts, fs=250))
    assert all(isinstance(track.samples.base, np.memmap) for track in read_ishne(path).tracks)
