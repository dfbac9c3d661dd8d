"""Rows of the prediction log, without the database code that stores them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

CANDIDATE_ID: Final = "candidate_id"
"""In the summary of a check of a candidate, which is not the model that is served."""

UNKNOWN_CLIENT: Final = "unknown client"
"""Group of predictions of which no client is known, such as those of earlier code."""


def name_group(patient_key: str | None, client: str | None) -> str:
    """Name the group of a request, see :mod:`ecg_lib.operations.drift.traffic_log`."""
    if patient_key:
        return f"patient {patient_key}"
    return f"client {client}" if client else UNKNOWN_CLIENT


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRow:
    """One answered request."""

    prediction_id: str
    created_at: datetime
    """Aware; stored in UTC."""
    patient_key: str | None
    """Keyed hash of the patient's identifier."""
    bundle_hash: str
    bento_tag: str
    duration_s: float
    response: dict[str, Any]
    """The body that was sent."""
    observed: dict[str, list[Any]]
    """Columns of :func:`~ecg_lib.operations.drift.observation.observe_beats`; None for NaN."""
    owner: str | None = None
    """The key that asked for it; None without keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """Where a request came from, and whether its signal was refused.

    A prediction has one beside its :class:`PredictionRow`; a refused strip, and the pieces of a
    recording that monitoring looks at, have this row alone.
    """

    request_id: str
    """The id of the prediction, where there is one."""
    created_at: datetime
    bundle_hash: str
    bento_tag: str
    duration_s: float
    refused: str | None = None
    """Why the signal was refused; None where it was answered."""
    patient_key: str | None = None
    client: str | None = None
    """Keyed hash of the API key, or of the address of a client without one."""
    owner: str | None = None
    slices: dict[str, str] = field(default_factory=dict)
    """Properties by which monitoring cuts traffic, such as the lead."""
    observed: dict[str, list[Any]] | None = None
    """Of a recording, the pieces that monitoring looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedRow:
    """An answered request that has feedback."""

    prediction_id: str
    patient_key: str | None
    called: list[str | None]
    """The class that each beat was given."""
    labels: dict[int, str]
    """The latest class that readers gave, by index of the beat."""
    missed: dict[int, str] = field(default_factory=dict)
    """Class of the beats that were not detected, by sample."""
    false_detections: tuple[int, ...] = ()
    """Indices of detections that are not beats."""
    is_drawn: bool = False
    """True when it was drawn at random for review, so that it may be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRow:
    """A prediction that waits for a reader."""

    prediction_id: str
    created_at: datetime
    is_drawn: bool
    doubt: float
    response: dict[str, Any]
    observed: dict[str, list[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRow:
    """A reader's marks on a prediction or a recording."""

    feedback_id: str
    created_at: datetime
    prediction_id: str
    """Id of the prediction, or of the recording."""
    annotator: str | None
    labels: dict[int, str]
    """``N`` or ``V`` by index of the beat."""
    owner: str | None = None
    """The key that sent it; None without keys."""
    is_recording: bool = False
    forms: dict[int, str] = field(default_factory=dict)
    """``N`` or ``V`` by index of the form, for all beats of that form."""
    missed: dict[int, str] = field(default_factory=dict)
    """``N`` or ``V`` of beats that were not detected, by sample."""
    false_detections: tuple[int, ...] = ()
    """Indices of detections that are not beats."""
    is_complete: bool = False
    """True when the reader looked at every beat and confirms those that are not named."""
    withdraws: str | None = None
    """Id of the feedback that this one takes back; it has no marks of its own then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCheckRow:
    """One drift check and what was decided."""

    check_id: str
    created_at: datetime
    bundle_hash: str
    action: str
    """KEEP, RETRAIN or ROLLBACK."""
    summary: dict[str, Any]

    @property
    def is_candidate(self) -> bool:
        """True when it is of a candidate that broke its bounds, not of what is served."""
        return CANDIDATE_ID in self.summary


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """A decision that asks for a flow run; kept until there was one."""

    decision_id: str
    created_at: datetime
    deployment: str
    """Such as ``pipeline/pipeline``."""
    parameters: dict[str, Any]
    state: str = "waiting"
    """``waiting``, ``asked``, ``done`` or ``given up``."""
    run_id: str | None = None
    """The flow run that was asked for last."""
    attempt: int = 0
    """How many runs of this decision ended before they began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingRow:
    """How a retraining ended."""

    retraining_id: str
    created_at: datetime
    bundle_hash: str
    """The bundle that it was to replace."""
    dataset_version: str
    has_helped: bool
    """True when its model became champion."""
    reasons: tuple[str, ...]
    labels: str
    """Hash of the labels, and of the training code, that it learnt from."""
