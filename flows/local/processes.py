"""The platform on one machine: the processes that ``ecg up`` starts, in order.

The service depends on none of the others. The Prefect server, the MLflow server and the worker are
helpers: one that ends is started again. How that is done is in ``flows.local.supervision``.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from ecg_lib.operations.processes.service_socket import open_listener
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import PROJECT_DIR, find_addresses
from flows.local.servers.prefect_client import PrefectClient, WorkerHeartbeats
from flows.local.servers.secret_files import MLFLOW, PREFECT, read_secret
from flows.local.supervision import environments
from flows.local.supervision.free_ports import check_ports
from flows.local.supervision.leftovers import Report
from flows.local.supervision.liveness import BeatPipe
from flows.local.supervision.platform_status import state_path, states_path
from flows.local.supervision.process_state import SupervisorError, find_variable
from flows.local.supervision.restarts import RestartPolicy
from flows.local.supervision.supervisor import GivenUpError, NotReadyError, Program, Supervisor

logger = logging.getLogger(__name__)

PREFECT_SERVER: Final = "prefect-server"
MLFLOW_SERVER: Final = "mlflow-server"
WORKER: Final = "worker"
SERVICE: Final = "service"
WORK_POOL: Final = "ecg"
_WORKER_NAME: Final = "local"

_READY_TIMEOUT_S: Final = 180.0
_HELPERS: Final = RestartPolicy()
_SERVICE: Final = RestartPolicy(first_pause_s=0.2, longest_pause_s=10.0, max_failures=8)
"""The platform is there to serve: without a service it ends, with the reason."""
_SILENT_S: Final = 30.0
_WORKER_SILENT_S: Final = 330.0
"""Prefect's worker sends a heartbeat every 30 s, and one that failed to reach the server nine times
pauses for 240 s, both up to 30 % longer."""
_SERVICE_SILENT_S: Final = 60.0
"""The host of the service shows every second that it runs, also while it starts workers."""
_SERVICE_START_S: Final = 400.0
"""A host tries four starts of a worker, 90 s each and 6 s to end it, before it gives up."""
_CHECK_TIMEOUT_S: Final = 5.0
"""Nothing is started again while an answer is waited for."""
_LOST_RUN_AFTER_S: Final = 60.0
_LOST_RUN_INTERVAL_S: Final = 20.0


class Platform:
    """The servers, the worker and the service, from `start` to the end of the context.

    Parameters
    ----------
    settings : Settings
        Where everything is.
    project_dir : Path
        The checkout, with ``prefect.yaml``.
    report : callable
        Called with one line for each event.

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
        self._runs_checked_s = float("-inf")
        self._listener: socket.socket | None = None
        """The socket of the service, opened here: while its host starts again, requests wait."""
        self._supervisor = Supervisor(
            state_path(settings),
            states_path=states_path(settings),
            logs_dir=settings.logs_dir,
            report=report,
        )

    def __enter__(self) -> Self:
        """End what a killed platform left, check the ports, and make the secrets."""
        self._supervisor.__enter__()
        self._beats = BeatPipe()
        try:
            check_ports(self._settings)
            for name in (PREFECT, MLFLOW):
                read_secret(self._settings, name)
        except BaseException:
            self._beats.close()
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
        if self._listener is not None:
            self._listener.close()
        self._beats.close()
        self._supervisor.__exit__(kind, error, traceback)

    def start(self) -> None:
        """Start the Prefect server, MLflow and a worker, and deploy every flow.

        Raises
        ------
        SupervisorError
            If a process ends or does not become ready; with the end of its log.

        """
        self._launch(PREFECT_SERVER)
        if self._settings.mlflow_tracking_uri is None:
            self._launch(MLFLOW_SERVER)
        self.start_prefect()
        self._start_worker()
        if self._settings.mlflow_tracking_uri is None:
            self._await(MLFLOW_SERVER, self._mlflow_answers, _HELPERS)
        self._report(f"MLflow: {self._addresses.mlflow}")

    def try_to_start(self) -> bool:
        """Start the helpers as :meth:`start` does, but go on without them if they fail.

        Returns
        -------
        bool
            Whether they run.

        """
        try:
            self.start()
        except SupervisorError as error:
            if SERVICE not in self._supervisor.names or isinstance(error, GivenUpError):
                raise
            self._report(f"{error}\nthe service goes on without Prefect, MLflow and the worker")
            self._supervisor.drop((PREFECT_SERVER, MLFLOW_SERVER, WORKER))
            return False
        return True

    def start_prefect(self) -> None:
        """Start the Prefect server alone, unless it was, and deploy every flow."""
        if PREFECT_SERVER not in self._supervisor.names:
            self._launch(PREFECT_SERVER)
        self._await(PREFECT_SERVER, self._prefect_answers, _HELPERS)
        self._report(f"Prefect: {self._addresses.prefect}")
        self._ask_prefect(self._create_work_pool)
        self._ask_prefect(
            lambda: self._close_lost_runs(
                older_than_s=0.0, message="The platform was ended during this run."
            )
        )
        self.deploy()

    def deploy(self) -> None:
        """Deploy every flow of ``prefect.yaml``; again changes deployments in place.

        Deployments with the names of earlier versions are replaced.
        """
        self._supervisor.run(
            Program(
                name="deploy",
                command=[sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
                environment=environments.make_deploy_environment(self._settings),
                cwd=self._project_dir,
                ends_with_children=True,
            ),
            timeout_s=_READY_TIMEOUT_S,
        )
        self._ask_prefect(self._finish_deploying)
        self._report("every flow of prefect.yaml is deployed")

    def start_service(self) -> None:
        """Start the prediction service and wait until it has a model.

        Raises
        ------
        SupervisorError
            If it ends or does not become ready; with the end of its log.
        ConfigurationError
            If its address cannot be used, or must not be public.

        """
        if self._listener is None:
            self._listener = open_listener(self._settings)
        self._launch(SERVICE)
        self._await(
            SERVICE,
            self._service_has_model,
            _SERVICE,
            is_alive=self._beats.has_beaten,
            hung_after_s=_SERVICE_SILENT_S,
            start_s=_SERVICE_START_S,
        )
        self._report(f"service: {self._addresses.service}")

    def check(self) -> None:
        """Restart what ended, and close flow runs whose process is gone.

        Raises
        ------
        ProcessEndedError
            If a process that does not belong to the helpers has ended, or the service is given up.

        """
        self._supervisor.check()
        now_s = time.monotonic()
        if now_s - self._runs_checked_s >= _LOST_RUN_INTERVAL_S:
            self._runs_checked_s = now_s
            try:
                self._close_lost_runs(
                    older_than_s=_LOST_RUN_AFTER_S, message="The process of this run is gone."
                )
            except httpx.HTTPError as error:  # while it is started again; tried later
                logger.info("lost flow runs cannot be looked for: %r", error)

    def _launch(self, name: str) -> None:
        module, make_environment, address = {
            PREFECT_SERVER: ("flows.local.servers.prefect_server",
                environments.make_prefect_server_environment, self._addresses.prefect),
            MLFLOW_SERVER: ("flows.local.servers.mlflow_server",
                environments.make_mlflow_server_environment, self._addresses.mlflow),
            SERVICE: ("bentos.host",
                environments.make_service_environment, self._addresses.service),
        }[name]  # fmt: skip
        passed: dict[str, int] = {}
        if name == SERVICE and self._listener is not None:
            passed = {"listener": self._listener.fileno(), "beats": self._beats.writer}
        self._supervisor.launch(
            Program(
                name=name,
                command=[
                    *(sys.executable, "-m", module),
                    *(f"--{option}={descriptor}" for option, descriptor in passed.items()),
                ],
                environment=make_environment(self._settings),
                address=address,
                cwd=PROJECT_DIR,
                passed=tuple(passed.values()),
            )
        )

    def _start_worker(self) -> None:
        heartbeats = WorkerHeartbeats(
            self._read_heartbeat, lambda: self._supervisor.find_record(WORKER).pid
        )
        self._ask_prefect(heartbeats.note_earlier)
        self._supervisor.launch(
            Program(
                name=WORKER,
                command=[
                    *(sys.executable, "-m", "prefect", "worker", "start"),
                    *("--pool", WORK_POOL, "--type", "process", "--name", _WORKER_NAME),
                ],
                environment=environments.make_flow_environment(self._settings),
                cwd=self._project_dir,
                ends_with_children=True,  # Prefect's worker waits for its flow runs instead
            )
        )
        self._await(
            WORKER,
            heartbeats.has_started,
            _HELPERS,
            is_alive=heartbeats.has_beaten,
            hung_after_s=_WORKER_SILENT_S,
            start_s=_WORKER_SILENT_S,
        )
        self._report(f"a worker serves the work pool {WORK_POOL}")

    def _await(
        self,
        name: str,
        is_ready: Callable[[], bool],
        policy: RestartPolicy,
        *,
        is_alive: Callable[[], bool | None] | None = None,
        hung_after_s: float = _SILENT_S,
        start_s: float = _READY_TIMEOUT_S,
    ) -> None:
        self._supervisor.wait_until(name, is_ready, timeout_s=start_s)
        self._supervisor.keep_running(
            name,
            policy,
            is_ready=is_ready,
            is_alive=is_alive,
            hung_after_s=hung_after_s,
            start_limit_s=start_s,
        )

    def _ask_prefect(self, ask: Callable[[], None]) -> None:
        """Ask the Prefect server until it answers: after a start or a deployment it is slow.

        Raises
        ------
        SupervisorError
            If it does not answer in time; with its last failure.

        """
        failures: list[Exception] = []

        def has_answered() -> bool:
            if not self._holds_port(PREFECT_SERVER, self._settings.prefect_port):
                return False  # and whatever does must not see its login
            try:
                ask()
            except (httpx.HTTPError, ValueError) as error:
                failures.append(error)
                return False
            return True

        try:
            self._supervisor.wait_until(PREFECT_SERVER, has_answered, timeout_s=_READY_TIMEOUT_S)
        except NotReadyError as error:
            if not failures:
                raise
            msg = f"the Prefect server must answer, it failed with {failures[-1]!r}: {error}"
            raise SupervisorError(msg) from failures[-1]

    def _create_work_pool(self) -> None:
        with self._open_prefect() as prefect:
            prefect.create_work_pool(WORK_POOL)

    def _finish_deploying(self) -> None:
        with self._open_prefect() as prefect:
            renamed = prefect.finish_deploying()
        for name in renamed.deployments:
            self._report(f"deployment {name} is named by its flow now")
        for name in renamed.automations:
            self._report(f"automation {name!r} refers to the new deployment")

    def _open_prefect(self, *, timeout_s: float = 30.0, repeats: bool = True) -> PrefectClient:
        return PrefectClient(
            self._addresses.prefect,
            credentials=read_secret(self._settings, PREFECT),
            timeout_s=timeout_s,
            repeats=repeats,
        )

    def _prefect_answers(self) -> bool:
        url = f"{self._addresses.prefect}/api/health"
        return self._holds_port(PREFECT_SERVER, self._settings.prefect_port) and _answers(url)

    def _mlflow_answers(self) -> bool:
        url = f"{self._addresses.mlflow}/health"
        return self._holds_port(MLFLOW_SERVER, self._settings.mlflow_port) and _answers(url)

    def _holds_port(self, name: str, port: int) -> bool:
        """Whether our process, not one that took its port, listens there."""
        is_there = name in self._supervisor.names
        return is_there and self._supervisor.find_record(name).listens_on(port)

    def _read_heartbeat(self) -> str | None:
        """Read the last heartbeat of the worker.

        Raises
        ------
        httpx.HTTPError
            If the server fails.

        """
        if not self._holds_port(PREFECT_SERVER, self._settings.prefect_port):
            msg = "the Prefect server does not listen"
            raise httpx.ConnectError(msg)  # and whatever does must not see its login
        with self._open_prefect(timeout_s=_CHECK_TIMEOUT_S, repeats=False) as prefect:
            return prefect.read_heartbeat(WORK_POOL, _WORKER_NAME)

    def _service_has_model(self) -> bool:
        try:
            answer = httpx.get(f"{self._addresses.service}/health", timeout=5.0, trust_env=False)
            return answer.status_code == httpx.codes.OK and bool(answer.json()["model_loaded"])
        except (httpx.HTTPError, ValueError):
            return False

    def _close_lost_runs(self, *, older_than_s: float, message: str) -> None:
        if not self._prefect_answers():
            return
        alive = find_variable("PREFECT__FLOW_RUN_ID", mark=self._supervisor.mark)
        with self._open_prefect(timeout_s=_CHECK_TIMEOUT_S, repeats=False) as prefect:
            closed = prefect.close_runs_without_process(
                alive, older_than=timedelta(seconds=older_than_s), message=message
            )
        for name in closed:
            self._report(f"flow run {name} has no process any more and is marked as crashed")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
