"""Homes and releases, for the tests of several folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

from ecg_lib.operations.keys.signatures import make_key
from ecg_lib.operations.releases import SERVING_PACKAGES, Release, hash_code
from ecg_lib.operations.settings import Settings


class KilledError(BaseException):
    """Takes the place of SIGKILL."""


def make_sharing_home(tmp_path: Path, name: str, store_url: str) -> Settings:
    """Make a home of a store; all homes have the same key, which a person copies."""
    key = tmp_path / "release-key"
    settings = Settings(home=tmp_path / name, store_url=store_url, release_key_file=key)
    make_key(settings)
    return settings


@contextmanager
def keep_from_store(url: str) -> Iterator[None]:
    """Let a store not answer in the block to whoever opens it there."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        with mock.patch.dict(os.environ, {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}):
            yield
        return
    folder = Path(parts.path)
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


def make_release(
    name: str,
    *,
    bundle_hash: str,
    code_hash: str,
    model: str | None = None,
    version: str | None = None,
    released_at: str = "2026-01-01T00:00:00.000+00:00",
) -> Release:
    """Make a release; model and version have the name of the bento unless they are given."""
    return Release(
        bento_tag=f"ecg:{name}",
        model_tag=f"ecg_bundle:{model or name}",
        bundle_hash=bundle_hash,
        code_hash=code_hash,
        model_version=version or name,
        released_at=released_at,
    )


def store_release(settings: Settings, version: str, code: str = "a") -> Release:
    """Make a release whose code and bundle, a text each, are in the store of its home."""
    name = f"{version}-{code}"
    source = settings.bentoml_home / "bentos" / "ecg" / name / "src"
    for package in SERVING_PACKAGES:
        (source / package / "__pycache__").mkdir(parents=True, exist_ok=True)
        (source / package / "code.py").write_text(code)
        (source / package / "__pycache__" / "code.pyc").write_text("compiled")
    bundle = settings.bentoml_home / "models" / "ecg_bundle" / version / "bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "manifest.json").write_text(version)
    return make_release(
        name,
        model=version,
        version=version,
        bundle_hash=hashlib.sha256(version.encode()).hexdigest(),
        code_hash=hash_code(source),
    )
