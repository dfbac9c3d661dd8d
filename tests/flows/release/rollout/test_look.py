"""Looks at a candidate: stages end by time, strips and people; broken bounds take it back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.learning.rollout.candidate import (
    Candidate,
    EndKind,
    read_candidate,
    write_halt,
)
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.learning.rollout.comparison_log import add_comparisons
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.releases import bento_source
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.release_history import EventKind
from flows.release.rollout.look import Look, Verdict, look_at_candidate
from flows.release.rollout.steps import RolloutError, advance, end_rollout, note_look, take_back
from tests.flows.release.rollout.candidates import (
    PLAN,
    Make,
    Service,
    candidate_file,
    kill_at,
    kinds,
    served,
    tried,
)
from tests.homes import KilledError


@pytest.fixture
def log(settings: Settings) -> Any:  # noqa: ANN401  a generator
    settings.home.mkdir(parents=True, exist_ok=True)
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    yield log
    log.close()


def compare(
    log: PredictionLog,
    candidate: Candidate,
    *,
    people: int,
    v: int = 1,
    by: str = "champion",
    first: int = 0,
    failure: str | None = None,
) -> None:
    """Compare a strip of ten beats of each person."""
    found = Comparison(
        beats={"NN": 10 - v, "NV": v - 1, "VV": 1},
        v_champion=1,
        v_candidate=v,
        judged_champion=10,
        judged_candidate=10,
        runs_champion=0,
        runs_candidate=0,
        disagreements=(),
    )
    add_comparisons(
        log,
        [
            ComparisonRow(
                prediction_id=f"{candidate.stage} {by} {number}",
                created_at=datetime.now(UTC),
                candidate_id=candidate.id,
                stage=candidate.stage,
                answered_by=by,
                traffic_group=f"patient {number}",
                duration_s=10.0,
                comparison=None if failure else found,
                failure=failure,
            )
            for number in range(first, first + people)
        ],
    )


def look(
    settings: Settings,
    service: Service,
    log: PredictionLog,
    *,
    hours: float = 2,
    who: str = "flow watch-rollout",
) -> Look:
    now = datetime.now(UTC) + timedelta(hours=hours)
    return look_at_candidate(settings, log, now=now, who=who, steps=service.steps)


def test_a_stage_needs_its_time_its_strips_and_its_people(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    assert look(settings, service, log).verdict is Verdict.NO_CANDIDATE
    candidate = start()
    found = look(settings, service, log)
    assert found.verdict is Verdict.WAITS
    assert found.reasons == ("0 of 2 strips are compared", "0 of 2 people are compared")
    compare(log, candidate, people=2)
    early = look(settings, service, log, hours=0.5)
    assert early.verdict is Verdict.WAITS
    assert "of 1 h have passed" in early.reasons[0]
    assert look(settings, service, log).verdict is Verdict.ADVANCED
    # Beyond shadow, what the candidate answered counts.
    second = read_candidate(candidate_file(settings))
    assert second is not None
    compare(log, second, people=2)
    assert look(settings, service, log).verdict is Verdict.WAITS
    compare(log, second, people=2, by="candidate")
    assert look(settings, service, log).verdict is Verdict.ADVANCED


def test_a_broken_bound_takes_the_candidate_back_with_the_reason_in_the_ledger(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    compare(log, start(), people=40, v=9)
    found = look(settings, service, log)
    assert found.verdict is Verdict.TAKEN_BACK
    event = read_ledger(settings.ledger_dir).entries[0].event
    assert (event.kind.value, event.who) == ("taken back", "flow watch-rollout")
    assert "share of V, rise: +80.0 points on 40 people" in event.why


def test_a_late_decision_ends_the_candidate_that_it_was_made_for_and_no_other(
    settings: Settings, service: Service, start: Callable[..., Candidate], make_stored: Make
) -> None:
    def end(candidate: Candidate) -> EventKind | None:
        return take_back(settings, candidate.id, reason="late", steps=service.steps)

    first = start()
    assert end(first) is EventKind.TAKEN_BACK
    assert kinds(settings) == ["release", "candidate", "taken back"]
    second = start(force=True)
    assert end(first) is EventKind.TAKEN_BACK  # as before; the second goes on
    assert tried(settings) == "ecg:2-a"
    end_rollout(settings, EndKind.STOPPED, reason="x", expected=second.id, steps=service.steps)
    assert end(second) is EventKind.STOPPED
    third = start(force=True)
    for _ in PLAN.stages:
        advance(settings, steps=service.steps)
    assert served(settings) == "ecg:2-a"
    assert end(third) is EventKind.RELEASE
    assert end(third.model_copy(update={"id": "unknown"})) is None
    assert (served(settings), kinds(settings)[-1]) == ("ecg:2-a", "release")


def test_two_looks_at_once_skip_no_stage(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    """Both have judged the same stage; the second to act finds the candidate brought further."""
    candidate = start()
    compare(log, candidate, people=2)
    assert look(settings, service, log).verdict is Verdict.ADVANCED
    for expected in (candidate, candidate.model_copy(update={"looks": 1, "judged_strips": 2})):
        with pytest.raises(RolloutError, match="looked at meanwhile by another process, stage 10"):
            advance(settings, expected=expected, steps=service.steps)
    with pytest.raises(RolloutError, match="looked at meanwhile"):
        note_look(settings, candidate, looks=1, strips=2, steps=service.steps)
    opened = read_candidate(candidate_file(settings))
    assert opened is not None
    assert (opened.stage, opened.looks) == (1, 1)


def test_a_breach_that_a_person_finds_is_a_decision_too(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    """Whoever looks: the decision of the look is stored for the drift page and for Prefect."""
    candidate = start()
    compare(log, candidate, people=40, v=9)
    assert look(settings, service, log, who="Ada").verdict is Verdict.TAKEN_BACK
    (check,) = log.read_drift_checks(are_decisions=True)
    assert (check.action, check.summary["candidate_id"]) == ("ROLLBACK", candidate.id)
    (decision,) = log.read_open_decisions()
    assert decision.parameters["candidate"] == candidate.id
    assert read_ledger(settings.ledger_dir).entries[0].event.who == "Ada"


def test_a_candidate_that_was_forced_can_be_released(
    settings: Settings, service: Service, start: Callable[..., Candidate]
) -> None:
    end_rollout(settings, EndKind.TAKEN_BACK, reason="x", expected=start().id, steps=service.steps)
    assert start(force=True).is_forced
    for _ in PLAN.stages:
        advance(settings, steps=service.steps)
    assert (tried(settings), served(settings)) == (None, "ecg:2-a")


def test_a_candidate_that_the_service_ended_does_not_go_on(
    settings: Settings, service: Service, start: Callable[..., Candidate]
) -> None:
    candidate = start()
    halt = settings.serving_dir / "candidate-halt.json"
    write_halt(halt, candidate.id, reason="3 errors in one worker", at=datetime.now(UTC))
    with pytest.raises(RolloutError, match="has ended ecg:2-a: 3 errors"):
        advance(settings, steps=service.steps)
    halt.unlink()
    for _ in PLAN.stages[1:]:
        advance(settings, steps=service.steps)
    write_halt(halt, candidate.id, reason="3 errors in one worker", at=datetime.now(UTC))
    with pytest.raises(RolloutError, match="has ended ecg:2-a: 3 errors"):
        advance(settings, steps=service.steps)
    assert served(settings) == "ecg:1-a"


def test_a_release_that_can_never_be_made_ends_the_candidate(
    settings: Settings, service: Service, start: Callable[..., Candidate], make_stored: Make
) -> None:
    start()
    for _ in PLAN.stages[1:]:
        advance(settings, steps=service.steps)
    source = bento_source(settings.bentoml_home, make_stored("2"))
    (source / "bentos" / "more.py").write_text("print('never runs')")
    with pytest.raises(SignatureError):
        advance(settings, steps=service.steps)
    assert (tried(settings), served(settings)) == (None, "ecg:1-a")
    assert kinds(settings)[-1] == "stopped"


def test_no_stage_is_left_before_all_that_was_compared_is_judged(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    """A look is not due after so few new strips, and the stage has all that it needs."""
    candidate = start()
    compare(log, candidate, people=400)
    assert look(settings, service, log).verdict is Verdict.ADVANCED
    second = read_candidate(candidate_file(settings))
    assert second is not None
    compare(log, second, people=60, v=9, by="candidate", first=1000)
    found = look(settings, service, log)
    assert found.verdict is Verdict.TAKEN_BACK
    assert served(settings) == "ecg:1-a"


def test_one_that_refuses_all_is_judged_by_what_it_was_asked_for(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    compare(log, start(), people=60, failure="refused: noise")
    found = look(settings, service, log)
    assert found.verdict is Verdict.TAKEN_BACK
    assert "strips that it alone refuses" in found.reasons[0]


def test_a_look_that_is_killed_before_the_end_comes_to_the_same_again(
    settings: Settings,
    service: Service,
    start: Callable[..., Candidate],
    log: PredictionLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare(log, start(), people=40, v=9)
    with monkeypatch.context() as patched:
        kill_at(patched, "end", call=1)
        with pytest.raises(KilledError):
            look(settings, service, log)
    assert tried(settings) == "ecg:2-a"
    assert look(settings, service, log).verdict is Verdict.TAKEN_BACK


def test_looks_are_counted_so_that_chances_do_not_add_up(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    candidate = start()
    compare(log, candidate, people=20)
    assert look(settings, service, log, hours=0).judgement is not None
    assert look(settings, service, log, hours=0).judgement is None  # nothing new
    opened = read_candidate(candidate_file(settings))
    assert opened is not None
    assert (opened.looks, opened.judged_strips) == (1, 20)


def test_a_candidate_that_the_workers_ended_is_closed_with_their_reason(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    candidate = start()
    halt = settings.serving_dir / "candidate-halt.json"
    write_halt(halt, "another", reason="of an earlier one", at=datetime.now(UTC))
    assert look(settings, service, log).verdict is Verdict.WAITS
    write_halt(halt, candidate.id, reason="3 errors in one worker", at=datetime.now(UTC))
    found = look(settings, service, log)
    assert (found.verdict, found.reasons) == (Verdict.TAKEN_BACK, ("3 errors in one worker",))
    assert not halt.exists()


def test_a_candidate_that_a_worker_could_not_load_is_stopped_and_may_be_tried_again(
    settings: Settings, service: Service, start: Callable[..., Candidate], log: PredictionLog
) -> None:
    candidate = start()
    halt = settings.serving_dir / "candidate-halt.json"
    reason = "it cannot be loaded: MemoryError"
    write_halt(halt, candidate.id, reason=reason, at=datetime.now(UTC), kind=EndKind.STOPPED)
    found = look(settings, service, log)
    assert (found.verdict.value, found.reasons) == ("stopped", (reason,))
    assert kinds(settings)[-1] == "stopped"
    assert start().id != candidate.id
