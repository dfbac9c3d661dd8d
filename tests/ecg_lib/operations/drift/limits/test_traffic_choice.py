"""Which requests and groups are drawn: it must stay the same from release to release."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ecg_lib.operations.drift.group_shares import GroupVolume
from ecg_lib.operations.drift.traffic_log import Volume, Window, _choose_groups, _choose_ids
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import PredictionRow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cap", "chosen"),
    [(1, ["p8"]), (2, ["p7", "p8"]), (4, ["p2", "p6", "p7", "p8"])],
)
def test_the_requests_of_a_group_are_drawn_by_the_hashes_of_their_ids(
    cap: int, chosen: list[str], database_url: str
) -> None:
    log = PredictionLog(database_url)
    log.create_tables()
    log.add_predictions(
        [
            PredictionRow(
                prediction_id=f"p{number}",
                created_at=NOW,
                patient_key="k",
                bundle_hash="a",
                bento_tag="ecg:1",
                duration_s=10.0,
                response={},
                observed={},
            )
            for number in range(9)
        ]
    )
    window = Window(since=NOW - timedelta(days=1), until=NOW)
    drawn = _choose_ids(log, window, frozenset({"patient k", "patient none"}), cap=cap)
    log.close()
    assert drawn == {"patient k": chosen}


def test_groups_are_drawn_by_the_hashes_of_their_names_when_they_have_answers() -> None:
    groups = {f"client c{number}": GroupVolume(1, 0) for number in range(9)}
    groups["client c5"] = GroupVolume(0, 4)
    drawn = _choose_groups(Volume(groups=groups), 3)
    assert drawn == {"client c0", "client c3", "client c4"}
    assert len(_choose_groups(Volume(groups=groups), 9)) == 8
