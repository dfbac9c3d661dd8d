"""The history of releases in the ledger: its events, and the way back from the current one.

How they are stored is in :mod:`flows.doors.ledger`.
"""

from __future__ import annotations

import getpass
import os
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import Release, is_same_release


class LedgerError(EcgError):
    """The ledger has no such release, or cannot be written or pushed."""


class EventKind(StrEnum):
    """Kinds of entries of the ledger."""

    RELEASE = "release"
    ROLLBACK = "rollback"
    NOTED = "noted"
    """A release that was found served, without an entry."""
    REFUSED = "refused"
    """A release that the service did not take; what was served before is served on."""
    ABANDONED = "abandoned"
    """A release that was interrupted before the service was asked to switch."""
    SIGNED = "signed"
    """A release of the store was signed, after it was made."""
    CANDIDATE = "candidate"
    """A release is tried beside the served one, in shadow first."""
    STAGE = "stage"
    """A candidate came into its next stage."""
    TAKEN_BACK = "taken back"
    """A candidate broke a bound; it is not offered again."""
    STOPPED = "stopped"
    """A candidate was ended for another reason."""
    APPROVED = "approved"
    """A person allowed a release."""
    REJECTED = "rejected"
    """A person refused a release; it is made only by force, or after an approval."""
    BASELINE = "baseline"
    """A person said what the drift of the served model is compared with."""
    EXPIRED = "expired"
    """Nobody answered in time; the release is not made, and may be asked for again."""


SERVED_KINDS: Final = frozenset({EventKind.RELEASE, EventKind.ROLLBACK, EventKind.NOTED})
"""Events after which their release is the one that is served."""

_WITHIN_ROLLOUT: Final = frozenset(
    {
        EventKind.RELEASE,
        EventKind.STAGE,
        EventKind.APPROVED,
        EventKind.SIGNED,
        EventKind.BASELINE,
    }
)
"""Events between which and the candidate's its rollout went on, or had ended well."""


class LedgerEvent(BaseModel):
    """One event, as ``event.json`` of its commit has it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    kind: EventKind
    who: str
    why: str
    at: str
    before: Release | None
    """The release that was served before."""
    release: Release
    """The release that the event is about."""
    is_verified: bool
    """True when the running service answered with the release."""
    is_signed: bool = False
    """True when the release had a valid signature; code without signatures wrote no such field."""
    rollout: dict[str, Any] | None = None
    """Of a candidate, its stages and bounds."""


def make_event(
    kind: EventKind,
    release: Release,
    *,
    why: str,
    is_signed: bool,
    event_id: str | None = None,
    who: str = "ecg",
    at: str | None = None,
    before: Release | None = None,
    is_verified: bool = False,
    rollout: dict[str, Any] | None = None,
) -> LedgerEvent:
    """Make an event, of now and with an id of its own where none is given."""
    return LedgerEvent(
        id=event_id or str(uuid.uuid4()),
        kind=kind,
        who=who,
        why=why,
        at=at or format_now(),
        before=before,
        release=release,
        is_verified=is_verified,
        is_signed=is_signed,
        rollout=rollout,
    )


def format_now() -> str:
    """Return the present time as events have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def find_user() -> str:
    """Return the name of the user of this process, for the ledger."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"user {os.getuid()}"


class LedgerEntry(NamedTuple):
    """One commit of the ledger."""

    commit: str
    committed_at: datetime
    event: LedgerEvent
    reason: str
    """First line of the commit."""
    metrics: dict[str, Any]
    model_card: str

    @property
    def release(self) -> Release:
        """The release that the event is about."""
        return self.event.release

    @property
    def is_served(self) -> bool:
        """True when the release was served from then on."""
        return self.event.kind in SERVED_KINDS


class LedgerHistory(NamedTuple):
    """All entries that can be read, latest first, and those that cannot."""

    entries: list[LedgerEntry]
    torn: list[str]
    """Commits or objects that cannot be read."""

    @property
    def latest(self) -> LedgerEntry | None:
        """The entry of what is served."""
        return next((entry for entry in self.entries if entry.is_served), None)


def list_way_back(history: LedgerHistory) -> list[LedgerEntry]:
    """List the releases that lead to what is served, oldest first; a rollback takes steps off."""
    way: list[LedgerEntry] = []
    for entry in reversed(history.entries):
        if not entry.is_served:
            continue
        places = [
            place for place, one in enumerate(way) if is_same_release(one.release, entry.release)
        ]
        if entry.event.kind is EventKind.ROLLBACK and places:
            way = way[: places[-1] + 1]
        elif not way or not is_same_release(way[-1].release, entry.release):
            way.append(entry)
    return way


def find_previous(history: LedgerHistory, current: Release) -> LedgerEntry:
    """Find the release before the current one in history.

    Raises:
        LedgerError: If there is none.
    """
    way = list_way_back(history)
    while way and is_same_release(way[-1].release, current):
        way.pop()
    if not way:
        msg = "there must be an earlier release to go back to, the ledger has none"
        raise LedgerError(msg)
    return way[-1]


def find_release(history: LedgerHistory, name: str) -> LedgerEntry:
    """Find the latest entry of a served release by model version, bento tag or ledger commit.

    Raises:
        LedgerError: If there is none.
    """
    served = [entry for entry in history.entries if entry.is_served]
    for entry in served:
        if name in {entry.release.model_version, entry.release.bento_tag, entry.commit}:
            return entry
    by_commit = [entry for entry in served if len(name) >= 7 and entry.commit.startswith(name)]
    if by_commit:
        return by_commit[0]
    known = sorted({entry.release.model_version for entry in served})
    msg = (
        f"a release must be a model version that was released ({known}), a bento tag or a commit "
        f"of the ledger, got {name!r}"
    )
    raise LedgerError(msg)


def find_rollout_begin(history: LedgerHistory, release: Release) -> datetime | None:
    """Find when the rollout of a release began; None when it was released at once."""
    for entry in history.entries:
        if is_same_release(entry.release, release):
            if entry.event.kind is EventKind.CANDIDATE:
                return datetime.fromisoformat(entry.event.at)
            if entry.event.kind not in _WITHIN_ROLLOUT:
                return None
    return None


def find_baseline_change(history: LedgerHistory, bundle_hash: str) -> datetime | None:
    """Find when a baseline of a bundle was last accepted or reset; None when never."""
    for entry in history.entries:
        if entry.event.kind is EventKind.BASELINE and entry.release.bundle_hash == bundle_hash:
            return datetime.fromisoformat(entry.event.at)
    return None


def find_known_worse(history: LedgerHistory) -> dict[str, str]:
    """Find the releases that were rolled back, taken back or rejected: the reason by bento tag.

    A later approval by a person takes a rejection back.
    """
    worse: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for entry in reversed(history.entries):
        event = entry.event
        if event.kind is EventKind.ROLLBACK and event.before is not None:
            worse[event.before.bento_tag] = event.why
        elif event.kind is EventKind.TAKEN_BACK:
            worse[event.release.bento_tag] = event.why
        elif event.kind is EventKind.REJECTED:
            rejected[event.release.bento_tag] = event.why
        elif event.kind is EventKind.APPROVED:
            rejected.pop(event.release.bento_tag, None)
    return rejected | worse
