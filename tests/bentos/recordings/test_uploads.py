"""Uploads over HTTP: every kind of file, forms however they are cut, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import io
import shutil
import socket
import zipfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import edfio
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bentos.recordings.uploads import MAX_UPLOAD_BYTES, lay_out, receive_form
from bentos.wire.problems import ProblemError
from ecg_lib.records.files.edf_file import blank_identity
from ecg_lib.records.record import Record
from tests.bentos.recordings.sending import (
    NAME,
    RECORDINGS,
    expect_refusal,
    list_incoming,
    make_npy,
    send,
    wait_until,
)


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
    answered = send(http, {"r.csv": content.encode()}, **fields)
    assert answered.status_code == 202, answered.text
    job = wait_until(http, answered.json()["job_id"])
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
    job = send(http, {f"r.{kind}{packing}": content}).json()
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
    answered = send(http, {"r.zip": buffer.getvalue()})
    problem = expect_refusal(answered, 415, "file-unsupported")
    assert "it holds 2: one.csv, two.csv" in problem["detail"]


@pytest.mark.parametrize("name", ["r.rec", "NAME", "r.dat", "r.rec.gz", "r.gz"])
def test_an_edf_file_is_taken_under_any_name(
    http: httpx.Client, home: Path, record: Record, name: str
) -> None:
    signal = edfio.EdfSignal(record.signal_mv("MLII"), 360, label="ECG", physical_dimension="mV")
    content = edfio.Edf([signal], patient=edfio.Patient(name=NAME)).to_bytes()
    packed = gzip.compress(content) if name.endswith(".gz") else content
    job = send(http, {name.replace("NAME", NAME): packed}).json()
    assert (job["kind"], job["lead"]) == ("edf", "ECG"), job
    (kept,) = (home / "recordings" / job["job_id"] / "input").iterdir()
    assert NAME not in kept.name
    assert NAME.encode() not in kept.read_bytes()
    http.delete(f"{RECORDINGS}{job['job_id']}")


def test_a_header_may_name_signal_files_of_any_suffix(http: httpx.Client) -> None:
    samples = np.random.default_rng(1).integers(-900, 900, 5000, dtype=np.int16)
    header = b"r 2 250 5000\nr.dat 16 1000 16 0 0 0 0 II\nr.xyz 16 1000 16 0 0 0 0 vx\n"
    files = {"r.hea": header, "r.dat": samples.tobytes(), "r.xyz": samples.tobytes()}
    job = send(http, files).json()
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
    answered = send(http, {f"r.{kind}": buffer.getvalue()}, **fields)
    assert answered.status_code == 202, answered.text
    job = wait_until(http, answered.json()["job_id"])
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
    answered = send(http, wfdb_files, lead="V1")
    assert answered.json()["lead"] == "V1"
    problem = expect_refusal(send(http, wfdb_files, lead="aVF"), 422, "unknown-lead")
    assert "MLII, V1" in problem["detail"]
    assert problem["errors"][0]["field"] == "lead"


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
        ({"r.npy": make_npy(np.zeros(5000))}, {}, 422, "invalid-request"),
        ({"r.npy": make_npy(np.zeros(500))}, {"sampling_rate": "250"}, 422, "file-unreadable"),
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
    expect_refusal(send(http, files, **fields), status, name)
    assert list_incoming(home) == []


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
    answered = send(http, files)
    assert answered.status_code == 202, answered.text
    assert answered.json()["lead"] == "II"
    http.delete(f"{RECORDINGS}{answered.json()['job_id']}")


def test_one_file_in_two_spellings_is_one_file(http: httpx.Client) -> None:
    samples = np.random.default_rng(1).integers(-900, 900, 10_000, dtype=np.int16)
    lines = ["r 2 250 5000", "r.dat 16 1000 16 0 0 0 0 II", "R.dat 16 1000 16 0 0 0 0 V1", ""]
    answered = send(http, {"r.hea": "\n".join(lines).encode(), "r.dat": samples.tobytes()})
    assert answered.status_code == 202, answered.text
    http.delete(f"{RECORDINGS}{answered.json()['job_id']}")


def test_the_unit_of_an_upload_may_be_spelled_in_any_way(http: httpx.Client) -> None:
    answered = send(http, {"r.npy": make_npy(np.zeros(5000))}, sampling_rate="250", unit="µv")
    assert answered.status_code == 202, answered.text
    http.delete(f"{RECORDINGS}{answered.json()['job_id']}")


def test_a_recording_of_more_than_14_days_is_refused(http: httpx.Client) -> None:
    header = b"r 1 100 120960001\nr.dat 80 200 8 0\n"
    answered = send(http, {"r.hea": header, "r.dat": bytes(120_960_001)})
    problem = expect_refusal(answered, 422, "signal-too-long")
    assert "at most 14 days" in problem["detail"]


def test_a_bomb_is_refused(http: httpx.Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("r.hea", "r 1 250 5000\nr.dat 16\n")
        archive.writestr("r.dat", bytes(200 * 2**20))
    expect_refusal(send(http, {"r.zip": buffer.getvalue()}), 422, "file-unreadable")


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
    expect_refusal(answered, status, name)


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
    expect_refusal(http.post(RECORDINGS, content=chunks(), headers=headers), 413, "body-too-large")


def test_a_file_that_turns_out_broken_fails_with_its_reason(
    http: httpx.Client, wfdb_files: dict[str, bytes]
) -> None:
    changed = bytearray(wfdb_files["r.dat"])
    changed[5000] ^= 1
    answered = send(http, {**wfdb_files, "r.dat": bytes(changed)})
    assert answered.status_code == 202
    job = wait_until(http, answered.json()["job_id"], until="failed")
    assert job["error"]["type"] == "/problems/file-unreadable"
    assert "checksum" in job["error"]["detail"]
    expect_refusal(http.get(f"{RECORDINGS}{job['job_id']}/result"), 409, "recording-without-result")


def test_a_recording_without_an_ecg_fails_with_its_reason(http: httpx.Client) -> None:
    answered = send(http, {"r.npy": make_npy(np.zeros(36_000))}, sampling_rate="360")
    job = wait_until(http, answered.json()["job_id"], until="failed")
    assert job["error"]["type"] == "/problems/signal-unreadable"
    assert "flat" in job["error"]["detail"]


def test_a_dead_lead_of_an_upload_is_passed_over(http: httpx.Client, record: Record) -> None:
    signal_mv = record.signal_mv("MLII")[:10800].tolist()
    content = "Lead II Doe,V5\n" + "".join(f"0.3,{value:.4f}\n" for value in signal_mv)
    answered = send(http, {"r.csv": content.encode()}, sampling_rate="360")
    job = wait_until(http, answered.json()["job_id"])
    assert job["lead"] == "V5"
    result = http.get(f"{RECORDINGS}{job['job_id']}/result").json()["signal_quality"]
    told = "lead lead1 is flat or disconnected, lead V5 is analysed instead"
    assert told in result["warnings"]
    http.delete(f"{RECORDINGS}{job['job_id']}")
    named = send(http, {"r.csv": content.encode()}, sampling_rate="360", lead="lead1")
    failed = wait_until(http, named.json()["job_id"], until="failed")
    assert "lead may name another: V5" in failed["error"]["detail"]


def test_an_upload_in_volts_without_a_unit_is_asked_for_it(
    http: httpx.Client, record: Record
) -> None:
    volts = record.signal_mv("MLII")[:10800].astype(np.float64) / 1000
    answered = send(http, {"r.npy": make_npy(volts)}, sampling_rate="360")
    job = wait_until(http, answered.json()["job_id"], until="failed")
    assert "unit must be given" in job["error"]["detail"]
