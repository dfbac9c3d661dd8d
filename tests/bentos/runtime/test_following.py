"""A service on another machine follows the releases of a store, by settings alone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.keys.signatures import make_key, sign_release
from ecg_lib.operations.releases import CURRENT, hash_code, write_release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import open_store
from ecg_lib.operations.store.shared_releases import publish_release
from tests.homes import make_release
from tests.object_store.server import SECRET, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WAIT_S = 240.0


def publish(settings: Settings, bundle: Bundle, version: str, *, code: str = "") -> str:
    """Release this checkout's code with a bundle, as the home that packaged it does."""
    tag = f"{version}-{code or 'same'}"
    source = settings.bentoml_home / "bentos" / "ecg" / tag / "src"
    for package in ("bentos", "ecg_lib"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=leave)
    if code:
        about = source / "bentos" / "__init__.py"
        about.write_text(f"{about.read_text()}# {code}\n")
    stored = settings.bentoml_home / "models" / "ecg_bundle" / version / "bundle"
    shutil.copytree(bundle.directory, stored)
    release = make_release(
        tag,
        model=version,
        version=version,
        bundle_hash=bundle.hash,
        code_hash=hash_code(source),
        released_at=datetime.now(UTC).isoformat(),
    )
    sign_release(settings, release, why="a test")
    write_release(settings.serving_dir / CURRENT, release)
    assert publish_release(settings, open_store(str(settings.store_url)))
    return release.bento_tag


@contextmanager
def _running(settings: Settings, variables: dict[str, str], port: int) -> Iterator[Path]:
    """Run the service of a home, and give its log."""
    log = settings.home.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bentos.host"],
            cwd=settings.home.parent,
            env={
                **{name: text for name, text in os.environ.items() if name[:4] != "ECG_"},
                **variables,
                "ECG_HOME": str(settings.home),
                "ECG_STORE_URL": str(settings.store_url),
                "ECG_RELEASE_KEY_FILE": str(settings.release_key_file),
                "ECG_SERVICE_PORT": str(port),
                "ECG_SERVICE_WORKERS": "1",
                "PYTHONPATH": str(ROOT),
            },
            stdout=output,
            stderr=output,
        )
        try:
            yield log
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(60)


def _wait_until_served(url: str, tag: str, log: Path) -> None:
    deadline_s = time.monotonic() + WAIT_S
    health: dict[str, Any] = {}
    while time.monotonic() < deadline_s:
        try:
            health = httpx.get(f"{url}/health", timeout=30).json()
        except httpx.TransportError:
            health = {}
        if (health.get("model") or {}).get("bento_tag") == tag:
            return
        time.sleep(0.2)
    pytest.fail(f"{tag} must be served within {WAIT_S:g} s, got {health}; {log.read_text()}")


@pytest.mark.timeout(900)
def test_a_service_on_another_machine_follows_an_s3_store_and_goes_on_without_it(
    make_toy_bundle: Callable[..., Bundle],
    make_request: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    key = tmp_path / "release-key"
    with serving() as server:
        variables = dict(server.variables)
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        store_url = f"s3://{server.make_bucket()}/ecg"
        one, other = (
            Settings(home=tmp_path / name, store_url=store_url, release_key_file=key)
            for name in ("one", "other")
        )
        make_key(one)
        first = publish(one, make_toy_bundle("one"), "1")
        with _running(other, variables, port) as log:
            _wait_until_served(url, first, log)
            # The same code is swapped in process, other code by new workers.
            second = publish(one, make_toy_bundle("two", threshold=0.4), "2")
            _wait_until_served(url, second, log)
            third = publish(one, make_toy_bundle("three", threshold=0.6), "3", code="other")
            _wait_until_served(url, third, log)
            server.stop()
            answered = httpx.post(f"{url}/api/v1/predictions/", json=make_request(), timeout=60)
            assert answered.status_code == 201
            assert answered.json()["model"]["bento_tag"] == third
            deadline_s = time.monotonic() + WAIT_S
            while "the store cannot be followed" not in log.read_text():
                assert time.monotonic() < deadline_s, log.read_text()
                time.sleep(0.2)
        assert SECRET not in log.read_text()
        # Started again without the store, it serves what it had.
        with _running(other, variables, port) as log:
            _wait_until_served(url, third, log)
