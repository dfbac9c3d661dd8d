"""Faults around the supervisor of a platform: two at once, and a clock that is set."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil
import pytest

from flows.local.supervision.leftovers import end_running
from flows.local.supervision.process_state import read_state
from flows.local.supervision.supervisor import AlreadyRunningError, Program, Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

N_SUPERVISORS: Final = 4
SUPERVISOR: Final = """
import os, pathlib, sys, time
from flows.local.supervision.supervisor import AlreadyRunningError, Program, Supervisor
home = pathlib.Path(sys.argv[1])
supervisor = Supervisor(
    home / "processes.json", states_path=home / "helpers.json", logs_dir=home, report=print
)
print("waits", flush=True)
while not (home / "go").exists():
    time.sleep(0.001)
try:
    with supervisor:
        command = [sys.executable, "-c", "import time; time.sleep(300)"]
        supervisor.launch(Program(name="sleeper", command=command, environment=os.environ))
        print("runs", flush=True)
        while True:
            supervisor.check()
            time.sleep(0.1)
except AlreadyRunningError as error:
    print(error, flush=True)
except KeyboardInterrupt:
    pass
"""


@contextmanager
def _starting(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that waits for a file, and supervises one process from then on."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _read_outcome(process: subprocess.Popen[str]) -> str:
    """Read past what is said of the processes that a supervisor which was killed left."""
    while not (line := _read_line(process)).startswith(("runs", "only")):
        assert line, "it ended without a word"
    return line


@pytest.mark.parametrize("is_killed_before", [False, True])
def test_of_supervisors_that_start_at_once_one_runs(
    tmp_path: Path, *, is_killed_before: bool
) -> None:
    if is_killed_before:  # its state file and its process are left
        (tmp_path / "go").touch()
        with _starting(tmp_path) as killed:
            assert [_read_line(killed) for _ in range(2)] == ["waits", "runs"]
            killed.kill()
        (tmp_path / "go").unlink()
    with ExitStack() as stack:
        started = [stack.enter_context(_starting(tmp_path)) for _ in range(N_SUPERVISORS)]
        assert [_read_line(one) for one in started] == ["waits"] * N_SUPERVISORS
        (tmp_path / "go").touch()
        said = [_read_outcome(one) for one in started]
        assert said.count("runs") == 1, said
        refused = [line for line in said if line != "runs"]
        assert all("only one supervisor may use" in line for line in refused)
        state = read_state(tmp_path / "processes.json")
        assert state is not None
        assert state.supervisor.pid == started[said.index("runs")].pid
        (sleeper,) = state.children
        assert sleeper.find() is not None
        started[said.index("runs")].send_signal(signal.SIGTERM)
        started[said.index("runs")].wait(60)
    assert sleeper.find() is None
    assert not (tmp_path / "processes.json").exists()


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what moves the boot time, as the kernel does when the clock is set."""
    platform = psutil._psplatform
    real = platform.boot_time

    def move(seconds: float) -> None:
        monkeypatch.setattr(platform, "boot_time", lambda: real() + seconds)

    return move


@pytest.mark.parametrize("seconds", [-86400.0, 3600.0])
def test_a_clock_that_is_set_hides_no_process_from_status_down_or_a_second_supervisor(
    tmp_path: Path, set_clock: Callable[[float], None], seconds: float
) -> None:
    (tmp_path / "go").touch()
    path = tmp_path / "processes.json"
    with _starting(tmp_path) as process:
        assert [_read_line(process) for _ in range(2)] == ["waits", "runs"]
        set_clock(seconds)
        state = read_state(path)
        assert state is not None
        supervisor = state.supervisor.find()
        assert supervisor is not None
        assert supervisor.pid == process.pid
        (sleeper,) = state.children
        assert sleeper.find() is not None
        second = Supervisor(
            path, states_path=tmp_path / "helpers.json", logs_dir=tmp_path, report=print
        )
        with pytest.raises(AlreadyRunningError, match=f"process {process.pid} does"), second:
            pytest.fail("two supervisors use one state file")
        assert end_running(path)
        assert process.wait(60) == 0
        assert sleeper.find() is None


def test_a_process_is_known_as_the_same_before_and_after_the_clock_is_set(
    tmp_path: Path, set_clock: Callable[[float], None]
) -> None:
    lines: list[str] = []
    path = tmp_path / "processes.json"
    with Supervisor(
        path, states_path=tmp_path / "helpers.json", logs_dir=tmp_path, report=lines.append
    ) as supervisor:

        def launch(name: str) -> None:
            command = [sys.executable, "-c", "import time; time.sleep(300)"]
            supervisor.launch(Program(name=name, command=command, environment=os.environ))

        launch("first")
        set_clock(3600.0)
        launch("second")  # which writes both to the file, by the boot time of now
        for seconds in (3600.0, 0.0):
            set_clock(seconds)
            state = read_state(path)
            assert state is not None
            assert len(state.children) == 2
            assert all(one.find() is not None for one in (state.supervisor, *state.children))
        assert supervisor.find_record("first").find() is not None


def test_a_state_file_of_an_earlier_boot_names_no_process(tmp_path: Path) -> None:
    path = tmp_path / "processes.json"
    with Supervisor(path, states_path=tmp_path / "h.json", logs_dir=tmp_path, report=print):
        state = read_state(path)
        assert state is not None
        assert state.supervisor.find() is not None
        text = path.read_text()
        path.write_text(re.sub(r'"boot_id": "[^"]+"', '"boot_id": "another"', text))
        earlier = read_state(path)
        assert earlier is not None
        assert earlier.supervisor.find() is None
