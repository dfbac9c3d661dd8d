"""The time that a candidate may take for an answer."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bentos.runtime.prediction.rollout import pace as pace_module
from bentos.runtime.prediction.rollout.pace import Pace
from ecg_lib.operations.learning.rollout.candidate import Candidate, Plan
from ecg_lib.operations.releases import Release

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RELEASE = Release(
    bento_tag="ecg:1",
    model_tag="ecg_bundle:1",
    bundle_hash="1" * 64,
    code_hash="c" * 64,
    model_version="1",
    released_at=NOW.isoformat(),
)
CANDIDATE = Candidate(
    id="one",
    release=RELEASE,
    champion=RELEASE,
    plan=Plan(),
    started_at=NOW,
    stage_since=NOW,
    who="Ada",
    why="better",
)


def make_pace(*seconds: float, duration_s: float = 10.0) -> tuple[Pace, list[str]]:
    slow: list[str] = []
    pace = Pace(lambda _, text: slow.append(text))
    for one in seconds:
        pace.note_champion(one, duration_s=duration_s)
    return pace, slow


@pytest.mark.parametrize(
    ("seconds", "duration_s", "limit_s"),
    [
        ([], 10.0, 1.0),
        ([0.01], 10.0, 0.25),
        ([0.1, 0.1, 5.0], 10.0, 0.4),
        ([0.1, 0.1, 5.0], 60.0, 2.4),
    ],
)
def test_the_limit_is_four_times_the_usual_time_and_a_quarter_of_a_second_at_least(
    seconds: list[float], duration_s: float, limit_s: float
) -> None:
    pace, _ = make_pace(*seconds)
    assert pace.find_limit_s(duration_s) == pytest.approx(limit_s)


@pytest.mark.parametrize(("took_s", "texts"), [(0.39, 0), (0.41, 1)])
def test_an_answer_is_counted_once_when_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, took_s: float, texts: int
) -> None:
    pace, slow = make_pace(0.1)
    now_s = [100.0]
    monkeypatch.setattr(pace_module, "monotonic", lambda: now_s[0])
    with pace.watch(CANDIDATE, 10.0) as asked:
        pace.look()
        assert slow == []
        now_s[0] += took_s
        pace.look()
        pace.look()
    assert len(slow) == texts
    assert asked.is_slow == bool(texts)
    pace.look()
    assert len(slow) == texts


def test_an_error_in_counting_does_not_reach_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError

    pace, now_s = Pace(fail), [100.0]
    monkeypatch.setattr(pace_module, "monotonic", lambda: now_s[0])
    with pace.watch(CANDIDATE, 10.0) as asked:
        now_s[0] += 1.01
    assert asked.is_slow
