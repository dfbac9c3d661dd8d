"""Names of flow runs: what a run does, and once it has ended, what it came to."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.doors.ui.artifacts import PREFECT_ERRORS, find_logger, shorten

_LONGEST: Final = 120


def name_run(name: str) -> None:
    """Name the run of the flow that calls this; it goes on when Prefect does not take the name.

    Args:
        name: Such as ``check 2 of v7: KEEP``; a long one is cut.
    """
    if flow_run.id is None:
        return  # called outside a run
    shown = shorten(" ".join(name.split()), longest=_LONGEST)
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), name=shown)
    except PREFECT_ERRORS as error:
        find_logger().warning(
            "the run keeps its name, it would be %r: %s", shown, str(error) or type(error).__name__
        )
