"""The journal of a rollout: ``candidate.json`` and its events in the ledger.

The file is written first and says what is not noted yet, so that whoever takes the lock of releases
next finishes what a killed process left. All functions are called under that lock.
"""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime
from typing import Final

from ecg_lib.operations.keys.signatures import is_signed
from ecg_lib.operations.learning.rollout.candidate import (
    CANDIDATE,
    HALT,
    Candidate,
    CandidateError,
    Ending,
    EndKind,
    read_candidate,
    write_candidate,
)
from ecg_lib.operations.releases import Release, is_same_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import append_event
from flows.doors.release_history import EventKind, LedgerHistory, make_event
from flows.release.integrity.aliases import note_pending

_KINDS: Final = {
    EndKind.TAKEN_BACK: EventKind.TAKEN_BACK,
    EndKind.STOPPED: EventKind.STOPPED,
}

logger = logging.getLogger(__name__)


def read_open(settings: Settings) -> Candidate | None:
    """Read the candidate; None when there is none, or its file is torn."""
    try:
        return read_candidate(settings.serving_dir / CANDIDATE)
    except CandidateError as error:
        logger.warning("%s; it counts as none", error)
        return None


def write_open(settings: Settings, candidate: Candidate) -> None:
    """Write the candidate, which the workers then follow."""
    write_candidate(settings.serving_dir / CANDIDATE, candidate)


def note_stage(settings: Settings, candidate: Candidate) -> Candidate:
    """Note the present stage in the ledger, with all bounds, and then that it is noted."""
    stage, release = candidate.current_stage, candidate.release
    is_first = candidate.stage == 0
    reason = f"try model {release.model_version} beside {candidate.champion.model_version}: "
    event = make_event(
        EventKind.CANDIDATE if is_first else EventKind.STAGE,
        release,
        event_id=_name_event(candidate.id, f"stage {candidate.stage}"),
        who=candidate.who,
        why=candidate.why if is_first else f"stage {stage.name}",
        at=_format(candidate.stage_since),
        before=candidate.champion,
        is_signed=is_signed(settings, release),
        rollout=candidate.plan.model_dump(mode="json"),
    )
    append_event(settings.ledger_dir, event, reason=reason + stage.name, metrics={}, model_card="")
    noted = candidate.model_copy(update={"is_noted": True})
    write_open(settings, noted)
    return noted


def end(settings: Settings, candidate: Candidate, ending: Ending, *, served: str) -> None:
    """End a candidate: workers leave it at once, then write the ledger and the aliases.

    Args:
        settings: Where everything is.
        candidate: The candidate.
        ending: How and why.
        served: Model version that is served.
    """
    ended = candidate.model_copy(update={"ending": ending})
    write_open(settings, ended)
    close(settings, ended, served=served)


def close(settings: Settings, candidate: Candidate, *, served: str) -> None:
    """Note the end of a candidate, and remove its files; one without an end is removed alone."""
    ending, release = candidate.ending, candidate.release
    if ending is not None:
        event = make_event(
            _KINDS[ending.kind],
            release,
            event_id=_name_event(candidate.id, "end"),
            who=ending.who,
            why=ending.reason,
            at=_format(ending.at),
            before=candidate.champion,
            is_signed=is_signed(settings, release),
        )
        reason = f"{ending.kind.value}: model {release.model_version}, {ending.reason}"
        append_event(settings.ledger_dir, event, reason=reason, metrics={}, model_card="")
        is_worse = ending.kind is EndKind.TAKEN_BACK and release.model_version != served
        note_pending(settings, served, rolled_back=release.model_version if is_worse else None)
    (settings.serving_dir / CANDIDATE).unlink(missing_ok=True)
    (settings.serving_dir / HALT).unlink(missing_ok=True)


def settle(settings: Settings, current: Release | None) -> Candidate | None:
    """Finish what a killed process left open, and return the candidate that is tried.

    One that was made against another release than the current one is ended.
    """
    candidate = read_open(settings)
    if candidate is None:
        return None
    served = "" if current is None else current.model_version
    if candidate.ending is not None:
        close(settings, candidate, served=served)
        return None
    if is_same_release(current, candidate.release):
        close(settings, candidate, served=served)
        return None
    if current is None or not is_same_release(current, candidate.champion):
        end_for(settings, candidate, current)
        return None
    return candidate if candidate.is_noted else note_stage(settings, candidate)


def end_for(settings: Settings, candidate: Candidate, current: Release | None) -> None:
    """End a candidate because another release is served."""
    tag = "nothing" if current is None else current.bento_tag
    ending = make_ending(EndKind.STOPPED, f"{tag} is served instead of its champion", who="ecg")
    end(settings, candidate, ending, served="" if current is None else current.model_version)


def make_ending(kind: EndKind, reason: str, *, who: str) -> Ending:
    """Make the end of a candidate, as of now."""
    return Ending(kind=kind, reason=" ".join(reason.split()), who=who, at=datetime.now(UTC))


def find_end(history: LedgerHistory, candidate_id: str) -> EventKind | None:
    """Find how a candidate ended; RELEASE for one that was released, None for an unknown one."""
    begun: Release | None = None
    released: list[Release] = []
    for entry in history.entries:  # the latest first
        event = entry.event
        if event.id == _name_event(candidate_id, "end"):
            return event.kind
        if event.id == _name_event(candidate_id, "stage 0"):
            begun = event.release
            break
        if event.kind is EventKind.RELEASE:
            released.append(event.release)
    if begun is not None and any(is_same_release(one, begun) for one in released):
        return EventKind.RELEASE
    return None


def _name_event(candidate_id: str, what: str) -> str:
    """Name an event so that it is the same when it is noted again."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"rollout {candidate_id} {what}"))


def _format(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
