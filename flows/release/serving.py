"""Tell the running service which release to serve, and learn whether it took it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import CURRENT, Release, read_release, write_release
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses

SWITCH_TIMEOUT_S: Final = 90.0
_POLL_S: Final = 0.2


class ReleaseRefusedError(EcgError):
    """The service did not take a release; the one before it is served."""


class Switch(NamedTuple):
    """How a release was taken."""

    is_running: bool
    """False when no service runs; it will start with this release."""
    seconds: float
    """From the write of the release to the first answer that names it."""


def service_url(settings: Settings) -> str:
    """Address of the service."""
    return find_addresses(settings).service


def key_header(settings: Settings) -> dict[str, str]:
    """Give the header that carries our own API key, where one is set."""
    return {} if settings.api_key is None else {"X-API-Key": settings.api_key}


def read_health(settings: Settings) -> dict[str, Any] | None:
    """Ask the service how it is; None when none answers."""
    try:
        answer = httpx.get(
            f"{service_url(settings)}/health", headers=key_header(settings), timeout=5.0
        )
        body: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return body


def find_bundle(settings: Settings, model_tag: str) -> Path:
    """Find the directory of a bundle in BentoML's store.

    The store keeps a model in ``models/<name>/<version>``; so nothing of BentoML is imported,
    which takes seconds.
    """
    return settings.bentoml_home.joinpath("models", *model_tag.split(":"), "bundle")


def make_release(
    *, bento_tag: str, model_tag: str, bundle_hash: str, code_hash: str, model_version: str
) -> Release:
    """Make a release of a bento, as of now."""
    return Release(
        bento_tag=bento_tag,
        model_tag=model_tag,
        bundle_hash=bundle_hash,
        code_hash=code_hash,
        model_version=model_version,
        released_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def read_current(settings: Settings) -> Release | None:
    """Read what is to be served; None before the first release."""
    return read_release(settings.serving_dir / CURRENT)


def switch_service(release: Release, settings: Settings) -> Switch:
    """Make the service serve a release, or leave everything as it was.

    Raises:
        ReleaseRefusedError: If the service refuses it or does not take it in time.
    """
    path = settings.serving_dir / CURRENT
    before = read_release(path)
    is_running = read_health(settings) is not None
    started_s = time.monotonic()
    write_release(path, release)
    if not is_running:
        return Switch(is_running=False, seconds=0.0)
    reason = _wait_until_served(release, settings)
    if not reason:
        return Switch(is_running=True, seconds=time.monotonic() - started_s)
    if before is None:
        path.unlink()
    else:
        write_release(path, before)
    served = "nothing" if before is None else before.bento_tag
    msg = f"the service refused {release.bento_tag} ({reason}); {served} is served as before"
    raise ReleaseRefusedError(msg)


def _wait_until_served(release: Release, settings: Settings) -> str:
    """Return why the release was not taken, or nothing."""
    deadline_s = time.monotonic() + SWITCH_TIMEOUT_S
    while time.monotonic() < deadline_s:
        health = read_health(settings)
        if health is not None:
            model = health.get("model") or {}
            refused = health.get("refused") or {}
            if refused.get("bento_tag") == release.bento_tag:
                return str(refused["reason"])
            if (model.get("bento_tag"), model.get("version")) == (
                release.bento_tag,
                release.model_version,
            ):
                return ""
        time.sleep(_POLL_S)
    return f"it was not taken within {SWITCH_TIMEOUT_S:g} s"
