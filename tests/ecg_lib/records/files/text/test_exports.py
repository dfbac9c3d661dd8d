"""Texts as wearables and their laboratories export them: read, or refused by what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSamplingRateError,
    MissingDetailError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording

N = 3000

ECG = np.round(np.random.default_rng(4).uniform(-1, 1, N), 4)
COUNTS = np.rint(ECG * 200).astype(int)


def _open(tmp_path: Path, text: str, *, fs: float | None = None) -> RecordingFile:
    path = tmp_path / "r.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return open_recording(path, fs=fs)


def _rows(*columns: Sequence[object], separator: str = ",") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


def test_pairs_above_one_column_describe_it_in_any_language(tmp_path: Path) -> None:
    head = "Ime,Janez\nZapestje,levo\nEnota,uV\n"
    opened = _open(tmp_path, head + _rows(ECG * 1000), fs=250)
    assert np.allclose(np.concatenate(list(opened.blocks(opened.leads[0]))), ECG, atol=1e-5)
    with pytest.raises(CorruptRecordError, match="2 headings for 1 columns"):
        _open(tmp_path, "ECG I,ECG II\n" + _rows(ECG), fs=250)


def test_the_heading_with_a_unit_is_that_of_the_column(tmp_path: Path) -> None:
    head = "sampling_frequency;300\nwear position;left wrist\nsignal (uV)\n"
    opened = _open(tmp_path, head + _rows(ECG * 1000))
    assert [(lead.name, lead.fs) for lead in opened.leads] == [("signal", 300)]
    assert np.allclose(np.concatenate(list(opened.blocks(opened.leads[0]))), ECG, atol=1e-5)


TICKS = range(N)

SHIMMER = "Shimmer\tShimmer\tShimmer\tShimmer\nTimestamp\tTimestamp\tECG LL-RA\tECG LL-RA\n"


@pytest.mark.parametrize(
    ("text", "fs"),
    [
        ("time [s/256],ECG_I [mV]\n" + _rows(TICKS, ECG), 256),
        ("time [s/256],ECG_I [mV](/api/datatype/4113/)\n" + _rows(TICKS, ECG), 256),
        ("time [s/256],ECG_I [mV]\n" + _rows(range(357056000000, 357056000000 + N), ECG), 256),
        ("time [s/1000],ECG [mV]\n" + _rows(range(0, 4 * N, 4), ECG), 250),
        ("time (1/250 s),ECG (mV)\n" + _rows(TICKS, ECG), 250),
        ("time [100 us],ECG [mV]\n" + _rows(range(0, 40 * N, 40), ECG), 250),
        ("time,ECG\ns/256,mV\n" + _rows(TICKS, ECG), 256),
        ("LocalTimestamp,ecg_mV\n" + _rows(np.arange(N) / 250, ECG), 250),
        (
            "Interval=,4 ms,,\nChannelTitle=,ECG,ABP\nRange=,10 mV,100 mmHg\n"
            + _rows(np.arange(N) / 250, ECG, COUNTS),
            250,
        ),
        ("1544027337.000000\n250.000000\n" + _rows(ECG), 250),
        ("1544027337.0, 1544027337.0\n250.0, 250.0\n" + _rows(ECG, ECG), 250),
        ('"time\n(s)","ECG\n(mV)"\n' + _rows(np.arange(N) / 250, ECG), 250),
        ('"time\n(s)","ECG\n(mV)"\r\n' + _rows(np.arange(N) / 250, ECG), 250),
        ('"a note\nof, some\n\nlines"\ntime,ECG (mV)\n' + _rows(np.arange(N) / 250, ECG), 250),
        (
            "Shimmer\tShimmer\nTimestamp\tECG LL-RA\nCAL\tCAL\nms\tmV\n"
            + _rows(1000 * np.arange(N) / 512, ECG, separator="\t"),
            512,
        ),
        (
            f"{SHIMMER}RAW\tCAL\tRAW\tCAL\nno units\tms\tno units\tmV\n"
            + _rows(range(0, 64 * N, 64), 1000 * np.arange(N) / 512, COUNTS, ECG, separator="\t"),
            512,
        ),
    ],
    ids=[
        *("hexoskin", "hexoskin with addresses", "hexoskin since 1970", "thousandths"),
        *("parts", "tens of microseconds", "ticks in a row of units", "words put together"),
        *("labchart of a spreadsheet", "start and rate"),
        *("start and rate of two", "headings of two lines", "carriage returns", "note of lines"),
        *("shimmer of four rows", "shimmer raw and calibrated"),
    ],
)
def test_an_export_is_read_at_its_rate(tmp_path: Path, text: str, fs: float) -> None:
    opened = _open(tmp_path, text)
    lead = choose_lead(opened.leads[:1])
    assert lead.fs == pytest.approx(fs, rel=1e-9)
    samples = np.concatenate(list(opened.blocks(lead)))
    np.testing.assert_allclose(samples, ECG, atol=1e-6)


def test_headings_of_two_lines_are_joined_by_a_blank(tmp_path: Path) -> None:
    opened = _open(tmp_path, '"time\n[ms]","Lead II\n[uV]"\n' + _rows(range(0, 4 * N, 4), ECG))
    (lead,) = opened.leads
    assert (lead.name, lead.has_unit) == ("Lead II", True)
    samples = np.concatenate(list(opened.blocks(lead)))
    np.testing.assert_allclose(samples, ECG / 1000, atol=1e-6)


def test_a_lone_mark_of_inches_does_not_swallow_headings(tmp_path: Path) -> None:
    head = 'Screen: 5"\ntime,ECG (uV)\nPaper: 8"\n'
    (lead,) = _open(tmp_path, head + _rows(np.arange(N) / 250, ECG)).leads
    assert (lead.name, lead.fs, lead.has_unit) == ("ECG", 250.0, True)


@pytest.mark.parametrize("fs", [None, 250.0])
@pytest.mark.parametrize("rate", [1, 4, 32, 64, 99.9])
def test_signals_of_a_wristband_are_not_an_ecg(
    tmp_path: Path, rate: float, fs: float | None
) -> None:
    with pytest.raises(UnsupportedRecordError, match="Empatica writes BVP, EDA, ACC, TEMP and HR"):
        _open(tmp_path, f"1544027337.000000\n{rate}\n" + _rows(ECG), fs=fs)


@pytest.mark.parametrize("start", ["1544027337.000000", "1000000000", "4000000000"])
def test_a_start_and_a_rate_may_stand_above_the_samples(tmp_path: Path, start: str) -> None:
    assert _open(tmp_path, f"{start}\n100\n" + _rows(ECG)).leads[0].fs == 100.0


@pytest.mark.parametrize("head", ["999999999\n100\n", "4000000001\n100\n", "1544027337\n1001\n"])
def test_other_numbers_above_the_samples_are_samples(tmp_path: Path, head: str) -> None:
    opened = _open(tmp_path, head + _rows(ECG), fs=250.0)
    assert opened.leads[0].fs == 250.0


def test_an_empty_unit_is_that_of_counts(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedRecordError, match="counts, which need the gain"):
        _open(tmp_path, "time [s/256],ECG_I [ ](/api/datatype/4113/)\n" + _rows(TICKS, COUNTS))


@pytest.mark.parametrize("unit", ["samples", "s/0", "0 us", "weeks"])
def test_time_in_a_unit_that_is_not_one_is_refused(tmp_path: Path, unit: str) -> None:
    with pytest.raises(UnsupportedRecordError, match=r"or parts of a second \(s/256\), it is not"):
        _open(tmp_path, f"time [{unit}],ECG [mV]\n" + _rows(TICKS, ECG))


@pytest.mark.parametrize(
    "head",
    ["signal\n", "type,frequency,signal\nECG,300,", "reading_id,waveform_samples\n1,"],
    ids=["withings", "withings with columns", "fitbit"],
)
def test_a_list_of_samples_in_a_cell_is_refused_by_that_word(tmp_path: Path, head: str) -> None:
    samples = ",".join(map(str, COUNTS))
    with pytest.raises(UnsupportedRecordError, match="a cell holds a list of samples"):
        _open(tmp_path, f'{head}"[{samples}]"\n', fs=250.0)


def test_a_table_of_figures_by_the_second_is_not_asked_for_a_unit(tmp_path: Path) -> None:
    clocks = [f"01/02/2020 10:{n // 60:02d}:{n % 60:02d}.000" for n in range(N)]
    text = "Time,HR,BR,ECGAmplitude\n" + _rows(clocks, COUNTS, COUNTS, ECG)
    with pytest.raises(InvalidSamplingRateError, match=r"fs=1.0, of the column of time$"):
        _open(tmp_path, text)


def test_a_row_that_cannot_be_read_is_told_by_its_number(tmp_path: Path) -> None:
    block = _rows([f"{n / 250:.3f}" for n in range(N)], ECG)
    opened = _open(tmp_path, f"time,ECG\n{block}12.000,1'024.5\n12.004,0.1\n")
    with pytest.raises(CorruptRecordError, match="row 3001 of its samples does not"):
        list(opened.blocks(opened.leads[0]))


TIMES = [f"{n / 250:.3f}" for n in range(N)]


@pytest.mark.parametrize(
    "unit",
    [
        *("0.001 mV", "x0.001 mV", "uV/10", "mV*1000", "10 uV", "0.5uV", "1e-6 V", "100 nV"),
        *("mV x 1000", "mV/div", "1/200 mV", "5 \N{MICRO SIGN}V/LSB", "adu (200/mV)", "kV", "pV"),
    ],
)
@pytest.mark.parametrize("form", ["time,ECG ({})\n", "time,ECG\ns,{}\n"])
def test_a_unit_with_a_scale_is_not_read_without_it(tmp_path: Path, form: str, unit: str) -> None:
    with pytest.raises(UnsupportedRecordError) as raised:
        _open(tmp_path, form.format(unit) + _rows(TIMES, ECG))
    assert f"there is none among ECG ({unit}"[:60] in str(raised.value)


@pytest.mark.parametrize(
    "unit", ["1 uV", "uV (filtered)", "uV rms", "uV?", "\N{LATIN SMALL LETTER AE}V"]
)
@pytest.mark.parametrize("form", ["time,ECG ({})\n", "time,ECG\ns,{}\n"])
def test_a_unit_may_stand_among_other_words(tmp_path: Path, form: str, unit: str) -> None:
    (lead,) = (opened := _open(tmp_path, form.format(unit) + _rows(TIMES, ECG))).leads
    assert (lead.name, lead.has_unit) == ("ECG", True)
    np.testing.assert_allclose(np.concatenate(list(opened.blocks(lead))), ECG / 1000, atol=1e-6)


@pytest.mark.parametrize("name", ["ECG (V1)", "ECG (V5-V6)", "II (Pat 12)", "ECG [II/V]"])
def test_a_lead_in_brackets_is_not_a_unit(tmp_path: Path, name: str) -> None:
    opened = _open(tmp_path, f"time,{name}\n" + _rows(TIMES, ECG))
    assert [(lead.name, lead.has_unit) for lead in opened.leads] == [(name, False)]


THREE = (ECG, 2 * ECG, -ECG)


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("I,II,III", (*THREE, N * [""])),
        ("I,II,III,", THREE),
        ("I,II,III,,", THREE),
        ("I,II,III", (range(1, N + 1), *THREE)),
        ("I,II,III", ([f"row{n}" for n in range(N)], *THREE)),
        ("I,II,III", (*THREE, [*(N - 9) * [""], *9 * ["x"]])),
    ],
    ids=["cell at the end", "heading at the end", "two", "counted rows", "named rows", "remarks"],
)
def test_a_column_without_a_heading_does_not_move_the_others(
    tmp_path: Path, heading: str, columns: tuple[Sequence[object], ...]
) -> None:
    opened = _open(tmp_path, f"{heading}\n" + _rows(*columns), fs=250.0)
    for lead, values in zip(opened.leads, THREE, strict=True):
        samples = np.concatenate(list(opened.blocks(lead)))
        np.testing.assert_allclose(samples, values, atol=1e-6)
    assert [lead.name for lead in opened.leads] == ["I", "II", "III"]


def test_a_heading_that_is_missing_anywhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptRecordError, match="3 headings for 4 columns"):
        _open(tmp_path, "I,II,III\n" + _rows(ECG, *THREE), fs=250.0)


def test_remarks_below_the_headings_are_not_headings(tmp_path: Path) -> None:
    text = "time,ECG\n[s],[uV]\n(raw),(filtered)\n" + _rows(TIMES, ECG)
    (lead,) = _open(tmp_path, text).leads
    assert (lead.name, lead.fs, lead.has_unit) == ("ECG", 250.0, True)


def test_columns_of_time_that_contradict_each_other_are_asked_about(tmp_path: Path) -> None:
    text = "time (s),stamp time (ms),ECG\n" + _rows(TIMES, range(0, 8 * N, 8), ECG)
    with pytest.raises(MissingDetailError, match="give 250 and 125 Hz"):
        _open(tmp_path, text)
    for fs in (250.0, 125.0):
        opened = _open(tmp_path, text, fs=fs)
        assert len(np.concatenate(list(opened.blocks(opened.leads[0])))) == N
    with pytest.raises(MissingDetailError, match="the file states 250 Hz"):
        _open(tmp_path, text, fs=200.0)


def test_a_column_of_time_without_its_unit_contradicts_nothing(tmp_path: Path) -> None:
    text = "time (s),device time,ECG\n" + _rows(TIMES, range(0, 4 * N, 4), ECG)
    assert _open(tmp_path, text).leads[0].fs == 250.0


@pytest.mark.parametrize(
    ("stamps", "fs"),
    [
        ([1000 * n // 128 for n in range(N)], 128.0),
        ([300_000 + 1_000_000 * n // 128 for n in range(N)], 128.0),
        ([1000 * (n // 16 * 16) // 128 for n in range(N)], 128.0),
        (range(0, 4_000_000 * N, 4_000_000), 250.0),
    ],
    ids=["milliseconds", "microseconds", "packets", "nanoseconds"],
)
def test_a_rate_that_is_given_tells_the_unit_of_stamps_without_one(
    tmp_path: Path, stamps: Sequence[int], fs: float
) -> None:
    text = "timestamp,ecg\n" + _rows(stamps, ECG)
    opened = _open(tmp_path, text, fs=fs)
    assert opened.leads[0].fs == fs
    samples = np.concatenate(list(opened.blocks(opened.leads[0])))
    np.testing.assert_allclose(samples, ECG, atol=1e-6)
    for heading in ("timestamp [s]", "seconds", "timestamp (min)"):
        with pytest.raises((InvalidSamplingRateError, MissingDetailError)):
            _open(tmp_path, text.replace("timestamp", heading), fs=fs)
    with pytest.raises((InvalidSamplingRateError, MissingDetailError)):
        _open(tmp_path, text, fs=1.1 * fs)


def _labchart_block(samples: Sequence[object]) -> str:
    head = "Interval=\t0.004 s\nTimeFormat=\tStartOfBlock\nChannelTitle=\tECG\nRange=\t10 mV\n"
    times = [f"{at / 250:.3f}" for at in range(len(samples))]
    return head + _rows(times, samples, separator="\t")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (_labchart_block(ECG[:1000]) + _labchart_block(ECG[1000:]), 1008),
        ((_labchart_block(ECG[:1000]) + _labchart_block(ECG[1000:])).replace("\t", ","), 1008),
        ("time,ECG\n" + _rows(np.arange(N) / 250, ECG) + "time,ECG\n0,0.5\n", N + 2),
        ("ECG\r\n" + _rows(ECG).replace("\n", "\r\n") + "ECG\r\n0.5\r\n", N + 2),
    ],
    ids=["labchart", "labchart of a spreadsheet", "appended", "one column"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_second_block_is_named_as_the_reason(
    tmp_path: Path, text: str, line: int, encoding: str
) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text, encoding=encoding, newline="")
    with pytest.raises(
        UnsupportedRecordError, match=f"are repeated in line {line}; save each block"
    ):
        open_recording(path, fs=250.0)


def test_a_second_block_beyond_the_beginning_is_named_as_the_reason(tmp_path: Path) -> None:
    text = "time,ECG\n" + _rows(np.arange(40 * N) / 250, np.tile(ECG, 40))
    assert len(text) > 2**20
    (lead,) = (opened := _open(tmp_path, text + "time,ECG\n0,0.5\n")).leads
    with pytest.raises(UnsupportedRecordError, match=f"are repeated in line {40 * N + 2};"):
        list(opened.blocks(lead))


def test_headings_below_the_samples_are_words(tmp_path: Path) -> None:
    text = "time,ECG\n" + _rows(np.arange(N) / 250, ECG) + "time,ECG\n"
    (lead,) = (opened := _open(tmp_path, text)).leads
    assert sum(map(len, opened.blocks(lead))) == N
