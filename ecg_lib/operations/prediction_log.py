"""The monitoring database: predictions, feedback and drift checks (SQLAlchemy Core).

Rows have ids made by whoever writes them, and writing a row again changes nothing; so a spool
that is drained twice stores each row once. SQLite by default, PostgreSQL by URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine

from ecg_lib.errors import PredictionLogError
from ecg_lib.operations.prediction_rows import DriftCheckRow, FeedbackRow, PredictionRow

_METADATA: Final = sa.MetaData()

_PREDICTIONS: Final = sa.Table(
    "predictions",
    _METADATA,
    sa.Column("prediction_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("patient_key", sa.String(64), index=True),
    sa.Column("bundle_hash", sa.String(64), nullable=False, index=True),
    sa.Column("bento_tag", sa.String(128), nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("observed", sa.Text, nullable=False),
    sa.Column("owner", sa.String(64)),
)

_FEEDBACK: Final = sa.Table(
    "feedback",
    _METADATA,
    sa.Column("feedback_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("prediction_id", sa.String(36), nullable=False, index=True),
    sa.Column("annotator", sa.String(128)),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("owner", sa.String(64)),
)

_DRIFT_CHECKS: Final = sa.Table(
    "drift_checks",
    _METADATA,
    sa.Column("check_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("bundle_hash", sa.String(64), nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
)


class PredictionLog:
    """The monitoring database; safe to use from several threads and processes.

    Parameters
    ----------
    url : str
        SQLAlchemy URL with an explicit driver, or ``sqlite:///path``.

    """

    def __init__(self, url: str) -> None:
        if sa.make_url(url).get_backend_name() == "sqlite":
            # A connection that is kept goes on writing into a file that was deleted.
            self._engine: Engine = sa.create_engine(url, poolclass=sa.NullPool)
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
        else:
            self._engine = sa.create_engine(url, pool_pre_ping=True)

    def create_tables(self) -> None:
        """Make the tables that are missing, and the columns that an older version did not have."""
        with _errors_explained():
            _METADATA.create_all(self._engine)
        for table in (_PREDICTIONS, _FEEDBACK):
            self._add_owner(table.name)

    def _add_owner(self, table: str) -> None:
        def has_owner(connection: Connection) -> bool:
            return any(one["name"] == "owner" for one in sa.inspect(connection).get_columns(table))

        with _errors_explained(), self._engine.connect() as connection:
            if has_owner(connection):
                return
        try:
            with _errors_explained(), self._engine.begin() as connection:
                connection.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN owner VARCHAR(64)"))
        except PredictionLogError:
            # Another process may have been first.
            with _errors_explained(), self._engine.connect() as connection:
                if not has_owner(connection):
                    raise

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def add_predictions(self, rows: Sequence[PredictionRow]) -> None:
        """Store predictions; those that are stored already stay as they are."""
        self._insert(
            _PREDICTIONS,
            [
                {
                    "prediction_id": row.prediction_id,
                    "created_at": _to_text(row.created_at),
                    "patient_key": row.patient_key,
                    "bundle_hash": row.bundle_hash,
                    "bento_tag": row.bento_tag,
                    "duration_s": row.duration_s,
                    "response": _write_json(row.response),
                    "observed": _write_json(row.observed),
                    "owner": row.owner,
                }
                for row in rows
            ],
        )

    def add_feedback(self, rows: Sequence[FeedbackRow]) -> None:
        """Store feedback; what is stored already stays as it is."""
        self._insert(
            _FEEDBACK,
            [
                {
                    "feedback_id": row.feedback_id,
                    "created_at": _to_text(row.created_at),
                    "prediction_id": row.prediction_id,
                    "annotator": row.annotator,
                    "labels": _write_json(row.labels),
                    "owner": row.owner,
                }
                for row in rows
            ],
        )

    def delete_before(self, moment: datetime) -> tuple[int, int]:
        """Delete what is older than a moment; drift checks stay.

        Returns
        -------
        tuple of (int, int)
            Predictions that were deleted, and feedback to predictions that are not stored.

        """
        limit, feedback = _to_text(moment), _FEEDBACK.c
        known = sa.select(_PREDICTIONS.c.prediction_id)
        with self._connect() as connection:
            predictions = connection.execute(
                sa.delete(_PREDICTIONS).where(_PREDICTIONS.c.created_at < limit)
            )
            orphans = connection.execute(
                sa.delete(_FEEDBACK).where(
                    feedback.created_at < limit, feedback.prediction_id.not_in(known)
                )
            )
            return predictions.rowcount, orphans.rowcount

    def add_drift_check(self, row: DriftCheckRow) -> None:
        """Store a drift check."""
        self._insert(
            _DRIFT_CHECKS,
            [
                {
                    "check_id": row.check_id,
                    "created_at": _to_text(row.created_at),
                    "bundle_hash": row.bundle_hash,
                    "action": row.action,
                    "summary": _write_json(row.summary),
                }
            ],
        )

    def get_prediction(self, prediction_id: str) -> PredictionRow | None:
        """Find a prediction by its id."""
        query = sa.select(_PREDICTIONS).where(_PREDICTIONS.c.prediction_id == prediction_id)
        with self._connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _prediction_of(row)

    def read_predictions(
        self,
        *,
        since: datetime | None = None,
        bundle_hash: str | None = None,
        limit: int | None = None,
    ) -> list[PredictionRow]:
        """Read the latest predictions, oldest first.

        Parameters
        ----------
        since : datetime, optional
            Only those made at this time or later.
        bundle_hash : str, optional
            Only those of this bundle.
        limit : int, optional
            At most so many, the latest.

        """
        query = sa.select(_PREDICTIONS).order_by(
            _PREDICTIONS.c.created_at.desc(), _PREDICTIONS.c.prediction_id.desc()
        )
        if since is not None:
            query = query.where(_PREDICTIONS.c.created_at >= _to_text(since))
        if bundle_hash is not None:
            query = query.where(_PREDICTIONS.c.bundle_hash == bundle_hash)
        if limit is not None:
            query = query.limit(limit)
        with self._connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [_prediction_of(row) for row in reversed(rows)]

    def read_feedback(self, prediction_ids: Iterable[str]) -> list[FeedbackRow]:
        """Read the feedback to some predictions, oldest first."""
        wanted = list(prediction_ids)
        rows: list[FeedbackRow] = []
        with self._connect() as connection:
            for start in range(0, len(wanted), 500):
                query = sa.select(_FEEDBACK).where(
                    _FEEDBACK.c.prediction_id.in_(wanted[start : start + 500])
                )
                rows += [
                    FeedbackRow(
                        feedback_id=row["feedback_id"],
                        created_at=datetime.fromisoformat(row["created_at"]),
                        prediction_id=row["prediction_id"],
                        annotator=row["annotator"],
                        labels={int(k): v for k, v in orjson.loads(row["labels"]).items()},
                        owner=row["owner"],
                    )
                    for row in connection.execute(query).mappings()
                ]
        return sorted(rows, key=lambda row: (row.created_at, row.feedback_id))

    def read_drift_checks(self, *, limit: int = 20) -> list[DriftCheckRow]:
        """Read the latest drift checks, latest first."""
        query = sa.select(_DRIFT_CHECKS).order_by(_DRIFT_CHECKS.c.created_at.desc()).limit(limit)
        with self._connect() as connection:
            return [
                DriftCheckRow(
                    check_id=row["check_id"],
                    created_at=datetime.fromisoformat(row["created_at"]),
                    bundle_hash=row["bundle_hash"],
                    action=row["action"],
                    summary=orjson.loads(row["summary"]),
                )
                for row in connection.execute(query).mappings()
            ]

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with _errors_explained(), self._engine.begin() as connection:
            yield connection

    def _insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        is_sqlite = self._engine.dialect.name == "sqlite"
        insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
        with self._connect() as connection:
            connection.execute(insert.on_conflict_do_nothing(), rows)


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401  a DBAPI connection
    cursor = connection.cursor()
    # Readers do not wait for the writer, and a writer waits for another instead of failing.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


@contextmanager
def _errors_explained() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        msg = f"the monitoring database cannot be used: {cause}"
        raise PredictionLogError(msg) from error


def _write_json(value: dict[Any, Any]) -> str:
    """Write as JSON; keys that are numbers become text, and NaN null."""
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _to_text(moment: datetime) -> str:
    if moment.tzinfo is None:
        msg = f"created_at must have a time zone, got {moment!r}"
        raise ValueError(msg)
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _prediction_of(row: sa.RowMapping) -> PredictionRow:
    return PredictionRow(
        prediction_id=row["prediction_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
        patient_key=row["patient_key"],
        bundle_hash=row["bundle_hash"],
        bento_tag=row["bento_tag"],
        duration_s=row["duration_s"],
        response=orjson.loads(row["response"]),
        observed=orjson.loads(row["observed"]),
        owner=row["owner"],
    )
