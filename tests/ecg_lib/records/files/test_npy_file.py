"""NumPy files from strangers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSignalError,
)
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording


def _read(opened: RecordingFile, name: str | None = None) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads, name))))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i2", "u2", "i8", ">f4"])
def test_numpy_arrays_of_numbers_are_read(tmp_path: Path, dtype: str) -> None:
    values = np.arange(6000).reshape(3000, 2) % 50
    np.save(tmp_path / "r.npy", np.asfortranarray(values.astype(dtype)))
    opened = open_recording(tmp_path / "r.npy", fs=250.0, unit="uV")
    np.testing.assert_allclose(_read(opened, "lead2"), values[:, 1] / 1000, rtol=1e-3)


def test_counts_of_a_converter_are_not_millivolts(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.full(5000, 20_000.0))
    with pytest.raises(InvalidSignalError, match="unit that is given"):
        _read(open_recording(tmp_path / "r.npy", fs=200.0))


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4"])
def test_the_least_whole_number_is_a_missing_sample(tmp_path: Path, dtype: str) -> None:
    values = np.zeros(5000, dtype=dtype)
    values[100:300] = np.iinfo(dtype).min
    np.save(tmp_path / "r.npy", values)
    opened = open_recording(tmp_path / "r.npy", fs=250.0, unit="uV")
    samples = np.concatenate(list(opened.blocks(opened.leads[0])))
    assert np.flatnonzero(np.isnan(samples)).tolist() == list(range(100, 300))


def test_a_signalling_nan_hides_no_sample(tmp_path: Path) -> None:
    samples = np.zeros(5000, dtype="<f4")
    samples.view("<u4")[3000] = 0x7FA00001
    np.save(tmp_path / "r.npy", samples)
    read = _read(open_recording(tmp_path / "r.npy", fs=200.0))
    assert np.flatnonzero(np.isnan(read)).tolist() == [3000]
    assert read.view(np.uint32)[3000] == np.float32(np.nan).view(np.uint32)
    for place in (10, 4990):
        beyond = samples.copy()
        beyond[place] = -1e30
        np.save(tmp_path / "r.npy", beyond)
        with pytest.raises(InvalidSignalError, match="unit that is given"):
            _read(open_recording(tmp_path / "r.npy", fs=200.0))


def test_numpy_objects_and_archives_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "z.npz", np.zeros(5000))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    np.save(tmp_path / "wide.npy", np.zeros((2, 5000)))
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "none.npy", np.zeros(0))
    np.save(tmp_path / "complex.npy", np.zeros(5000, dtype=np.complex64))
    np.save(tmp_path / "number.npy", np.array(1.0))
    for path in tmp_path.glob("*.npy"):
        name = path.name
        with pytest.raises(CorruptRecordError):
            open_recording(tmp_path / name, fs=200.0)
