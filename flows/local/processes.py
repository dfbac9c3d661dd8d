"""The processes of the platform on one machine: what `ecg up` starts, in order.

How processes are started, watched and ended is in ``flows.local.supervisor``.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import LOOPBACK, PROJECT_DIR, find_addresses
from flows.local.free_ports import check_ports
from flows.local.process_state import ProcessRecord, read_state
from flows.local.supervisor import Report, Supervisor, end_running

logger = logging.getLogger(__name__)

WORK_POOL: Final = "ecg"
WORKER: Final = "local"

_READY_TIMEOUT_S: Final = 180.0
_UNFINISHED: Final = ("RUNNING", "PENDING", "CANCELLING")
_NO_TELEMETRY: Final = {
    # Each library has its own idea of true.
    "DO_NOT_TRACK": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}
_QUIET: Final = {
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow's git library complains where git is not installed
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ten processes for features not used here
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PYTHONUNBUFFERED": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """What is known about one process."""

    name: str
    pid: int
    address: str | None
    is_alive: bool


class Platform:
    """The servers, the worker and the service, from `start` to the end of the context.

    Parameters
    ----------
    settings : Settings
        Where everything is.
    project_dir : Path
        The checkout, with ``prefect.yaml``.
    report : callable
        Is given one line for each event.

    Raises
    ------
    PortTakenError
        By ``with``, before anything is started, if a port is not free.
    AlreadyRunningError
        By ``with``, if a platform with the same home is alive.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        project_dir: Path = PROJECT_DIR,
        report: Report = logger.info,
    ) -> None:
        self._settings = settings
        self._project_dir = project_dir
        self._report = report
        self._addresses = find_addresses(settings)
        self._supervisor = Supervisor(
            state_path(settings),
            logs_dir=settings.logs_dir,
            environment=environment(settings),
            report=report,
        )

    def __enter__(self) -> Self:
        """End what a killed platform left, and check the ports."""
        self._supervisor.__enter__()
        try:
            check_ports(self._settings)
        except BaseException:
            self._supervisor.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process, with the processes that it started."""
        self._supervisor.__exit__(kind, error, traceback)

    def start(self) -> None:
        """Start the Prefect server, MLflow and a worker, and deploy every flow.

        Raises
        ------
        SupervisorError
            If a process ends or does not become ready; with the end of its log.

        """
        self._launch_prefect()
        self._launch_mlflow()
        self._wait_for_prefect()
        self._create_work_pool()
        self._close_unfinished_runs()
        self._deploy()
        self._start_worker()
        self._wait_for_mlflow()

    def start_service(self) -> None:
        """Start the prediction service and wait until it has a model.

        Raises
        ------
        SupervisorError
            If it ends or does not become ready; with the end of its log.

        """
        address = self._addresses.service
        self._supervisor.launch(
            "service",
            [sys.executable, "-m", "bentos.host"],
            address=address,
            cwd=self._project_dir,
        )
        self._supervisor.wait_until(
            "service", lambda: _service_has_model(address), timeout_s=_READY_TIMEOUT_S
        )
        self._report(f"service: {address}")

    def check(self) -> None:
        """Check that everything that was started runs.

        Raises
        ------
        ProcessEndedError
            If a process has ended; with the end of its log.

        """
        self._supervisor.check()

    def _launch_prefect(self) -> None:
        (self._settings.home / "prefect").mkdir(parents=True, exist_ok=True)
        self._supervisor.launch(
            "prefect-server",
            [sys.executable, "-m", "prefect", "server", "start"],
            address=self._addresses.prefect,
        )

    def _wait_for_prefect(self) -> None:
        health = f"{self._addresses.prefect}/api/health"
        self._supervisor.wait_until(
            "prefect-server", lambda: _answers(health), timeout_s=_READY_TIMEOUT_S
        )
        self._report(f"Prefect: {self._addresses.prefect}")

    def _launch_mlflow(self) -> None:
        if self._settings.mlflow_tracking_uri is not None:
            return
        directory = self._settings.mlflow_dir
        directory.mkdir(parents=True, exist_ok=True)
        self._supervisor.launch(
            "mlflow-server",
            [
                *(sys.executable, "-m", "mlflow", "server"),
                *("--host", LOOPBACK, "--port", str(self._settings.mlflow_port)),
                *("--workers", "1"),
                *("--backend-store-uri", self._settings.tracking_uri),
                *("--artifacts-destination", (directory / "artifacts").as_uri()),
            ],
            address=self._addresses.mlflow,
            cwd=directory,
        )

    def _wait_for_mlflow(self) -> None:
        if self._settings.mlflow_tracking_uri is None:
            health = f"{self._addresses.mlflow}/health"
            self._supervisor.wait_until(
                "mlflow-server", lambda: _answers(health), timeout_s=_READY_TIMEOUT_S
            )
        self._report(f"MLflow: {self._addresses.mlflow}")

    def _create_work_pool(self) -> None:
        # The worker fills in the template of the pool's type.
        answer = self._post_prefect("/work_pools/", {"name": WORK_POOL, "type": "process"})
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()

    def _close_unfinished_runs(self) -> None:
        """Mark runs that died with an earlier platform: they would hold their slots for ever."""
        answer = self._post_prefect(
            "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": _UNFINISHED}}}}
        )
        for run in answer.raise_for_status().json():
            state = {"type": "CRASHED", "message": "The platform was ended during this run."}
            self._post_prefect(
                f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True}
            ).raise_for_status()
            self._report(f"flow run {run['name']} of an earlier start is marked as crashed")

    def _deploy(self) -> None:
        self._supervisor.run(
            "deploy",
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=self._project_dir,
            timeout_s=_READY_TIMEOUT_S,
        )
        self._report("every flow of prefect.yaml is deployed")

    def _start_worker(self) -> None:
        started_at = datetime.now(UTC)
        self._supervisor.launch(
            "worker",
            [
                *(sys.executable, "-m", "prefect", "worker", "start"),
                *("--pool", WORK_POOL, "--type", "process", "--name", WORKER),
            ],
            cwd=self._project_dir,
            ends_with_children=True,  # Prefect's worker waits for its flow runs instead
        )
        self._supervisor.wait_until(
            "worker", lambda: self._has_worker_since(started_at), timeout_s=_READY_TIMEOUT_S
        )
        self._report(f"a worker serves the work pool {WORK_POOL}")

    def _has_worker_since(self, started_at: datetime) -> bool:
        answer = self._post_prefect(f"/work_pools/{WORK_POOL}/workers/filter", {})
        return any(
            worker["name"] == WORKER
            and datetime.fromisoformat(worker["last_heartbeat_time"]) >= started_at
            for worker in answer.raise_for_status().json()
        )

    def _post_prefect(self, path: str, body: dict[str, Any]) -> httpx.Response:
        with _local_client(timeout_s=30.0) as client:
            return client.post(f"{self._addresses.prefect}/api{path}", json=body)


def state_path(settings: Settings) -> Path:
    """Where the state of the running platform is."""
    return settings.home / "processes.json"


def environment(settings: Settings) -> dict[str, str]:
    """Make the environment of every process of the platform.

    Every setting is spelt out, because flow runs start in other working directories. What the
    caller's environment says about threads and about Prefect's database is kept.
    """
    given = {
        f"ECG_{name.upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value in settings.model_dump(mode="json").items()
        if value is not None
    }
    # Many small arrays in several processes: threads in BLAS only wait for each other.
    threads = {
        name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    prefect_home = settings.home / "prefect"
    cache = settings.home / "cache"
    no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY"), LOOPBACK, "localhost"]))
    return {
        **os.environ,
        **_NO_TELEMETRY,
        **_QUIET,
        **threads,
        **given,
        "BENTOML_HOME": str(settings.bentoml_home),
        "KERAS_HOME": str(cache / "keras"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PREFECT_API_URL": f"{find_addresses(settings).prefect}/api",
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_PROFILES_PATH": str(prefect_home / "profiles.toml"),
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(
            settings.prefect_runs_kept_days * 86_400
        ),
        # The UI finds the server by the setting and ignores the server's --port.
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
    }


def read_status(settings: Settings) -> tuple[ProcessStatus, ...]:
    """Read which processes of the platform there should be, and whether they are alive."""
    state = read_state(state_path(settings))
    if state is None:
        return ()
    return tuple(_status(record) for record in (state.supervisor, *state.children))


def end_platform(settings: Settings, *, report: Report = logger.info) -> bool:
    """End the platform of these settings from another process; whether there was one."""
    return end_running(state_path(settings), report=report)


def _status(record: ProcessRecord) -> ProcessStatus:
    return ProcessStatus(
        name=record.name,
        pid=record.pid,
        address=record.address,
        is_alive=record.find() is not None,
    )


def _local_client(*, timeout_s: float) -> httpx.Client:
    return httpx.Client(timeout=timeout_s, trust_env=False)  # a proxy does not reach loopback


def _answers(url: str) -> bool:
    try:
        with _local_client(timeout_s=5.0) as client:
            return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _service_has_model(address: str) -> bool:
    try:
        with _local_client(timeout_s=5.0) as client:
            answer = client.get(f"{address}/health")
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK and bool(answer.json()["model_loaded"])
