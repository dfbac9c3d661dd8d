"""The monitoring database: predictions, feedback and drift checks (SQLAlchemy Core).

Rows have ids made by whoever writes them, and writing a row again changes nothing; so a spool
that is drained twice stores each row once. SQLite by default, PostgreSQL by URL.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from ecg_lib.errors import PredictionLogError
from ecg_lib.operations.learning.labels import (
    count_samples,
    list_valid,
    read_forms,
    read_marks,
    resolve_marks,
    write_marks,
)
from ecg_lib.operations.learning.review_queue import weigh_doubt
from ecg_lib.operations.learning.schema.migrations import HEAD, migrate, read_version
from ecg_lib.operations.learning.schema.tables import (
    DECISIONS,
    DRIFT_CHECKS,
    FEEDBACK,
    PREDICTIONS,
    RETRAININGS,
    make_engine,
)
from ecg_lib.operations.prediction_rows import (
    CANDIDATE_ID,
    DecisionRow,
    DriftCheckRow,
    FeedbackRow,
    PredictionRow,
    QueuedRow,
    RetrainingRow,
    ReviewedRow,
)

KEPT_ACTION: Final = "KEEP"
"""The action of a drift check that asks for nothing; other checks are kept as evidence."""


class PredictionLog:
    """The monitoring database; safe to use from several threads and processes.

    Parameters
    ----------
    url : str
        SQLAlchemy URL with an explicit driver, or ``sqlite:///path``.

    Raises
    ------
    PredictionLogError
        If it is no such URL, or its driver is not installed.

    """

    def __init__(self, url: str) -> None:
        with _errors_explained():
            try:
                self._engine = make_engine(url)
            except ImportError as error:
                msg = (
                    "the monitoring database must be SQLite or PostgreSQL with a driver that is "
                    f"installed, {error.name or error} is not"
                )
                raise PredictionLogError(msg) from error

    def create_tables(self) -> None:
        """Make the tables, or upgrade them to the version that this code needs."""
        self.migrate(HEAD)

    def migrate(self, version: str) -> bool:
        """Bring the tables to a version of the schema; return whether there was anything to do."""
        with _errors_explained():
            return migrate(self._engine, version)

    def read_version(self) -> str | None:
        """Read the version of the schema; None before the first migration."""
        with _errors_explained():
            return read_version(self._engine)

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    def add_predictions(
        self, rows: Sequence[PredictionRow], *, within: Connection | None = None
    ) -> None:
        """Store predictions; those that are stored already stay as they are.

        Parameters
        ----------
        rows : sequence of PredictionRow
        within : Connection, optional
            The transaction that stores them; without it they have one of their own.

        """
        self._insert(
            PREDICTIONS,
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
                    "is_drawn": bool(row.response.get("drawn_for_review")),
                    "doubt": weigh_doubt(row.response, row.observed).score,
                }
                for row in rows
            ],
            within=within,
        )

    def add_feedback(
        self, rows: Sequence[FeedbackRow], *, within: Connection | None = None
    ) -> None:
        """Store feedback, as :meth:`add_predictions` does; what is stored already stays."""
        self._insert(
            FEEDBACK,
            [
                {
                    "feedback_id": row.feedback_id,
                    "created_at": _to_text(row.created_at),
                    "prediction_id": row.prediction_id,
                    "annotator": row.annotator,
                    "labels": _write_json(row.labels),
                    "owner": row.owner,
                    "marks": _write_json(marks) if (marks := write_marks(row)) else None,
                    "withdraws": row.withdraws,
                }
                for row in rows
            ],
            within=within,
        )

    def delete_before(self, moment: datetime, *, keep: Collection[str] = ()) -> tuple[int, int]:
        """Delete predictions and their feedback that are older than a moment.

        Parameters
        ----------
        moment : datetime
        keep : collection of str
            Predictions that stay with their feedback, by id.

        Returns
        -------
        tuple of (int, int)
            Predictions that were deleted, and feedback to predictions that are not stored.

        """
        limit, feedback = _to_text(moment), FEEDBACK.c
        known, is_old = sa.select(PREDICTIONS.c.prediction_id), PREDICTIONS.c.created_at < limit
        with self._connect() as connection:
            old = connection.execute(known.where(is_old)).scalars().all() if keep else ()
            n_deleted, doomed = 0, [name for name in old if name not in keep]
            for start in range(0, len(doomed), 500):
                part = PREDICTIONS.c.prediction_id.in_(doomed[start : start + 500])
                n_deleted += connection.execute(sa.delete(PREDICTIONS).where(part)).rowcount
            if not keep:
                n_deleted = connection.execute(sa.delete(PREDICTIONS).where(is_old)).rowcount
            orphans = connection.execute(
                sa.delete(FEEDBACK).where(
                    feedback.created_at < limit, feedback.prediction_id.not_in(known)
                )
            )
            return n_deleted, orphans.rowcount

    def delete_checks_before(self, moment: datetime) -> int:
        """Delete drift checks that are older than a moment; those that decided something stay.

        Returns
        -------
        int
            How many were deleted.

        """
        checks = DRIFT_CHECKS.c
        with self._connect() as connection:
            return connection.execute(
                sa.delete(DRIFT_CHECKS).where(
                    checks.created_at < _to_text(moment), checks.action == KEPT_ACTION
                )
            ).rowcount

    def add_drift_check(self, row: DriftCheckRow, decision: DecisionRow | None = None) -> None:
        """Store a drift check and the decision that it came to, both or none."""
        check = {
            "check_id": row.check_id,
            "created_at": _to_text(row.created_at),
            "bundle_hash": row.bundle_hash,
            "action": row.action,
            "summary": _write_json(row.summary),
        }
        with self._connect() as connection:
            connection.execute(sa.insert(DRIFT_CHECKS), check)
            if decision is not None:
                connection.execute(
                    sa.insert(DECISIONS),
                    {
                        "decision_id": decision.decision_id,
                        "created_at": _to_text(decision.created_at),
                        "deployment": decision.deployment,
                        "parameters": _write_json(decision.parameters),
                        "state": decision.state,
                        "run_id": decision.run_id,
                        "attempt": decision.attempt,
                    },
                )

    def read_open_decisions(self) -> list[DecisionRow]:
        """Read the decisions that have no flow run yet, oldest first."""
        query = (
            sa.select(DECISIONS)
            .where(DECISIONS.c.state.in_(("waiting", "asked")))
            .order_by(DECISIONS.c.created_at)
        )
        with self._connect() as connection:
            return [
                DecisionRow(
                    decision_id=row["decision_id"],
                    created_at=datetime.fromisoformat(row["created_at"]),
                    deployment=row["deployment"],
                    parameters=orjson.loads(row["parameters"]),
                    state=row["state"],
                    run_id=row["run_id"],
                    attempt=row["attempt"],
                )
                for row in connection.execute(query).mappings()
            ]

    def update_decision(
        self, decision_id: str, *, state: str, run_id: str | None, attempt: int
    ) -> None:
        """Note what became of a decision."""
        with self._connect() as connection:
            connection.execute(
                sa.update(DECISIONS)
                .where(DECISIONS.c.decision_id == decision_id)
                .values(state=state, run_id=run_id, attempt=attempt)
            )

    def get_prediction(self, prediction_id: str) -> PredictionRow | None:
        """Find a prediction by its id."""
        query = sa.select(PREDICTIONS).where(PREDICTIONS.c.prediction_id == prediction_id)
        with self._connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _prediction_of(row)

    def read_reviewed(self, *, since: datetime, bundle_hash: str) -> list[ReviewedRow]:
        """Read all predictions that have feedback, oldest first.

        Of each body only the classes of its beats are kept; one is read at a time.

        Parameters
        ----------
        since : datetime
            Only those made at this time or later.
        bundle_hash : str
            Only those of this bundle.

        """
        table = PREDICTIONS.c
        has_feedback = sa.exists().where(FEEDBACK.c.prediction_id == table.prediction_id)
        query = (
            sa.select(table.prediction_id, table.patient_key, table.response, table.is_drawn)
            .where(
                PREDICTIONS.c.created_at >= _to_text(since),
                PREDICTIONS.c.bundle_hash == bundle_hash,
                has_feedback,
            )
            .order_by(table.created_at, table.prediction_id)
        )
        with self._connect() as connection:
            found = [
                (
                    row["prediction_id"],
                    row["patient_key"],
                    [beat["arrhythmia_type"] for beat in body["beat_predictions"]],
                    read_forms(body),
                    count_samples(body),
                    bool(row["is_drawn"]),
                )
                for row in _stream(connection, query, at_a_time=1)
                for body in [orjson.loads(row["response"])]
            ]
        given: dict[str, list[FeedbackRow]] = {}
        for feedback in self.read_feedback(one[0] for one in found):
            given.setdefault(feedback.prediction_id, []).append(feedback)
        reviewed = []
        for prediction_id, patient_key, called, forms, n_samples, is_drawn in found:
            rows = given.get(prediction_id, ())
            marks = resolve_marks(rows, called=called, forms=forms, n_samples=n_samples)
            if marks.is_empty:
                continue  # withdrawn
            reviewed.append(
                ReviewedRow(
                    prediction_id=prediction_id,
                    patient_key=patient_key,
                    called=called,
                    labels=marks.classes,
                    missed=marks.missed,
                    false_detections=tuple(sorted(marks.false_detections)),
                    is_drawn=is_drawn,
                )
            )
        return reviewed

    def read_queue(
        self, *, since: datetime, owner: str | None = None, limit: int
    ) -> list[QueuedRow]:
        """Read the predictions without feedback that are most worth a look.

        Parameters
        ----------
        since : datetime
            Only those made at this time or later.
        owner : str, optional
            Only those of this key.
        limit : int
            At most so many: first those drawn at random, then the most doubtful.

        """
        table, feedback, later = PREDICTIONS.c, FEEDBACK.c, FEEDBACK.alias().c
        is_withdrawn = sa.exists().where(later.withdraws == feedback.feedback_id)
        is_labelled = sa.exists().where(
            feedback.prediction_id == table.prediction_id,
            feedback.withdraws.is_(None),
            ~is_withdrawn,
        )
        query = (
            sa.select(PREDICTIONS)
            .where(table.created_at >= _to_text(since), table.doubt.is_not(None), ~is_labelled)
            .order_by(table.is_drawn.desc(), table.doubt.desc(), table.prediction_id)
            .limit(limit)
        )
        if owner is not None:
            query = query.where(table.owner == owner)
        with self._connect() as connection:
            return [
                QueuedRow(
                    prediction_id=row["prediction_id"],
                    created_at=datetime.fromisoformat(row["created_at"]),
                    is_drawn=bool(row["is_drawn"]),
                    doubt=row["doubt"],
                    response=orjson.loads(row["response"]),
                    observed=orjson.loads(row["observed"]),
                )
                for row in connection.execute(query).mappings()
            ]

    def get_feedback(self, feedback_id: str) -> FeedbackRow | None:
        """Find feedback by its id."""
        query = sa.select(FEEDBACK).where(FEEDBACK.c.feedback_id == feedback_id)
        with self._connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _feedback_of(row)

    def read_feedback(self, prediction_ids: Iterable[str]) -> list[FeedbackRow]:
        """Read the feedback to some predictions or recordings, oldest first."""
        wanted = list(prediction_ids)
        rows: list[FeedbackRow] = []
        with self._connect() as connection:
            for start in range(0, len(wanted), 500):
                query = sa.select(FEEDBACK).where(
                    FEEDBACK.c.prediction_id.in_(wanted[start : start + 500])
                )
                rows += [_feedback_of(row) for row in connection.execute(query).mappings()]
        return sorted(rows, key=lambda row: (row.created_at, row.feedback_id))

    def find_labelled(self, prediction_ids: Iterable[str]) -> set[str]:
        """Return which of some predictions have feedback that was not withdrawn."""
        return {row.prediction_id for row in list_valid(self.read_feedback(prediction_ids))}

    def read_drift_checks(
        self, *, limit: int = 20, are_decisions: bool = False
    ) -> list[DriftCheckRow]:
        """Read the latest drift checks of what was served, latest first.

        Parameters
        ----------
        limit : int, optional
        are_decisions : bool, optional
            Read those that asked for something instead, checks of candidates too.

        """
        checks = DRIFT_CHECKS.c
        query = sa.select(DRIFT_CHECKS).order_by(checks.created_at.desc()).limit(limit)
        if are_decisions:
            query = query.where(checks.action != KEPT_ACTION)
        else:  # the summary is text; quotes within its strings are escaped, so only a key matches
            is_candidate = checks.summary.contains(f'"{CANDIDATE_ID}":', autoescape=True)
            query = query.where(~is_candidate)
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

    def add_retraining(self, row: RetrainingRow) -> None:
        """Note how a retraining ended."""
        self._insert(
            RETRAININGS,
            [
                {
                    "retraining_id": row.retraining_id,
                    "created_at": _to_text(row.created_at),
                    "bundle_hash": row.bundle_hash,
                    "dataset_version": row.dataset_version,
                    "has_helped": row.has_helped,
                    "reasons": _write_json(row.reasons),
                    "labels": row.labels,
                }
            ],
        )

    def get_last_retraining(self, *, bundle_hash: str) -> RetrainingRow | None:
        """Find the latest retraining that was to replace a bundle."""
        query = (
            sa.select(RETRAININGS)
            .where(RETRAININGS.c.bundle_hash == bundle_hash)
            .order_by(RETRAININGS.c.created_at.desc())
            .limit(1)
        )
        with self._connect() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        return RetrainingRow(
            retraining_id=row["retraining_id"],
            created_at=datetime.fromisoformat(row["created_at"]),
            bundle_hash=row["bundle_hash"],
            dataset_version=row["dataset_version"],
            has_helped=row["has_helped"],
            reasons=tuple(orjson.loads(row["reasons"])),
            labels=row["labels"],
        )

    @contextmanager
    def open_transaction(self, within: Connection | None = None) -> Iterator[Connection]:
        """Open a transaction, or go on with one; tables of other modules are in it too."""
        if within is not None:
            yield within
            return
        with self._connect() as connection:
            yield connection

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with _errors_explained(), self._engine.begin() as connection:
            yield connection

    def _insert(
        self, table: sa.Table, rows: list[dict[str, Any]], *, within: Connection | None = None
    ) -> None:
        if not rows:
            return
        is_sqlite = self._engine.dialect.name == "sqlite"
        insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
        with self.open_transaction(within) as connection:
            connection.execute(insert.on_conflict_do_nothing(), rows)


def _stream(
    connection: Connection, query: sa.Select[Any], *, at_a_time: int = 100
) -> Iterator[sa.RowMapping]:
    """Read rows as they are asked for: all bodies of a day do not fit into memory."""
    return iter(connection.execution_options(yield_per=at_a_time).execute(query).mappings())


@contextmanager
def _errors_explained() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        cause: object = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if isinstance(error, sa.exc.ArgumentError):
            cause = "its URL is none"  # which may hold a password
        msg = f"the monitoring database cannot be used: {cause}"
        raise PredictionLogError(msg) from error


def _write_json(value: dict[Any, Any] | Sequence[Any]) -> str:
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


def _feedback_of(row: sa.RowMapping) -> FeedbackRow:
    return FeedbackRow(
        feedback_id=row["feedback_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
        prediction_id=row["prediction_id"],
        annotator=row["annotator"],
        labels={int(beat): label for beat, label in orjson.loads(row["labels"]).items()},
        owner=row["owner"],
        **read_marks(orjson.loads(row["marks"] or "{}")),
    )
