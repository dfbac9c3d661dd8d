"""Run the batches of a flow on a Dask cluster; the only door to Dask.

Prefect's Dask runner is used without a flow of its own, whose parameters a million paths would be.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ecg_lib.errors import ConfigurationError

if TYPE_CHECKING:
    from prefect import Task
    from prefect_dask.task_runners import DaskTaskRunner

Job = TypeVar("Job")
Result = TypeVar("Result")

BATCHES_A_PROCESS: Final = 2
"""Batches that are with the cluster for each of its processes: one runs, one waits."""

_CONNECT_S: Final = 20.0

_NO_PAGES: Final[dict[str, list[str]]] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
"""A cluster of ours shows its state to Prefect, and to nobody by HTTP."""


class WorkerDiedError(Exception):
    """The processes that ran a job died, several in a row."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that runs tasks."""

    _runner: DaskTaskRunner

    def count_processes(self) -> int:
        """Count the processes that can run a task now; clusters grow and shrink."""
        client: Any = self._runner.client  # its methods have no types
        return sum(client.nthreads().values())

    def run_bounded(
        self, task: Task[Any, Result], todo: deque[Job], *, name: str
    ) -> Iterator[tuple[Job, Result | Exception]]:
        """Run a task for each job, with few of them in the cluster at a time.

        Args:
            task: The task to run.
            todo: Jobs; they are taken from its left, and more may be added meanwhile.
            name: Name of the parameter that takes the job.

        Yields:
            A job that has ended, and its result or error: `WorkerDiedError` when the processes
            that ran it died.
        """
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        running: dict[Any, Job] = {}
        while todo or running:
            limit = BATCHES_A_PROCESS * max(1, self.count_processes())
            while todo and len(running) < limit:
                job = todo.popleft()
                future = self._runner.submit(task, parameters={name: job})
                running[future.task_run_id] = job
                future.add_done_callback(ended.put)
            future = ended.get()
            yield running.pop(future.task_run_id), _outcome(future)


def _outcome(future: Any) -> Any:  # noqa: ANN401  the future of any task
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return WorkerDiedError(f"the processes that ran it died: {error}")
    except Exception as error:  # noqa: BLE001  the caller decides about each
        return error


@contextmanager
def open_cluster(address: str | None, *, processes: int) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine, encrypted, for as long as the block.

    Args:
        address: Address of a Dask scheduler, such as `tls://host:8786`.
        processes: Processes of a cluster that is started.

    Raises:
        ConfigurationError: If Dask is not installed, or no scheduler answers.
    """
    try:
        import dask
        from distributed import LocalCluster
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        msg = (
            "analyze-recordings needs Prefect's Dask runner, which is not installed "
            f"({error.name}): pip install 'ecg-arrhythmia-mlops[scale]', or make setup"
        )
        raise ConfigurationError(msg) from error
    if address:
        runner = DaskTaskRunner(address=address, client_kwargs={"timeout": _CONNECT_S})
    else:
        runner = DaskTaskRunner(
            cluster_class=LocalCluster,
            cluster_kwargs={
                "n_workers": processes,
                "threads_per_worker": 1,
                "host": "127.0.0.1",
                "dashboard_address": "127.0.0.1:0",
                "memory_limit": 0,  # the analysis is in processes of its own
                "security": True,  # else any user of this machine may run code in it
            },
        )
    with dask.config.set(_NO_PAGES), runner:
        try:
            Cluster(runner).count_processes()
        except OSError as error:
            msg = f"ECG_DASK_ADDRESS must name a Dask scheduler, none answers at {address}: {error}"
            raise ConfigurationError(msg) from error
        yield Cluster(runner)
