"""The state of the helpers beside the service (Prefect, MLflow, worker), as its health shows it.

The platform's supervisor writes the file; the service reads it and depends on none of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ecg_lib.records.atomic_files import write_whole

FILE: Final = "helpers.json"
SUPERVISOR: Final = "supervisor"
WRITE_INTERVAL_S: Final = 5.0
"""Longest time between two writes of a supervisor that is alive."""
STALE_AFTER_S: Final = 30.0
"""A file that is older was left by a supervisor that was killed or hangs."""


class HelperStatus(StrEnum):
    """States of a helper."""

    RUNNING = "running"
    STARTING = "starting"
    """Started again; it does not answer yet."""
    WAITING = "waiting"
    """Ended; the next start is due after a pause."""
    LOST = "lost"
    """The supervisor no longer watches the helpers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperState:
    """A helper and how often it was started again."""

    status: HelperStatus
    restarts: int = 0


def write_helper_states(
    path: Path, states: Mapping[str, HelperState], *, now_s: float | None = None
) -> None:
    """Write the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "written_at_s": time.time() if now_s is None else now_s,
        "helpers": {name: asdict(state) for name, state in states.items()},
    }
    write_whole(path, json.dumps(document, indent=2))


def read_helper_states(path: Path, *, now_s: float | None = None) -> dict[str, HelperState]:
    """Read the state of each helper and of the supervisor; none where no supervisor runs.

    When the file is stale or cannot be read, the supervisor is lost.
    """
    lost = {SUPERVISOR: HelperState(status=HelperStatus.LOST)}
    watching = {SUPERVISOR: HelperState(status=HelperStatus.RUNNING)}
    try:
        document = json.loads(path.read_bytes())
        states = {
            name: HelperState(status=HelperStatus(state["status"]), restarts=int(state["restarts"]))
            for name, state in document["helpers"].items()
        }
        age_s = (time.time() if now_s is None else now_s) - float(document["written_at_s"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return lost
    return states | (lost if age_s > STALE_AFTER_S else watching)


def list_degraded(states: Mapping[str, HelperState]) -> dict[str, str]:
    """Return the helpers that do not run, each with its status."""
    return {
        name: state.status.value
        for name, state in states.items()
        if state.status is not HelperStatus.RUNNING
    }
