"""A platform whose helpers do not start: real processes, and a service of a line."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from ecg_lib.operations.processes.helper_states import list_degraded, read_helper_states
from ecg_lib.operations.settings import Settings
from flows.local import processes
from flows.local.processes import PREFECT_SERVER, Platform
from flows.local.servers.prefect_client import WorkerHeartbeats
from flows.local.supervision.platform_status import states_path
from flows.local.supervision.restarts import RestartPolicy
from flows.local.supervision.supervisor import Program, SupervisorError


@pytest.fixture
def broken(tmp_path: Path) -> Settings:
    """Settings of a home in which Prefect can keep nothing."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    (tmp_path / "prefect").write_text("no directory")
    names = ("prefect_port", "mlflow_port", "service_port")
    return Settings(home=tmp_path, **dict(zip(names, ports, strict=True)))


@pytest.mark.slow
def test_a_service_goes_on_when_the_helpers_do_not_start(broken: Settings) -> None:
    lines: list[str] = []
    with Platform(broken, report=lines.append) as platform:
        supervisor = platform._supervisor
        command = [sys.executable, "-c", "import time; time.sleep(300)"]
        supervisor.launch(Program(name="service", command=command, environment=os.environ))
        supervisor.keep_running("service", RestartPolicy(), is_ready=lambda: True)

        assert not platform.try_to_start()

        assert supervisor.names == ("service",)
        platform.check()
        assert set(list_degraded(read_helper_states(states_path(broken)))) == {
            *("prefect-server", "mlflow-server", "worker"),
        }
    assert "prefect-server must keep running" in lines[0]
    assert lines[0].endswith("the service goes on without Prefect, MLflow and the worker")


@pytest.mark.slow
def test_a_platform_without_a_service_does_not_start_without_its_helpers(
    broken: Settings,
) -> None:
    with (
        Platform(broken) as platform,
        pytest.raises(SupervisorError, match="prefect-server must keep running"),
    ):
        platform.try_to_start()


_PREFECT = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    n_asked = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Handler.n_asked += 1
        is_up = Handler.n_asked > int(sys.argv[2])
        body = b'[{"name": "local", "last_heartbeat_time": "of an earlier worker"}]'
        self.send_response(200 if is_up else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _launch_prefect(platform: Platform, settings: Settings, *, n_failing: int) -> WorkerHeartbeats:
    """Launch a Prefect server that fails at first, and return what asks it for heartbeats."""
    command = [sys.executable, "-c", _PREFECT, str(settings.prefect_port), str(n_failing)]
    platform._supervisor.launch(
        Program(name=PREFECT_SERVER, command=command, environment=os.environ)
    )
    platform._supervisor.wait_until(
        PREFECT_SERVER,
        lambda: platform._holds_port(PREFECT_SERVER, settings.prefect_port),
        timeout_s=60.0,
    )
    return WorkerHeartbeats(platform._read_heartbeat, lambda: 1)


def test_a_prefect_server_that_fails_after_a_deployment_is_asked_again(broken: Settings) -> None:
    with Platform(broken) as platform:
        heartbeats = _launch_prefect(platform, broken, n_failing=3)
        platform._ask_prefect(heartbeats.note_earlier)
        assert not heartbeats.has_started()
        assert heartbeats.has_beaten() is False


def test_a_prefect_server_that_goes_on_failing_is_an_error_that_says_how(
    broken: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_READY_TIMEOUT_S", 3.0)
    with Platform(broken) as platform:
        heartbeats = _launch_prefect(platform, broken, n_failing=10**6)
        with pytest.raises(SupervisorError, match=r"must answer, it failed with .*503"):
            platform._ask_prefect(heartbeats.note_earlier)
