"""Starts processes, watches and restarts them, and ends them with all that they started.

What runs is written to a state file, so that another shell can read and end it, and so that the
leftovers of a supervisor that was killed are found. Each child carries a mark in its environment
that its own children inherit: Prefect puts flow runs into sessions of their own, and once the
worker is gone neither a process group nor the parent's pid leads to them.
"""

from __future__ import annotations

import fcntl
import logging
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self, TextIO

import psutil

from ecg_lib.operations.processes.helper_states import (
    WRITE_INTERVAL_S,
    HelperState,
    HelperStatus,
    write_helper_states,
)
from flows.local.supervision.leftovers import Report, end_leftovers, kill_marked
from flows.local.supervision.liveness import Liveness
from flows.local.supervision.process_logs import bound_log, quote_end
from flows.local.supervision.process_state import (
    MARK,
    ProcessRecord,
    State,
    SupervisorError,
    find_descendants,
    is_alive,
    read_state,
    send_signal,
)
from flows.local.supervision.restarts import RestartPolicy, Restarts

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.2
_POLL_FAILED_START_S: Final = 5.0
_HUNG_AFTER_S: Final = 30.0
_START_LIMIT_S: Final = 180.0
"""A process that has not answered so long after its start hangs."""

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class AlreadyRunningError(SupervisorError):
    """Another supervisor with the same state file is alive."""


class ProcessEndedError(SupervisorError):
    """A process that must run has ended."""


class GivenUpError(ProcessEndedError):
    """A process has failed too often to be started again."""


class NotReadyError(SupervisorError):
    """A process did not become ready in its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to start.

    Parameters
    ----------
    name : str
        Its name in reports, in the state file and of its log.
    command : sequence of str
        Program and arguments.
    environment : Mapping of str to str
        All variables that it gets; the mark is added.
    address : str, optional
        Where it can be reached, for the state file.
    cwd : Path, optional
        Its working directory.
    passed : sequence of int
        Descriptors of open files that it gets.
    ends_with_children : bool
        Whether its children are asked to end together with it, because it does not do so itself.

    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    address: str | None = None
    cwd: Path | None = None
    passed: Sequence[int] = ()
    ends_with_children: bool = False


@dataclass(slots=True, kw_only=True)
class _Child:
    program: Program
    process: subprocess.Popen[bytes]
    record: ProcessRecord
    log: Path
    restarts: Restarts | None = None
    liveness: Liveness | None = None
    is_killed: bool = False
    """Whether it was killed because it hangs, and its end is waited for."""
    status: HelperStatus = HelperStatus.STARTING
    due_s: float = 0.0
    """When a process that waits is started."""

    def is_stopped(self) -> bool:
        """Return whether a signal has stopped the process that runs now."""
        return self.record.is_stopped()


class Supervisor:
    """The processes of one state file, ended in reverse order when the context is left.

    Inside the context SIGTERM and SIGHUP raise ``KeyboardInterrupt``, as SIGINT does. A signal that
    arrives while the processes are being ended cancels the time that they have for it.

    Parameters
    ----------
    state_path : Path
        Where to write what runs.
    states_path : Path
        Where to write the state of what is kept running, for the service.
    logs_dir : Path
        Where the output of each process goes, as ``<name>.log``.
    report : callable
        Called with one line for each event.
    grace_s : float
        How long a process may take to end by itself.

    """

    def __init__(
        self,
        state_path: Path,
        *,
        states_path: Path,
        logs_dir: Path,
        report: Report,
        grace_s: float = 15.0,
    ) -> None:
        self._state_path = state_path
        self._states_path = states_path
        self._logs_dir = logs_dir
        self._report = report
        self._grace_s = grace_s
        self._children: list[_Child] = []
        self._dropped: set[str] = set()
        self._states: dict[str, HelperState] = {}
        self._states_written_s = float("-inf")
        self._handlers: dict[signal.Signals, signal._HANDLER] = {}
        self._lock: TextIO | None = None
        me = psutil.Process()
        self._me = ProcessRecord(name="supervisor", pid=me.pid, created_at=me.create_time())
        self.mark = uuid.uuid4().hex

    def __enter__(self) -> Self:
        """Take over the state file and the signals.

        Raises
        ------
        AlreadyRunningError
            If another supervisor has the state file.

        """
        self._lock = _lock(self._state_path)
        try:
            self._take_over()
        except BaseException:
            self._lock.close()
            raise
        for number in _STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, signal.default_int_handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process and give the signals back."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._cancel_grace)
        try:
            self._stop()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            if self._lock is not None:
                self._lock.close()

    def _take_over(self) -> None:
        """End what a supervisor that was killed left, and write the state file."""
        state = read_state(self._state_path)
        if state is not None and state.supervisor.find() is not None:  # of code without the lock
            raise AlreadyRunningError(_describe_other(self._state_path, state))
        if state is not None:
            end_leftovers(state, report=self._report, grace_s=self._grace_s)
        self._write_state()

    def launch(self, program: Program) -> None:
        """Start a process; its end is an error until :meth:`keep_running` is called."""
        self._logs_dir.mkdir(parents=True, exist_ok=True)
        log = self._logs_dir / f"{program.name}.log"
        log.unlink(missing_ok=True)
        process, record = self._spawn(program, log)
        child = _Child(
            program=program,
            process=process,
            record=record,
            log=log,
        )
        self._children.append(child)
        self._dropped.discard(program.name)
        self._write_state()

    def keep_running(
        self,
        name: str,
        policy: RestartPolicy,
        *,
        is_ready: Callable[[], bool],
        is_alive: Callable[[], bool | None] | None = None,
        hung_after_s: float = _HUNG_AFTER_S,
        start_limit_s: float = _START_LIMIT_S,
    ) -> None:
        """Restart a process whenever it ends or hangs, from now on.

        Both questions are asked in a thread and must return in bounded time.

        Parameters
        ----------
        name : str
            Name of a process that is ready.
        policy : RestartPolicy
            The pauses, and when to give up.
        is_ready : callable
            Whether the process does its work; decides its status after a restart, and from when
            the time counts after which its failures are forgotten.
        is_alive : callable, optional
            Whether the process still answers, None when that is unknown, which counts neither
            way and extends the limit by up to a minute. `is_ready` when left out.
        hung_after_s : float
            A process that is silent for so long is killed, and started again.
        start_limit_s : float
            The same for a process that has not answered since its start.

        """
        child = self._find(name)
        child.restarts = Restarts(policy)
        child.liveness = Liveness(
            is_alive or is_ready,
            is_ready=is_ready,
            is_stopped=child.is_stopped,
            limit_s=hung_after_s,
            start_limit_s=start_limit_s,
        )
        child.liveness.note_ready()
        child.status = HelperStatus.RUNNING

    def run(self, program: Program, *, timeout_s: float) -> None:
        """Run a process to its end.

        Raises
        ------
        ProcessEndedError
            If its exit code is not 0, or a process that must run ends.
        NotReadyError
            If it takes too long.

        """
        self.launch(program)
        child = self._children[-1]
        deadline = time.monotonic() + timeout_s
        try:
            while child.process.poll() is None:
                self._check(except_for=child)
                if time.monotonic() > deadline:
                    msg = f"{program.name} must end in {timeout_s:.0f} s, and it still runs"
                    raise NotReadyError(msg + quote_end(child.log))
                time.sleep(_POLL_S)
            if child.process.returncode != 0:
                raise ProcessEndedError(_describe_end(child))
        finally:
            self._end(child)
            self._children.remove(child)
            self._write_state()

    def wait_until(self, name: str, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until a process is ready.

        Raises
        ------
        ProcessEndedError
            If a process that must run ends.
        NotReadyError
            If it takes too long.

        """
        child = self._find(name)
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                msg = f"{name} must be ready in {timeout_s:.0f} s, and it is not"
                raise NotReadyError(msg + quote_end(child.log))
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Restart what has ended and is kept running, and bound the logs.

        Raises
        ------
        ProcessEndedError
            If a process that is not kept running has ended, or one is given up; with its exit code
            and the end of its log.

        """
        self._check()

    def read_states(self) -> dict[str, HelperState]:
        """Return the state of each process that is kept running, or was dropped."""
        dropped = dict.fromkeys(self._dropped, HelperState(status=HelperStatus.WAITING))
        return dropped | {
            child.program.name: HelperState(status=child.status, restarts=child.restarts.total)
            for child in self._children
            if child.restarts is not None
        }

    def drop(self, names: Sequence[str]) -> None:
        """End processes that did not become ready, in reverse order, and go on without them."""
        for child in [one for one in reversed(self._children) if one.program.name in names]:
            self._end(child)
            self._children.remove(child)
        self._dropped.update(names)
        self._write_state()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all processes."""
        return tuple(child.program.name for child in self._children)

    def find_record(self, name: str) -> ProcessRecord:
        """Return the record of a process."""
        return self._find(name).record

    def _check(self, *, except_for: _Child | None = None) -> None:
        for child in self._children:
            if child is not except_for:
                self._look_after(child)
            bound_log(child.log)
        self._write_helper_states()

    def _write_helper_states(self) -> None:
        states, now_s = self.read_states(), time.monotonic()
        if states == self._states and now_s - self._states_written_s < WRITE_INTERVAL_S:
            return
        self._states, self._states_written_s = states, now_s
        try:
            write_helper_states(self._states_path, states)
        except OSError as error:  # the service then reports the supervisor as lost
            logger.warning("the state of the helpers cannot be written: %s", error.strerror)

    def _look_after(self, child: _Child) -> None:
        if child.status is HelperStatus.WAITING:
            if time.monotonic() >= child.due_s:
                self._restart(child)
        elif child.process.poll() is not None:
            self._handle_end(child)
        elif child.liveness is not None:
            self._look_at_answers(child, child.liveness)

    def _look_at_answers(self, child: _Child, liveness: Liveness) -> None:
        """Note that a process is ready after a restart, and kill one that hangs."""
        name, is_hung = child.program.name, liveness.is_hung()
        if child.status is HelperStatus.STARTING and liveness.is_ready:
            child.status = HelperStatus.RUNNING
            self._report(f"{name} runs again")
        if is_hung and not child.is_killed:
            found = "no longer answers" if liveness.has_answered else "has never answered"
            self._report(f"{name} runs and {found}; it is killed")
            child.process.kill()
            child.is_killed = True

    def _handle_end(self, child: _Child) -> None:
        if child.restarts is None or child.liveness is None:
            raise ProcessEndedError(_describe_end(child))
        # A start that came to nothing is a failure, however long it took, and whatever it showed.
        pause_s = child.restarts.note_end(ran_s=child.liveness.ready_for_s)
        if pause_s is None:
            msg = f"given up after {child.restarts.failures} failures in a row: "
            raise GivenUpError(msg + _describe_end(child))
        child.status, child.due_s = HelperStatus.WAITING, time.monotonic() + pause_s
        self._report(
            f"{child.program.name} ended with exit code {child.process.returncode}; "
            f"it is started again in {pause_s:g} s (log: {child.log})"
        )

    def _restart(self, child: _Child) -> None:
        try:
            child.process, child.record = self._spawn(child.program, child.log)
            child.status, child.is_killed = HelperStatus.STARTING, False
            if child.liveness is not None:
                child.liveness.reset()
            self._write_state()
        except OSError as error:  # no memory, no process or no disk left, which may pass
            child.due_s = time.monotonic() + _POLL_FAILED_START_S
            self._report(f"{child.program.name} cannot be started again: {error.strerror}")

    def _spawn(self, program: Program, log: Path) -> tuple[subprocess.Popen[bytes], ProcessRecord]:
        with log.open("ab") as output:  # appended to, so that it may be cut while it is written
            process = subprocess.Popen(
                list(program.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**program.environment, MARK: self.mark},
                cwd=program.cwd,
                pass_fds=tuple(program.passed),
                start_new_session=True,  # Ctrl-C in the terminal must reach only the supervisor
                umask=0o077,
            )
        return process, ProcessRecord(
            name=program.name,
            pid=process.pid,
            created_at=psutil.Process(process.pid).create_time(),
            address=program.address,
        )

    def _find(self, name: str) -> _Child:
        return next(child for child in self._children if child.program.name == name)

    def _stop(self) -> None:
        for child in reversed(self._children):
            if child.process.poll() is None:
                self._report(f"ending {child.program.name}")
            self._end(child)
        kill_marked(self.mark)
        self._states_path.unlink(missing_ok=True)
        self._state_path.unlink(missing_ok=True)

    def _end(self, child: _Child) -> None:
        descendants = find_descendants(child.record)
        started = time.monotonic()
        if child.process.poll() is None:
            child.process.terminate()
        is_asked = False
        while child.process.poll() is None or any(map(is_alive, descendants)):
            if not is_asked and (
                child.program.ends_with_children or child.process.returncode is not None
            ):
                send_signal(signal.SIGTERM, descendants)
                is_asked = True
            if time.monotonic() - started > self._grace_s:
                self._report(f"{child.program.name} did not end by itself and is killed")
                child.process.kill()
                send_signal(signal.SIGKILL, descendants)
                break
            time.sleep(0.05)
        child.process.wait()

    def _cancel_grace(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's
        self._grace_s = 0.0

    def _write_state(self) -> None:
        State(
            mark=self.mark,
            supervisor=self._me,
            children=tuple(child.record for child in self._children),
        ).write(self._state_path)


def _lock(state_path: Path) -> TextIO:
    """Take the lock of a state file; it falls with its process, and with the file.

    Raises
    ------
    AlreadyRunningError
        If another supervisor holds it.

    """
    state_path.parent.mkdir(parents=True, exist_ok=True)
    lock = state_path.with_suffix(".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise AlreadyRunningError(_describe_other(state_path, read_state(state_path))) from error
    return lock


def _describe_other(state_path: Path, state: State | None) -> str:
    other = (
        "another one, which starts or ends," if state is None else f"process {state.supervisor.pid}"
    )
    return f"only one supervisor may use {state_path}, and {other} does; `ecg down` ends it"


def _describe_end(child: _Child) -> str:
    return (
        f"{child.program.name} must keep running, and it ended with exit code "
        f"{child.process.returncode}{quote_end(child.log)}"
    )
