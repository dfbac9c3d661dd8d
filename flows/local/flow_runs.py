"""Start flow runs of deployments and follow their logs, for the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID, uuid4

from ecg_lib.errors import EcgError
from flows.doors.ui.deployments import find_deployment, name_deployment

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

T = TypeVar("T")

_POLL_S: Final = 1.0
_OUTAGE_S: Final = 120.0
"""How long Prefect's server may be gone while a run is followed."""
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
) -> UUID:
    """Start a deployment and report the log of its run and its subflows until it ends.

    Args:
        deployment: A flow, such as ``pipeline``, or a deployment of it, such as
            ``pipeline/pipeline``.
        parameters: Parameters of the flow.
        report: Called with one line for each log entry.
        check: Called between polls; may raise to stop following.

    Returns:
        Id of the run.

    Raises:
        FlowRunError: If Prefect does not answer or rejects the login, if there is no such
            deployment, or if the run does not complete.
    """
    deployment = name_deployment(deployment)
    with _open_prefect() as client:
        run = _start(client, deployment, parameters=dict(parameters or {}), check=check)
        report(f"flow run {run.name} of {deployment}")
        _follow_to_end(client, run, suffix=f" of {deployment}", report=report, check=check)
    return run.id


def follow_run(
    run_id: UUID, *, report: Callable[[str], None], check: Callable[[], None] = lambda: None
) -> None:
    """Report the log of a run that the platform started by itself, until it ends.

    Args:
        run_id: Id of the run.
        report: Called with one line for each log entry.
        check: Called between polls; may raise to stop following.

    Raises:
        FlowRunError: As :func:`run_and_follow`.
    """
    with _open_prefect() as client:
        run = _patiently(lambda: client.read_flow_run(run_id), check)
        _follow_to_end(client, run, suffix="", report=report, check=check)


@contextmanager
def _open_prefect() -> Iterator[SyncPrefectClient]:
    import httpx
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        try:
            yield client
        except httpx.TransportError as error:
            msg = f"Prefect must be running at {client.api_url}, it is not; `ecg up` starts it"
            raise FlowRunError(msg) from error
        except httpx.HTTPStatusError as error:
            msg = f"Prefect must accept the request, it answers {_explain(error.response)}"
            raise FlowRunError(msg) from error


def _follow_to_end(
    client: SyncPrefectClient,
    run: FlowRun,
    *,
    suffix: str,
    report: Callable[[str], None],
    check: Callable[[], None],
) -> None:
    for line in _follow(client, run.id, check):
        report(line)
    run = _patiently(lambda: client.read_flow_run(run.id), check)  # it has named itself by now
    state = run.state
    if state is None or not state.is_completed():
        what = "unknown" if state is None else f"{state.name}: {state.message}"
        msg = f"flow run {run.name}{suffix} must complete, it is {what}"
        raise FlowRunError(msg)


def pause_schedules(*, check: Callable[[], None] = lambda: None) -> None:
    """Switch off the schedules of all deployments.

    Args:
        check: Called between attempts, as long as Prefect is busy.

    Raises:
        FlowRunError: If Prefect does not answer or rejects the login.
    """
    with _open_prefect() as client:
        for deployment in _patiently(client.read_deployments, check):
            for schedule in deployment.schedules:
                switch_off = partial(
                    client.update_deployment_schedule, deployment.id, schedule.id, active=False
                )
                _patiently(switch_off, check)


def _start(
    client: SyncPrefectClient,
    deployment: str,
    *,
    parameters: dict[str, Any],
    check: Callable[[], None],
) -> FlowRun:
    from prefect.exceptions import ObjectNotFound

    try:
        found = _patiently(lambda: find_deployment(client, deployment), check, is_server_up=True)
    except ObjectNotFound as error:
        msg = f"there must be a deployment {deployment}, Prefect has none"
        raise FlowRunError(msg) from error
    key = str(uuid4())  # a run that was made although the answer was an error is not made twice
    return _patiently(
        lambda: client.create_flow_run_from_deployment(
            found.id, parameters=parameters, idempotency_key=key
        ),
        check,
        is_server_up=True,
    )


def _explain(response: httpx.Response) -> str:
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        return "401: the login is not that of this server; it is made by `ecg up` in ECG_HOME"
    return f"{response.status_code}: {response.text[:200]}"


def _patiently(ask: Callable[[], T], check: Callable[[], None], *, is_server_up: bool = False) -> T:
    """Ask Prefect, and ask again while it is busy or its server is started again.

    A server that must be up is not waited for when it does not answer at all.
    """
    import httpx

    deadline_s = time.monotonic() + _OUTAGE_S
    while True:
        try:
            return ask()
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if not _is_passing(error, is_server_up=is_server_up) or time.monotonic() > deadline_s:
                raise
            check()
            time.sleep(_POLL_S)


def _is_passing(error: httpx.TransportError | httpx.HTTPStatusError, *, is_server_up: bool) -> bool:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE  # its database is busy
    return not is_server_up


def _follow(client: SyncPrefectClient, run_id: UUID, check: Callable[[], None]) -> Iterator[str]:
    names: dict[UUID, str] = {}
    seen: set[UUID] = set()
    since: datetime | None = None
    new: list[Any]
    is_over, new = False, []
    while not is_over or new:
        check()
        state = _patiently(lambda: client.read_flow_run(run_id), check).state
        is_over = state is not None and state.is_final()
        if is_over:
            # The last lines come after the end: Prefect sends logs every two seconds.
            time.sleep(_LAST_LINES_S)
        _patiently(lambda: _name_family(client, run_id, names), check)
        logs = _patiently(lambda: _read_logs(client, list(names), since), check)  # noqa: B023  called at once
        new = [log for log in logs if log.id not in seen]
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


def _name_family(client: SyncPrefectClient, run_id: UUID, names: dict[UUID, str]) -> None:
    for run in _family(client, run_id):
        if run.id not in names:
            names[run.id] = client.read_flow(run.flow_id).name


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
