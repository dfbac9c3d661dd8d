"""List the releases whose files and runs stay, and find out whether that list is complete."""

from __future__ import annotations

from collections.abc import Sequence

from ecg_lib.errors import EcgError
from ecg_lib.operations.learning.rollout.candidate import (
    CANDIDATE,
    CandidateError,
    read_candidate,
)
from ecg_lib.operations.releases import CURRENT, LAST_GOOD, SERVED, Release, ReleaseError
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import list_set_aside, read_ledger
from flows.release.switch_service import read_current
from flows.release.transaction import INTENT, read_intent


class UnknownReleasesError(EcgError):
    """There were releases without a readable entry in the ledger."""


def list_needed_releases(settings: Settings, *, versions: Sequence[str] = ()) -> list[Release]:
    """List every release that was ever served or tried, and those of a release under way.

    Args:
        settings: The home.
        versions: Model versions that are registered, a sign that there were releases.

    Raises:
        UnknownReleasesError: If some may be missing: an entry of the ledger or a file that names a
            release is torn, or there is no ledger although there were releases.
    """
    history = read_ledger(settings.ledger_dir)
    if history.torn:
        msg = f"all entries of the release ledger must be readable, {_join(history.torn)} cannot be"
        raise UnknownReleasesError(msg)
    if aside := list_set_aside(settings.ledger_dir):
        msg = (
            f"the release ledger must be whole, but a broken one was set aside; restore "
            f"{_join(aside)}, or remove it if its releases are no longer needed"
        )
        raise UnknownReleasesError(msg)
    if not history.entries and (signs := _find_signs(settings, versions)):
        msg = f"there must be a release ledger, as there is {_join(signs)}; it is missing or empty"
        raise UnknownReleasesError(msg)
    try:
        current = read_current(settings)
    except ReleaseError as error:
        msg = f"{CURRENT} must be readable: {error}"
        raise UnknownReleasesError(msg) from error
    intent = read_intent(settings)
    if intent is None and (settings.serving_dir / INTENT).exists():
        msg = f"{INTENT} must be readable, it is torn; `ecg doctor` mends it"
        raise UnknownReleasesError(msg)
    try:
        candidate = read_candidate(settings.serving_dir / CANDIDATE)
    except CandidateError as error:
        raise UnknownReleasesError(str(error)) from error
    tried = () if candidate is None else (candidate.release,)
    others = [current, *((intent.before, intent.wanted) if intent else ()), *tried]
    return [entry.release for entry in history.entries] + [one for one in others if one is not None]


def _find_signs(settings: Settings, versions: Sequence[str]) -> list[str]:
    """Find what shows that there were releases."""
    signs = [
        name for name in (CURRENT, SERVED, LAST_GOOD) if (settings.serving_dir / name).exists()
    ]
    if any(settings.signatures_dir.glob("*.json")):
        signs.append("a signature of a release")
    if versions:
        signs.append("a registered model version")
    return signs


def _join(names: Sequence[str]) -> str:
    return ", ".join(names)
