"""A platform whose helpers do not start: real processes, and a service of a line."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from ecg_lib.operations.helper_states import list_degraded, read_helper_states
from ecg_lib.operations.settings import Settings
from flows.local.processes import Platform
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
