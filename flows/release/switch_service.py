"""Ask the running service what it serves, and wait until it serves a release.

A service that is silent is not the same as none: whether one runs is known by its port, and its
answers are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import CURRENT, Release, read_release
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses

SWITCH_TIMEOUT_S: Final = 90.0
"""Longest wait for a release to be taken; a service with other code starts new processes."""

_ASK_TIMEOUT_S: Final = 5.0
_FIRST_POLL_S: Final = 0.02
_POLL_S: Final = 0.2
_STALE_REFUSAL_S: Final = 3.0
"""How long a refusal that stood there before is taken for that of an earlier attempt."""


class ReleaseRefusedError(EcgError):
    """The service did not take a release; the one before it is served."""


class Presence(StrEnum):
    """Whether there is a service."""

    ABSENT = "absent"
    """Nothing listens on the port."""
    SILENT = "silent"
    """Something listens, but does not answer as the service does."""
    ANSWERS = "answers"


class Health(NamedTuple):
    """The answer of the service about itself."""

    presence: Presence
    served: tuple[str, str] | None = None
    """Bento tag and model version that all its workers serve."""
    refused: tuple[str, str] | None = None
    """Bento tag that it refused, and why."""


Ask = Callable[[Settings], Health]


class Switch(NamedTuple):
    """How a release was taken."""

    is_running: bool
    """False when no service runs; it will start with this release."""
    seconds: float
    """From the write of the release to the first answer that names it."""
    refusal: str = ""
    """Why it was not taken; empty when it was."""


def service_url(settings: Settings) -> str:
    """Address of the service."""
    return find_addresses(settings).service


def key_header(settings: Settings) -> dict[str, str]:
    """Return the header that carries our own API key, where one is set."""
    return {} if settings.api_key is None else {"X-API-Key": settings.api_key}


def ask_service(settings: Settings) -> Health:
    """Ask the service what it serves and what it refused."""
    try:
        with httpx.Client(timeout=_ASK_TIMEOUT_S, trust_env=False) as client:
            body: Any = client.get(
                f"{service_url(settings)}/health", headers=key_header(settings)
            ).json()
    except httpx.ConnectError:
        return Health(Presence.ABSENT)
    except (httpx.HTTPError, ValueError):
        return Health(Presence.SILENT)
    if not isinstance(body, dict) or "model_loaded" not in body:
        return Health(Presence.SILENT)
    model, refused = body.get("model"), body.get("refused")
    return Health(
        Presence.ANSWERS,
        (str(model["bento_tag"]), str(model["version"])) if model else None,
        (str(refused["bento_tag"]), str(refused["reason"])) if refused else None,
    )


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
    """Read the release to serve; None before the first one.

    Raises:
        ReleaseError: If the file is torn.
    """
    return read_release(settings.serving_dir / CURRENT)


def wait_until_served(
    release: Release,
    settings: Settings,
    *,
    before: Health,
    ask: Ask = ask_service,
    timeout_s: float = SWITCH_TIMEOUT_S,
) -> Switch:
    """Wait until the service answers with a release that ``current.json`` names.

    Args:
        release: What it is to serve.
        settings: Where it is.
        before: What it said before the release was written; a refusal that stood there then is of
            an earlier attempt. Where no service ran there is nothing to wait for.
        ask: Asks it.
        timeout_s: How long it may take.
    """
    if before.presence is Presence.ABSENT:
        return Switch(is_running=False, seconds=0.0)
    started_s, poll_s = time.monotonic(), _FIRST_POLL_S
    while (waited_s := time.monotonic() - started_s) < timeout_s:
        health = ask(settings)
        if health.served == (release.bento_tag, release.model_version):
            return Switch(is_running=True, seconds=waited_s)
        if health.refused is not None and health.refused[0] == release.bento_tag:
            is_stale = health.refused == before.refused and waited_s < _STALE_REFUSAL_S
            if not is_stale:
                return Switch(is_running=True, seconds=waited_s, refusal=health.refused[1])
        time.sleep(poll_s)
        poll_s = min(_POLL_S, 2 * poll_s)
    last = {
        Presence.ABSENT: "the service ended meanwhile",
        Presence.SILENT: "the service does not answer",
        Presence.ANSWERS: "it was not taken",
    }[health.presence if timeout_s > 0 else before.presence]
    return Switch(is_running=True, seconds=timeout_s, refusal=f"{last} within {timeout_s:g} s")
