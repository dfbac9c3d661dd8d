"""Bentos of earlier code serve, log into the tables of today, and are gone back to."""

from __future__ import annotations

# ruff: noqa: ANN401  the types of fixtures lie in conftest.py, which no module imports
import hashlib
import io
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from ecg_lib.operations.learning.schema.migrations import HEAD
from ecg_lib.operations.releases import NOT_SERVING, Release

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
HASH = "import sys; from pathlib import Path; from {module} import hash_code; "
HASH += "print(hash_code(Path(sys.argv[1])))"


class Earlier(NamedTuple):
    """A commit, and where its code had what is needed of it."""

    commit: str
    bundle: str
    hash_module: str


FLAT: Final = Earlier("5e36049", "flows/reference_bundle", "ecg_lib.code_hash")
"""Before the code lay in rooms."""
WITHOUT_VERSIONS: Final = Earlier(
    "ab95e762", "flows/release/reference_bundle", "ecg_lib.operations.releases"
)
"""Before the tables had versions and the signal path was C."""


@pytest.mark.parametrize("earlier", [FLAT, WITHOUT_VERSIONS], ids=lambda one: one.commit)
def test_the_service_goes_back_to_earlier_code_without_a_failed_request_or_a_lost_row(
    home: Any,
    run_host: Any,
    make_load: Any,
    make_request: Callable[[], dict[str, Any]],
    earlier: Earlier,
) -> None:
    name = earlier.commit
    home.releases[name] = _store(home, earlier)
    asked: dict[str, str] = {}

    def predict() -> None:
        for _ in range(3):
            url = f"{home.url}/api/v1/predictions/"
            answer = httpx.post(url, json=make_request(), timeout=60)
            assert answer.status_code == 201, answer.text
            asked[answer.json()["prediction_id"]] = answer.json()["model"]["bento_tag"]

    home.must("release", name)
    with run_host(home):
        home.wait_for(name, timeout_s=180.0)
        with make_load(home.url) as load:
            predict()
            home.must("release", "2")
            predict()  # which brings the tables to their latest version
            _wait_for_rows(home, asked)
            home.must("rollback")
            home.wait_for(name)
            predict()
            home.must("release", "3")
            home.must("rollback")
            home.wait_for(name)
            predict()
            _wait_for_rows(home, asked)
            home.must("release", "1")
            home.wait_for("1")
            for one in asked:
                answer = httpx.get(f"{home.url}/api/v1/predictions/{one}", timeout=60)
                assert answer.status_code == 200, answer.text
        assert load.failures == []
        assert set(load.answers) == {f"ecg:{name}", "ecg:1", "ecg:2", "ecg:3"}
    assert set(asked.values()) == {f"ecg:{name}", "ecg:2"}
    with closing(sqlite3.connect(home.path / "monitoring.db")) as database:
        assert database.execute("SELECT * FROM ecg_schema_version").fetchall() == [(HEAD,)]
    home.check()


def _store(home: Any, earlier: Earlier) -> Release:
    """Put code and bundle of a commit into the store of a home."""
    archive = subprocess.run(
        ["/usr/bin/git", "archive", earlier.commit, "bentos", "ecg_lib", earlier.bundle],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        pytest.skip(f"commit {earlier.commit} is not in this clone")
    source = home.path / "bentoml" / "bentos" / "ecg" / earlier.commit / "src"
    source.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(source, filter="data")
    shutil.move(source / "flows", source.parent / "flows")  # it is not part of the bento's code
    for folder in NOT_SERVING:
        shutil.rmtree(source / folder, ignore_errors=True)
    # As it was recorded when that code released it: the hash has another meaning today.
    code_hash = subprocess.run(
        [sys.executable, "-P", "-c", HASH.format(module=earlier.hash_module), str(source)],
        env=home.env | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Earlier code serves bundles of its time alone.
    bundle = source.parent / earlier.bundle
    bundle_hash = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    stored = home.path / "bentoml" / "models" / "ecg_bundle" / bundle_hash[:12] / "bundle"
    stored.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(bundle, stored)
    one: Release = home.releases["1"]
    return one.model_copy(
        update={
            "bento_tag": f"ecg:{earlier.commit}",
            "code_hash": code_hash,
            "model_tag": f"ecg_bundle:{bundle_hash[:12]}",
            "bundle_hash": bundle_hash,
        }
    )


def _wait_for_rows(home: Any, asked: dict[str, str]) -> None:
    """Wait until each prediction is in the log, with the bento that answered it."""
    deadline_s, rows = time.monotonic() + 60.0, dict[str, str]()
    while not asked.items() <= rows.items():
        assert time.monotonic() < deadline_s, "what was answered never reached the log"
        time.sleep(0.2)
        with closing(sqlite3.connect(home.path / "monitoring.db", timeout=5.0)) as database:
            rows = dict(database.execute("SELECT prediction_id, bento_tag FROM predictions"))
