"""Traffic in the prediction log: where each request came from, and a sample of a whole window.

Groups. Strips of one person are alike, so what counts is the number of people. A request that
names its patient belongs to that patient. One that does not belongs to its client: the API key, or
the address of a client without one. A client may stand for many people, but nothing in the traffic
proves it: one patient's monitor sends for hours, and comes back after a pause. The number of
clients is therefore a lower bound of the number of people, whatever they send, as long as no
person changes the key or address; 360 strips of one anonymous patient are one group. The price is
that anonymous patients behind one key cannot be distinguished, so their traffic decides nothing.

Sample. Each group gives the same number of strips, as far as it has them, from the whole window:
those whose ids have the lowest hashes, which is a random sample that is the same each time. Ids are
read one at a time and only the chosen rows in full, so the memory does not grow with the log.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ecg_lib.operations.drift.group_shares import GroupVolume
from ecg_lib.operations.drift.observation import LONGEST_WHOLE_S, STRETCH, ObservedStrip
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import RequestRow, name_group

MAX_STRETCHES: Final = 12
"""Largest number of stretches that are taken of one long strip or recording."""

_AT_ONCE: Final = 100

_METADATA: Final = sa.MetaData()

_REQUESTS: Final = sa.Table(
    "requests",
    _METADATA,
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column("created_at", sa.String(32), nullable=False, index=True),
    sa.Column("bundle_hash", sa.String(64), nullable=False),
    sa.Column("bento_tag", sa.String(128), nullable=False),
    sa.Column("duration_s", sa.Float, nullable=False),
    sa.Column("refused", sa.String(64)),
    sa.Column("patient_key", sa.String(64), index=True),
    sa.Column("client", sa.String(64)),
    sa.Column("owner", sa.String(64)),
    sa.Column("slices", sa.Text, nullable=False),
    sa.Column("observed", sa.Text),
)
"""Where requests came from; those without a prediction were refused, or are recordings."""

_PREDICTIONS: Final = sa.table(
    "predictions",
    *(
        sa.column(name)
        for name in (
            "prediction_id", "created_at", "bundle_hash", "bento_tag", "duration_s", "patient_key",
            "observed",
        )
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which traffic."""

    since: datetime
    """Excluded."""
    until: datetime
    """Included."""
    bundle_hash: str | None = None
    bento_tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Traffic of a window, counted."""

    groups: Mapping[str, GroupVolume] = field(default_factory=dict)
    bento_tags: frozenset[str] = frozenset()
    newest_at: datetime | None = None

    @property
    def answered(self) -> int:
        """Number of requests that were answered."""
        return sum(group.answered for group in self.groups.values())

    @property
    def refused(self) -> int:
        """Number of requests whose signal was refused."""
        return sum(group.refused for group in self.groups.values())


def add_requests(
    log: PredictionLog, rows: Sequence[RequestRow], *, within: sa.Connection | None = None
) -> None:
    """Store where requests came from; what is stored already stays as it is."""
    if not rows:
        return
    with log.open_transaction(within) as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        insert = sqlite.insert(_REQUESTS) if is_sqlite else postgresql.insert(_REQUESTS)
        connection.execute(
            insert.on_conflict_do_nothing(),
            [
                {
                    "request_id": row.request_id,
                    "created_at": _to_text(row.created_at),
                    "bundle_hash": row.bundle_hash,
                    "bento_tag": row.bento_tag,
                    "duration_s": row.duration_s,
                    "refused": row.refused,
                    "patient_key": row.patient_key,
                    "client": row.client,
                    "owner": row.owner,
                    "slices": orjson.dumps(row.slices).decode(),
                    "observed": None
                    if row.observed is None
                    else orjson.dumps(row.observed).decode(),
                }
                for row in rows
            ],
        )


def delete_requests_before(log: PredictionLog, moment: datetime) -> int:
    """Delete requests that are older than a moment, and return how many there were."""
    with log.open_transaction() as connection:
        return connection.execute(
            sa.delete(_REQUESTS).where(_REQUESTS.c.created_at < _to_text(moment))
        ).rowcount


def read_volume(log: PredictionLog, window: Window) -> Volume:
    """Count the requests of a window by group."""
    traffic = _select_traffic(window).subquery()
    query = sa.select(
        traffic.c.patient_key,
        traffic.c.client,
        traffic.c.bento_tag,
        sa.func.count().label("n"),
        sa.func.count(traffic.c.refused).label("n_refused"),
        sa.func.max(traffic.c.created_at).label("newest_at"),
    ).group_by(traffic.c.patient_key, traffic.c.client, traffic.c.bento_tag)
    groups: dict[str, GroupVolume] = {}
    tags: set[str] = set()
    newest: list[str] = []
    with log.open_transaction() as connection:
        for row in connection.execute(query).mappings():
            name = name_group(row["patient_key"], row["client"])
            known = groups.get(name, GroupVolume(0, 0))
            groups[name] = GroupVolume(
                known.answered + row["n"] - row["n_refused"], known.refused + row["n_refused"]
            )
            tags.add(row["bento_tag"])
            newest.append(row["newest_at"])
    return Volume(
        groups=groups,
        bento_tags=frozenset(tags),
        newest_at=datetime.fromisoformat(max(newest)) if newest else None,
    )


def read_groups(log: PredictionLog, prediction_ids: Sequence[str]) -> dict[str, str]:
    """Read the group of each prediction."""
    prediction, request = _PREDICTIONS.c, _REQUESTS.c
    groups: dict[str, str] = {}
    with log.open_transaction() as connection:
        for start in range(0, len(prediction_ids), _AT_ONCE):
            query = (
                sa.select(prediction.prediction_id, prediction.patient_key, request.client)
                .select_from(
                    _PREDICTIONS.outerjoin(
                        _REQUESTS, request.request_id == prediction.prediction_id
                    )
                )
                .where(prediction.prediction_id.in_(prediction_ids[start : start + _AT_ONCE]))
            )
            for prediction_id, patient_key, client in connection.execute(query):
                groups[prediction_id] = name_group(patient_key, client)
    return groups


def sample_traffic(
    log: PredictionLog, window: Window, volume: Volume, *, max_strips: int
) -> Iterator[ObservedStrip]:
    """Read a sample of the answered requests of a window, balanced by group.

    Parameters
    ----------
    log : PredictionLog
    window : Window
    volume : Volume
        That of the window.
    max_strips : int
        At most so many requests; with more groups than that, a random sample of the groups.

    Yields
    ------
    ObservedStrip
        One at a time, in no order.

    """
    cap = share_out([group.answered for group in volume.groups.values()], max_strips)
    chosen = _choose_ids(log, window, _choose_groups(volume, max_strips), cap=cap)
    counts = {name: len(ids) for name, ids in chosen.items()}
    ids = [request_id for of_group in chosen.values() for request_id in of_group]
    for start in range(0, len(ids), _AT_ONCE):
        for row in _read_rows(log, ids[start : start + _AT_ONCE]):
            observed = orjson.loads(row["observed"])
            if row["duration_s"] > LONGEST_WHOLE_S and STRETCH not in observed:
                continue  # of earlier code, which did not observe stretches
            group = name_group(row["patient_key"], row["client"])
            n_wanted = min(max(cap // counts[group], 1), MAX_STRETCHES)
            slices = orjson.loads(row["slices"]) if row["slices"] else {}
            yield ObservedStrip(group, row["duration_s"], observed, slices, n_wanted)


def share_out(available: Sequence[int], total: int) -> int:
    """Return how many each may give at most, so that all together give at most `total`.

    >>> share_out([1, 2, 500, 500], 100)
    48
    >>> share_out([3, 3], 100)
    3
    """
    rest, n_left = total, len(available)
    for one in sorted(available):
        if one * n_left > rest:
            return max(rest // n_left, 1)
        rest, n_left = rest - one, n_left - 1
    return max(available, default=1)


def _choose_groups(volume: Volume, max_strips: int) -> frozenset[str]:
    answered = (name for name, group in volume.groups.items() if group.answered)
    return frozenset(heapq.nsmallest(max_strips, answered, key=_hash))


def _choose_ids(
    log: PredictionLog, window: Window, groups: frozenset[str], *, cap: int
) -> dict[str, list[str]]:
    """Choose the requests with the lowest hashes of each group."""
    lowest: dict[str, list[tuple[int, str]]] = {name: [] for name in groups}
    traffic = _select_traffic(window).subquery()
    query = sa.select(traffic.c.request_id, traffic.c.patient_key, traffic.c.client).where(
        traffic.c.refused.is_(None)
    )
    with log.open_transaction() as connection:
        for request_id, patient_key, client in connection.execution_options(yield_per=1000).execute(
            query
        ):
            heap = lowest.get(name_group(patient_key, client))
            if heap is None:
                continue
            entry = (-_hash(request_id), request_id)
            if len(heap) < cap:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
    return {name: sorted(one for _, one in heap) for name, heap in lowest.items() if heap}


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def _select_traffic(window: Window) -> sa.CompoundSelect[Any]:
    """Select predictions with what is known of their requests, and requests without one."""
    request, prediction = _REQUESTS.c, _PREDICTIONS.c
    predictions = (
        sa.select(
            prediction.prediction_id.label("request_id"),
            prediction.created_at,
            prediction.bento_tag,
            prediction.patient_key,
            request.client,
            sa.null().label("refused"),
        )
        .select_from(
            _PREDICTIONS.outerjoin(_REQUESTS, request.request_id == prediction.prediction_id)
        )
        .where(*_is_in(window, _PREDICTIONS.c))
    )
    others = sa.select(
        request.request_id,
        request.created_at,
        request.bento_tag,
        request.patient_key,
        request.client,
        request.refused,
    ).where(
        *_is_in(window, _REQUESTS.c),
        request.refused.is_not(None) | request.observed.is_not(None),
    )
    return sa.union_all(predictions, others)


def _is_in(window: Window, columns: Any) -> Iterator[sa.ColumnElement[bool]]:  # noqa: ANN401  of either table
    yield columns.created_at > _to_text(window.since)
    yield columns.created_at <= _to_text(window.until)
    if window.bundle_hash is not None:
        yield columns.bundle_hash == window.bundle_hash
    if window.bento_tag is not None:
        yield columns.bento_tag == window.bento_tag


def _read_rows(log: PredictionLog, ids: Iterable[str]) -> list[Mapping[str, Any]]:
    wanted = list(ids)
    request, prediction = _REQUESTS.c, _PREDICTIONS.c
    names = ("duration_s", "patient_key")
    predictions = (
        sa.select(
            *(prediction[name] for name in names),
            request.client,
            request.slices,
            prediction.observed,
        )
        .select_from(
            _PREDICTIONS.outerjoin(_REQUESTS, request.request_id == prediction.prediction_id)
        )
        .where(prediction.prediction_id.in_(wanted))
    )
    recordings = sa.select(
        *(request[name] for name in names), request.client, request.slices, request.observed
    ).where(request.request_id.in_(wanted), request.observed.is_not(None))
    with log.open_transaction() as connection:
        return [
            dict(row)
            for query in (predictions, recordings)
            for row in connection.execute(query).mappings()
        ]


def _to_text(moment: datetime) -> str:
    """Write a moment as all tables of the log have it: in UTC, so that texts sort as moments do."""
    if moment.tzinfo is None:
        msg = f"created_at must have a time zone, got {moment!r}"
        raise ValueError(msg)
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
