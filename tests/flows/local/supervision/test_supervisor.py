"""Children are small Python programs; the real servers are started in test_platform."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ecg_lib.operations.settings import Settings
from flows.local.supervision.platform_status import end_platform, is_ours, read_status, state_path
from flows.local.supervision.process_state import (
    MARK,
    ProcessRecord,
    State,
    SupervisorError,
    read_state,
)
from flows.local.supervision.supervisor import (
    AlreadyRunningError,
    NotReadyError,
    ProcessEndedError,
    Supervisor,
)
from tests.flows.local.supervision.programs import (
    SLEEPER,
    make_program,
    process_runs,
    python_command,
    wait_for,
)

_TALKER = """
import time
while True:
    print("0123456789" * 100, flush=True)
    time.sleep(0.001)
"""
_DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(300)
"""
_PARENT = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(300)
"""
_SUPERVISOR = f"""
import pathlib, sys, os, time
from flows.local.supervision.supervisor import Program, Supervisor
home = pathlib.Path(sys.argv[1])
with Supervisor(
    home / "processes.json", states_path=home / "helpers.json", logs_dir=home, report=print
) as supervisor:
    command = [sys.executable, "-c", {_PARENT!r}, str(home / "pid")]
    supervisor.launch(Program(name="parent", command=command, environment=os.environ))
    while True:
        supervisor.check()
        time.sleep(0.1)
"""


def _read_pid(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_leaving_ends_a_child_and_a_grandchild_in_another_session(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(
            make_program("parent", _PARENT, str(tmp_path / "pid"), ends_with_children=True)
        )
        grandchild = _read_pid(tmp_path / "pid")
        state = read_state(tmp_path / "processes.json")
        assert state is not None
        (child,) = state.children
        assert process_runs(grandchild)
    assert not process_runs(child.pid)
    assert not process_runs(grandchild)
    assert not (tmp_path / "processes.json").exists()


def test_a_grandchild_whose_parent_is_gone_is_ended(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(make_program("parent", _PARENT, str(tmp_path / "pid")))
        grandchild = _read_pid(tmp_path / "pid")
        state = read_state(tmp_path / "processes.json")
        assert state is not None
        os.kill(state.children[0].pid, signal.SIGKILL)
        with pytest.raises(ProcessEndedError, match="parent must keep running"):
            supervisor.wait_until("parent", lambda: False, timeout_s=10.0)
    assert not process_runs(grandchild)


def test_children_end_in_reverse_order(
    make_supervisor: Callable[..., Supervisor], lines: list[str]
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(make_program("first", SLEEPER))
        supervisor.launch(make_program("second", SLEEPER))
    assert lines == ["ending second", "ending first"]


def test_a_child_that_does_not_end_by_itself_is_killed(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    started_s = time.monotonic()
    with make_supervisor(grace_s=0.5) as supervisor:
        supervisor.launch(make_program("deaf", _DEAF))
        log = tmp_path / "logs" / "deaf.log"
        supervisor.wait_until("deaf", lambda: log.read_text() == "up\n", timeout_s=20.0)
    assert "deaf did not end by itself and is killed" in lines
    assert time.monotonic() - started_s < 15


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(make_program("broken", "raise SystemExit('the disk is full')"))
        with pytest.raises(ProcessEndedError, match=r"exit code 1.*\n.*the disk is full"):
            supervisor.wait_until("broken", lambda: False, timeout_s=10.0)


def test_a_server_that_ends_without_an_error_is_reported_too(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(make_program("brief", "pass"))
        with pytest.raises(ProcessEndedError, match="exit code 0"):
            supervisor.wait_until("brief", lambda: False, timeout_s=10.0)


def test_a_log_that_grows_large_is_set_aside_and_goes_on(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.local.supervision.process_logs._MAX_LOG_BYTES", 100_000)
    with make_supervisor() as supervisor:
        supervisor.launch(make_program("talker", _TALKER))
        deadline = time.monotonic() + 180
        while not (aside := tmp_path / "logs" / "talker.log.1").exists():
            assert time.monotonic() < deadline, "the log must be set aside"
            supervisor.check()
            time.sleep(0.02)
        is_set_aside = aside.stat().st_size
        log = tmp_path / "logs" / "talker.log"
        while log.stat().st_size == 0:
            assert time.monotonic() < deadline, "the process must go on writing"
        with log.open("rb") as file:
            assert file.read(1) != b"\0"  # it goes on at the start, not behind a hole
    assert is_set_aside > 100_000


def test_a_child_that_does_not_become_ready_is_reported(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(make_program("slow", SLEEPER))
        with pytest.raises(NotReadyError, match="slow must be ready in 0 s"):
            supervisor.wait_until("slow", lambda: False, timeout_s=0.3)


def test_a_command_that_fails_is_reported(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        supervisor.run(make_program("good", "pass"), timeout_s=20.0)
        with pytest.raises(ProcessEndedError, match="no such flow"):
            supervisor.run(
                make_program("deploy", "raise SystemExit('no such flow')"), timeout_s=20.0
            )


def test_sigterm_ends_the_supervisor_and_everything_below(tmp_path: Path) -> None:
    process = subprocess.Popen(
        python_command(_SUPERVISOR, str(tmp_path)), stderr=subprocess.DEVNULL
    )
    grandchild = _read_pid(tmp_path / "pid")
    process.terminate()
    process.wait(timeout=20)
    assert not process_runs(grandchild)
    assert not (tmp_path / "processes.json").exists()


def test_what_a_killed_supervisor_left_is_ended_by_the_next_one(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    process = subprocess.Popen(python_command(_SUPERVISOR, str(tmp_path)))
    grandchild = _read_pid(tmp_path / "pid")
    process.kill()
    process.wait()
    assert process_runs(grandchild)
    with make_supervisor():
        assert not process_runs(grandchild)
    assert any("left over from an earlier start" in line for line in lines)


def test_a_second_supervisor_is_refused_while_the_first_runs(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor(), pytest.raises(AlreadyRunningError, match=f"process {os.getpid()} does"):
        make_supervisor().__enter__()


def test_another_process_with_a_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    bystander = subprocess.Popen(python_command(SLEEPER))
    try:
        record = ProcessRecord(name="worker", pid=bystander.pid, created_at=1.0)
        State(mark="none", supervisor=record, children=(record,)).write(state_path(settings))
        assert [one.is_alive for one in read_status(settings)] == [False, False]
        assert end_platform(settings)
        assert process_runs(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()


def test_down_from_another_process_ends_the_supervisor_and_its_children(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    process = subprocess.Popen(
        python_command(_SUPERVISOR, str(tmp_path)), stderr=subprocess.DEVNULL
    )
    grandchild = _read_pid(tmp_path / "pid")
    assert [(one.name, one.is_alive) for one in read_status(settings)] == [
        ("supervisor", True),
        ("parent", True),
    ]
    assert end_platform(settings)
    process.wait(timeout=20)
    assert not process_runs(grandchild)
    assert read_status(settings) == ()
    assert not end_platform(settings)


def test_a_state_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text('{"mark": 3}')
    with pytest.raises(SupervisorError, match="must be the state of the running processes"):
        read_status(Settings(home=tmp_path))


def test_a_process_gets_its_own_variables_and_the_mark_alone(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    code = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(' '.join(os.environ))"
    program = replace(
        make_program("writer", code, str(tmp_path / "file")), environment={"ONE": "1"}
    )
    with make_supervisor() as supervisor:
        supervisor.run(program, timeout_s=20.0)
    assert set((tmp_path / "file").read_text().split()) <= {"ONE", MARK, "LC_CTYPE"}


def test_a_process_that_holds_no_port_is_not_taken_for_the_server(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        me = psutil.Process()
        record = ProcessRecord(name="prefect-server", pid=me.pid, created_at=me.create_time())
        settings = Settings(home=tmp_path)
        State(mark="none", supervisor=record, children=(record,)).write(state_path(settings))
        assert is_ours(settings, "prefect-server", port)
        assert not is_ours(settings, "mlflow-server", port)
        other = subprocess.Popen(python_command(SLEEPER))
        try:
            created_at = psutil.Process(other.pid).create_time()
            squatted = replace(record, pid=other.pid, created_at=created_at)
            State(mark="none", supervisor=record, children=(squatted,)).write(state_path(settings))
            assert not is_ours(settings, "prefect-server", port)
        finally:
            other.kill()
            other.wait()
    assert not is_ours(Settings(home=tmp_path / "none"), "prefect-server", port)
