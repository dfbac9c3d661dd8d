"""A bento of the time before the code lay in rooms serves, is replaced, and is gone back to."""

from __future__ import annotations

# ruff: noqa: ANN401  the types of fixtures lie in conftest.py, which no module imports
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.operations.releases import Release

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
EARLIER = "5e36049"
HASH = "import sys; from pathlib import Path; from ecg_lib.code_hash import hash_code; "
HASH += "print(hash_code(Path(sys.argv[1])))"


def test_the_service_goes_back_to_code_of_the_earlier_layout_without_a_failed_request(
    home: Any, run_host: Any, make_load: Any
) -> None:
    archive = subprocess.run(
        ["/usr/bin/git", "archive", EARLIER, "bentos", "ecg_lib", "flows/reference_bundle"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        pytest.skip(f"commit {EARLIER} is not in this clone")
    source = home.path / "bentoml" / "bentos" / "ecg" / "earlier" / "src"
    source.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(source, filter="data")
    shutil.move(source / "flows", source.parent / "flows")  # it is not part of the bento's code
    # As it was recorded when that code released it: the hash has another meaning today.
    code_hash = subprocess.run(
        [sys.executable, "-P", "-c", HASH, str(source)],
        env=home.env | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # Earlier code serves bundles of its time alone.
    bundle = source.parent / "flows" / "reference_bundle"
    bundle_hash = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    stored = home.path / "bentoml" / "models" / "ecg_bundle" / bundle_hash[:12] / "bundle"
    stored.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(bundle, stored)
    one: Release = home.releases["1"]
    earlier = one.model_copy(
        update={
            "bento_tag": "ecg:earlier",
            "code_hash": code_hash,
            "model_tag": f"ecg_bundle:{bundle_hash[:12]}",
            "bundle_hash": bundle_hash,
        }
    )
    home.releases["earlier"] = earlier
    home.must("release", "earlier")
    with run_host(home):
        home.wait_for("earlier", timeout_s=180.0)
        with make_load(home.url) as load:
            home.must("release", "2")
            home.must("rollback")
            home.wait_for("earlier")
            home.must("release", "3")
            home.must("rollback")
        assert load.failures == []
        assert set(load.answers) == {"ecg:earlier", "ecg:2", "ecg:3"}
    home.check()
