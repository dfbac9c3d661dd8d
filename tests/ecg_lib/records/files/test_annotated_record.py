"""Annotated WFDB records of any database: leads, rates, gains, segments and annotation files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSamplingRateError,
    RecordNotFoundError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.records.annotations import SYMBOL_OF_CODE
from ecg_lib.records.files.wfdb.annotated_record import read_annotated_record


def _write(
    directory: Path, *lines: str, samples: np.ndarray | None = None, name: str = "a"
) -> Path:
    """Write a record whose signals are ramps, with the signal lines of a header."""
    n_signals = len(lines[1:])
    data = (
        np.arange(4000 * n_signals, dtype="<i2").reshape(-1, n_signals)
        if samples is None
        else samples
    )
    (directory / f"{name}.dat").write_bytes(data.astype("<i2").tobytes())
    (directory / f"{name}.hea").write_text("\r\n".join(lines) + "\r\n")
    return directory / name


def _mark(path: Path, extension: str, samples: list[int], symbols: list[str]) -> None:
    wfdb.wrann(path.name, extension, np.array(samples), symbol=symbols, write_dir=str(path.parent))


def test_the_table_of_symbols_is_that_of_wfdb() -> None:
    labels = wfdb.io.annotation.ann_labels
    assert {one.label_store: one.symbol for one in labels} == SYMBOL_OF_CODE


def test_all_ecg_leads_are_read_and_other_signals_are_not(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "a 4 250 4000",
        "a.dat 16 200(0)/mV 16 0 0 0 0 V1",
        "a.dat 16 100(0)/mmHg 16 0 0 0 0 ABP",
        "a.dat 16 200(0)/mV 16 0 0 0 0 MLII",
        "a.dat 16 0 16 0 0 0 0 ECG3",
    )
    _mark(path, "qrs", [10, 300], ["N", "V"])
    record = read_annotated_record(path, annotations="qrs")
    assert record.leads == ("MLII", "V1", "ECG3")
    assert record.choose_lead() == "MLII"
    np.testing.assert_allclose(record.signals_mv[:3, 0], [2 / 200, 6 / 200, 10 / 200])
    np.testing.assert_allclose(record.signals_mv[:2, 2], [3 / 200, 7 / 200])  # no gain: 200
    assert record.annotations is not None
    assert record.annotations.beat_samples.tolist() == [10, 300]
    assert record.annotations.beat_classes.tolist() == ["N", "V"]


@pytest.mark.parametrize("asked", ["ECG V1", "v1", "V1"])
def test_one_lead_may_be_asked_for(tmp_path: Path, asked: str) -> None:
    path = _write(
        tmp_path, "a 2 128 4000", "a.dat 16 200 16 0 0 0 0 ECG1", "a.dat 16 200 16 0 0 0 0 ECG V1"
    )
    record = read_annotated_record(path, annotations=None, lead=asked)
    assert record.leads == ("ECG V1",)
    assert record.signals_mv.shape == (4000, 1)
    with pytest.raises(UnknownLeadError, match="record a has the leads ECG1, ECG V1, not 'V5'"):
        read_annotated_record(path, annotations=None, lead="V5")


def test_annotations_of_another_time_resolution_are_in_samples_of_the_lead(tmp_path: Path) -> None:
    path = _write(tmp_path, "a 1 250 4000", "a.dat 16 200 16 0 0 0 0 II")
    wfdb.wrann("a", "atr", np.array([0, 1000]), symbol=["N", "V"], fs=1000, write_dir=str(tmp_path))
    assert b"## time resolution: 1000" in (tmp_path / "a.atr").read_bytes()
    record = read_annotated_record(path, annotations="atr")
    assert record.annotations is not None
    assert record.annotations.beat_samples.tolist() == [0, 250]


def test_positions_are_frames_where_a_lead_has_several_samples_in_one(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "a 1 125 2000",
        "a.dat 16x2 200 16 0 0 0 0 II",
        samples=np.arange(4000, dtype="<i2").reshape(-1, 1),
    )
    _mark(path, "atr", [100], ["V"])
    record = read_annotated_record(path, annotations="atr")
    assert record.fs == 250.0
    assert record.annotations is not None
    assert record.annotations.beat_samples.tolist() == [200]


def test_marks_of_a_database_of_its_own_are_not_beats(tmp_path: Path) -> None:
    path = _write(tmp_path, "a 1 250 4000", "a.dat 16 200 16 0 0 0 0 II")
    words = np.array([(1 << 10) | 50, (45 << 10) | 10, (14 << 10) | 5, (16 << 10) | 5, 0], "<u2")
    (tmp_path / "a.atr").write_bytes(words.tobytes())
    record = read_annotated_record(path, annotations="atr")
    assert record.annotations is not None
    assert record.annotations.is_beat.tolist() == [True, False, False, False]


def test_files_of_a_record_may_be_named_in_other_capitals(tmp_path: Path) -> None:
    path = _write(tmp_path, "a 1 250 4000", "a.dat 16 200 16 0 0 0 0 II")
    _mark(path, "atr", [100], ["V"])
    whole = read_annotated_record(path, annotations="atr")
    for name in ("a.hea", "a.dat", "a.atr"):
        (tmp_path / name).rename(tmp_path / name.upper())
    for asked in ("A", "a"):
        record = read_annotated_record(tmp_path / asked, annotations="atr")
        np.testing.assert_array_equal(record.signals_mv, whole.signals_mv)
        assert record.annotations is not None
        assert record.annotations.beat_samples.tolist() == [100]


def test_records_that_cannot_be_scored_are_refused_with_the_reason(tmp_path: Path) -> None:
    slow = _write(tmp_path, "a 1 50 4000", "a.dat 16 200 16 0 0 0 0 II")
    with pytest.raises(InvalidSamplingRateError, match="between 100 and 1000 Hz"):
        read_annotated_record(slow, annotations=None)
    pressure = _write(tmp_path, "b 1 250 4000", "b.dat 16 200/mmHg 16 0 0 0 0 ABP", name="b")
    with pytest.raises(UnsupportedRecordError):
        read_annotated_record(pressure, annotations=None)
    good = _write(tmp_path, "c 1 250 4000", "c.dat 16 200 16 0 0 0 0 II", name="c")
    with pytest.raises(RecordNotFoundError, match=r"annotation file c\.atr is missing"):
        read_annotated_record(good, annotations="atr")
    (tmp_path / "c.atr").write_bytes(b"\x05\x04")
    with pytest.raises(CorruptRecordError, match="no end mark"):
        read_annotated_record(good, annotations="atr")
