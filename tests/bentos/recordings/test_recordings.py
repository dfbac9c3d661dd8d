"""Recordings over HTTP: a real server, real files, real processes."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import signal
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import edfio
import httpx
import numpy as np
import psutil
import pytest

from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_store import Job, JobStatus, JobStore
from bentos.recordings.uploads import Recording, receive_form
from bentos.routes.recordings import SIGNAL_HEADERS
from bentos.runtime.live_model import LoadedModel
from bentos.wire.problems import QUEUE_FULL, ProblemError
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from tests.bentos.recordings.sending import (
    NAME,
    RECORDINGS,
    expect_refusal,
    list_incoming,
    make_npy,
    send,
    wait_until,
)


def test_a_recording_becomes_a_result(
    http: httpx.Client, done: dict[str, Any], record: Record, toy_model: LoadedModel
) -> None:
    assert done["progress"] == 1.0
    assert (done["lead"], done["leads"], done["kind"]) == ("MLII", ["MLII", "V1"], "wfdb")
    assert done["duration_s"] == pytest.approx(120.0)
    result = http.get(f"{RECORDINGS}{done['job_id']}/result").json()
    assert result["job_id"] == done["job_id"]
    assert result["model"] == toy_model.info
    assert record.annotations is not None
    n_v = int((record.annotations.beat_classes == "V").sum())
    assert n_v > 3
    assert result["ventricular_beats"] == pytest.approx(n_v, abs=2)
    assert result["total_beats_detected"] == pytest.approx(
        len(record.annotations.beat_samples), abs=2
    )
    assert (result["recording"]["lead"], result["recording"]["second_lead"]) == ("MLII", "V1")
    assert {"hours", "runs", "couplets", "morphologies", "pauses"} <= set(result)


@pytest.mark.parametrize(
    ("kind", "media_type", "start"),
    [
        ("json", "application/json", b"{"),
        ("csv", "text/csv; charset=utf-8", b"beat_index,"),
        ("atr", "application/octet-stream", b""),
        ("fhir", "application/fhir+json", b'{"resourceType": "Bundle"'),
        ("html", "text/html; charset=utf-8", b"<!doctype html>"),
        ("pdf", "application/pdf", b"%PDF-"),
    ],
)
def test_every_format_is_given(
    http: httpx.Client, done: dict[str, Any], kind: str, media_type: str, start: bytes
) -> None:
    answered = http.get(f"{RECORDINGS}{done['job_id']}/result", params={"format": kind})
    assert answered.status_code == 200
    assert answered.headers["content-type"] == media_type
    assert answered.content.startswith(start)
    assert len(answered.content) > 50


def test_the_signal_is_given_as_it_is_or_as_an_envelope(
    http: httpx.Client, done: dict[str, Any], record: Record
) -> None:
    url = f"{RECORDINGS}{done['job_id']}/signal"
    answered = http.get(url, params={"start_s": 5, "duration_s": 10})
    assert answered.headers["content-type"] == "application/octet-stream"
    said = {name for name in answered.headers if name.startswith("x-ecg-")}
    assert said == {name.lower() for name in SIGNAL_HEADERS}
    assert answered.headers["x-ecg-kind"] == "samples"
    assert float(answered.headers["x-ecg-start-s"]) == 5.0
    assert float(answered.headers["x-ecg-step-s"]) == pytest.approx(1 / 360)
    samples = np.frombuffer(answered.content, dtype="<f4")
    assert int(answered.headers["x-ecg-points"]) == len(samples) == 3600
    np.testing.assert_allclose(samples, record.signal_mv("MLII")[1800:5400], atol=5e-4)

    answered = http.get(url, params={"start_s": 0, "duration_s": 120, "max_points": 500})
    assert answered.headers["x-ecg-kind"] == "envelope"
    pairs = np.frombuffer(answered.content, dtype="<f4").reshape(-1, 2)
    assert int(answered.headers["x-ecg-points"]) == len(pairs) <= 500
    assert len(pairs) * float(answered.headers["x-ecg-step-s"]) >= 119.9
    assert (pairs[:, 0] <= pairs[:, 1]).all()


def test_beats_are_given_as_parallel_lists(http: httpx.Client, done: dict[str, Any]) -> None:
    url = f"{RECORDINGS}{done['job_id']}/beats"
    everything = http.get(url, params={"start_s": 0, "duration_s": 120}).json()
    result = http.get(f"{RECORDINGS}{done['job_id']}/result").json()
    assert everything["total"] == result["total_beats_detected"]
    assert everything["type"].count("V") == result["ventricular_beats"]
    lists = {name: column for name, column in everything.items() if isinstance(column, list)}
    assert {len(column) for column in lists.values()} == {everything["total"]}
    part = http.get(url, params={"start_s": 10, "duration_s": 20}).json()
    expected = [time_s for time_s in everything["time_s"] if 10 <= time_s < 30]
    assert part["time_s"] == expected


def test_what_identifies_a_patient_is_nowhere_on_disk(
    home: Path, done: dict[str, Any], http: httpx.Client
) -> None:
    edf = edfio.Edf(
        [edfio.EdfSignal(np.sin(np.arange(4000)), 200, label="ECG II", physical_dimension="mV")],
        patient=edfio.Patient(name=NAME, code="4711"),
        annotations=[edfio.EdfAnnotation(1.0, None, f"{NAME} felt dizzy")],
    )
    assert edf.to_bytes().count(NAME.encode()) == 2
    answered = send(http, {f"{NAME}.edf": edf.to_bytes()})
    assert answered.status_code == 202
    assert NAME not in answered.text
    found = [
        path
        for path in home.rglob("*")
        if NAME in str(path) or (path.is_file() and NAME.encode() in path.read_bytes())
    ]
    assert found == []
    assert not (home / "recordings" / done["job_id"] / "input").exists()


@pytest.mark.parametrize("path", ["", "/result", "/signal", "/beats"])
@pytest.mark.parametrize("job_id", ["nix", "00000000-0000-4000-8000-000000000000", ".incoming"])
def test_an_unknown_recording_is_not_found(http: httpx.Client, path: str, job_id: str) -> None:
    expect_refusal(http.get(f"{RECORDINGS}{job_id}{path}"), 404, "unknown-recording")


@pytest.mark.parametrize(
    "query",
    [
        "result?format=docx", "result?nix=1", "signal?start_s=-1", "signal?duration_s=0",
        "signal?max_points=20001", "signal?max_points=x", "signal?start_s=nan", "beats?start_s=inf",
        "beats?duration_s=1e9", "result?format=json&format=csv", "beats?start_s=1&start_s=2",
    ],
)  # fmt: skip
def test_odd_queries_are_refused(http: httpx.Client, done: dict[str, Any], query: str) -> None:
    answered = http.get(f"{RECORDINGS}{done['job_id']}/{query}")
    assert answered.status_code == 422
    assert answered.headers["content-type"] == "application/problem+json"


def test_a_finished_recording_is_removed(http: httpx.Client, home: Path) -> None:
    answered = send(http, {"r.npy": make_npy(np.zeros(36_000))}, sampling_rate="360")
    job_id = answered.json()["job_id"]
    wait_until(http, job_id, until="failed")
    assert http.delete(f"{RECORDINGS}{job_id}").status_code == 204
    expect_refusal(http.get(f"{RECORDINGS}{job_id}"), 404, "unknown-recording")
    expect_refusal(http.delete(f"{RECORDINGS}{job_id}"), 404, "unknown-recording")
    assert not (home / "recordings" / job_id).exists()


def _long_npy(hours: float) -> bytes:
    minute = simulate_record("r", patient=draw_patient(2), duration_s=60.0, seed=1).signal_mv()
    return make_npy(np.tile(minute, round(60 * hours)))


def _workers(job_id: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(job_id in part for part in process.info["cmdline"] or ())
    ]


def test_cancelling_ends_the_work_and_health_stays_quick(http: httpx.Client) -> None:
    answered = send(http, {"r.npy": _long_npy(12)}, sampling_rate="360")
    job_id = answered.json()["job_id"]
    deadline = time.monotonic() + 180
    while http.get(f"{RECORDINGS}{job_id}").json()["progress"] < 0.12:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(_workers(job_id)) == 1
    expect_refusal(http.get(f"{RECORDINGS}{job_id}/result"), 409, "recording-not-finished")
    seconds = sorted(http.get("/health").elapsed.total_seconds() for _ in range(20))
    assert seconds[10] < 0.25
    cancelled = http.delete(f"{RECORDINGS}{job_id}")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    while _workers(job_id):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert http.get(f"{RECORDINGS}{job_id}").json()["status"] == "cancelled"
    assert http.delete(f"{RECORDINGS}{job_id}").status_code == 204


def test_a_process_that_dies_costs_its_recording_alone(
    http: httpx.Client, wfdb_files: dict[str, bytes]
) -> None:
    first = send(http, {"r.npy": _long_npy(6)}, sampling_rate="360").json()["job_id"]
    second = send(http, wfdb_files).json()["job_id"]
    deadline = time.monotonic() + 180
    while not (workers := _workers(first)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers[0].send_signal(signal.SIGKILL)
    job = wait_until(http, first, until="failed")
    assert job["error"]["type"] == "/problems/analysis-failed"
    wait_until(http, second)


def test_a_full_queue_says_when_to_come_again(
    http: httpx.Client, recordings: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "_places", 0)
    answered = send(http, {"r.npy": b"x"}, sampling_rate="360")
    expect_refusal(answered, 503, "queue-full")
    assert int(answered.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "place", ["bentos.recordings.uploads._feed", "bentos.recordings.job_store.write_json"]
)
def test_a_disk_that_becomes_full_is_a_problem(
    http: httpx.Client, home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = set((home / "recordings").iterdir())
    monkeypatch.setattr(place, fail)
    answered = send(http, {"r.npy": make_npy(np.zeros(36_000))}, sampling_rate="360")
    expect_refusal(answered, 503, "storage-full")
    assert int(answered.headers["retry-after"]) > 0
    assert list_incoming(home) == []
    assert set((home / "recordings").iterdir()) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full")
def test_a_disk_that_becomes_full_while_a_zip_is_unpacked_is_a_problem(
    http: httpx.Client, home: Path, wfdb_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_path = Path.open

    def open_full(path: Path, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401  as it is
        if path.name.startswith("part"):
            return open_path(Path("/dev/full"), "wb")
        return open_path(path, *arguments, **named)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in wfdb_files.items():
            archive.writestr(name, content)
    monkeypatch.setattr(Path, "open", open_full)
    expect_refusal(send(http, {"r.zip": buffer.getvalue()}), 503, "storage-full")
    assert list_incoming(home) == []


def test_a_form_that_is_given_up_ends_after_the_thread_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, release = threading.Event(), threading.Event()

    def feed(*_: object) -> None:
        began.set()
        release.wait(5)
        (tmp_path / "late").touch()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"--x"

    async def give_up(pool: ThreadPoolExecutor) -> None:
        receiving = asyncio.create_task(
            receive_form(
                chunks(),
                content_type="multipart/form-data; boundary=x",
                directory=tmp_path,
                executor=pool,
            )
        )
        await asyncio.to_thread(began.wait, 5)
        receiving.cancel()
        done, _ = await asyncio.wait({receiving}, timeout=0.1)
        assert not done
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert (tmp_path / "late").exists()

    monkeypatch.setattr("bentos.recordings.uploads._feed", feed)
    with ThreadPoolExecutor(1) as pool:
        asyncio.run(give_up(pool))


@pytest.mark.parametrize("is_refused", [False, True])
def test_nothing_is_left_of_a_recording_whose_answer_came_too_late(
    start_service: Callable[..., Any],
    toy_model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_refused: bool,
) -> None:
    service = start_service(answer_limit_s=0.3)
    try:
        service.runtime.live.use(toy_model)
        jobs, release = service.recordings, threading.Event()
        add, added = jobs.add, threading.Event()

        def add_late(recording: Recording, _caller: object) -> Job:
            release.wait(30)
            try:
                if is_refused:
                    raise ProblemError(QUEUE_FULL, "another process took the last place")
                return add(recording)
            finally:
                added.set()

        monkeypatch.setattr(jobs, "add", add_late)
        answered = send(service.http, {"r.npy": _long_npy(0.5)}, sampling_rate="360")
        expect_refusal(answered, 504, "time-limit")
        release.set()
        assert added.wait(30)
        directory, deadline = service.home / "recordings", time.monotonic() + 180
        expected = set() if is_refused else {JobStatus.CANCELLED}
        while {job.status for job in JobStore(directory).list_jobs()} != expected or list_incoming(
            service.home
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert list(directory.rglob("input")) == []
    finally:
        service.close()


def test_parts_become_one_result(http: httpx.Client, record: Record) -> None:
    files = {}
    for name, part in (("b.npy", slice(0, 21_600)), ("a.npy", slice(21_600, None))):
        content = io.BytesIO()
        np.save(content, record.signal_mv()[part])
        files[name] = content.getvalue()
    answered = send(http, files, sampling_rate="360", join="true")
    assert answered.status_code == 202, answered.text
    job = wait_until(http, answered.json()["job_id"])
    assert job["duration_s"] == pytest.approx(120.0)
    result = http.get(f"{RECORDINGS}{job['job_id']}/result").json()
    assert record.annotations is not None
    expected = len(record.annotations.beat_samples)
    assert result["total_beats_detected"] == pytest.approx(expected, abs=2)
