"""Two answers to one strip, and their rows in a real database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from ecg_lib.operations.learning.rollout.comparison import (
    Comparison,
    ComparisonRow,
    compare_answers,
)
from ecg_lib.operations.learning.rollout.comparison_log import (
    StageCounts,
    add_comparisons,
    count_stage,
    delete_comparisons_before,
    read_compared,
    read_disagreements,
)
from ecg_lib.operations.prediction_log import PredictionLog

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def answer(*beats: tuple[int, str | None], runs: int = 0) -> dict[str, Any]:
    return {
        "sampling_rate": 100.0,
        "beat_predictions": [
            {
                "position_sample": at,
                "arrhythmia_type": name,
                "probability_v": None if name is None else float(name == "V"),
            }
            for at, name in beats
        ],
        "rhythm": {"runs": [{}] * runs},
    }


def test_beats_are_paired_by_position_and_counted_by_both_classes() -> None:
    champion = answer((100, "N"), (200, "N"), (300, "V"), (400, None), (500, "N"), runs=1)
    candidate = answer((103, "N"), (200, "V"), (301, "V"), (400, "N"), (900, "V"), runs=2)
    found = compare_answers(champion, candidate)
    assert found.beats == {"NN": 1, "NV": 1, "VV": 1, "-N": 1, "N-": 1, "-V": 1}
    assert (found.n_beats, found.n_disagreements) == (6, 4)
    assert (found.v_champion, found.judged_champion) == (1, 4)
    assert (found.v_candidate, found.judged_candidate) == (3, 5)
    assert (found.runs_champion, found.runs_candidate) == (1, 2)
    assert [beat["position_sample"] for beat in found.disagreements] == [200, 400, 500, 900]
    assert found.disagreements[0] == {
        "position_sample": 200,
        "champion": "N",
        "candidate": "V",
        "probability_champion": 0.0,
        "probability_candidate": 1.0,
    }


def test_beats_further_apart_than_50_ms_are_two_beats() -> None:
    assert compare_answers(answer((100, "N")), answer((105, "N"))).beats == {"NN": 1}
    assert compare_answers(answer((100, "N")), answer((106, "N"))).beats == {"N-": 1, "-N": 1}


def test_of_many_disagreements_50_are_kept_and_all_are_counted() -> None:
    many = [(100 * at, "N") for at in range(1, 81)]
    found = compare_answers(answer(*many), answer(*((at, "V") for at, _ in many)))
    assert (found.n_disagreements, len(found.disagreements)) == (80, 50)


@pytest.fixture
def log(database_url: str) -> Iterator[PredictionLog]:
    log = PredictionLog(database_url)
    log.create_tables()
    yield log
    log.close()


COMPARED = compare_answers(answer((100, "N"), (200, "N")), answer((100, "N"), (200, "V"), runs=1))
ROW = ComparisonRow(
    prediction_id="p0",
    created_at=NOW,
    candidate_id="one",
    stage=0,
    answered_by="champion",
    traffic_group="patient a",
    duration_s=10.0,
    comparison=COMPARED,
)


def test_comparisons_are_added_up_by_person_and_stored_once(log: PredictionLog) -> None:
    rows = [
        replace(ROW, prediction_id="p0", ms_champion=5.0, ms_candidate=6.0),
        replace(ROW, prediction_id="p1", stage=1, answered_by="candidate"),
        replace(ROW, prediction_id="p2", traffic_group="client b", stage=1),
        replace(ROW, prediction_id="p3", comparison=None, failure="refused: noise"),
        replace(ROW, prediction_id="p4", comparison=None, failure="failed: ValueError"),
        replace(ROW, prediction_id="p5", candidate_id="two"),
    ]
    add_comparisons(log, rows)
    add_comparisons(log, rows)
    found = read_compared(log, "one")
    assert set(found.groups) == {"patient a", "client b"}
    of_a = found.groups["patient a"]
    assert (of_a.strips, of_a.seconds, of_a.refused) == (2, 20.0, 2)
    assert (of_a.v_champion, of_a.v_candidate, of_a.judged_candidate) == (0, 2, 4)
    assert (of_a.runs_candidate, of_a.strips_with_run_candidate) == (2, 2)
    assert found.beats == {"NN": 3, "NV": 3, "VN": 0, "VV": 0, "unclassed": 0}
    assert (found.strips, found.failed, list(found.timed.values())) == (3, 1, [(1.2,)])
    assert count_stage(log, "one", stage=1, of_candidate=False) == StageCounts(strips=2, groups=2)
    assert count_stage(log, "one", stage=1, of_candidate=True) == StageCounts(strips=1, groups=1)


def test_strips_that_the_champion_alone_refuses_are_counted_and_complete_no_stage(
    log: PredictionLog,
) -> None:
    refused = replace(ROW, comparison=None, champion_refused=True)
    of_another = replace(refused, prediction_id="p2", traffic_group="client b")
    add_comparisons(log, [ROW, replace(refused, prediction_id="p1"), of_another])
    found = read_compared(log, "one")
    of_a, of_b = found.groups["patient a"], found.groups["client b"]
    assert (of_a.strips, of_a.seconds, of_a.refused, of_a.champion_refused) == (1, 10.0, 0, 1)
    assert (of_b.strips, of_b.seconds, of_b.refused, of_b.champion_refused) == (0, 0.0, 0, 1)
    assert (found.strips, found.champion_refused) == (1, 2)
    assert count_stage(log, "one", stage=0, of_candidate=False) == StageCounts(strips=1, groups=1)


def test_a_table_of_earlier_code_gets_the_column_and_its_rows_count_as_answered(
    database_url: str,
) -> None:
    log = PredictionLog(database_url)
    log.create_tables()
    add_comparisons(log, [ROW])
    with log.open_transaction() as connection:
        connection.execute(sa.text("ALTER TABLE comparisons DROP COLUMN champion_refused"))
        connection.execute(sa.text("DROP TABLE ecg_schema_version"))
    found = read_compared(log, "one")
    assert (found.strips, found.champion_refused) == (1, 0)
    add_comparisons(log, [replace(ROW, prediction_id="p1", comparison=None, champion_refused=True)])
    assert read_compared(log, "one").champion_refused == 1
    log.close()


def test_the_latest_strips_that_differ_come_first_with_their_patient(log: PredictionLog) -> None:
    same = Comparison(
        beats={"NN": 2}, v_champion=0, v_candidate=0, judged_champion=2, judged_candidate=2,
        runs_champion=0, runs_candidate=0, disagreements=(),
    )  # fmt: skip
    add_comparisons(
        log,
        [
            replace(ROW, prediction_id="early"),
            replace(ROW, prediction_id="late", created_at=NOW + timedelta(minutes=1),
                    traffic_group="client b"),
            replace(ROW, prediction_id="same", comparison=same),
        ],
    )  # fmt: skip
    late, early = read_disagreements(log, "one", limit=10)
    assert (late.prediction_id, late.patient_key) == ("late", None)
    assert (early.prediction_id, early.patient_key, early.n_disagreements) == ("early", "a", 1)
    assert early.beats == list(COMPARED.disagreements)
    assert len(read_disagreements(log, "one", limit=1)) == 1


def test_comparisons_are_kept_for_as_long_as_predictions(log: PredictionLog) -> None:
    add_comparisons(
        log, [ROW, replace(ROW, prediction_id="new", created_at=NOW + timedelta(days=2))]
    )
    assert delete_comparisons_before(log, NOW + timedelta(days=1)) == 1
    assert read_compared(log, "one").strips == 1
