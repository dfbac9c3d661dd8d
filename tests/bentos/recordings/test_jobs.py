"""The recordings that wait: their states on disk, restarts, places, and what is removed."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bentos.recordings import job_runner, job_store
from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_runner import JobRunner, explain_outcome
from bentos.recordings.job_store import Job, JobStatus, JobStore
from bentos.recordings.uploads import Recording, UploadFields
from bentos.runtime.limits.caller import SERVICE_ITSELF, Caller
from bentos.runtime.live_model import LoadedModel
from bentos.wire.problems import ProblemError, explain_file_error
from ecg_lib.errors import PredictionLogError
from ecg_lib.operations.keys.api_keys import ApiKey
from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.releases import SERVING_PACKAGES, Release, bento_source, hash_code
from ecg_lib.operations.settings import Settings
from ecg_lib.records.files.lead import Lead
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record

ROOT = Path(__file__).parents[3]


def _incoming(home: Path) -> list[Path]:
    """Files that uploads have left; the directory of each process stays, with its lock."""
    incoming = home / "recordings" / ".incoming"
    removed = incoming.glob("*.gone")
    return [*removed, *(path for path in incoming.glob("*/*") if path.name != ".owner")]


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _long_npy(hours: float) -> bytes:
    minute = simulate_record("r", patient=draw_patient(2), duration_s=60.0, seed=1).signal_mv()
    return _npy(np.tile(minute, round(60 * hours)))


def _workers(job_id: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(job_id in part for part in process.info["cmdline"] or ())
    ]


class Recordings:
    """The recordings of one process: its queue, and the thread that works on it."""

    def __init__(self, settings: Settings, model: LoadedModel | None = None) -> None:
        self.store = JobStore(settings.recordings_dir)
        self.runner = JobRunner(self.store, settings, model=lambda: model)
        self.queue = JobQueue(self.store, settings, wake=self.runner.wake)

    def close(self) -> None:
        self.runner.close()
        self.queue.close()


@pytest.fixture
def work(toy_model: LoadedModel, tmp_path: Path) -> Iterator[Callable[..., Recordings]]:
    made: list[Recordings] = []

    def make(**changes: int) -> Recordings:
        recordings = Recordings(Settings(home=tmp_path, **changes), toy_model)
        recordings.runner.start()
        made.append(recordings)
        return recordings

    yield make
    for recordings in made:
        recordings.close()


def _add(jobs: Recordings, content: bytes, caller: Caller = SERVICE_ITSELF) -> Job:
    directory = jobs.queue.open_upload(len(content), caller)
    path = directory / "recording.npy"
    path.write_bytes(content)
    return jobs.queue.add(
        Recording(
            path=path,
            lead=Lead("MLII", 360.0, None),
            leads=("MLII",),
            kind="npy",
            fields=UploadFields(sampling_rate=360.0),
        ),
        caller,
    )


def _until(jobs: Recordings, job_id: str, *statuses: JobStatus) -> Job:
    deadline = time.monotonic() + 180
    while (job := jobs.queue.find(job_id)).status not in statuses:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def test_a_restart_finds_what_is_done_and_goes_on_with_what_is_not(
    work: Callable[..., Recordings],
) -> None:
    jobs = work()
    short = _add(jobs, _long_npy(0.05))
    _until(jobs, short.job_id, JobStatus.DONE)
    long = _add(jobs, _long_npy(6))
    _until(jobs, long.job_id, JobStatus.RUNNING)
    jobs.close()
    assert _workers(long.job_id) == []
    again = work()
    assert again.queue.find_results(short.job_id).is_dir()
    assert _until(again, long.job_id, JobStatus.DONE).attempts == 1


def test_a_recording_that_was_cut_off_twice_is_given_up(
    work: Callable[..., Recordings], tmp_path: Path
) -> None:
    jobs = work()
    job = _add(jobs, _long_npy(0.05))
    _until(jobs, job.job_id, JobStatus.DONE)
    jobs.close()
    state = tmp_path / "recordings" / job.job_id / "state.json"
    fields = json.loads(state.read_bytes())
    state.write_text(json.dumps({**fields, "status": "running", "attempts": 2}))
    state.with_name("outcome.json").unlink()
    failed = _until(work(), job.job_id, JobStatus.FAILED)
    assert failed.error is not None
    assert "cut off 2 times" in failed.error["detail"]


def test_a_recording_waits_on_when_no_process_can_be_started(
    work: Callable[..., Recordings], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = job_runner._start_process, [errno.EAGAIN, errno.ENOMEM, errno.EAGAIN]

    def start_at_last(directory: Path, *, source: Path) -> subprocess.Popen[bytes]:
        if refusals:
            number = refusals.pop()
            raise OSError(number, os.strerror(number))
        return start(directory, source=source)

    monkeypatch.setattr(job_runner, "_start_process", start_at_last)
    jobs = work()
    job = _add(jobs, _long_npy(0.05))
    assert _until(jobs, job.job_id, JobStatus.DONE, JobStatus.FAILED).status is JobStatus.DONE
    assert jobs.queue.find(job.job_id).attempts == 1


def test_an_analysis_lets_the_service_go_first(tmp_path: Path) -> None:
    with job_runner._start_process(tmp_path, source=Path(__file__).parents[3]) as process:
        found = os.getpriority(os.PRIO_PROCESS, process.pid), os.getsid(process.pid)
        group = os.getpgid(process.pid)
        process.kill()
    # Linux applies priorities within a session. The group is its own, to end what it starts.
    assert found == (min(19, os.nice(0) + 10), os.getsid(0))
    assert group == process.pid


def test_changed_code_of_a_bento_does_not_run_in_an_analysis(
    toy_model: LoadedModel,
    tmp_path: Path,
    serve_release: Callable[[Settings, Release], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code was checked when the worker started, which may be weeks ago."""
    settings = Settings(home=tmp_path)
    release = Release(
        bento_tag="ecg:1",
        model_tag="ecg_bundle:1",
        bundle_hash=toy_model.bundle.hash,
        code_hash=hash_code(ROOT),
        model_version="1",
        released_at="2026-01-01T00:00:00.000+00:00",
    )
    source = bento_source(settings.bentoml_home, release)
    for package in SERVING_PACKAGES:
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=caches)
    serve_release(settings, release)
    jobs = Recordings(settings, replace(toy_model, release=release))
    jobs.runner.start()
    try:
        with monkeypatch.context() as patch:
            asked = threading.Event()

            def fail(*_: object) -> None:
                asked.set()
                raise SignatureError("unreadable", bento_tag="ecg:1") from OSError(errno.EMFILE, "")

            patch.setattr(job_runner, "prepare_code", fail)
            passing = _add(jobs, _long_npy(0.05)).job_id
            assert asked.wait(10)
        # That the code could not be read for a moment fails no recording.
        done = _until(jobs, passing, JobStatus.DONE, JobStatus.FAILED)
        assert (done.status, done.attempts) == (JobStatus.DONE, 1)
        marker, planted = tmp_path / "ran", source / "sitecustomize.py"
        planted.write_text(f"open({str(marker)!r}, 'w')\n")
        failed = _until(jobs, _add(jobs, _long_npy(0.05)).job_id, JobStatus.FAILED)
        assert failed.error is not None
        assert "the code of the service has changed on its disk" in failed.error["detail"]
        assert not marker.exists()
        serve_release(settings, release)  # signed with it, so that it may run
        compiled = source / "bentos" / "__pycache__"
        compiled.mkdir()
        job = _add(jobs, _long_npy(0.05))
        assert _until(jobs, job.job_id, JobStatus.DONE, JobStatus.FAILED).status is JobStatus.DONE
        assert not compiled.exists()
        assert marker.exists()
    finally:
        jobs.close()


def test_the_end_of_an_analysis_is_noted_when_the_disk_has_room_again(
    work: Callable[..., Recordings], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refused = job_store.write_json, threading.Event()

    def write_at_last(path: Path, content: dict[str, Any]) -> None:
        if content.get("status") == "done" and not refused.is_set():
            refused.set()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(job_store, "write_json", write_at_last)
    jobs = work()
    job = _add(jobs, _long_npy(0.05))
    assert refused.wait(180)
    assert _until(jobs, job.job_id, JobStatus.DONE, JobStatus.FAILED).status is JobStatus.DONE
    assert jobs.queue.find(job.job_id).attempts == 1
    assert jobs.queue.find_results(job.job_id).is_dir()


def test_two_processes_share_the_queue_and_one_works(
    work: Callable[..., Recordings],
) -> None:
    first, second = work(), work()
    job = _add(second, _long_npy(0.05))
    _until(first, job.job_id, JobStatus.DONE)
    assert second.queue.find(job.job_id).attempts == 1
    other = _add(first, _long_npy(2))
    second.queue.delete(other.job_id)
    _until(second, other.job_id, JobStatus.CANCELLED)
    first.close()
    third = _add(second, _long_npy(0.05))
    _until(second, third.job_id, JobStatus.DONE)


def test_only_the_newest_results_are_kept(work: Callable[..., Recordings]) -> None:
    jobs = work(recordings_kept=2)
    ids = [_add(jobs, _npy(np.zeros(36_000))).job_id for _ in range(4)]
    _until(jobs, ids[-1], JobStatus.FAILED)
    deadline = time.monotonic() + 180
    while len(list(jobs.store.list_jobs())) > 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {job.job_id for job in jobs.store.list_jobs()} == set(ids[2:])


@pytest.mark.parametrize(("days", "is_kept"), [(7, False), (9, True), (0, True)])
def test_finished_recordings_are_kept_for_days(
    work: Callable[..., Recordings], days: int, *, is_kept: bool
) -> None:
    jobs = work(recordings_kept_days=days)
    old = _add(jobs, _npy(np.zeros(36_000))).job_id
    _until(jobs, old, JobStatus.FAILED)
    state = jobs.store.directory_of(old) / "state.json"
    ended_at = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    state.write_text(json.dumps(json.loads(state.read_text()) | {"finished_at": ended_at}))
    new = _add(jobs, _npy(np.zeros(36_000))).job_id
    _until(jobs, new, JobStatus.FAILED)
    deadline = time.monotonic() + 180
    expected = {old, new} if is_kept else {new}
    while {job.job_id for job in jobs.store.list_jobs()} != expected:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def idle(tmp_path: Path) -> Recordings:
    """A queue that works on nothing."""
    return Recordings(Settings(home=tmp_path, recordings_waiting=2))


def test_an_upload_is_left_alone_as_long_as_it_grows(idle: Recordings) -> None:
    growing, forgotten = idle.queue.open_upload(1), idle.queue.open_upload(1)
    long_ago = time.time() - 4 * 3600
    for directory in (growing, forgotten):
        (directory / "upload0.npy").write_bytes(b"x")
        os.utime(directory, (long_ago, long_ago))
    for path in forgotten.iterdir():
        os.utime(path, (long_ago, long_ago))
    idle.runner._clear_uploads()
    assert (growing / "upload0.npy").exists()
    assert not forgotten.exists()


def test_uploads_that_come_take_a_place_each(idle: Recordings) -> None:
    uploads = [idle.queue.open_upload(1) for _ in range(2)]
    with pytest.raises(ProblemError) as refused:
        idle.queue.open_upload(1)
    assert refused.value.kind.name == "queue-full"
    shutil.rmtree(uploads[0])
    _add(idle, b"x")
    with pytest.raises(ProblemError):
        idle.queue.open_upload(1)
    shutil.rmtree(uploads[1])
    idle.queue.open_upload(1)


def test_uploads_to_a_process_that_was_killed_take_no_place(
    idle: Recordings, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from bentos.recordings.job_queue import JobQueue\n"
        "from bentos.recordings.job_store import JobStore\n"
        "from ecg_lib.operations.settings import Settings\n"
        "settings = Settings(home=sys.argv[1])\n"
        "jobs = JobQueue(JobStore(settings.recordings_dir), settings)\n"
        "print([jobs.open_upload(1) for _ in range(2)], flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        with pytest.raises(ProblemError) as refused:
            idle.queue.open_upload(1)
        other.kill()
    assert refused.value.kind.name == "queue-full"
    assert len(_incoming(tmp_path)) == 2
    idle.queue.open_upload(1)


def caller(name: str) -> Caller:
    return Caller(name=name, key=ApiKey(hash=name[0] * 64), asks_keys=True)


def test_one_key_takes_half_of_the_places(tmp_path: Path) -> None:
    queue = Recordings(Settings(home=tmp_path, recordings_waiting=4)).queue
    for _ in range(2):
        queue.open_upload(1, caller("alice"))
    with pytest.raises(ProblemError) as refused:
        queue.open_upload(1, caller("alice"))
    assert refused.value.kind.name == "queue-full"
    queue.open_upload(1, caller("bob"))


def test_recordings_that_wait_count_for_the_key_that_sent_them(tmp_path: Path) -> None:
    recordings = Recordings(Settings(home=tmp_path, recordings_waiting=4))
    for _ in range(2):
        _add(recordings, b"x", caller("alice"))
    with pytest.raises(ProblemError):
        recordings.queue.open_upload(1, caller("alice"))
    _add(recordings, b"x", caller("bob"))


def test_the_results_of_one_key_do_not_push_out_those_of_another(
    work: Callable[..., Recordings],
) -> None:
    jobs = work(recordings_kept=2)
    of_bob = _add(jobs, _npy(np.zeros(36_000)), caller("bob")).job_id
    _until(jobs, of_bob, JobStatus.FAILED)
    ids = []
    for _ in range(4):
        ids.append(_add(jobs, _npy(np.zeros(36_000)), caller("alice")).job_id)
        _until(jobs, ids[-1], JobStatus.FAILED)
    deadline = time.monotonic() + 180
    while len(list(jobs.store.list_jobs())) > 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {job.job_id for job in jobs.store.list_jobs()} == {of_bob, *ids[2:]}


def test_the_next_recording_is_of_the_key_that_waited_longest(
    tmp_path: Path, toy_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Recordings(Settings(home=tmp_path, recordings_at_once=4), toy_model)
    names = {_add(jobs, b"x", caller(name)).job_id: name for name in ("alice", "alice", "bob")}
    started: list[str] = []
    monkeypatch.setattr(
        jobs.runner, "_start", lambda job, _model: started.append(names[job.job_id])
    )
    jobs.runner._start_next(sorted(jobs.store.list_jobs(), key=lambda job: job.created_at))
    assert started == ["alice", "bob", "alice"]


def test_what_other_uploads_announced_is_no_room(
    idle: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 2**30
    usage = shutil.disk_usage(Path.cwd())._replace(free=gib + 300 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    first = idle.queue.open_upload(200 * 2**20)
    with pytest.raises(ProblemError) as refused:
        idle.queue.open_upload(101 * 2**20)
    assert refused.value.kind.name == "storage-full"
    idle.queue.open_upload(100 * 2**20)
    shutil.rmtree(first)


@pytest.mark.parametrize(("free_mib", "has_room"), [(511, False), (512, True)])
def test_an_upload_that_states_no_length_needs_room_for_the_longest(
    idle: Recordings, monkeypatch: pytest.MonkeyPatch, free_mib: int, *, has_room: bool
) -> None:
    usage = shutil.disk_usage(Path.cwd())._replace(free=2**30 + free_mib * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    if has_room:
        idle.queue.open_upload(None)
        return
    with pytest.raises(ProblemError):
        idle.queue.open_upload(None)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"{"), Path.unlink])
def test_a_job_that_cannot_be_read_for_long_is_removed(
    idle: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object],
) -> None:  # fmt: skip
    spoilt, good = _add(idle, b"x"), _add(idle, b"x")
    spoil(tmp_path / "recordings" / spoilt.job_id / "state.json")
    idle.runner._work()
    assert len(list(tmp_path.rglob("recording.npy"))) == 2
    monkeypatch.setattr(job_store, "_UNREADABLE_S", 0.0)
    caplog.clear()
    idle.runner._work()
    assert [path.parts[-3] for path in tmp_path.rglob("recording.npy")] == [good.job_id]
    assert [one.getMessage() for one in caplog.records] == [
        f"recording {spoilt.job_id}, which cannot be read, is removed"
    ]


def test_a_job_that_cannot_be_read_stops_no_other(
    work: Callable[..., Recordings], idle: Recordings, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def spoil(name: str, content: bytes) -> str:
        job = _add(Recordings(Settings(home=tmp_path)), b"x")
        state = tmp_path / "recordings" / job.job_id / name
        fields = json.loads(state.read_bytes())
        state.write_bytes(content or json.dumps({**fields, "later": 1}).encode())
        return job.job_id

    spoilt = [
        spoil("state.json", content)
        for content in (b"", b'{"job_id": "x', b"[]", b"{}", b'{"status": "lost"}')
    ]
    without_task = spoil("task.json", b"{")
    good = _add(idle, _npy(np.zeros(36_000)))
    caplog.clear()
    jobs = work()
    _until(jobs, good.job_id, JobStatus.FAILED)
    failed = _until(jobs, without_task, JobStatus.FAILED)
    assert failed.error is not None
    assert failed.error["type"] == "/problems/analysis-failed"
    for job_id in spoilt:
        with pytest.raises(ProblemError) as unknown:
            jobs.queue.find(job_id)
        assert unknown.value.kind.name == "unknown-recording"
    time.sleep(0.6)  # it looks again
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    for job_id in spoilt:
        assert len([line for line in told if job_id in line and "cannot be read" in line]) == 1


@pytest.mark.parametrize("name", ["PredictionLogError", "NoErrorOfOurs"])
def test_an_error_that_is_none_of_a_file_is_told_to_nobody(name: str) -> None:
    problem = explain_outcome({"class": name, "message": "secret", "detail": None})
    assert problem.kind.name == "analysis-failed"
    assert "secret" not in str(problem.describe())
    assert explain_file_error(PredictionLogError("secret")).kind is problem.kind


def test_work_ends_with_the_process_that_started_it(toy_model: LoadedModel, tmp_path: Path) -> None:
    """As after a kill: nobody tells the process anything, its input just ends."""
    jobs = Recordings(Settings(home=tmp_path), toy_model)
    jobs.runner.start()
    job = _add(jobs, _long_npy(6))
    _until(jobs, job.job_id, JobStatus.RUNNING)
    while job.job_id not in jobs.runner._processes:
        time.sleep(0.01)
    process, _ = jobs.runner._processes[job.job_id]
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=120) == 1
    jobs.close()
