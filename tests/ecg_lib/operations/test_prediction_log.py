from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.errors import PredictionLogError
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import (
    DecisionRow,
    DriftCheckRow,
    FeedbackRow,
    PredictionRow,
    RetrainingRow,
)
from tests.lists import list_predictions

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def prediction(number: int, *, bundle_hash: str = "a") -> PredictionRow:
    return PredictionRow(
        prediction_id=f"p{number}",
        created_at=NOW + timedelta(seconds=number),
        patient_key="k",
        bundle_hash=bundle_hash,
        bento_tag="ecg:x",
        duration_s=10.0,
        response={"total_beats_detected": number, "name": "Ä"},
        observed={"rr_prev_s": [None, 0.8], "rule": ["none", "none"]},
    )


@pytest.fixture
def log(database_url: str) -> Iterator[PredictionLog]:
    log = PredictionLog(database_url)
    log.create_tables()
    yield log
    log.close()


def test_a_prediction_comes_back_as_it_was_stored(log: PredictionLog) -> None:
    log.add_predictions([prediction(1)])
    assert log.get_prediction("p1") == prediction(1)
    assert log.get_prediction("p2") is None


def test_a_row_that_is_written_again_changes_nothing(log: PredictionLog) -> None:
    log.add_predictions([prediction(1)])
    log.add_predictions([replace(prediction(1), duration_s=99.0), prediction(2)])
    assert len(list_predictions(log)) == 2
    stored = log.get_prediction("p1")
    assert stored is not None
    assert stored.duration_s == 10.0


def test_times_of_other_zones_are_put_in_order(log: PredictionLog) -> None:
    east = timezone(timedelta(hours=9))
    log.add_predictions([prediction(1), replace(prediction(0), created_at=NOW.astimezone(east))])
    assert list_predictions(log) == ["p0", "p1"]
    first = log.get_prediction("p0")
    assert first is not None
    assert first.created_at == NOW


def test_a_time_without_a_zone_is_refused(log: PredictionLog) -> None:
    with pytest.raises(ValueError, match="must have a time zone"):
        log.add_predictions([replace(prediction(1), created_at=datetime(2026, 1, 1))])  # noqa: DTZ001  the point


def test_feedback_is_read_for_the_predictions_asked_for(log: PredictionLog) -> None:
    rows = [
        FeedbackRow(
            feedback_id=f"f{number}",
            created_at=NOW - timedelta(seconds=number),
            prediction_id=f"p{number}",
            annotator=None,
            labels={0: "V", 12: "N"},
        )
        for number in range(3)
    ]
    log.add_feedback(rows)
    log.add_feedback(rows)
    assert log.read_feedback(["p2", "p0", "nix"]) == [rows[2], rows[0]]
    assert len(log.read_feedback(f"p{number}" for number in range(1200))) == 3
    assert log.read_feedback([]) == []


def test_what_is_old_is_deleted_and_counted(log: PredictionLog) -> None:
    log.add_predictions([prediction(number) for number in range(5)])
    log.add_feedback(
        [
            FeedbackRow(
                feedback_id=f"f{number}",
                created_at=NOW + timedelta(seconds=at),
                prediction_id=f"p{number}",
                annotator=None,
                labels={0: "V"},
            )
            for number, at in ((0, 1), (1, 100), (3, 2), (9, 1))
        ]
    )
    limit = NOW + timedelta(seconds=3)
    # f1 is newer than the limit, and p3 is still there.
    assert log.delete_before(limit) == (3, 2)
    assert list_predictions(log) == ["p3", "p4"]
    assert {row.feedback_id for row in log.read_feedback(["p0", "p1", "p3", "p9"])} == {"f1", "f3"}
    assert log.delete_before(limit) == (0, 0)


def test_drift_checks_are_read_latest_first(log: PredictionLog) -> None:
    rows = [
        DriftCheckRow(
            check_id=f"c{number}",
            created_at=NOW + timedelta(hours=number),
            bundle_hash="a",
            action="KEEP",
            summary={"share": number / 10},
        )
        for number in range(3)
    ]
    for row in rows:
        log.add_drift_check(row)
    assert log.read_drift_checks(limit=2) == [rows[2], rows[1]]


def test_checks_of_candidates_are_decisions_and_take_no_place_among_those_of_what_is_served(
    log: PredictionLog,
) -> None:
    summaries: list[dict[str, Any]] = [
        {"reasons": ['the text "candidate_id": alone is not its key'], "candidate-id": 1},
        {"candidate_id": "one", "reasons": []},
        {"candidate_id": None},
    ]
    rows = [
        DriftCheckRow(
            check_id=f"c{number}",
            created_at=NOW + timedelta(hours=number),
            bundle_hash="a",
            action="ROLLBACK",
            summary=summary,
        )
        for number, summary in enumerate(summaries)
    ]
    for row in rows:
        log.add_drift_check(row)
    assert [row.is_candidate for row in rows] == [False, True, True]
    assert log.read_drift_checks(limit=1) == rows[:1]
    assert log.read_drift_checks(limit=3, are_decisions=True) == rows[::-1]


def test_several_writers_lose_nothing(database_url: str, log: PredictionLog) -> None:
    logs = [PredictionLog(database_url) for _ in range(3)]

    def write(which: int) -> None:
        for number in range(20):
            logs[which].add_predictions([prediction(100 * which + number)])

    with ThreadPoolExecutor(3) as executor:
        list(executor.map(write, range(3)))
    assert len(list_predictions(log)) == 60


def test_a_database_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    log = PredictionLog(f"sqlite:///{tmp_path / 'nowhere' / 'log.db'}")
    with pytest.raises(PredictionLogError, match="cannot be used: unable to open database file"):
        log.create_tables()


def test_a_deleted_database_is_noticed(tmp_path: Path) -> None:
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    log.create_tables()
    log.add_predictions([prediction(1)])
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    with pytest.raises(PredictionLogError, match="no such table"):
        log.add_predictions([prediction(2)])


def _owners(log: PredictionLog) -> list[str | None]:
    found = [log.get_prediction(name) for name in list_predictions(log)]
    return [row.owner for row in found if row is not None]


def test_rows_keep_their_owner(log: PredictionLog) -> None:
    log.add_predictions([replace(prediction(1), owner="key"), prediction(2)])
    assert _owners(log) == ["key", None]


def test_the_tables_of_an_earlier_version_get_an_owner(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    earlier = PredictionLog(url)
    earlier.create_tables()
    earlier.add_predictions([prediction(1)])
    earlier.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute("DROP TABLE ecg_schema_version")
        for table in ("predictions", "feedback"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN owner")
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: PredictionLog(url).create_tables(), range(4)))
    log = PredictionLog(url)
    log.add_predictions([replace(prediction(2), owner="key")])
    assert _owners(log) == [None, "key"]
    log.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql+psycopg3000://u:secret@db/x", "its URL is none"),
        ("mysql://u:secret@db/x", "must be SQLite or PostgreSQL, got mysql"),
        ("nonsense", "its URL is none"),
        ("postgresql+psycopg2://u:secret@db/x", "psycopg2 is not"),
    ],
)
def test_a_url_without_a_driver_is_refused_and_shows_no_password(url: str, reason: str) -> None:
    with pytest.raises(PredictionLogError, match=reason) as refused:
        PredictionLog(url)
    assert "secret" not in str(refused.value)


def test_reviewed_predictions_have_the_latest_label_of_each_beat(log: PredictionLog) -> None:
    beats = {"beat_predictions": [{"arrhythmia_type": one} for one in ("N", "V", None)]}
    log.add_predictions([replace(prediction(n), response=beats) for n in range(3)])
    log.add_feedback(
        [
            FeedbackRow(
                feedback_id=f"f{number}",
                created_at=NOW + timedelta(seconds=number),
                prediction_id="p1",
                annotator=None,
                labels=labels,
            )
            for number, labels in enumerate(({0: "N", 1: "N"}, {1: "V"}))
        ]
    )
    (row,) = log.read_reviewed(since=NOW, bundle_hash="a")
    assert (row.prediction_id, row.called, row.labels) == (
        "p1",
        ["N", "V", None],
        {0: "N", 1: "V"},
    )
    assert log.read_reviewed(since=NOW + timedelta(seconds=2), bundle_hash="a") == []


def test_a_missed_beat_after_the_end_of_the_signal_is_not_reviewed(log: PredictionLog) -> None:
    body = {"beat_predictions": [], "duration_s": 10.0, "sampling_rate": 360.0}
    log.add_predictions([replace(prediction(1), response=body)])
    log.add_feedback([replace(feedback("f1", "p1"), missed={3599: "V", 3600: "V"})])
    (row,) = log.read_reviewed(since=NOW, bundle_hash="a")
    assert row.missed == {3599: "V"}


def test_a_check_and_its_decision_are_stored_together_or_not_at_all(log: PredictionLog) -> None:
    check = DriftCheckRow(
        check_id="c1", created_at=NOW, bundle_hash="a", action="RETRAIN", summary={}
    )
    decision = DecisionRow(
        decision_id="d1", created_at=NOW, deployment="pipeline/ecg", parameters={"reason": "x"}
    )
    log.add_drift_check(check, decision)
    assert log.read_open_decisions() == [decision]
    with pytest.raises(PredictionLogError):
        log.add_drift_check(replace(check, check_id="c2"), decision)
    assert [row.check_id for row in log.read_drift_checks()] == ["c1"]
    log.update_decision("d1", state="asked", run_id="r", attempt=1)
    assert log.read_open_decisions() == [replace(decision, state="asked", run_id="r", attempt=1)]
    log.update_decision("d1", state="done", run_id="r", attempt=1)
    assert log.read_open_decisions() == []


def test_old_checks_are_deleted_except_those_that_decided_something(log: PredictionLog) -> None:
    for number, action in enumerate(("KEEP", "RETRAIN", "KEEP")):
        log.add_drift_check(
            DriftCheckRow(
                check_id=f"c{number}",
                created_at=NOW + timedelta(days=number),
                bundle_hash="a",
                action=action,
                summary={},
            )
        )
    assert log.delete_checks_before(NOW + timedelta(days=2)) == 1
    assert [row.check_id for row in log.read_drift_checks()] == ["c2", "c1"]


def test_an_index_of_earlier_code_is_replaced_and_the_checks_query_uses_the_new_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE predictions (prediction_id VARCHAR(36) PRIMARY KEY, created_at VARCHAR,"
            " patient_key VARCHAR, bundle_hash VARCHAR, bento_tag VARCHAR, duration_s FLOAT,"
            " response TEXT, observed TEXT)"
        )
        database.execute("CREATE INDEX ix_predictions_bundle_hash ON predictions (bundle_hash)")
    log = PredictionLog(f"sqlite:///{path}")
    for _ in range(2):
        log.create_tables()
    log.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = database.execute(
            "EXPLAIN QUERY PLAN SELECT observed FROM predictions WHERE bundle_hash = 'a' AND "
            "created_at >= '2026' AND duration_s <= 20 ORDER BY created_at DESC, prediction_id DESC"
        ).fetchall()
    assert any("ix_predictions_of_bundle" in step[-1] for step in plan)


def feedback(name: str, prediction_id: str, *, withdraws: str | None = None) -> FeedbackRow:
    return FeedbackRow(
        feedback_id=name,
        created_at=NOW,
        prediction_id=prediction_id,
        annotator=None,
        labels={} if withdraws else {0: "N"},
        withdraws=withdraws,
    )


def answered(number: int, *, confidence: float, is_drawn: bool = False) -> PredictionRow:
    beat = {"beat_index": 0, "arrhythmia_type": "N", "confidence": confidence, "rule": None}
    response = {"beat_predictions": [beat], "drawn_for_review": is_drawn}
    return replace(prediction(number), response=response, owner="ab"[number % 2])


def test_the_queue_has_drawn_predictions_first_and_then_the_most_doubtful(
    log: PredictionLog,
) -> None:
    log.add_predictions(
        [
            answered(1, confidence=0.9),
            answered(2, confidence=0.6),
            answered(3, confidence=0.99, is_drawn=True),
            answered(4, confidence=0.7),
        ]
    )
    log.add_feedback([feedback("f1", "p2"), feedback("f2", "p1")])
    log.add_feedback([feedback("w1", "p1", withdraws="f2")])
    queue = log.read_queue(since=NOW, limit=10)
    # The label of p2 holds, that of p1 was withdrawn.
    assert [(row.prediction_id, row.is_drawn) for row in queue] == [
        ("p3", True),
        ("p4", False),
        ("p1", False),
    ]
    assert queue[1].doubt == pytest.approx(0.6)
    assert [row.prediction_id for row in log.read_queue(since=NOW, limit=2)] == ["p3", "p4"]
    of_key = log.read_queue(since=NOW, owner="b", limit=10)
    assert [row.prediction_id for row in of_key] == ["p3", "p1"]
    late = log.read_queue(since=NOW + timedelta(seconds=4), limit=10)
    assert [row.prediction_id for row in late] == ["p4"]


def test_all_reviewed_predictions_are_read_and_those_that_were_drawn_are_told(
    log: PredictionLog,
) -> None:
    rows = [answered(number, confidence=0.9, is_drawn=number == 7) for number in range(2100)]
    log.add_predictions(rows)
    log.add_feedback([feedback(f"f{row.prediction_id}", row.prediction_id) for row in rows])
    found = log.read_reviewed(since=NOW, bundle_hash="a")
    assert len(found) == 2100
    assert [row.prediction_id for row in found if row.is_drawn] == ["p7"]


def test_what_is_old_stays_where_it_is_to_be_kept(log: PredictionLog) -> None:
    log.add_predictions([prediction(number) for number in range(1200)])
    log.add_feedback([feedback("f3", "p3"), feedback("f4", "p4")])
    limit = NOW + timedelta(seconds=1199)
    assert log.delete_before(limit, keep={"p3", "nix"}) == (1198, 1)
    assert list_predictions(log) == ["p3", "p1199"]
    assert [row.feedback_id for row in log.read_feedback(["p3", "p4"])] == ["f3"]


def test_the_last_retraining_of_a_bundle_is_found(log: PredictionLog) -> None:
    rows = [
        RetrainingRow(
            retraining_id=f"r{number}",
            created_at=NOW + timedelta(days=number),
            bundle_hash="ab"[number // 2],
            dataset_version="d",
            has_helped=number == 0,
            reasons=("a", "b"),
            labels=f"hash {number}",
        )
        for number in range(3)
    ]
    for row in rows:
        log.add_retraining(row)
    assert log.get_last_retraining(bundle_hash="a") == rows[1]
    assert log.get_last_retraining(bundle_hash="b") == rows[2]
    assert log.get_last_retraining(bundle_hash="c") is None


def test_tables_of_earlier_code_get_the_new_columns_and_keep_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE predictions (prediction_id VARCHAR(36) PRIMARY KEY, created_at VARCHAR,"
            " patient_key VARCHAR, bundle_hash VARCHAR, bento_tag VARCHAR, duration_s FLOAT,"
            " response TEXT, observed TEXT);"
            "CREATE TABLE feedback (feedback_id VARCHAR(36) PRIMARY KEY, created_at VARCHAR,"
            " prediction_id VARCHAR, annotator VARCHAR, labels TEXT);"
            "INSERT INTO predictions VALUES ('old', '2026-03-01T12:00:00.000000+00:00', 'k', 'a',"
            """ 'ecg:x', 10, '{"beat_predictions": [{"arrhythmia_type": "V"}]}', '{}');"""
            "INSERT INTO feedback VALUES ('f', '2026-03-01T12:00:00.000000+00:00', 'old', NULL,"
            """ '{"0": "N"}');"""
        )
    log = PredictionLog(f"sqlite:///{path}")
    for _ in range(2):
        log.create_tables()
    (row,) = log.read_feedback(["old"])
    assert (row.labels, row.missed, row.withdraws, row.is_recording) == ({0: "N"}, {}, None, False)
    (reviewed,) = log.read_reviewed(since=NOW, bundle_hash="a")
    assert (reviewed.labels, reviewed.is_drawn) == ({0: "N"}, False)
    log.add_feedback([feedback("w", "old", withdraws="f")])
    assert log.find_labelled(["old"]) == set()
    # Doubt was not measured then, so that the row is in no queue.
    assert log.read_queue(since=NOW, limit=10) == []
    log.close()
