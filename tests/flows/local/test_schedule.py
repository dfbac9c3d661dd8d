"""A schedule that silently makes no run is a known failure of this stack (SQLAlchemy 2.1)."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ecg_lib.operations.settings import Settings
from flows.local.processes import Platform
from flows.local.servers.secret_files import read_secret
from flows.local.supervision.platform_status import read_status, state_path
from flows.local.supervision.process_state import read_state

pytestmark = pytest.mark.slow

_FLOW = """
import os

from prefect import flow


@flow(name="tick")
def tick() -> str:
    return os.environ["ECG_HOME"]
"""
_PREFECT_YAML = """
name: ticking
deployments:
  - name: ecg
    entrypoint: flows/tick.py:tick
    work_pool: {name: ecg}
    schedules:
      - interval: 10
        active: true
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.timeout(400)
def test_an_interval_schedule_produces_a_run_that_the_worker_completes(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "flows").mkdir(parents=True)
    (project / "flows" / "tick.py").write_text(_FLOW)
    (project / "prefect.yaml").write_text(_PREFECT_YAML)
    settings = Settings(
        home=tmp_path / "home",
        prefect_port=_free_port(),
        mlflow_port=_free_port(),
        service_port=_free_port(),
    )
    with Platform(settings, project_dir=project) as platform:
        platform.start()
        assert [one.name for one in read_status(settings)] == [
            *("supervisor", "prefect-server", "mlflow-server", "worker"),
        ]
        assert all(one.is_alive for one in read_status(settings))
        run = _wait_for_completed_run(settings, timeout_s=60.0)
        assert run["auto_scheduled"]
        platform.check()
        state = read_state(state_path(settings))
        assert state is not None
    assert not any(psutil.pid_exists(child.pid) for child in state.children)


def _wait_for_completed_run(settings: Settings, *, timeout_s: float) -> dict[str, Any]:
    url = f"http://127.0.0.1:{settings.prefect_port}/api/flow_runs/filter"
    wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    deadline = time.monotonic() + timeout_s
    login = read_secret(settings, "prefect")
    with httpx.Client(trust_env=False, auth=(login.user, login.password)) as client:
        while not (runs := client.post(url, json=wanted).raise_for_status().json()):
            assert time.monotonic() < deadline, f"the schedule made no run in {timeout_s} s"
            time.sleep(0.5)
    completed: dict[str, Any] = runs[0]
    return completed
