"""Reading and writing records: round trips, real files, and every way a file can be broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecg_lib.errors import (
    CorruptRecordError,
    RecordError,
    RecordNotFoundError,
    UnknownLeadError,
)
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.record import Record, read_wfdb, write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from tests.lists import MITDB_RECORDS


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A small WFDB record with annotations; the header's path."""
    return write_wfdb(simulate_strip(StripKind.ISOLATED_PVC, seed=1), tmp_path)


def _record(n_samples: int = 720, leads: tuple[str, ...] = ("MLII",)) -> Record:
    values = np.linspace(-1, 1, n_samples * len(leads), dtype=np.float32)
    return Record(name="r", fs=360.0, leads=leads, signals_mv=values.reshape(n_samples, -1))


def test_a_record_survives_the_round_trip_through_wfdb(tmp_path: Path) -> None:
    record = simulate_strip(StripKind.COUPLET, seed=3, fs=500.0)
    back = read_wfdb(write_wfdb(record, tmp_path), with_annotations=True)
    assert (back.name, back.fs, back.leads) == (record.name, 500.0, ("MLII", "V1"))
    assert back.comments == record.comments
    assert back.duration_s == record.duration_s
    np.testing.assert_allclose(back.signals_mv, record.signals_mv, atol=0.5 / 2000 + 1e-6)
    assert record.annotations is not None
    assert back.annotations is not None
    np.testing.assert_array_equal(back.annotations.samples, record.annotations.samples)
    np.testing.assert_array_equal(back.annotations.symbols, record.annotations.symbols)


@settings(max_examples=20, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 5000), max_size=40),
    symbols=st.text("NVASF/~+", min_size=40, max_size=40),
)
def test_annotations_survive_the_round_trip(
    gaps: list[int], symbols: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    samples = np.cumsum(gaps, dtype=np.int64)
    chosen = np.array(list(symbols[: len(samples)]), dtype="U1")
    record = replace(_record(), annotations=Annotations(samples=samples, symbols=chosen))
    path = write_wfdb(record, tmp_path_factory.mktemp("atr"))
    assert path.with_name("r.atr").is_file()
    back = read_wfdb(path, with_annotations=True).annotations
    assert back is not None
    assert back.samples.tolist() == samples.tolist()
    assert back.symbols.tolist() == chosen.tolist()


@pytest.mark.parametrize("suffix", ["", ".hea", ".dat"])
def test_a_wfdb_record_is_read_by_any_of_its_names(written: Path, suffix: str) -> None:
    record = read_wfdb(written.with_suffix(suffix))
    assert record.name == written.stem
    assert record.annotations is None


def test_samples_out_of_the_range_of_the_format_are_clipped(tmp_path: Path) -> None:
    record = Record(
        name="tall", fs=360.0, leads=("MLII",), signals_mv=np.array([[-50.0], [0.0], [50.0]])
    )
    back = read_wfdb(write_wfdb(record, tmp_path))
    assert back.signals_mv[:, 0].tolist() == [-16.0, 0.0, 16.0]


@pytest.mark.data
def test_all_48_records_of_mitdb_are_whole(mitdb_dir: Path) -> None:
    assert len(MITDB_RECORDS) == 48
    for name in MITDB_RECORDS:
        record = read_wfdb(mitdb_dir / name, with_annotations=True)
        assert record.fs == 360.0
        assert record.signals_mv.shape == (650_000, 2)
        assert np.isfinite(record.signals_mv).all()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "lead", "column"), [("102", "V5", 0), ("104", "V5", 0), ("114", "MLII", 1)]
)
def test_the_lead_is_chosen_by_name_not_by_column(
    name: str, lead: str, column: int, mitdb_dir: Path
) -> None:
    record = read_wfdb(mitdb_dir / name)
    assert record.leads[0] == "V5"
    assert record.choose_lead() == lead
    np.testing.assert_array_equal(record.signal_mv(), record.signals_mv[:, column])


def test_mlii_is_preferred_wherever_it_stands() -> None:
    record = _record(leads=("V5", "MLII"))
    assert record.choose_lead() == "MLII"
    np.testing.assert_array_equal(record.signal_mv(), record.signals_mv[:, 1])
    assert record.choose_lead("V5") == "V5"
    assert _record(leads=("V5", "V1")).choose_lead() == "V5"


def test_an_unknown_lead_is_refused_with_the_leads_there_are() -> None:
    with pytest.raises(UnknownLeadError, match="MLII, V1, not 'aVF'"):
        _record(leads=("MLII", "V1")).signal_mv("aVF")


def test_202_is_the_subject_of_201() -> None:
    record = Record(name="202", fs=360.0, leads=("MLII",), signals_mv=np.zeros((1, 1), np.float32))
    assert record.subject == "201"


@pytest.mark.parametrize("shape", [(10,), (10, 1), (10, 3)])
def test_a_record_needs_one_column_for_each_lead(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one column for each lead"):
        Record(name="r", fs=360.0, leads=("MLII", "V1"), signals_mv=np.zeros(shape, np.float32))


@pytest.mark.parametrize("fs", [0.0, -1.0, float("nan")])
def test_a_record_needs_a_sampling_rate(fs: float) -> None:
    with pytest.raises(ValueError, match="fs must be positive"):
        Record(name="r", fs=fs, leads=("MLII",), signals_mv=np.zeros((1, 1), np.float32))


# Damage that a WFDB record may have.


@pytest.mark.parametrize("suffix", [".hea", ".dat", ".atr"])
def test_a_missing_file_is_named(written: Path, suffix: str) -> None:
    written.with_suffix(suffix).unlink()
    with pytest.raises(RecordNotFoundError, match=f"{written.stem}{suffix} is missing"):
        read_wfdb(written, with_annotations=True)


def test_missing_annotations_do_not_matter_when_nobody_asks(written: Path) -> None:
    written.with_suffix(".atr").unlink()
    assert read_wfdb(written).annotations is None


@pytest.mark.parametrize("kept", [0, 1, 1000])
def test_a_truncated_dat_file_is_refused(written: Path, kept: int) -> None:
    dat = written.with_suffix(".dat")
    dat.write_bytes(dat.read_bytes()[:kept])
    with pytest.raises(CorruptRecordError):
        read_wfdb(written)


def test_a_single_flipped_bit_has_the_wrong_checksum(written: Path) -> None:
    dat = written.with_suffix(".dat")
    content = bytearray(dat.read_bytes())
    content[1000] ^= 1
    dat.write_bytes(content)
    with pytest.raises(CorruptRecordError, match=r"signal 0 of record .* must have checksum"):
        read_wfdb(written)


def test_a_changed_checksum_in_the_header_is_refused(written: Path) -> None:
    lines = written.read_text().splitlines()
    fields = lines[2].split()
    fields[6] = str(int(fields[6]) + 1)
    written.write_text("\n".join([*lines[:2], " ".join(fields), *lines[3:]]) + "\n")
    with pytest.raises(CorruptRecordError, match=r"signal 1 of record .* must have checksum"):
        read_wfdb(written)


def test_signals_in_microvolts_are_read_in_millivolts(written: Path) -> None:
    expected = read_wfdb(written).signals_mv
    written.write_text(written.read_text().replace("/mV", "/uV"))
    np.testing.assert_allclose(read_wfdb(written).signals_mv, expected / 1000, rtol=1e-6)


def test_a_signal_that_is_not_a_voltage_is_refused(written: Path) -> None:
    written.write_text(written.read_text().replace("/mV", "/mmHg"))
    with pytest.raises(CorruptRecordError, match="got 'mmHg'"):
        read_wfdb(written)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        "# only a comment\n",
        "r 0 360 0\n",
        "r 1 0 10\nr.dat 16 200 16 0 0 0 0 MLII\n",
        "r 1 360 720\n",
        "\x00\xff\xfe",
    ],
)
def test_a_header_that_describes_no_signal_is_refused(tmp_path: Path, header: str) -> None:
    write_wfdb(_record(), tmp_path)
    (tmp_path / "r.hea").write_text(header, encoding="latin-1")
    with pytest.raises(CorruptRecordError):
        read_wfdb(tmp_path / "r")


def test_annotations_cut_off_anywhere_are_refused(written: Path) -> None:
    atr = written.with_suffix(".atr")
    whole = atr.read_bytes()
    for kept in range(len(whole) - 1):
        atr.write_bytes(whole[:kept])
        with pytest.raises(CorruptRecordError, match="no end mark"):
            read_wfdb(written, with_annotations=True)


def test_an_unknown_annotation_code_is_refused(written: Path) -> None:
    written.with_suffix(".atr").write_bytes(b"\x0a\xc0\x00\x00")  # code 48 after ten samples
    with pytest.raises(CorruptRecordError, match="annotation code 48"):
        read_wfdb(written, with_annotations=True)


def test_annotations_that_go_backwards_are_refused(written: Path) -> None:
    skip_back = b"\x00\xec\xff\xff\xf0\xff" + b"\x00\x04"
    written.with_suffix(".atr").write_bytes(b"\xff\x04" + skip_back + b"\x00\x00")
    with pytest.raises(CorruptRecordError, match="ascending order"):
        read_wfdb(written, with_annotations=True)


def test_a_note_that_stalls_wfdb_is_read(written: Path) -> None:
    """``wfdb.rdann`` never returns from a note of this kind at sample 0."""
    note = b"\x00\x58\x06\xfc## odd" + b"\x05\x04" + b"\x00\x00"
    written.with_suffix(".atr").write_bytes(note)
    annotations = read_wfdb(written, with_annotations=True).annotations
    assert annotations is not None
    assert (annotations.samples.tolist(), annotations.symbols.tolist()) == ([5], ["N"])


@pytest.mark.data
def test_annotations_of_mitdb_are_read_as_wfdb_reads_them(mitdb_dir: Path) -> None:
    for name in ("100", "201", "207", "217"):
        expected = wfdb.rdann(str(mitdb_dir / name), "atr")
        found = read_wfdb(mitdb_dir / name, with_annotations=True).annotations
        assert found is not None
        assert found.samples.tolist() == expected.sample.tolist()
        assert found.symbols.tolist() == expected.symbol


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_garbled_files_give_a_record_or_a_record_error(written: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".hea", ".atr"]))
    path = written.with_suffix(suffix)
    whole = path.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(32, 126))
    path.write_bytes(content)
    try:
        read_wfdb(written, with_annotations=True)
    except RecordError as error:
        assert str(error)  # noqa: PT017  both outcomes are right, another error is not
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["a", "a.hea"])
def test_a_file_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordNotFoundError, match="is missing"):
        read_wfdb(tmp_path / name)


def test_a_record_without_annotated_beats_has_an_annotation_file_of_its_end_mark(
    tmp_path: Path,
) -> None:
    path = write_wfdb(simulate_strip(StripKind.FLAT), tmp_path)
    assert path.with_suffix(".atr").read_bytes() == b"\x00\x00"
    back = read_wfdb(path, with_annotations=True).annotations
    assert back is not None
    assert len(back.samples) == 0
