"""NumPy files from strangers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSignalError,
    UnsupportedRecordError,
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


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [1, 2, 64])
def test_rows_of_samples_are_leads(tmp_path: Path, rows: int, order: Literal["C", "F"]) -> None:
    values = np.arange(rows * 1000, dtype=np.float32).reshape(rows, 1000) % 50
    np.save(tmp_path / "r.npy", np.asarray(values, order=order))
    opened = open_recording(tmp_path / "r.npy", fs=100.0)
    assert [lead.n_samples for lead in opened.leads] == rows * [1000]
    read = np.concatenate(list(opened.blocks(opened.leads[-1])))
    np.testing.assert_array_equal(read, values[-1])
    (said,) = opened.warnings
    assert said == f"the array has {rows} rows of 1000 numbers: each row is read as a lead"


def test_columns_are_leads_where_rows_may_be_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.zeros((1000, 64)))
    opened = open_recording(tmp_path / "r.npy", fs=100.0)
    assert (len(opened.leads), opened.warnings) == (64, ())


@pytest.mark.parametrize("shape", [(65, 1000), (64, 999), (1000, 65)])
def test_a_table_that_is_neither_way_round_is_refused(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    np.save(tmp_path / "r.npy", np.zeros(shape))
    with pytest.raises(CorruptRecordError, match=rf"got shape \({shape[0]}, {shape[1]}\)"):
        open_recording(tmp_path / "r.npy", fs=100.0)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([{"a": 1}], dtype=object), "Python objects, which are never unpickled"),
        (np.zeros(5000, dtype=[("t", "f4"), ("ecg", "f4")]), r"structured array \(t, ecg\)"),
        (np.zeros(5000, dtype=np.complex64), "complex numbers"),
        (np.zeros(5000, dtype=bool), "truth values"),
        (np.full(5000, "0.1"), "text"),
        (np.zeros(5000, dtype="M8[ms]"), "dates"),
        (np.zeros((4, 12, 5000)), r"its shape is \(4, 12, 5000\)"),
        (np.array(1.0), r"its shape is \(\)"),
    ],
    ids=["objects", "fields", "complex", "bool", "text", "dates", "deep", "number"],
)
def test_other_arrays_are_refused_by_what_they_are(
    tmp_path: Path, array: NDArray[np.generic], words: str
) -> None:
    np.save(tmp_path / "r.npy", array, allow_pickle=True)
    with pytest.raises(UnsupportedRecordError, match=words):
        open_recording(tmp_path / "r.npy", fs=200.0)


def test_archives_and_empty_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "z.npz", np.zeros(5000))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    np.save(tmp_path / "none.npy", np.zeros(0))
    for path in tmp_path.glob("*.npy"):
        with pytest.raises(CorruptRecordError):
            open_recording(path, fs=200.0)
