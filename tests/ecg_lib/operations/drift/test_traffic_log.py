"""Traffic in a real database: who sent it, and the sample of a window."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.operations.drift.observation import NUMERICAL_COLUMNS, STRETCH, ObservedStrip
from ecg_lib.operations.drift.traffic_log import (
    Window,
    add_requests,
    delete_requests_before,
    read_groups,
    read_volume,
    sample_traffic,
    share_out,
)
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.prediction_rows import UNKNOWN_CLIENT, PredictionRow, RequestRow

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = Window(since=NOW - timedelta(days=1), until=NOW + timedelta(days=1), bundle_hash="a")


def observed(n_beats: int = 2, stretch: list[int] | None = None) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [0.5] * n_beats for name in NUMERICAL_COLUMNS}
    columns |= {"arrhythmia_type": ["N"] * n_beats, "rule": ["none"] * n_beats}
    return columns | ({} if stretch is None else {STRETCH: stretch})


def prediction(name: str, *, patient: str | None = None, **changes: Any) -> PredictionRow:  # noqa: ANN401
    row = PredictionRow(
        prediction_id=name,
        created_at=NOW,
        patient_key=patient,
        bundle_hash="a",
        bento_tag="ecg:1",
        duration_s=10.0,
        response={},
        observed=observed(),
    )
    return replace(row, **changes)


def request(name: str, **changes: Any) -> RequestRow:  # noqa: ANN401
    row = RequestRow(
        request_id=name, created_at=NOW, bundle_hash="a", bento_tag="ecg:1", duration_s=10.0
    )
    return replace(row, **changes)


@pytest.fixture
def log(database_url: str) -> Iterator[PredictionLog]:
    log = PredictionLog(database_url)
    log.create_tables()
    yield log
    log.close()


def sample(log: PredictionLog, window: Window = DAY, *, max_strips: int = 2000) -> list[Any]:
    volume = read_volume(log, window)
    return list(sample_traffic(log, window, volume, max_strips=max_strips))


def test_strips_of_an_anonymous_client_are_one_group(log: PredictionLog) -> None:
    names = [f"p{number}" for number in range(360)]
    log.add_predictions([prediction(name) for name in names])
    add_requests(log, [request(name, client="c1") for name in names])
    volume = read_volume(log, DAY)
    assert volume.groups == {"client c1": (360, 0)}
    assert {strip.group for strip in sample(log)} == {"client c1"}


def test_a_patient_is_one_group_whichever_client_sends(log: PredictionLog) -> None:
    log.add_predictions([prediction(f"p{n}", patient="k") for n in range(3)])
    add_requests(log, [request(f"p{n}", patient_key="k", client=f"c{n}") for n in range(3)])
    assert read_volume(log, DAY).groups == {"patient k": (3, 0)}


def test_predictions_of_unknown_clients_are_one_group(log: PredictionLog) -> None:
    """Earlier code noted no client, so they may all be of one person."""
    log.add_predictions([prediction(f"p{n}") for n in range(5)])
    assert read_volume(log, DAY).groups == {UNKNOWN_CLIENT: (5, 0)}
    assert [strip.group for strip in sample(log)] == [UNKNOWN_CLIENT] * 5


def test_refused_requests_are_counted_and_not_sampled(log: PredictionLog) -> None:
    log.add_predictions([prediction("p1", patient="k")])
    add_requests(
        log,
        [
            request("p1", patient_key="k"),
            request("r1", patient_key="k", refused="too_noisy"),
            request("r2", client="c", refused="flat"),
        ],
    )
    volume = read_volume(log, DAY)
    assert volume.groups == {"patient k": (1, 1), "client c": (0, 1)}
    assert (volume.answered, volume.refused) == (1, 2)
    assert [strip.group for strip in sample(log)] == ["patient k"]


def test_pieces_of_a_recording_are_traffic(log: PredictionLog) -> None:
    pieces = observed(6, [0, 0, 1, 1, 2, 2])
    add_requests(log, [request("job", client="recordings", duration_s=86_400.0, observed=pieces)])
    assert read_volume(log, DAY).groups == {"client recordings": (1, 0)}
    (strip,) = sample(log)
    assert (strip.duration_s, strip.observed[STRETCH]) == (86_400.0, [0, 0, 1, 1, 2, 2])


def test_the_sample_is_of_the_whole_window_and_balanced(log: PredictionLog) -> None:
    """A minute of load does not hide the day."""
    quiet = [
        prediction(f"q{n}", patient=f"k{n % 10}", created_at=NOW - timedelta(minutes=n))
        for n in range(50)
    ]
    loud = [prediction(f"l{n}", patient="loud", created_at=NOW) for n in range(1000)]
    log.add_predictions(quiet + loud)
    counts = Counter(strip.group for strip in sample(log, max_strips=100))
    assert counts == {f"patient k{n}": 5 for n in range(10)} | {"patient loud": 50}


def test_the_strips_of_a_group_are_a_random_sample_that_stays_the_same(log: PredictionLog) -> None:
    rows = [
        prediction(
            f"p{n}", patient="k", created_at=NOW + timedelta(minutes=n), duration_s=5 + n / 60
        )
        for n in range(300)
    ]
    log.add_predictions(rows)
    places = sorted(round(60 * (strip.duration_s - 5)) for strip in sample(log, max_strips=60))
    assert len(set(places)) == 60
    assert [sum(low <= place < low + 100 for place in places) for low in (0, 100, 200)] == (
        pytest.approx([20, 20, 20], abs=9)
    )
    assert places == sorted(
        round(60 * (strip.duration_s - 5)) for strip in sample(log, max_strips=60)
    )


def test_with_more_groups_than_strips_some_groups_are_drawn(log: PredictionLog) -> None:
    log.add_predictions([prediction(f"p{n}", patient=f"k{n}") for n in range(300)])
    groups = [strip.group for strip in sample(log, max_strips=100)]
    assert len(groups) == len(set(groups)) == 100


@pytest.mark.parametrize(
    ("available", "total", "share"),
    [([], 10, 1), ([3, 3], 10, 3), ([10, 10], 10, 5), ([1, 100], 10, 9), ([5] * 20, 10, 1)],
)
def test_what_each_may_give_is_shared_out(available: list[int], total: int, share: int) -> None:
    assert share_out(available, total) == share


def test_the_window_is_open_at_its_begin_and_closed_at_its_end(log: PredictionLog) -> None:
    moments = [NOW + timedelta(seconds=second) for second in range(4)]
    log.add_predictions(
        [
            prediction(f"p{n}", patient=f"k{n}", created_at=moment)
            for n, moment in enumerate(moments)
        ]
    )
    window = Window(since=moments[0], until=moments[2], bundle_hash="a")
    volume = read_volume(log, window)
    assert set(volume.groups) == {"patient k1", "patient k2"}
    assert volume.newest_at == moments[2]
    assert {strip.group for strip in sample(log, window)} == {"patient k1", "patient k2"}


def test_only_the_bundle_and_release_that_are_asked_for_are_read(log: PredictionLog) -> None:
    log.add_predictions(
        [
            prediction("p1", patient="k1"),
            prediction("p2", patient="k2", bundle_hash="b"),
            prediction("p3", patient="k3", bento_tag="ecg:2"),
        ]
    )
    add_requests(log, [request("r", client="c", refused="flat", bundle_hash="b")])
    assert set(read_volume(log, DAY).groups) == {"patient k1", "patient k3"}
    both = replace(DAY, bundle_hash=None)
    assert read_volume(log, both).bento_tags == {"ecg:1", "ecg:2"}
    assert set(read_volume(log, both).groups) == {
        "patient k1", "patient k2", "patient k3", "client c",
    }  # fmt: skip
    assert set(read_volume(log, replace(both, bento_tag="ecg:2")).groups) == {"patient k3"}


def test_slices_come_with_their_strips(log: PredictionLog) -> None:
    log.add_predictions([prediction("p1", patient="k"), prediction("p2", patient="l")])
    add_requests(log, [request("p1", patient_key="k", slices={"lead": "V1", "rate": "250 Hz"})])
    slices = {strip.group: dict(strip.slices) for strip in sample(log)}
    assert slices == {"patient k": {"lead": "V1", "rate": "250 Hz"}, "patient l": {}}


@pytest.mark.parametrize(
    ("n_rows", "max_strips", "n_wanted"), [(1, 2000, 1), (10, 200, 1), (1, 4, 1)]
)
def test_a_group_of_few_strips_is_asked_for_no_more_than_it_has(
    log: PredictionLog, n_rows: int, max_strips: int, n_wanted: int
) -> None:
    log.add_predictions([prediction(f"p{n}", patient="k") for n in range(n_rows)])
    assert {strip.n_wanted for strip in sample(log, max_strips=max_strips)} == {n_wanted}


def test_long_strips_of_a_group_give_more_stretches_where_others_have_more_strips(
    log: PredictionLog,
) -> None:
    long = prediction("long", patient="k", duration_s=1800.0, observed=observed(2, [0, 100]))
    log.add_predictions([long, *(prediction(f"p{n}", patient="l") for n in range(50))])
    strips = {strip.group: strip for strip in sample(log)}
    assert strips["patient k"].n_wanted == 12
    assert strips["patient l"].n_wanted == 1


def test_long_strips_that_earlier_code_observed_as_a_whole_are_left_out(log: PredictionLog) -> None:
    log.add_predictions([prediction("p1", patient="k", duration_s=15.1)])
    log.add_predictions([prediction("p2", patient="l", duration_s=15.0)])
    assert [strip.group for strip in sample(log)] == ["patient l"]


def test_groups_of_predictions_are_found_by_their_ids(log: PredictionLog) -> None:
    log.add_predictions(
        [
            prediction("p1", patient="k"),
            prediction("p2"),
            *(prediction(f"q{n}") for n in range(250)),
        ]
    )
    add_requests(log, [request("p2", client="c")])
    groups = read_groups(log, ["p1", "p2", *(f"q{n}" for n in range(250))])
    assert (groups["p1"], groups["p2"], groups["q249"]) == (
        "patient k", "client c", UNKNOWN_CLIENT,
    )  # fmt: skip
    assert len(groups) == 252


def test_a_request_that_is_written_again_changes_nothing(log: PredictionLog) -> None:
    add_requests(log, [request("r", client="c", refused="flat")])
    add_requests(log, [request("r", client="other", refused="flat")])
    add_requests(log, [])
    assert read_volume(log, DAY).groups == {"client c": (0, 1)}


def test_old_requests_are_deleted(log: PredictionLog) -> None:
    old = request("old", client="c", refused="flat", created_at=NOW - timedelta(seconds=1))
    add_requests(log, [old, request("new", client="d", refused="flat")])
    assert delete_requests_before(log, NOW) == 1
    assert set(read_volume(log, DAY).groups) == {"client d"}


def test_an_empty_window_has_nothing(log: PredictionLog) -> None:
    volume = read_volume(log, DAY)
    assert (volume.answered, volume.refused, volume.newest_at) == (0, 0, None)
    assert sample(log) == []


def test_a_moment_without_a_time_zone_is_rejected(log: PredictionLog) -> None:
    with pytest.raises(ValueError, match="must have a time zone"):
        add_requests(log, [request("r", created_at=NOW.replace(tzinfo=None))])


def test_the_table_is_made_beside_those_of_earlier_code(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = PredictionLog(f"sqlite:///{path}")
    log.create_tables()
    log.add_predictions([prediction("p1", patient="k")])
    for _ in range(2):
        log.create_tables()
    assert read_volume(log, DAY).groups == {"patient k": (1, 0)}
    log.close()
    with sqlite3.connect(path) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert {"predictions", "requests"} <= names


def test_a_sampled_strip_is_what_monitoring_gathers(log: PredictionLog) -> None:
    log.add_predictions([prediction("p1", patient="k")])
    (strip,) = sample(log)
    assert isinstance(strip, ObservedStrip)
    assert strip.observed["rule"] == ["none", "none"]


def test_several_may_make_the_tables_at_once(tmp_path: Path) -> None:
    for number in range(20):
        url, begin = f"sqlite:///{tmp_path / f'{number}.db'}", threading.Barrier(4)

        def make(url: str = url, begin: threading.Barrier = begin) -> None:
            log = PredictionLog(url)
            begin.wait()
            log.create_tables()
            log.close()

        with ThreadPoolExecutor(4) as executor:
            for made in [executor.submit(make) for _ in range(4)]:
                made.result()
