"""The tables of the monitoring database (SQLAlchemy Core) in their latest version.

``migrations`` makes them. Columns that were added later may be null, as in rows of earlier code.
"""

from __future__ import annotations

import sqlite3
from time import monotonic, sleep
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ecg_lib.errors import PredictionLogError

METADATA: Final = sa.MetaData()

_WAIT_S: Final = 5
"""How long a connection to SQLite waits for another one."""

PREDICTIONS: Final = sa.Table(
    "predictions",
    METADATA,
    sa.Column("prediction_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("patient_key", sa.String(64), index=True),
    sa.Column("bundle_hash", sa.String(64), nullable=False),
    sa.Column("bento_tag", sa.String(128), nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("observed", sa.Text, nullable=False),
    sa.Column("owner", sa.String(64)),
    # Null in rows that earlier code wrote.
    sa.Column("is_drawn", sa.Boolean),
    sa.Column("doubt", sa.Float),
    sa.Index("ix_predictions_to_review", "is_drawn", "doubt"),
    # For a drift check; with the length, so that long rows are skipped without being read.
    sa.Index("ix_predictions_of_bundle", "bundle_hash", "created_at", "duration_s"),
)

FEEDBACK: Final = sa.Table(
    "feedback",
    METADATA,
    sa.Column("feedback_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("prediction_id", sa.String(36), nullable=False, index=True),
    sa.Column("annotator", sa.String(128)),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("owner", sa.String(64)),
    # All marks apart from classes by beat, as JSON; null where there are none.
    sa.Column("marks", sa.Text),
    sa.Column("withdraws", sa.String(36), index=True),
)

DRIFT_CHECKS: Final = sa.Table(
    "drift_checks",
    METADATA,
    sa.Column("check_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("bundle_hash", sa.String(64), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
)

DECISIONS: Final = sa.Table(
    "decisions",
    METADATA,
    sa.Column("decision_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("deployment", sa.String(128), nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("run_id", sa.String(36)),
    sa.Column("attempt", sa.Integer, nullable=False),
)

RETRAININGS: Final = sa.Table(
    "retrainings",
    METADATA,
    sa.Column("retraining_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("bundle_hash", sa.String(64), nullable=False),
    sa.Column("dataset_version", sa.String(64), nullable=False),
    sa.Column("has_helped", sa.Boolean, nullable=False),
    sa.Column("reasons", sa.Text, nullable=False),
    sa.Column("labels", sa.String(64), nullable=False),
)


def make_engine(url: str) -> Engine:
    """Open SQLite or PostgreSQL; raises PredictionLogError for another URL."""
    backend = sa.make_url(url).get_backend_name()
    if backend == "sqlite":
        # A connection that is kept goes on writing into a file that was deleted.
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        sa.event.listen(engine, "connect", _set_up_sqlite)
        return engine
    if backend != "postgresql":
        msg = f"the monitoring database must be SQLite or PostgreSQL, got {backend}"
        raise PredictionLogError(msg)
    return sa.create_engine(url, pool_pre_ping=True)


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Readers do not wait for the writer, and a writer waits for another instead of failing.
    connection.execute(f"PRAGMA busy_timeout={_WAIT_S * 1000}")
    deadline_s = monotonic() + _WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            # SQLite does not wait for another that makes this change.
            if monotonic() >= deadline_s:
                raise
            sleep(0.01)
        else:
            return
