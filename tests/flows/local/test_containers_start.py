"""Every container of compose.yaml starts with its command and variables; `make test-containers`.

There is no engine: a container is a process of another user, in a copy of the files of its image,
with a folder of its own for each volume. Names of other containers are this machine, and ports are
free ones; nothing else differs from the file.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
import yaml

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.keys.api_keys import make_api_key, write_key_line
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.addresses import PROJECT_DIR
from flows.local.demo.home import find_free_ports
from tests.flows.local.containers import Machine, open_machine, store_release

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEPLOYMENTS: Final = PROJECT_DIR / "deployments"
PORTS: Final = {"prefect": 4200, "mlflow": 5000, "service": 3000}
PASSWORDS: Final = {name: f"{name}-" + "p" * 40 for name in ("prefect", "mlflow")}


@pytest.fixture(autouse=True)
def _only_where_it_is_asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--containers"):
        pytest.skip("needs --containers: make test-containers")


def _read_dockerfile() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Read the variables of all images, and the files of each by the name of its target."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOYMENTS / "Dockerfile").read_text())
    variables: dict[str, str] = {}
    files: dict[str, list[str]] = {}
    target = ""
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            target = rest.rpartition(" AS ")[2]
            files[target] = []
        elif name == "ENV":
            variables |= dict(pair.split("=", 1) for pair in rest.split())
        elif name == "COPY":
            files[target] += rest.split()[:-1]
    return variables, files


@dataclass
class Engine:
    """An engine that does with compose.yaml what can be done here."""

    machine: Machine
    ports: dict[str, int]
    variables: dict[str, str]
    services: dict[str, Any]
    stack: ExitStack
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def translate(self, text: str) -> str:
        """Name the folders, files and ports of this machine in place of those of a container."""
        folder = self.machine.folder
        text = re.sub(r"^/tmp/", f"{folder}/tmp/", text)  # noqa: S108  that of the container
        for name, port in PORTS.items():
            text = text.replace(f"http://{name}:{port}", f"http://127.0.0.1:{self.ports[name]}")
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{self.ports[name]}")
        text = text.replace("/var/lib/", f"{folder}/volumes/")
        text = text.replace("/run/secrets/", f"{folder}/secrets/")
        return text.replace("0.0.0.0", "127.0.0.1").replace("$$", "$")  # noqa: S104

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a container."""
        service = self.services[name]
        target = service["build"]["target"]
        app = self.machine.folder / target
        environment = {
            key: "127.0.0.1" if (key, value) == ("ECG_SERVICE_HOST", "service") else value
            for key, value in service["environment"].items()
        }
        variables = {
            key: self.translate(str(value))
            for key, value in {**self.variables, **environment}.items()
        }
        variables |= {f"ECG_{one.upper()}_PORT": str(port) for one, port in self.ports.items()}
        if target == "platform":  # it is installed in place
            variables["PYTHONPATH"] = str(app)
        command = service.get("command") or ["python", "-m", "bentos.host"]
        log = self.stack.enter_context((self.machine.folder / f"{name}.log").open("wb"))
        process = self.machine.start(
            [self.translate(part) for part in command], cwd=app, variables=variables, log=log
        )
        self.running[name] = process
        return process

    def is_healthy(self, name: str) -> bool:
        """Run the check of the file."""
        _, *command = self.services[name]["healthcheck"]["test"]
        done = subprocess.run(
            [self.machine.programs / command[0], *map(self.translate, command[1:])],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def wait(self, name: str, is_ready: Callable[[], bool], timeout_s: float = 240.0) -> None:
        """Wait for a container that must go on."""
        deadline_s = time.monotonic() + timeout_s
        while not is_ready():
            assert self.running[name].poll() is None, self.read_log(name)
            assert time.monotonic() < deadline_s, self.read_log(name)
            time.sleep(0.5)

    def read_log(self, name: str) -> str:
        return (self.machine.folder / f"{name}.log").read_text()[-6000:]


@pytest.fixture
def key() -> str:
    return make_api_key()


def _make_images(machine: Machine, files: dict[str, list[str]]) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for target in ("platform", "service"):
        app = machine.folder / target
        app.mkdir(mode=0o755)
        for name in files[target]:
            if (PROJECT_DIR / name).is_file():
                shutil.copyfile(PROJECT_DIR / name, app / name)
            else:
                shutil.copytree(PROJECT_DIR / name, app / name, ignore=ignored)


def _make_secrets(machine: Machine, key: str) -> None:
    (machine.folder / "secrets").mkdir(mode=0o755)
    secrets = {**PASSWORDS, "api-keys": write_key_line(key, name="me", scopes=())}
    for name, text in secrets.items():
        path = machine.folder / "secrets" / name
        path.write_text(text + "\n")
        path.chmod(0o440)
        machine.give(path)


@pytest.fixture
def engine(
    toy_bundle: Bundle, serve_release: Callable[[Settings, Release], None], key: str
) -> Iterator[Engine]:
    """Images, secrets, and a volume of the home in which a model was released."""
    with open_machine() as machine, ExitStack() as stack:
        variables, files = _read_dockerfile()
        _make_images(machine, files)
        _make_secrets(machine, key)
        (machine.folder / "volumes").mkdir(mode=0o755)
        for volume in ("ecg", "prefect", "mlflow"):
            machine.make_data(f"volumes/{volume}")
        settings = Settings(home=machine.folder / "volumes" / "ecg")
        serve_release(settings, store_release(settings, toy_bundle))
        for path in settings.home.rglob("*"):
            machine.give(path)
        services = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())["services"]
        ports = dict(zip(PORTS, find_free_ports(len(PORTS)), strict=True))
        made = Engine(machine, ports, variables, services, stack)
        try:
            yield made
        finally:
            _end(made.running.values())


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def test_every_container_starts_by_its_command_and_they_work_together(
    engine: Engine, key: str
) -> None:
    prefect = engine.stack.enter_context(
        httpx.Client(
            base_url=f"http://127.0.0.1:{engine.ports['prefect']}/api",
            auth=("ecg", PASSWORDS["prefect"]),
            timeout=60.0,
            trust_env=False,
        )
    )
    engine.start("prefect")
    engine.start("mlflow")
    engine.wait("prefect", lambda: engine.is_healthy("prefect"))
    assert httpx.get(f"{prefect.base_url}/flows/count").status_code in {401, 403}
    page = httpx.get(
        f"http://127.0.0.1:{engine.ports['prefect']}/v2",
        auth=("ecg", PASSWORDS["prefect"]),
        follow_redirects=True,
    )
    assert "<title>" in page.text, page.text  # its pages are written where it may write
    assert engine.start("deploy").wait(240) == 0, engine.read_log("deploy")
    engine.wait("mlflow", lambda: engine.is_healthy("mlflow"))
    engine.start("worker")
    engine.start("service")

    def works() -> bool:
        found = prefect.post("/work_pools/ecg/workers/filter", json={}).json()
        return any(one["status"] == "ONLINE" for one in found)

    engine.wait("worker", works)
    service = f"http://127.0.0.1:{engine.ports['service']}"
    strip = simulate_strip(StripKind.RUN, seed=3)
    body = {"signal_data": strip.signal_mv().tolist(), "sampling_rate": strip.fs}

    def predict(headers: dict[str, str]) -> int:
        try:
            answer = httpx.post(
                f"{service}/api/v1/predictions/", json=body, headers=headers, timeout=60.0
            )
        except httpx.TransportError:
            return 0
        return answer.status_code

    engine.wait("service", lambda: predict({"X-API-Key": key}) == 201)
    assert predict({}) == 401
    # A flow run of the worker reads the log of the service and writes into the shared volume.
    found = prefect.get("/deployments/name/monitor-drift/monitor-drift").json()
    run = prefect.post(f"/deployments/{found['id']}/create_flow_run", json={}).json()

    def has_ended() -> bool:
        state = prefect.get(f"/flow_runs/{run['id']}").json()["state_type"]
        assert state not in {"FAILED", "CRASHED", "CANCELLED"}, engine.read_log("worker")
        return bool(state == "COMPLETED")

    engine.wait("worker", has_ended)
    for name in ("service", "worker", "mlflow", "prefect"):
        process = engine.running[name]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in {0, -signal.SIGTERM, 128 + signal.SIGTERM}, engine.read_log(name)
    # Nothing was written into the images.
    for target in ("platform", "service"):
        assert not list((engine.machine.folder / target).rglob("__pycache__"))
