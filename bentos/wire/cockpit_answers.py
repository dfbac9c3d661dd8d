"""The state of the platform as the operations page shows it."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from bentos.wire.rollout_answers import Rollout
from bentos.wire.schemas import ModelInfo, RefusedRelease, SpoolState


class Figure(BaseModel):
    """A figure of the served model."""

    name: str
    value: float
    low: float | None = Field(description="Lower end of the 95 % interval over people.")
    high: float | None


class Served(BaseModel):
    """The model that answers."""

    model: ModelInfo
    released_at: str | None = Field(description="Null for a bundle that was served without one.")
    created_at: str
    figures: list[Figure]
    figures_of: str = Field(description="The data that the figures were measured on, and how.")


class DriftDecision(BaseModel):
    """The flow run that a drift check asked for."""

    deployment: str
    state: str = Field(description="waiting, asked, done or given up.")
    run_url: str | None


class DriftCheck(BaseModel):
    """A drift check and what was decided."""

    check_id: str
    created_at: datetime
    action: str = Field(description="KEEP, RETRAIN or ROLLBACK.")
    is_conclusive: bool = Field(description="False when there was too little traffic to decide.")
    is_breach: bool = Field(description="True when the traffic has moved.")
    is_candidate: bool = Field(
        description="True when it is of a candidate that broke its bounds, not of what is served."
    )
    bento_tag: str
    reasons: list[str]
    page: str | None = Field(description="Name of its page below `/ops/drift/`, while it is kept.")
    report: str | None = Field(description="Name of Evidently's page, while it is kept.")
    decision: DriftDecision | None


class ReleaseEvent(BaseModel):
    """An event of the release ledger."""

    commit: str
    at: str
    kind: str
    who: str
    why: str
    bento_tag: str
    model_version: str
    before: str | None
    is_verified: bool = Field(description="True when the running service answered with it.")


class Pipeline(BaseModel):
    """The latest run of the pipeline."""

    outcome: str = Field(
        description="running (or killed), promoted, not promoted, or failed: see `stage`."
    )
    why: str = Field(description="Why it was started.")
    started_at: datetime
    finished_at: datetime | None
    stage: str
    stages: dict[str, float] = Field(description="Seconds of each stage that has ended.")
    failure: str | None
    version: str | None = Field(description="Model version that is champion after it.")
    reasons: list[str] = Field(description="Why the candidate was promoted or not.")
    run_url: str | None


class LabelState(BaseModel):
    """Labels of readers, and what waits for one."""

    days: float = Field(description="How far back predictions are counted.")
    predictions: int
    drawn: int = Field(description="Drawn at random for review.")
    drawn_waiting: int
    doubtful_waiting: int
    labelled: int = Field(description="Predictions and recordings with feedback, of any time.")
    feedback: int


class Link(BaseModel):
    """An address of the platform."""

    name: str
    url: str


class Overview(BaseModel):
    """The state of the platform."""

    timestamp: datetime
    version: str
    status: str
    served: Served | None
    refused: RefusedRelease | None
    drift: list[DriftCheck] | None = Field(description="Latest first.")
    decisions: list[DriftCheck] | None = Field(
        description="The checks that asked for a retraining or a rollback, latest first."
    )
    releases: list[ReleaseEvent] | None = Field(description="Latest first.")
    rollout: Rollout | None = Field(description="Null when no candidate is tried, too.")
    pipeline: Pipeline | None
    labels: LabelState | None
    recordings: dict[str, int] | None = Field(description="Number by status.")
    prediction_log: SpoolState
    degraded: dict[str, str]
    links: list[Link]
    unknown: dict[str, str] = Field(
        description="Parts that are null because they cannot be read, or are not there, and why."
    )
