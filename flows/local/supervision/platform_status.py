"""Read which processes of a platform run, and end them, from another process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ecg_lib.operations.processes.helper_states import (
    FILE,
    SUPERVISOR,
    HelperState,
    read_helper_states,
)
from ecg_lib.operations.settings import Settings
from flows.local.supervision.leftovers import Report, end_running
from flows.local.supervision.process_state import ProcessRecord, read_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """The status of one process."""

    name: str
    pid: int
    address: str | None
    is_alive: bool
    helper: HelperState | None = None


def state_path(settings: Settings) -> Path:
    """Where the state of the running platform is."""
    return settings.home / "processes.json"


def read_status(settings: Settings) -> tuple[ProcessStatus, ...]:
    """Read which processes of the platform there should be, and whether they are alive."""
    state = read_state(state_path(settings))
    if state is None:
        return ()
    helpers = read_helper_states(states_path(settings))
    return tuple(_status(record, helpers) for record in (state.supervisor, *state.children))


def is_ours(settings: Settings, name: str, port: int) -> bool:
    """Whether a server of this platform, and not a foreign process, has its port.

    To be asked before a secret is sent there.
    """
    state = read_state(state_path(settings))
    records = () if state is None else state.children
    return any(record.name == name and record.listens_on(port) for record in records)


def end_platform(settings: Settings, *, report: Report = logger.info) -> bool:
    """End the platform of these settings from another process; return whether there was one."""
    is_ended = end_running(state_path(settings), report=report)
    states_path(settings).unlink(missing_ok=True)
    return is_ended


def states_path(settings: Settings) -> Path:
    """Where the state of the helpers is, for the service."""
    return settings.serving_dir / FILE


def _status(record: ProcessRecord, helpers: dict[str, HelperState]) -> ProcessStatus:
    return ProcessStatus(
        name=record.name,
        pid=record.pid,
        address=record.address,
        is_alive=record.find() is not None,
        helper=None if record.name == SUPERVISOR else helpers.get(record.name),
    )
