"""Files for containers: accepted by the official schemas, consistent, closed, and honest."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecg_lib.operations.keys.key_files import read_own_key
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import PROJECT_DIR
from flows.local.supervision.environments import make_prefect_server_environment
from tests.object_store.server import ObjectServer

SCHEMA = "1.34"
DIRECTORY = PROJECT_DIR / "deployments"
GATED = {
    "prefect": "flows.local.servers.prefect_server",
    "mlflow": "flows.local.servers.mlflow_server",
}


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    text = (DIRECTORY / "kubernetes.yaml").read_text()
    return [one for one in yaml.safe_load_all(text) if one is not None]


@pytest.fixture(scope="module")
def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in objects
        if one["kind"] == "Deployment"
    }


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DIRECTORY / "compose.yaml").read_text())[
        "services"
    ]
    return found


def test_files_for_containers_say_what_was_run_and_what_was_validated() -> None:
    files = [one for one in DIRECTORY.rglob("*") if one.suffix in {".yaml", ".yml", ".md", ".sh"}]
    for path in [*files, DIRECTORY / "Dockerfile"]:
        text = path.read_text()
        assert "untested" not in text.lower(), path.name
    readme = (DIRECTORY / "README.md").read_text()
    for name in re.findall(r"`(tests/[\w/.]+)`", readme):
        assert (PROJECT_DIR / name).exists(), name
    assert "no image was built and none of them has run these files" in readme


def test_kubernetes_files_name_only_what_they_define(
    objects: list[dict[str, Any]], pods: dict[str, dict[str, Any]]
) -> None:
    defined = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in objects:
        if one["kind"] == "Deployment":
            template = one["spec"]["template"]
            assert template["metadata"]["labels"] == one["spec"]["selector"]["matchLabels"]
    for pod in pods.values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in defined
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert {name for kind, name in defined if kind == "Service"} == {"prefect", "mlflow", "service"}


@pytest.fixture(scope="module")
def replicas() -> dict[tuple[str, str], dict[str, Any]]:
    text = (DIRECTORY / "replicas.yaml").read_text()
    found = [one for one in yaml.safe_load_all(text) if one is not None]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def test_the_official_schema_of_kubernetes_accepts_the_replicas(
    replicas: dict[tuple[str, str], dict[str, Any]],
) -> None:
    import kubernetes_validate  # noqa: PLC0415  it imports jsonschema, see below

    for one in replicas.values():
        kubernetes_validate.validate(one, SCHEMA, strict=True)
    template = replicas["Deployment", "replica"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert replicas["Deployment", "replica"]["spec"]["selector"]["matchLabels"] == labels
    assert replicas["PodDisruptionBudget", "replica"]["spec"]["selector"]["matchLabels"] == labels
    assert replicas["NetworkPolicy", "replica"]["spec"]["podSelector"]["matchLabels"] == labels
    assert replicas["Service", "replica"]["spec"]["selector"] == labels
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    for container in [*template["spec"]["containers"], *template["spec"]["initContainers"]]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_a_replica_runs_as_the_service_does_with_a_home_of_its_own(
    pods: dict[str, dict[str, Any]], replicas: dict[tuple[str, str], dict[str, Any]]
) -> None:
    pod = replicas["Deployment", "replica"]["spec"]["template"]["spec"]
    (ours,), (service,) = pod["containers"], pods["service"]["containers"]
    for name in ("command", "env", "image", "resources", "securityContext", "readinessProbe"):
        assert ours[name] == service[name]
    assert pod["securityContext"] == pods["service"]["securityContext"]
    assert not [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    (keys,) = pod["initContainers"]
    assert keys["securityContext"] == service["securityContext"]


def test_the_variables_of_the_stores_are_those_that_were_tried(
    object_server: ObjectServer,
) -> None:
    text = (DIRECTORY / "replicas.yaml").read_text()
    named = set(re.findall(r"^#   ([A-Z0-9_]+)=", text, flags=re.MULTILINE))
    ours = {name for name in named if name.startswith("ECG_")}
    assert ours == {"ECG_STORE_URL", "ECG_MONITORING_URL"}
    assert {name.removeprefix("ECG_").lower() for name in ours} <= set(Settings.model_fields)
    assert named - ours == set(object_server.variables) - {"AWS_EC2_METADATA_DISABLED"}


def test_the_keys_of_a_replica_can_be_read_by_its_user_alone(
    replicas: dict[tuple[str, str], dict[str, Any]], tmp_path: Path
) -> None:
    (keys,) = replicas["Deployment", "replica"]["spec"]["template"]["spec"]["initContainers"]
    mounted, home = tmp_path / "keys", tmp_path / "home"
    mounted.mkdir()
    home.mkdir()
    for name in ("release-key", "patient.key"):
        (mounted / name).write_text(f"{name}-{'k' * 40}\n")
        (mounted / name).chmod(0o440)
    shell, option, text = keys["command"]
    text = text.replace("/etc/ecg-keys", str(mounted)).replace("/var/lib/ecg", str(home))
    subprocess.run([shell, option, text], check=True)
    settings = Settings(home=home)
    for path in (settings.release_key_path, settings.patient_key_path):
        assert read_own_key(path, advice="").endswith("k" * 40)


def test_the_official_schema_of_kubernetes_accepts_every_object(
    objects: list[dict[str, Any]],
) -> None:
    import kubernetes_validate  # noqa: PLC0415  it imports jsonschema, see below

    for one in objects:
        kubernetes_validate.validate(one, SCHEMA, strict=True)  # strict: no unknown fields
    objects[-1]["spec"]["podSelectors"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(objects.pop(), SCHEMA, strict=True)


def _read_compose_schema() -> dict[str, Any]:
    """Read the schema of the Compose Specification, which check-jsonschema brings along."""
    import check_jsonschema  # noqa: PLC0415  as below

    vendor = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema: dict[str, Any] = json.loads((vendor / "compose-spec.json").read_text())
    assert schema["title"] == "Compose Specification"
    return schema


def test_the_schema_of_the_compose_specification_accepts_the_file() -> None:
    import jsonschema  # noqa: PLC0415  it compiles grammars for seconds

    content = yaml.safe_load((DIRECTORY / "compose.yaml").read_text())
    validator = jsonschema.Draft202012Validator(_read_compose_schema())
    assert [error.message for error in validator.iter_errors(content)] == []
    content["services"]["prefect"]["mem_limits"] = "1g"
    assert [error.message for error in validator.iter_errors(content)] != []


def _commands(container: dict[str, Any]) -> list[str]:
    """Split a command of a shell into those that it runs, without the passwords it reads before."""
    text = (
        container["command"][-1]
        if container["command"][0] == "sh"
        else " ".join(container["command"])
    )
    parts = re.split(r"&&|\n", text)
    found = [" ".join(part.split()).removeprefix("exec ") for part in parts]
    return [part for part in found if part and not part.startswith("export ")]


def test_pods_run_the_commands_that_were_started_for_compose(
    objects: list[dict[str, Any]],
    pods: dict[str, dict[str, Any]],
    services: dict[str, dict[str, Any]],
) -> None:
    (deploy,) = pods["worker"]["initContainers"]
    assert _commands(deploy) == _commands(services["deploy"])
    for name in ("prefect", "mlflow", "worker"):
        (container,) = pods[name]["containers"]
        ours = [
            one.replace("/etc/ecg/password", f"/run/secrets/{name}") for one in _commands(container)
        ]
        assert ours == _commands(services[name])
    dockerfile = (DIRECTORY / "Dockerfile").read_text()
    (command,) = re.findall(r"^CMD (.+)$", dockerfile, flags=re.MULTILINE)
    assert pods["service"]["containers"][0]["command"] == json.loads(command)
    (config,) = [one["data"] for one in objects if one["kind"] == "ConfigMap"]
    client = services["worker"]["environment"]
    assert config == {name: client[name] for name in config}
    assert set(client) - set(config) == {"PREFECT_WORKER_QUERY_SECONDS"}


def _find_compose() -> list[str]:
    for command in (["docker-compose"], ["docker", "compose"]):
        if (found := shutil.which(command[0])) is not None:
            whole = [found, *command[1:]]
            done = subprocess.run([*whole, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return whole
    pytest.skip("Docker Compose is not installed")


def test_compose_itself_accepts_its_file() -> None:
    command = _find_compose()
    for profile in ([], ["--profile", "monitoring"]):
        done = subprocess.run(
            [*command, "-f", str(DIRECTORY / "compose.yaml"), *profile, "config", "--quiet"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_images_can_be_named_by_digest(
    objects: list[dict[str, Any]],
    pods: dict[str, dict[str, Any]],
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        assert "${" in service["image"], name
        if "build" in service:
            assert service["build"]["args"] == {"PYTHON_IMAGE": "${PYTHON_IMAGE:-python:3.11-slim}"}
    customised = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
    used = {
        container["image"]
        for pod in pods.values()
        for container in [*pod["containers"], *pod.get("initContainers", [])]
    }
    assert {one["name"] for one in customised["images"]} == used
    assert customised["resources"] == ["kubernetes.yaml"]


def test_every_pod_is_confined(pods: dict[str, dict[str, Any]]) -> None:
    assert set(pods) == {"prefect", "mlflow", "worker", "service"}
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_servers_in_pods_ask_for_a_login_and_share_no_volume(
    pods: dict[str, dict[str, Any]],
) -> None:
    claims = {}
    for name, module in GATED.items():
        (container,) = pods[name]["containers"]
        assert container["command"][2] == module
        assert any(one.startswith("--secret=/etc/ecg/") for one in container["command"])
        assert "envFrom" not in container
        claims[name] = {
            one["persistentVolumeClaim"]["claimName"]
            for one in pods[name]["volumes"]
            if "persistentVolumeClaim" in one
        }
    assert claims == {"prefect": {"ecg-prefect"}, "mlflow": {"ecg-mlflow"}}
    for container in [*pods["worker"]["containers"], *pods["worker"]["initContainers"]]:
        logins = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
        assert set(logins) == {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD"}
    (service,) = pods["service"]["containers"]
    assert "envFrom" not in service
    assert not [one for one in service["env"] if "PREFECT" in one["name"]]


def test_network_policies_deny_everything_and_then_allow_what_is_called(
    objects: list[dict[str, Any]],
) -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"
    }
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, port in (("prefect", 4200), ("mlflow", 5000)):
        assert policies[name]["ingress"] == [
            {
                "from": [{"podSelector": {"matchLabels": {"app": "worker"}}}],
                "ports": [{"port": port, "protocol": "TCP"}],
            }
        ]
        assert "egress" not in policies[name]
    assert policies["service"]["policyTypes"] == ["Ingress"]


def test_the_server_of_prefect_clears_its_tables_as_the_platform_of_one_machine(
    services: dict[str, dict[str, Any]], pods: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    expected = {
        name: value
        for name, value in make_prefect_server_environment(settings).items()
        if "VACUUM" in name
    }
    assert len(expected) == 2
    (container,) = pods["prefect"]["containers"]
    in_pod = {one["name"]: one["value"] for one in container["env"]}
    for found in (services["prefect"]["environment"], in_pod):
        assert {name: found.get(name) for name in expected} == expected


def test_compose_builds_targets_of_the_dockerfile(services: dict[str, dict[str, Any]]) -> None:
    dockerfile = (DIRECTORY / "Dockerfile").read_text()
    ours = [service for service in services.values() if "profiles" not in service]
    assert len(ours) == 5
    for service in ours:
        build = service["build"]
        assert f" AS {build['target']}\n" in dockerfile
        assert Path(DIRECTORY / build["context"] / build["dockerfile"]).samefile(
            DIRECTORY / "Dockerfile"
        )


def test_compose_publishes_ports_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_container_of_compose_is_confined(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service.get("read_only") is True or name == "grafana"


def test_servers_of_compose_ask_for_a_login_and_share_no_volume(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, module in GATED.items():
        server = services[name]
        assert server["command"][2] == module
        assert f"--secret=/run/secrets/{name}" in server["command"]
        assert server["volumes"] == [f"{name}:/var/lib/{name}"]
        assert server["networks"] == [name]
    assert services["service"]["networks"] == ["service"]
    assert services["service"]["secrets"] == ["api-keys"]


def test_secrets_for_containers_are_made_once_and_kept_out_of_git(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    script.write_text((DIRECTORY / "make-secrets.sh").read_text())
    texts = []
    for _ in range(2):
        subprocess.run(["sh", str(script)], check=True, capture_output=True)  # noqa: S607  any sh
        texts.append([(tmp_path / f"{name}-secret").read_text() for name in GATED])
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]
    assert [len(text) for text in texts[0]] == [43, 43]
    for name in GATED:
        assert not stat.S_IMODE((tmp_path / f"{name}-secret").stat().st_mode) & 0o222 & ~0o600
        assert f"/deployments/{name}-secret" in (PROJECT_DIR / ".gitignore").read_text().split()
