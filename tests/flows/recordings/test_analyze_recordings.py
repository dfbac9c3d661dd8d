"""Long recordings without a server: the flow, and the command as people type it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wfdb
from prefect.client.orchestration import get_client

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from ecg_lib.records.files.npy_file import NPY_MAGIC
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.recordings.analysis_process import AnalysisProcess
from flows.recordings.analyze_recordings import analyze_recordings
from flows.recordings.analyzed_files import (
    AnalysisError,
    Request,
    analyze_file,
    describe_model,
)
from flows.recordings.listing import list_recordings

_STORE = """
import shutil, sys
from pathlib import Path
import bentoml
with bentoml.models.create("ecg_bundle:toy") as stored:
    shutil.copytree(sys.argv[1], Path(stored.path) / "bundle")
"""


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two that are whole, two that are broken, and two of one name."""
    directory = tmp_path / "recordings"
    for kind in (StripKind.RUN, StripKind.NORMAL):
        record = simulate_strip(kind, seed=11, duration_s=60.0)
        write_wfdb(replace(record, name=kind.value), directory)
    (directory / "broken.edf").write_bytes(b"0       nothing more")
    for name in ("twice.edf", "twice.npy"):
        (directory / name).touch()
    np.save(directory / "flat.npy", np.zeros(7200))
    return directory


def _release(bundle: Bundle) -> Release:
    return Release(
        bento_tag="ecg:toy",
        model_tag="ecg_bundle:toy",
        bundle_hash=bundle.hash,
        code_hash="c" * 64,
        model_version="3",
        released_at="2026-01-01T00:00:00+00:00",
    )


def test_a_broken_recording_is_skipped(
    prefect_server: None,
    recordings: Path,
    toy_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = ("3", toy_bundle)
    monkeypatch.setattr(
        "flows.release.load_released.load_bundle_to_use", lambda _settings: released
    )
    done = analyze_recordings(
        [str(recordings)], output_dir=str(tmp_path / "out"), sampling_rate=360.0
    )
    assert done["analysed"] == 2
    failed = {Path(path).name: reason for path, reason in done["failed"].items()}
    assert set(failed) == {"broken.edf", "flat.npy", "twice.edf", "twice.npy"}
    assert failed["twice.edf"] == "a recording must have a name of its own, 2 are twice"
    assert "header" in failed["broken.edf"]
    assert "flat" in failed["flat.npy"]
    result = json.loads((tmp_path / "out" / "results" / "run.json").read_text())
    assert result["rhythm"]["longest_run_beats"] == 5
    assert result["model"]["version"] == "3"
    assert {path.name for path in (tmp_path / "out" / "results").glob("normal.*")} == {
        "normal.json", "normal.beats.csv", "normal.pvc", "normal.fhir.json", "normal.html",
        "normal.pdf",
    }  # fmt: skip
    with get_client(sync_client=True) as client:
        tables = [str(one.data) for one in client.read_artifacts() if one.key == "recordings"]
    (table,) = [one for one in tables if str(recordings) in one]
    assert table.count("LEFT OUT") == 4

    with pytest.raises(ConfigurationError, match="must be 0 or 100 to 1000 Hz, got 99"):
        analyze_recordings([str(recordings)], sampling_rate=99.0)
    with pytest.raises(AnalysisError, match="all 1 failed"):
        analyze_recordings([str(recordings / "broken.edf")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnalysisError, match="the directory must hold a recording"):
        analyze_recordings([str(tmp_path / "empty")])


def test_results_beside_the_recordings_are_none(toy_bundle: Bundle, tmp_path: Path) -> None:
    strip = simulate_strip(StripKind.RUN, seed=3, duration_s=30.0)
    path = tmp_path / "holter.csv"
    np.savetxt(path, strip.signals_mv[:, :1], header="MLII", comments="")
    before = path.read_bytes()
    request = Request(
        path=str(path), output_dir=str(tmp_path), formats=("json", "csv"), sampling_rate=strip.fs
    )
    classifier = BeatClassifier.load(toy_bundle)
    model = describe_model(toy_bundle, version="1")
    analyze_file(request, classifier=classifier, model=model)
    assert path.read_bytes() == before
    assert {one.name for one in tmp_path.iterdir()} == {
        "holter.csv", "holter.beats.csv", "holter.json",
    }  # fmt: skip
    assert list_recordings([tmp_path]) == ([path], {})


def test_recordings_of_a_directory_are_known_by_their_content(tmp_path: Path) -> None:
    edf, dicom = b"0       ".ljust(300), bytes(128) + b"DICM" + bytes(200)
    recordings = {"a.rec": edf, "b.dat": edf, "c.txt": edf, "IM0001": dicom, "d.hol": b"ISHNE1.0"}
    text, array = b"ECG\n" + b"0.5\n" * 200, NPY_MAGIC + bytes(200)
    recordings |= {"g.asc": text, "h": text, "i.data": array}
    others = {"e.pdf": b"%PDF", "README": b"", "DICOMDIR": dicom, "._a.rec": edf, "f.dat": b"x"}
    others |= {"a.ann": text, "j.log": b"a word\n" * 200}
    for name, content in (recordings | others).items():
        (tmp_path / name).write_bytes(content)
    assert {path.name for path in list_recordings([tmp_path]).paths} == recordings.keys()


def test_recordings_of_one_name_are_refused_and_no_others(tmp_path: Path) -> None:
    for name in ("a/day.edf", "b/day.csv", "b/night.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = list_recordings([tmp_path / "a", tmp_path / "b", tmp_path / "b/night.csv"])
    assert listed.paths == [tmp_path / "b/night.csv"]
    reason = "a recording must have a name of its own, 2 are day"
    assert listed.refused == dict.fromkeys([tmp_path / "a/day.edf", tmp_path / "b/day.csv"], reason)


def test_a_process_that_dies_is_an_error_of_its_file(
    recordings: Path, toy_bundle: Bundle, tmp_path: Path
) -> None:
    request = Request(path=str(recordings / "run.hea"), output_dir=str(tmp_path), formats=("nix",))
    whole = replace(request, formats=("json",))
    with AnalysisProcess(toy_bundle.directory, {}) as process:
        with pytest.raises(AnalysisError, match=r"ended with status 1: ValueError: 'nix' is not"):
            process.analyze(request)
        assert process.analyze(whole).name == "run"


def test_an_archive_gives_what_its_record_gives(
    recordings: Path, toy_bundle: Bundle, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        for suffix in (".hea", ".dat"):
            archive.write(recordings / f"run{suffix}", f"a/run{suffix}")
    classifier = BeatClassifier.load(toy_bundle)
    model = describe_model(toy_bundle, version="1")
    results = []
    for source in (tmp_path / "run.zip", recordings / "run.hea"):
        out = tmp_path / source.suffix
        request = Request(path=str(source), output_dir=str(out), formats=("csv", "atr"))
        analyze_file(request, classifier=classifier, model=model)
        results.append((out / "run.beats.csv").read_text())
    assert results[0] == results[1]
    written = wfdb.rdann(str(tmp_path / ".hea" / "run"), "pvc")
    assert set(written.symbol) == {"N", "V"}


def test_compressed_files_of_a_directory_are_recordings_by_their_names(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.edf.GZ", "c.zip", "d.npz", "notes.md.gz", "old.tar.gz"):
        (tmp_path / name).write_bytes(b"x")
    listed = list_recordings([tmp_path])
    assert [path.name for path in listed.paths] == ["a.csv.gz", "b.edf.GZ", "c.zip", "d.npz"]
    (tmp_path / "a.csv").write_bytes(b"x")
    listed = list_recordings([tmp_path])
    assert sorted(path.name for path in listed.refused) == ["a.csv", "a.csv.gz"]
    assert set(listed.refused.values()) == {"a recording must have a name of its own, 2 are a"}


def test_results_of_a_compressed_file_have_its_name_without_extensions(
    toy_bundle: Bundle, tmp_path: Path
) -> None:
    signal_mv = simulate_strip(StripKind.RUN, seed=11, duration_s=20.0).signal_mv()
    rows = "".join(f"{n / 360:.6f},{value:.4f}\n" for n, value in enumerate(signal_mv.tolist()))
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(f"time,ECG\n{rows}".encode()))
    done = analyze_file(
        Request(path=str(tmp_path / "r.csv.gz"), output_dir=str(tmp_path), formats=("json",)),
        classifier=BeatClassifier.load(toy_bundle),
        model=describe_model(toy_bundle, version="1"),
    )
    assert (done.name, done.results) == ("r", (str(tmp_path / "r.json"),))


@pytest.mark.parametrize("signals", ["part0", "part1", "part3"])
def test_files_of_an_archive_may_have_any_name(
    recordings: Path, toy_bundle: Bundle, tmp_path: Path, signals: str
) -> None:
    header = (recordings / "run.hea").read_text().replace("run.dat", signals)
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.write(recordings / "run.dat", signals)
        archive.writestr("run.hea", header)
    request = Request(
        path=str(tmp_path / "run.zip"), output_dir=str(tmp_path / "out"), formats=("json",)
    )
    done = analyze_file(
        request,
        classifier=BeatClassifier.load(toy_bundle),
        model=describe_model(toy_bundle, version="1"),
    )
    assert done.beats > 10


def test_parts_of_a_recording_give_what_the_whole_gives(toy_bundle: Bundle, tmp_path: Path) -> None:
    signal_mv = simulate_strip(StripKind.RUN, seed=11, duration_s=60.0).signal_mv()
    for name, part in (("whole", signal_mv), ("a", signal_mv[:9000]), ("b", signal_mv[9000:])):
        np.save(tmp_path / f"{name}.npy", part)
    classifier = BeatClassifier.load(toy_bundle)
    model = describe_model(toy_bundle, version="1")
    for first, more in (("whole", ()), ("a", (str(tmp_path / "b.npy"),))):
        request = Request(
            path=str(tmp_path / f"{first}.npy"),
            more_parts=more,
            output_dir=str(tmp_path / "out"),
            formats=("csv",),
            sampling_rate=360.0,
        )
        analyze_file(request, classifier=classifier, model=model)
    whole, joined = (
        (tmp_path / "out" / f"{name}.beats.csv").read_text() for name in ("whole", "a")
    )
    assert whole == joined


def test_parts_of_one_recording_may_share_a_name(tmp_path: Path) -> None:
    parts = [tmp_path / day / "rec.edf" for day in ("monday", "tuesday")]
    assert list_recordings(parts, are_parts=True).paths == parts
    assert list_recordings(parts).paths == []


def test_directories_are_listed_and_files_taken_as_they_are(recordings: Path) -> None:
    (recordings / "folder.edf").mkdir()
    listed = [path.name for path in list_recordings([recordings, Path("else.csv")]).paths]
    assert listed == ["broken.edf", "flat.npy", "normal.hea", "run.hea", "else.csv"]


@pytest.mark.slow
def test_the_command_analyses_what_it_can_and_says_what_it_cannot(
    recordings: Path,
    toy_bundle: Bundle,
    tmp_path: Path,
    serve_release: Callable[[Settings, Release], None],
) -> None:
    settings = Settings(home=tmp_path / "home")
    env = {
        **os.environ,
        "ECG_HOME": str(settings.home),
        "BENTOML_HOME": str(settings.bentoml_home),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    store = [sys.executable, "-c", _STORE, str(toy_bundle.directory)]
    subprocess.run(store, env=env, check=True, capture_output=True)
    serve_release(settings, _release(toy_bundle))
    command = [
        *(sys.executable, "-c", "from flows.local.cli import main; main()", "analyze"),
        *(str(recordings / name) for name in ("run.hea", "broken.edf", "twice.edf", "twice.npy")),
        *("--output-dir", str(tmp_path / "out"), "--format", "json", "--format", "html"),
    ]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("run: lead MLII, ")
    assert "attention HIGH" in done.stdout
    assert "broken.edf: an EDF file must begin with its header" in done.stderr
    assert "twice.npy: a recording must have a name of its own, 2 are twice" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run.html", "run.json"]


def test_a_file_that_cannot_be_read_or_lists_records_does_not_end_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.edf").write_bytes(b"0       ".ljust(300))
    (tmp_path / "RECORDS").write_text("\n".join(map(str, range(100, 220))))
    (tmp_path / "notes").write_text("0.5\n" * 200)
    opened = Path.open

    def open_or_refuse(path: Path, *arguments: str, **named: str) -> object:
        if path.name == "notes":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_or_refuse)
    # The error of the one is told when it is read.
    assert [path.name for path in list_recordings([tmp_path]).paths] == ["notes", "x.edf"]
