"""The real prefect.yaml on a real Prefect server without a worker."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses
from flows.local.processes import Platform
from flows.local.servers.secret_files import read_secret

DEPLOYMENTS = {
    "ingest-records",
    "train-sweep",
    "work-on-sweep",
    "promote-champion",
    "evaluate-champion",
    "package-bento",
    "release-service",
    "monitor-drift",
    "rollback-champion",
    "watch-rollout",
    "analyze-recordings",
    "apply-retention",
    "install-reference",
    "reproduce-reference",
    "pipeline",
}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, httpx.Client]]:
    """Everything in prefect.yaml, deployed once."""
    ports = {}
    for name in ("prefect_port", "mlflow_port", "service_port"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports[name] = probe.getsockname()[1]
    settings = Settings(home=tmp_path_factory.mktemp("deploy"), **ports)
    api = f"{find_addresses(settings).prefect}/api"
    login = read_secret(settings, "prefect")
    with (
        Platform(settings) as platform,
        httpx.Client(
            base_url=api, auth=(login.user, login.password), trust_env=False, timeout=30.0
        ) as client,
    ):
        platform.start_prefect()
        yield platform, client


def _read(client: httpx.Client, what: str, body: dict[str, Any] | None = None) -> list[Any]:
    found: list[Any] = client.post(f"/{what}/filter", json=body or {}).raise_for_status().json()
    return found


def _read_deployments(client: httpx.Client) -> dict[str, dict[str, Any]]:
    flows = {flow["id"]: flow["name"] for flow in _read(client, "flows")}
    return {flows[one["flow_id"]]: one for one in _read(client, "deployments")}


@pytest.mark.slow
def test_every_flow_is_deployed_to_the_work_pool(
    deployed: tuple[Platform, httpx.Client],
) -> None:
    deployments = _read_deployments(deployed[1])
    assert set(deployments) == DEPLOYMENTS
    for flow, deployment in deployments.items():
        module = flow.replace("-", "_")
        assert deployment["name"] == flow
        path, _, name = deployment["entrypoint"].rpartition(".")
        assert name == module
        assert callable(getattr(importlib.import_module(path), name))
        assert deployment["work_pool_name"] == "ecg"
        assert deployment["description"]
        assert deployment["tags"]


@pytest.mark.slow
def test_every_parameter_has_a_description_and_a_default_that_is_not_none(
    deployed: tuple[Platform, httpx.Client],
) -> None:
    for flow, deployment in _read_deployments(deployed[1]).items():
        for name, described in deployment["parameter_openapi_schema"]["properties"].items():
            where = f"{flow}: {name}"
            assert described.get("description"), where
            assert described.get("default", "") is not None, where
            assert "anyOf" not in described, where  # which the form shows as a choice of types


@pytest.mark.slow
def test_monitoring_rollouts_and_retention_have_scheduled_runs_and_the_pipeline_has_none(
    deployed: tuple[Platform, httpx.Client],
) -> None:
    _, client = deployed
    deployments = _read_deployments(client)
    pipeline = deployments["pipeline"]
    names = ("monitor-drift", "watch-rollout", "apply-retention")
    scheduled = [deployments[name] for name in names]
    for one in scheduled:
        assert [schedule["active"] for schedule in one["schedules"]] == [True]
    assert [schedule["active"] for schedule in pipeline["schedules"]] == [False]
    deadline = time.monotonic() + 180
    wanted = {one["id"] for one in scheduled}
    while not wanted <= {run["deployment_id"] for run in _read(client, "flow_runs")}:
        assert time.monotonic() < deadline, "the active schedule made no run in 30 s"
        time.sleep(0.2)
    assert {run["deployment_id"] for run in _read(client, "flow_runs")} == wanted


@pytest.mark.slow
def test_deploying_again_makes_no_duplicates(deployed: tuple[Platform, httpx.Client]) -> None:
    platform, client = deployed
    before = {flow: one["id"] for flow, one in _read_deployments(client).items()}
    with platform._open_prefect() as prefect:
        prefect.create_work_pool("ecg")
    platform.deploy()
    assert {flow: one["id"] for flow, one in _read_deployments(client).items()} == before
    automations = _read(client, "automations")
    # Decisions go through the outbox: nothing that a drift check finds depends on these.
    assert {one["name"] for one in automations} == {
        "Cancel a drift check that hangs",
        "Check for drift after a release",
    }
    assert all(one["description"] for one in automations)
    schedules = [one["schedules"] for one in _read_deployments(client).values()]
    assert sum(map(len, schedules)) == 4


@pytest.mark.slow
def test_unfinished_runs_without_a_process_are_closed_and_others_are_not(
    deployed: tuple[Platform, httpx.Client],
) -> None:
    platform, client = deployed
    deployment = _read_deployments(client)["ingest-records"]["id"]
    ids = []
    for _ in range(3):
        run = client.post(f"/deployments/{deployment}/create_flow_run", json={}).json()
        ids.append(run["id"])
    for run_id in ids[:2]:
        client.post(
            f"/flow_runs/{run_id}/set_state", json={"state": {"type": "RUNNING"}, "force": True}
        ).raise_for_status()

    def states() -> list[str]:
        return [client.get(f"/flow_runs/{run_id}").json()["state"]["type"] for run_id in ids]

    with platform._open_prefect() as prefect:
        young = prefect.close_runs_without_process(
            [], older_than=timedelta(minutes=5), message="gone"
        )
        assert young == []
        assert states() == ["RUNNING", "RUNNING", "SCHEDULED"]
        closed = prefect.close_runs_without_process(ids[:1], older_than=timedelta(), message="gone")
    assert len(closed) == 1
    assert states() == ["RUNNING", "CRASHED", "SCHEDULED"]
