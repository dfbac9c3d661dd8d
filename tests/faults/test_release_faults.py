"""Faults in a running release, rollback and service, through real processes."""

# ruff: noqa: ANN401  the types of fixtures lie in conftest.py, which no module imports

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ecg_lib.operations.releases import CURRENT, bento_source, write_release
from flows.doors.ledger import read_ledger
from flows.doors.release_history import EventKind
from flows.release.integrity.aliases import follow_pending, read_pending
from flows.release.integrity.doctor import examine
from flows.release.switch_service import find_bundle, read_current
from flows.release.transaction import INTENT, Step, release_model, roll_back

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RELEASE_STEPS = list(Step)[:-1]


def kill_at(home: Any, kind: str, version: str, step: Step) -> None:
    status, errors = home.command(kind, version, kill=step.value)
    assert status == -signal.SIGKILL, errors


@pytest.mark.parametrize("step", RELEASE_STEPS)
@pytest.mark.parametrize("kind", ["release", "rollback"])
def test_a_command_that_is_killed_at_any_step_is_ended_by_the_next(
    home: Any,
    host: psutil.Process,
    load: Any,
    figures: dict[str, float],
    kind: str,
    step: Step,
) -> None:
    settings = home.settings
    current = read_current(settings)
    assert current is not None
    if current.model_version == "1" and kind == "rollback":
        home.must("release", "2")
    if current.model_version == "2" and kind == "release":
        home.must("rollback")
    n_served = sum(entry.is_served for entry in read_ledger(settings.ledger_dir).entries)
    version, target = ("2", "2") if kind == "release" else ("", "1")
    with load:
        kill_at(home, kind, version, step)
        started_s = time.monotonic()
        # The same command again; a rollback that was done already is not done twice.
        home.must("recover")
        is_done = step not in {Step.LOCKED, Step.INTENT_WRITTEN}
        if not is_done:
            home.must(kind, version)
        home.wait_for(target)
        figures[f"kill -9 of a {kind} when {step.value}"] = time.monotonic() - started_s
    assert load.failures == []
    home.check()
    entries = read_ledger(settings.ledger_dir).entries
    assert sum(entry.is_served for entry in entries) == n_served + 1


def test_two_releases_and_a_rollback_at_once_leave_one_history(
    home: Any, host: psutil.Process, load: Any
) -> None:
    home.must("release", "2")
    before = {entry.event.id for entry in read_ledger(home.settings.ledger_dir).entries}
    with load:
        commands = (("release", "1"), ("release", "3"), ("rollback",))
        for started in [home.start(*command) for command in commands]:
            status, errors = started.wait()
            assert status == 0, errors
    assert load.failures == []
    home.check()
    new = [
        entry
        for entry in read_ledger(home.settings.ledger_dir).entries
        if entry.event.id not in before
    ]
    for entry in new:
        if entry.event.kind is EventKind.RELEASE:
            assert entry.reason == f"release model {entry.release.model_version}"


@pytest.mark.parametrize("who", ["worker", "host"])
def test_a_process_of_the_service_that_is_killed_comes_back_with_the_same_release(
    home: Any, host: psutil.Process, load: Any, run_host: Any, figures: dict[str, float], who: str
) -> None:
    current = read_current(home.settings)
    assert current is not None
    if who == "worker":
        with load:
            n_started, started_s = home.count_started(), time.monotonic()
            host.children()[0].kill()
            while home.count_started() == n_started:
                assert time.monotonic() - started_s < 60
                time.sleep(0.05)
            figures["kill -9 of a worker"] = time.monotonic() - started_s
        # Only what the dead worker was answering is cut off.
        assert len(load.failures) <= 1
    else:
        other = home.on_another_port()
        with run_host(other) as second:
            other.wait_for(current.model_version, timeout_s=180.0)
            workers = second.children()
            second.kill()
            _, alive = psutil.wait_procs(workers, timeout=20)
            assert alive == []
        started_s = time.monotonic()
        with run_host(other):
            other.wait_for(current.model_version, timeout_s=180.0)
        figures["kill -9 of the host"] = time.monotonic() - started_s


def test_a_damaged_bundle_fails_no_request_while_a_healthy_worker_serves(
    home: Any, host: psutil.Process, load: Any, figures: dict[str, float]
) -> None:
    home.must("release", "2")
    card = find_bundle(home.settings, "ecg_bundle:2") / "model_card.md"
    text = card.read_bytes()
    card.write_bytes(bytes([text[0] ^ 1]) + text[1:])
    try:
        host.children()[0].kill()
        time.sleep(0.5)
        with load:
            time.sleep(4.0)
        assert load.failures == []
        assert set(load.answers) == {"ecg:2"}
    finally:
        card.write_bytes(text)
    n_started, started_s = home.count_started(), time.monotonic()
    while home.count_started() == n_started:
        assert time.monotonic() - started_s < 60
        time.sleep(0.05)
    figures["one byte of the served bundle flipped"] = time.monotonic() - started_s
    home.wait_for("2")
    assert home.health()["refused"] is None


def test_changed_code_never_runs_while_workers_of_the_signed_code_serve(
    home: Any, host: psutil.Process, load: Any, figures: dict[str, float], tmp_path: Path
) -> None:
    home.must("release", "2")
    home.wait_for("2")
    source = bento_source(home.settings.bentoml_home, home.releases["2"])
    mark = tmp_path / "ran"
    # Python would run this before anything else of a worker.
    stranger = source / "sitecustomize.py"
    stranger.write_text(f"open({str(mark)!r}, 'w')\n")
    n_started = home.count_started()
    try:
        with load:
            host.children()[0].kill()
            log = home.path / "host.log"
            deadline_s = time.monotonic() + 180
            while "must have the code" not in log.read_text():
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            time.sleep(1.0)
        # Only what the dead worker was answering is cut off.
        assert len(load.failures) <= 1
        (finding,) = [one for one in examine(home.settings) if one.store == "signature"]
        assert "restore it, or look at it and sign it" in finding.problem
    finally:
        stranger.unlink()
    started_s = time.monotonic()
    while home.count_started() == n_started:
        assert time.monotonic() - started_s < 60
        time.sleep(0.05)
    figures["code of the served bento changed"] = time.monotonic() - started_s
    assert not mark.exists()


def test_bundle_manifest_and_release_file_that_are_rewritten_together_are_refused(
    home: Any, host: psutil.Process, load: Any
) -> None:
    home.must("release", "2")
    home.wait_for("2")
    settings, current = home.settings, home.releases["2"]
    directory = find_bundle(settings, "ecg_bundle:2")
    kept = {path: path.read_bytes() for path in directory.iterdir()}
    golden = json.dumps({"requests": []}).encode()
    manifest = json.loads(kept[directory / "manifest.json"])
    manifest["files"]["golden.json"] = hashlib.sha256(golden).hexdigest()
    text = json.dumps(manifest).encode()
    forged = current.model_copy(
        update={"bundle_hash": hashlib.sha256(text).hexdigest(), "model_version": "9"}
    )
    try:
        with load:
            (directory / "golden.json").write_bytes(golden)
            (directory / "manifest.json").write_bytes(text)
            write_release(settings.serving_dir / CURRENT, forged)
            deadline_s = time.monotonic() + 180
            while (refused := home.health()["refused"]) is None:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            while not load.answers:  # it may be refused before the first request was answered
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        assert "of model 9 has no signature of this home; look at it, then" in refused["reason"]
        assert load.failures == []
        assert set(load.answers) == {"ecg:2"}
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
        write_release(settings.serving_dir / CURRENT, current)
    home.wait_for("2")
    home.check()


def test_a_worker_that_hangs_is_replaced(
    home: Any, host: psutil.Process, figures: dict[str, float]
) -> None:
    n_started, started_s = home.count_started(), time.monotonic()
    hung = host.children()[0]
    hung.suspend()
    while home.count_started() == n_started:
        assert time.monotonic() - started_s < 90
        time.sleep(0.05)
    figures["a worker hangs (SIGSTOP)"] = time.monotonic() - started_s
    assert not hung.is_running()
    assert home.health()["status"] == "ok"


@pytest.mark.parametrize("name", [CURRENT, INTENT, "registry-pending.json", "served.json"])
@pytest.mark.parametrize("content", [b"", b'{"id": "'])
def test_a_torn_file_is_mended_and_the_service_goes_on(
    home: Any, host: psutil.Process, load: Any, name: str, content: bytes
) -> None:
    settings = home.settings
    served = read_current(settings)
    folder = settings.home if name.startswith("registry") else settings.serving_dir
    with load:
        (folder / name).write_bytes(content)
        findings = examine(settings)
    assert load.failures == []
    assert [one for one in findings if not one.is_mended and one.store != "service"] == []
    assert read_current(settings) == served
    home.check()


def test_a_torn_ledger_entry_is_passed_over(home: Any, host: psutil.Process) -> None:
    ledger = home.settings.ledger_dir
    commit = read_ledger(ledger).entries[0].commit
    path = ledger / ".git" / "objects" / commit[:2] / commit[2:]
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(b"")
    try:
        assert commit[:12] in read_ledger(ledger).torn
        home.must("release", "3")
        home.must("rollback")
    finally:
        path.write_bytes(content)
    home.check()


@pytest.mark.parametrize("name", ["index.lock", "refs/heads/master.lock"])
def test_a_stale_git_lock_stops_no_release(
    home: Any, host: psutil.Process, figures: dict[str, float], name: str
) -> None:
    lock = home.settings.ledger_dir / ".git" / name
    lock.touch()
    started_s = time.monotonic()
    home.must("release", "3")
    figures[f"stale {name} in the ledger"] = time.monotonic() - started_s
    home.must("rollback")
    home.check()


@pytest.mark.parametrize("fault", ["locked", "corrupt"])
def test_a_rollback_needs_no_mlflow(
    home: Any, host: psutil.Process, load: Any, figures: dict[str, float], fault: str
) -> None:
    settings = home.settings
    home.must("release", "3")
    settings.mlflow_dir.mkdir(exist_ok=True)
    path = settings.mlflow_dir / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        if fault == "corrupt":
            path.write_bytes(b"no database" * 100)
        else:
            database.execute("BEGIN EXCLUSIVE")
        with load:
            started_s = time.monotonic()
            done = home.run_ecg("rollback", "--force", "--reason", fault)
            assert done.returncode == 0, done.stderr
            assert "MLflow cannot be reached: its aliases follow when it can" in done.stdout
            figures[f"MLflow's database {fault}"] = time.monotonic() - started_s
            assert not follow_pending(settings)
        assert load.failures == []
    path.unlink()
    pending = read_pending(settings)
    current = read_current(settings)
    assert pending is not None
    assert current is not None
    assert pending.version == current.model_version
    home.check()


@pytest.mark.parametrize("fault", ["locked", "corrupt"])
def test_a_broken_prediction_log_delays_no_answer(
    home: Any, host: psutil.Process, make_request: Callable[..., dict[str, Any]], fault: str
) -> None:
    path = home.settings.home / "monitoring.db"
    url = f"{home.url}/api/v1/predictions/"
    assert httpx.post(url, json=make_request(), timeout=60).status_code == 201
    deadline_s = time.monotonic() + 180
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    time.sleep(1.0)
    aside = path.with_suffix(".aside")
    with closing(sqlite3.connect(path)) as database:
        if fault == "locked":
            database.execute("BEGIN EXCLUSIVE")
        else:
            shutil.copy(path, aside)
            path.write_bytes(b"no database" * 1000)
        answers = [httpx.post(url, json=make_request(), timeout=60) for _ in range(3)]
        assert [one.status_code for one in answers] == [201] * 3
    if fault == "corrupt":
        for name in ("monitoring.db-wal", "monitoring.db-shm"):
            (path.parent / name).unlink(missing_ok=True)
        aside.replace(path)
    ids = {one.json()["prediction_id"] for one in answers}
    deadline_s = time.monotonic() + 180
    while True:
        with closing(sqlite3.connect(path, timeout=5.0)) as database:
            rows = [row for (row,) in database.execute("SELECT prediction_id FROM predictions")]
        if ids <= set(rows):
            break
        assert time.monotonic() < deadline_s, "the answers never reached the log"
        time.sleep(0.2)
    assert len(rows) == len(set(rows))


def test_a_clock_that_jumps_back_does_not_reorder_history(
    home: Any, monkeypatch: pytest.MonkeyPatch, host: psutil.Process
) -> None:
    settings, real = home.settings, time.time
    monkeypatch.setattr("flows.doors.ledger.time.time", lambda: real() - 30 * 86400)
    release_model(settings, home.releases["3"], why="release model 3", force=True)
    home.check()
    roll_back(settings, why="after a jump", force=True)
    home.check()


def test_a_full_disk_refuses_a_release_and_the_service_goes_on(
    home: Any, tmp_path: Path, make_toy_bundle: Any
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root alone")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["/usr/bin/mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        other = type(home)(small, home.releases, port=1)
        (small / "bentoml").symlink_to(home.path / "bentoml")
        other.must("release", "1")
        filler = small / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(b"x" * 2**20)
        status, errors = other.command("release", "2")
        assert status == 1
        assert "No space left" in errors
        assert read_current(other.settings) == home.releases["1"]
        filler.unlink()
        other.must("release", "2")
        other.check()
    finally:
        subprocess.run(["/usr/bin/umount", str(small)], check=True)
