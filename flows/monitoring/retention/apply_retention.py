"""Flow ``apply-retention``: delete from all stores what is older than the settings keep it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from prefect import flow
from prefect.artifacts import create_table_artifact

from ecg_lib.operations.settings import read_settings
from flows.doors.ui.run_names import name_run
from flows.monitoring.evidence import open_log
from flows.monitoring.labels.kept_signals import sort_kept_signals
from flows.monitoring.retention.flow_runs import forget_old_flow_runs
from flows.monitoring.retention.sizes import KEPT_BY, measure_stores
from flows.monitoring.retention.stores import forget_old_files, forget_old_rows
from flows.monitoring.retention.training import forget_old_training

_MB: Final = 1e6


@flow(name="apply-retention")
def apply_retention() -> dict[str, Any]:
    """Delete old predictions, signals, bundles, models, runs, datasets, reports and flow runs.

    Whatever a release in the ledger, an alias or a running sweep needs stays. `monitor-drift` and
    `pipeline` do their share too; this flow is for sites where they seldom run.

    Returns:
        Bytes of each store before and after, and the number of flow runs that were deleted.
    """
    settings, now = read_settings(), datetime.now(UTC)
    before = measure_stores(settings)
    with open_log(settings) as log:
        sort_kept_signals(settings, log, now=now)
        forget_old_rows(settings, log, now=now, needed=timedelta(0))
    forget_old_files(settings)
    forget_old_training(settings)
    n_runs = forget_old_flow_runs(settings, now=now)
    after = measure_stores(settings)
    create_table_artifact(
        key="retention",
        table=[
            {
                "store": name,
                "before, MB": f"{before[name] / _MB:.1f}",
                "after, MB": f"{size / _MB:.1f}",
                "kept by": KEPT_BY[name],
            }
            for name, size in after.items()
        ],
        description=f"Retention of {now:%Y-%m-%d}; {n_runs} flow runs were deleted",
    )
    freed = sum(before.values()) - sum(after.values())
    name_run(f"retention: {freed / _MB:.1f} MB freed, {n_runs} flow runs deleted")
    return {"before": before, "after": after, "flow_runs": n_runs}
