"""Children that die, hang or never become ready are started again, or given up."""

from __future__ import annotations

import os
import signal
import stat
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
from flows.local.supervision import liveness
from flows.local.supervision.liveness import BeatPipe
from flows.local.supervision.process_state import read_state
from flows.local.supervision.restarts import RestartPolicy
from flows.local.supervision.supervisor import ProcessEndedError, Program, Supervisor
from tests.flows.local.supervision.programs import SLEEPER, make_program, process_runs, wait_for

_QUICK = RestartPolicy(first_pause_s=0.05, longest_pause_s=0.1)


def _keep_running(supervisor: Supervisor, program: Program, policy: RestartPolicy = _QUICK) -> int:
    supervisor.launch(program)
    supervisor.keep_running(program.name, policy, is_ready=lambda: True)
    return supervisor.find_record(program.name).pid


def _check_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    def check() -> bool:
        supervisor.check()
        return condition()

    wait_for(check)


def test_a_process_that_is_killed_is_started_again(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    with make_supervisor() as supervisor:
        first = _keep_running(supervisor, make_program("helper", SLEEPER))
        other = _keep_running(supervisor, make_program("other", SLEEPER))
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
        assert process_runs(second)
        state = read_state(tmp_path / "processes.json")
        assert state is not None
        assert [one.pid for one in state.children] == [second, other]
        assert supervisor.read_states()["other"].restarts == 0
    assert lines[0].startswith("helper ended with exit code -9; it is started again in 0.05 s")
    assert lines[1] == "helper runs again"
    assert not process_runs(second)


def test_a_process_that_starts_again_is_degraded_until_it_answers(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    with make_supervisor() as supervisor:
        supervisor.launch(make_program("helper", SLEEPER))
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
    supervisor.launch(make_program("server", SLEEPER))
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
        supervisor.launch(make_program("service", SLEEPER))
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
        supervisor.launch(make_program("service", SLEEPER))
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
            program = make_program("service", _BEATING_HOST, str(beats.writer))
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
            supervisor.launch(make_program(name, SLEEPER))
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
        _keep_running(supervisor, make_program("service", "raise SystemExit(7)"), policy)
        with pytest.raises(ProcessEndedError, match=r"given up after 3 failures.*exit code 7"):
            _check_until(supervisor, lambda: False)
        assert supervisor.read_states()["service"].restarts == 2


def test_a_process_that_cannot_be_started_again_is_tried_later(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path, lines: list[str]
) -> None:
    directory = tmp_path / "cwd"
    directory.mkdir()
    with make_supervisor() as supervisor:
        program = replace(make_program("helper", SLEEPER), cwd=directory)
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
        supervisor.run(make_program("writer", code, str(tmp_path / "file")), timeout_s=20.0)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_the_state_of_what_is_kept_running_is_written_for_the_service(
    make_supervisor: Callable[..., Supervisor], tmp_path: Path
) -> None:
    path = tmp_path / "helpers.json"
    with make_supervisor() as supervisor:
        pid = _keep_running(supervisor, make_program("helper", SLEEPER))
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
        service = _keep_running(supervisor, make_program("service", SLEEPER))
        supervisor.launch(make_program("helper", SLEEPER))
        pid = supervisor.find_record("helper").pid
        supervisor.drop(("helper", "worker"))
        supervisor.check()
        assert not process_runs(pid)
        assert process_runs(service)
        degraded = list_degraded(read_helper_states(tmp_path / "helpers.json"))
        assert degraded == {"helper": "waiting", "worker": "waiting"}
        _keep_running(supervisor, make_program("helper", SLEEPER))
        supervisor.check()
        assert list_degraded(supervisor.read_states()) == {"worker": "waiting"}
