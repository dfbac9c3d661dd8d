"""Texts of laboratory systems, loggers and spreadsheets, as they write them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSamplingRateError,
    RecordError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.text import csv_file
from ecg_lib.records.files.text.csv_file import CsvFile
from ecg_lib.records.files.text.preamble import find_rate
from ecg_lib.records.files.text.times import CountClock

FS = 250.0
N = 3000

ECG = np.round(np.random.default_rng(4).uniform(-1, 1, N), 4)
OTHER = np.round(np.random.default_rng(5).uniform(0, 3, N), 4)
TIMES = np.arange(N) / FS


def _open(tmp_path: Path, text: str, *, fs: float | None = None) -> RecordingFile:
    path = tmp_path / "r.txt"
    path.write_text(text, encoding="utf-8")
    return open_recording(path, fs=fs)


def _read(opened: RecordingFile) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads))))


def _rows(*columns: Sequence[object] | NDArray[np.generic], separator: str = ",") -> str:
    rows = zip(*columns, strict=True)
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


LABCHART = (
    "Interval=\t0.004 s\nExcelDateTime=\t4.3831500000000000e+04\t1/1/2020 12:00:00.00000\n"
    "TimeFormat=\tStartOfBlock\nDateFormat=\tM/d/yyyy\nChannelTitle=\tPulse\tECG\n"
    "Range=\t10.000 V\t10.000 mV\n"
)

ACQKNOWLEDGE = "rec.acq\n4 msec/sample\n2 channels\nPPG\nVolts\nECG\nmV\n"

LABVIEW = (
    "LabVIEW Measurement\t\nSeparator\tTab\nDate\t2024/03/14\nTime\t09:15:00.123456\n"
    "***End_of_Header***\t\n\t\nChannels\t1\t\nSamples\t3000\t\nY_Unit_Label\tVolts\t\n"
    "X_Dimension\tTime\t\nX0\t0.0\t\nDelta_X\t0.004000\t\n***End_of_Header***\t\n"
    "X_Value\tECG\tComment\n"
)

CLOCKS = [f"10:00:{n // 250:02d}:{n % 250 * 4:03d}" for n in range(N)]

SHIMMER = (
    "sep=\t\nShimmer_Timestamp_Unix_CAL\tShimmer_ECG_LL-RA_24BIT_CAL\tShimmer_Temperature_CAL\n"
    "ms\tmV\tC\n"
)


@pytest.mark.parametrize(
    "text",
    [
        LABCHART + _rows(TIMES.round(3), OTHER, ECG, separator="\t"),
        LABCHART + _rows(OTHER, ECG, separator="\t"),
        "Interval=\t4 ms\nChannelTitle=\tECG\nUnitName=\tmV\n" + _rows(ECG),
        ACQKNOWLEDGE
        + "min\tCH1\tCH2\t\n\t3000\t3000\t\n"
        + _rows([f"{time:.9f}" for time in TIMES / 60], OTHER, ECG, N * [""], separator="\t"),
        ACQKNOWLEDGE + "CH1\tCH2\n3000\t3000\n" + _rows(OTHER, ECG, separator="\t"),
        "rec.acq\n4 msec/sample\n1 channels\nECG\nmV\nCH1\n3000\n" + _rows(ECG),
        SHIMMER + _rows(1e12 + 1000 * TIMES, ECG, OTHER, separator="\t"),
        "time (min),ECG\n" + _rows((TIMES / 60).round(9), ECG),
        "Date and time,ECG\n" + _rows([f"{45_000 + time / 86_400:.10f}" for time in TIMES], ECG),
        "Time,ECG\n" + _rows(CLOCKS, ECG),
        "ms since start;ECG\n" + _rows((1000 * TIMES).astype(int), ECG, separator=";"),
        "time,ECG\n" + _rows(TIMES, [str(value).replace("-", "\N{MINUS SIGN}") for value in ECG]),
        "time,ECG\n" + _rows(TIMES, ECG) + "\nEnd of recording,\n",
        "time,ECG\n" + _rows(TIMES, ECG) + "End of recording\n",
        "time,ECG\n" + _rows(TIMES, ECG) + "12.0",
        "time,ECG\n" + _rows(TIMES, ECG) + 300 * "\x00",
        "time,ECG\n" + _rows(TIMES, ECG) + "\x1a",
        "time\tECG\tcomment\n"
        + _rows(TIMES, ECG, ["dizzy, felt ill", *(N - 1) * [""]], separator="\t"),
        "time\tECG\tcomment\n" + _rows(TIMES, ECG, N * [""], separator="\t"),
        LABVIEW + _rows(TIMES, (ECG / 1000).round(7), N * [""], separator="\t"),
        "# Sampling Rate (Hz):= 250.00\n# Labels:= ECG\n# Units:= uV\nECG\n"
        + _rows((1000 * ECG).round(1)),
        "samp #\tECG\n" + "# fs = 250\n" + _rows(range(N), ECG, separator="\t"),
    ],
    ids=[
        *("labchart", "labchart without time", "labchart of one channel", "acqknowledge"),
        *(
            "acqknowledge without time",
            "acqknowledge of one channel",
            "shimmer",
            "minutes",
            "days",
            "colon before milliseconds",
        ),
        *("milliseconds since", "minus sign", "words below", "a word below", "half a row below"),
        *("zeros below", "end of file", "comments", "no comments", "labview", "biosppy", "rdsamp"),
    ],
)
def test_columns_are_found_with_their_names_and_rate(tmp_path: Path, text: str) -> None:
    opened = _open(tmp_path, text)
    lead = choose_lead(opened.leads)
    assert "ECG" in lead.name
    assert lead.fs == pytest.approx(FS, rel=1e-6)
    np.testing.assert_allclose(_read(opened), ECG, atol=1e-6)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("end", "n_warnings"),
    [
        *(("", 0), ("12.0", 1), ("12.0,0.5", 0), ("End of", 0)),
        *(("# saved in 2024", 0), ("Duration: 12 s", 0)),
    ],
)
def test_the_part_of_a_row_at_the_end_is_left_out_and_reported(
    tmp_path: Path, end: str, n_warnings: int, encoding: str
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("time,ECG\n" + _rows(TIMES, ECG) + end, encoding=encoding)
    opened = open_recording(path)
    assert len(_read(opened)) == N + (end == "12.0,0.5")
    assert opened.warnings == ("the text ends within a row, which is left out",) * n_warnings


@pytest.mark.parametrize("heading", ["timestamp", "time [s]"])
def test_time_in_an_unknown_unit_is_asked_for(tmp_path: Path, heading: str) -> None:
    text = f"{heading},ECG\n" + _rows((1000 * TIMES).astype(int), ECG)
    with pytest.raises(InvalidSamplingRateError, match=r"got fs=0.25, of the column of time; its"):
        _open(tmp_path, text)


@pytest.mark.parametrize("number", ["1,234", "1.234", "1'234"])
def test_thousands_that_are_parted_are_refused_by_name(tmp_path: Path, number: str) -> None:
    text = "time;ECG (uV)\n" + _rows(TIMES, [f"{value:.0f}" for value in 900 * ECG], separator=";")
    lines = text.splitlines()
    lines[-1] = f"{lines[-1].partition(';')[0]};{number}.5"
    with pytest.raises(RecordError, match="thousands have no separator"):
        _read(_open(tmp_path, "\n".join(lines) + "\n"))


@pytest.mark.parametrize("heading", [",0", ",0,1", "0,1"])
def test_the_numbers_of_columns_that_pandas_writes_are_not_samples(
    tmp_path: Path, heading: str
) -> None:
    columns = [ECG, OTHER][: heading.count(",") + (heading[0] != ",")]
    index = [range(N)] if heading[0] == "," else []
    opened = _open(tmp_path, f"{heading}\n" + _rows(*index, *columns), fs=FS)
    found = np.concatenate(list(opened.blocks(opened.leads[0])))
    assert len(opened.leads) == len(columns)
    np.testing.assert_allclose(found, ECG, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "fs"),
    [
        ("Interval=\t0.002 s", 500.0),
        ("# sampling interval: 4 ms", 250.0),
        ("Abtastintervall;2,5 ms", 400.0),
        ("2000 usec/sample", 500.0),
        ("dt = 0.005 s", 200.0),
        ("Sampling interval (ms): 4", 250.0),
        ("Sample period [us];2000", 500.0),
        ("RR interval (ms): 800", None),
        ("RR interval: 0.8 s", None),
        ("PPG sampling interval: 4 ms", None),
        ("QT interval 400 ms", None),
        ("Interval= 0 s", None),
    ],
)
def test_the_time_between_samples_states_the_rate(line: str, fs: float | None) -> None:
    assert find_rate(line) == fs


@pytest.mark.parametrize("line", ["Symptome;", "Gain: 0.005 uV", "Device = Watch"])
def test_a_key_above_one_column_is_not_its_name(tmp_path: Path, line: str) -> None:
    opened = _open(tmp_path, f"ECG\n{line}\n" + _rows(ECG), fs=FS)
    assert opened.leads[0].name == "ECG"
    np.testing.assert_allclose(_read(opened), ECG, atol=1e-6)


@pytest.mark.parametrize(
    "heading",
    ["PPG: red", "PLETH;NU", "RESP: thorax", "EMG: left", "ABP: mmHg", "Signal: PPG"],
)
def test_one_column_that_names_another_signal_is_not_an_ecg(tmp_path: Path, heading: str) -> None:
    opened = _open(tmp_path, f"{heading}\n" + _rows(ECG), fs=FS)
    with pytest.raises(UnknownLeadError, match="no signal is an ECG by its name"):
        choose_lead(opened.leads)


def test_one_column_keeps_a_name_with_a_colon(tmp_path: Path) -> None:
    opened = _open(tmp_path, "ECG: V5\n" + _rows(ECG), fs=FS)
    assert [lead.name for lead in opened.leads] == ["ECG: V5"]


COUNTS = np.random.default_rng(6).integers(-500, 500, N)
COUNTS[0] = 0


@pytest.mark.parametrize(
    "text",
    [
        "CH1\n" + _rows(COUNTS),
        "msec,CH1\n" + _rows(4 * np.arange(N), COUNTS),
        "sec,CH1\n" + _rows([0, *TIMES[1:]], COUNTS),
        "CH1,CH2\n" + _rows(COUNTS, COUNTS),
    ],
    ids=["one", "milliseconds", "seconds", "two"],
)
def test_a_first_row_of_equal_whole_numbers_is_one_of_samples(tmp_path: Path, text: str) -> None:
    opened = _open(tmp_path, text, fs=FS)
    lead = opened.leads[0]
    assert lead.name == "CH1"
    np.testing.assert_array_equal(np.concatenate(list(opened.blocks(lead))), COUNTS)


def test_the_counts_of_samples_below_headings_are_left_out(tmp_path: Path) -> None:
    times = [f"{time:.9f}" for time in TIMES / 60]
    rows = _rows(times, ECG, OTHER, separator="\t")
    opened = _open(tmp_path, f"min\tCH1\tCH2\n\t{N}\t{N}\n{rows}")
    lead = opened.leads[0]
    assert lead.name == "CH1"
    assert lead.fs == pytest.approx(FS, rel=1e-6)
    np.testing.assert_allclose(np.concatenate(list(opened.blocks(lead))), ECG, atol=1e-6)


@pytest.mark.parametrize(
    "head",
    [
        "Sampling frequency: 360 Hz\nSampling interval: 0.00278 s\n",
        "dt: 2.78 ms\nfs: 360\n",
        "# fs: 360, dt: 2.78 ms\n",
    ],
)
def test_a_rounded_interval_does_not_contradict_a_frequency(tmp_path: Path, head: str) -> None:
    opened = _open(tmp_path, f"{head}ECG\n" + _rows(ECG))
    assert opened.leads[0].fs == 360.0


LOST = np.r_[0:700, 900:2000, 2001:N]


@pytest.mark.parametrize(
    "count",
    [
        ("sample,ECG\n", LOST),
        (",ECG\n", 5 * LOST),
        ("Sample Index,ECG\n", LOST % 256),
        ("", LOST + 1),
        ('"","ECG"\n', [f'"{number}"' for number in LOST]),
    ],
    ids=["samples", "steps of five", "packets", "without a name", "rows of R"],
)
def test_rows_that_a_count_passes_over_are_missing_samples(
    tmp_path: Path, count: tuple[str, NDArray[np.int64]]
) -> None:
    heading, numbers = count
    opened = _open(tmp_path, heading + _rows(numbers, ECG[LOST]), fs=FS)
    (lead,) = opened.leads
    expected = np.full(N, np.nan)
    expected[LOST] = ECG[LOST]
    np.testing.assert_allclose(np.concatenate(list(opened.blocks(lead))), expected, atol=1e-6)


@pytest.mark.parametrize(
    "numbers",
    [
        np.r_[0:600, 0:900, 0:1500],
        np.r_[0:1000, [1001, 1000], 1002:3000],
        np.r_[0:1500, 1498:2998],
        np.r_[0:1000, [1001, 1000], 1002:3000] % 256,
    ],
    ids=["joined tables", "rows out of order", "two rows again", "packets out of order"],
)
def test_a_count_that_goes_back_loses_nothing(tmp_path: Path, numbers: NDArray[np.int64]) -> None:
    assert len(numbers) == 3000
    ecg = np.resize(ECG, 3000)
    for heading in ("index,ECG\n", ""):
        opened = _open(tmp_path, heading + _rows(numbers, ecg), fs=FS)
        np.testing.assert_allclose(_read(opened), ecg, atol=1e-6)


def test_a_count_without_end_loses_nothing(tmp_path: Path) -> None:
    clock = CountClock(FS, step=1.0, period=0.0)
    samples = np.arange(8.0).reshape(2, 4)
    found = np.hstack(list(clock.take(samples, np.array([0.0, 1.0, np.inf, 3.0]))))
    np.testing.assert_array_equal(found, samples)
    assert not list(clock.end())


def test_real_samples_of_nines_stay_samples(tmp_path: Path) -> None:
    """Peaks of 999 uV stay samples, however quiet the line between them."""
    samples = np.resize(np.r_[np.zeros(99), 999.0], N)
    opened = _open(tmp_path, "ECG [uV]\n" + _rows(samples), fs=FS)
    np.testing.assert_allclose(_read(opened), samples / 1000, atol=1e-6)


def test_a_lead_may_be_read_twice_at_once(tmp_path: Path) -> None:
    opened = _open(tmp_path, "time,I,II\n" + _rows(np.arange(N) / FS, ECG, 2 * ECG))
    assert isinstance(opened, CsvFile)
    first, second = opened.leads
    parts = list(opened.blocks_of([second, first, second]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    for column, expected in zip(columns, (2 * ECG, ECG, 2 * ECG), strict=True):
        np.testing.assert_allclose(column, expected, atol=1e-6)


def test_a_column_that_is_called_sample_but_does_not_count_is_a_lead(tmp_path: Path) -> None:
    opened = _open(tmp_path, "sample\n" + _rows(ECG), fs=FS)
    np.testing.assert_allclose(_read(opened), ECG, atol=1e-6)


@pytest.mark.parametrize("nines", [-999, 9999, -99_999])
@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_nines_far_from_all_samples_are_missing(tmp_path: Path, nines: int, kind: str) -> None:
    samples = ECG.copy()
    samples[100:200] = nines
    path = tmp_path / f"r.{kind}"
    if kind == "csv":
        path.write_text("ECG\n" + _rows(samples))
    else:
        np.save(path, samples)
    found = _read(open_recording(path, fs=FS))
    assert np.isnan(found[100:200]).all()
    np.testing.assert_allclose(np.delete(found, range(100, 200)), np.delete(ECG, range(100, 200)))


def test_nines_among_counts_are_samples(tmp_path: Path) -> None:
    counts = np.random.default_rng(2).integers(-1200, 1200, N)
    counts[5] = -999
    path = tmp_path / "r.npy"
    np.save(path, counts.astype(np.int32))
    found = _read(open_recording(path, fs=FS, unit="uV"))
    np.testing.assert_allclose(found, counts / 1000, rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"fs": 250, "ecg": [0.1, 0.2]}', "it is JSON"),
        ("[0.1, 0.2, 0.3]", "it is JSON"),
        ('[{"t": 0, "v": 1}]', "it is JSON"),
        ("PK\x03\x04\x14\x00", "an Excel workbook or an archive"),
    ],
)
def test_other_content_is_refused_by_its_name(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(UnsupportedRecordError, match=words):
        _open(tmp_path, content + "\n", fs=FS)


def test_leads_in_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="it has 3000; the samples of a lead stand one below"):
        _open(tmp_path, ",".join(map(str, ECG)) + "\n", fs=FS)


def test_columns_of_decimal_commas_may_be_parted_by_blanks(tmp_path: Path) -> None:
    rows = _rows(TIMES, ECG, separator=" ").replace(".", ",")
    opened = _open(tmp_path, f"Someone, of a clinic, 12 years\ntime ECG\n{rows}")
    assert opened.leads[0].name == "ECG"
    np.testing.assert_allclose(_read(opened), ECG, atol=1e-6)


LONG = 200_000


@pytest.mark.parametrize(
    "line",
    [
        "1" * LONG,
        "1" * LONG + "x",
        "# unit: " + "1" * LONG,
        "a," + " " * LONG + "b",
        "a" + "\N{NO-BREAK SPACE}" * LONG + "b",
        "key" + " " * LONG + "value",
        "a:" * LONG,
    ],
    ids=["digits", "digits and a letter", "unit", "blanks", "other blanks", "words", "colons"],
)
@pytest.mark.parametrize("where", ["above", "below"])
def test_the_time_to_read_does_not_grow_by_the_square_of_a_line(
    tmp_path: Path, line: str, where: str
) -> None:
    rows = _rows(TIMES, ECG)
    text = f"{line}\ntime,ECG\n{rows}" if where == "above" else f"time,ECG\n{rows}{line}\n{rows}"
    started = time.process_time()
    with suppress(RecordError):
        _read(_open(tmp_path, text))
    assert time.process_time() - started < 10.0  # by the square it takes minutes


@pytest.mark.parametrize("line", ["\n", "   \r\n"])
def test_the_time_to_read_does_not_grow_by_the_square_of_the_blank_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 2**16)
    text = "time,ECG\n" + _rows(TIMES, ECG) + 2**22 // len(line) * line
    started = time.process_time()
    np.testing.assert_allclose(_read(_open(tmp_path, text)), ECG, atol=1e-6)
    assert time.process_time() - started < 10.0  # by the square it takes a minute


MANY = 80_000
"""Rows beyond those by which the layout is found."""

LONG_ECG = np.round(np.random.default_rng(7).uniform(-1, 1, MANY), 4)
LONG_ROWS = _rows([f"{n / FS:.3f}" for n in range(MANY)], LONG_ECG)
WORDS = "no, samples\n"
BOOK = 2**21 // len(WORDS) * WORDS


def test_a_page_of_words_below_the_samples_is_left_out(tmp_path: Path) -> None:
    found = _read(_open(tmp_path, "time,ECG\n" + LONG_ROWS + 500 * WORDS))
    np.testing.assert_allclose(found, LONG_ECG, atol=1e-6)


@pytest.mark.parametrize(
    "below", [BOOK, WORDS + LONG_ROWS, BOOK + LONG_ROWS], ids=["book", "between", "book between"]
)
def test_words_between_the_samples_and_books_below_them_are_refused(
    tmp_path: Path, below: str
) -> None:
    opened = _open(tmp_path, "time,ECG\n" + LONG_ROWS + below)
    with pytest.raises(CorruptRecordError, match="must hold as many numbers"):
        _read(opened)


def test_missing_samples_of_a_table_of_tabs_keep_their_time_across_blocks(tmp_path: Path) -> None:
    n_missing = 2**21
    rows = _rows(OTHER, ECG, separator="\t")
    opened = _open(tmp_path, "II\tECG\n" + rows + n_missing * "\t\n" + rows, fs=FS)
    found = np.concatenate(list(opened.blocks(opened.leads[1])))
    np.testing.assert_allclose(found, np.r_[ECG, np.full(n_missing, np.nan), ECG], atol=1e-6)
