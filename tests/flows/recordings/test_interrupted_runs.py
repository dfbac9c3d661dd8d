"""The flow while its processes are killed, on a cluster of this machine and on another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import distributed
import psutil
import pyarrow.parquet as pq
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import ConfigurationError
from ecg_lib.recordings.summary import ResultFormat
from flows.recordings.analyze_recordings import analyze_all, analyze_recordings
from flows.recordings.analyzed_files import AnalysisError, WriteError
from flows.recordings.batches import cluster as clusters
from flows.recordings.batches import only_run
from flows.recordings.batches.batch import Batch, Wanted, make_failed
from flows.recordings.batches.cluster import WorkerDiedError, open_cluster
from flows.recordings.batches.found import Recording, find_recordings
from flows.recordings.batches.only_run import only_run_on
from flows.recordings.batches.places import open_place
from flows.recordings.batches.results import Output, Row

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

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


@pytest.fixture
def released(toy_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Make the toy bundle the released one."""
    monkeypatch.setattr(
        "flows.release.load_released.load_bundle_to_use", lambda _settings: ("3", toy_bundle)
    )
    return toy_bundle


def _rows(out: Path, *, key: str = "name") -> dict[str, dict[str, Any]]:
    """Read the rows of all Parquet files by a column, and check that none is there twice."""
    files = sorted((out / "recordings").glob("*/*.parquet"))
    rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    by_key = {row[key]: row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


class _Cluster:
    """Stands in for a cluster: the batches end, one after the other, as a function says."""

    def __init__(self, run: Callable[[Batch], list[Row] | Exception], *, processes: int) -> None:
        self._run, self._processes = run, processes

    def count_processes(self) -> int:
        return self._processes

    def run_bounded(
        self, _task: object, todo: deque[Batch], **_name: str
    ) -> Iterator[tuple[Batch, list[Row] | Exception]]:
        while todo:
            batch = todo.popleft()
            yield batch, self._run(batch)


def _analyze_by(cluster: _Cluster, recordings: Sequence[Recording], output: Output) -> None:
    @flow
    def analyze() -> None:
        wanted = Wanted(output=output.place.url, formats=())
        analyze_all(recordings, cluster, output, wanted)  # type: ignore[arg-type]  a stand-in

    analyze()


def _note_row(output: Output, recording: Recording) -> Row:
    row = make_failed(recording, "a row", model=output.read_model())
    output.note(row)
    return row


def _read_notes(out: Path) -> list[dict[str, Any]]:
    """Read the rows that wait to be published."""
    notes = sorted((out / "_state" / "waiting").glob("*.json"))
    return [json.loads(path.read_text()) for path in notes]


def _wait_for_notes(out: Path, count: int, *, guard: Callable[[], bool]) -> list[dict[str, Any]]:
    deadline_s = time.monotonic() + _GUARD_S
    while time.monotonic() < deadline_s and guard():
        notes = _read_notes(out)
        if len(notes) >= count:
            return notes
        time.sleep(0.02)
    pytest.fail(f"{count} recordings must be done by now, {len(notes)} are")


def test_a_run_that_is_killed_is_resumed_and_analyses_each_recording_once(
    prefect_server: None,
    released: Bundle,
    write_recordings: Callable[[Path, int], None],
    tmp_path: Path,
) -> None:
    write_recordings(tmp_path / "in", 12)
    (tmp_path / "in" / "broken.edf").write_bytes(b"0       nothing more")
    out = tmp_path / "out"
    command = [sys.executable, "-c", _RUN, str(released.directory), str(tmp_path / "in"), str(out)]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    with psutil.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        _wait_for_notes(out, 2, guard=lambda: process.poll() is None)
        children = process.children(recursive=True)
        process.kill()
    assert len(children) >= 2  # the Dask workers, and what they started
    assert psutil.wait_procs(children, timeout=_GUARD_S)[1] == []
    noted = _read_notes(out)
    assert 2 <= len(noted) < 13

    done = analyze_recordings([str(tmp_path / "in")], output_dir=str(out), formats=[], processes=2)
    assert (done["analysed"], done["left_out"]) == (12, 1)
    rows = _rows(out)
    assert set(rows) == {"broken", *(f"r{number:02d}" for number in range(12))}
    kept = {row["name"]: row["analysed_at"] for row in noted}
    assert {name: rows[name]["analysed_at"].isoformat() for name in kept} == kept

    again = analyze_recordings([str(tmp_path / "in")], output_dir=str(out), formats=[])
    assert again == done
    assert _rows(out) == rows


def test_a_run_loses_no_recording_when_a_dask_worker_is_killed(
    prefect_server: None,
    released: Bundle,
    write_recordings: Callable[[Path, int], None],
    tmp_path: Path,
) -> None:
    write_recordings(tmp_path / "in", 10)
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        notes = _wait_for_notes(out, 2, guard=lambda: True)
        killed.append(int(notes[0]["worker"].rpartition(":")[2]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = analyze_recordings([str(tmp_path / "in")], output_dir=str(out), formats=[], processes=2)
    killer.join()
    assert (done["analysed"], done["left_out"]) == (10, 0)
    rows = _rows(out)
    assert len(rows) == 10
    workers = {int(row["worker"].rpartition(":")[2]) for row in rows.values()}
    assert killed[0] in workers
    assert len(workers) >= 2


@pytest.mark.parametrize("blocked", ["results", "results/b"])
def test_a_run_ends_when_results_cannot_be_written_and_is_resumed_later(
    prefect_server: None,
    released: Bundle,
    write_recordings: Callable[[Path, int], None],
    tmp_path: Path,
    blocked: str,
) -> None:
    """A file lies where the folder of results must be: of all recordings, or of some."""
    for folder in "ab":
        write_recordings(tmp_path / "in" / folder, 3)
    out = tmp_path / "out"
    (out / blocked).parent.mkdir(parents=True)
    (out / blocked).write_text("a file")

    def run() -> dict[str, Any]:
        return analyze_recordings(
            [str(tmp_path / "in")], output_dir=str(out), formats=[ResultFormat.JSON], processes=2
        )

    with pytest.raises(
        AnalysisError, match=rf"recordings have no row yet.*{out}.*results must be written to"
    ):
        run()
    first = {note["path"]: note["analysed_at"] for note in _read_notes(out)}
    first |= {path: row["analysed_at"].isoformat() for path, row in _rows(out, key="path").items()}
    assert not [path for path in first if blocked == "results" or "/b/" in path]

    (out / blocked).unlink()
    done = run()
    assert (done["analysed"], done["left_out"]) == (6, 0)
    rows = _rows(out, key="path")
    assert len(rows) == len(list((out / "results").glob("*/r*.json"))) == 6
    assert {path: rows[path]["analysed_at"].isoformat() for path in first} == first


def test_no_batch_begins_after_one_that_could_not_write(
    prefect_server: None,
    output: Output,
    write_recordings: Callable[[Path, int], None],
    tmp_path: Path,
) -> None:
    write_recordings(tmp_path, 5)
    found = find_recordings([str(tmp_path)], output=output.place)
    begun: list[str] = []

    def run(batch: Batch) -> list[Row] | Exception:
        begun.extend(one.name for one in batch.recordings)
        if len(begun) > 1:
            return WriteError("the disk is full")
        return [_note_row(output, one) for one in batch.recordings]

    with pytest.raises(AnalysisError, match=r"4 recordings have no row yet.*the disk is full"):
        _analyze_by(_Cluster(run, processes=3), found.recordings, output)
    assert begun == ["r00", "r01"]
    assert set(_rows(output.place.as_path())) == {"r00"}


@pytest.mark.parametrize("deadly", ["r00", "r01", "r04"])
def test_a_recording_that_ends_dask_workers_is_found_and_the_others_are_analysed(
    prefect_server: None,
    output: Output,
    write_recordings: Callable[[Path, int], None],
    tmp_path: Path,
    deadly: str,
) -> None:
    write_recordings(tmp_path, 5)
    found = find_recordings([str(tmp_path)], output=output.place)
    tried: list[int] = []

    def run(batch: Batch) -> list[Row] | Exception:
        tried.append(len(batch.recordings))
        rows = []
        for one in batch.recordings:
            if one.name == deadly:
                return WorkerDiedError("four of them")
            rows.append(_note_row(output, one))
        return rows

    _analyze_by(_Cluster(run, processes=1), found.recordings, output)
    errors = {name: row["error"] for name, row in _rows(output.place.as_path()).items()}
    expected = {f"r{number:02d}": "a row" for number in range(5)}
    assert errors == expected | {deadly: "four of them"}
    assert tried[:2] == [3, 2]
    assert set(tried[2:]) == {1}


def test_a_cluster_is_found_by_its_address(
    prefect_server: None,
    released: Bundle,
    write_recordings: Callable[[Path, int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_recordings(tmp_path / "in", 2)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        monkeypatch.setenv("ECG_DASK_ADDRESS", cluster.scheduler_address)
        pid = next(iter(cluster.workers.values())).process.pid
        done = analyze_recordings([str(tmp_path / "in")], output_dir=str(tmp_path / "out"))
    assert done["analysed"] == 2
    rows = _rows(tmp_path / "out").values()
    assert {int(row["worker"].rpartition(":")[2]) for row in rows} == {pid}


def test_an_address_where_no_scheduler_answers_is_an_error_of_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clusters, "_CONNECT_S", 0.5)
    with (
        pytest.raises(ConfigurationError, match="ECG_DASK_ADDRESS must name a Dask scheduler"),
        open_cluster("tcp://127.0.0.1:9", processes=1),
    ):
        pass


def test_an_output_in_a_store_is_leased_to_one_run_at_a_time(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(only_run, "_WAIT_S", 1.0)
    output = open_place("memory://bucket/leased")
    with only_run_on(output):
        refused = only_run_on(output)
        with pytest.raises(AnalysisError, match="one run at a time may write to memory:"):
            refused.__enter__()
    with only_run_on(output):
        pass
