"""Starts processes, watches them, and ends them with everything that they started.

What runs is written to a state file, so that another shell can ask and end it, and so that the
leftovers of a supervisor that was killed are found. Each child carries a mark in its environment
that its own children inherit: Prefect puts flow runs into sessions of their own, where neither a
process group nor the parent's pid leads to them once the worker is gone.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import psutil

from flows.local.process_state import (
    MARK,
    ProcessRecord,
    State,
    SupervisorError,
    find_descendants,
    find_marked,
    is_alive,
    read_state,
    send_signal,
)

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.2
_TAIL_LINES: Final = 15
_MAX_LOG_BYTES: Final = 64 * 2**20
"""A log that is larger is set aside; the one that was set aside before goes."""
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Report = Callable[[str], None]


class AlreadyRunningError(SupervisorError):
    """Another supervisor with the same state file is alive."""


class ProcessEndedError(SupervisorError):
    """A process that must run has ended."""


class NotReadyError(SupervisorError):
    """A process did not become ready in its time."""


@dataclass(slots=True, kw_only=True)
class _Child:
    record: ProcessRecord
    process: subprocess.Popen[bytes]
    log: Path
    ends_with_children: bool


class Supervisor:
    """The processes of one state file, ended in reverse order when the context is left.

    Inside the context SIGTERM and SIGHUP raise ``KeyboardInterrupt``, as SIGINT does. A signal
    that comes while the processes are being ended takes away their time to end by themselves.

    Parameters
    ----------
    state_path : Path
        Where to write what runs.
    logs_dir : Path
        Where the output of each process goes, as ``<name>.log``.
    environment : Mapping of str to str
        The environment of every process.
    report : callable
        Is given one line for each event.
    grace_s : float
        How long a process may take to end by itself.

    """

    def __init__(
        self,
        state_path: Path,
        *,
        logs_dir: Path,
        environment: Mapping[str, str],
        report: Report = logger.info,
        grace_s: float = 15.0,
    ) -> None:
        self._state_path = state_path
        self._logs_dir = logs_dir
        self._report = report
        self._grace_s = grace_s
        self._children: list[_Child] = []
        self._handlers: dict[signal.Signals, signal._HANDLER] = {}
        me = psutil.Process()
        self._me = ProcessRecord(name="supervisor", pid=me.pid, created_at=me.create_time())
        self._mark = uuid.uuid4().hex
        self._environment = {**environment, MARK: self._mark}

    def __enter__(self) -> Self:
        """Take over the state file and the signals.

        Raises
        ------
        AlreadyRunningError
            If another supervisor has the state file.

        """
        state = read_state(self._state_path)
        if state is not None and state.supervisor.find() is not None:
            msg = (
                f"only one supervisor may use {self._state_path}, and process "
                f"{state.supervisor.pid} does; `ecg down` ends it"
            )
            raise AlreadyRunningError(msg)
        if state is not None:
            _end_leftovers(state, report=self._report, grace_s=self._grace_s)
        self._write_state()
        for number in _STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, signal.default_int_handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process and give back the signals."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._hurry)
        try:
            self._stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def launch(
        self,
        name: str,
        command: Sequence[str],
        *,
        address: str | None = None,
        cwd: Path | None = None,
        ends_with_children: bool = False,
    ) -> None:
        """Start a process.

        Parameters
        ----------
        name : str
            What reports and the log file call it.
        command : sequence of str
            Program and arguments.
        address : str, optional
            Where it can be reached, for the state file.
        cwd : Path, optional
            Its working directory.
        ends_with_children : bool
            Whether its children are asked to end together with it, because it does not do so.

        """
        self._logs_dir.mkdir(parents=True, exist_ok=True)
        log = self._logs_dir / f"{name}.log"
        log.unlink(missing_ok=True)
        with log.open("ab") as output:  # appended to, so that it may be cut while it is written
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C in the terminal must reach only the supervisor
            )
        record = ProcessRecord(
            name=name,
            pid=process.pid,
            created_at=psutil.Process(process.pid).create_time(),
            address=address,
        )
        self._children.append(
            _Child(record=record, process=process, log=log, ends_with_children=ends_with_children)
        )
        self._write_state()

    def run(self, name: str, command: Sequence[str], *, cwd: Path, timeout_s: float) -> None:
        """Run a process to its end.

        Raises
        ------
        ProcessEndedError
            If it ends with another code than 0, or another process ends.
        NotReadyError
            If it takes too long.

        """
        self.launch(name, command, cwd=cwd, ends_with_children=True)
        child = self._children[-1]
        deadline = time.monotonic() + timeout_s
        while child.process.poll() is None:
            self._check(besides=child)
            if time.monotonic() > deadline:
                msg = f"{name} must end in {timeout_s:.0f} s, and it still runs{_tail(child.log)}"
                raise NotReadyError(msg)
            time.sleep(_POLL_S)
        if child.process.returncode != 0:
            raise ProcessEndedError(_describe_end(child))
        self._children.remove(child)
        self._write_state()

    def wait_until(self, name: str, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until a process is ready.

        Raises
        ------
        ProcessEndedError
            If a process ends.
        NotReadyError
            If it takes too long.

        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                tail = "".join(
                    _tail(child.log) for child in self._children if child.record.name == name
                )
                msg = f"{name} must be ready in {timeout_s:.0f} s, and it is not{tail}"
                raise NotReadyError(msg)
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Check that every process runs, and set aside logs that have become large.

        Raises
        ------
        ProcessEndedError
            If one has ended; with its code and the end of its log.

        """
        self._check()

    def _check(self, *, besides: _Child | None = None) -> None:
        for child in self._children:
            if child is not besides and child.process.poll() is not None:
                raise ProcessEndedError(_describe_end(child))
            _bound(child.log)

    def _stop(self) -> None:
        for child in reversed(self._children):
            if child.process.poll() is None:
                self._report(f"ending {child.record.name}")
            self._end(child)
        _kill_marked(self._mark)
        self._state_path.unlink(missing_ok=True)

    def _end(self, child: _Child) -> None:
        descendants = find_descendants(child.record)
        started = time.monotonic()
        if child.process.poll() is None:
            child.process.terminate()
        are_asked = False
        while child.process.poll() is None or any(map(is_alive, descendants)):
            if not are_asked and (child.ends_with_children or child.process.returncode is not None):
                send_signal(signal.SIGTERM, descendants)
                are_asked = True
            if time.monotonic() - started > self._grace_s:
                self._report(f"{child.record.name} did not end by itself and is killed")
                child.process.kill()
                send_signal(signal.SIGKILL, descendants)
                break
            time.sleep(0.05)
        child.process.wait()

    def _hurry(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's
        self._grace_s = 0.0

    def _write_state(self) -> None:
        State(
            mark=self._mark,
            supervisor=self._me,
            children=tuple(child.record for child in self._children),
        ).write(self._state_path)


def _bound(log: Path) -> None:
    """Set a large log aside; what is written between the copy and the cut is lost."""
    if not log.exists() or log.stat().st_size <= _MAX_LOG_BYTES:
        return
    try:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    except OSError as error:  # a full disk needs the cut all the more
        logger.warning("%s cannot be set aside: %s", log.name, error.strerror)
    os.truncate(log, 0)


def end_running(state_path: Path, *, report: Report = logger.info, grace_s: float = 15.0) -> bool:
    """End what a supervisor started, and the supervisor, from another process.

    Returns
    -------
    bool
        Whether there was anything to end.

    """
    state = read_state(state_path)
    if state is None:
        return False
    supervisor = state.supervisor.find()
    if supervisor is not None:
        report(f"asking the supervisor (pid {supervisor.pid}) to end")
        supervisor.terminate()
        # The supervisor gives each child its own time.
        psutil.wait_procs([supervisor], timeout=grace_s * (len(state.children) + 1))
        if state.supervisor.find() is not None:
            report("the supervisor did not end by itself and is killed")
            supervisor.kill()
    # It may have started more since the state was read.
    _end_leftovers(read_state(state_path) or state, report=report, grace_s=grace_s)
    state_path.unlink(missing_ok=True)
    return True


def _end_leftovers(state: State, *, report: Report, grace_s: float) -> None:
    found: dict[int, psutil.Process] = {process.pid: process for process in find_marked(state.mark)}
    for record in state.children:
        process = record.find()
        if process is not None:
            report(f"ending {record.name} (pid {record.pid}), left over from an earlier start")
            found |= {one.pid: one for one in (process, *find_descendants(record))}
    if not found:
        return
    send_signal(signal.SIGTERM, found.values())
    _, alive = psutil.wait_procs(list(found.values()), timeout=grace_s)
    send_signal(signal.SIGKILL, alive)
    psutil.wait_procs(alive, timeout=grace_s)
    report(f"{len(found)} processes of an earlier start were ended")


def _kill_marked(mark: str) -> None:
    left = find_marked(mark)
    send_signal(signal.SIGKILL, left)
    psutil.wait_procs(left, timeout=5.0)


def _describe_end(child: _Child) -> str:
    return (
        f"{child.record.name} must keep running, and it ended with exit code "
        f"{child.process.returncode}{_tail(child.log)}"
    )


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join([f"; the end of {log}:", *(f"  | {line}" for line in lines)])
