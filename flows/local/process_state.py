"""What a supervisor has started, as its state file says, and the processes that this means now."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from ecg_lib.errors import EcgError
from ecg_lib.records.atomic_files import write_whole

MARK: Final = "ECG_SUPERVISOR_MARK"
"""The variable by which a process and all that it starts are known as ours."""

_CLOCK_TOLERANCE_S: Final = 2.0
"""The kernel derives creation times from the boot time, which moves when the clock is set."""


class SupervisorError(EcgError):
    """The processes cannot be started as they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """A process as the state file knows it; the creation time tells it from a later pid."""

    name: str
    pid: int
    created_at: float
    address: str | None = None

    def find(self) -> psutil.Process | None:
        """Find the process, if it is the one that was recorded and still runs."""
        try:
            process = psutil.Process(self.pid)
            if (
                abs(process.create_time() - self.created_at) > _CLOCK_TOLERANCE_S
                or process.status() == psutil.STATUS_ZOMBIE
            ):
                return None
        except psutil.NoSuchProcess:
            return None
        return process


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a supervisor has started."""

    mark: str
    supervisor: ProcessRecord
    children: tuple[ProcessRecord, ...] = ()

    def write(self, path: Path) -> None:
        """Write the state file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), indent=2))


def read_state(path: Path) -> State | None:
    """Read a state file.

    Raises
    ------
    SupervisorError
        If there is a file, and it is not a state file.

    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return State(
            mark=raw["mark"],
            supervisor=ProcessRecord(**raw["supervisor"]),
            children=tuple(ProcessRecord(**child) for child in raw["children"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} must be the state of the running processes, got {error!r}; remove it"
        raise SupervisorError(msg) from error


def find_marked(mark: str) -> list[psutil.Process]:
    """Find the processes that were started with a mark, and what they started, whoever lives."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone, or another user's, so not ours
    return found


def find_descendants(record: ProcessRecord) -> list[psutil.Process]:
    """Find what a process has started, directly or not, as long as it lives."""
    process = record.find()
    try:
        return [] if process is None else process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended and was not collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send_signal(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    """Send a signal to those that still run."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile, as it should
            process.send_signal(number)
