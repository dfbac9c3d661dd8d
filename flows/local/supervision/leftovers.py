"""End what a supervisor started, from another process or after it was killed."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from flows.local.supervision.process_state import (
    State,
    find_descendants,
    find_marked,
    read_state,
    send_signal,
)

logger = logging.getLogger(__name__)

Report = Callable[[str], None]


def end_running(state_path: Path, *, report: Report = logger.info, grace_s: float = 15.0) -> bool:
    """End a supervisor and all that it started, from another process.

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
    end_leftovers(read_state(state_path) or state, report=report, grace_s=grace_s)
    state_path.unlink(missing_ok=True)
    return True


def end_leftovers(state: State, *, report: Report, grace_s: float) -> None:
    """End the processes that a supervisor left behind."""
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


def kill_marked(mark: str) -> None:
    """Kill every process that carries a mark."""
    left = find_marked(mark)
    send_signal(signal.SIGKILL, left)
    psutil.wait_procs(left, timeout=5.0)
