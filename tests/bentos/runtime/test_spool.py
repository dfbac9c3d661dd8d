from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import sqlalchemy
from sqlalchemy.engine import Connection

from bentos.runtime.limits.caller import SERVICE_ITSELF
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.feedback import find_marked, take_feedback
from bentos.runtime.predictor import Runtime
from bentos.runtime.spool import (
    Spool,
    decode_row,
    encode_feedback,
    encode_prediction,
    encode_request,
)
from bentos.wire.schemas import FeedbackRequest
from ecg_lib.errors import PredictionLogError
from ecg_lib.operations.drift import traffic_log
from ecg_lib.operations.drift.traffic_log import Window, read_volume
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow, PredictionRow, RequestRow
from ecg_lib.operations.settings import Settings
from tests.lists import list_predictions

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def line_of(prediction_id: str) -> bytes:
    return encode_prediction(
        prediction_id=prediction_id,
        created_at=NOW,
        patient_key=None,
        bundle_hash="h",
        bento_tag="ecg:x",
        duration_s=10.0,
        response=b'{"prediction_id":"%s","total_beats_detected":2}' % prediction_id.encode(),
        observed={"rr_prev_s": np.array([np.nan, 0.8]), "rule": np.array(["none", "none"])},
    )


def feedback_of(feedback_id: str) -> FeedbackRow:
    return FeedbackRow(
        feedback_id=feedback_id,
        created_at=NOW,
        prediction_id="p0",
        annotator=None,
        labels={1: "V"},
    )


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def spool(tmp_path: Path, url: str) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", lambda: PredictionLog(url))
    yield spool
    spool.close()


def test_rows_come_back_from_a_line_as_they_were() -> None:
    row = decode_row(line_of("p1"))
    assert isinstance(row, PredictionRow)
    assert (row.prediction_id, row.created_at, row.response["total_beats_detected"]) == (
        "p1",
        NOW,
        2,
    )
    assert row.observed["rr_prev_s"] == [None, 0.8]
    assert decode_row(encode_feedback(feedback_of("f1"))) == feedback_of("f1")


def request_of(request_id: str, **changes: Any) -> RequestRow:  # noqa: ANN401
    row = RequestRow(
        request_id=request_id,
        created_at=NOW,
        bundle_hash="h",
        bento_tag="ecg:x",
        duration_s=10.0,
        client="c",
        slices={"lead": "V1"},
    )
    return replace(row, **changes)


def test_a_request_comes_back_from_a_line_and_is_stored(spool: Spool, url: str) -> None:
    refused = request_of("r1", refused="signal-unreadable")
    assert decode_row(encode_request(refused)) == refused
    recording = request_of("r2", observed={"rule": ["none"], "rr_prev_s": [None]})
    assert decode_row(encode_request(recording)) == recording
    spool.append("request r1", encode_request(refused))
    spool.append("request r2", encode_request(recording))
    spool.drain()
    window = Window(since=NOW - timedelta(hours=1), until=NOW)
    assert read_volume(PredictionLog(url), window).groups == {"client c": (1, 1)}


def test_a_prediction_and_its_request_are_one_row_and_both_are_stored(
    spool: Spool, url: str
) -> None:
    spool.append("p1", line_of("p1") + encode_request(request_of("p1")))
    assert len(spool) == 1
    found = spool.find_prediction("p1")
    assert found is not None
    assert found.prediction_id == "p1"
    spool.drain()
    assert len(spool) == 0
    log = PredictionLog(url)
    assert list_predictions(log) == ["p1"]
    window = Window(since=NOW - timedelta(hours=1), until=NOW)
    assert read_volume(log, window).groups == {"client c": (1, 0)}


@pytest.mark.parametrize("line", [b"", b"{}\n", b"3\n", b'{"prediction":{}}\n', b'{"pre'])
def test_a_line_that_is_not_a_row_is_rejected(line: bytes) -> None:
    with pytest.raises(ValueError, match="must be a row"):
        decode_row(line)


def test_rows_are_written_and_the_file_is_emptied(spool: Spool, url: str, tmp_path: Path) -> None:
    spool.append("p1", line_of("p1"))
    spool.append("f1", encode_feedback(feedback_of("f1")))
    assert len(spool) == 2
    found = spool.find_prediction("p1")
    assert found is not None
    assert found.response == {"prediction_id": "p1", "total_beats_detected": 2}
    assert spool.find_prediction("f1") is None
    spool.start()
    wait_until(lambda: len(spool) == 0)
    log = PredictionLog(url)
    assert list_predictions(log) == ["p1"]
    assert len(log.read_feedback(["p0"])) == 1
    (file,) = (tmp_path / "spool").iterdir()
    assert file.stat().st_size == 0


def test_what_is_written_while_the_spool_closes_is_not_lost(url: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", lambda: PredictionLog(url))
    spool.start()
    for number in range(500):
        spool.append(f"p{number}", line_of(f"p{number}"))
    spool.close()
    assert len(list_predictions(PredictionLog(url))) == 500
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_database_that_is_gone_delays_nothing_and_gets_its_rows_when_it_is_back(
    tmp_path: Path,
) -> None:
    place = tmp_path / "away"
    spool = Spool(tmp_path / "spool", lambda: PredictionLog(f"sqlite:///{place / 'log.db'}"))
    spool.start()
    start = time.perf_counter()
    for number in range(100):
        spool.append(f"p{number}", line_of(f"p{number}"))
    assert time.perf_counter() - start < 0.5
    wait_until(lambda: spool.problem)
    assert "cannot be used" in (spool.problem or "")
    assert len(spool) == 100
    place.mkdir()
    wait_until(lambda: len(spool) == 0)
    assert spool.problem is None
    spool.close()
    assert len(list_predictions(PredictionLog(f"sqlite:///{place / 'log.db'}"))) == 100


def test_a_database_that_is_deleted_under_way_is_made_again(spool: Spool, tmp_path: Path) -> None:
    spool.append("p1", line_of("p1"))
    spool.drain()
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    spool.append("p2", line_of("p2"))
    with pytest.raises(PredictionLogError):
        spool.drain()
    spool.start()
    wait_until(lambda: len(spool) == 0)
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    assert list_predictions(log) == ["p2"]


def test_a_locked_database_delays_no_answer(spool: Spool, url: str, tmp_path: Path) -> None:
    PredictionLog(url).create_tables()
    blocker = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    spool.start()
    start = time.perf_counter()
    for number in range(50):
        spool.append(f"p{number}", line_of(f"p{number}"))
    assert time.perf_counter() - start < 0.5
    assert spool.find_prediction("p7") is not None
    blocker.execute("COMMIT")
    blocker.close()
    wait_until(lambda: len(spool) == 0)
    assert len(list_predictions(PredictionLog(url))) == 50


def test_a_full_disk_keeps_rows_in_memory_and_counts_what_is_lost(
    spool: Spool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_part(file: int, data: bytes) -> int:
        return real_write(file, data[:10])

    real_write = os.write
    monkeypatch.setattr(os, "write", write_part)
    monkeypatch.setattr("bentos.runtime.spool._MAX_IN_MEMORY", 2)
    for number in range(3):
        spool.append(f"p{number}", line_of(f"p{number}"))
    monkeypatch.undo()
    assert (len(spool), spool.lost) == (2, 1)
    assert spool.find_prediction("p1") is not None
    spool.append("p9", line_of("p9"))
    spool.drain()
    stored = set(list_predictions(PredictionLog(url)))
    assert stored == {"p0", "p1", "p9"}


def test_a_slow_database_delays_no_answer(
    spool: Spool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, began = PredictionLog.add_predictions, threading.Event()

    def add_slowly(
        log: PredictionLog, rows: Sequence[PredictionRow], *, within: Connection | None = None
    ) -> None:
        began.set()
        time.sleep(1.0)
        real(log, rows, within=within)

    monkeypatch.setattr(PredictionLog, "add_predictions", add_slowly)
    spool.start()
    spool.append("p0", line_of("p0"))
    assert began.wait(10)
    start = time.perf_counter()
    for number in range(1, 50):
        spool.append(f"p{number}", line_of(f"p{number}"))
        assert spool.find_prediction(f"p{number}") is not None
    assert time.perf_counter() - start < 0.5
    wait_until(lambda: len(spool) == 0, timeout_s=20)
    stored = list_predictions(PredictionLog(url))
    assert sorted(stored) == sorted(f"p{number}" for number in range(50))


def test_rows_that_belong_together_are_stored_by_one_transaction(
    spool: Spool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PredictionLogError("no requests now")

    monkeypatch.setattr(traffic_log, "add_requests", fail)
    spool.append("p0", line_of("p0"))
    with pytest.raises(PredictionLogError):
        spool.drain()
    assert list(list_predictions(PredictionLog(url))) == []
    assert spool.find_prediction("p0") is not None
    monkeypatch.undo()
    spool.drain()
    assert list(list_predictions(PredictionLog(url))) == ["p0"]


def test_a_full_database_gets_its_rows_when_there_is_room_again(tmp_path: Path, url: str) -> None:
    log, pages = PredictionLog(url), [40]
    sqlalchemy.event.listen(
        log._engine,
        "connect",
        lambda connection, _: connection.execute(f"PRAGMA max_page_count = {pages[0]}"),
    )
    spool = Spool(tmp_path / "spool", lambda: log)
    spool.start()
    ids = [f"p{number}" for number in range(600)]
    for row_id in ids:
        spool.append(row_id, line_of(row_id))
    wait_until(lambda: spool.problem, timeout_s=20)
    assert "full" in (spool.problem or "")
    # Rows that fitted are stored, the others wait; none is lost without being counted.
    assert 0 < len(spool) <= len(ids)
    pages[0] = 100_000
    wait_until(lambda: len(spool) == 0, timeout_s=30)
    spool.close()
    assert spool.lost == 0
    stored = list_predictions(log)
    assert sorted(stored) == sorted(ids)


def test_what_cannot_be_read_in_the_directory_stops_nothing_for_good(
    spool: Spool, url: str, tmp_path: Path
) -> None:
    strange = tmp_path / "spool" / "1-strange.jsonl"
    strange.mkdir()
    spool.start()
    spool.append("p1", line_of("p1"))
    wait_until(lambda: spool.problem)
    assert str(tmp_path) not in (spool.problem or "")
    strange.rmdir()
    spool.append("p2", line_of("p2"))
    wait_until(lambda: spool.problem is None and len(spool) == 0)
    stored = set(list_predictions(PredictionLog(url)))
    assert stored == {"p1", "p2"}


KILLED = """
import sys, os, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from bentos.runtime.spool import Spool
from ecg_lib.operations.prediction_log import PredictionLog
spool = Spool(Path(sys.argv[1]), lambda: PredictionLog(sys.argv[2]))
if sys.argv[4] == "drain":
    spool.start()
line = sys.stdin.buffer.read()
number = 0
while True:
    row_id = f"p{number}"
    spool.append(row_id, line.replace(b"ROWID", row_id.encode()))
    sys.stdout.write(f"{row_id}\\n"); sys.stdout.flush()
    number += 1
"""


@pytest.mark.parametrize("mode", ["drain", "keep"])
def test_a_killed_process_loses_nothing_and_its_rows_are_stored_once(
    tmp_path: Path, url: str, mode: str
) -> None:
    root = str(Path(__file__).parents[3])
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "spool"), url, root, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(line_of("ROWID"))
    child.stdin.close()
    answered = [child.stdout.readline() for _ in range(2000)]
    child.send_signal(signal.SIGKILL)
    answered += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    whole = {row_id.strip().decode() for row_id in answered if row_id.endswith(b"\n")}
    spool = Spool(tmp_path / "spool", lambda: PredictionLog(url))
    spool.drain()
    spool.drain()
    spool.close()
    log = PredictionLog(url)
    stored = list_predictions(log)
    assert whole <= set(stored)
    assert len(stored) == len(set(stored)) <= len(whole) + 1
    assert list((tmp_path / "spool").iterdir()) == []


def test_the_file_of_a_living_process_is_left_alone(spool: Spool, url: str, tmp_path: Path) -> None:
    PredictionLog(url).create_tables()
    spool.append("p1", line_of("p1"))
    other = Spool(tmp_path / "spool", lambda: PredictionLog(url))
    other.drain()
    assert len(list_predictions(PredictionLog(url))) == 0
    other.close()
    assert len(list((tmp_path / "spool").iterdir())) == 1


def test_a_prediction_that_waits_in_another_process_is_found(spool: Spool, tmp_path: Path) -> None:
    spool.append("p1", line_of("p1"))
    other = Spool(tmp_path / "spool", lambda: PredictionLog("sqlite://"))
    found = other.find_prediction("p1")
    assert found is not None
    assert found.response == {"prediction_id": "p1", "total_beats_detected": 2}
    assert other.find_prediction("p2") is None
    other.close()


def test_a_torn_line_is_passed_over_and_a_broken_file_is_kept(
    spool: Spool, url: str, tmp_path: Path
) -> None:
    (tmp_path / "spool" / "1-torn.jsonl").write_bytes(line_of("p1") + line_of("p2")[:50])
    (tmp_path / "spool" / "1-wrong.jsonl").write_bytes(b"what?\n" + line_of("p3"))
    spool.drain()
    stored = set(list_predictions(PredictionLog(url)))
    assert stored == {"p1", "p3"}
    names = {path.name for path in (tmp_path / "spool").iterdir()}
    assert "1-torn.jsonl" not in names
    assert "1-wrong.broken" in names


def test_what_an_older_version_could_not_read_is_stored_by_the_next_start(
    tmp_path: Path, url: str
) -> None:
    directory = tmp_path / "spool"
    spool = Spool(directory, lambda: PredictionLog(url))
    (directory / "1-newer.broken").write_bytes(line_of("p1"))
    (directory / "2-damaged.broken").write_bytes(b"what?\n" + line_of("p2"))
    spool.start()
    deadline_s = time.monotonic() + 180
    while not (directory / "2-damaged.broken").exists() or (directory / "1-newer.jsonl").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    spool.close()
    assert set(list_predictions(PredictionLog(url))) == {"p1", "p2"}
    assert [path.name for path in directory.iterdir()] == ["2-damaged.broken"]


def test_answers_are_given_while_the_database_is_away(
    tmp_path: Path, make_request: Callable[..., dict[str, Any]], toy_model: LoadedModel
) -> None:
    away = tmp_path / "away"
    settings = Settings(home=tmp_path / "home", monitoring_url=f"sqlite:///{away / 'log.db'}")
    runtime = Runtime(settings, has_host=False)
    runtime.live.use(toy_model)
    runtime.start()
    created = runtime.predict(orjson.dumps(make_request()))
    assert runtime.find_prediction(created.prediction_id) == orjson.loads(created.body)
    feedback = FeedbackRequest.model_validate_json(
        b'{"prediction_id": "not-known-to-anybody",'
        b' "labels": [{"beat_index": 0, "arrhythmia_type": "N"}]}'
    )
    with pytest.raises(PredictionLogError):
        find_marked(runtime, feedback, SERVICE_ITSELF, lambda job_id, _: tmp_path / job_id)
    taken = orjson.loads(take_feedback(runtime, feedback, is_verified=False))
    assert taken["verified"] is False
    assert len(runtime.spool) == 2
    away.mkdir()
    wait_until(lambda: len(runtime.spool) == 0)
    runtime.close()


@pytest.mark.parametrize("shares_disk", [True, False])
def test_rows_wait_in_memory_while_the_disk_has_less_room_than_must_stay_free(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, *, shares_disk: bool
) -> None:
    spool = Spool(tmp_path / "spool", lambda: PredictionLog(url), shares_disk=shares_disk)
    monkeypatch.setattr("bentos.runtime.spool._FREE_BYTES", 2**62)
    spool.append("p1", line_of("p1"))
    assert [path.stat().st_size for path in (tmp_path / "spool").glob("*.jsonl")] == [0]
    assert spool.find_prediction("p1") is not None
    if shares_disk:
        with pytest.raises(PredictionLogError, match="of the disk are free"):
            spool.drain()
        monkeypatch.setattr("bentos.runtime.spool._FREE_BYTES", 256 * 2**20)
    assert spool.drain()
    assert len(spool) == 0
    spool.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_has_ended_is_a_problem_that_health_can_show(tmp_path: Path) -> None:
    def break_down() -> PredictionLog:
        raise ZeroDivisionError

    spool = Spool(tmp_path / "spool", break_down)
    assert spool.problem is None
    spool.start()
    spool.append("p1", line_of("p1"))
    wait_until(lambda: spool.problem is not None)
    assert spool.problem == "the thread that writes the log has ended; rows wait for a restart"
    assert len(spool) == 1
    spool.close()
    assert len(list((tmp_path / "spool").glob("*.jsonl"))) == 1
