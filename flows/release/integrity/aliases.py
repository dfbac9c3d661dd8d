"""The aliases in MLflow follow what is served: noted at a release, done when MLflow answers.

Served is what ``current.json`` says, and a release does not wait for MLflow. So it leaves a durable
note of the version that the aliases must follow, and the next process that reaches MLflow follows.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from ecg_lib.operations.releases import CURRENT, read_release
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import write_durably
from flows.doors.registry import Alias, RegistryError, reaching_registry

_PENDING: Final = "registry-pending.json"
_LOCK: Final = "registry.lock"

logger = logging.getLogger(__name__)


class Pending(NamedTuple):
    """The version that the aliases must follow."""

    version: str
    rolled_back: list[str]


def note_pending(settings: Settings, version: str, *, rolled_back: str | None = None) -> None:
    """Note durably which version the aliases must follow, before anything is asked of MLflow.

    Args:
        settings: Where it is noted.
        version: The version that is served.
        rolled_back: The version that it replaces because that one was worse.
    """
    with _locked(settings):
        earlier = _read_pending(settings)
        bad = [] if earlier is None else earlier.rolled_back
        if rolled_back is not None and rolled_back not in bad:
            bad = [*bad, rolled_back]
        noted = Pending(version, bad)._asdict()
        write_durably(settings.home / _PENDING, json.dumps(noted))


def read_pending(settings: Settings) -> Pending | None:
    """Read what the aliases must still follow; None when they follow."""
    with _locked(settings):
        return _read_pending(settings)


def follow_pending(settings: Settings) -> bool:
    """Let the aliases follow what is served; False when MLflow cannot be reached or is locked.

    What could not be done stays noted. A file that is torn counts as a note to follow
    ``current.json``.
    """
    while (pending := read_pending(settings)) is not None:
        try:
            with reaching_registry(settings) as registry:
                registry.follow_release(pending.version, rolled_back=pending.rolled_back)
        except RegistryError as error:
            logger.warning(
                "MLflow cannot be used (%s): its aliases follow model %s when it can",
                error,
                pending.version,
            )
            return False
        with _locked(settings):
            # Another process may have noted another one meanwhile: the loop follows that.
            if _read_pending(settings) == pending:
                (settings.home / _PENDING).unlink(missing_ok=True)
        logger.info("the aliases follow model %s", pending.version)
    return True


def find_alias_problem(settings: Settings, served: str, *, worse: set[str]) -> str:
    """Say in what the aliases contradict what is served; nothing when they do not.

    Args:
        settings: Where MLflow is.
        served: The version that is served.
        worse: Versions that were rolled back.
    """
    try:
        with reaching_registry(settings) as registry:
            known = {version.version: version for version in registry.versions()}
            champion = registry.get_alias(Alias.CHAMPION)
    except RegistryError as error:
        return f"MLflow cannot be used: {error}"
    if served not in known:
        return ""  # released by another registry, or by hand
    if champion is None or champion.version != served:
        found = "nothing" if champion is None else f"model {champion.version}"
        return f"the champion is {found}, model {served} is served"
    unmarked = [
        version
        for version in sorted(worse & set(known))
        if known[version].tags.get("rolled_back") != "true"
    ]
    return f"models {unmarked} were rolled back and may be promoted" if unmarked else ""


def _read_pending(settings: Settings) -> Pending | None:
    path = settings.home / _PENDING
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        bad = noted["rolled_back"]
        # Earlier code noted one version, or none.
        return Pending(
            str(noted["version"]),
            [str(one) for one in bad] if isinstance(bad, list) else [str(bad)] if bad else [],
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        logger.warning("%s is torn; the aliases follow %s", _PENDING, CURRENT)
    current = read_release(settings.serving_dir / CURRENT)
    if current is None:
        path.unlink(missing_ok=True)
        return None
    return Pending(current.model_version, [])


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / _LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
