"""Delete old flow runs from Prefect's own tables, whichever server it is.

The server that ``ecg up`` starts, and that of the containers, clears its tables by itself, logs and
events too. This is for a server that does not, and shows that it was needed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterEndTime

from ecg_lib.operations.settings import Settings

_AT_ONCE: Final = 200
"""Most runs that Prefect gives in one answer."""

MOST_AT_A_TIME: Final = 20_000
"""A server that was never cleared is cleared in several days, so that no run takes hours."""


@task(cache_policy=NO_CACHE)
def forget_old_flow_runs(settings: Settings, *, now: datetime) -> int:
    """Delete flow runs that ended before the days that they are kept; return how many."""
    limit = now - timedelta(days=settings.prefect_runs_kept_days)
    old = FlowRunFilter(end_time=FlowRunFilterEndTime(before_=limit))
    n_deleted = 0
    with get_client(sync_client=True) as client:
        while n_deleted < MOST_AT_A_TIME:
            runs = client.read_flow_runs(flow_run_filter=old, limit=_AT_ONCE)
            for run in runs:
                client.delete_flow_run(run.id)
            n_deleted += len(runs)
            if len(runs) < _AT_ONCE:
                break
    if n_deleted:
        get_run_logger().info(
            "%d flow runs were older than %d days and are deleted; Prefect's server can do that by "
            "itself, with their logs: PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs",
            n_deleted,
            settings.prefect_runs_kept_days,
        )
    return n_deleted
