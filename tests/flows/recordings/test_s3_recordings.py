"""Recordings and results behind an S3 API, on a real HTTP server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import edfio
import numpy as np
import psutil
import pyarrow.dataset
import pyarrow.fs
import pytest
from prefect.client.orchestration import get_client
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import ConfigurationError
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.recordings.analyze_recordings import analyze_recordings
from flows.recordings.analyzed_files import AnalysisError, describe_model
from flows.recordings.batches.batch import Batch, Wanted, analyze_batch
from flows.recordings.batches.found import Recording, fetch, find_recordings, require_inputs
from flows.recordings.batches.places import Place, open_place
from flows.recordings.batches.results import Output, Row
from flows.recordings.batches.s3_files import S3Files, StoreAccessError
from tests.object_store.server import SECRET, ObjectServer, serving

_GUARD_S = 300.0

_RUN = """
import sys
from pathlib import Path
from ecg_lib.classifier.bundle import read_bundle
from flows.release import load_released
load_released.load_bundle_to_use = lambda settings: ("3", read_bundle(Path(sys.argv[1])))
from flows.recordings.analyze_recordings import analyze_recordings
analyze_recordings([sys.argv[2]], output_dir=sys.argv[3], formats=[], processes=2)
"""

_COLUMNS = (
    "folder, name, n_bytes, status, error, lead, duration_s, unreadable_s, beats, v_beats, runs, "
    "risk_level, warnings, results, model_version, bundle_hash"
)
"""Columns that are the same wherever and whenever a recording is analysed."""


@pytest.fixture
def released(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Make the toy bundle the released one."""
    monkeypatch.setattr(
        "flows.release.load_released.load_bundle_to_use", lambda _settings: ("3", toy_bundle)
    )
    return toy_bundle


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """WFDB, EDF, CSV and NPY in folders, and one broken file."""
    root = tmp_path / "in"
    strip = simulate_strip(StripKind.RUN, seed=11, duration_s=30.0)
    for name in ("w1", "w2"):
        write_wfdb(replace(strip, name=name), root / "wfdb" / "deep")
    lead = strip.signal_mv().astype(np.float64)
    signal = edfio.EdfSignal(lead, strip.fs, label="ECG II", physical_dimension="mV")
    edfio.Edf([signal]).write(root / "e.edf")
    np.savetxt(root / "c d+ü.csv", lead, header="MLII", comments="")
    np.save(root / "n.npy", lead)
    (root / "broken.edf").write_bytes(b"0       nothing more")
    return root


def _upload(server: ObjectServer, directory: Path, url: str) -> None:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for path in directory.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(directory).as_posix()}"
            server.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


def _list_keys(server: ObjectServer, url: str) -> list[str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", ())]


def _find(url: str, output: str) -> list[Recording]:
    return find_recordings([url], output=open_place(output)).recordings


def _read_rows(server: ObjectServer, url: str) -> dict[str, dict[str, Any]]:
    """Read the dataset by a client that shares no code with ours; no recording is there twice."""
    files = pyarrow.fs.S3FileSystem(
        access_key="ecg",
        secret_key=SECRET,
        endpoint_override=f"127.0.0.1:{server.port}",
        scheme="http",
        region="us-east-1",
    )
    dataset = pyarrow.dataset.dataset(
        f"{url.removeprefix('s3://')}/recordings", filesystem=files, partitioning="hive"
    )
    rows = dataset.to_table().to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows)
    return by_path


@pytest.mark.timeout(600)
def test_recordings_of_a_store_give_what_those_of_a_folder_give(
    prefect_server: None,
    released: Bundle,
    recordings: Path,
    bucket_url: str,
    object_server: ObjectServer,
    tmp_path: Path,
) -> None:
    source, out = f"{bucket_url}/in", f"{bucket_url}/out"
    _upload(object_server, recordings, source)
    formats = [ResultFormat.JSON, ResultFormat.CSV, ResultFormat.ATR]

    def run(path: str, output: str) -> dict[str, Any]:
        return analyze_recordings(
            [path], output_dir=output, formats=formats, sampling_rate=360.0, processes=2
        )

    done = run(source, out)
    assert (done["analysed"], done["left_out"]) == (5, 1)
    assert (done["output_dir"], done["dataset"]) == (out, f"{out}/recordings")
    ((broken, reason),) = done["failed"].items()
    assert broken == f"{source}/broken.edf"
    assert "header" in reason
    assert run(str(recordings), str(tmp_path / "out"))["analysed"] == 5

    rows = _read_rows(object_server, out)
    ours = sorted(({**row} for row in rows.values()), key=lambda row: row["name"])
    theirs = (
        duckdb.read_parquet(str(tmp_path / "out/recordings/**/*.parquet"), hive_partitioning=True)
        .select(f"path, {_COLUMNS}")
        .order("name")
        .to_arrow_table()
        .to_pylist()
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["path"] == f"{source}{str(other.pop('path')).removeprefix(str(recordings))}"
        assert {name: mine[name] for name in other} == other
    assert [row["beats"] > 20 for row in ours] == [row["status"] == "analysed" for row in ours]

    results = {
        key for key in _list_keys(object_server, f"{out}/results/") if not key.endswith(".json")
    }
    local = tmp_path / "out" / "results"
    assert results == {
        path.relative_to(local).as_posix()
        for path in local.rglob("*")
        if path.is_file() and path.suffix != ".json"
    }
    assert "wfdb/deep/w2.pvc" in results
    for name in results:
        found = open_place(f"{out}/results/{name}").read()
        assert found == (local / name).read_bytes()

    before = sorted(_list_keys(object_server, bucket_url))
    assert run(source, out) == done
    assert sorted(_list_keys(object_server, bucket_url)) == before
    assert _read_rows(object_server, out) == rows


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_a_store_that_is_killed_is_resumed_and_analyses_each_recording_once(
    prefect_server: None,
    released: Bundle,
    write_recordings: Callable[[Path, int], None],
    bucket_url: str,
    object_server: ObjectServer,
    tmp_path: Path,
) -> None:
    source, out = f"{bucket_url}/in", f"{bucket_url}/out"
    write_recordings(tmp_path / "in", 12)
    (tmp_path / "in" / "broken.edf").write_bytes(b"0       nothing more")
    _upload(object_server, tmp_path / "in", source)
    command = [sys.executable, "-c", _RUN, str(released.directory), source, out]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    with psutil.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + _GUARD_S
        while len(_list_keys(object_server, f"{out}/_state/waiting/")) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        children = process.children(recursive=True)
        process.kill()
    assert psutil.wait_procs(children, timeout=_GUARD_S)[1] == []
    noted = [
        json.loads(open_place(f"{out}/_state/waiting/{key}").read())
        for key in _list_keys(object_server, f"{out}/_state/waiting/")
    ]
    assert 2 <= len(noted) < 13

    _take_leases_back()
    done = analyze_recordings([source], output_dir=out, formats=[], processes=2)
    assert (done["analysed"], done["left_out"]) == (12, 1)
    rows = _read_rows(object_server, out)
    assert set(rows) == {
        f"{source}/broken.edf", *(f"{source}/r{number:02d}.hea" for number in range(12))
    }  # fmt: skip
    kept = {row["path"]: row["analysed_at"] for row in noted}
    assert {path: rows[path]["analysed_at"].isoformat() for path in kept} == kept
    assert _list_keys(object_server, f"{out}/_state/waiting/") == []


def test_a_listing_of_more_than_a_thousand_objects_is_read_to_its_end(
    bucket_url: str, object_server: ObjectServer
) -> None:
    bucket, _, prefix = bucket_url.removeprefix("s3://").partition("/")

    def put(name: str) -> None:
        object_server.client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"x" * 7)

    expected = {f"ward {number % 3}/p{number:04d}.edf" for number in range(1205)}
    for name in expected:
        put(name)
    passed_over = ("ward 0/", "ward 0/r.beats.csv", ".trash/x.edf", "ward 1/.x/y.edf", "out/z.edf")
    for name in (*passed_over, "ward 2//x.edf", "ward 2/../../x.edf"):
        put(name)
    put("other/y.edf")
    object_server.client.put_object(Bucket=bucket, Key=f"{prefix}-2/y.edf", Body=b"")
    listed = find_recordings([bucket_url], output=open_place(f"{bucket_url}/out"))
    found = listed.recordings
    expected.add("other/y.edf")
    assert {one.path.removeprefix(f"{bucket_url}/") for one in found} == expected
    assert {one.folder for one in found} == {"ward 0", "ward 1", "ward 2", "other"}
    assert {one.n_bytes for one in found} == {7}
    assert listed.empty == {
        f"{bucket_url}/ward 2//x.edf": "no file can have this path",
        f"{bucket_url}/ward 2/../../x.edf": "no file can have this path",
    }
    names = open_place(f"{bucket_url}/ward 1").list_names()
    assert len(names) == 402
    assert names == sorted(names)


@pytest.mark.parametrize("is_upper", [True, False])
def test_signals_of_a_header_are_found_in_other_capitals_as_in_a_folder(
    bucket_url: str, object_server: ObjectServer, tmp_path: Path, *, is_upper: bool
) -> None:
    """As a copy from a file system that does not keep capitals has them."""
    made = write_wfdb(simulate_strip(StripKind.NORMAL), tmp_path / "made")
    source = tmp_path / "in"
    source.mkdir()
    for path in made.parent.glob(f"{made.stem}.*"):
        name = path.name.upper() if is_upper and path.suffix == ".dat" else path.name
        (source / name).write_bytes(path.read_bytes())
    _upload(object_server, source, f"{bucket_url}/in")
    ((recording,), (local,)) = (
        find_recordings([url], output=open_place(str(tmp_path / "out"))).recordings
        for url in (f"{bucket_url}/in", str(source))
    )
    assert recording.n_bytes == local.n_bytes == sum(p.stat().st_size for p in source.iterdir())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    copy, original = fetch(recording, scratch), fetch(local, scratch)
    of_store, of_folder = open_recording(copy), open_recording(original)
    assert [lead.name for lead in of_store.leads] == [lead.name for lead in of_folder.leads]
    np.testing.assert_array_equal(
        *(np.concatenate([*one.blocks(one.leads[0])]) for one in (of_store, of_folder))
    )


def test_objects_are_read_in_parts_and_removed(bucket_url: str) -> None:
    place = open_place(f"{bucket_url}/a")
    place.below("x").write(b"0123456789")
    place.below("empty").write(b"")
    assert place.read_starts({"x": 4, "empty": 4, "gone": 4}) == {"x": b"0123", "empty": b""}
    assert (place.below("x").size(), place.below("y").size(), place.size()) == (10, None, None)
    with place.files.open(place.below("x").path) as file:
        file.seek(3)
        assert file.read(4) == b"3456"
    assert S3Files().cat_file(place.below("x").path, 4, 4) == b""
    assert S3Files().cat_file(place.below("x").path, 8) == b"89"
    place.remove_files(["x", "gone"])
    assert place.list_names() == ["empty"]
    assert open_place(f"{bucket_url}/nothing").list_names() == []


def test_a_bucket_may_be_named_alone_and_a_slash_may_follow(
    bucket_url: str, object_server: ObjectServer
) -> None:
    url = f"s3://{object_server.make_bucket()}"
    assert open_place(url).is_directory()
    assert _find(url, f"{bucket_url}/out") == []
    open_place(f"{url}/a/x.edf").write(b"x")
    (found,) = _find(f"{url}/", f"{bucket_url}/out")
    assert found == Recording(f"{url}/a/x.edf", "a", 1)
    assert _find(f"{url}/a/", f"{bucket_url}/out") == [Recording(f"{url}/a/x.edf", "", 1)]


def test_a_url_without_a_bucket_or_with_invalid_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, bucket_url: str
) -> None:
    with pytest.raises(ConfigurationError, match="s3:///x must be s3://BUCKET/PREFIX"):
        open_place("s3:///x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no-scheme:9000/")
    with pytest.raises(ConfigurationError, match="cannot be opened with the AWS_ variables"):
        open_place(bucket_url)
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    with pytest.raises(ConfigurationError, match="not-there"):
        open_place(bucket_url)


@pytest.mark.parametrize(
    ("variables", "url", "reason"),
    [
        ({}, "s3://not-there/in", "bucket does not exist"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "", "connect to the endpoint"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": os.devnull}
            | {"AWS_SHARED_CREDENTIALS_FILE": os.devnull},
            "",
            "NoCredentialsError: Unable to locate credentials",
        ),
    ],
    ids=["bucket", "endpoint", "credentials"],
)
@pytest.mark.parametrize("is_input", [True, False])
@pytest.mark.usefixtures("prefect_server", "released")
def test_a_store_that_cannot_be_reached_ends_the_run_before_anything_is_written(
    recordings: Path,
    bucket_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    url: str,
    reason: str,
    *,
    is_input: bool,
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    url = url or bucket_url
    paths, out = ([url], str(tmp_path / "out")) if is_input else ([str(recordings)], url)
    with pytest.raises(StoreAccessError, match=rf"{url}.* cannot be read.*{reason}") as refused:
        analyze_recordings(paths, output_dir=out, formats=[])
    assert SECRET not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_store_that_rejects_the_credentials_makes_no_row(
    monkeypatch: pytest.MonkeyPatch, output: Output, tmp_path: Path
) -> None:
    with serving(believes_everybody=False) as server:
        for name, text in server.variables.items():
            monkeypatch.setenv(name, text)
        with pytest.raises(StoreAccessError, match=r"s3://b/in .*InvalidAccessKeyId") as refused:
            require_inputs(["s3://b/in"])
        assert SECRET not in str(refused.value)
        for ask in (
            lambda place: place.read(),
            lambda place: place.write(b""),
            lambda place: place.upload(Path(__file__)),
            lambda place: place.list_names(),
            lambda place: place.exists(),
            lambda place: place.remove_files(["x"]),
        ):
            with pytest.raises(StoreAccessError, match="InvalidAccessKeyId"):
                ask(open_place("s3://b/in"))
        recording = Recording("s3://b/in/x.edf", "", 1)
        with pytest.raises(StoreAccessError, match=r"s3://b/in/x\.edf .*InvalidAccessKeyId"):
            _run_batch(output, recording)
    assert output.settle().paths == set()


def test_an_object_to_which_access_is_denied_fails_alone(
    bucket_url: str,
    object_server: ObjectServer,
    write_recordings: Callable[[Path, int], None],
    output: Output,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_recordings(tmp_path / "in", 2)
    _upload(object_server, tmp_path / "in", f"{bucket_url}/in")
    found = _find(f"{bucket_url}/in", output.place.url)
    monkeypatch.setattr(S3Files, "get_file", _deny(S3Files.get_file, "r00.hea"))
    rows = _run_batch(output, *found)
    assert [row.status for row in rows] == ["failed", "analysed"]
    assert "the store denies access" in rows[0].error


def _deny(get_file: Callable[..., None], name: str) -> Callable[..., None]:
    """Deny access to one object; moto can deny it to a user, and then no other way in is left."""

    def get(files: S3Files, path: str, target: str) -> None:
        if path.endswith(name):
            raise PermissionError(13, "the store denies access", path)
        get_file(files, path, target)

    return get


def _take_leases_back() -> None:
    """Do what Prefect's server does a minute after a kill, except the one of the tests."""
    with get_client(sync_client=True) as client:
        for limit in client.read_global_concurrency_limits(limit=200, offset=0):
            if limit.name.startswith("recordings-") and limit.active_slots:
                client.release_concurrency_slots([limit.name], limit.active_slots, 1.0)


def _run_batch(output: Output, *found: Recording) -> list[Row]:
    wanted = Wanted(output=output.place.url, formats=())
    with disable_run_logger():
        return analyze_batch.fn(Batch(number=0, recordings=found, wanted=wanted))


def test_paths_of_which_none_is_there_are_refused(bucket_url: str, tmp_path: Path) -> None:
    paths = [f"{bucket_url}/nothing", str(tmp_path / "nothing.edf")]
    with pytest.raises(AnalysisError, match="at least one of the paths must be there") as refused:
        require_inputs(paths)
    assert all(path in str(refused.value) for path in paths)
    open_place(f"{bucket_url}/in/x.edf").write(b"x")
    require_inputs([*paths, f"{bucket_url}/in"])
    require_inputs([*paths, f"{bucket_url}/in/x.edf"])


def test_a_pinned_model_is_kept_in_the_store(
    bucket_url: str, toy_bundle: Bundle, tmp_path: Path
) -> None:
    output = Output(open_place(f"{bucket_url}/out"))
    output.pin({"formats": []}, toy_bundle, describe_model(toy_bundle, version="3"))
    assert output.fetch_bundle(tmp_path) == tmp_path / "model"
    with pytest.raises(ConfigurationError, match="a run must ask for what earlier runs"):
        output.pin({"formats": ["json"]}, toy_bundle, describe_model(toy_bundle, version="3"))


def test_a_folder_that_must_not_be_listed_is_told_and_the_others_are_analysed(
    write_recordings: Callable[[Path, int], None],
    output: Output,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of this machine: an error below the first level was once passed over in silence."""
    write_recordings(tmp_path / "in" / "a", 1)
    write_recordings(tmp_path / "in" / "b" / "shut", 1)
    list_one = Place._list_one

    def deny(place: Place, path: str) -> tuple[list[str], dict[str, int]]:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return list_one(place, path)

    monkeypatch.setattr(Place, "_list_one", deny)
    found = find_recordings([str(tmp_path / "in")], output=output.place)
    assert [one.folder for one in found.recordings] == ["a"]
    ((path, reason),) = found.empty.items()
    assert path == str(tmp_path / "in" / "b" / "shut")
    assert "the directory must be listed, which is denied" in reason
    with pytest.raises(PermissionError):
        open_place(path).list_names()
