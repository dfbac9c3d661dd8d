"""Delete old runs of our flows from Prefect's server.

The server that ``ecg up`` starts, and that of the containers, cleans its tables itself, logs and
events too. This is for a server of the site, on which other teams have flows: their runs stay,
except those of flows that have the name of one of ours.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
)

from ecg_lib.operations.settings import Settings

OUR_FLOWS: Final = (
    *("ingest-records", "train-sweep", "work-on-sweep", "promote-champion", "evaluate-champion"),
    *("package-bento", "release-service", "install-reference", "reproduce-reference", "pipeline"),
    *("monitor-drift", "watch-rollout", "rollback-champion", "apply-retention"),
    "analyze-recordings",
)
"""Names of the flows whose old runs are deleted, those of ``prefect.yaml``."""

_AT_ONCE: Final = 200
"""Most runs that Prefect returns at once."""

MOST_AT_A_TIME: Final = 20_000
"""A server with more is cleaned over several days, so that no run takes hours."""


@task(cache_policy=NO_CACHE)
def forget_old_flow_runs(settings: Settings, *, now: datetime) -> int:
    """Delete runs of our flows that ended longer ago than they are kept; return how many."""
    limit = now - timedelta(days=settings.prefect_runs_kept_days)
    ours = FlowFilter(name=FlowFilterName(any_=list(OUR_FLOWS)))
    old = FlowRunFilter(end_time=FlowRunFilterEndTime(before_=limit))
    n_deleted = 0
    with get_client(sync_client=True) as client:
        while n_deleted < MOST_AT_A_TIME:
            runs = client.read_flow_runs(flow_filter=ours, flow_run_filter=old, limit=_AT_ONCE)
            for run in runs:
                client.delete_flow_run(run.id)
            n_deleted += len(runs)
            if len(runs) < _AT_ONCE:
                break
    if n_deleted:
        get_run_logger().info(
            "deleted %d flow runs older than %d days; Prefect's server can do this itself, with "
            "their logs: set PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs there",
            n_deleted,
            settings.prefect_runs_kept_days,
        )
    return n_deleted
