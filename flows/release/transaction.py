"""Release and rollback as one recorded transaction, without Prefect and without MLflow.

One process at a time holds the lock. It writes its intent, tells the service by ``current.json``,
waits for the service's own answers, notes the event in the ledger, notes which alias must follow,
and removes the intent. Every step can be repeated: the next holder of the lock finds the intent of
a process that was killed. If the service was already asked to switch it finishes the release,
else it undoes it.
"""

from __future__ import annotations

import fcntl
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_lib.errors import EcgError
from ecg_lib.operations.keys.signatures import SignatureError, check_code, is_signed
from ecg_lib.operations.learning.rollout.candidate import CANDIDATE
from ecg_lib.operations.releases import (
    CURRENT,
    Release,
    ReleaseError,
    bento_source,
    is_same_release,
    read_release,
    write_release,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.shared_releases import RELEASE_LOCK
from ecg_lib.records.atomic_files import write_durably
from flows.doors.ledger import push_ledger, read_ledger
from flows.doors.release_history import (
    EventKind,
    LedgerError,
    LedgerHistory,
    find_known_worse,
    find_previous,
    find_release,
    find_user,
    format_now,
    make_event,
)
from flows.release.integrity.aliases import note_pending
from flows.release.integrity.ledger_notes import is_damaged, note_event, note_unrecorded
from flows.release.integrity.sharing import fetch_missing, join, sharing
from flows.release.integrity.signing import ensure_signed, prepare_signing
from flows.release.rollout.journal import read_open, settle
from flows.release.switch_service import (
    SWITCH_TIMEOUT_S,
    Ask,
    ReleaseRefusedError,
    Switch,
    ask_service,
    find_bundle,
    wait_until_served,
)

INTENT: Final = "release-intent.json"
"""The release or rollback that is under way, below ``serving``."""

_LOCK_TIMEOUT_S: Final = 150.0
_LOCK_POLL_S: Final = 0.05

logger = logging.getLogger(__name__)


class TransactionError(EcgError):
    """A release or rollback is refused before the service is asked to switch."""


class SupersededError(TransactionError):
    """Another release is served than the one that this was decided against."""


class BusyError(TransactionError):
    """Another release or rollback is under way."""


class Step(StrEnum):
    """The steps, in their order."""

    LOCKED = "locked"
    INTENT_WRITTEN = "intent written"
    SWITCHED = "switched"
    VERIFIED = "verified"
    NOTED_IN_LEDGER = "noted in ledger"
    ALIAS_PENDING = "alias pending"
    CLOSED = "closed"
    PUT_BACK = "put back"


class Intent(BaseModel):
    """A release or rollback as it was decided; the file exists while it is open."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    kind: EventKind
    who: str
    why: str
    at: str
    before: Release | None
    wanted: Release


class Outcome(NamedTuple):
    """The release that is served after a release or rollback."""

    release: Release
    before: Release | None
    is_new: bool
    """False when it was served already and nothing was done."""
    switch: Switch


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How the steps are carried out; what differs in tests."""

    ask: Ask = ask_service
    timeout_s: float = SWITCH_TIMEOUT_S
    lock_timeout_s: float = _LOCK_TIMEOUT_S
    on_step: Callable[[Step], None] = lambda _: None


DEFAULT_STEPS: Final = Steps()


def release_model(
    settings: Settings,
    wanted: Release,
    *,
    why: str,
    who: str | None = None,
    expected: Release | None = None,
    force: bool = False,
    check: Callable[[], object] | None = None,
    steps: Steps = DEFAULT_STEPS,
) -> Outcome:
    """Serve a release, or leave everything as it was.

    Args:
        settings: Where everything is.
        wanted: What to serve.
        why: For the ledger, such as ``release model 3``.
        who: Who asks for it; the user of this process when left out.
        expected: What must be served now; whatever it is when left out.
        force: Serve it although it was rolled back before, or is tried in a rollout.
        check: Called under the lock before anything changes; may raise. A rollout, which alone
            gives it, may release what is tried.
        steps: How the steps are carried out.

    Raises:
        SupersededError: If another release is served than expected.
        TransactionError: If it was rolled back before, or is not in the store.
        SigningError: If the store does not have it as it was packaged.
        SignatureError: If it has changed since it was signed.
        ReleaseRefusedError: If the service refuses it or does not take it in time.
        LedgerError: If the ledger cannot be written; the release then is served and is noted by
            the next holder of the lock.
    """
    with locked(settings, steps=steps):
        current, history = recover_locked(settings, steps)
        if expected is not None and not is_same_release(current, expected):
            raise SupersededError(describe_superseded(expected, current))
        if is_same_release(current, wanted):
            ensure_signed(settings, wanted, why=why)
            return _unchanged(settings, wanted, steps)
        refuse_known_worse(wanted, find_known_worse(history), force=force)
        if check is not None:
            check()
        elif not force:
            _refuse_tried(settings, wanted)
        intent = _decide(EventKind.RELEASE, settings, current, wanted, who=who, why=why)
        return _carry_out(intent, settings, steps)


def roll_back(
    settings: Settings,
    *,
    why: str,
    who: str | None = None,
    to: str | None = None,
    decided_against: str | None = None,
    force: bool = False,
    steps: Steps = DEFAULT_STEPS,
) -> Outcome:
    """Serve an earlier release again, code and model together.

    Args:
        settings: Where everything is.
        why: For the ledger.
        who: Who asks for it; the user of this process when left out.
        to: Model version, bento tag or ledger commit; the release before the current one in
            history when left out.
        decided_against: Bento tag that must be served now; whatever it is when left out.
        force: Go back although the release was rolled back itself.
        steps: How the steps are carried out.

    Raises:
        SupersededError: If another release is served than the one decided against.
        LedgerError: If there is no such release, or the ledger cannot be written.
        TransactionError: If the release was rolled back itself, or is not in the store.
        SignatureError: If it is not signed, or has changed since it was signed.
        ReleaseRefusedError: If the service refuses it or does not take it in time.
    """
    with locked(settings, steps=steps):
        current, history = recover_locked(settings, steps)
        if decided_against and (current is None or current.bento_tag != decided_against):
            raise SupersededError(describe_superseded(decided_against, current))
        if current is None:
            msg = "there must be a release to roll back, nothing was released yet"
            raise LedgerError(msg)
        target = find_previous(history, current) if to is None else find_release(history, to)
        if is_same_release(current, target.release):
            return _unchanged(settings, current, steps)
        refuse_known_worse(target.release, find_known_worse(history), force=force)
        wanted = target.release.model_copy(update={"released_at": format_now()})
        intent = _decide(EventKind.ROLLBACK, settings, current, wanted, who=who, why=why)
        return _carry_out(intent, settings, steps)


def recover(settings: Settings, *, steps: Steps = DEFAULT_STEPS) -> Release | None:
    """Finish or undo what a killed process left open; return the release to serve.

    Raises:
        BusyError: If a release or rollback is under way.
        LedgerError: If the ledger cannot be written.
    """
    with locked(settings, steps=steps):
        return recover_locked(settings, steps)[0]


def read_intent(settings: Settings) -> Intent | None:
    """Read the intent that is open; None when there is none, or the file is torn."""
    try:
        return Intent.model_validate_json((settings.serving_dir / INTENT).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        logger.warning("%s is torn: the release that it named is found by what is served", INTENT)
        return None


@contextmanager
def locked(
    settings: Settings, *, steps: Steps = DEFAULT_STEPS, is_shared: bool = True
) -> Iterator[None]:
    """Hold the lock of all releases and rollbacks; it falls with its process.

    Args:
        settings: The home.
        steps: How long to wait.
        is_shared: Hold the lease of the store too, and publish what has changed at the end.

    Raises:
        BusyError: If another process holds it too long.
        TransactionError: If the directory cannot be written.
        StoreError: If the store cannot be reached, or another machine holds it too long.
        PublishError: If the home has changed, and the store has not taken that.
    """
    try:
        settings.serving_dir.mkdir(parents=True, exist_ok=True)
        lock = (settings.serving_dir / RELEASE_LOCK).open("a")
    except OSError as error:
        msg = f"{settings.serving_dir.name} must be writable for a release, {error.strerror}"
        raise TransactionError(msg) from error
    with lock:
        deadline_s = time.monotonic() + steps.lock_timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    msg = (
                        "one release or rollback may be under way at a time, another one is since "
                        f"{steps.lock_timeout_s:g} s; try again when it has ended"
                    )
                    raise BusyError(msg) from None
                time.sleep(_LOCK_POLL_S)
        steps.on_step(Step.LOCKED)
        if is_shared:
            with sharing(settings, wait_s=steps.lock_timeout_s):
                yield
        else:
            yield


def _unchanged(settings: Settings, release: Release, steps: Steps) -> Outcome:
    health = steps.ask(settings)
    is_running = health.presence is not health.presence.ABSENT
    return Outcome(release, release, is_new=False, switch=Switch(is_running, 0.0))


def check_stored(settings: Settings, wanted: Release) -> None:
    """Check that the store has code and model of a release.

    Raises:
        TransactionError: If it has not.
        ReleaseError: If another machine packaged it, and the shared store lacks it too.
    """
    fetch_missing(settings, wanted)
    if not bento_source(settings.bentoml_home, wanted).is_dir():
        msg = f"{wanted.bento_tag} must be in the bento store to be served, it is not"
        raise TransactionError(msg)
    if not find_bundle(settings, wanted.model_tag).is_dir():
        msg = f"{wanted.model_tag} must be in the model store to be served, it is not"
        raise TransactionError(msg)


def _decide(
    kind: EventKind,
    settings: Settings,
    before: Release | None,
    wanted: Release,
    *,
    who: str | None,
    why: str,
) -> Intent:
    """Check what can be checked before the service is asked to switch."""
    check_stored(settings, wanted)
    if kind is EventKind.RELEASE:
        ensure_signed(settings, wanted, why=why)
    else:
        check_code(settings, wanted)
    return Intent(
        id=str(uuid.uuid4()),
        kind=kind,
        who=who or find_user(),
        why=why,
        at=format_now(),
        before=before,
        wanted=wanted,
    )


def _carry_out(intent: Intent, settings: Settings, steps: Steps) -> Outcome:
    before = steps.ask(settings)
    _write_intent(intent, settings)
    steps.on_step(Step.INTENT_WRITTEN)
    try:
        write_release(settings.serving_dir / CURRENT, intent.wanted)
    except OSError as error:
        _put_back(intent, settings, EventKind.ABANDONED, str(error.strerror), steps)
        msg = f"{CURRENT} must be writable for a release, {error.strerror}; nothing has changed"
        raise TransactionError(msg) from error
    steps.on_step(Step.SWITCHED)
    switch = wait_until_served(
        intent.wanted, settings, before=before, ask=steps.ask, timeout_s=steps.timeout_s
    )
    return _conclude(intent, settings, switch, steps)


def _conclude(intent: Intent, settings: Settings, switch: Switch, steps: Steps) -> Outcome:
    if switch.refusal:
        _put_back(intent, settings, EventKind.REFUSED, switch.refusal, steps)
        served = "nothing" if intent.before is None else intent.before.bento_tag
        msg = (
            f"the service refused {intent.wanted.bento_tag} ({switch.refusal}); {served} is "
            "served as before"
        )
        raise ReleaseRefusedError(msg)
    steps.on_step(Step.VERIFIED)
    _finish(intent, settings, steps, is_verified=switch.is_running)
    return Outcome(intent.wanted, intent.before, is_new=True, switch=switch)


def _finish(intent: Intent, settings: Settings, steps: Steps, *, is_verified: bool) -> None:
    wanted, before = intent.wanted, intent.before
    _note(settings, intent, intent.kind, _describe(intent), is_verified=is_verified)
    steps.on_step(Step.NOTED_IN_LEDGER)
    is_worse = intent.kind is EventKind.ROLLBACK and before is not None
    note_pending(
        settings,
        wanted.model_version,
        rolled_back=before.model_version if is_worse and before else None,
    )
    steps.on_step(Step.ALIAS_PENDING)
    settle(settings, wanted)  # a candidate that was released, or whose champion is not served now
    (settings.serving_dir / INTENT).unlink(missing_ok=True)
    steps.on_step(Step.CLOSED)


def _put_back(
    intent: Intent, settings: Settings, kind: EventKind, reason: str, steps: Steps
) -> None:
    """Let the service serve what it served before, and note why."""
    path = settings.serving_dir / CURRENT
    current = _read_or_none(path)
    if current is None or is_same_release(current, intent.wanted):
        if intent.before is None:
            path.unlink(missing_ok=True)
        else:
            write_release(path, intent.before)
    steps.on_step(Step.PUT_BACK)
    _note(settings, intent, kind, f"{_describe(intent)}: {kind.value}, {reason}", is_verified=False)
    steps.on_step(Step.NOTED_IN_LEDGER)
    if intent.before is not None:
        note_pending(settings, intent.before.model_version)
    steps.on_step(Step.ALIAS_PENDING)
    (settings.serving_dir / INTENT).unlink(missing_ok=True)
    steps.on_step(Step.CLOSED)


def recover_locked(settings: Settings, steps: Steps) -> tuple[Release | None, LedgerHistory]:
    """Do the same as :func:`recover` for a caller who holds the lock; return the ledger too."""
    path = settings.serving_dir / CURRENT
    intent = read_intent(settings)
    if intent is None:  # otherwise this home may have released what the store does not know
        join(settings)
    prepare_signing(settings, read_ledger(settings.ledger_dir))
    if intent is not None:
        _resume(intent, settings, steps)
        join(settings)
    else:
        (settings.serving_dir / INTENT).unlink(missing_ok=True)
    history = read_ledger(settings.ledger_dir)
    current: Release | None = None
    try:
        current = read_release(path)
        is_torn = is_damaged(settings, history, current)
    except ReleaseError:
        if history.latest is None:
            raise
        is_torn = True
    if is_torn and history.latest is not None:
        current = history.latest.release
        logger.warning("%s is torn and is written again by the ledger", CURRENT)
        write_release(path, current)
    if note_unrecorded(settings, history, current):
        history = read_ledger(settings.ledger_dir)
    if (settings.serving_dir / CANDIDATE).exists():
        settle(settings, current)
        history = read_ledger(settings.ledger_dir)
    return current, history


def _resume(intent: Intent, settings: Settings, steps: Steps) -> None:
    """Finish or undo a transaction whose process was killed."""
    history = read_ledger(settings.ledger_dir)
    noted = next((one for one in history.entries if one.event.id == intent.id), None)
    current = _read_or_none(settings.serving_dir / CURRENT)
    logger.warning("%s was interrupted and is brought to an end", _describe(intent))
    if noted is not None and noted.is_served:
        _finish(intent, settings, steps, is_verified=noted.event.is_verified)
    elif noted is not None:
        _put_back(intent, settings, noted.event.kind, "interrupted", steps)
    elif is_same_release(current, intent.wanted):
        try:
            check_code(settings, intent.wanted)
        except SignatureError as error:
            _put_back(intent, settings, EventKind.REFUSED, str(error), steps)
            return
        before = steps.ask(settings)
        switch = wait_until_served(
            intent.wanted, settings, before=before, ask=steps.ask, timeout_s=steps.timeout_s
        )
        try:
            _conclude(intent, settings, switch, steps)
        except ReleaseRefusedError as error:
            logger.warning("%s", error)
    else:
        _put_back(intent, settings, EventKind.ABANDONED, "interrupted", steps)


def _note(
    settings: Settings, intent: Intent, kind: EventKind, reason: str, *, is_verified: bool
) -> None:
    event = make_event(
        kind,
        intent.wanted,
        event_id=intent.id,
        who=intent.who,
        why=intent.why,
        at=intent.at,
        before=intent.before,
        is_verified=is_verified,
        is_signed=is_signed(settings, intent.wanted),
    )
    note_event(settings, event, reason=reason)
    if settings.ledger_remote is not None:
        try:
            push_ledger(settings.ledger_dir, settings.ledger_remote)
        except LedgerError as error:
            logger.warning("%s; the next event is pushed with this one", error)


def _write_intent(intent: Intent, settings: Settings) -> None:
    try:
        write_durably(settings.serving_dir / INTENT, intent.model_dump_json(indent=2))
    except OSError as error:
        msg = f"{INTENT} must be writable for a release, {error.strerror}; nothing has changed"
        raise TransactionError(msg) from error


def _read_or_none(path: Path) -> Release | None:
    try:
        return read_release(path)
    except ReleaseError:
        return None


def refuse_known_worse(release: Release, worse: dict[str, str], *, force: bool) -> None:
    """Refuse a release that was rolled back or taken back.

    Raises:
        TransactionError: If it was, and is not forced.
    """
    if release.bento_tag in worse and not force:
        msg = (
            "a release that was rolled back, taken back or rejected is served only by force: "
            f"{release.bento_tag} was, because of: {worse[release.bento_tag]}; name another one "
            "or force it"
        )
        raise TransactionError(msg)


def _refuse_tried(settings: Settings, wanted: Release) -> None:
    """Refuse to release at once what a rollout tries beside the served release."""
    tried = read_open(settings)
    if tried is not None and is_same_release(tried.release, wanted):
        msg = (
            f"{wanted.bento_tag} is being tried in a gradual rollout, stage "
            f"{tried.current_stage.name}; `ecg rollout advance` brings it further, or force the "
            "release"
        )
        raise TransactionError(msg)


def _describe(intent: Intent) -> str:
    """Say in one line what is done; the first line of the ledger's commit."""
    if intent.kind is not EventKind.ROLLBACK or intent.before is None:
        return intent.why
    before, wanted = intent.before, intent.wanted
    if before.model_version == wanted.model_version:
        return f"roll back {before.bento_tag} to {wanted.bento_tag}: {intent.why}"
    return f"roll back model {before.model_version} to {wanted.model_version}: {intent.why}"


def describe_superseded(expected: Release | str | None, current: Release | None) -> str:
    """Describe that another release is served than something was decided against."""
    tag = expected if isinstance(expected, str) else name_release(expected)
    served = name_release(current)
    return f"this was decided against {tag}, but {served} is served now; nothing has changed"


def name_release(release: Release | None) -> str:
    """Name what is served."""
    return "nothing" if release is None else release.bento_tag
