"""ATC files of Kardia."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.lead import RecordingFile

Counts = dict[str, NDArray[np.int64]]
Open = Callable[..., RecordingFile]
Read = Callable[..., NDArray[np.float32]]


@pytest.mark.parametrize("sums", ["crc", "sum", "none"])
def test_checksums_of_the_specification_and_of_recorders_are_taken(
    sums: str, writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    recording = opened(writers.write_atc(counts, fs=300, gain_nv=500, sums=sums), "strip.atc")
    assert [lead[:3] for lead in recording.leads] == [("I", 300.0, 5000), ("II", 300.0, 5000)]
    np.testing.assert_allclose(read(recording), counts["II"] * 0.0005, atol=1e-7)


def test_damage_is_refused(writers: ModuleType, counts: Counts, opened: Open) -> None:
    with pytest.raises(CorruptRecordError, match="checksum of an ATC block"):
        opened(writers.write_atc(counts, fs=300, sums="wrong"))
    with pytest.raises(UnsupportedRecordError, match="says format 2"):
        opened(writers.write_atc(counts, fs=300, kind=2))
    whole = writers.write_atc(counts, fs=300)
    for cut in (5, 1000, len(whole) - 14):
        with pytest.raises(CorruptRecordError, match="cut off"):
            opened(whole[:-cut])
    with pytest.raises(UnsupportedRecordError, match="it holds none"):
        opened(writers.write_atc({}, fs=300))
    with pytest.raises(CorruptRecordError, match="rate and resolution"):
        opened(whole[:12])
