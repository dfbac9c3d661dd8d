"""A gradual rollout as its page shows it."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field


class RolloutStage(BaseModel):
    """A stage of the rollout, and its minimum."""

    name: str = Field(description="shadow, or its share such as `10 %`.")
    share: float = Field(description="Share of the people whom the candidate answers.")
    min_hours: float
    min_strips: int
    min_groups: int
    is_current: bool


class Bound(BaseModel):
    """A bound that ends the candidate, and how it stands."""

    name: str
    value: float | None = Field(description="Mean over people, or ratio of times; null so far.")
    bound: float
    n: int = Field(description="People, or timed strips.")
    text: str


class Rollout(BaseModel):
    """The candidate that is tried beside the served release."""

    bento_tag: str
    version: str
    champion: str = Field(description="Bento that is served.")
    why: str
    who: str
    started_at: datetime
    stage_since: datetime
    stages: list[RolloutStage]
    share: float = Field(description="Share of the people whom it answers now.")
    problem: str | None = Field(description="Why this process does not try it; null when it does.")
    strips: int = Field(description="Strips that both models classified.")
    people: int = Field(description="People, or clients that name none.")
    beats: dict[str, int] = Field(
        description="Beats by class of champion and candidate, such as `NV`; `unclassed` are those "
        "without a class, or without a beat, in one of them."
    )
    v_runs_per_hour: dict[str, float | None] = Field(
        description="Reported V runs an hour, of champion and candidate."
    )
    failed: int = Field(description="Errors of the candidate.")
    champion_refused: int = Field(
        description="Strips that the champion alone refuses, and the candidate answers."
    )
    bounds: list[Bound]
    false_return_chance: float = Field(
        description="Largest chance that a candidate within all bounds is taken back."
    )


class DisagreeingBeat(BaseModel):
    """A beat whose class differs."""

    position_sample: int
    champion: str | None
    candidate: str | None
    probability_champion: float | None = Field(description="Of V.")
    probability_candidate: float | None


class SignalPart(BaseModel):
    """Samples around the first beat that differs."""

    fs: float
    start_sample: int
    samples_mv: list[float]


class Disagreement(BaseModel):
    """A strip on which both models differ."""

    prediction_id: str
    created_at: datetime
    stage: str
    answered_by: str = Field(description="champion or candidate.")
    duration_s: float
    n_beats: int = Field(description="Beats whose class differs; at most 50 are listed.")
    beats: list[DisagreeingBeat]
    has_signal: bool = Field(
        description="True when its signal is kept: with consent, and labelled or drawn for review."
    )


class RolloutView(BaseModel):
    """The rollout, and the latest strips on which both models differ."""

    timestamp: datetime
    rollout: Rollout | None
    problem: str | None = Field(description="Why there is none, where its file cannot be read.")
    disagreements: list[Disagreement]
