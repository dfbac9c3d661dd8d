"""Text files from strangers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ecg_lib.records.files.text.csv_file as module
from ecg_lib.errors import (
    CorruptRecordError,
    MissingDetailError,
    RecordError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.text import layout
from ecg_lib.records.files.text.csv_file import CsvFile
from ecg_lib.records.files.text.headings import LONGEST, ColumnKind, Heading, read_heading


def _read(opened: RecordingFile, name: str | None = None) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads, name))))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("has_header", [True, False])
def test_csv_of_several_leads_is_read(tmp_path: Path, delimiter: str, *, has_header: bool) -> None:
    values = np.random.default_rng(2).uniform(-1, 1, (3000, 2))
    lines = [delimiter.join(f"{value:.6f}" for value in row) for row in values]
    header = [delimiter.join(["V1", "MLII"])] if has_header else []
    path = tmp_path / "r.csv"
    path.write_text("\n".join([*header, *lines]) + "\n")
    opened = open_recording(path, fs=250.0, unit="uV")
    expected = values / 1000
    first, second = (lead.name for lead in opened.leads)
    assert (first, second) == (("V1", "MLII") if has_header else ("lead1", "lead2"))
    np.testing.assert_allclose(_read(opened, first), expected[:, 0], atol=1e-8)
    np.testing.assert_allclose(_read(opened, second), expected[:, 1], atol=1e-8)


@pytest.mark.parametrize(
    ("row", "leads"), [("1\n", ["MLII"]), ("1,3\r\n", ["lead1", "lead2"]), ("1\n\n", ["MLII"])]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_without_a_header_has_leads_too(
    tmp_path: Path, row: str, leads: list[str], mark: str
) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes((mark + row * 2000).encode())
    opened = open_recording(path, fs=125.0)
    assert [lead.name for lead in opened.leads] == leads
    assert _read(opened, leads[0]).tolist() == [1.0] * 2000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "rows of numbers, it has none"),
        (b"MLII\n", "below its header"),
        (b"MLII\n" + b"1\n" * 9 + b"x\n", "as many numbers as the first"),
        (b"1,2\n" * 9 + b"3\n", "as many numbers as the first"),
        (b"time_s\n0\n1\n", "none but time and counts"),
        (b"time_s,MLII\n1,0\n1,0\n", "time must go forwards"),
        (b"time_s,MLII\n1,0\n", "two rows or more"),
        (b"time_s,MLII\n1,0\nx,0\n", "hold seconds"),
        (b"\x00\x01\x02\x03", "UTF-8"),
        (b"\xff\xfe\x00\x01", "rows of numbers"),
    ],
)
def test_broken_csv_is_refused_with_its_reason(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(CorruptRecordError, match=words):
        _read(open_recording(path, fs=None if b"time" in content else 250.0))


def test_headings_tell_leads_units_and_time(tmp_path: Path, csv_case: Any) -> None:  # noqa: ANN401  of the conftest
    path = tmp_path / "r.csv"
    path.write_text(csv_case.text)
    fs = 250.0 if csv_case.fs is None else None
    if csv_case.leads is None:
        with pytest.raises(RecordError, match=r"none but time|in s, ms"):
            open_recording(path, fs=fs)
        return
    opened = open_recording(path, fs=fs)
    assert [(lead.name, lead.fs) for lead in opened.leads] == [
        (name, 250.0) for name in csv_case.leads
    ]
    for name, signal_mv in zip(csv_case.leads, csv_case.signals_mv, strict=True):
        lead = next(lead for lead in opened.leads if lead.name == name)
        read = np.concatenate(list(opened.blocks(lead)))
        np.testing.assert_allclose(read, signal_mv, rtol=1e-6)


@pytest.mark.parametrize("has_time", [False, True])
def test_several_leads_are_read_together_as_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_time: bool
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 2**16)
    path = tmp_path / "r.csv"
    rows = [n for n in range(40_000) if not 20_000 <= n < 20_050]  # a gap in time
    head, time = ("time,", "{:.3f},") if has_time else ("", "")
    lines = (
        f"{time.format(n / 250)}{n % 7 / 8},{n % 4 if n % 3 else ''},{n % 5 / 4}\n" for n in rows
    )
    path.write_text(f"{head}II,V1,V2\n" + "".join(lines))
    opened = open_recording(path, fs=250.0)
    assert isinstance(opened, CsvFile)
    leads = [opened.leads[2], opened.leads[0], opened.leads[1]]
    blocks = list(opened.blocks_of(leads))
    assert len(blocks) > 1
    for lead, parts in zip(leads, zip(*blocks, strict=True), strict=True):
        together = np.concatenate(parts)
        assert len(together) == (40_000 if has_time else 39_950)
        np.testing.assert_array_equal(together, np.concatenate(list(opened.blocks(lead))))


def test_the_unit_that_is_given_is_that_of_headings_without_one(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("II (uV),V1\n" + "500,500\n" * 5000)
    assert _read(open_recording(path, fs=250.0), "V1")[0] == 500
    opened = open_recording(path, fs=250.0, unit="uV")
    assert _read(opened, "II")[0] == _read(opened, "V1")[0] == np.float32(0.5)
    with pytest.raises(MissingDetailError, match="the file states uV") as raised:
        open_recording(path, fs=250.0, unit="mV")
    assert raised.value.detail == "unit"
    path.write_text("II (adu)\n" + "1024\n" * 5000)
    with pytest.raises(UnsupportedRecordError, match="one states counts"):
        open_recording(path, fs=250.0)


@pytest.mark.parametrize(("fs", "digits"), [(360.0, 3), (250.0, 3), (128.0, 6), (257.5, 6)])
def test_a_column_of_time_gives_the_rate(tmp_path: Path, fs: float, digits: int) -> None:
    path = tmp_path / "r.csv"
    rows = (f"{n / fs:.{digits}f},{n % 7 / 10}" for n in range(6000))
    path.write_text("time,MLII\n" + "\n".join(rows))
    opened = open_recording(path)
    (lead,) = opened.leads
    assert lead.fs == pytest.approx(fs, rel=1e-4)
    assert len(_read(opened)) == 6000


@pytest.mark.parametrize("place", [0, 1500, 3000])
def test_blank_lines_of_more_than_a_block_are_not_samples(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 1024)
    rows = ["0.1,0.2"] * 3000
    path = tmp_path / "r.csv"
    path.write_text("\n".join([*rows[:place], "\n" * 5000, *rows[place:]]))
    assert len(_read(open_recording(path, fs=250.0))) == 3000


def test_a_rate_that_is_said_may_be_that_of_the_column_of_time(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("time,MLII\n" + "".join(f"{n / 360:.3f},0.1\n" for n in range(6000)))
    assert open_recording(path, fs=360.1).leads[0].fs == 360.1
    with pytest.raises(MissingDetailError, match="the file states 360 Hz") as raised:
        open_recording(path, fs=250.0)
    assert raised.value.detail == "sampling_rate"


@pytest.mark.parametrize(
    ("times_s", "words"),
    [
        ([*np.arange(5000) / 250, *(10 + np.arange(5000) / 250)], "forwards"),
        ([*np.arange(5000) / 250, *(20 + np.arange(5000) / 200)], "rate of its beginning"),
        ([*np.arange(5000) / 250, np.nan, *(20 + np.arange(5000) / 250)], "hold seconds"),
        ([*np.arange(5000) / 250, 1e300], "hold seconds"),
    ],
)
def test_a_column_of_time_is_read_to_its_end(
    tmp_path: Path, times_s: list[float], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PEEK_BYTES", 4096)
    monkeypatch.setattr(module, "BLOCK_BYTES", 8192)
    path = tmp_path / "r.csv"
    path.write_text("time,MLII\n" + "".join(f"{time_s:.6f},0.1\n" for time_s in times_s))
    opened = open_recording(path)
    assert opened.leads[0].fs == 250.0
    with pytest.raises(CorruptRecordError, match=words):
        _read(opened)


def test_an_empty_cell_is_an_invalid_sample(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("a,b\n" + "1,2\n" * 2000 + "1,\n" + "1,NaN\n" + "1,2\n")
    samples = _read(open_recording(path, fs=200.0), "b")
    assert np.flatnonzero(np.isnan(samples)).tolist() == [2000, 2001]


def test_a_long_heading_is_not_looked_into() -> None:
    """To look into it would take a time that grows with the square of its length."""
    heading = "t" + (LONGEST - 5) * " " + "(uV)"
    assert read_heading(heading) == Heading(ColumnKind.TIME, "t", None)
    longer = heading.replace("t", "t  ")
    assert read_heading(longer) == Heading(ColumnKind.LEAD, longer)
