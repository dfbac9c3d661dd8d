"""A home with real bundles and bentos, a host that serves, and commands as processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Self

import httpx
import psutil
import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.releases import NOT_SERVING, Release, hash_code, is_same_release
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.ledger import read_ledger
from flows.release.integrity.aliases import read_pending
from flows.release.switch_service import read_current
from flows.release.transaction import INTENT

ROOT = Path(__file__).parents[2]
FORKS: Final = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["flows.release.transaction"])

# A release or rollback in a process of its own, which kills itself at a step.
COMMAND: Final = """
import logging, os, signal, sys
os.environ.update(env)
errors = os.open(error_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(errors, 2)
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import read_settings
from flows.release.transaction import Steps, recover, release_model, roll_back
logging.basicConfig(level=logging.ERROR, force=True)
def on_step(step):
    if step.value == kill:
        os.kill(os.getpid(), signal.SIGKILL)
steps = Steps(on_step=on_step, timeout_s=60.0, lock_timeout_s=120.0)
settings = read_settings()
if kind == "release":
    wanted = Release.model_validate_json(release)
    why = f"release model {wanted.model_version}"
    release_model(settings, wanted, why=why, force=True, steps=steps)
elif kind == "rollback":
    roll_back(settings, why="a fault", force=True, steps=steps)
else:
    recover(settings, steps=steps)
"""


@dataclass(frozen=True)
class Command:
    """A command that runs in a process of its own."""

    process: BaseProcess
    error_path: Path

    def wait(self) -> tuple[int | None, str]:
        """Wait for its end; return its status, negative for a signal, and its errors."""
        self.process.join(timeout=300)
        errors = self.error_path.read_text()
        self.error_path.unlink()
        return self.process.exitcode, errors


@dataclass
class Home:
    """One home, its releases, and what runs in it."""

    path: Path
    releases: dict[str, Release] = field(default_factory=dict)

    def on_another_port(self) -> Home:
        """Return the same home for a second host."""
        return Home(self.path, self.releases, port=free_port())

    @property
    def settings(self) -> Settings:
        return Settings(home=self.path, service_port=self.port)

    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("ECG_")},
            "ECG_HOME": str(self.path),
            "ECG_SERVICE_PORT": str(self.port),
            "ECG_SERVICE_WORKERS": "2",
            "BENTOML_HOME": str(self.path / "bentoml"),
            "PYTHONPATH": str(ROOT),
        }

    def start(self, kind: str, version: str = "", *, kill: str = "") -> Command:
        # Beside the home, whose disk may be full.
        error_path = Path(tempfile.gettempdir()) / f"ecg-errors-{uuid.uuid4().hex}"
        given = {
            "kind": kind,
            "kill": kill,
            "release": self.releases[version].model_dump_json() if version else "",
            "env": self.env,
            "error_path": str(error_path),
        }
        # Forked from a process that has imported what is needed: that takes seconds.
        process = FORKS.Process(target=exec, args=(COMMAND, given))
        process.start()
        return Command(process, error_path)

    def command(self, kind: str, version: str = "", *, kill: str = "") -> tuple[int | None, str]:
        return self.start(kind, version, kill=kill).wait()

    def run_ecg(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command ``ecg``."""
        return subprocess.run(
            [sys.executable, "-c", "from flows.local.cli import main; main()", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def count_started(self) -> int:
        """Count the workers that got ready since the host was started first."""
        log = (self.path / "host.log").read_text()
        return len(re.findall(r'"event":"worker \d+ serves"', log))

    def must(self, kind: str, version: str = "") -> None:
        status, errors = self.command(kind, version)
        assert status == 0, errors

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=10.0).json()
        return answer

    def wait_for(self, version: str, timeout_s: float = 40.0) -> float:
        """Wait until the service answers with a version; return how long it took."""
        tag, started_s = self.releases[version].bento_tag, time.monotonic()
        while time.monotonic() - started_s < timeout_s:
            try:
                if (self.health()["model"] or {}).get("bento_tag") == tag:
                    return time.monotonic() - started_s
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        pytest.fail(f"{tag} must be served within {timeout_s:g} s")

    def check(self) -> None:
        """Check that all stores of releases agree and nothing is half done."""
        current, history = read_current(self.settings), read_ledger(self.settings.ledger_dir)
        assert not (self.settings.serving_dir / INTENT).exists()
        assert history.latest is not None
        assert is_same_release(history.latest.release, current)
        ids = [entry.event.id for entry in history.entries]
        assert len(ids) == len(set(ids))
        pending = read_pending(self.settings)
        assert pending is None or (current and pending.version == current.model_version)


class Load:
    """One client that asks for the model's card without a pause."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with httpx.Client(timeout=30.0) as client:
            while not self._stop.is_set():
                try:
                    answer = client.get(f"{self._url}/api/v1/model/")
                    assert answer.status_code == 200, answer.text
                    self.answers[answer.json()["model"]["bento_tag"]] += 1
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.02)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(home: Home) -> Iterator[psutil.Process]:
    log = home.path / "host.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentos.host"], env=home.env, stdout=output, stderr=output
        )
    try:
        yield psutil.Process(process.pid)
    except BaseException:
        sys.stderr.write(log.read_text()[-4000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def home(make_toy_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three models with this code, of which the first is released."""
    home = Home(tmp_path_factory.mktemp("home"), port=free_port())
    store = home.path / "bentoml"
    code_hash = hash_code(ROOT)
    for number, threshold in enumerate((0.5, 0.4, 0.6), start=1):
        version = str(number)
        bundle = make_toy_bundle(version, threshold=threshold)
        shutil.copytree(bundle.directory, store / "models" / "ecg_bundle" / version / "bundle")
        source = store / "bentos" / "ecg" / version / "src"
        source.mkdir(parents=True)
        for package in ("bentos", "ecg_lib"):
            # Copied: a bento does not change when somebody works in the checkout.
            ignored = shutil.ignore_patterns(
                "__pycache__", *(Path(folder).name for folder in NOT_SERVING)
            )
            shutil.copytree(ROOT / package, source / package, ignore=ignored)
        home.releases[version] = Release(
            bento_tag=f"ecg:{version}",
            model_tag=f"ecg_bundle:{version}",
            bundle_hash=bundle.hash,
            code_hash=code_hash,
            model_version=version,
            released_at="2026-01-01T00:00:00.000+00:00",
        )
    home.must("release", "1")
    return home


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, float]]:
    """Recovery times in seconds by fault; shown at the end, by ``-s``."""
    measured: dict[str, float] = {}
    yield measured
    for fault, seconds in measured.items():
        sys.stdout.write(f"{fault:<50} {seconds:6.2f} s\n")


@pytest.fixture
def make_request() -> Callable[[], dict[str, Any]]:
    signal_mv = simulate_strip(StripKind.NORMAL, seed=5).signal_mv()
    return lambda: {"signal_data": signal_mv.tolist(), "sampling_rate": 360}


@pytest.fixture
def run_host() -> Callable[[Home], AbstractContextManager[psutil.Process]]:
    return serving


@pytest.fixture
def make_load() -> type[Load]:
    return Load


@pytest.fixture
def load(home: Home) -> Load:
    return Load(home.url)


@pytest.fixture(scope="module")
def host(home: Home) -> Iterator[psutil.Process]:
    with serving(home) as process:
        home.wait_for("1", timeout_s=180.0)
        yield process
