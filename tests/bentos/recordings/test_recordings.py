"""Recordings over HTTP: a real server, real files, real processes."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import os
import shutil
import signal
import socket
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import edfio
import httpx
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_store import Job, JobStatus, JobStore
from bentos.recordings.uploads import (
    MAX_UPLOAD_BYTES,
    Recording,
    lay_out,
    receive_form,
)
from bentos.routes.recordings import SIGNAL_HEADERS
from bentos.runtime.live_model import LoadedModel
from bentos.wire.problems import QUEUE_FULL, ProblemError
from bentos.wire.schemas import Problem
from ecg_lib.records.files.edf_file import blank_identity
from ecg_lib.records.record import Record, write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record

RECORDINGS = "/api/v1/recordings/"
NAME = "Mustermann"

Files = list[tuple[str, tuple[str, bytes]]]


@pytest.fixture(scope="module")
def record() -> Record:
    patient = draw_patient(1)
    return simulate_record("r", patient=patient, duration_s=120.0, seed=4)


@pytest.fixture(scope="module")
def wfdb_files(record: Record, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("wfdb")
    write_wfdb(record, directory)
    header = directory / "r.hea"
    header.write_text(header.read_text() + f"# {NAME}, 1 January 1950\n")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _form(files: dict[str, bytes]) -> Files:
    return [("files", (name, content)) for name, content in files.items()]


def _wait(http: httpx.Client, job_id: str, *, until: str = "done") -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        job: dict[str, Any] = http.get(f"{RECORDINGS}{job_id}").json()
        if job["status"] in {until, "failed", "cancelled", "done"}:
            assert job["status"] == until, job
            return job
        time.sleep(0.05)
    pytest.fail(f"{job_id} must be {until} within 180 s")


def _send(http: httpx.Client, files: dict[str, bytes], **fields: str) -> httpx.Response:
    return http.post(RECORDINGS, files=_form(files), data=fields)


def _incoming(home: Path) -> list[Path]:
    """Files that uploads have left; the directory of each process stays, with its lock."""
    incoming = home / "recordings" / ".incoming"
    removed = incoming.glob("*.gone")
    return [*removed, *(path for path in incoming.glob("*/*") if path.name != ".owner")]


def _refused(answered: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert answered.status_code == status, answered.text
    problem = Problem.model_validate_json(answered.content)
    assert (problem.type, problem.status) == (f"/problems/{name}", status)
    for leak in ("Traceback", ".py", "/tmp", "/home", NAME):  # noqa: S108  what must not be there
        assert leak not in answered.text
    body: dict[str, Any] = answered.json()
    return body


@pytest.fixture(scope="module")
def done(
    service: Any,  # noqa: ANN401  the conftest's class cannot be imported
    wfdb_files: dict[str, bytes],
) -> dict[str, Any]:
    """A recording that was sent as a WFDB record and analysed."""
    answered = _send(service.http, wfdb_files)
    assert answered.status_code == 202, answered.text
    job = answered.json()
    assert answered.headers["location"] == f"{RECORDINGS}{job['job_id']}"
    assert (job["status"], job["progress"]) == ("queued", 0.0)
    return _wait(service.http, job["job_id"])


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
    answered = _send(http, {f"{NAME}.edf": edf.to_bytes()})
    assert answered.status_code == 202
    assert NAME not in answered.text
    found = [
        path
        for path in home.rglob("*")
        if NAME in str(path) or (path.is_file() and NAME.encode() in path.read_bytes())
    ]
    assert found == []
    assert not (home / "recordings" / done["job_id"] / "input").exists()


@pytest.mark.parametrize(
    ("headings", "wanted", "kept"),
    [
        (NAME, None, [["lead1"], "lead1"]),
        (f"lead1,{NAME}", NAME, [["lead1", "lead2"], "lead2"]),
        (f"lead1,{NAME}", "lead2", [["lead1", "lead2"], "lead2"]),
        (f"{NAME},lead1", NAME, [["lead1_", "lead1"], "lead1_"]),
        (f"ECG_II [mV],Lead V1,{NAME} V5", None, [["ECG_II", "Lead V1", "lead3"], "ECG_II"]),
    ],
)
def test_a_heading_that_may_be_a_person_is_not_kept(
    home: Path,
    http: httpx.Client,
    record: Record,
    headings: str,
    wanted: str | None,
    kept: list[Any],
) -> None:
    n_columns = headings.count(",") + 1
    rows = (
        f"{n / 360:.6f}" + f",{value:.4f}" * n_columns
        for n, value in enumerate(record.signal_mv("MLII")[:10800].tolist())
    )
    content = f"time,{headings}\n" + "\n".join(rows)
    fields = {} if wanted is None else {"lead": wanted}
    answered = _send(http, {"r.csv": content.encode()}, **fields)
    assert answered.status_code == 202, answered.text
    job = _wait(http, answered.json()["job_id"])
    assert [job["leads"], job["lead"]] == kept
    result = http.get(f"{RECORDINGS}{job['job_id']}/result").json()["recording"]
    assert [result["leads"], result["lead"]] == kept
    found = [
        path
        for path in (home / "recordings" / job["job_id"]).rglob("*")
        if path.is_file() and NAME.encode() in path.read_bytes()
    ]
    assert found == []
    assert NAME not in http.get(f"{RECORDINGS}{job['job_id']}/result?format=html").text
    http.delete(f"{RECORDINGS}{job['job_id']}")


@pytest.mark.parametrize("packing", ["", ".gz", ".zip"])
@pytest.mark.parametrize("kind", ["edf", "csv"])
def test_a_compressed_file_is_that_file(
    http: httpx.Client, home: Path, record: Record, kind: str, packing: str
) -> None:
    signal_mv = record.signal_mv("MLII")
    rows = (f"{n / 360:.6f},{value:.4f}" for n, value in enumerate(signal_mv.tolist()))
    content = ("time,MLII\n" + "\n".join(rows)).encode()
    if kind == "edf":
        signal = edfio.EdfSignal(signal_mv, 360, label="ECG MLII", physical_dimension="mV")
        content = edfio.Edf([signal], patient=edfio.Patient(name=NAME)).to_bytes()
    if packing == ".gz":
        content = gzip.compress(content)
    elif packing == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{NAME}/r.{kind}", content)
        content = buffer.getvalue()
    job = _send(http, {f"r.{kind}{packing}": content}).json()
    assert job["lead"] in {"MLII", "ECG MLII"}, job
    (kept,) = (home / "recordings" / job["job_id"] / "input").iterdir()
    assert kept.name == f"recording.{kind}"
    assert NAME.encode() not in kept.read_bytes()
    http.delete(f"{RECORDINGS}{job['job_id']}")


def test_several_recordings_in_a_zip_are_refused_by_their_names(http: httpx.Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a/one.csv", "b/two.csv"):
            archive.writestr(name, "time,ECG\n" + "".join(f"{n / 250},0.1\n" for n in range(3000)))
    answered = _send(http, {"r.zip": buffer.getvalue()})
    problem = _refused(answered, 415, "file-unsupported")
    assert "it holds 2: one.csv, two.csv" in problem["detail"]


@pytest.mark.parametrize("name", ["r.rec", "NAME", "r.dat", "r.rec.gz", "r.gz"])
def test_an_edf_file_is_taken_under_any_name(
    http: httpx.Client, home: Path, record: Record, name: str
) -> None:
    signal = edfio.EdfSignal(record.signal_mv("MLII"), 360, label="ECG", physical_dimension="mV")
    content = edfio.Edf([signal], patient=edfio.Patient(name=NAME)).to_bytes()
    packed = gzip.compress(content) if name.endswith(".gz") else content
    job = _send(http, {name.replace("NAME", NAME): packed}).json()
    assert (job["kind"], job["lead"]) == ("edf", "ECG"), job
    (kept,) = (home / "recordings" / job["job_id"] / "input").iterdir()
    assert NAME not in kept.name
    assert NAME.encode() not in kept.read_bytes()
    http.delete(f"{RECORDINGS}{job['job_id']}")


def test_a_header_may_name_signal_files_of_any_suffix(http: httpx.Client) -> None:
    samples = np.random.default_rng(1).integers(-900, 900, 5000, dtype=np.int16)
    header = b"r 2 250 5000\nr.dat 16 1000 16 0 0 0 0 II\nr.xyz 16 1000 16 0 0 0 0 vx\n"
    files = {"r.hea": header, "r.dat": samples.tobytes(), "r.xyz": samples.tobytes()}
    job = _send(http, files).json()
    assert job["leads"] == ["II", "vx"], job
    http.delete(f"{RECORDINGS}{job['job_id']}")


@pytest.mark.parametrize("kind", ["zip", "edf", "csv", "npy"])
def test_every_kind_of_file_is_taken(
    http: httpx.Client, record: Record, wfdb_files: dict[str, bytes], kind: str
) -> None:
    buffer = io.BytesIO()
    signal_mv = record.signal_mv("MLII")
    fields: dict[str, str] = {}
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in wfdb_files.items():
                archive.writestr(f"folder/{name}", content)
    elif kind == "edf":
        signals = [
            edfio.EdfSignal(
                record.signal_mv(lead), 360, label=f"ECG {lead}", physical_dimension="mV"
            )
            for lead in record.leads
        ]
        buffer.write(edfio.Edf(signals).to_bytes())
    elif kind == "csv":
        rows = (f"{n / 360:.6f},{value * 1000:.3f}" for n, value in enumerate(signal_mv.tolist()))
        buffer.write(("time,MLII\n" + "\n".join(rows)).encode())
        fields = {"unit": "uV"}
    else:
        np.save(buffer, signal_mv)
        fields = {"sampling_rate": "360"}
    answered = _send(http, {f"r.{kind}": buffer.getvalue()}, **fields)
    assert answered.status_code == 202, answered.text
    job = _wait(http, answered.json()["job_id"])
    result = http.get(f"{RECORDINGS}{job['job_id']}/result").json()
    assert record.annotations is not None
    assert result["total_beats_detected"] == pytest.approx(
        len(record.annotations.beat_samples), abs=2
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, 3000), max_size=12), size=st.integers(0, 1200))
def test_a_form_is_the_same_however_it_is_cut(tmp_path: Path, cuts: list[int], size: int) -> None:
    edf = (b"0       " + NAME.encode().ljust(80) + b"x" * 200 + bytes(size))[: 8 + size]
    parts = [(b'name="lead"', b"V1"), (b'name="files"; filename="p.edf"', edf)]
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % part for part in parts
    )
    body += b"--x--\r\n"
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})

    async def chunks() -> AsyncIterator[bytes]:
        for start, stop in pairwise(edges):
            yield body[start:stop]

    directory = tmp_path / "form"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    with ThreadPoolExecutor(1) as pool:
        texts, files = asyncio.run(
            receive_form(
                chunks(),
                content_type="multipart/form-data; boundary=x",
                directory=directory,
                executor=pool,
            )
        )
    written = files["p.edf"].read_bytes()
    assert texts == {"lead": "V1"}
    assert written == (blank_identity(edf) if len(edf) >= 256 else b"")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_form_is_taken_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    directory = tmp_path / "form"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    body = bytearray(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a/b/r.csv"\r\n'
        b"Content-Type: text/csv\r\n\r\n1\n2\n\r\n--x--\r\n"
    )
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + 1] = data.draw(st.binary(max_size=4))

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(body)

    with ThreadPoolExecutor(1) as pool, suppress(ProblemError):
        texts, files = asyncio.run(
            receive_form(
                chunks(),
                content_type="multipart/form-data; boundary=x",
                directory=directory,
                executor=pool,
            )
        )
        lay_out(texts, files, directory)
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} <= {directory}


def test_a_lead_is_chosen_by_name(http: httpx.Client, wfdb_files: dict[str, bytes]) -> None:
    answered = _send(http, wfdb_files, lead="V1")
    assert answered.json()["lead"] == "V1"
    problem = _refused(_send(http, wfdb_files, lead="aVF"), 422, "unknown-lead")
    assert "MLII, V1" in problem["detail"]
    assert problem["errors"][0]["field"] == "lead"


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "fields", "status", "name"),
    [
        ({"r.docx": b"x"}, {}, 415, "file-unsupported"),
        ({"noname": b"x"}, {}, 415, "file-unsupported"),
        ({"r.hea": b"r 1 250 5000\nr.dat 16\n"}, {}, 422, "file-unreadable"),
        ({"r.hea": b"r 1 250 5000\n../../etc/passwd 16\n"}, {}, 422, "file-unreadable"),
        ({"r.hea": b"r 1 250 5000\nr.dat 17\n", "r.dat": b"x"}, {}, 415, "file-unsupported"),
        ({"r.dat": b"x"}, {}, 422, "file-unreadable"),
        ({"a.rec": b"0       ", "b.rec": b"0       "}, {}, 422, "invalid-request"),
        ({"r.hea": b"r 1 250 5000\nr.x 16\n", "a.edf": b"x"}, {}, 422, "invalid-request"),
        ({"r.edf": b"0       " + b" " * 300}, {}, 422, "file-unreadable"),
        ({"r.edf": b""}, {}, 422, "file-unreadable"),
        ({"r.zip": b"PK\x03\x04" + b"x" * 100}, {}, 422, "file-unreadable"),
        ({"r.npy": _npy(np.zeros(5000))}, {}, 422, "invalid-request"),
        ({"r.npy": _npy(np.zeros(500))}, {"sampling_rate": "250"}, 422, "file-unreadable"),
        ({"r.npy": b"\x93NUMPY"}, {"sampling_rate": "250"}, 422, "file-unreadable"),
        ({"r.npy": b"x"}, {"sampling_rate": "5"}, 422, "sampling-rate-out-of-range"),
        ({"r.npy": b"x"}, {"sampling_rate": "fast"}, 422, "invalid-request"),
        ({"r.npy": b"x"}, {"unit": "furlong"}, 422, "invalid-request"),
        ({"r.npy": b"x"}, {"patient": "1"}, 422, "unknown-field"),
        ({"r.csv": b"a\n1\n"}, {}, 422, "invalid-request"),
        ({"r.csv": b"1\n", "s.csv": b"1\n"}, {}, 422, "invalid-request"),
        ({f"{n}.dat": b"" for n in range(17)}, {}, 422, "invalid-request"),
        ({f"{n}.atr": b"" for n in range(17)}, {}, 422, "invalid-request"),
        ({"r.hea": b"r 1 250 5000\nr.atr 16\n", "r.atr": b"x"}, {}, 422, "file-unreadable"),
        ({"r.atr": b"x"}, {}, 422, "invalid-request"),
        ({"r.csv.gz": b"x"}, {}, 422, "file-unreadable"),
        ({"r.dat.gz": gzip.compress(b"x", mtime=0)}, {}, 415, "file-unsupported"),
        ({"r.gz": gzip.compress(b"x", mtime=0)}, {}, 415, "file-unsupported"),
        ({"r.csv.gz": gzip.compress(b"1", mtime=0), "s.csv.gz": b""}, {}, 422, "invalid-request"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_recording_is_refused(
    http: httpx.Client,
    home: Path,
    files: dict[str, bytes],
    fields: dict[str, str],
    status: int,
    name: str,
) -> None:
    _refused(_send(http, files, **fields), status, name)
    assert _incoming(home) == []


@pytest.mark.parametrize("sent", ["files", "zip"])
def test_files_in_capitals_belong_to_a_header_in_small_letters(
    http: httpx.Client, sent: str
) -> None:
    samples = np.random.default_rng(1).integers(-900, 900, 5000, dtype=np.int16)
    files = {"R.HEA": b"r 1 250 5000\nr.dat 16 1000 16 0 0 0 0 II\n", "R.DAT": samples.tobytes()}
    if sent == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        files = {"r.zip": buffer.getvalue()}
    answered = _send(http, files)
    assert answered.status_code == 202, answered.text
    assert answered.json()["lead"] == "II"
    http.delete(f"{RECORDINGS}{answered.json()['job_id']}")


def test_one_file_in_two_spellings_is_one_file(http: httpx.Client) -> None:
    samples = np.random.default_rng(1).integers(-900, 900, 10_000, dtype=np.int16)
    lines = ["r 2 250 5000", "r.dat 16 1000 16 0 0 0 0 II", "R.dat 16 1000 16 0 0 0 0 V1", ""]
    answered = _send(http, {"r.hea": "\n".join(lines).encode(), "r.dat": samples.tobytes()})
    assert answered.status_code == 202, answered.text
    http.delete(f"{RECORDINGS}{answered.json()['job_id']}")


def test_the_unit_of_an_upload_may_be_spelled_in_any_way(http: httpx.Client) -> None:
    answered = _send(http, {"r.npy": _npy(np.zeros(5000))}, sampling_rate="250", unit="µv")
    assert answered.status_code == 202, answered.text
    http.delete(f"{RECORDINGS}{answered.json()['job_id']}")


def test_a_recording_of_more_than_14_days_is_refused(http: httpx.Client) -> None:
    header = b"r 1 100 120960001\nr.dat 80 200 8 0\n"
    answered = _send(http, {"r.hea": header, "r.dat": bytes(120_960_001)})
    problem = _refused(answered, 422, "signal-too-long")
    assert "at most 14 days" in problem["detail"]


def test_a_bomb_is_refused(http: httpx.Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("r.hea", "r 1 250 5000\nr.dat 16\n")
        archive.writestr("r.dat", bytes(200 * 2**20))
    _refused(_send(http, {"r.zip": buffer.getvalue()}), 422, "file-unreadable")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "name"),
    [
        ("application/json", b"{}", 415, "wrong-media-type"),
        ("multipart/form-data", b"x", 415, "wrong-media-type"),
        ("multipart/form-data; boundary=x", b"", 400, "malformed-form"),
        ("multipart/form-data; boundary=x", b"rubbish", 400, "malformed-form"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=", 400,
         "malformed-form"),
        ("multipart/form-data; boundary=x", b"--x\r\nA: " + b"b" * 9000, 400, "malformed-form"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422, "invalid-request"),
    ],
)  # fmt: skip
def test_a_body_that_is_not_a_form_is_refused(
    http: httpx.Client, content_type: str, body: bytes, status: int, name: str
) -> None:
    answered = http.post(RECORDINGS, content=body, headers={"Content-Type": content_type})
    _refused(answered, status, name)


def test_too_large_an_upload_is_refused_by_its_length(url: str) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(
            b"POST /api/v1/recordings/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: %d\r\n\r\n--x" % (MAX_UPLOAD_BYTES + 1)
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_too_large_an_upload_is_refused_while_it_comes(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bentos.recordings.uploads.MAX_UPLOAD_BYTES", 2**20)
    start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="r.npy"\r\n\r\n'

    def chunks() -> Iterator[bytes]:
        yield start
        for _ in range(64):
            yield bytes(2**16)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    _refused(http.post(RECORDINGS, content=chunks(), headers=headers), 413, "body-too-large")


def test_a_file_that_turns_out_broken_fails_with_its_reason(
    http: httpx.Client, wfdb_files: dict[str, bytes]
) -> None:
    changed = bytearray(wfdb_files["r.dat"])
    changed[5000] ^= 1
    answered = _send(http, {**wfdb_files, "r.dat": bytes(changed)})
    assert answered.status_code == 202
    job = _wait(http, answered.json()["job_id"], until="failed")
    assert job["error"]["type"] == "/problems/file-unreadable"
    assert "checksum" in job["error"]["detail"]
    _refused(http.get(f"{RECORDINGS}{job['job_id']}/result"), 409, "recording-without-result")


def test_a_recording_without_an_ecg_fails_with_its_reason(http: httpx.Client) -> None:
    answered = _send(http, {"r.npy": _npy(np.zeros(36_000))}, sampling_rate="360")
    job = _wait(http, answered.json()["job_id"], until="failed")
    assert job["error"]["type"] == "/problems/signal-unreadable"
    assert "flat" in job["error"]["detail"]


def test_a_dead_lead_of_an_upload_is_passed_over(http: httpx.Client, record: Record) -> None:
    signal_mv = record.signal_mv("MLII")[:10800].tolist()
    content = "Lead II Doe,V5\n" + "".join(f"0.3,{value:.4f}\n" for value in signal_mv)
    answered = _send(http, {"r.csv": content.encode()}, sampling_rate="360")
    job = _wait(http, answered.json()["job_id"])
    assert job["lead"] == "V5"
    result = http.get(f"{RECORDINGS}{job['job_id']}/result").json()["signal_quality"]
    told = "lead lead1 is flat or disconnected, lead V5 is analysed instead"
    assert told in result["warnings"]
    http.delete(f"{RECORDINGS}{job['job_id']}")
    named = _send(http, {"r.csv": content.encode()}, sampling_rate="360", lead="lead1")
    failed = _wait(http, named.json()["job_id"], until="failed")
    assert "lead may name another: V5" in failed["error"]["detail"]


def test_an_upload_in_volts_without_a_unit_is_asked_for_it(
    http: httpx.Client, record: Record
) -> None:
    volts = record.signal_mv("MLII")[:10800].astype(np.float64) / 1000
    answered = _send(http, {"r.npy": _npy(volts)}, sampling_rate="360")
    job = _wait(http, answered.json()["job_id"], until="failed")
    assert "unit must be given" in job["error"]["detail"]


@pytest.mark.parametrize("path", ["", "/result", "/signal", "/beats"])
@pytest.mark.parametrize("job_id", ["nix", "00000000-0000-4000-8000-000000000000", ".incoming"])
def test_an_unknown_recording_is_not_found(http: httpx.Client, path: str, job_id: str) -> None:
    _refused(http.get(f"{RECORDINGS}{job_id}{path}"), 404, "unknown-recording")


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
    answered = _send(http, {"r.npy": _npy(np.zeros(36_000))}, sampling_rate="360")
    job_id = answered.json()["job_id"]
    _wait(http, job_id, until="failed")
    assert http.delete(f"{RECORDINGS}{job_id}").status_code == 204
    _refused(http.get(f"{RECORDINGS}{job_id}"), 404, "unknown-recording")
    _refused(http.delete(f"{RECORDINGS}{job_id}"), 404, "unknown-recording")
    assert not (home / "recordings" / job_id).exists()


def _long_npy(hours: float) -> bytes:
    minute = simulate_record("r", patient=draw_patient(2), duration_s=60.0, seed=1).signal_mv()
    return _npy(np.tile(minute, round(60 * hours)))


def _workers(job_id: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(job_id in part for part in process.info["cmdline"] or ())
    ]


def test_cancelling_ends_the_work_and_health_stays_quick(http: httpx.Client) -> None:
    answered = _send(http, {"r.npy": _long_npy(12)}, sampling_rate="360")
    job_id = answered.json()["job_id"]
    deadline = time.monotonic() + 180
    while http.get(f"{RECORDINGS}{job_id}").json()["progress"] < 0.12:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(_workers(job_id)) == 1
    _refused(http.get(f"{RECORDINGS}{job_id}/result"), 409, "recording-not-finished")
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
    first = _send(http, {"r.npy": _long_npy(6)}, sampling_rate="360").json()["job_id"]
    second = _send(http, wfdb_files).json()["job_id"]
    deadline = time.monotonic() + 180
    while not (workers := _workers(first)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers[0].send_signal(signal.SIGKILL)
    job = _wait(http, first, until="failed")
    assert job["error"]["type"] == "/problems/analysis-failed"
    _wait(http, second)


def test_a_full_queue_says_when_to_come_again(
    http: httpx.Client, recordings: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "_places", 0)
    answered = _send(http, {"r.npy": b"x"}, sampling_rate="360")
    _refused(answered, 503, "queue-full")
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
    answered = _send(http, {"r.npy": _npy(np.zeros(36_000))}, sampling_rate="360")
    _refused(answered, 503, "storage-full")
    assert int(answered.headers["retry-after"]) > 0
    assert _incoming(home) == []
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
    _refused(_send(http, {"r.zip": buffer.getvalue()}), 503, "storage-full")
    assert _incoming(home) == []


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
        answered = _send(service.http, {"r.npy": _long_npy(0.5)}, sampling_rate="360")
        _refused(answered, 504, "time-limit")
        release.set()
        assert added.wait(30)
        directory, deadline = service.home / "recordings", time.monotonic() + 180
        expected = set() if is_refused else {JobStatus.CANCELLED}
        while {job.status for job in JobStore(directory).list_jobs()} != expected or _incoming(
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
    answered = _send(http, files, sampling_rate="360", join="true")
    assert answered.status_code == 202, answered.text
    job = _wait(http, answered.json()["job_id"])
    assert job["duration_s"] == pytest.approx(120.0)
    result = http.get(f"{RECORDINGS}{job['job_id']}/result").json()
    assert record.annotations is not None
    expected = len(record.annotations.beat_samples)
    assert result["total_beats_detected"] == pytest.approx(expected, abs=2)
