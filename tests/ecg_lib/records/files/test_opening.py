"""Decoders of files from strangers: against wfdb and edfio, and against whatever comes."""

from __future__ import annotations

import io
from pathlib import Path

import edfio
import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecg_lib.errors import (
    EcgError,
    MissingDetailError,
    RecordTooLongError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.lead import (
    Lead,
    RecordingFile,
    choose_lead,
    choose_second_lead,
    choose_usable_leads,
    explain_no_signal,
)
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.record import write_wfdb
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


def test_leads_are_chosen_by_name_and_unknown_ones_named(wfdb_record: Path) -> None:
    leads = open_recording(wfdb_record).leads
    assert choose_lead(leads).name == "MLII"
    assert choose_lead(leads[1:]).name == "V1"
    assert choose_lead(leads, "V1").name == "V1"
    with pytest.raises(UnknownLeadError, match="MLII, V1"):
        choose_lead(leads, "aVF")


@pytest.mark.parametrize(
    ("names", "second"),
    [
        (("II", "V5", "V1"), "V1"),
        (("II", "I", "V5"), "V5"),
        (("MLII", "V2", "aVF"), "V2"),
        (("II", "I", "aVF"), "I"),
        (("ECG1", "ECG2"), "ECG2"),
        (("MLII", "II", "aVF"), "aVF"),
        (("V1", "MV1", "II"), "II"),
        (("MLII", "MV1"), "MV1"),
        (("II", "Lead II", "II (2)"), None),
        (("II", "PLETH", "RESP"), None),
        (("II",), None),
    ],
)
def test_the_second_lead_sees_what_the_first_does_not(
    names: tuple[str, ...], second: str | None
) -> None:
    leads = tuple(Lead(name, 360.0, 3600) for name in names)
    chosen = choose_second_lead(leads, leads[0])
    assert (None if chosen is None else chosen.name) == second


@pytest.mark.parametrize(("fs", "n_samples"), [(250.0, 3600), (360.0, 3599)])
def test_a_second_lead_has_the_rate_and_the_length_of_the_first(fs: float, n_samples: int) -> None:
    first = Lead("II", 360.0, 3600)
    assert choose_second_lead((first, Lead("V1", fs, n_samples)), first) is None


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


@pytest.mark.parametrize("unit", ["uV", "µV", "\N{GREEK SMALL LETTER MU}V", "uv", "microvolts"])
def test_the_unit_that_is_given_may_be_spelled_in_any_way(tmp_path: Path, unit: str) -> None:
    samples = np.random.default_rng(1).uniform(-900, 900, 5000)
    np.save(tmp_path / "r.npy", samples)
    opened = open_recording(tmp_path / "r.npy", fs=250.0, unit=unit)
    np.testing.assert_allclose(_read(opened), samples / 1000, rtol=1e-5)


@pytest.mark.parametrize("unit", ["", "mmHg", "counts", "furlong"])
def test_a_unit_that_is_not_a_voltage_is_refused(tmp_path: Path, unit: str) -> None:
    np.save(tmp_path / "r.npy", np.zeros(5000))
    with pytest.raises(MissingDetailError, match=f"one of mV, uV, V, got '{unit}'"):
        open_recording(tmp_path / "r.npy", fs=250.0, unit=unit)


@pytest.mark.parametrize("name", ["r.asc", "r.dat", "r.log", "r"])
def test_texts_and_arrays_are_read_under_any_name(tmp_path: Path, name: str) -> None:
    samples = np.round(np.random.default_rng(3).uniform(-1, 1, 3000), 3)
    np.savetxt(tmp_path / name, samples, fmt="%.3f", header="ECG [mV]")
    np.testing.assert_allclose(_read(open_recording(tmp_path / name, fs=250.0)), samples, rtol=1e-5)
    with (tmp_path / name).open("wb") as file:
        np.save(file, samples)
    np.testing.assert_allclose(_read(open_recording(tmp_path / name, fs=250.0)), samples, rtol=1e-5)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.docx").write_bytes(b"x")
    with pytest.raises(
        UnsupportedRecordError, match=r"\.hea, \.edf, \.bdf, \.csv, \.txt, \.tsv, \.npy"
    ):
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


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([[0.2] * 3600], "is flat or disconnected"),
        ([[0.2, 0.204] * 1800], "is flat or disconnected"),
        ([[np.nan] * 3600], "has no samples"),
        ([], ""),  # too short, which others refuse
        ([[np.nan] * 3000, [0.2] * 600], "is flat or disconnected"),
        ([[0.2] * 1000, [0.2, 0.3] * 1500, [0.2] * 1000], ""),
        ([[0.2] * 3000, [0.2, 0.3] * 300], "is flat or disconnected"),
        ([[0.2, 0.3] * 600], ""),
    ],
)
def test_a_lead_lives_when_some_seconds_of_it_move(blocks: list[list[float]], reason: str) -> None:
    arrays = [np.array(block, dtype=np.float32) for block in blocks]
    assert explain_no_signal(arrays, fs=250.0) == reason


def test_leads_of_equal_names_are_told_apart(tmp_path: Path) -> None:
    """The first keeps the name, in each format; it is the one that is chosen."""
    samples = np.sin(np.arange(3600) / 20)
    two = np.stack([np.zeros(3600), samples, samples], axis=1)
    wfdb.wrsamp(
        "twice", fs=360, units=["mV"] * 3, sig_name=["V1", "II", "X"], p_signal=two,
        fmt=["16"] * 3, write_dir=str(tmp_path),
    )  # fmt: skip
    header = tmp_path / "twice.hea"
    header.write_text(header.read_text().replace(" X\n", " II\n"))
    np.savetxt(tmp_path / "r.csv", two, "%.4f", delimiter=",", header="V1,II,II", comments="")
    for name in ("twice.hea", "r.csv"):
        opened = open_recording(tmp_path / name, fs=360.0)
        assert [lead.name for lead in opened.leads] == ["V1", "II", "II (2)"]
        leads = choose_usable_leads(opened)
        assert (leads.first.name, leads.second) == ("II", None)
        assert leads.describe() == (
            "lead V1 is not used in the classification: it is flat or disconnected",
        )
        assert choose_lead(opened.leads, "II").name == "II"
        assert choose_lead(opened.leads, "II (2)").name == "II (2)"
    told = "column 3 (II (2)) has the name of another one, and a number is added"
    assert told in opened.warnings
    names = "Doe Jane II,Doe Jane II,Lead V1 Roe"
    two[:, 2] = np.nan
    np.savetxt(tmp_path / "r.csv", two, "%.4f", delimiter=",", header=names, comments="")
    warnings = " ".join(open_recording(tmp_path / "r.csv", fs=360.0).warnings)
    assert "column 2 has the name" in warnings
    assert "column 3 has no numbers" in warnings
    assert "oe" not in warnings.replace("goes", "")
