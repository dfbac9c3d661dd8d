"""Intervals of samples that were rounded when they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecg_lib.errors import MissingDetailError
from ecg_lib.records.files.lead import RecordingFile
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.text.rounding import MAX_ROUNDING, read_interval, read_steps

N = 60_000

ECG = np.round(np.random.default_rng(4).uniform(-1, 1, N), 3)


def _open(tmp_path: Path, text: str, *, fs: float | None = None) -> RecordingFile:
    (tmp_path / "r.csv").write_text(text)
    return open_recording(tmp_path / "r.csv", fs=fs)


def _with_steps(step: str) -> str:
    decimals = len(step.partition(".")[2])
    rows = (f"{n * float(step):.{decimals}f},{value}" for n, value in enumerate(ECG))
    return "time,ECG\n" + "\n".join(rows) + "\n"


def _with_interval(step: str) -> str:
    return f"Interval= {step} s\nECG (mV)\n" + "\n".join(map(str, ECG)) + "\n"


@pytest.mark.parametrize(
    ("written", "fs"),
    [
        *(("0.0028", 360.0), ("0.00278", 360.0), ("0.002778", 360.0), ("0.0078", 128.0)),
        *(("0.00195", 512.0), ("0.0033", 300.0), ("0.0077", 130.0), ("0.00389", 257.0)),
        *(("0.0038462", 260.0), ("0.002800", 360.0)),
    ],
)
def test_the_only_usual_rate_that_the_digits_allow_is_taken_and_said(
    written: str, fs: float
) -> None:
    rate = read_interval(written, 1.0)
    assert rate is not None
    assert rate.fs == fs
    assert rate.note.endswith(f"which is rounded: {fs:g} Hz is taken")


@pytest.mark.parametrize(
    ("written", "fs"),
    [("0.008", 125.0), ("0.004", 250.0), ("0.002", 500.0), ("0.005", 200.0), ("0.0025", 400.0)],
)
def test_an_interval_of_a_whole_rate_is_taken_as_it_stands(written: str, fs: float) -> None:
    rate = read_interval(written, 1.0)
    assert rate is not None
    assert (rate.fs, rate.note) == (fs, "")


def test_where_the_digits_allow_several_rates_that_is_said() -> None:
    rate = read_interval("3.9", 1e-3)
    assert rate is not None
    assert rate.fs == pytest.approx(256.41, abs=0.001)
    assert "(256, 257 Hz are possible): 256.41 Hz is taken" in rate.note


def test_digits_allow_no_more_than_a_share_of_the_rate() -> None:
    rate = read_interval("0.008", 1.0)
    assert rate is not None
    assert rate.allows(125 * (1 + MAX_ROUNDING - 1e-9))
    assert not rate.allows(125 * (1 + MAX_ROUNDING + 1e-9))
    fine = read_interval("0.0080001", 1.0)
    assert fine is not None
    assert fine.allows(1 / 0.00800014)
    assert not fine.allows(1 / 0.00800016)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", "", "1e999999999"])
def test_what_is_not_an_interval_is_none(text: str) -> None:
    assert read_interval(text, 1.0) is None


@pytest.mark.parametrize("make", [_with_steps, _with_interval])
@pytest.mark.parametrize(("step", "fs"), [("0.0028", 360.0), ("0.0078", 128.0)])
def test_a_rounded_interval_gives_the_usual_rate_and_loses_no_sample(
    tmp_path: Path, make: object, step: str, fs: float
) -> None:
    assert callable(make)
    opened = _open(tmp_path, make(step))
    assert opened.leads[0].fs == fs
    assert f"{fs:g} Hz is taken" in opened.warnings[0]
    read = np.concatenate(list(opened.blocks(opened.leads[0])))
    np.testing.assert_allclose(read, ECG, atol=1e-6)


@pytest.mark.parametrize("make", [_with_steps, _with_interval])
def test_a_rate_that_is_given_must_be_one_that_the_digits_allow(
    tmp_path: Path, make: object
) -> None:
    assert callable(make)
    for fs in (357.0, 360.0, 363.6):
        opened = _open(tmp_path, make("0.0028"), fs=fs)
        assert (opened.leads[0].fs, opened.warnings) == (fs, ())
        read = np.concatenate(list(opened.blocks(opened.leads[0])))
        np.testing.assert_allclose(read, ECG, atol=1e-6)
    for fs in (350.8, 363.7):
        with pytest.raises(MissingDetailError, match="the file states 360 Hz"):
            _open(tmp_path, make("0.0028"), fs=fs)


def test_an_interval_of_a_whole_rate_may_stand_for_the_one_that_is_given(tmp_path: Path) -> None:
    assert _open(tmp_path, _with_interval("0.008"), fs=128.0).leads[0].fs == 128.0
    with pytest.raises(MissingDetailError, match="the file states 125 Hz"):
        _open(tmp_path, _with_steps("0.008"), fs=128.0)


def test_a_gap_in_time_has_its_length_in_the_rate_that_is_taken(tmp_path: Path) -> None:
    stamps = [n * 0.0028 + 2.8 * (n >= 5000) for n in range(10_000)]
    text = "time,ECG\n" + "".join(f"{t:.4f},0.5\n" for t in stamps)
    opened = _open(tmp_path, text)
    assert opened.leads[0].fs == 360.0
    read = np.concatenate(list(opened.blocks(opened.leads[0])))
    assert np.flatnonzero(np.isnan(read)).tolist() == list(range(5000, 6000))


def test_stamps_that_are_rounded_one_by_one_have_no_equal_steps() -> None:
    assert read_steps([f"{n / 360:.4f}" for n in range(100)], 1.0) is None
    assert read_steps([f"{n * 0.0028:.4f}" for n in range(20)], 1.0) is None
    assert read_steps([f"{n * 0.0028:.4f}" for n in range(21)], 1.0) is not None
    assert read_steps([f"{n}" for n in range(100)], 1 / 256) is None


def test_a_column_of_time_of_usual_digits_agrees_with_a_rounded_interval(tmp_path: Path) -> None:
    rows = "".join(f"{n / 360:.6f}\t{value}\n" for n, value in enumerate(ECG))
    opened = _open(tmp_path, f"Interval=\t0.0028 s\nChannelTitle=\tECG\nRange=\t10 mV\n{rows}")
    assert (opened.leads[0].fs, opened.warnings) == (360.0, ())
