"""Real bentos under load: swapped, refused, crashed and stopped, by the host and by BentoML."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

from bentos.client.live_stream import LiveStream
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.keys.signatures import make_key, sign_release
from ecg_lib.operations.releases import CURRENT, Release, hash_code, write_release
from ecg_lib.operations.settings import Settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
MODEL = """
import shutil, sys
from pathlib import Path
import bentoml
for name, bundle in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    with bentoml.models.create(f"ecg_bundle:{name}") as stored:
        shutil.copytree(bundle, Path(stored.path) / "bundle")
"""
BENTO = """
import sys
import bentoml
model, version, root = sys.argv[1:]
bentoml.bentos.build(
    "bentos.service:EcgService",
    name="ecg",
    version=version,
    build_ctx=root,
    include=["bentos/**", "ecg_lib/**"],
    exclude=["**/__pycache__/**"],
    models=[f"ecg_bundle:{model}"],
    python={"lock_packages": False, "pack_git_packages": False},
)
"""


class Store:
    """BentoML's store with bentos of two codes, three bundles and one that is broken."""

    def __init__(self, home: Path, bundles: dict[str, Bundle]) -> None:
        self.home = home
        self.bundles = bundles
        self.env = {
            **os.environ,
            "ECG_HOME": str(home),
            "BENTOML_HOME": str(home / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        self.roots = {"old": self._copy("old"), "new": self._copy("new"), "bad": self._copy("bad")}
        about = self.roots["new"] / "bentos" / "__init__.py"
        about.write_text(about.read_text() + "# other code\n")
        (self.roots["bad"] / "bentos" / "worker.py").write_text("raise SystemExit('broken code')\n")
        models = [text for name in bundles for text in (name, str(bundles[name].directory))]
        self._run(MODEL, *models)
        for model, code in (("one", "old"), ("two", "new")):
            self._run(BENTO, model, f"{model}-{code}", str(self.roots[code]))
        # The others differ in what the tests change: building takes seconds.
        bentos = home / "bentoml" / "bentos" / "ecg"
        for tag, code in (("two-old", "old"), ("three-new", "new"), ("three-bad", "bad")):
            shutil.copytree(self.roots[code], bentos / tag / "src")
        card = home / "bentoml" / "models" / "ecg_bundle" / "three" / "bundle" / "model_card.md"
        card.write_text("changed")

    def _run(self, code: str, *arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.home,
            env=self.env,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def _copy(self, name: str) -> Path:
        root = self.home / "code" / name
        for package in ("bentos", "ecg_lib"):
            shutil.copytree(
                ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        return root

    def release(self, model: str, code: str) -> str:
        tag = f"ecg:{model}-{code}"
        release = Release(
            bento_tag=tag,
            model_tag=f"ecg_bundle:{model}",
            bundle_hash=self.bundles[model].hash,
            code_hash=hash_code(self.roots[code]),
            model_version=model,
            released_at=datetime.now(UTC).isoformat(),
        )
        settings = Settings(home=self.home)
        make_key(settings)
        sign_release(settings, release, why="a test")
        write_release(settings.serving_dir / CURRENT, release)
        return tag


@pytest.fixture(scope="module")
def store(
    make_toy_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    bundles = {
        name: make_toy_bundle(name, threshold=threshold)
        for name, threshold in (("one", 0.5), ("two", 0.4), ("three", 0.6))
    }
    return Store(tmp_path_factory.mktemp("store"), bundles)


class Load:
    """Clients that send one strip after another, and what they were answered."""

    def __init__(self, url: str, body: bytes) -> None:
        self.url = url
        self.body = body
        self.answers: Counter[str] = Counter()
        self.ids: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(3)]

    def _send(self) -> None:
        headers = {"Content-Type": "application/json"}
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answered = client.post(
                        f"{self.url}/api/v1/predictions/", content=self.body, headers=headers
                    )
                    assert answered.status_code == 201, answered.text
                    self.answers[answered.json()["model"]["bento_tag"]] += 1
                    self.ids.append(answered.json()["prediction_id"])
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def running(command: list[str], store: Store, port: int) -> Iterator[subprocess.Popen[bytes]]:
    log = store.home / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=store.home,
            env={
                **store.env,
                "ECG_SERVICE_PORT": str(port),
                "ECG_SERVICE_WORKERS": "2",
                "PYTHONPATH": str(store.roots["old"]),
            },
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        except BaseException:
            sys.stderr.write(log.read_text())
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def workers_of(host: subprocess.Popen[bytes], count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 180
    while len(workers := psutil.Process(host.pid).children()) != count:
        assert time.monotonic() < deadline, f"there must be {count} workers, got {len(workers)}"
        time.sleep(0.05)
    return workers


def wait_for(url: str, is_there: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    deadline = time.monotonic() + 180
    seen: object = None
    while time.monotonic() < deadline:
        try:
            health: dict[str, Any] = httpx.get(f"{url}/health", timeout=10).json()
        except httpx.TransportError:  # a server that starts may listen before it answers
            health = {}
        seen = health
        if health and is_there(health):
            return health
        time.sleep(0.05)
    pytest.fail(f"the service must get there within 180 s, got {seen}")


def serves(tag: str) -> Callable[[dict[str, Any]], object]:
    return lambda health: (health["model"] or {}).get("bento_tag") == tag


def refuses(tag: str) -> Callable[[dict[str, Any]], object]:
    return lambda health: (health["refused"] or {}).get("bento_tag") == tag


def test_bundles_and_code_are_swapped_under_load_without_a_failed_request(
    store: Store, make_request: Callable[..., dict[str, Any]]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    body = json.dumps(make_request()).encode()
    with running([sys.executable, "-m", "bentos.host"], store, port) as host:
        empty = wait_for(url, lambda health: health["status"] == "starting")
        assert (empty["model_loaded"], empty["refused"]) == (False, None)
        wait_for(url, serves(store.release("one", "old")))
        with Load(url, body) as load:
            wait_for(url, serves(store.release("two", "old")))
            before = workers_of(host, 2)
            wait_for(url, serves(store.release("two", "new")))
            health = wait_for(url, refuses(store.release("three", "new")))
            assert "BundleIntegrityError" in health["refused"]["reason"]
            health = wait_for(url, refuses(store.release("three", "bad")))
            assert "before it was ready" in health["refused"]["reason"]
            assert health["model"]["bento_tag"] == "ecg:two-new"
            assert psutil.wait_procs(before, timeout=30)[1] == []
            workers_of(host, 2)
            time.sleep(0.3)
        assert load.failures == []
        assert set(load.answers) == {"ecg:one-old", "ecg:two-old", "ecg:two-new"}

        with Load(url, body) as interrupted:
            time.sleep(0.5)
            for worker in workers_of(host, 2):
                worker.send_signal(signal.SIGKILL)
            health = wait_for(url, refuses("ecg:three-bad"))
        assert health["model"]["bento_tag"] == "ecg:two-new"
        workers_of(host, 2)
        health = wait_for(url, serves(store.release("one", "old")))
        assert health["refused"] is None

        children = psutil.Process(host.pid).children(recursive=True)
        started = time.monotonic()
        host.send_signal(signal.SIGTERM)
        assert host.wait(timeout=20) == 0
        assert time.monotonic() - started < 8
        assert psutil.wait_procs(children, timeout=5)[1] == []
    assert list((store.home / "serving" / "spool").glob("*.jsonl")) == []
    # Whatever was answered is in the log, once; whose answer was cut off may be there too.
    with contextlib.closing(sqlite3.connect(store.home / "monitoring.db")) as database:
        stored = [row_id for (row_id,) in database.execute("SELECT prediction_id FROM predictions")]
    answered = [*load.ids, *interrupted.ids]
    assert interrupted.ids
    assert len(stored) == len(set(stored))
    assert set(answered) <= set(stored)
    assert len(stored) <= len(answered) + len(interrupted.failures)


def test_a_stream_goes_on_when_other_code_takes_over(
    store: Store, make_request: Callable[..., dict[str, Any]]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    body = make_request()
    signal, fs = body["signal_data"], body["sampling_rate"]
    first = store.release("one", "old")
    with running([sys.executable, "-m", "bentos.host"], store, port):
        wait_for(url, serves(first))
        with LiveStream(url, sampling_rate=fs) as stream:
            stream.write(signal[: len(signal) // 2])
            deadline = time.monotonic() + 180
            while not stream.connections:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            wait_for(url, serves(store.release("two", "new")))
            stream.write(signal[len(signal) // 2 :])
            changes = stream.finish(180)
            assert stream.connections >= 2
        answered = httpx.post(f"{url}/api/v1/predictions/", json=body, timeout=30).json()
    assert [beat.position_sample for one in changes if one.is_final for beat in one.beats] == [
        beat["position_sample"] for beat in answered["beat_predictions"]
    ]


def test_bentoml_serves_a_bento_with_its_own_bundle(
    store: Store, make_request: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (store.home / "serving" / CURRENT).unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "bentoml", "serve", "ecg:one-old"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]
    with running(command, store, port):
        health = wait_for(url, lambda health: health["status"] == "ok")
        assert health["model"]["bento_tag"] == "ecg:one-old"
        assert health["model"]["version"] == "unregistered"
        answered = httpx.post(
            f"{url}/api/v1/predictions/",
            params={"patient_id": "Doe"},
            json=make_request(patient_id="Doe"),
        )
        assert answered.status_code == 201
        assert httpx.get(f"{url}/docs").status_code == 200
        assert httpx.get(f"{url}/nix").json()["type"] == "/problems/not-found"
        with LiveStream(url, sampling_rate=360.0) as stream:
            stream.write(make_request()["signal_data"])
            (final,) = [change for change in stream.finish(180) if change.is_final]
        assert len(final.beats) == answered.json()["total_beats_detected"]
        store.release("two", "new")
        health = wait_for(url, refuses("ecg:two-new"))
        assert "other code" in health["refused"]["reason"]
        assert health["model"]["bento_tag"] == "ecg:one-old"
    assert "Doe" not in (store.home / f"{port}.log").read_text()
