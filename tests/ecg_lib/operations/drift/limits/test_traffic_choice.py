"""Which requests and groups are drawn: it must stay the same from release to release."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ecg_lib.operations.drift.group_shares import GroupVolume
from ecg_lib.operations.drift.traffic_log import (
    Volume,
    Window,
    _choose_groups,
    _choose_ids,
    read_volume,
)
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _prediction(number: int, *, created_at: datetime = NOW) -> PredictionRow:
    return PredictionRow(
        prediction_id=f"p{number}",
        created_at=created_at,
        patient_key="k",
        bundle_hash="a",
        bento_tag="ecg:1",
        duration_s=10.0,
        response={},
        observed={},
    )


@pytest.fixture
def log(database_url: str) -> Iterator[PredictionLog]:
    log = PredictionLog(database_url)
    log.create_tables()
    yield log
    log.close()


@pytest.mark.parametrize(
    ("cap", "chosen"),
    [(1, ["p8"]), (2, ["p7", "p8"]), (4, ["p2", "p6", "p7", "p8"])],
)
def test_the_requests_of_a_group_are_drawn_by_the_hashes_of_their_ids(
    cap: int, chosen: list[str], log: PredictionLog
) -> None:
    log.add_predictions([_prediction(number) for number in range(9)])
    window = Window(since=NOW - timedelta(days=1), until=NOW)
    drawn = _choose_ids(log, window, frozenset({"patient k", "patient none"}), cap=cap)
    assert drawn == {"patient k": chosen}


def test_groups_are_drawn_by_the_hashes_of_their_names_when_they_have_answers() -> None:
    groups = {f"client c{number}": GroupVolume(1, 0) for number in range(9)}
    groups["client c5"] = GroupVolume(0, 4)
    drawn = _choose_groups(Volume(groups=groups), 3)
    assert drawn == {"client c0", "client c3", "client c4"}
    assert len(_choose_groups(Volume(groups=groups), 9)) == 8


def test_the_newest_of_all_requests_of_a_group_is_told(log: PredictionLog) -> None:
    moments = [NOW - timedelta(hours=hours) for hours in (3, 1, 2)]
    log.add_predictions(
        [_prediction(number, created_at=moment) for number, moment in enumerate(moments)]
    )
    window = Window(since=NOW - timedelta(days=1), until=NOW)
    assert read_volume(log, window).newest_at == NOW - timedelta(hours=1)
