"""Recordings that are sent in several parts."""

from __future__ import annotations

import datetime as dt
import gzip
import importlib
from pathlib import Path
from types import ModuleType

import edfio
import numpy as np
import pytest
from numpy.typing import NDArray

from bentos.recordings.uploads import Recording, lay_out
from bentos.wire.problems import ProblemError
from ecg_lib.records.files.edf_file import blank_identity
from ecg_lib.records.files.parts import open_parts
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

SECRET = "Mustermann"  # noqa: S105  a name, which must not be kept

FS = 250


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    return importlib.import_module("device_writers")


@pytest.fixture(scope="module")
def signal_mv() -> NDArray[np.floating]:
    return simulate_strip(StripKind.RUN, seed=2, duration_s=40.0, fs=FS).signal_mv()


def _upload(directory: Path, contents: dict[str, bytes], **fields: str) -> Recording:
    files = {}
    for number, (name, content) in enumerate(contents.items()):
        files[name] = directory / f"upload{number}{''.join(Path(name).suffixes)}"
        files[name].write_bytes(content)
    return lay_out(fields, files, directory)


def _read(recording: Recording) -> NDArray[np.float32]:
    fields = recording.fields
    opened = open_parts(
        [recording.path, *recording.more_parts], fs=fields.sampling_rate, unit=fields.unit
    )
    return np.concatenate(list(opened.blocks(recording.lead)))


def _write_edf(directory: Path, signal_mv: NDArray[np.floating], second: int) -> bytes:
    signal = edfio.EdfSignal(signal_mv, FS, label="ECG II", physical_dimension="mV")
    edf = edfio.Edf([signal], patient=edfio.Patient(name=SECRET), starttime=dt.time(10, 0, second))
    edf.add_annotations([edfio.EdfAnnotation(1.0, None, SECRET)])
    edf.write(directory / "part.edf")
    content = (directory / "part.edf").read_bytes()
    return blank_identity(content[:256]) + content[256:]  # as it is received


def test_parts_are_joined_in_the_order_of_the_form_with_the_gap_of_their_clocks(
    tmp_path: Path, signal_mv: NDArray[np.floating]
) -> None:
    (tmp_path / "job").mkdir()
    parts = {
        "z.edf": _write_edf(tmp_path, signal_mv[:5000], 0),
        "a.edf": _write_edf(tmp_path, signal_mv[5000:], 25),
    }
    recording = _upload(tmp_path / "job", parts, join="true")
    assert (recording.kind, recording.lead.name, recording.lead.n_samples) == ("edf", "II", 11_250)
    samples = _read(recording)
    assert np.flatnonzero(np.isnan(samples)).tolist() == list(range(5000, 6250))
    np.testing.assert_allclose(samples[:5000], signal_mv[:5000], atol=1e-3)
    np.testing.assert_allclose(samples[6250:], signal_mv[5000:], atol=1e-3)
    for kept in (tmp_path / "job").rglob("*"):
        assert SECRET.encode() not in (kept.read_bytes() if kept.is_file() else b"")


def test_parts_of_arrays_and_of_devices_are_joined(
    tmp_path: Path, signal_mv: NDArray[np.floating], writers: ModuleType
) -> None:
    counts = np.rint(signal_mv * 200).astype(np.int64)
    halves = {"x": slice(0, 5000), "y": slice(5000, None)}
    cases: tuple[tuple[str, dict[str, str]], ...] = (
        (".npy", {"sampling_rate": "250", "unit": "mV"}),
        (".atc", {}),
    )
    for suffix, fields in cases:
        directory = tmp_path / suffix
        directory.mkdir()
        contents: dict[str, bytes] = {}
        for name, half in halves.items():
            if suffix == ".npy":
                np.save(tmp_path / "part.npy", counts[half] / 200)
                contents[f"{name}.npy"] = (tmp_path / "part.npy").read_bytes()
            else:
                contents[f"{name}.atc"] = writers.write_atc(
                    {"I": counts[half], "II": counts[half]}, fs=FS, gain_nv=5000, sums="none"
                ).replace(b"13:45:01", b"13:45:01" if name == "x" else b"13:45:21")
        recording = _upload(directory, contents, join="true", **fields)
        samples = _read(recording)
        np.testing.assert_allclose(samples, counts / 200, atol=1e-4)
        assert not list(directory.glob("upload*"))


def test_several_files_that_are_not_said_to_be_parts_are_refused(
    tmp_path: Path, signal_mv: NDArray[np.floating]
) -> None:
    np.save(tmp_path / "part.npy", signal_mv)
    content = (tmp_path / "part.npy").read_bytes()
    with pytest.raises(ProblemError, match="set join=true"):
        _upload(tmp_path, {"a.npy": content, "b.npy": content}, sampling_rate="250")
    with pytest.raises(ProblemError, match="parts to join must be"):
        _upload(tmp_path, {"a.dat": b"PK", "b.npy": content}, sampling_rate="250", join="true")


def test_parts_may_be_compressed(tmp_path: Path, signal_mv: NDArray[np.floating]) -> None:
    contents = {}
    for name, part in (("a", signal_mv[:5000]), ("b", signal_mv[5000:])):
        np.save(tmp_path / "part.npy", part)
        contents[f"{name}.npy.gz"] = gzip.compress((tmp_path / "part.npy").read_bytes())
    recording = _upload(tmp_path, contents, sampling_rate="250", join="true")
    np.testing.assert_allclose(_read(recording), signal_mv, atol=1e-3)
    assert not list(tmp_path.glob("upload*"))
