"""Counts over the monitoring database: labels, what waits for review, predictions of a release."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ecg_lib.operations.learning.review_queue import WORTH_A_LOOK
from ecg_lib.operations.learning.schema.tables import DECISIONS, FEEDBACK, PREDICTIONS


class LabelCounts(NamedTuple):
    """Labels and the review queue."""

    predictions: int
    """Predictions of the window."""
    feedback: int
    """Feedback of any time that was not withdrawn."""
    labelled: int
    """Predictions and recordings of any time that have such feedback."""
    drawn: int
    """Predictions of the window that were drawn at random for review."""
    drawn_waiting: int
    """Those of them without feedback."""
    doubtful_waiting: int
    """Other predictions of the window that are doubtful and have no feedback."""


class PredictionSpan(NamedTuple):
    """How many predictions there are, and when the first and the last was made."""

    predictions: int
    first: datetime | None
    last: datetime | None


class DecisionState(NamedTuple):
    """The flow run that a drift check asked for."""

    deployment: str
    state: str
    """See :class:`ecg_lib.operations.prediction_rows.DecisionRow`."""
    run_id: str | None


def count_labels(connection: Connection, *, since: datetime) -> LabelCounts:
    """Count labels, and what waits for review of the predictions since a moment."""
    later = FEEDBACK.alias().c
    is_valid = sa.and_(
        FEEDBACK.c.withdraws.is_(None),
        ~sa.exists().where(later.withdraws == FEEDBACK.c.feedback_id),
    )
    in_window = PREDICTIONS.c.created_at >= _to_text(since)
    waits = ~sa.exists().where(FEEDBACK.c.prediction_id == PREDICTIONS.c.prediction_id, is_valid)
    is_drawn = PREDICTIONS.c.is_drawn.is_(True)
    is_doubtful = sa.and_(PREDICTIONS.c.is_drawn.is_(False), PREDICTIONS.c.doubt >= WORTH_A_LOOK)

    def count(*conditions: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(PREDICTIONS).where(in_window, *conditions)
        return int(connection.execute(query).scalar_one())

    subjects = sa.func.count(FEEDBACK.c.prediction_id.distinct())
    n_feedback, n_labelled = connection.execute(
        sa.select(sa.func.count(), subjects).select_from(FEEDBACK).where(is_valid)
    ).one()
    return LabelCounts(
        predictions=count(),
        feedback=int(n_feedback),
        labelled=int(n_labelled),
        drawn=count(is_drawn),
        drawn_waiting=count(is_drawn, waits),
        doubtful_waiting=count(is_doubtful, waits),
    )


def count_predictions(connection: Connection, *, bento_tags: Collection[str]) -> PredictionSpan:
    """Count the predictions that are still in the log of some releases."""
    made = PREDICTIONS.c.created_at
    query = sa.select(sa.func.count(), sa.func.min(made), sa.func.max(made)).where(
        PREDICTIONS.c.bento_tag.in_(sorted(bento_tags))
    )
    predictions, first, last = connection.execute(query).one()
    return PredictionSpan(
        predictions=int(predictions),
        first=None if first is None else datetime.fromisoformat(first),
        last=None if last is None else datetime.fromisoformat(last),
    )


def read_decision_states(
    connection: Connection, check_ids: Collection[str]
) -> dict[str, DecisionState]:
    """Read what became of the decisions of some drift checks; those that kept have none."""
    query = sa.select(DECISIONS).where(DECISIONS.c.decision_id.in_(sorted(check_ids)))
    return {
        row["decision_id"]: DecisionState(row["deployment"], row["state"], row["run_id"])
        for row in connection.execute(query).mappings()
    }


def _to_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
