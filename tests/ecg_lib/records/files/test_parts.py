"""Recordings in several files."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import edfio
import numpy as np
import pytest

from ecg_lib.errors import CorruptRecordError, RecordTooLongError, UnsupportedRecordError
from ecg_lib.records.files.lead import RecordingFile
from ecg_lib.records.files.parts import open_parts


def _write(path: Path, *, hour: int, minute: int, value: float, lead: str = "ECG II") -> Path:
    """Write 60 s at 100 Hz, whose samples say which part they are of."""
    samples = np.full(6000, value)
    samples[0] = -samples[0]
    edfio.Edf(
        [
            edfio.EdfSignal(samples, 100, label=lead, physical_dimension="mV"),
            edfio.EdfSignal(samples, 100, label=f"V{minute}", physical_dimension="mV"),
        ],
        starttime=time(hour, minute, 0),
    ).write(path)
    return path


def _read(opened: RecordingFile) -> np.ndarray:
    return np.concatenate(list(opened.blocks(opened.leads[0])))


def test_parts_that_follow_each_other_are_one_recording(tmp_path: Path) -> None:
    first = _write(tmp_path / "a.edf", hour=23, minute=59, value=1.0)
    second = _write(tmp_path / "b.edf", hour=0, minute=0, value=2.0)
    opened = open_parts([first, second])
    assert (opened.kind, opened.start_clock_s) == ("edf", 86_340.0)
    assert [lead[:3] for lead in opened.leads] == [("II", 100.0, 12_000)]
    samples = _read(opened)
    assert len(samples) == 12_000
    assert (samples[5999], samples[6001]) == pytest.approx((1.0, 2.0), abs=1e-3)


def test_the_time_between_parts_is_missing(tmp_path: Path) -> None:
    first = _write(tmp_path / "a.edf", hour=23, minute=58, value=1.0)
    second = _write(tmp_path / "b.edf", hour=0, minute=2, value=2.0)
    opened = open_parts([first, second])
    assert opened.leads[0].n_samples == 30_000
    is_missing = np.isnan(_read(opened))
    assert np.flatnonzero(is_missing).tolist() == list(range(6000, 24_000))


def test_a_gap_of_12_h_is_the_longest(tmp_path: Path) -> None:
    first = _write(tmp_path / "a.edf", hour=8, minute=0, value=1.0)
    longest = _write(tmp_path / "b.edf", hour=20, minute=1, value=2.0)
    too_long = _write(tmp_path / "c.edf", hour=20, minute=2, value=2.0)
    assert open_parts([first, longest]).leads[0].n_samples == 12 * 360_000 + 12_000
    with pytest.raises(CorruptRecordError, match="part 2 must begin within 12 h"):
        open_parts([first, too_long])


def test_parts_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    first = _write(tmp_path / "a.edf", hour=8, minute=0, value=1.0)
    second = _write(tmp_path / "b.edf", hour=8, minute=30, value=2.0)
    with pytest.raises(CorruptRecordError, match="in the order in which they were recorded"):
        open_parts([second, first])


def test_parts_without_a_clock_are_joined_without_a_gap(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.npy" for name in "abc"]
    for number, path in enumerate(paths):
        np.save(path, np.full(2000, float(number), dtype=np.float32))
    opened = open_parts(paths, fs=100.0)
    assert opened.leads[0].n_samples == 6000
    np.testing.assert_array_equal(_read(opened), np.repeat([0.0, 1.0, 2.0], 2000))


def _write_text(path: Path, start: str, *, seconds: int = 20, name: str = "ECG") -> Path:
    times = np.datetime64(start) + np.arange(seconds * 100) * np.timedelta64(10, "ms")
    rows = "".join(f"{str(time).replace('T', ' ')},0.5\n" for time in times)
    path.write_text(f"time,{name}\n{rows}")
    return path


def test_the_time_between_texts_is_missing(tmp_path: Path) -> None:
    first = _write_text(tmp_path / "a.csv", "2026-01-02T23:59:50.000")
    second = _write_text(tmp_path / "b.csv", "2026-01-03T00:01:00.000")
    opened = open_parts([first, second])
    assert (opened.start_clock_s, opened.leads[0].n_samples) == (86_390.0, None)
    assert opened.warnings == ()
    is_missing = np.isnan(_read(opened))
    assert len(is_missing) == 9000
    assert np.flatnonzero(is_missing).tolist() == list(range(2000, 7000))
    with pytest.raises(CorruptRecordError, match="in the order in which they were recorded"):
        _read(open_parts([second, first]))


def test_a_seam_without_a_clock_is_said(tmp_path: Path) -> None:
    first = _write_text(tmp_path / "a.csv", "2026-01-02T23:59:50.000")
    (tmp_path / "b.csv").write_text("time,ECG\n" + "".join(f"{n / 100},0\n" for n in range(2000)))
    opened = open_parts([first, tmp_path / "b.csv"])
    assert len(_read(opened)) == 4000
    assert "a part states no time of day" in opened.warnings[0]


def test_times_since_the_beginning_are_not_a_time_of_day(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for start in ("0:00", "00:00:00"):
        rows = "".join(f"{start[:-2]}{n / 100:06.3f},0\n" for n in range(2000))
        path.write_text("time,ECG\n" + rows)
        assert open_parts([path]).start_clock_s is None


def test_another_signal_in_common_is_not_a_substitute_for_the_ecg(tmp_path: Path) -> None:
    for name, lead in (("a", "ECG"), ("b", "EKG")):
        rows = "".join(f"{n / 100},0,0\n" for n in range(2000))
        (tmp_path / f"{name}.csv").write_text(f"time,{lead},aux\n{rows}")
    with pytest.raises(UnsupportedRecordError, match="must have a lead in common"):
        open_parts([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_parts_without_a_lead_in_common_are_refused(tmp_path: Path) -> None:
    first = _write(tmp_path / "a.edf", hour=8, minute=0, value=1.0)
    second = _write(tmp_path / "b.edf", hour=8, minute=1, value=2.0, lead="ECG I")
    with pytest.raises(UnsupportedRecordError, match="must have a lead in common"):
        open_parts([first, second])


def test_parts_of_more_than_14_days_together_are_refused(tmp_path: Path) -> None:
    n_samples = 100 * 7 * 86_400
    with (tmp_path / "r.dat").open("wb") as file:
        file.truncate(2 * n_samples + 2)
    for name, count in (("a", n_samples), ("b", n_samples), ("c", n_samples + 1)):
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 100 {count}\nr.dat 16 200 16 0\n")
    a, b, c = (tmp_path / f"{name}.hea" for name in "abc")
    assert open_parts([a, b]).leads[0].n_samples == 2 * n_samples
    with pytest.raises(RecordTooLongError, match="at most 14 days"):
        open_parts([a, c])


def test_no_parts_and_too_many_are_refused(tmp_path: Path) -> None:
    for paths in ([], [tmp_path / "a.edf"] * 1001):
        with pytest.raises(CorruptRecordError, match="1 to 1000 parts"):
            open_parts(paths)
