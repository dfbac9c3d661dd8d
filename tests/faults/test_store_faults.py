"""Faults of disks, clocks and servers around a release, through real processes."""

# ruff: noqa: ANN401  the types of fixtures lie in conftest.py, which no module imports

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ecg_lib.operations.releases import (
    CURRENT,
    LAST_GOOD,
    SERVED,
    hash_code,
    is_same_release,
    read_release,
)
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.release.integrity.aliases import follow_pending, read_pending
from flows.release.integrity.doctor import examine
from flows.release.switch_service import ReleaseRefusedError, read_current
from flows.release.transaction import INTENT, Step, Steps, release_model, roll_back

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def broken(home: Any) -> str:
    """A release whose worker ends at once, so that the service refuses it."""
    store, one = home.path / "bentoml", home.releases["1"]
    shutil.copytree(store / "bentos" / "ecg" / "1", store / "bentos" / "ecg" / "broken")
    source = store / "bentos" / "ecg" / "broken" / "src"
    (source / "bentos" / "worker.py").write_text("raise SystemExit(3)\n")
    home.releases["broken"] = one.model_copy(
        update={"bento_tag": "ecg:broken", "code_hash": hash_code(source)}
    )
    return "broken"


def _wait(condition: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def _read(home: Any, name: str) -> str | None:
    found = read_release(home.settings.serving_dir / name)
    return None if found is None else found.bento_tag


def test_the_last_good_release_is_the_last_that_served_and_not_the_last_that_was_wanted(
    home: Any, host: psutil.Process, broken: str
) -> None:
    for version in ("1", "2", "3"):
        home.must("release", version)
        _wait(lambda version=version: _read(home, SERVED) == f"ecg:{version}")
    assert _read(home, LAST_GOOD) == "ecg:2"
    status, errors = home.command("release", broken)
    assert status == 1
    assert "the service refused ecg:broken" in errors
    home.wait_for("3")
    assert (_read(home, SERVED), _read(home, LAST_GOOD)) == ("ecg:3", "ecg:2")
    home.check()


@pytest.fixture(scope="module")
def hanging(home: Any) -> str:
    """A release with other code, of which only the first worker gets ready."""
    store, one = home.path / "bentoml", home.releases["1"]
    shutil.copytree(store / "bentos" / "ecg" / "1", store / "bentos" / "ecg" / "hanging")
    source = store / "bentos" / "ecg" / "hanging" / "src"
    worker = source / "bentos" / "worker.py"
    flag = home.path / "first-worker-started"
    hang = f"""
import pathlib, time
if pathlib.Path({str(flag)!r}).exists():
    time.sleep(600)
pathlib.Path({str(flag)!r}).touch()
"""
    future = "from __future__ import annotations\n"
    worker.write_text(worker.read_text().replace(future, future + hang, 1))
    home.releases["hanging"] = one.model_copy(
        update={"bento_tag": "ecg:hanging", "code_hash": hash_code(source)}
    )
    return "hanging"


def test_a_rollback_does_not_wait_for_a_worker_that_hangs_in_its_start(
    home: Any, host: psutil.Process, load: Any, figures: dict[str, float], hanging: str
) -> None:
    home.must("release", "1")
    home.wait_for("1")
    with load:
        home.must("release", hanging)
        _wait(lambda: _count_starting(host) == 1)
        started_s = time.monotonic()
        home.must("rollback")
        home.wait_for("1")
        figures["a rollback while a worker hangs in its start"] = time.monotonic() - started_s
        _wait(lambda: _count_starting(host) == 0)
    assert load.failures == []
    assert set(load.answers) == {"ecg:1", "ecg:hanging"}
    home.check()


def _count_starting(host: psutil.Process) -> int:
    """Count the processes of the release that hangs which do not serve."""
    found = 0
    for child in host.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            is_hanging = "hanging" in child.environ().get("PYTHONPATH", "")
            found += is_hanging and child.num_threads() == 1
    return found


@pytest.mark.parametrize("mended_by", ["the next command", "ecg doctor"])
def test_a_wrong_digit_in_the_current_release_condemns_no_good_release(
    home: Any, tmp_path: Path, mended_by: str
) -> None:
    other = _home_at(home, tmp_path / "digit")
    for version in ("1", "2"):
        other.must("release", version)
    before = read_ledger(other.settings.ledger_dir).entries
    path = other.settings.serving_dir / CURRENT
    path.write_text(path.read_text().replace('"model_version": "2"', '"model_version": "9"'))
    if mended_by == "ecg doctor":
        offline = other.settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
        problems = [one.problem for one in examine(offline) if one.store == "current"]
        (problem,) = problems
        assert "its version or a hash differs; by the ledger it is ecg:2" in problem
    else:
        other.must("recover")
    assert is_same_release(read_current(other.settings), home.releases["2"])
    assert read_ledger(other.settings.ledger_dir).entries == before
    other.must("release", "3")
    roll_back(other.settings, why="a fault")  # without force
    assert is_same_release(read_current(other.settings), home.releases["2"])


@pytest.mark.parametrize("step", [Step.PUT_BACK, Step.NOTED_IN_LEDGER, Step.ALIAS_PENDING])
def test_a_refused_release_that_is_killed_while_it_is_put_back_is_undone_by_the_next_command(
    home: Any,
    host: psutil.Process,
    load: Any,
    figures: dict[str, float],
    broken: str,
    step: Step,
) -> None:
    home.must("release", "2")
    n_served = sum(one.is_served for one in read_ledger(home.settings.ledger_dir).entries)
    with load:
        status, errors = home.command("release", broken, kill=step.value)
        assert status == -signal.SIGKILL, errors
        assert (home.settings.serving_dir / INTENT).exists()
        started_s = time.monotonic()
        home.must("recover")
        home.wait_for("2")
        figures[f"kill -9 of a refused release when {step.value}"] = time.monotonic() - started_s
    assert load.failures == []
    assert set(load.answers) == {"ecg:2"}
    home.check()
    entries = read_ledger(home.settings.ledger_dir).entries
    assert sum(one.is_served for one in entries) == n_served
    status, errors = home.command("release", broken)
    assert status == 1
    assert "the service refused ecg:broken" in errors


@pytest.mark.parametrize("days", [-30, 30])
def test_a_clock_that_jumps_and_comes_back_does_not_reorder_history(
    home: Any, monkeypatch: pytest.MonkeyPatch, host: psutil.Process, days: int
) -> None:
    settings, real = home.settings, time.time
    home.must("release", "1")
    with monkeypatch.context() as patch:
        patch.setattr("flows.doors.ledger.time.time", lambda: real() + days * 86400)
        release_model(settings, home.releases["2"], why="release model 2", force=True)
        home.check()
    release_model(settings, home.releases["3"], why="release model 3", force=True)
    home.check()
    tags = [one.release.bento_tag for one in read_ledger(settings.ledger_dir).entries]
    assert tags[:3] == ["ecg:3", "ecg:2", "ecg:1"]
    roll_back(settings, why="after a jump", force=True)
    current = read_current(settings)
    assert current is not None
    assert current.bento_tag == "ecg:2"
    home.check()


@contextmanager
def _silent_server(port: int) -> Iterator[None]:
    """Take connections on a port and never answer."""
    with socket.create_server(("127.0.0.1", port), backlog=64):
        yield


def test_a_service_that_is_silent_is_not_taken_for_none_at_a_release(
    home: Any, tmp_path: Path, figures: dict[str, float]
) -> None:
    other = _home_at(home, tmp_path / "silent")
    other.must("release", "1")
    before = read_ledger(other.settings.ledger_dir).entries
    with _silent_server(other.port):
        started_s = time.monotonic()
        with pytest.raises(ReleaseRefusedError, match="the service does not answer within 2 s"):
            release_model(
                other.settings,
                home.releases["2"],
                why="release model 2",
                steps=Steps(timeout_s=2.0),
            )
        figures["a silent service at a release"] = time.monotonic() - started_s
    assert is_same_release(read_current(other.settings), home.releases["1"])
    new = [one for one in read_ledger(other.settings.ledger_dir).entries if one not in before]
    assert [one.is_served for one in new] == [False]
    other.must("release", "2")
    other.check()


def _home_at(home: Any, path: Path) -> Any:
    path.mkdir(exist_ok=True)
    (path / "bentoml").symlink_to(home.path / "bentoml")
    return replace(home.on_another_port(), path=path)


@contextmanager
def _mounted(path: Path, size: str) -> Iterator[Path]:
    """Mount a small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root alone")
    path.mkdir()
    command = ["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["/usr/bin/umount", "-l", str(path)], check=True)


def test_a_directory_that_becomes_read_only_refuses_a_release_and_changes_nothing(
    home: Any, tmp_path: Path
) -> None:
    with _mounted(tmp_path / "small", "4m") as small:
        other = _home_at(home, small)
        other.must("release", "1")
        before = read_ledger(other.settings.ledger_dir).entries
        subprocess.run(["/usr/bin/mount", "-o", "remount,ro", str(small)], check=True)
        for kind, version in (("release", "2"), ("rollback", "")):
            status, errors = other.command(kind, version)
            assert status == 1
            assert "Read-only file system" in errors
        assert is_same_release(read_current(other.settings), home.releases["1"])
        assert read_ledger(other.settings.ledger_dir).entries == before
        subprocess.run(["/usr/bin/mount", "-o", "remount,rw", str(small)], check=True)
        other.must("release", "2")
        other.check()


def test_answers_on_a_full_disk_reach_the_log_when_there_is_room_again(
    home: Any,
    tmp_path: Path,
    run_host: Any,
    make_request: Callable[..., dict[str, Any]],
    figures: dict[str, float],
) -> None:
    with _mounted(tmp_path / "disk", "320m") as disk:
        other = _home_at(home, disk)
        other.must("release", "1")
        with run_host(other):
            other.wait_for("1", timeout_s=180.0)
            url, ids = f"{other.url}/api/v1/predictions/", []

            def ask(n_times: int) -> None:
                for _ in range(n_times):
                    answer = httpx.post(url, json=make_request(), timeout=60)
                    assert answer.status_code == 201, answer.text
                    ids.append(answer.json()["prediction_id"])

            ask(1)
            _wait(lambda: _logged(other.settings) == ids)
            filler = disk / "filler"
            with pytest.raises(OSError, match="No space"):
                filler.write_bytes(b"x" * 400 * 2**20)
            ask(3)
            _wait(lambda: other.health()["status"] == "degraded")
            _wait(lambda: _logged(other.settings) == ids[:1])  # not read while it is locked
            filler.unlink()
            started_s = time.monotonic()
            ask(1)
            _wait(lambda: sorted(_logged(other.settings)) == sorted(ids), timeout_s=60.0)
            figures["answers of a full disk are logged"] = time.monotonic() - started_s


def _logged(settings: Settings) -> list[str]:
    path = settings.home / "monitoring.db"
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
            return [row for (row,) in database.execute("SELECT prediction_id FROM predictions")]
    except sqlite3.OperationalError:  # the tables are being made
        return []


@pytest.fixture
def slow_server() -> Iterator[str]:
    """Address of a server that answers correctly, and slower than is waited for."""
    is_over = threading.Event()

    class _Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_over.wait(20)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_rollback_does_not_wait_for_an_mlflow_that_is_slow(
    home: Any,
    host: psutil.Process,
    load: Any,
    figures: dict[str, float],
    slow_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home.must("release", "1")
    home.must("release", "3")
    with monkeypatch.context() as patch, load:
        patch.setattr(
            type(home),
            "env",
            property(lambda _, env=home.env: {**env, "ECG_MLFLOW_TRACKING_URI": slow_server}),
        )
        started_s = time.monotonic()
        done = home.run_ecg("rollback", "--force", "--reason", "a slow MLflow")
        took_s = time.monotonic() - started_s
    assert done.returncode == 0, done.stderr
    assert "MLflow cannot be reached: its aliases follow when it can" in done.stdout
    figures["a rollback while MLflow is slow"] = took_s
    assert load.failures == []
    home.check()
    pending, current = read_pending(home.settings), read_current(home.settings)
    assert pending is not None
    assert current is not None
    assert pending.version == current.model_version
    slow = home.settings.model_copy(update={"mlflow_tracking_uri": slow_server})
    assert not follow_pending(slow)
