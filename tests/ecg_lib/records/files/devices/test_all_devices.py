"""Rules for the exports of every device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import (
    CorruptRecordError,
    EcgError,
    InvalidSignalError,
    MissingDetailError,
    UnsupportedRecordError,
)
from ecg_lib.recordings.analysis import analyze_recording
from ecg_lib.records.files.devices.device_file import (
    DeviceFile,
    name_lead,
    read_clock,
    write_copy,
)
from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.record import Record

Counts = dict[str, NDArray[np.int64]]
Open = Callable[..., RecordingFile]
Read = Callable[..., NDArray[np.float32]]

KINDS = ("dicom", "ishne", "scp", "aecg", "muse", "philips", "atc")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def content(kind: str, writers: ModuleType, counts: Counts) -> bytes:
    write = getattr(writers, f"write_{kind}")
    gain = {"ishne": {"gain_nv": 5000}, "scp": {"gain_nv": 5000}, "atc": {"gain_nv": 5000}}.get(
        kind, {"gain_uv": 5.0}
    )
    return bytes(write(counts, fs=250, **gain))


def test_samples_names_rate_and_clock_are_those_of_the_device(
    content: bytes, kind: str, opened: Open, read: Read, counts: Counts
) -> None:
    recording = opened(content)
    assert recording.kind == kind
    assert [lead[:3] for lead in recording.leads[:2]] == [("I", 250.0, 5000), ("II", 250.0, 5000)]
    assert recording.start_clock_s == 13 * 3600 + 45 * 60 + 1
    for name in ("I", "II"):
        np.testing.assert_allclose(read(recording, name), counts[name] * 0.005, atol=1e-6)


def test_the_known_beats_are_found(
    content: bytes, opened: Open, strip: Record, toy_bundle: Bundle, tmp_path: Path
) -> None:
    analysis = analyze_recording(
        opened(content),
        lead="II",
        classifier=BeatClassifier.load(toy_bundle),
        model={"version": "1", "data": "simulated"},
        directory=tmp_path,
    )
    symbols = list(strip.annotations.symbols)
    assert analysis.summary.rhythm.beats == len(symbols)
    assert analysis.summary.rhythm.v_beats == symbols.count("V") == 10
    assert len(analysis.summary.rhythm.runs) == 2


@pytest.mark.parametrize("name", ["export", "r.csv", "r.dcm", "r.xml", "r.scp"])
def test_the_content_says_what_a_file_is_and_not_its_name(
    content: bytes, kind: str, name: str, opened: Open
) -> None:
    if name == "r.scp" and kind != "scp":
        name = "r.ecg"
    assert opened(content, name).kind == kind


def test_nobody_named_in_a_file_is_named_by_an_error_or_the_recording(
    content: bytes, opened: Open, writers: ModuleType
) -> None:
    assert writers.PERSON.encode() in content
    recording = opened(content)
    assert writers.PERSON not in repr(recording)
    for cut in range(0, len(content), len(content) // 7 + 1):
        with pytest.raises(EcgError) as caught:
            opened(content[:cut], "cut.xml")
        assert writers.PERSON not in str(caught.value)


def test_a_file_that_is_cut_off_anywhere_is_refused(content: bytes, opened: Open) -> None:
    for cut in (*range(0, 700, 37), len(content) // 2, len(content) - 60):
        with pytest.raises((CorruptRecordError, UnsupportedRecordError)):
            opened(content[:cut], "cut.xml")


def test_a_unit_or_another_rate_contradicts_the_file(content: bytes, opened: Open) -> None:
    assert opened(content, fs=250.0).leads[0].fs == 250.0
    with pytest.raises(MissingDetailError, match="states 250 Hz"):
        opened(content, fs=500.0)
    with pytest.raises(MissingDetailError, match="unit must be left out"):
        opened(content, unit="mV")


def test_a_strip_of_9_s_is_refused_and_one_of_10_s_is_read(
    kind: str, writers: ModuleType, counts: Counts, opened: Open
) -> None:
    write: Callable[..., bytes] = getattr(writers, f"write_{kind}")
    with pytest.raises(InvalidSignalError, match="at least 10 s"):
        opened(write({name: values[:2475] for name, values in counts.items()}, fs=250))
    assert opened(write({name: values[:2500] for name, values in counts.items()}, fs=250))


def test_a_copy_has_the_samples_and_nobody_in_it(
    content: bytes, opened: Open, read: Read, tmp_path: Path, writers: ModuleType
) -> None:
    recording = opened(content)
    assert isinstance(recording, DeviceFile)
    directory = tmp_path / "copy"
    directory.mkdir()
    lead = choose_lead(recording.leads, "II")
    copied = open_recording(write_copy(recording, lead, directory, name="recording"))
    assert copied.kind == "wfdb"
    assert copied.leads == recording.leads
    assert copied.start_clock_s == recording.start_clock_s
    for other in recording.leads:
        np.testing.assert_allclose(
            read(copied, other.name), read(recording, other.name), rtol=1e-6, atol=1e-8
        )
    assert all(writers.PERSON.encode() not in path.read_bytes() for path in _files(directory))


def _files(directory: Path) -> Iterator[Path]:
    return directory.iterdir()


def test_missing_samples_stay_missing_in_a_copy(
    writers: ModuleType, counts: Counts, opened: Open, read: Read, tmp_path: Path
) -> None:
    two = counts["II"].copy()
    two[1000:1500] = -32768
    recording = opened(writers.write_ishne({"II": two}, fs=250))
    header = write_copy(recording, recording.leads[0], tmp_path, name="recording")
    is_missing = np.isnan(read(open_recording(header)))
    assert np.flatnonzero(is_missing).tolist() == list(range(1000, 1500))


def test_the_least_sample_of_16_bits_is_missing(
    kind: str, writers: ModuleType, counts: Counts, opened: Open, read: Read
) -> None:
    two = counts["II"].copy()
    two[1000:1500] = -32768
    content = getattr(writers, f"write_{kind}")({"II": two}, fs=250)
    is_missing = np.isnan(read(opened(content)))
    assert np.flatnonzero(is_missing).tolist() == list(range(1000, 1500))


def test_a_copy_keeps_the_names_of_its_leads(
    writers: ModuleType, counts: Counts, opened: Open, tmp_path: Path
) -> None:
    recording = opened(writers.write_aecg({"ΑΠΑΓΩΓΗ": counts["I"], "II": counts["II"]}, fs=250))
    header = write_copy(recording, recording.leads[0], tmp_path, name="recording")
    assert [lead.name for lead in open_recording(header).leads] == ["ΑΠΑΓΩΓΗ", "II"]


@pytest.mark.parametrize("name", ["r.dcm", "r.ecg", "r.scp", "r.xml"])
def test_an_export_by_its_name_only_is_refused(name: str, opened: Open) -> None:
    for content in (b"", b"1,2,3\n" * 200, bytes(2000)):
        with pytest.raises((CorruptRecordError, UnsupportedRecordError), match="must"):
            opened(content, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MDC_ECG_LEAD_AVR", "aVR"),
        ("Lead aVF", "aVF"),
        ("Lead II (Einthoven)", "II"),
        ("v5", "V5"),
        ("Chest  band", "Chest  band"),
        ("", ""),
    ],
)
def test_leads_have_one_spelling(text: str, name: str) -> None:
    assert name_lead(text) == name


@pytest.mark.parametrize(
    ("text", "clock_s"),
    [
        ("20260102134501.25+0100", 49501.0),
        ("20260102134501", 49501.0),
        ("13:45:01", 49501.0),
        ("2026-01-02T13:45:01Z", 49501.0),
        ("20260102", None),
        ("25:00:00", None),
        ("", None),
    ],
)
def test_the_time_of_day_is_read_from_any_spelling(text: str, clock_s: float | None) -> None:
    assert read_clock(text) == clock_s
