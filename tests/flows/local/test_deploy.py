"""The real prefect.yaml on a real Prefect server without a worker; files for containers."""

from __future__ import annotations

import importlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ecg_lib.operations.settings import Settings
from flows.doors.addresses import PROJECT_DIR, find_addresses
from flows.local.processes import Platform

DEPLOYMENTS = {
    "ingest-records",
    "train-sweep",
    "promote-champion",
    "evaluate-champion",
    "package-bento",
    "release-service",
    "monitor-drift",
    "rollback-champion",
    "analyze-recordings",
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
    with Platform(settings) as platform, httpx.Client(base_url=api, trust_env=False) as client:
        platform._launch_prefect()
        platform._wait_for_prefect()
        platform._create_work_pool()
        platform._deploy()
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
        assert deployment["name"] == "ecg"
        path, _, name = deployment["entrypoint"].rpartition(".")
        assert name == module
        assert callable(getattr(importlib.import_module(path), name))
        assert deployment["work_pool_name"] == "ecg"
        assert deployment["description"]
        assert deployment["tags"]


@pytest.mark.slow
def test_monitor_drift_has_scheduled_runs_and_the_pipeline_has_none(
    deployed: tuple[Platform, httpx.Client],
) -> None:
    _, client = deployed
    deployments = _read_deployments(client)
    drift, pipeline = deployments["monitor-drift"], deployments["pipeline"]
    assert [schedule["active"] for schedule in drift["schedules"]] == [True]
    assert [schedule["active"] for schedule in pipeline["schedules"]] == [False]
    deadline = time.monotonic() + 30
    while not (runs := _read(client, "flow_runs")):
        assert time.monotonic() < deadline, "the active schedule made no run in 30 s"
        time.sleep(0.2)
    assert {run["deployment_id"] for run in runs} == {drift["id"]}


@pytest.mark.slow
def test_deploying_again_makes_no_duplicates(deployed: tuple[Platform, httpx.Client]) -> None:
    platform, client = deployed
    before = {flow: one["id"] for flow, one in _read_deployments(client).items()}
    platform._create_work_pool()
    platform._deploy()
    assert {flow: one["id"] for flow, one in _read_deployments(client).items()} == before
    assert _read(client, "automations") == []  # decisions go through the outbox
    schedules = [one["schedules"] for one in _read_deployments(client).values()]
    assert sum(map(len, schedules)) == 2


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml", "Dockerfile", "README.md"])
def test_files_for_containers_say_that_they_are_untested(name: str) -> None:
    head = (PROJECT_DIR / "deployments" / name).read_text().splitlines()[:4]
    assert any("Untested" in line for line in head)


def test_kubernetes_files_name_only_what_they_define() -> None:
    text = (PROJECT_DIR / "deployments" / "kubernetes.yaml").read_text()
    objects = [one for one in yaml.safe_load_all(text) if one is not None]
    defined = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in objects:
        if one["kind"] != "Deployment":
            continue
        pod = one["spec"]["template"]["spec"]
        assert (
            one["spec"]["template"]["metadata"]["labels"] == one["spec"]["selector"]["matchLabels"]
        )
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claim = volumes["home"]["persistentVolumeClaim"]["claimName"]
        assert ("PersistentVolumeClaim", claim) in defined
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    services = {name for kind, name in defined if kind == "Service"}
    assert services == {"prefect", "mlflow", "service"}


def test_compose_builds_targets_of_the_dockerfile() -> None:
    directory = PROJECT_DIR / "deployments"
    services = yaml.safe_load((directory / "compose.yaml").read_text())["services"]
    dockerfile = (directory / "Dockerfile").read_text()
    ours = [service for service in services.values() if "profiles" not in service]
    assert len(ours) == 5
    for service in ours:
        build = service["build"]
        assert f" AS {build['target']}\n" in dockerfile
        assert Path(directory / build["context"] / build["dockerfile"]).samefile(
            directory / "Dockerfile"
        )
