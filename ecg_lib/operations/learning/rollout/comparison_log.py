"""Comparisons of a candidate with the champion, in the monitoring database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.prediction_log import PredictionLog

MAX_TIMED: Final = 5000
"""Largest number of timed strips that are read, the latest."""

_PAIRS: Final = ("NN", "NV", "VN", "VV")

_METADATA: Final = sa.MetaData()

_COMPARISONS: Final = sa.Table(
    "comparisons",
    _METADATA,
    sa.Column("prediction_id", sa.String(36), primary_key=True),
    sa.Column("candidate_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("answered_by", sa.String(16), nullable=False),
    sa.Column("traffic_group", sa.String(80), nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    # Beats by class of champion and candidate; all other pairs, with no class, in the last.
    *(sa.Column(f"n_{pair.lower()}", sa.Integer, nullable=False) for pair in _PAIRS),
    sa.Column("n_unclassed", sa.Integer, nullable=False),
    *(
        sa.Column(f"{what}_{who}", sa.Integer, nullable=False)
        for what in ("v", "judged", "runs")
        for who in ("champion", "candidate")
    ),
    sa.Column("ms_champion", sa.Float),
    sa.Column("ms_candidate", sa.Float),
    sa.Column("failure", sa.String(200)),
    sa.Column("champion_refused", sa.Boolean),  # null in rows of earlier code
    sa.Column("n_disagreements", sa.Integer, nullable=False),
    sa.Column("disagreements", sa.Text),
    sa.Index("ix_comparisons_of_candidate", "candidate_id", "stage", "traffic_group"),
    sa.Index("ix_comparisons_that_differ", "candidate_id", "n_disagreements", "created_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCounts:
    """Comparisons of one group of traffic, added up."""

    strips: int
    """Strips that both models answered."""
    seconds: float
    refused: int
    """Strips that the candidate alone refused, or failed on."""
    champion_refused: int = 0
    """Strips that the champion alone refused."""
    v_champion: int
    v_candidate: int
    v_both: int
    """Beats that both models call V."""
    judged_champion: int
    judged_candidate: int
    runs_champion: int
    runs_candidate: int
    strips_with_run_champion: int
    strips_with_run_candidate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The comparisons of a candidate, added up."""

    groups: dict[str, GroupCounts] = field(default_factory=dict)
    timed: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Of each group, how much longer the candidate took than the champion for strips: ratios."""
    beats: dict[str, int] = field(default_factory=dict)
    """Beats by class of champion and candidate, such as ``NV``; others are ``unclassed``."""
    failed: int = 0
    """Errors of the candidate; the champion answered."""

    @property
    def strips(self) -> int:
        """Number of strips that both models answered."""
        return sum(group.strips for group in self.groups.values())

    @property
    def asked(self) -> int:
        """Number of strips that both models were asked for, with those that one alone refused."""
        return sum(
            group.strips + group.refused + group.champion_refused for group in self.groups.values()
        )

    @property
    def champion_refused(self) -> int:
        """Number of strips that the champion alone refused."""
        return sum(group.champion_refused for group in self.groups.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCounts:
    """Strips of a stage that count for its minimum."""

    strips: int
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DisagreementRow:
    """A strip on which both models differ."""

    prediction_id: str
    created_at: datetime
    stage: int
    answered_by: str
    patient_key: str | None
    duration_s: float
    n_disagreements: int
    beats: list[dict[str, Any]]


def add_comparisons(
    log: PredictionLog, rows: Sequence[ComparisonRow], *, within: sa.Connection | None = None
) -> None:
    """Store comparisons; what is stored already stays as it is."""
    if not rows:
        return
    with log.open_transaction(within) as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        insert = sqlite.insert(_COMPARISONS) if is_sqlite else postgresql.insert(_COMPARISONS)
        connection.execute(insert.on_conflict_do_nothing(), [_to_values(row) for row in rows])


def delete_comparisons_before(log: PredictionLog, moment: datetime) -> int:
    """Delete comparisons that are older than a moment, and return how many there were."""
    log.create_tables()
    with log.open_transaction() as connection:
        return connection.execute(
            sa.delete(_COMPARISONS).where(_COMPARISONS.c.created_at < _to_text(moment))
        ).rowcount


def read_compared(log: PredictionLog, candidate_id: str) -> Compared:
    """Add up all comparisons of a candidate by group; the memory grows with groups alone."""
    log.create_tables()
    table = _COMPARISONS.c
    answered = _are_answered()
    totals = (
        *(table[f"{what}_{who}"] for what in ("v", "judged", "runs") for who in _WHO),
        *(sa.case((table[f"runs_{who}"] > 0, 1), else_=0).label(f"with_{who}") for who in _WHO),
    )
    by_group = (
        sa.select(
            table.traffic_group,
            sa.func.sum(sa.case((answered, 1), else_=0)).label("strips"),
            sa.func.sum(sa.case((answered, table.duration_s), else_=0.0)).label("seconds"),
            sa.func.sum(sa.case((table.failure.is_not(None), 1), else_=0)).label("refused"),
            sa.func.sum(sa.case((table.champion_refused.is_(sa.true()), 1), else_=0)).label(
                "champion_refused"
            ),
            *(sa.func.sum(column).label(column.name) for column in totals),
            sa.func.sum(table.n_vv).label("v_both"),
        )
        .where(table.candidate_id == candidate_id)
        .group_by(table.traffic_group)
    )
    timed = (
        sa.select(table.traffic_group, table.ms_candidate / table.ms_champion)
        .where(
            table.candidate_id == candidate_id,
            table.ms_candidate.is_not(None),
            table.ms_champion > 0,
        )
        .order_by(table.created_at.desc())
        .limit(MAX_TIMED)
    )
    names = (*(f"n_{pair.lower()}" for pair in _PAIRS), "n_unclassed")
    beats = sa.select(*(sa.func.coalesce(sa.func.sum(table[name]), 0) for name in names)).where(
        table.candidate_id == candidate_id
    )
    failed = sa.select(sa.func.count()).where(
        table.candidate_id == candidate_id, table.failure.startswith("failed")
    )
    with log.open_transaction() as connection:
        groups = {
            row["traffic_group"]: GroupCounts(
                strips=row["strips"],
                seconds=row["seconds"],
                refused=row["refused"],
                v_both=row["v_both"],
                champion_refused=row["champion_refused"],
                **{f"{what}_{who}": row[f"{what}_{who}"]
                   for what in ("v", "judged", "runs") for who in _WHO},
                **{f"strips_with_run_{who}": row[f"with_{who}"] for who in _WHO},
            )
            for row in connection.execute(by_group).mappings()
        }  # fmt: skip
        ratios: dict[str, list[float]] = {}
        for group, ratio in connection.execute(timed):
            ratios.setdefault(group, []).append(float(ratio))
        counts = connection.execute(beats).one()
        n_failed = int(connection.execute(failed).scalar_one())
    return Compared(
        groups=groups,
        timed={group: tuple(values) for group, values in ratios.items()},
        beats=dict(zip((*_PAIRS, "unclassed"), map(int, counts), strict=True)),
        failed=n_failed,
    )


def count_stage(
    log: PredictionLog, candidate_id: str, *, stage: int, of_candidate: bool
) -> StageCounts:
    """Count the strips of a stage; those that the candidate answered alone, where asked."""
    log.create_tables()
    table = _COMPARISONS.c
    query = sa.select(sa.func.count(), sa.func.count(table.traffic_group.distinct())).where(
        table.candidate_id == candidate_id, table.stage == stage, _are_answered()
    )
    if of_candidate:
        query = query.where(table.answered_by == "candidate")
    with log.open_transaction() as connection:
        strips, groups = connection.execute(query).one()
    return StageCounts(strips=int(strips), groups=int(groups))


def read_disagreements(
    log: PredictionLog, candidate_id: str, *, limit: int
) -> list[DisagreementRow]:
    """Read the latest strips on which both models differ."""
    table = _COMPARISONS.c
    return _read_differing(
        log,
        _select_differing(candidate_id)
        .order_by(table.created_at.desc(), table.prediction_id)
        .limit(limit),
    )


def find_disagreement(
    log: PredictionLog, candidate_id: str, prediction_id: str
) -> DisagreementRow | None:
    """Find a strip on which both models differ; None when they do not, or are not compared."""
    query = _select_differing(candidate_id).where(_COMPARISONS.c.prediction_id == prediction_id)
    return next(iter(_read_differing(log, query)), None)


def _select_differing(candidate_id: str) -> sa.Select[Any]:
    table = _COMPARISONS.c
    return sa.select(_COMPARISONS).where(
        table.candidate_id == candidate_id, table.n_disagreements > 0
    )


def _read_differing(log: PredictionLog, query: sa.Select[Any]) -> list[DisagreementRow]:
    log.create_tables()
    with log.open_transaction() as connection:
        return [
            DisagreementRow(
                prediction_id=row["prediction_id"],
                created_at=datetime.fromisoformat(row["created_at"]),
                stage=row["stage"],
                answered_by=row["answered_by"],
                patient_key=_patient_of(row["traffic_group"]),
                duration_s=row["duration_s"],
                n_disagreements=row["n_disagreements"],
                beats=orjson.loads(row["disagreements"] or "[]"),
            )
            for row in connection.execute(query).mappings()
        ]


_WHO: Final = ("champion", "candidate")


def _are_answered() -> sa.ColumnElement[bool]:
    """Select the strips that both models answered."""
    table = _COMPARISONS.c
    return sa.and_(table.failure.is_(None), table.champion_refused.is_not(sa.true()))


def _to_values(row: ComparisonRow) -> dict[str, Any]:
    found = row.comparison or Comparison(
        beats={},
        v_champion=0,
        v_candidate=0,
        judged_champion=0,
        judged_candidate=0,
        runs_champion=0,
        runs_candidate=0,
        disagreements=(),
    )
    of_pairs = {f"n_{pair.lower()}": found.beats.get(pair, 0) for pair in _PAIRS}
    return {
        "prediction_id": row.prediction_id,
        "candidate_id": row.candidate_id,
        "created_at": _to_text(row.created_at),
        "stage": row.stage,
        "answered_by": row.answered_by,
        "traffic_group": row.traffic_group,
        "duration_s": row.duration_s,
        **of_pairs,
        "n_unclassed": found.n_beats - sum(of_pairs.values()),
        **{
            name: getattr(found, name)
            for name in (f"{what}_{who}" for what in ("v", "judged", "runs") for who in _WHO)
        },
        "ms_champion": row.ms_champion,
        "ms_candidate": row.ms_candidate,
        "failure": None if row.failure is None else row.failure[:200],
        "champion_refused": row.champion_refused,
        "n_disagreements": found.n_disagreements,
        "disagreements": orjson.dumps(found.disagreements).decode()
        if found.disagreements
        else None,
    }


def _patient_of(group: str) -> str | None:
    kind, _, key = group.partition(" ")
    return key if kind == "patient" else None


def _to_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
