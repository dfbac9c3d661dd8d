"""Versions of the schema: forwards and backwards, with rows in place, on SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ecg_lib.errors import PredictionLogError
from ecg_lib.operations.drift import traffic_log
from ecg_lib.operations.learning.rollout import comparison_log
from ecg_lib.operations.learning.schema import migrations
from ecg_lib.operations.learning.schema.migrations import HEAD, VERSION_TABLE, migrate, read_version
from ecg_lib.operations.learning.schema.tables import METADATA, make_engine
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import FeedbackRow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST = (
    (
        "INSERT INTO predictions (prediction_id, created_at, patient_key, bundle_hash, bento_tag, "
        "duration_s, response, observed) VALUES ('p1', '2026-03-01T12:00:00.000000+00:00', 'k', "
        "'a', 'ecg:x', 10.0, '{\"beats\": 3}', '{}')"
    ),
    (
        "INSERT INTO feedback (feedback_id, created_at, prediction_id, annotator, labels) VALUES "
        "('f1', '2026-03-01T12:00:00.000000+00:00', 'p1', NULL, '{\"0\": \"V\"}')"
    ),
)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def _run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement.replace(":", "\\:")))


def _tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names()) - {VERSION_TABLE}


def _columns(engine: sa.Engine, table: str) -> set[str]:
    return {one["name"] for one in sa.inspect(engine).get_columns(table)}


def test_all_versions_together_make_the_tables_that_the_code_reads(engine: sa.Engine) -> None:
    assert migrate(engine)
    metadata = sa.MetaData()
    for one in (METADATA, traffic_log._METADATA, comparison_log._METADATA):
        for table in one.tables.values():
            table.to_metadata(metadata)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []


def test_the_version_of_the_code_is_the_last_that_there_is() -> None:
    folder = Path(migrations.__file__).parent
    script = ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])
    assert script.get_current_head() == HEAD
    assert script.get_bases() == ["r0001"]


def test_rows_of_the_first_version_are_read_after_the_way_forwards(
    engine: sa.Engine, database_url: str
) -> None:
    migrate(engine, "r0001")
    assert "owner" not in _columns(engine, "predictions")
    _run(engine, *FIRST)
    log = PredictionLog(database_url)
    log.create_tables()
    row = log.get_prediction("p1")
    assert row is not None
    assert (row.response, row.owner, row.created_at) == ({"beats": 3}, None, NOW)
    (feedback,) = log.read_feedback(["p1"])
    assert (feedback.labels, feedback.missed) == ({0: "V"}, {})
    assert log.read_version() == HEAD
    log.close()


def test_the_way_back_keeps_what_the_earlier_version_knows_and_can_be_gone_again(
    engine: sa.Engine, database_url: str
) -> None:
    log = PredictionLog(database_url)
    log.create_tables()
    _run(engine, *FIRST)
    marked = FeedbackRow(
        feedback_id="f2", created_at=NOW, prediction_id="p1", annotator="me", labels={1: "N"},
        missed={50: "V"}, owner="key",
    )  # fmt: skip
    log.add_feedback([marked])
    assert log.migrate("r0001")
    assert _tables(engine) == {"predictions", "feedback", "drift_checks"}
    assert _columns(engine, "feedback") == {
        *("feedback_id", "created_at", "prediction_id", "annotator", "labels")
    }
    assert read_version(engine) == "r0001"
    log.create_tables()
    found = {row.feedback_id: row for row in log.read_feedback(["p1"])}
    assert found["f1"].labels == {0: "V"}
    # Labels by beat are of the first version; what came with the second is lost on the way back.
    assert (found["f2"].labels, found["f2"].missed, found["f2"].owner) == ({1: "N"}, {}, None)
    log.close()


def test_all_can_be_dropped_and_made_again(engine: sa.Engine) -> None:
    assert migrate(engine)
    assert not migrate(engine)
    assert migrate(engine, "base")
    assert _tables(engine) == set()
    assert migrate(engine)
    assert read_version(engine) == HEAD


def test_tables_of_code_without_versions_are_taken_over_with_their_rows(
    engine: sa.Engine, database_url: str
) -> None:
    METADATA.create_all(engine)
    _run(engine, *FIRST)
    assert read_version(engine) is None
    log = PredictionLog(database_url)
    log.create_tables()
    assert log.read_version() == HEAD
    assert log.get_prediction("p1") is not None
    log.close()


def test_several_processes_bring_a_database_forwards_once(database_url: str) -> None:
    def bring() -> bool:
        engine = make_engine(database_url)
        try:
            return migrate(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(4) as executor:
        done = [one.result() for one in [executor.submit(bring) for _ in range(4)]]
    assert sorted(done) == [False, False, False, True]


def test_a_step_that_fails_leaves_the_database_as_it_was(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(engine, "r0001")
    _run(engine, *FIRST)
    monkeypatch.setattr(
        "ecg_lib.operations.learning.schema.steps.drop_index",
        lambda *_: (_ for _ in ()).throw(sa.exc.OperationalError("x", None, Exception("full"))),
    )
    with pytest.raises(sa.exc.OperationalError):
        migrate(engine)
    assert read_version(engine) == "r0001"
    assert "owner" not in _columns(engine, "predictions")


def test_a_database_of_later_code_is_left_as_it_is(engine: sa.Engine) -> None:
    migrate(engine)
    _run(engine, f"UPDATE {VERSION_TABLE} SET version_num = 'r9999'")  # noqa: S608  a constant
    assert not migrate(engine)
    assert read_version(engine) == "r9999"
    assert "predictions" in _tables(engine)


def test_a_version_that_is_none_is_refused(engine: sa.Engine) -> None:
    with pytest.raises(PredictionLogError, match="must be one of base, r0001, r0002, r0003, got x"):
        migrate(engine, "x")


def test_a_service_whose_tables_are_current_does_not_load_alembic(
    engine: sa.Engine, database_url: str
) -> None:
    migrate(engine)
    code = (
        "import sys; from ecg_lib.operations.prediction_log import PredictionLog; "
        f"PredictionLog({database_url!r}).create_tables(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
