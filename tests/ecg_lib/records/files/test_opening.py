"""Decoders of files from strangers: against wfdb and edfio, and against whatever comes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ecg_lib.records.files.csv_file as module
from ecg_lib.errors import (
    CorruptRecordError,
    EcgError,
    InvalidSamplingRateError,
    InvalidSignalError,
    MissingDetailError,
    RecordError,
    RecordNotFoundError,
    RecordTooLongError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.records.annotations import DS1
from ecg_lib.records.files.csv_file import LONGEST, ColumnKind, Heading, read_heading
from ecg_lib.records.files.edf_file import blank_identity
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.wfdb_file import parse_header, write_neutral_header
from ecg_lib.records.record import read_wfdb, write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

SECRET = "Mustermann"  # noqa: S105  a name, which must not be told


def _read(opened: RecordingFile, name: str | None = None) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads, name))))


@pytest.fixture
def wfdb_record(tmp_path: Path) -> Path:
    return write_wfdb(simulate_strip(StripKind.COUPLET, seed=2, duration_s=20.0), tmp_path)


def _write_edf(path: Path, *, fs: float = 200.0, seconds: int = 12, **header: str) -> NDArray:
    rng = np.random.default_rng(3)
    leads = rng.uniform(-2, 2, (2, round(seconds * fs)))
    signals = [
        edfio.EdfSignal(leads[0], fs, label="ECG II", physical_dimension="mV"),
        edfio.EdfSignal(leads[1] * 1000, fs, label="V5", physical_dimension="uV"),
        edfio.EdfSignal(rng.uniform(0, 40, seconds), 1, label="Temp", physical_dimension="degC"),
    ]
    patient = edfio.Patient(name=SECRET, code="123")
    edf = edfio.Edf(signals, patient=patient, **header)
    edf.add_annotations([edfio.EdfAnnotation(1.0, None, f"{SECRET} felt dizzy")])
    edf.write(path)
    return leads


# The same samples as independent readers give.


@pytest.mark.parametrize(
    ("encoding", "limit"),
    [("16", 30000), ("212", 2000), ("80", 120), ("24", 8_000_000), ("32", 2**30)],
)
@pytest.mark.parametrize("n_signals", [1, 2, 3])
def test_each_encoding_is_read_as_wfdb_reads_it(
    tmp_path: Path, encoding: str, limit: int, n_signals: int
) -> None:
    rng = np.random.default_rng(1)
    digital = rng.integers(-limit, limit, (5001, n_signals))
    wfdb.wrsamp(
        "r",
        fs=250,
        units=["mV"] * n_signals,
        sig_name=[f"L{n}" for n in range(n_signals)],
        d_signal=digital,
        fmt=[encoding] * n_signals,
        adc_gain=[limit / 10] * n_signals,
        baseline=[7] * n_signals,
        write_dir=str(tmp_path),
    )
    opened = open_recording(tmp_path / "r.hea")
    for number in range(n_signals):
        expected = (digital[:, number] - 7) / (limit / 10)
        np.testing.assert_allclose(_read(opened, f"L{number}"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.data
def test_real_records_are_read_as_the_trusted_reader_reads_them(mitdb_dir: Path) -> None:
    for name in DS1[::5]:
        record = read_wfdb(mitdb_dir / name)
        opened = open_recording(mitdb_dir / f"{name}.hea")
        assert [lead.name for lead in opened.leads] == list(record.leads)
        for lead in record.leads:
            np.testing.assert_allclose(_read(opened, lead), record.signal_mv(lead), atol=1e-5)


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_wfdb_record_is_opened_by_any_of_its_names(wfdb_record: Path, suffix: str) -> None:
    opened = open_recording(wfdb_record.with_suffix(suffix))
    expected = read_wfdb(wfdb_record)
    assert opened.kind == "wfdb"
    np.testing.assert_allclose(_read(opened), expected.signal_mv(), atol=1e-6)


def test_edf_is_read_as_edfio_reads_it(tmp_path: Path) -> None:
    _write_edf(tmp_path / "r.edf")
    opened = open_recording(tmp_path / "r.edf")
    assert [(lead.name, lead.fs, lead.n_samples) for lead in opened.leads] == [
        ("II", 200.0, 2400),
        ("V5", 200.0, 2400),
    ]
    edf = edfio.read_edf(tmp_path / "r.edf")
    np.testing.assert_allclose(_read(opened, "II"), edf.signals[0].data, atol=1e-5)
    np.testing.assert_allclose(_read(opened, "V5"), edf.signals[1].data / 1000, atol=1e-5)


def _write_trend(path: Path, *rates_hz: float) -> list[NDArray]:
    rng = np.random.default_rng(5)
    signals = [rng.uniform(-2, 2, round(12 * fs)) for fs in rates_hz]
    edfio.Edf(
        [
            edfio.EdfSignal(values, fs, label=f"ECG {fs:g}", physical_dimension="mV")
            for values, fs in zip(signals, rates_hz, strict=True)
        ]
    ).write(path)
    return signals


def test_a_trend_in_millivolts_is_no_lead_of_an_edf_file(tmp_path: Path) -> None:
    _, own, _, other = _write_trend(tmp_path / "r.edf", 1, 200, 2000, 250)
    opened = open_recording(tmp_path / "r.edf")
    assert [(lead.name, lead.fs) for lead in opened.leads] == [("200", 200.0), ("250", 250.0)]
    np.testing.assert_allclose(_read(opened, "200"), own, atol=1e-4)
    np.testing.assert_allclose(_read(opened, "250"), other, atol=1e-4)
    with pytest.raises(UnknownLeadError, match="200, 250"):
        choose_lead(opened.leads, "1")


def test_an_edf_file_without_a_voltage_is_refused(tmp_path: Path) -> None:
    signal = edfio.EdfSignal(np.arange(2400.0), 200, label="Resp", physical_dimension="l/min")
    edfio.Edf([signal]).write(tmp_path / "r.edf")
    with pytest.raises(UnsupportedRecordError, match="a signal in V, mV or uV"):
        open_recording(tmp_path / "r.edf")


def test_an_edf_file_of_trends_alone_is_refused(tmp_path: Path) -> None:
    _write_trend(tmp_path / "r.edf", 1, 50)
    with pytest.raises(InvalidSamplingRateError, match=r"fs=1\.0"):
        open_recording(tmp_path / "r.edf")


def test_the_identity_of_an_edf_file_can_be_blanked(tmp_path: Path) -> None:
    path = tmp_path / "r.edf"
    _write_edf(path)
    content = path.read_bytes()
    assert SECRET.encode() in content[:256]
    path.write_bytes(blank_identity(content[:256]) + content[256:])
    assert SECRET.encode() not in path.read_bytes()[:256]
    edf = edfio.read_edf(path)
    assert edf.patient.name == "X"
    assert len(_read(open_recording(path))) == 2400


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
        (b"MLII\n1\nx\n", "as many numbers as the first"),
        (b"1,2\n3\n", "as many numbers as the first"),
        (b"time_s\n0\n1\n", "none but time and counts"),
        (b"time_s,MLII\n1,0\n1,0\n", "time must go forwards"),
        (b"time_s,MLII\n1,0\n", "two rows or more"),
        (b"time_s,MLII\n1,0\nx,0\n", "hold seconds"),
        (b"MLII,MLII\n1,0\n1,0\n", "a name of its own"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
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
        with pytest.raises(RecordError, match=r"a name of its own|none but time|in s, ms"):
            open_recording(path, fs=fs)
        return
    opened = open_recording(path, fs=fs)
    assert [(lead.name, lead.fs) for lead in opened.leads] == [
        (name, 250.0) for name in csv_case.leads
    ]
    for name, signal_mv in zip(csv_case.leads, csv_case.signals_mv, strict=True):
        np.testing.assert_allclose(_read(opened, name), signal_mv, rtol=1e-6)


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
def test_blank_lines_of_more_than_a_block_are_no_samples(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CSV_BLOCK_BYTES", 1024)
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
        ([*np.arange(5000) / 250, *(30 + np.arange(5000) / 250)], "no gaps"),
        ([*np.arange(5000) / 250, *(10 + np.arange(5000) / 250)], "forwards"),
        ([*np.arange(5000) / 250, *(20 + np.arange(5000) / 200)], "rate of its beginning"),
        ([*np.arange(5000) / 250, np.nan, *(20 + np.arange(5000) / 250)], "hold seconds"),
        ([*np.arange(5000) / 250, 1e300], "hold seconds"),
    ],
)
def test_a_column_of_time_is_read_to_its_end(
    tmp_path: Path, times_s: list[float], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PEEK_BYTES", 4096)
    monkeypatch.setattr(module, "_CSV_BLOCK_BYTES", 8192)
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


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i2", "u2", "i8", ">f4"])
def test_numpy_arrays_of_numbers_are_read(tmp_path: Path, dtype: str) -> None:
    values = np.arange(6000).reshape(3000, 2) % 50
    np.save(tmp_path / "r.npy", np.asfortranarray(values.astype(dtype)))
    opened = open_recording(tmp_path / "r.npy", fs=250.0, unit="uV")
    np.testing.assert_allclose(_read(opened, "lead2"), values[:, 1] / 1000, rtol=1e-3)


def test_a_header_without_names_says_the_same(wfdb_record: Path) -> None:
    text = wfdb_record.read_text() + f"# {SECRET}\n"
    header = parse_header(text)
    neutral = write_neutral_header(header, {header.signals[0].file: "signal0.dat"})
    again = parse_header(neutral)
    assert SECRET not in neutral
    assert wfdb_record.stem not in neutral
    assert [
        (signal.gain, signal.baseline, signal.unit, signal.checksum, signal.name)
        for signal in again.signals
    ] == [
        (signal.gain, signal.baseline, signal.unit, signal.checksum, signal.name)
        for signal in header.signals
    ]
    bare = parse_header("x 1 250 100 10:20:30\nx.dat 212\n")
    assert parse_header(write_neutral_header(bare, {"x.dat": "y.dat"})).signals[0].checksum is None
    assert bare.start_clock_s == 37_230.0


def test_leads_are_chosen_by_name_and_unknown_ones_named(wfdb_record: Path) -> None:
    leads = open_recording(wfdb_record).leads
    assert choose_lead(leads).name == "MLII"
    assert choose_lead(leads[1:]).name == "V1"
    assert choose_lead(leads, "V1").name == "V1"
    with pytest.raises(UnknownLeadError, match="MLII, V1"):
        choose_lead(leads, "aVF")


# What is refused.


def test_a_flipped_bit_has_the_wrong_checksum(wfdb_record: Path) -> None:
    dat = wfdb_record.with_suffix(".dat")
    content = bytearray(dat.read_bytes())
    content[1000] ^= 1
    dat.write_bytes(content)
    with pytest.raises(CorruptRecordError, match="checksum"):
        _read(open_recording(wfdb_record))


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("", CorruptRecordError),
        ("r 1 250", CorruptRecordError),
        ("r 0 250 5000", CorruptRecordError),
        ("r 999999999 250 5000\nr.dat 16", CorruptRecordError),
        ("r/3 1 250 5000\nr.dat 16", UnsupportedRecordError),
        ("r 1 250 5000\n/etc/passwd 16", CorruptRecordError),
        ("r 1 250 5000\n../r.dat 16", CorruptRecordError),
        ("r 1 250 5000\n..\\r.dat 16", CorruptRecordError),
        (f"r 1 250 5000\n{'ÿ' * 128}.dat 16", CorruptRecordError),
        ("r 1 250 5000\n~ 16", CorruptRecordError),
        ("r 1 250 5000\nr.dat 516", UnsupportedRecordError),
        ("r 1 250 5000\nr.dat 16x2", UnsupportedRecordError),
        ("r 1 250 5000\nr.dat 16:5", UnsupportedRecordError),
        ("r 1 250 999999999999\nr.dat 16", CorruptRecordError),
        ("r 1 250 5000\nother.dat 16", RecordNotFoundError),
        ("r 1 250 5000\nr.dat 16+999999999", CorruptRecordError),
        ("r 1 1e300 5000\nr.dat 16", InvalidSamplingRateError),
        ("r 1 0.0001 5000\nr.dat 16", InvalidSamplingRateError),
        ("r 1 250 5\nr.dat 16", InvalidSignalError),
        ("r 2 250 5000\nr.dat 16\nr.dat 212", CorruptRecordError),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    tmp_path: Path, header: str, error: type[EcgError]
) -> None:
    (tmp_path / "r.hea").write_text(header)
    np.zeros(5000, np.int16).tofile(tmp_path / "r.dat")
    with pytest.raises(error):
        open_recording(tmp_path / "r.hea")


def test_more_than_14_days_is_refused_by_name_of_the_limit(tmp_path: Path) -> None:
    n_samples = 100 * 14 * 86_400 + 1
    with (tmp_path / "r.dat").open("wb") as file:
        file.truncate(2 * n_samples)
    (tmp_path / "r.hea").write_text(f"r 1 100 {n_samples}\nr.dat 16 200 16 0\n")
    with pytest.raises(RecordTooLongError, match=r"at most 14 days, got 14\.00 days"):
        open_recording(tmp_path / "r.hea")
    (tmp_path / "r.hea").write_text(f"r 1 100 {n_samples - 1}\nr.dat 16 200 16 0\n")
    assert open_recording(tmp_path / "r.hea").leads[0].n_samples == n_samples - 1


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_a_file_without_a_rate_needs_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"r{suffix}"
    if suffix == ".csv":
        path.write_text("MLII\n" + "0.1\n" * 5000)
    else:
        np.save(path, np.zeros(5000))
    with pytest.raises(MissingDetailError, match="sampling_rate must be given") as raised:
        open_recording(path)
    assert raised.value.detail == "sampling_rate"
    assert open_recording(path, fs=200.0).leads[0].fs == 200.0


def test_what_contradicts_the_file_is_refused(wfdb_record: Path) -> None:
    assert open_recording(wfdb_record, fs=360.0).leads[0].fs == 360.0
    with pytest.raises(MissingDetailError, match="states 360 Hz"):
        open_recording(wfdb_record, fs=250.0)
    with pytest.raises(MissingDetailError, match="left out"):
        open_recording(wfdb_record, unit="mV")
    with pytest.raises(MissingDetailError, match="one of mV, uV, V"):
        open_recording(wfdb_record, unit="furlong")


def test_counts_of_a_converter_are_no_millivolts(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.full(5000, 20_000.0))
    with pytest.raises(InvalidSignalError, match="unit that is given"):
        _read(open_recording(tmp_path / "r.npy", fs=200.0))


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


def test_a_calibration_that_gives_more_than_any_electrode_is_refused(wfdb_record: Path) -> None:
    header = wfdb_record.with_suffix(".hea")
    header.write_text(header.read_text().replace(" 2000.0(0)/mV", " 0.01(0)/mV"))
    with pytest.raises(InvalidSignalError, match="at most 10000 mV"):
        _read(open_recording(header))


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


def test_a_gap_in_edf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.edf"
    _write_edf(path)
    content = bytearray(path.read_bytes())
    content[192:197] = b"EDF+D"
    path.write_bytes(content)
    with pytest.raises(UnsupportedRecordError, match="gaps"):
        open_recording(path)


def test_an_edf_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.edf"
    _write_edf(path)
    whole = path.read_bytes()
    for kept in (0, 100, 300, 1000, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(CorruptRecordError):
            open_recording(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.docx").write_bytes(b"x")
    with pytest.raises(UnsupportedRecordError, match=r"\.hea, \.edf, \.csv, \.npy"):
        open_recording(tmp_path / "r.docx")


def _expect_answer_or_refusal(path: Path, **options: object) -> None:
    """Whatever comes is read or refused by an error of ours that repeats nothing."""
    said = ""
    try:
        opened = open_recording(path, **options)  # type: ignore[arg-type]
        for lead in opened.leads[:3]:
            for _ in opened.blocks(lead):
                pass
    except EcgError as error:
        said = str(error)
    assert SECRET not in said
    assert str(path.parent) not in said


_FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_FUZZ
@given(data=st.data())
def test_a_changed_wfdb_header_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    write_wfdb(simulate_strip(StripKind.NORMAL, seed=1), tmp_path)
    path = next(tmp_path.glob("*.hea"))
    text = list(path.read_text() + f"# {SECRET}\n")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from([*"0123456789-+./():x \n~", "", "e308", SECRET]))
    path.write_text("".join(text))
    _expect_answer_or_refusal(path)


@_FUZZ
@given(data=st.data())
def test_a_changed_edf_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "r.edf"
    _write_edf(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, 1500))
        content[place] = data.draw(st.sampled_from(b"0123456789-+. eEXn\x00\xff"))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    _expect_answer_or_refusal(path)


@_FUZZ
@given(content=st.binary(max_size=600))
@pytest.mark.parametrize("suffix", [".edf", ".csv", ".npy", ".hea"])
def test_any_bytes_are_read_or_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"r{suffix}"
    path.write_bytes(content)
    _expect_answer_or_refusal(path, fs=None if suffix in {".edf", ".hea"} else 200.0)


@_FUZZ
@given(
    rows=st.lists(
        st.lists(
            st.one_of(
                st.floats(width=32).map(str), st.sampled_from(["", "x", SECRET, '"', "1e999"])
            ),
            min_size=1,
            max_size=4,
        ).map(",".join),
        max_size=40,
    )
)
def test_any_text_is_read_or_refused(tmp_path: Path, rows: list[str]) -> None:
    path = tmp_path / "r.csv"
    path.write_text("\n".join(["0.1,0.2"] * 1000 + rows))
    _expect_answer_or_refusal(path, fs=100.0)


@_FUZZ
@given(
    header=st.one_of(
        st.binary(max_size=200),
        st.fixed_dictionaries(
            {
                "descr": st.sampled_from(["<f4", "<f8", "|O", "<i2", "V8", "<U4", "<c16"]),
                "fortran_order": st.booleans(),
                "shape": st.lists(st.integers(-1, 10**13), max_size=4).map(tuple),
            }
        ).map(lambda header: str(header).encode()),
    )
)
def test_any_numpy_header_is_read_or_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "r.npy"
    file = io.BytesIO(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    path.write_bytes(file.getvalue() + b"\x00" * 8000)
    _expect_answer_or_refusal(path, fs=200.0)


def test_a_long_heading_is_not_looked_into() -> None:
    """To look into it would take a time that grows with the square of its length."""
    heading = "t" + (LONGEST - 5) * " " + "(uV)"
    assert read_heading(heading) == Heading(ColumnKind.TIME, "t", None)
    longer = heading.replace("t", "t  ")
    assert read_heading(longer) == Heading(ColumnKind.LEAD, longer)
