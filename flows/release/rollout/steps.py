"""Start, advance and end a rollout; each step is recorded and holds the lock of releases."""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from ecg_lib.errors import EcgError
from ecg_lib.operations.learning.rollout.candidate import (
    HALT,
    Candidate,
    EndKind,
    Plan,
    read_halt,
)
from ecg_lib.operations.releases import Release, is_same_release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import StoreError
from flows.doors.release_history import (
    EventKind,
    LedgerError,
    find_known_worse,
    find_user,
    format_now,
)
from flows.release.integrity.aliases import note_pending
from flows.release.integrity.signing import ensure_signed
from flows.release.rollout import journal
from flows.release.transaction import (
    DEFAULT_STEPS,
    BusyError,
    Outcome,
    Steps,
    SupersededError,
    check_stored,
    locked,
    recover_locked,
    refuse_known_worse,
    release_model,
)

NO_CANDIDATE: Final = "no candidate is being tried; `ecg rollout start VERSION` starts one"

logger = logging.getLogger(__name__)


class Rollout(StrEnum):
    """Ways to release a model."""

    AT_ONCE = "at_once"
    GRADUAL = "gradual"
    """Shadow, a share of the people, then all."""


class RolloutError(EcgError):
    """A rollout cannot be started, advanced or stopped."""


def start_rollout(
    settings: Settings,
    wanted: Release,
    *,
    plan: Plan,
    why: str,
    who: str | None = None,
    replaces: bool = False,
    force: bool = False,
    steps: Steps = DEFAULT_STEPS,
) -> Candidate:
    """Try a release beside the served one, from shadow on.

    Args:
        settings: Where everything is.
        wanted: What to try; it must be in the store.
        plan: Stages and bounds; noted in the ledger before the first strip.
        why: For the ledger.
        who: Who asks for it; the user of this process when left out.
        replaces: End another candidate that is tried; refused otherwise.
        force: Try it although it was rolled back or taken back before.
        steps: How a release is carried out.

    Raises:
        RolloutError: If nothing is served, it is served already, has other code than what is
            served, or another candidate is tried.
        TransactionError: If it was rolled back before, or is not in the store.
        SigningError: If the store does not have it as it was packaged.
        SignatureError: If it has changed since it was signed.
        LedgerError: If the ledger cannot be written.
    """
    with locked(settings, steps=steps):
        current, history = recover_locked(settings, steps)
        if current is None:
            msg = "a candidate is tried beside a release, nothing is served; release it at once"
            raise RolloutError(msg)
        if is_same_release(current, wanted):
            msg = f"{wanted.bento_tag} is served already, there is nothing to try"
            raise RolloutError(msg)
        if current.code_hash != wanted.code_hash:
            msg = (
                f"a candidate must have the code of what is served ({current.code_hash[:12]}), "
                f"{wanted.bento_tag} has {wanted.code_hash[:12]}; release it at once"
            )
            raise RolloutError(msg)
        refuse_known_worse(wanted, find_known_worse(history), force=force)
        check_stored(settings, wanted)
        ensure_signed(settings, wanted, why=why)
        opened = journal.read_open(settings)
        if opened is not None:
            if is_same_release(opened.release, wanted):
                if opened.plan != plan:
                    msg = (
                        f"{wanted.bento_tag} is being tried with another plan; "
                        "`ecg rollout stop` ends it first"
                    )
                    raise RolloutError(msg)
                return opened
            if not replaces:
                msg = (
                    f"one candidate may be tried at a time, {opened.release.bento_tag} is; "
                    "`ecg rollout stop` ends it"
                )
                raise RolloutError(msg)
            ending = journal.make_ending(
                EndKind.STOPPED, f"replaced by {wanted.bento_tag}", who=who or find_user()
            )
            journal.end(settings, opened, ending, served=current.model_version)
        now = datetime.now(UTC)
        candidate = Candidate(
            id=str(uuid.uuid4()),
            release=wanted,
            champion=current,
            plan=plan,
            started_at=now,
            stage_since=now,
            who=who or find_user(),
            why=why,
            is_forced=force,
        )
        # A promotion made it champion: the alias goes back to what is served until the end.
        note_pending(settings, current.model_version)
        journal.write_open(settings, candidate)
        return journal.note_stage(settings, candidate)


def advance(
    settings: Settings,
    *,
    expected: Candidate | None = None,
    who: str | None = None,
    steps: Steps = DEFAULT_STEPS,
) -> Candidate | Outcome:
    """Bring the candidate into its next stage, or release it after the last one.

    The bounds are judged by :func:`flows.release.rollout.look.look_at_candidate`, which calls this.

    Args:
        settings: Where everything is.
        expected: The candidate that this was decided for, in its stage; whichever is tried when
            left out.
        who: Who asks for it; the user of this process when left out.
        steps: How a release is carried out.

    Raises:
        RolloutError: If there is no candidate, or another one, or it is in another stage by now,
            or the workers have ended it.
        ReleaseRefusedError: If the service refuses the release; the candidate then ends.
        EcgError: If the release cannot be made for another reason that stays; so it ends too.
    """
    who = who or find_user()
    with locked(settings, steps=steps):
        candidate = _require(settings, None if expected is None else expected.id, steps)
        if expected is not None:
            _require_same(candidate, expected)
        _refuse_halted(settings, candidate)
        if not candidate.is_last_stage:
            changed = candidate.model_copy(
                update={
                    "stage": candidate.stage + 1,
                    "stage_since": datetime.now(UTC),
                    "stage_strips": candidate.judged_strips,
                    "who": who,
                    "is_noted": False,
                }
            )
            journal.write_open(settings, changed)
            return journal.note_stage(settings, changed)
    release = candidate.release
    try:
        return release_model(
            settings,
            release.model_copy(update={"released_at": format_now()}),
            why=f"release model {release.model_version} after its rollout",
            who=who,
            expected=candidate.champion,
            force=candidate.is_forced,
            check=lambda: _refuse_halted(settings, _require_open(settings, candidate.id)),
            steps=steps,
        )
    except (RolloutError, BusyError, SupersededError, LedgerError, StoreError):
        raise  # it was ended meanwhile, or can be released later
    except EcgError as error:
        end_rollout(
            settings,
            EndKind.STOPPED,
            reason=str(error),
            expected=candidate.id,
            who=who,
            steps=steps,
        )
        raise


def end_rollout(
    settings: Settings,
    kind: EndKind,
    *,
    reason: str,
    expected: str | None = None,
    who: str | None = None,
    steps: Steps = DEFAULT_STEPS,
) -> Candidate:
    """End the candidate; the served release then answers everybody.

    Args:
        settings: Where everything is.
        kind: Whether it broke a bound, and so is not offered again.
        reason: Why, for the ledger.
        expected: Id of the candidate that this was decided for; whichever is tried when left out.
        who: Who asks for it; the user of this process when left out.
        steps: How a release is carried out.

    Raises:
        RolloutError: If there is no candidate, or another one.
        LedgerError: If the ledger cannot be written; the next holder of the lock notes it.
    """
    with locked(settings, steps=steps):
        candidate = _require(settings, expected, steps)
        ending = journal.make_ending(kind, reason, who=who or find_user())
        journal.end(settings, candidate, ending, served=candidate.champion.model_version)
    logger.warning("%s is %s: %s", candidate.release.bento_tag, kind.value, reason)
    return candidate


def take_back(
    settings: Settings, candidate_id: str, *, reason: str, steps: Steps = DEFAULT_STEPS
) -> EventKind | None:
    """Take a candidate back if it is still tried; return how it ended, now or before.

    Args:
        settings: Where everything is.
        candidate_id: The candidate; another one, also of the same bento, goes on.
        reason: Why, for the ledger.
        steps: How a release is carried out.

    Returns:
        TAKEN_BACK, STOPPED, or RELEASE for one that was released; None when nobody knows it.

    Raises:
        LedgerError: If the ledger cannot be written.
    """
    with locked(settings, steps=steps):
        _, history = recover_locked(settings, steps)
        candidate = journal.read_open(settings)
        if candidate is None or candidate.id != candidate_id:
            return journal.find_end(history, candidate_id)
        ending = journal.make_ending(EndKind.TAKEN_BACK, reason, who="flow rollback-champion")
        journal.end(settings, candidate, ending, served=candidate.champion.model_version)
    return EventKind.TAKEN_BACK


def find_candidate(settings: Settings, *, steps: Steps = DEFAULT_STEPS) -> Candidate | None:
    """Finish what a killed process left open, and return the candidate that is tried."""
    with locked(settings, steps=steps):
        recover_locked(settings, steps)
        return journal.read_open(settings)


def note_look(
    settings: Settings,
    candidate: Candidate,
    *,
    looks: int,
    strips: int,
    steps: Steps = DEFAULT_STEPS,
) -> Candidate:
    """Note that the bounds were judged, before anything follows from it.

    Raises:
        RolloutError: If another process has judged it, or brought it further, meanwhile.
    """
    with locked(settings, steps=steps):
        opened = _require(settings, candidate.id, steps)
        _require_same(opened, candidate)
        noted = opened.model_copy(update={"looks": looks, "judged_strips": strips})
        journal.write_open(settings, noted)
        return noted


def _require_same(opened: Candidate, expected: Candidate) -> None:
    """Refuse what was decided for a candidate that another process has judged or brought further.

    Raises:
        RolloutError: If it was.
    """
    if (opened.stage, opened.looks) != (expected.stage, expected.looks):
        msg = (
            f"{opened.release.bento_tag} was looked at meanwhile by another process, stage "
            f"{opened.current_stage.name}; look again"
        )
        raise RolloutError(msg)


def _refuse_halted(settings: Settings, candidate: Candidate) -> None:
    halt = read_halt(settings.serving_dir / HALT)
    if halt is not None and halt.candidate_id == candidate.id:
        msg = f"the service has ended {candidate.release.bento_tag}: {halt.reason}"
        raise RolloutError(msg)


def _require(settings: Settings, expected: str | None, steps: Steps) -> Candidate:
    recover_locked(settings, steps)
    return _require_open(settings, expected)


def _require_open(settings: Settings, expected: str | None) -> Candidate:
    candidate = journal.read_open(settings)
    if candidate is None:
        raise RolloutError(NO_CANDIDATE)
    if expected is not None and candidate.id != expected:
        msg = f"this was decided for another candidate than {candidate.release.bento_tag}"
        raise RolloutError(msg)
    return candidate
