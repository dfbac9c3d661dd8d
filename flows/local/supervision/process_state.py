"""The state file of a supervisor, and the processes that it names."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from ecg_lib.errors import EcgError
from ecg_lib.records.atomic_files import write_whole

MARK: Final = "ECG_SUPERVISOR_MARK"
"""Variable that marks a process and all that it starts as ours."""

_CLOCK_TOLERANCE_S: Final = 2.0
"""The boot time is known to the second."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class SupervisorError(EcgError):
    """The processes cannot be started or watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """A process as the state file names it; the creation time rules out a reused pid.

    The system derives both times from the clock, and they move when it is set. What stays is how
    long after the boot the process was created.
    """

    name: str
    pid: int
    created_at: float
    address: str | None = None
    booted_at: float = field(default_factory=psutil.boot_time)
    """The boot time when the process was recorded."""

    def find(self) -> psutil.Process | None:
        """Find the process, if it is the one that was recorded and still runs."""
        try:
            process = psutil.Process(self.pid)
            if (
                abs(_find_uptime_at_start_s(process) - self._uptime_at_start_s) > _CLOCK_TOLERANCE_S
                or process.status() == psutil.STATUS_ZOMBIE
            ):
                return None
        except psutil.NoSuchProcess:
            return None
        return process

    @property
    def _uptime_at_start_s(self) -> float:
        return self.created_at - self.booted_at

    def to_json(self, booted_at: float) -> dict[str, Any]:
        """Return what the state file has of it, by the boot time that the file names."""
        content = asdict(self) | {"created_at": booted_at + self._uptime_at_start_s}
        del content["booted_at"]
        return content

    def is_stopped(self) -> bool:
        """Return whether a signal or a debugger has stopped the process."""
        process = self.find()
        try:
            return process is not None and process.status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def listens_on(self, port: int) -> bool:
        """Whether this process, and no other, has the port; the file's word is not enough."""
        process = self.find()
        if process is None:
            return False
        try:
            connections = process.net_connections(kind="tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False
        return any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The processes that a supervisor has started."""

    mark: str
    supervisor: ProcessRecord
    children: tuple[ProcessRecord, ...] = ()

    def write(self, path: Path) -> None:
        """Write the state file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        booted_at = psutil.boot_time()
        content = {
            "mark": self.mark,
            "supervisor": self.supervisor.to_json(booted_at),
            "children": [child.to_json(booted_at) for child in self.children],
            # Beside the processes: earlier code reads those strictly.
            "booted_at": booted_at,
            "boot_id": _read_boot_id(),
        }
        write_whole(path, json.dumps(content, indent=2))


def read_state(path: Path) -> State | None:
    """Read a state file.

    Raises
    ------
    SupervisorError
        If there is a file, and it is not a state file.

    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        booted_at = raw.get("booted_at", psutil.boot_time())
        if raw.get("boot_id", _read_boot_id()) != _read_boot_id():
            booted_at = float("inf")  # its processes ended with that boot
        return State(
            mark=raw["mark"],
            supervisor=ProcessRecord(**raw["supervisor"], booted_at=booted_at),
            children=tuple(
                ProcessRecord(**child, booted_at=booted_at) for child in raw["children"]
            ),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path} must be the state of the running processes, got {error!r}; remove it"
        raise SupervisorError(msg) from error


def _read_boot_id() -> str:
    """Return what tells one boot of this machine from another; empty where the system has none."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _find_uptime_at_start_s(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()


def find_marked(mark: str) -> list[psutil.Process]:
    """Find the living processes that carry a mark: those started with it, and what they started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone, or another user's, so not ours
    return found


def find_variable(name: str, *, mark: str) -> set[str]:
    """Find the values that a variable has in the living processes that carry a mark."""
    found = set()
    for process in find_marked(mark):
        try:
            value = process.environ().get(name)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if value is not None:
            found.add(value)
    return found


def find_descendants(record: ProcessRecord) -> list[psutil.Process]:
    """Find the descendants of a process that is alive."""
    process = record.find()
    try:
        return [] if process is None else process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send_signal(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    """Send a signal to the processes that still run."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            process.send_signal(number)
