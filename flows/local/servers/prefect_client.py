"""The platform's own calls to its Prefect server: work pool, worker, and runs without a process."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import httpx

from flows.local.servers.gate import Credentials

_UNFINISHED: Final = ("RUNNING", "PENDING", "CANCELLING")


class PrefectClient:
    """Calls one Prefect server; to be used as a context.

    Args:
        address: Where the server answers, without ``/api``.
        credentials: Its login. Make sure that the server is ours before the first call.
        timeout_s: How long an answer may take.
    """

    def __init__(self, address: str, *, credentials: Credentials, timeout_s: float = 30.0) -> None:
        self._client = httpx.Client(
            base_url=f"{address}/api",
            auth=(credentials.user, credentials.password),
            timeout=timeout_s,
            trust_env=False,  # a proxy does not reach loopback
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

    def has_worker_since(self, pool: str, worker: str, started_at: datetime) -> bool:
        """Whether a worker has polled a pool since a time."""
        found = self._post(f"/work_pools/{pool}/workers/filter", {})
        return any(
            one["name"] == worker
            and datetime.fromisoformat(one["last_heartbeat_time"]) >= started_at
            for one in found
        )

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
