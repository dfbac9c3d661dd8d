"""Headers of WFDB records in the spellings of many programs, against wfdb where it reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from numpy.typing import NDArray

from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording

SIGNAL = "r.dat 16 1000(0)/mV 16 0 0 0 0 II\n"

COUNTS = np.random.default_rng(3).integers(-3000, 3000, 5000).astype("<i2")


def _read(opened: RecordingFile) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads))))


def _write(directory: Path, header: str, *, signals: str = "r.dat") -> Path:
    (directory / signals).write_bytes(COUNTS.tobytes())
    path = directory / "r.hea"
    path.write_text(header, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("when", "clock_s"),
    [
        ("10:20:30 01/02/2003", 37_230.0),
        ("10:20:30.123 1/2/2003", 37_230.123),
        ("1:2:3 1/2/03", 3723.0),
        ("20:30 01/02/2003", 1230.0),
        ("30", 30.0),
        ("30.5 01/02/2003", 30.5),
        ("0:0:0 0/0/0", 0.0),
        ("2006", None),
        ("01/02/2003", None),
        ("01/02/2003 10:20:30", 37_230.0),
        ("05-May-2020 09:49:17", 35_357.0),
        ("5 May 2020", None),
        ("[10:20:30.5 01/02/2003]", 37_230.5),
        ("2003-02-01T10:20:30Z", 37_230.0),
        ("2003/02/01 10:20:30,5", 37_230.5),
        ("1.2.2003 10:20", 620.0),
        ("1-Feb-2003 01:20:30 PM", 48_030.0),
        ("2/1/2003 12:20:30 a.m.", 1230.0),
        ("1:20 pm", 48_000.0),
        ("99:99:99 99/99/9999", None),
        ("24:00:00 31/13/2003", None),
        (":::", None),
        ("??", None),
    ],
)
@pytest.mark.parametrize("count", ["5000", "5000.0", "5e3"])
def test_no_spelling_of_a_date_loses_the_record(
    tmp_path: Path, when: str, clock_s: float | None, count: str
) -> None:
    opened = open_recording(_write(tmp_path, f"r 1 250 {count} {when}\n{SIGNAL}"))
    assert opened.start_clock_s == clock_s
    np.testing.assert_allclose(_read(opened), COUNTS / 1000, atol=1e-6)


@pytest.mark.parametrize("when", ["10:20:30 01/02/2003", "[10:20:30]", "01.02.2003 10:20:30"])
def test_a_date_in_the_place_of_the_number_of_samples_is_a_date(tmp_path: Path, when: str) -> None:
    opened = open_recording(_write(tmp_path, f"r 1 250 {when}\n{SIGNAL}"))
    assert opened.start_clock_s == 37_230.0
    assert opened.leads[0].n_samples == 5000


@pytest.mark.parametrize(
    "when",
    ["10:20:30 01/02/2003", "10:20:30.123 1/2/2003", "20:30", "30", "30.5 01/02/2003", "1:2:3"],
)
def test_times_are_those_that_wfdb_reads(tmp_path: Path, when: str) -> None:
    path = _write(tmp_path, f"r 1 250 5000 {when}\n{SIGNAL}")
    time = wfdb.rdheader(str(path.with_suffix(""))).base_time
    assert time is not None
    expected = 3600 * time.hour + 60 * time.minute + time.second + time.microsecond / 1e6
    assert open_recording(path).start_clock_s == pytest.approx(expected)


@pytest.mark.parametrize(
    "signal",
    [
        "r.dat 16 1000.0(0.0)/mV 16.0 0.0 0 0 0 II\n",
        "r.dat 16+0 1e+03(0)/mv 16 0 0 0 0 II\n",
        "R.DAT 16 1000(0)/mV 16 0 0 0 0 II\n",
    ],
)
def test_signal_lines_of_programs_with_other_habits_are_read(tmp_path: Path, signal: str) -> None:
    opened = open_recording(_write(tmp_path, f"r 1 250 5000\n{signal}"))
    np.testing.assert_allclose(_read(opened), COUNTS / 1000, atol=1e-6)


def test_files_in_capitals_belong_to_a_header_in_small_letters(tmp_path: Path) -> None:
    path = _write(tmp_path, f"r 1 250 5000\n{SIGNAL}", signals="R.DAT")
    np.testing.assert_allclose(_read(open_recording(path)), COUNTS / 1000, atol=1e-6)
    path.rename(tmp_path / "R.HEA")
    for name in ("R.HEA", "R.DAT", "R"):
        np.testing.assert_allclose(_read(open_recording(tmp_path / name)), COUNTS / 1000, atol=1e-6)


@pytest.mark.parametrize(
    "header",
    [
        f"r 1 250 5000\r\n{SIGNAL}\x1a".encode(),
        f"r 1 250 5000\n{SIGNAL}".encode("utf-16"),
        f"# caf\x85 \x0b\nr 1 250 5000\n{SIGNAL}".encode("latin-1"),
    ],
)
def test_headers_of_other_systems_are_read(tmp_path: Path, header: bytes) -> None:
    path = _write(tmp_path, "")
    path.write_bytes(header)
    np.testing.assert_allclose(_read(open_recording(path)), COUNTS / 1000, atol=1e-6)
