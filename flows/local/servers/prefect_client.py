"""The platform's own calls to its Prefect server: work pool, worker, and runs without a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import httpx

from flows.doors.ui.deployments import Renamed, put_automations, replace_earlier
from flows.doors.ui.prefect_api import open_api
from flows.local.servers.gate import Credentials

_UNFINISHED: Final = ("RUNNING", "PENDING", "CANCELLING")


class WorkerHeartbeats:
    """Tells by its heartbeats whether a worker runs.

    A heartbeat is one that differs from the last one that was seen, so the clocks of the server
    and of this process need not agree.

    Args:
        read: Reads the last heartbeat, as :meth:`PrefectClient.read_heartbeat` does.
        find_start: Identifies the worker process that runs now.
    """

    def __init__(self, read: Callable[[], str | None], find_start: Callable[[], object]) -> None:
        self._read = read
        self._find_start = find_start
        self._seen: str | None = None
        self._start: object = None
        self._started_with: str | None = None
        """The last heartbeat of the process before."""

    def note_earlier(self) -> None:
        """Note the last heartbeat of an earlier worker; to be called before one is started.

        Raises:
            httpx.HTTPError: If the server fails.
        """
        self._seen = self._started_with = self._read()

    def has_beaten(self) -> bool | None:
        """Return whether there was a heartbeat since this was asked last; None if the server fails.

        A worker cannot send heartbeats to a server that fails, and sends the next one late.
        """
        try:
            found = self._read()
        except (httpx.HTTPError, ValueError):
            return None
        if self._note_start(found):
            return False
        is_new, self._seen = found != self._seen, found
        return is_new

    def has_started(self) -> bool:
        """Return whether the process that runs now has sent a heartbeat."""
        try:
            found = self._read()
        except (httpx.HTTPError, ValueError):
            return False
        return not self._note_start(found) and found != self._started_with

    def _note_start(self, found: str | None) -> bool:
        """Return whether the process was started again since the last question."""
        start = self._find_start()
        if self._start is None:
            self._start = start
        if start == self._start:
            return False
        self._start, self._seen, self._started_with = start, found, found
        return True


class PrefectClient:
    """Calls one Prefect server; to be used as a context.

    Args:
        address: Where the server answers, without ``/api``.
        credentials: Its login. Make sure that the server is ours before the first call.
        timeout_s: How long an answer may take.
        repeats: See :func:`flows.doors.ui.prefect_api.open_api`; checks ask again themselves.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials,
        timeout_s: float = 30.0,
        repeats: bool = True,
    ) -> None:
        self._client = open_api(
            f"{address}/api",
            auth=(credentials.user, credentials.password),
            timeout_s=timeout_s,
            repeats=repeats,
        )

    def __enter__(self) -> Self:
        """Open the connection."""
        self._client.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connection."""
        self._client.close()

    def create_work_pool(self, name: str) -> None:
        """Create a pool of processes, unless it exists."""
        # The worker fills in the template of the pool's type.
        answer = self._client.post("/work_pools/", json={"name": name, "type": "process"})
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()

    def finish_deploying(self) -> Renamed:
        """Replace deployments of earlier versions, and put the automations of the platform.

        Raises:
            httpx.HTTPError: If the server fails.
        """
        renamed = replace_earlier(self._client)
        put_automations(self._client)
        return renamed

    def read_heartbeat(self, pool: str, worker: str) -> str | None:
        """Read the time of the last heartbeat of a worker; None when it has sent none."""
        found = self._post(f"/work_pools/{pool}/workers/filter", {})
        return next((one["last_heartbeat_time"] for one in found if one["name"] == worker), None)

    def close_runs_without_process(
        self, alive: Iterable[str], *, older_than: timedelta, message: str
    ) -> list[str]:
        """Mark unfinished runs of deployments whose process is gone as crashed; return their names.

        They would hold their concurrency slots forever. Subflows of a run that is alive are left
        alone, and so are runs without a deployment, which somebody started by hand.

        Args:
            alive: Ids of the runs that have a process.
            older_than: Runs that entered their state later are left alone.
            message: Why, for the page of the run.
        """
        unfinished = self._post(
            "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": _UNFINISHED}}}}
        )
        if not unfinished:
            return []
        kept = self._add_subflows(set(alive))
        latest = datetime.now(UTC) - older_than
        closed = []
        for run in unfinished:
            is_ours = run["deployment_id"] is not None or run["parent_task_run_id"] is not None
            since = datetime.fromisoformat(run["state"]["timestamp"])
            if not is_ours or run["id"] in kept or since > latest:
                continue
            state = {"type": "CRASHED", "message": message}
            self._post(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
            closed.append(str(run["name"]))
        return closed

    def _add_subflows(self, ids: set[str]) -> set[str]:
        """Add the runs of subflows, and of theirs."""
        found, latest = set(ids), set(ids)
        while latest:
            children = self._post(
                "/flow_runs/filter",
                {"flow_runs": {"parent_flow_run_id": {"any_": sorted(latest)}}},
            )
            latest = {one["id"] for one in children} - found
            found |= latest
        return found

    def _post(self, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401  JSON
        return self._client.post(path, json=body).raise_for_status().json()
