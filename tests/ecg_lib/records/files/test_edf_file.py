"""EDF and BDF files from strangers, against edfio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import (
    CorruptRecordError,
    InvalidSamplingRateError,
    MissingDetailError,
    UnknownLeadError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.edf_file import EdfFile, blank_annotations, blank_identity
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording

SECRET = "Mustermann"  # noqa: S105  a name, which must not be told


def _read(opened: RecordingFile, name: str | None = None) -> NDArray[np.float32]:
    return np.concatenate(list(opened.blocks(choose_lead(opened.leads, name))))


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


def test_a_trend_in_millivolts_is_not_a_lead_of_an_edf_file(tmp_path: Path) -> None:
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


def test_an_edf_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.edf"
    _write_edf(path)
    whole = path.read_bytes()
    for kept in (0, 100, 300, 1000, 1300):
        path.write_bytes(whole[:kept])
        with pytest.raises(CorruptRecordError):
            open_recording(path)


def _edf_signal(label: str, unit: str, values: NDArray, limits: tuple[str, ...]) -> dict[str, Any]:
    return {"label": label, "unit": unit, "values": values, "limits": limits}


def _write_raw_edf(path: Path, signals: list[dict[str, Any]], *, fs: int = 200) -> None:
    """Write an EDF file field by field, as recorders do whose headers edfio would not write."""
    count = len(signals)
    header = f"{'0':8}{'X X X X':80}{'Startdate X X X X':80}01.01.8510.00.00"
    header += f"{256 * (count + 1):<8}{'':44}{12:<8}{1:<8}{count:<4}"
    columns = [
        [(one["label"], "", one["unit"], *one["limits"], "", str(fs), "") for one in signals],
        (16, 80, 8, 8, 8, 8, 8, 80, 8, 32),
    ]
    for number, width in enumerate(columns[1]):
        header += "".join(f"{fields[number]:{width}}" for fields in columns[0])
    records = np.concatenate([one["values"].reshape(12, fs) for one in signals], axis=1)
    path.write_bytes(header.encode("latin-1") + records.astype("<i2").tobytes())


FULL = ("-32768", "32767", "-32768", "32767")
COUNTS_OF_ECG = np.random.default_rng(6).integers(-2000, 2000, 2400)


@pytest.mark.parametrize(
    "other", [("chan1", "uV"), ("EEG Fpz-Cz", "uV"), ("PLETH", "mV"), ("EOG", "V")]
)
@pytest.mark.parametrize("blank", ["", "adu", "digits", "mmHg"])
def test_another_signal_is_not_taken_for_an_ecg_without_a_unit(
    tmp_path: Path, other: tuple[str, str], blank: str
) -> None:
    path = tmp_path / "r.edf"
    ecg = _edf_signal("ECG", blank, COUNTS_OF_ECG, FULL)
    _write_raw_edf(path, [_edf_signal(*other, COUNTS_OF_ECG[::-1], FULL), ecg])
    with pytest.raises(MissingDetailError, match=r"unit must be given .* for its ECG") as raised:
        open_recording(path)
    assert raised.value.detail == "unit"
    opened = open_recording(path, unit="uV")
    np.testing.assert_allclose(_read(opened), COUNTS_OF_ECG / 1000, atol=1e-4)
    second = _edf_signal("ECG II", "uV", COUNTS_OF_ECG, FULL)
    _write_raw_edf(path, [ecg, second])
    assert [lead.name for lead in open_recording(path).leads] == ["II"]


@pytest.mark.parametrize(
    "limits",
    [("", "", "", ""), ("NaN", "NaN", "0", "1"), ("0", "0", "0", "0"), ("-1", "1", "5", "5")],
)
def test_a_spare_channel_without_usable_limits_does_not_refuse_the_file(
    tmp_path: Path, limits: tuple[str, ...]
) -> None:
    path = tmp_path / "r.edf"
    spare = _edf_signal("spare", "uV", np.zeros(2400), limits)
    _write_raw_edf(path, [spare, _edf_signal("ECG", "uV", COUNTS_OF_ECG, FULL)])
    opened = open_recording(path)
    assert (opened.others, [lead.name for lead in opened.leads]) == (("spare",), ["ECG"])
    np.testing.assert_allclose(_read(opened), COUNTS_OF_ECG / 1000, atol=1e-4)


@pytest.mark.parametrize("is_inverted", [False, True])
def test_the_least_number_below_the_digital_limits_is_a_missing_sample(
    tmp_path: Path,
    is_inverted: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    path = tmp_path / "r.edf"
    counts = COUNTS_OF_ECG.copy()
    counts[400:600] = -32768
    limits = ("2047", "-2048") if is_inverted else ("-2048", "2047")
    _write_raw_edf(path, [_edf_signal("ECG", "uV", counts, (*limits, "-2048", "2047"))])
    is_missing = np.isnan(_read(open_recording(path)))
    assert np.flatnonzero(is_missing).tolist() == list(range(400, 600))
    # Where the converter may have given it, it is a sample.
    _write_raw_edf(path, [_edf_signal("ECG", "uV", counts, FULL)])
    assert np.isfinite(_read(open_recording(path))).all()


def test_limits_that_are_inverted_are_those_of_an_inverted_signal_or_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.edf"
    both = ("32767", "-32768", "32767", "-32768")
    _write_raw_edf(path, [_edf_signal("ECG", "uV", COUNTS_OF_ECG, both)])
    np.testing.assert_allclose(_read(open_recording(path)), COUNTS_OF_ECG / 1000, atol=1e-4)
    physical = ("32767", "-32768", "-32768", "32767")
    _write_raw_edf(path, [_edf_signal("ECG", "uV", COUNTS_OF_ECG, physical)])
    np.testing.assert_allclose(_read(open_recording(path)), -COUNTS_OF_ECG / 1000, atol=2e-3)
    digital = ("-32768", "32767", "32767", "-32768")
    _write_raw_edf(path, [_edf_signal("ECG", "uV", COUNTS_OF_ECG, digital)])
    with pytest.raises(CorruptRecordError, match="digital limits of ECG must go up"):
        open_recording(path)
    spare = _edf_signal("spare", "uV", COUNTS_OF_ECG, digital)
    _write_raw_edf(path, [spare, _edf_signal("ECG", "uV", COUNTS_OF_ECG, FULL)])
    assert [lead.name for lead in open_recording(path).leads] == ["ECG"]


def _with_count(content: bytes, count: bytes) -> bytes:
    return content[:236] + count.ljust(8) + content[244:]


@pytest.mark.parametrize(
    ("count", "n_samples", "words"),
    [
        (b"12", 2400, None),
        (b"-1", 2400, None),
        (b"0", 2400, None),
        (b"", 2400, None),
        (b"11", 2200, "holds 12 data records and states 11: the others are left out"),
        (b"13", 2400, "states 13 data records and holds 12, which are analysed"),
    ],
)
def test_the_data_records_that_a_recorder_did_not_count_are_read(
    tmp_path: Path, count: bytes, n_samples: int, words: str | None
) -> None:
    path = tmp_path / "r.edf"
    _write_edf(path)
    path.write_bytes(_with_count(path.read_bytes(), count))
    opened = open_recording(path)
    assert len(_read(opened)) == n_samples
    if words is None:
        assert opened.warnings == ()
    else:
        assert words in opened.warnings[0]


def test_annotations_behind_the_records_that_are_stated_are_blanked(tmp_path: Path) -> None:
    path = tmp_path / "r.edf"
    _write_edf(path)
    edf = edfio.read_edf(path)
    edf.add_annotations([edfio.EdfAnnotation(11.5, None, f"{SECRET} left")])
    edf.write(path)
    path.write_bytes(_with_count(path.read_bytes(), b"10") + f"{SECRET}".encode())
    opened = open_recording(path)
    before = _read(opened)
    assert isinstance(opened, EdfFile)
    blank_annotations(path, opened.header)
    assert SECRET.encode() not in path.read_bytes()[256:]
    np.testing.assert_array_equal(_read(open_recording(path)), before)


def test_a_label_of_two_electrodes_stays_whole(tmp_path: Path) -> None:
    samples_mv = np.random.default_rng(3).uniform(-2, 2, 2400)
    signal = edfio.EdfSignal(samples_mv, 200, label="ECG L-ECG R", physical_dimension="mV")
    edfio.Edf([signal]).write(tmp_path / "r.edf")
    assert open_recording(tmp_path / "r.edf").leads[0].name == "ECG L-ECG R"
