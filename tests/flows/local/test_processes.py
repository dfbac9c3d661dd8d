"""Children are small Python programs; the real servers are started in test_deploy."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses
from flows.local.supervision.free_ports import PortTakenError, check_ports
from flows.local.supervision.process_state import (
    MARK,
    ProcessRecord,
    State,
    SupervisorError,
    read_state,
)
from flows.local.processes import Platform, end_platform, environment, read_status, state_path
from flows.local.supervision.supervisor import (
    AlreadyRunningError,
    NotReadyError,
    ProcessEndedError,
    Supervisor,
)

_TALKER = """
import time
while True:
    print("0123456789" * 100, flush=True)
    time.sleep(0.001)
"""
_SLEEPER = "import time; time.sleep(300)"
_DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(300)
"""
_PARENT = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {_SLEEPER!r}], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(300)
"""
_SUPERVISOR = f"""
import pathlib, sys, os, time
from flows.local.supervision.supervisor import Supervisor
home = pathlib.Path(sys.argv[1])
with Supervisor(home / "processes.json", logs_dir=home, environment=os.environ) as supervisor:
    supervisor.launch("parent", [sys.executable, "-c", {_PARENT!r}, str(home / "pid")])
    while True:
        supervisor.check()
        time.sleep(0.1)
"""


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def make_supervisor(tmp_path: Path, lines: list[str]) -> Callable[..., Supervisor]:
    def make(grace_s: float = 5.0) -> Supervisor:
        return Supervisor(
            tmp_path / "processes.json",
            logs_dir=tmp_path / "logs",
            environment=os.environ,
            report=lines.append,
            grace_s=grace_s,
        )

    return make


@pytest.fixture
def held_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def _free_ports() -> dict[str, int]:
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(("prefect_port", "mlflow_port", "service_port"), ports, strict=True))


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def _wait(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read_pid(path: Path) -> int:
    _wait(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_leaving_ends_a_child_and_a_grandchild_in_another_session(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(
            "parent", _python(_PARENT, str(tmp_path / "pid")), ends_with_children=True
        )
        grandchild = _read_pid(tmp_path / "pid")
        state = read_state(tmp_path / "processes.json")
        assert state is not None
        (child,) = state.children
        assert _runs(grandchild)
    assert not _runs(child.pid)
    assert not _runs(grandchild)
    assert not (tmp_path / "processes.json").exists()


def test_a_grandchild_whose_parent_is_gone_is_ended(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch("parent", _python(_PARENT, str(tmp_path / "pid")))
        grandchild = _read_pid(tmp_path / "pid")
        state = read_state(tmp_path / "processes.json")
        assert state is not None
        os.kill(state.children[0].pid, signal.SIGKILL)
        with pytest.raises(ProcessEndedError, match="parent must keep running"):
            supervisor.wait_until("parent", lambda: False, timeout_s=10.0)
    assert not _runs(grandchild)


def test_children_end_in_reverse_order(
    make_supervisor: Callable[..., Supervisor], lines: list[str]
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch("first", _python(_SLEEPER))
        supervisor.launch("second", _python(_SLEEPER))
    assert lines == ["ending second", "ending first"]


def test_a_child_that_does_not_end_by_itself_is_killed(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    started_s = time.monotonic()
    with make_supervisor(grace_s=0.5) as supervisor:
        supervisor.launch("deaf", _python(_DEAF))
        log = tmp_path / "logs" / "deaf.log"
        supervisor.wait_until("deaf", lambda: log.read_text() == "up\n", timeout_s=20.0)
    assert "deaf did not end by itself and is killed" in lines
    assert time.monotonic() - started_s < 15


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch("broken", _python("raise SystemExit('the disk is full')"))
        with pytest.raises(ProcessEndedError, match=r"exit code 1.*\n.*the disk is full"):
            supervisor.wait_until("broken", lambda: False, timeout_s=10.0)


def test_a_server_that_ends_without_an_error_is_reported_too(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch("brief", _python("pass"))
        with pytest.raises(ProcessEndedError, match="exit code 0"):
            supervisor.wait_until("brief", lambda: False, timeout_s=10.0)


def test_a_log_that_grows_large_is_set_aside_and_goes_on(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.local.supervision.supervisor._MAX_LOG_BYTES", 100_000)
    with make_supervisor() as supervisor:
        supervisor.launch("talker", _python(_TALKER))
        deadline = time.monotonic() + 20
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
        supervisor.launch("slow", _python(_SLEEPER))
        with pytest.raises(NotReadyError, match="slow must be ready in 0 s"):
            supervisor.wait_until("slow", lambda: False, timeout_s=0.3)


def test_a_command_that_fails_is_reported(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        supervisor.run("good", _python("pass"), cwd=tmp_path, timeout_s=10.0)
        with pytest.raises(ProcessEndedError, match="no such flow"):
            supervisor.run(
                "deploy", _python("raise SystemExit('no such flow')"), cwd=tmp_path, timeout_s=10.0
            )


def test_sigterm_ends_the_supervisor_and_everything_below(tmp_path: Path) -> None:
    process = subprocess.Popen(_python(_SUPERVISOR, str(tmp_path)), stderr=subprocess.DEVNULL)
    grandchild = _read_pid(tmp_path / "pid")
    process.terminate()
    process.wait(timeout=20)
    assert not _runs(grandchild)
    assert not (tmp_path / "processes.json").exists()


def test_what_a_killed_supervisor_left_is_ended_by_the_next_one(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    process = subprocess.Popen(_python(_SUPERVISOR, str(tmp_path)))
    grandchild = _read_pid(tmp_path / "pid")
    process.kill()
    process.wait()
    assert _runs(grandchild)
    with make_supervisor():
        assert not _runs(grandchild)
    assert any("left over from an earlier start" in line for line in lines)


def test_a_second_supervisor_is_refused_while_the_first_runs(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor(), pytest.raises(AlreadyRunningError, match=f"process {os.getpid()} does"):
        make_supervisor().__enter__()


def test_another_process_with_a_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    bystander = subprocess.Popen(_python(_SLEEPER))
    try:
        record = ProcessRecord(name="worker", pid=bystander.pid, created_at=1.0)
        State(mark="none", supervisor=record, children=(record,)).write(state_path(settings))
        assert [one.is_alive for one in read_status(settings)] == [False, False]
        assert end_platform(settings)
        assert _runs(bystander.pid)
    finally:
        bystander.kill()
        bystander.wait()


def test_down_from_another_process_ends_the_supervisor_and_its_children(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    process = subprocess.Popen(_python(_SUPERVISOR, str(tmp_path)), stderr=subprocess.DEVNULL)
    grandchild = _read_pid(tmp_path / "pid")
    assert [(one.name, one.is_alive) for one in read_status(settings)] == [
        ("supervisor", True),
        ("parent", True),
    ]
    assert end_platform(settings)
    process.wait(timeout=20)
    assert not _runs(grandchild)
    assert read_status(settings) == ()
    assert not end_platform(settings)


def test_a_state_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text('{"mark": 3}')
    with pytest.raises(SupervisorError, match="must be the state of the running processes"):
        read_status(Settings(home=tmp_path))


def test_a_port_that_is_taken_is_named_with_its_holder_and_its_variable(
    held_port: int, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, **(_free_ports() | {"mlflow_port": held_port}))
    with pytest.raises(PortTakenError) as caught:
        check_ports(settings)
    message = str(caught.value)
    assert f"port {held_port} of the MLflow server is held by" in message
    assert f"(pid {os.getpid()})" in message
    assert "ECG_MLFLOW_PORT" in message
    assert "ECG_SERVICE_PORT" not in message


def test_all_taken_ports_are_named_and_nothing_is_started(held_port: int, tmp_path: Path) -> None:
    ports = _free_ports() | {"service_port": held_port, "prefect_port": held_port}
    platform = Platform(Settings(home=tmp_path, **ports))
    with pytest.raises(PortTakenError) as caught, platform:
        pass
    assert "ECG_PREFECT_PORT" in str(caught.value)
    assert "(ECG_SERVICE_PORT) is also that of the Prefect server" in str(caught.value)
    assert not state_path(Settings(home=tmp_path)).exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_port_of_mlflow_does_not_matter_when_mlflow_is_elsewhere(
    held_port: int, tmp_path: Path
) -> None:
    check_ports(
        Settings(
            home=tmp_path,
            mlflow_tracking_uri="http://mlflow.example:5000",
            **(_free_ports() | {"mlflow_port": held_port}),
        )
    )


@pytest.mark.parametrize("origins", [(), ("https://a.example", "http://b.example:8080")])
def test_children_see_every_setting_and_send_no_telemetry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origins: tuple[str, ...]
) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    settings = Settings(
        home=tmp_path,
        prefect_port=4321,
        mitdb_dir=tmp_path / "mitdb",
        allowed_origins=origins,
    )
    given = environment(settings)
    assert (
        Settings.model_validate(
            {
                name: given[f"ECG_{name.upper()}"]
                for name in Settings.model_fields
                if f"ECG_{name.upper()}" in given
            }
        )
        == settings
    )
    assert given["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert given["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert given["BENTOML_HOME"] == str(settings.bentoml_home)
    assert given["MLFLOW_TRACKING_URI"] == settings.tracking_uri
    for name in ("KERAS_HOME", "MPLCONFIGDIR"):
        assert Path(given[name]).parent == tmp_path / "cache"
    assert given["NO_PROXY"] == "intranet.example,127.0.0.1,localhost"
    # Libraries differ in what they take for true: platform-notes.
    assert given["DO_NOT_TRACK"] == "true"
    assert given["BENTOML_DO_NOT_TRACK"] == "True"
    assert MARK not in given


def test_a_service_on_every_interface_is_reached_by_loopback(tmp_path: Path) -> None:
    addresses = find_addresses(Settings(home=tmp_path, service_host="::", service_port=3333))
    assert addresses.service == "http://127.0.0.1:3333"


def test_an_address_of_ip_version_6_is_written_in_brackets(tmp_path: Path) -> None:
    addresses = find_addresses(Settings(home=tmp_path, service_host="::1", service_port=3333))
    assert addresses.service == "http://[::1]:3333"
