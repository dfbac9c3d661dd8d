"""The file of a candidate, and whom it answers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ecg_lib.operations.learning.rollout.candidate import (
    Bounds,
    Candidate,
    CandidateError,
    Plan,
    Stage,
    is_chosen,
    read_candidate,
    read_halt,
    write_candidate,
    write_halt,
)
from ecg_lib.operations.releases import Release

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = b"k" * 32


def make_release(version: str) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=version * 64,
        code_hash="c" * 64,
        model_version=version,
        released_at=NOW.isoformat(),
    )


def make_candidate() -> Candidate:
    return Candidate(
        id="one",
        release=make_release("2"),
        champion=make_release("1"),
        plan=Plan(),
        started_at=NOW,
        stage_since=NOW,
        who="Ada",
        why="better on new people",
    )


shares = st.floats(0, 1, exclude_max=True)


@given(group=st.text(max_size=80), smaller=shares, larger=shares, candidate_id=st.uuids())
def test_who_is_in_at_a_share_stays_in_at_a_larger_one_and_at_the_same(
    group: str, smaller: float, larger: float, candidate_id: object
) -> None:
    smaller, larger = sorted((smaller, larger))

    def chosen(share: float) -> bool:
        return is_chosen(group, share=share, candidate_id=str(candidate_id), key=KEY)

    assert chosen(smaller) == chosen(smaller)
    assert chosen(larger) or not chosen(smaller)
    assert not chosen(0.0)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_of_the_people_is_that_of_the_stage(share: float) -> None:
    people = [f"patient {number}" for number in range(4000)]
    chosen = [one for one in people if is_chosen(one, share=share, candidate_id="a", key=KEY)]
    assert len(chosen) / len(people) == pytest.approx(share, abs=0.03)


def test_another_candidate_and_another_key_choose_other_people() -> None:
    people = [f"patient {number}" for number in range(400)]

    def choose(candidate_id: str, key: bytes) -> set[str]:
        return {
            one for one in people if is_chosen(one, share=0.5, candidate_id=candidate_id, key=key)
        }

    first = choose("a", KEY)
    for other in (choose("b", KEY), choose("a", b"o" * 32)):
        assert 120 < len(first ^ other) < 280


def test_a_candidate_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "candidate.json"
    assert read_candidate(path) is None
    candidate = make_candidate()
    write_candidate(path, candidate)
    assert read_candidate(path) == candidate
    assert (candidate.current_stage.name, candidate.share) == ("shadow", 0.0)
    later = candidate.model_copy(update={"stage": 1})
    assert (later.current_stage.name, later.share, later.is_last_stage) == ("10 %", 0.1, False)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "one"}'])
def test_a_torn_file_is_told_apart_from_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "candidate.json"
    path.write_text(text)
    with pytest.raises(CandidateError, match=r"candidate\.json must hold a candidate"):
        read_candidate(path)


def test_the_first_reason_of_a_halt_stays_and_another_candidate_gets_its_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "candidate-halt.json"
    assert read_halt(path) is None
    write_halt(path, "one", reason="3 errors", at=NOW)
    write_halt(path, "one", reason="later", at=NOW)
    halt = read_halt(path)
    assert halt is not None
    assert (halt.candidate_id, halt.reason) == ("one", "3 errors")
    write_halt(path, "two", reason="its own", at=NOW)
    halt = read_halt(path)
    assert halt is not None
    assert (halt.candidate_id, halt.reason) == ("two", "its own")
    path.write_text("torn")
    assert read_halt(path) is None


def test_a_halt_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "candidate-halt.json"
    path.mkdir()
    with pytest.raises(
        CandidateError, match=r"candidate-halt\.json cannot be read: Is a directory"
    ):
        read_halt(path)
    with pytest.raises(IsADirectoryError):
        write_halt(path, "one", reason="3 errors", at=NOW)


@pytest.mark.parametrize(
    "plan",
    [
        {"stages": []},
        {"stages": [{"share": 1.0, "min_hours": 0, "min_strips": 1, "min_groups": 1}]},
        {"stages": [{"share": -0.1, "min_hours": 0, "min_strips": 1, "min_groups": 1}]},
        {
            "stages": [
                {"share": 0.5, "min_hours": 0, "min_strips": 1, "min_groups": 1},
                {"share": 0.1, "min_hours": 0, "min_strips": 1, "min_groups": 1},
            ]
        },
        {"bounds": {"false_return_chance": 0.0}},
        {"bounds": {"max_latency": 2.0}},
    ],
)
def test_a_plan_that_cannot_be_followed_is_rejected(plan: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate(plan)


def test_the_default_plan_begins_in_shadow_and_grows() -> None:
    plan = Plan()
    assert [stage.share for stage in plan.stages] == [0.0, 0.1, 0.5]
    assert plan.bounds == Bounds()
    assert Stage(share=0.25, min_hours=0, min_strips=1, min_groups=1).name == "25 %"
