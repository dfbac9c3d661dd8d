"""Wait for a person before a release: a pause of the flow run with a form in the Prefect UI."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from prefect import get_run_logger, pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from pydantic import Field

from ecg_lib.errors import EcgError
from ecg_lib.operations.keys.signatures import is_signed
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import append_event
from flows.doors.release_history import EventKind, make_event

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_S: Final = 5


class ApprovalError(EcgError):
    """Nobody allowed a release in time."""


class RejectedError(ApprovalError):
    """A person refused a release; it is not offered again."""


class Approval(RunInput):
    """The form of an approval."""

    approve: bool
    who: Annotated[str, Field(min_length=1, max_length=100)]
    comment: Annotated[str, Field(max_length=500)] = ""


class Answer(NamedTuple):
    """The answer of a person, or that there was none."""

    kind: EventKind
    """APPROVED, REJECTED or EXPIRED."""
    who: str | None
    """The name in the form; None for one that nobody answered."""
    why: str


def wait_for_approval(settings: Settings, release: Release, *, what: str, hours: float) -> None:
    """Pause the flow run until a person allows a release, and note the answer in the ledger.

    Args:
        settings: Where everything is.
        release: The release that waits.
        what: The next step, such as ``release it at once``.
        hours: How long the run waits; without an answer the release is not made.

    Raises:
        RejectedError: If it is refused.
        ApprovalError: If nobody answers in time.
        LedgerError: If the answer cannot be noted.
    """
    answer = ask(release, what=what, hours=hours)
    note_answer(settings, release, answer)
    if answer.kind is not EventKind.APPROVED:
        whose = "" if answer.who is None else f"{answer.who}, "
        msg = f"model {release.model_version} is not released: {whose}{answer.why}"
        raise (RejectedError if answer.kind is EventKind.REJECTED else ApprovalError)(msg)
    get_run_logger().info("approved by %s: %s", answer.who, answer.why)


def ask(
    release: Release,
    *,
    what: str,
    hours: float,
    pause: Callable[..., Approval | None] = pause_flow_run,
) -> Answer:
    """Ask for an approval, and wait for it.

    Args:
        release: The release that waits.
        what: The next step.
        hours: How long to wait.
        pause: Pauses the flow run.
    """
    text = (
        f"Model {release.model_version}, bento `{release.bento_tag}`: {what}? Without an answer "
        f"within {hours:g} h it is not released."
    )
    get_run_logger().info("waits %g h for an approval: %s", hours, text)
    try:
        given = pause(
            wait_for_input=Approval.with_initial_data(description=text),
            timeout=max(round(3600 * hours), 1),
            poll_interval=_POLL_S,
        )
    except FlowPauseTimeout:
        return Answer(EventKind.EXPIRED, None, f"no answer within {hours:g} h")
    if given is None:
        return Answer(EventKind.EXPIRED, None, "the run was resumed without an answer")
    kind = EventKind.APPROVED if given.approve else EventKind.REJECTED
    return Answer(kind, given.who, given.comment.strip() or "no comment")


def note_answer(settings: Settings, release: Release, answer: Answer) -> None:
    """Note the answer in the ledger."""
    event = make_event(
        answer.kind,
        release,
        event_id=str(uuid.uuid4()),
        who=answer.who or "ecg",
        why=answer.why,
        is_signed=is_signed(settings, release),
    )
    append_event(
        settings.ledger_dir,
        event,
        reason=f"{answer.kind.value}: model {release.model_version}, {answer.why}",
        metrics={},
        model_card="",
    )
