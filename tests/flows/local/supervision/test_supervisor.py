"""Children are small Python programs; the real servers are started in test_platform."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    list_degraded,
    read_helper_states,
)
from ecg_lib.operations.settings import Settings
from flows.local.supervision import liveness
from flows.local.supervision.liveness import BeatPipe
from flows.local.supervision.platform_status import (
    end_platform,
    is_ours,
    read_status,
    state_path,
)
from flows.local.supervision.process_state import (
    MARK,
    ProcessRecord,
    State,
    SupervisorError,
    read_state,
)
from flows.local.supervision.restarts import RestartPolicy
from flows.local.supervision.supervisor import (
    AlreadyRunningError,
    NotReadyError,
    ProcessEndedError,
    Program,
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


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def make_supervisor(tmp_path: Path, lines: list[str]) -> Callable[..., Supervisor]:
    def make(grace_s: float = 5.0) -> Supervisor:
        return Supervisor(
            tmp_path / "processes.json",
            states_path=tmp_path / "helpers.json",
            logs_dir=tmp_path / "logs",
            report=lines.append,
            grace_s=grace_s,
        )

    return make


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def _program(name: str, code: str, *arguments: str, ends_with_children: bool = False) -> Program:
    return Program(
        name=name,
        command=_python(code, *arguments),
        environment=os.environ,
        ends_with_children=ends_with_children,
    )


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
            _program("parent", _PARENT, str(tmp_path / "pid"), ends_with_children=True)
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
        supervisor.launch(_program("parent", _PARENT, str(tmp_path / "pid")))
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
        supervisor.launch(_program("first", _SLEEPER))
        supervisor.launch(_program("second", _SLEEPER))
    assert lines == ["ending second", "ending first"]


def test_a_child_that_does_not_end_by_itself_is_killed(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    started_s = time.monotonic()
    with make_supervisor(grace_s=0.5) as supervisor:
        supervisor.launch(_program("deaf", _DEAF))
        log = tmp_path / "logs" / "deaf.log"
        supervisor.wait_until("deaf", lambda: log.read_text() == "up\n", timeout_s=20.0)
    assert "deaf did not end by itself and is killed" in lines
    assert time.monotonic() - started_s < 15


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(_program("broken", "raise SystemExit('the disk is full')"))
        with pytest.raises(ProcessEndedError, match=r"exit code 1.*\n.*the disk is full"):
            supervisor.wait_until("broken", lambda: False, timeout_s=10.0)


def test_a_server_that_ends_without_an_error_is_reported_too(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    with make_supervisor() as supervisor:
        supervisor.launch(_program("brief", "pass"))
        with pytest.raises(ProcessEndedError, match="exit code 0"):
            supervisor.wait_until("brief", lambda: False, timeout_s=10.0)


def test_a_log_that_grows_large_is_set_aside_and_goes_on(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.local.supervision.process_logs._MAX_LOG_BYTES", 100_000)
    with make_supervisor() as supervisor:
        supervisor.launch(_program("talker", _TALKER))
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
        supervisor.launch(_program("slow", _SLEEPER))
        with pytest.raises(NotReadyError, match="slow must be ready in 0 s"):
            supervisor.wait_until("slow", lambda: False, timeout_s=0.3)


def test_a_command_that_fails_is_reported(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        supervisor.run(_program("good", "pass"), timeout_s=20.0)
        with pytest.raises(ProcessEndedError, match="no such flow"):
            supervisor.run(_program("deploy", "raise SystemExit('no such flow')"), timeout_s=20.0)


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


_QUICK = RestartPolicy(first_pause_s=0.05, longest_pause_s=0.1)


def _keep_running(supervisor: Supervisor, program: Program, policy: RestartPolicy = _QUICK) -> int:
    supervisor.launch(program)
    supervisor.keep_running(program.name, policy, is_ready=lambda: True)
    return supervisor.find_record(program.name).pid


def _check_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    def check() -> bool:
        supervisor.check()
        return condition()

    _wait(check)


def test_a_process_that_is_killed_is_started_again(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    with make_supervisor() as supervisor:
        first = _keep_running(supervisor, _program("helper", _SLEEPER))
        other = _keep_running(supervisor, _program("other", _SLEEPER))
        os.kill(first, signal.SIGKILL)
        _check_until(
            supervisor,
            lambda: (
                supervisor.read_states()["helper"]
                == HelperState(status=HelperStatus.RUNNING, restarts=1)
            ),
        )
        second = supervisor.find_record("helper").pid
        assert second != first
        assert _runs(second)
        state = read_state(tmp_path / "processes.json")
        assert state is not None
        assert [one.pid for one in state.children] == [second, other]
        assert supervisor.read_states()["other"].restarts == 0
    assert lines[0].startswith("helper ended with exit code -9; it is started again in 0.05 s")
    assert lines[1] == "helper runs again"
    assert not _runs(second)


def test_a_process_that_starts_again_is_degraded_until_it_answers(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    with make_supervisor() as supervisor:
        supervisor.launch(_program("helper", _SLEEPER))
        supervisor.keep_running("helper", _QUICK, is_ready=ready.exists)
        assert supervisor.read_states()["helper"].status is HelperStatus.RUNNING
        os.kill(supervisor.find_record("helper").pid, signal.SIGKILL)
        seen = set()

        def is_starting() -> bool:
            seen.add(supervisor.read_states()["helper"].status)
            return supervisor.read_states()["helper"].status is HelperStatus.STARTING

        _check_until(supervisor, is_starting)
        assert HelperStatus.WAITING in seen
        supervisor.check()
        assert supervisor.read_states()["helper"].status is HelperStatus.STARTING
        ready.touch()
        _check_until(
            supervisor,
            lambda: supervisor.read_states()["helper"].status is HelperStatus.RUNNING,
        )


def _keep(supervisor: Supervisor, is_alive: Callable[[], bool]) -> None:
    supervisor.launch(_program("server", _SLEEPER))
    supervisor.keep_running(
        "server",
        RestartPolicy(first_pause_s=0.05),
        is_ready=lambda: True,
        is_alive=is_alive,
        hung_after_s=0.5,
    )


def _check_for(supervisor: Supervisor, seconds: float, *, until: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s and not until():
        supervisor.check()
        time.sleep(0.02)


@pytest.mark.parametrize("fault", ["stopped", "answers nothing"])
def test_a_process_that_hangs_is_killed_and_started_again(
    make_supervisor: Callable[..., Supervisor],
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(liveness, "_INTERVAL_S", 0.05)
    is_hung = False
    with make_supervisor() as supervisor:
        _keep(supervisor, lambda: not is_hung)
        first = supervisor.find_record("server").pid
        if fault == "stopped":
            os.kill(first, signal.SIGSTOP)
        else:
            is_hung = True
        _check_for(supervisor, 20, until=lambda: "server runs again" in lines)
        assert supervisor.find_record("server").pid != first
        assert not psutil.pid_exists(first)
        assert supervisor.read_states()["server"].restarts == 1
    assert "server runs and no longer answers; it is killed" in lines


def test_a_process_that_answers_now_and_then_is_left_alone(
    make_supervisor: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_INTERVAL_S", 0.02)
    answers = iter([False, False, True] * 1000)
    with make_supervisor() as supervisor:
        _keep(supervisor, lambda: next(answers))
        first = supervisor.find_record("server").pid
        _check_for(supervisor, 1.5, until=lambda: False)
        assert supervisor.find_record("server").pid == first


def test_a_supervisor_that_was_stopped_itself_kills_nothing(
    make_supervisor: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_supervisor() as supervisor:
        _keep(supervisor, lambda: True)
        first = supervisor.find_record("server").pid
        supervisor.check()
        real = time.monotonic
        monkeypatch.setattr(liveness.time, "monotonic", lambda: real() + 3600)
        supervisor.check()
        supervisor.check()
        assert supervisor.find_record("server").pid == first
        assert psutil.Process(first).is_running()


def test_a_process_that_answers_and_is_never_ready_is_left_alone(
    make_supervisor: Callable[..., Supervisor], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_INTERVAL_S", 0.02)
    with make_supervisor() as supervisor:
        supervisor.launch(_program("service", _SLEEPER))
        supervisor.keep_running(
            "service",
            _QUICK,
            is_ready=lambda: False,  # without a model
            is_alive=lambda: True,
            hung_after_s=0.3,
            start_limit_s=0.3,
        )
        os.kill(supervisor.find_record("service").pid, signal.SIGKILL)
        _check_until(supervisor, lambda: len(lines) == 1)
        _check_for(supervisor, 1.5, until=lambda: len(lines) > 1)
        assert len(lines) == 1
        assert supervisor.read_states()["service"] == HelperState(
            status=HelperStatus.STARTING, restarts=1
        )


def test_starts_that_come_to_nothing_are_failures_however_long_they_took(
    make_supervisor: Callable[..., Supervisor], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_INTERVAL_S", 0.02)
    policy = RestartPolicy(first_pause_s=0.01, longest_pause_s=0.01, stable_s=0.1, max_failures=2)
    with make_supervisor() as supervisor:
        supervisor.launch(_program("service", _SLEEPER))
        supervisor.keep_running("service", policy, is_ready=lambda: False, start_limit_s=0.3)
        os.kill(supervisor.find_record("service").pid, signal.SIGKILL)
        with pytest.raises(ProcessEndedError, match="given up after 3 failures"):
            _check_until(supervisor, lambda: False)
    killed = "service runs and has never answered; it is killed"
    assert [line for line in lines if line == killed] == [killed] * 2


_BEATING_HOST = """
import os, sys, time
for _ in range(15):
    os.write(int(sys.argv[1]), b".")
    time.sleep(0.02)
raise SystemExit(1)
"""


def test_a_host_that_beats_and_never_gets_ready_is_given_up(
    make_supervisor: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_INTERVAL_S", 0.02)
    policy = RestartPolicy(first_pause_s=0.01, longest_pause_s=0.01, stable_s=0.1, max_failures=2)
    beats = BeatPipe()
    has_beaten = False

    def is_alive() -> bool:
        nonlocal has_beaten
        found = beats.has_beaten()
        has_beaten = has_beaten or found
        return found

    try:
        with make_supervisor() as supervisor:
            program = _program("service", _BEATING_HOST, str(beats.writer))
            supervisor.launch(replace(program, passed=(beats.writer,)))
            supervisor.keep_running("service", policy, is_ready=lambda: False, is_alive=is_alive)
            with pytest.raises(ProcessEndedError, match=r"given up after 3 failures.*exit code 1"):
                _check_until(supervisor, lambda: False)
            assert supervisor.read_states()["service"].restarts == 2
    finally:
        beats.close()
    assert has_beaten


def test_a_process_that_hangs_is_killed_while_two_others_are_slow_to_start(
    make_supervisor: Callable[..., Supervisor], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_INTERVAL_S", 0.02)
    is_over = threading.Event()

    def answer_slowly() -> bool:
        is_over.wait(60)
        return True

    with make_supervisor() as supervisor:
        for name in ("slow", "slower"):
            supervisor.launch(_program(name, _SLEEPER))
            supervisor.keep_running(name, _QUICK, is_ready=answer_slowly)
            os.kill(supervisor.find_record(name).pid, signal.SIGKILL)
        _check_until(
            supervisor,
            lambda: (
                {supervisor.read_states()[name].status for name in ("slow", "slower")}
                == {HelperStatus.STARTING}
            ),
        )
        _keep(supervisor, lambda: False)
        started_s = time.monotonic()
        _check_for(supervisor, 20, until=lambda: any("no longer answers" in one for one in lines))
        assert time.monotonic() - started_s < 15
        is_over.set()
    assert "server runs and no longer answers; it is killed" in lines


def test_a_process_that_fails_too_often_is_given_up(
    make_supervisor: Callable[..., Supervisor],
) -> None:
    policy = RestartPolicy(first_pause_s=0.01, longest_pause_s=0.01, max_failures=2)
    with make_supervisor() as supervisor:
        _keep_running(supervisor, _program("service", "raise SystemExit(7)"), policy)
        with pytest.raises(ProcessEndedError, match=r"given up after 3 failures.*exit code 7"):
            _check_until(supervisor, lambda: False)
        assert supervisor.read_states()["service"].restarts == 2


def test_a_process_that_cannot_be_started_again_is_tried_later(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    directory = tmp_path / "cwd"
    directory.mkdir()
    with make_supervisor() as supervisor:
        program = replace(_program("helper", _SLEEPER), cwd=directory)
        pid = _keep_running(supervisor, program)
        directory.rmdir()
        os.kill(pid, signal.SIGKILL)
        _check_until(supervisor, lambda: len(lines) == 2)
        assert lines[1] == "helper cannot be started again: No such file or directory"
        assert supervisor.read_states()["helper"].status is HelperStatus.WAITING


def test_files_of_a_process_are_closed_to_other_users(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
    with make_supervisor() as supervisor:
        supervisor.run(_program("writer", code, str(tmp_path / "file")), timeout_s=20.0)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_process_gets_its_own_variables_and_the_mark_alone(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    code = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(' '.join(os.environ))"
    program = replace(_program("writer", code, str(tmp_path / "file")), environment={"ONE": "1"})
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
        other = subprocess.Popen(_python(_SLEEPER))
        try:
            created_at = psutil.Process(other.pid).create_time()
            squatted = replace(record, pid=other.pid, created_at=created_at)
            State(mark="none", supervisor=record, children=(squatted,)).write(state_path(settings))
            assert not is_ours(settings, "prefect-server", port)
        finally:
            other.kill()
            other.wait()
    assert not is_ours(Settings(home=tmp_path / "none"), "prefect-server", port)


def test_the_state_of_what_is_kept_running_is_written_for_the_service(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    path = tmp_path / "helpers.json"
    with make_supervisor() as supervisor:
        pid = _keep_running(supervisor, _program("helper", _SLEEPER))
        supervisor.check()
        assert list_degraded(read_helper_states(path)) == {}
        os.kill(pid, signal.SIGKILL)
        _check_until(
            supervisor, lambda: list_degraded(read_helper_states(path)) == {"helper": "waiting"}
        )
        _check_until(supervisor, lambda: list_degraded(read_helper_states(path)) == {})
    assert not path.exists()


def test_a_process_that_is_dropped_is_ended_and_stays_degraded_until_it_is_launched_again(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    with make_supervisor() as supervisor:
        service = _keep_running(supervisor, _program("service", _SLEEPER))
        supervisor.launch(_program("helper", _SLEEPER))
        pid = supervisor.find_record("helper").pid
        supervisor.drop(("helper", "worker"))
        supervisor.check()
        assert not _runs(pid)
        assert _runs(service)
        degraded = list_degraded(read_helper_states(tmp_path / "helpers.json"))
        assert degraded == {"helper": "waiting", "worker": "waiting"}
        _keep_running(supervisor, _program("helper", _SLEEPER))
        supervisor.check()
        assert list_degraded(supervisor.read_states()) == {"worker": "waiting"}
