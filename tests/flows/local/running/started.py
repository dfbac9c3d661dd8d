"""A platform that was started by its command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ecg_lib.operations.processes.helper_states import HelperStatus
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses
from flows.local.servers.secret_files import read_secret
from flows.local.supervision.platform_status import read_status

ECG = "from flows.local.cli import main; main()"


API_KEY = "key-of-the-command-line"


PUBLIC = "https://ecg.example"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The platform of this module."""

    settings: Settings
    printed: Path
    supervisor: subprocess.Popen[bytes]

    @property
    def prefect(self) -> str:
        return find_addresses(self.settings).prefect

    @property
    def mlflow(self) -> str:
        return find_addresses(self.settings).mlflow

    @property
    def service(self) -> str:
        return find_addresses(self.settings).service

    def login(self, name: str) -> tuple[str, str]:
        found = read_secret(self.settings, name)
        return found.user, found.password

    def pid(self, name: str) -> int:
        return next(one.pid for one in read_status(self.settings) if one.name == name)

    def count_restarts(self, name: str) -> int:
        (status,) = [one for one in read_status(self.settings) if one.name == name]
        assert status.helper is not None
        return status.helper.restarts

    def is_whole(self, name: str) -> bool:
        """Return whether a process runs and is ready."""
        (status,) = [one for one in read_status(self.settings) if one.name == name]
        return status.helper is not None and status.helper.status is HelperStatus.RUNNING

    def call(self, path: str, body: Any = None) -> Any:  # noqa: ANN401  JSON
        """Call Prefect with the login."""
        url, auth = f"{self.prefect}/api{path}", self.login("prefect")
        answer = (
            httpx.get(url, auth=auth, timeout=30)
            if body is None
            else httpx.post(url, json=body, auth=auth, timeout=30)
        )
        return answer.raise_for_status().json()

    def ecg(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", ECG, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @property
    def environment(self) -> dict[str, str]:
        settings = self.settings
        return {
            **os.environ,
            "ECG_HOME": str(settings.home),
            "ECG_PREFECT_PORT": str(settings.prefect_port),
            "ECG_MLFLOW_PORT": str(settings.mlflow_port),
            "ECG_SERVICE_PORT": str(settings.service_port),
            "ECG_PUBLIC_ORIGINS": PUBLIC,
        }


def find_free_ports() -> dict[str, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(("prefect_port", "mlflow_port", "service_port"), ports, strict=True))
