"""The candidate: a release that is tried beside the served one, as a file.

``serving/candidate.json`` is written by rollouts alone, under the lock of releases, and is watched
by the workers as ``current.json`` is. It is the journal of the rollout too: what is not noted in
the ledger yet, or has ended and is not closed yet, is finished by whoever takes the lock next.
A worker that must end a candidate at once writes ``candidate-halt.json`` beside it.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import Release
from ecg_lib.records.atomic_files import write_durably

CANDIDATE: Final = "candidate.json"
"""The candidate that is open, below ``serving``."""

HALT: Final = "candidate-halt.json"
"""The candidate that the workers ended by themselves, and why."""


class CandidateError(EcgError):
    """The file of a candidate cannot be read."""


class Stage(BaseModel):
    """One stage of a rollout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(ge=0, lt=1)]
    """Share of the people whom the candidate answers; 0 is shadow."""
    min_hours: Annotated[float, Field(ge=0)]
    min_strips: Annotated[int, Field(ge=1)]
    """Least number of strips that both models classified; beyond shadow, of those that the
    candidate answered."""
    min_groups: Annotated[int, Field(ge=1)]
    """Least number of people, or clients that name none, of whom these strips are."""

    @property
    def name(self) -> str:
        """Name of the stage: ``shadow``, or its share such as ``10 %``."""
        return "shadow" if self.share == 0 else f"{100 * self.share:g} %"


class Bounds(BaseModel):
    """The limits that end a candidate, stated before it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_v_share_rise: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Largest rise of the share of V among the beats, as the mean over people."""
    max_v_share_fall: Annotated[float, Field(ge=0, lt=1)] = 0.10
    """Largest fall of that share."""
    max_v_lost: Annotated[float, Field(ge=0, lt=1)] = 0.20
    """Largest share of the champion's V beats that the candidate does not call V, as the mean over
    people who have any."""
    max_unclassed_rise: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Largest share of the champion's classes that the candidate has fewer, as the mean over
    people."""
    max_run_share_rise: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Largest rise of the share of strips with a reported V run, as the mean over people."""
    max_run_share_fall: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Largest fall of that share."""
    max_refused_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Largest share of strips that the candidate refuses and the champion answers."""
    max_accepted_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Largest share of strips that the candidate answers and the champion refuses."""
    max_latency_ratio: Annotated[float, Field(gt=1)] = 2.0
    """Largest median of the time for a strip, divided by that of the champion."""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """Number of errors of the candidate in one worker that end it at once."""
    false_return_chance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Largest chance that a candidate within all limits is taken back, over the whole rollout."""


SHADOW: Final = Stage(share=0.0, min_hours=6.0, min_strips=200, min_groups=10)
DEFAULT_STAGES: Final = (
    SHADOW,
    Stage(share=0.1, min_hours=24.0, min_strips=100, min_groups=5),
    Stage(share=0.5, min_hours=24.0, min_strips=500, min_groups=20),
)


def _check_order(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    shares = [stage.share for stage in stages]
    if shares != sorted(set(shares)):
        msg = f"each stage must have a larger share than the one before, got {shares}"
        raise ValueError(msg)
    return stages


class Plan(BaseModel):
    """The stages of a rollout before the release, and its bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: Annotated[tuple[Stage, ...], Field(min_length=1), AfterValidator(_check_order)] = (
        DEFAULT_STAGES
    )
    bounds: Bounds = Bounds()


DEFAULT_PLAN: Final = Plan()


class EndKind(StrEnum):
    """Ways in which a candidate ends without being released."""

    TAKEN_BACK = "taken back"
    """It broke a bound; it is not offered again."""
    STOPPED = "stopped"
    """By a person, or because another release or candidate took its place."""


class Ending(BaseModel):
    """The end of a candidate that is not closed yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: EndKind
    reason: str
    who: str
    at: AwareDatetime


class Candidate(BaseModel):
    """An open candidate, as its file says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    release: Release
    champion: Release
    """The release that must be served meanwhile."""
    plan: Plan
    stage: Annotated[int, Field(ge=0)] = 0
    started_at: AwareDatetime
    stage_since: AwareDatetime
    who: str
    why: str
    looks: Annotated[int, Field(ge=0)] = 0
    """How often its bounds were judged."""
    judged_strips: Annotated[int, Field(ge=0)] = 0
    """Number of strips that were asked for at the last of these times."""
    stage_strips: Annotated[int, Field(ge=0)] = 0
    """Number of them when the present stage began: looks come often again in each stage."""
    is_forced: bool = False
    """True when it is tried although it was rolled back, taken back or rejected before."""
    is_noted: bool = False
    """True when the ledger has its present stage."""
    ending: Ending | None = None

    @property
    def current_stage(self) -> Stage:
        """The stage that it is in."""
        return self.plan.stages[min(self.stage, len(self.plan.stages) - 1)]

    @property
    def share(self) -> float:
        """Share of the people whom it answers now."""
        return 0.0 if self.ending is not None else self.current_stage.share

    @property
    def is_last_stage(self) -> bool:
        """True when the release is next."""
        return self.stage >= len(self.plan.stages) - 1


class Halt(BaseModel):
    """A candidate that the workers ended by themselves."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    candidate_id: str
    reason: str
    at: AwareDatetime
    kind: EndKind = EndKind.TAKEN_BACK


def read_candidate(path: Path) -> Candidate | None:
    """Read the candidate; None when there is none.

    Raises
    ------
    CandidateError
        If the file cannot be read or does not hold a candidate.

    """
    try:
        return Candidate.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = f"{path.name} cannot be read: {error.strerror}"
        raise CandidateError(msg) from error
    except ValidationError as error:
        msg = f"{path.name} must hold a candidate, it is damaged; `ecg doctor` removes it"
        raise CandidateError(msg) from error


def write_candidate(path: Path, candidate: Candidate) -> None:
    """Write the candidate, whole or not at all."""
    write_durably(path, candidate.model_dump_json(indent=2))


def read_halt(path: Path) -> Halt | None:
    """Read which candidate the workers ended; None when they ended none, or the file is torn.

    Raises
    ------
    CandidateError
        If the file is there and cannot be read.

    """
    try:
        return Halt.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        msg = f"{path.name} cannot be read: {error.strerror}"
        raise CandidateError(msg) from error


def write_halt(
    path: Path,
    candidate_id: str,
    *,
    reason: str,
    at: datetime,
    kind: EndKind = EndKind.TAKEN_BACK,
) -> None:
    """End a candidate in all workers; a reason that is there already and can be read stays."""
    try:
        known = read_halt(path)
    except CandidateError:
        known = None
    if known is None or known.candidate_id != candidate_id:
        halt = Halt(candidate_id=candidate_id, reason=reason, at=at, kind=kind)
        write_durably(path, halt.model_dump_json(indent=2))


def is_chosen(group: str, *, share: float, candidate_id: str, key: bytes) -> bool:
    """Return whether the candidate answers a group of traffic.

    The group has a place between 0 and 1, by a keyed hash, and is chosen when that is below the
    share. So it stays with one model at a given share, and a chosen group stays chosen when the
    share grows. Another candidate gives other places, so that not always the same people come
    first.

    Parameters
    ----------
    group : str
        Of :func:`ecg_lib.operations.prediction_rows.name_group`.
    share : float
    candidate_id : str
    key : bytes
        Key of the hashes of patients.

    """
    digest = hmac.new(key, f"rollout {candidate_id} {group}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
