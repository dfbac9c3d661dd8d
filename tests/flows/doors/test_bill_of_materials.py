"""The bill of materials of a bento, against the official schema of CycloneDX."""

from __future__ import annotations

import json
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from flows.doors.addresses import PROJECT_DIR
from flows.doors.bento_store import list_materials

LOCK = PROJECT_DIR / "requirements-serving.lock"


def write(lock: Path) -> str:
    return list_materials(lock, bento_tag="ecg:1-a", bundle_hash="b" * 64, code_hash="c" * 64)


def test_the_official_schema_accepts_it() -> None:
    text = write(LOCK)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    broken = text.replace('"library"', '"book"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_it_names_every_package_of_the_lock_the_bundle_and_the_code(tmp_path: Path) -> None:
    lock = tmp_path / "requirements-serving.lock"
    lock.write_text(
        "# a comment==9\nnumpy==2.2 \\\n    --hash=sha256:00\n"
        "uvicorn[standard]==0.34 ; sys_platform != 'win32' \\\n    --hash=sha256:01\n"
    )
    document = json.loads(write(lock))
    bundle, *packages = document["components"]
    assert bundle["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert [one["purl"] for one in packages] == ["pkg:pypi/numpy@2.2", "pkg:pypi/uvicorn@0.34"]
    named = document["metadata"]["component"]
    assert (named["name"], named["version"]) == ("ecg", "1-a")
    assert named["hashes"][0]["content"] == "c" * 64
    (dependencies,) = document["dependencies"]
    assert len(dependencies["dependsOn"]) == 3
    assert document["serialNumber"] == json.loads(write(lock))["serialNumber"]


def test_the_lock_of_today_is_listed_whole() -> None:
    pinned = [line for line in LOCK.read_text().splitlines() if "==" in line and line[0].isalnum()]
    assert len(json.loads(write(LOCK))["components"]) == len(pinned) + 1
