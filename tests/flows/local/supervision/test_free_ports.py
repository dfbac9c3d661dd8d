"""Ports that are taken."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecg_lib.operations.settings import Settings
from flows.local.processes import Platform
from flows.local.supervision.free_ports import PortTakenError, check_ports
from flows.local.supervision.platform_status import state_path


@pytest.fixture
def held_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def _free_ports() -> dict[str, int]:
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(("prefect_port", "mlflow_port", "service_port"), ports, strict=True))


def test_a_port_that_is_taken_is_named_with_its_holder_and_its_variable(
    held_port: int, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, **(_free_ports() | {"mlflow_port": held_port}))
    with pytest.raises(PortTakenError) as caught:
        check_ports(settings)
    message = str(caught.value)
    assert f"port {held_port} of the MLflow server is held by" in message
    assert f"(pid {os.getpid()})" in message
    assert "ECG_MLFLOW_PORT" in message
    assert "ECG_SERVICE_PORT" not in message


def test_all_taken_ports_are_named_and_nothing_is_started(held_port: int, tmp_path: Path) -> None:
    ports = _free_ports() | {"service_port": held_port, "prefect_port": held_port}
    platform = Platform(Settings(home=tmp_path, **ports))
    with pytest.raises(PortTakenError) as caught, platform:
        pass
    assert "ECG_PREFECT_PORT" in str(caught.value)
    assert "(ECG_SERVICE_PORT) is also that of the Prefect server" in str(caught.value)
    assert not state_path(Settings(home=tmp_path)).exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_port_of_mlflow_does_not_matter_when_mlflow_is_elsewhere(
    held_port: int, tmp_path: Path
) -> None:
    check_ports(
        Settings(
            home=tmp_path,
            mlflow_tracking_uri="http://mlflow.example:5000",
            **(_free_ports() | {"mlflow_port": held_port}),
        )
    )
