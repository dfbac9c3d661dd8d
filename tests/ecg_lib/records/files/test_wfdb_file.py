"""WFDB records from strangers, against wfdb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from numpy.typing import NDArray

from ecg_lib.errors import (
    CorruptRecordError,
    EcgError,
    InvalidSamplingRateError,
    InvalidSignalError,
    RecordNotFoundError,
    UnsupportedRecordError,
)
from ecg_lib.records.annotations import DS1
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.files.wfdb.header import parse_header, write_neutral_header
from ecg_lib.records.record import read_wfdb, write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

SECRET = "Mustermann"  # noqa: S105  a name, which must not be told


def _read(opened: RecordingFile, name: str | None = None) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads, name))))


@pytest.fixture
def wfdb_record(tmp_path: Path) -> Path:
    return write_wfdb(simulate_strip(StripKind.COUPLET, seed=2, duration_s=20.0), tmp_path)


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


@pytest.mark.parametrize("version", ["5.0", "7.3"])
def test_a_matlab_file_of_another_version_is_refused_by_its_version(
    tmp_path: Path, version: str
) -> None:
    (tmp_path / "m.mat").write_bytes(f"MATLAB {version} MAT-file".encode().ljust(20_000))
    with pytest.raises(UnsupportedRecordError, match="must be of version 4"):
        open_recording(tmp_path / "m.mat")
    (tmp_path / "m.hea").write_text("m 1 250 5000\nm.mat 16+24 1000/mV 16 0 0 0 0 II\n")
    with pytest.raises(UnsupportedRecordError, match="must be of version 4"):
        open_recording(tmp_path / "m.hea")


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_wfdb_record_is_opened_by_any_of_its_names(wfdb_record: Path, suffix: str) -> None:
    opened = open_recording(wfdb_record.with_suffix(suffix))
    expected = read_wfdb(wfdb_record)
    assert opened.kind == "wfdb"
    np.testing.assert_allclose(_read(opened), expected.signal_mv(), atol=1e-6)


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
        ("r/3 1 250 5000\nr.dat 16", CorruptRecordError),
        ("r/1 1 250 5000\nother 5000", RecordNotFoundError),
        ("r/1 1 250 5000\n../other 5000", CorruptRecordError),
        ("r/1 1 250 5000\nr 5000", CorruptRecordError),
        ("r 1 250 5000\n/etc/passwd 16", CorruptRecordError),
        ("r 1 250 5000\n../r.dat 16", CorruptRecordError),
        ("r 1 250 5000\n..\\r.dat 16", CorruptRecordError),
        (f"r 1 250 5000\n{'ÿ' * 128}.dat 16", CorruptRecordError),
        ("r 1 250 5000\n~ 16", CorruptRecordError),
        ("r 1 250 5000\nr.dat 516", CorruptRecordError),
        ("r 1 250 5000\nr.dat 17", UnsupportedRecordError),
        ("r 1 250 5000\nr.dat 16x2", CorruptRecordError),
        ("r 1 250 5000\nr.dat 16x5000", UnsupportedRecordError),
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


def test_a_calibration_that_gives_more_than_any_electrode_is_refused(wfdb_record: Path) -> None:
    header = wfdb_record.with_suffix(".hea")
    header.write_text(header.read_text().replace(" 2000.0(0)/mV", " 0.01(0)/mV"))
    with pytest.raises(InvalidSignalError, match="at most 10000 mV"):
        _read(open_recording(header))


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("q 1 250 5000\nq.dat 16 1000/mV 16 0 0 0 0 Derivación II\n", "Derivación II"),
        ("\ufeffq 1 250 5000\r\nq.dat 16 1000/mV 16 0 0 0 0 II\r\n", "II"),
        ("  # Age: 3\n\n q 1 250 5000\n  q.dat 16 1000/mV 16 0 0 0 0 II\n", "II"),
        ("q\t1\t250/250(0)\t5000\nq.dat\t16\t1000(0)/mV\t16\t0\t0\t0\t0\tII\n", "II"),
        ("q 1 2.5e2 5000 05-Mar-2018 13:22:10\nq.dat 16 1e3/mV 16 0 0 0 0 II\n", "II"),
        ("q 1 250 5000 13:22:10 PM\nq.dat 16 1/microV 16 0 0 0 0 II\n", "II"),
        ("q 1 250\nq.dat 16 1/µV\n", "signal1"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_headers_of_many_programs_are_read(
    tmp_path: Path, header: str, name: str, encoding: str
) -> None:
    counts = np.random.default_rng(3).integers(-3000, 3000, 5000)
    (tmp_path / "q.dat").write_bytes(counts.astype("<i2").tobytes())
    (tmp_path / "q.hea").write_bytes(header.encode(encoding, errors="ignore"))
    opened = open_recording(tmp_path / "q.hea")
    assert [(lead.name, lead.fs) for lead in opened.leads] == [(name, 250.0)]
    np.testing.assert_allclose(_read(opened), counts / 1000, atol=1e-5)
