"""Start flow runs of deployments and follow their logs, for the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from ecg_lib.errors import EcgError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

_POLL_S: Final = 1.0
_LAST_LINES_S: Final = 3.0
_TASK_DONE: Final = "Finished in state Completed()"
"""What Prefect logs for every task and flow that ends well; a stage says itself what it did."""


class FlowRunError(EcgError):
    """A flow run did not complete, or cannot be started."""


def run_and_follow(
    deployment: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    report: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Start a deployment and report the log of its run and its subflows until it ends.

    Args:
        deployment: Such as ``pipeline/ecg``.
        parameters: Parameters of the flow.
        report: Is given one line for each log entry.
        check: Called between looks; may raise to stop following.

    Raises:
        FlowRunError: If there is no such deployment, or the run does not complete.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        if isinstance(client.api_healthcheck(), httpx.ConnectError):
            msg = f"Prefect must be running at {client.api_url}, it is not; `ecg up` starts it"
            raise FlowRunError(msg)
        try:
            found = client.read_deployment_by_name(deployment)
        except ObjectNotFound as error:
            msg = f"there must be a deployment {deployment}, Prefect has none"
            raise FlowRunError(msg) from error
        run = client.create_flow_run_from_deployment(found.id, parameters=dict(parameters or {}))
        report(f"flow run {run.name} of {deployment}")
        for line in _follow(client, run.id, check):
            report(line)
        state = client.read_flow_run(run.id).state
    if state is None or not state.is_completed():
        what = "unknown" if state is None else f"{state.name}: {state.message}"
        msg = f"flow run {run.name} of {deployment} must complete, it is {what}"
        raise FlowRunError(msg)


def _follow(client: SyncPrefectClient, run_id: UUID, check: Callable[[], None]) -> Iterator[str]:
    names: dict[UUID, str] = {}
    seen: set[UUID] = set()
    since: datetime | None = None
    new: list[Any]
    is_over, new = False, []
    while not is_over or new:
        check()
        state = client.read_flow_run(run_id).state
        is_over = state is not None and state.is_final()
        if is_over:
            # The last lines come after the end: Prefect sends logs every two seconds.
            time.sleep(_LAST_LINES_S)
        for run in _family(client, run_id):
            names.setdefault(run.id, client.read_flow(run.flow_id).name)
        new = [log for log in _read_logs(client, list(names), since) if log.id not in seen]
        for log in new:
            seen.add(log.id)
            since = log.timestamp
            if log.message == _TASK_DONE:
                continue
            name = names[log.flow_run_id] if log.flow_run_id is not None else ""
            for line in log.message.splitlines():
                yield f"{log.timestamp.astimezone():%H:%M:%S} {name:<16} {line}"
        if not is_over:
            time.sleep(_POLL_S)


def _family(client: SyncPrefectClient, run_id: UUID) -> list[FlowRun]:
    """Find the run and the runs of its subflows."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    children = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id])
        )
    )
    return [client.read_flow_run(run_id), *children]


def _read_logs(client: SyncPrefectClient, run_ids: list[UUID], since: datetime | None) -> list[Any]:
    from prefect.client.schemas.filters import (
        LogFilter,
        LogFilterFlowRunId,
        LogFilterLevel,
        LogFilterTimestamp,
    )
    from prefect.client.schemas.sorting import LogSort

    wanted = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=run_ids),
        level=LogFilterLevel(ge_=20),
        timestamp=None if since is None else LogFilterTimestamp(after_=since),
    )
    logs: list[Any] = client.read_logs(log_filter=wanted, limit=200, sort=LogSort.TIMESTAMP_ASC)
    return logs
