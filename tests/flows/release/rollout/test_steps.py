"""Rollouts: recorded, bound to what is served, and finished after a kill."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.learning.rollout.candidate import (
    Candidate,
    EndKind,
    Plan,
    Stage,
    read_candidate,
    write_halt,
)
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.learning.rollout.comparison_log import (
    add_comparisons,
)
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.releases import Release, bento_source
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.release_history import EventKind
from flows.monitoring.needed_releases import UnknownReleasesError, list_needed_releases
from flows.release.integrity import doctor
from flows.release.integrity.aliases import read_pending
from flows.release.rollout import journal
from flows.release.rollout.look import Look, Verdict, look_at_candidate
from flows.release.rollout.steps import (
    RolloutError,
    advance,
    end_rollout,
    find_candidate,
    note_look,
    start_rollout,
    take_back,
)
from flows.release.switch_service import ReleaseRefusedError, read_current
from flows.release.transaction import (
    Outcome,
    Steps,
    TransactionError,
    recover,
    release_model,
    roll_back,
)
from tests.homes import KilledError

Make = Callable[..., Release]
PLAN = Plan(
    stages=tuple(
        Stage(share=share, min_hours=1, min_strips=2, min_groups=2) for share in (0.0, 0.1, 0.5)
    )
)


class Service(Protocol):
    """The stand-in for the service, see ``conftest.py``."""

    is_running: bool
    bad: set[str]
    served: Release | None

    @property
    def steps(self) -> Steps: ...


def kinds(settings: Settings) -> list[str]:
    entries = read_ledger(settings.ledger_dir).entries
    return [entry.event.kind.value for entry in reversed(entries)]


def candidate_file(settings: Settings) -> Path:
    return settings.serving_dir / "candidate.json"


def tried(settings: Settings) -> str | None:
    found = read_candidate(candidate_file(settings))
    return None if found is None else found.release.bento_tag


def served(settings: Settings) -> str | None:
    current = read_current(settings)
    return None if current is None else current.bento_tag


@pytest.fixture
def start(settings: Settings, service: Service, make_stored: Make) -> Callable[..., Candidate]:
    """Serve model 1 and try another."""
    release_model(settings, make_stored("1"), why="the first", steps=service.steps)

    def begin(version: str = "2", **options: Any) -> Candidate:  # noqa: ANN401  as the function
        return start_rollout(
            settings,
            make_stored(version),
            plan=PLAN,
            why="better",
            who="Ada",
            steps=service.steps,
            **options,
        )

    return begin


def test_a_rollout_is_noted_with_its_bounds_and_ends_in_a_release(
    settings: Settings, service: Service, start: Callable[..., Candidate]
) -> None:
    candidate = start()
    assert (candidate.current_stage.name, candidate.share, candidate.is_noted) == (
        "shadow", 0.0, True,
    )  # fmt: skip
    event = read_ledger(settings.ledger_dir).entries[0].event
    assert (event.kind.value, event.who, event.why) == ("candidate", "Ada", "better")
    assert event.rollout == PLAN.model_dump(mode="json")
    pending = read_pending(settings)
    assert pending is not None
    assert (pending.version, pending.rolled_back) == ("1", [])

    for share in (0.1, 0.5):
        step = advance(settings, who="Ada", steps=service.steps)
        assert isinstance(step, Candidate)
        assert (step.share, step.id) == (share, candidate.id)
        assert served(settings) == "ecg:1-a"
    outcome = advance(settings, who="Ada", steps=service.steps)
    assert isinstance(outcome, Outcome)
    assert served(settings) == "ecg:2-a"
    assert tried(settings) is None
    assert kinds(settings) == ["release", "candidate", "stage", "stage", "release"]
    pending = read_pending(settings)
    assert pending is not None
    assert pending.version == "2"
    # The way back is as after a release at once.
    roll_back(settings, why="worse", steps=service.steps)
    assert served(settings) == "ecg:1-a"


def test_one_that_is_taken_back_is_not_offered_again_but_by_force(
    settings: Settings, service: Service, start: Callable[..., Candidate], make_stored: Make
) -> None:
    start()
    end_rollout(settings, EndKind.TAKEN_BACK, reason="too much V", steps=service.steps)
    assert (tried(settings), served(settings)) == (None, "ecg:1-a")
    assert kinds(settings)[-1] == "taken back"
    pending = read_pending(settings)
    assert pending is not None
    assert (pending.version, pending.rolled_back) == ("1", ["2"])
    with pytest.raises(TransactionError, match="too much V"):
        start()
    with pytest.raises(TransactionError, match="too much V"):
        release_model(settings, make_stored("2"), why="at once", steps=service.steps)
    assert start(force=True).release.model_version == "2"


def test_one_that_is_stopped_may_be_tried_again(
    settings: Settings, service: Service, start: Callable[..., Candidate]
) -> None:
    first = start()
    end_rollout(settings, EndKind.STOPPED, reason="holidays", steps=service.steps)
    pending = read_pending(settings)
    assert pending is not None
    assert pending.rolled_back == []
    assert start().id != first.id


def test_a_release_or_a_rollback_ends_the_candidate(
    settings: Settings, service: Service, start: Callable[..., Candidate], make_stored: Make
) -> None:
    start()
    release_model(settings, make_stored("3"), why="urgent", steps=service.steps)
    assert tried(settings) is None
    assert kinds(settings)[-2:] == ["release", "stopped"]
    start("4")
    roll_back(settings, why="worse", steps=service.steps)
    assert tried(settings) is None
    assert kinds(settings)[-2:] == ["rollback", "stopped"]


def test_a_release_of_the_candidate_at_once_needs_force_and_is_its_end(
    settings: Settings, service: Service, start: Callable[..., Candidate], make_stored: Make
) -> None:
    start()
    with pytest.raises(TransactionError, match="is being tried in a gradual rollout, stage shadow"):
        release_model(settings, make_stored("2"), why="at once", steps=service.steps)
    assert (tried(settings), served(settings)) == ("ecg:2-a", "ecg:1-a")
    release_model(settings, make_stored("2"), why="at once", force=True, steps=service.steps)
    assert (tried(settings), served(settings)) == (None, "ecg:2-a")
    assert kinds(settings) == ["release", "candidate", "release"]


def test_a_candidate_that_the_service_refuses_to_release_is_ended(
    settings: Settings, service: Service, start: Callable[..., Candidate]
) -> None:
    start()
    service.bad.add("ecg:2-a")
    advance(settings, steps=service.steps)
    advance(settings, steps=service.steps)
    with pytest.raises(ReleaseRefusedError, match="golden requests failed"):
        advance(settings, steps=service.steps)
    assert (tried(settings), served(settings)) == (None, "ecg:1-a")
    assert kinds(settings)[-2:] == ["refused", "stopped"]


def test_what_cannot_be_tried_is_refused_and_changes_nothing(
    settings: Settings, service: Service, start: Callable[..., Candidate], make_stored: Make
) -> None:
    with pytest.raises(RolloutError, match="is served already"):
        start("1")
    with pytest.raises(RolloutError, match="release it at once"):
        start_rollout(
            settings, make_stored("2", "other"), plan=PLAN, why="code", steps=service.steps
        )
    start("2")
    (bento_source(settings.bentoml_home, make_stored("3")) / "bentos" / "more.py").write_text("x")
    with pytest.raises(RolloutError, match="one candidate may be tried at a time"):
        start("4")
    assert tried(settings) == "ecg:2-a"
    with pytest.raises(RolloutError, match="with another plan"):
        start_rollout(settings, make_stored("2"), plan=Plan(), why="again", steps=service.steps)
    replaced = start("4", replaces=True)
    assert tried(settings) == "ecg:4-a"
    assert kinds(settings)[-2:] == ["stopped", "candidate"]
    unknown = replaced.model_copy(update={"id": "unknown"})
    with pytest.raises(RolloutError, match="another candidate"):
        advance(settings, expected=unknown, steps=service.steps)
    end_rollout(settings, EndKind.STOPPED, reason="x", expected=replaced.id, steps=service.steps)
    with pytest.raises(RolloutError, match="no candidate is being tried"):
        advance(settings, steps=service.steps)


def test_code_that_has_changed_since_it_was_signed_is_not_tried(
    settings: Settings, service: Service, start: Callable[..., Candidate], make_stored: Make
) -> None:
    start("2")
    end_rollout(settings, EndKind.STOPPED, reason="x", steps=service.steps)
    source = bento_source(settings.bentoml_home, make_stored("2"))
    (source / "bentos" / "more.py").write_text("print('never runs')")
    wanted = make_stored("2").model_copy(update={"code_hash": make_stored("1").code_hash})
    with pytest.raises(SignatureError, match="must have the code"):
        start_rollout(settings, wanted, plan=PLAN, why="again", steps=service.steps)
    assert tried(settings) is None


def test_nothing_is_tried_where_nothing_is_served(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    with pytest.raises(RolloutError, match="nothing is served"):
        start_rollout(settings, make_stored("1"), plan=PLAN, why="first", steps=service.steps)


@pytest.mark.parametrize("name", ["append_event", "write_open", "is_signed"])
def test_a_start_that_is_killed_is_finished_by_the_next_command(
    settings: Settings,
    service: Service,
    start: Callable[..., Candidate],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    with monkeypatch.context() as patched:
        kill_at(patched, name, call=2 if name == "write_open" else 1)
        with pytest.raises(KilledError):
            start()
    recover(settings, steps=service.steps)
    found = find_candidate(settings, steps=service.steps)
    assert found is not None
    assert found.is_noted
    assert kinds(settings) == ["release", "candidate"]


@pytest.mark.parametrize("name", ["append_event", "note_pending", "close"])
def test_an_end_that_is_killed_is_finished_by_the_next_command(
    settings: Settings,
    service: Service,
    start: Callable[..., Candidate],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    start()
    advance(settings, steps=service.steps)
    with monkeypatch.context() as patched:
        kill_at(patched, name, call=1)
        with pytest.raises(KilledError):
            end_rollout(settings, EndKind.TAKEN_BACK, reason="slow", steps=service.steps)
    # The workers leave it before anything else is done.
    opened = read_candidate(candidate_file(settings))
    assert opened is not None
    assert opened.share == 0.0
    recover(settings, steps=service.steps)
    assert tried(settings) is None
    assert kinds(settings) == ["release", "candidate", "stage", "taken back"]
    pending = read_pending(settings)
    assert pending is not None
    assert pending.rolled_back == ["2"]


def kill_at(monkeypatch: pytest.MonkeyPatch, name: str, *, call: int) -> None:
    """Kill the process at a call of a function of the journal."""
    real, calls = getattr(journal, name), []

    def kill(*arguments: object, **named: object) -> object:
        calls.append(name)
        if len(calls) == call:
            raise KilledError
        return real(*arguments, **named)

    monkeypatch.setattr(journal, name, kill)


def test_a_torn_file_counts_as_none_and_the_doctor_removes_it(
    settings: Settings, service: Service, start: Callable[..., Candidate]
) -> None:
    start()
    candidate_file(settings).write_text("{")
    assert find_candidate(settings, steps=service.steps) is None
    with pytest.raises(UnknownReleasesError, match="damaged"):
        list_needed_releases(settings)
    findings = doctor.examine(settings, is_mending=False)
    assert ("candidate", False) in [(one.store, one.is_mended) for one in findings]
    assert candidate_file(settings).exists()
    findings = doctor.examine(settings)
    assert ("candidate", True) in [(one.store, one.is_mended) for one in findings]
    assert not candidate_file(settings).exists()
    assert start("3").release.model_version == "3"


def test_the_doctor_finds_nothing_to_do_at_an_open_candidate_and_ends_a_stale_one(
    settings: Settings, service: Service, start: Callable[..., Candidate]
) -> None:
    candidate = start()
    assert "candidate" not in {
        one.store for one in doctor.examine(settings) if "is tried beside" in one.problem
    }
    assert tried(settings) == "ecg:2-a"
    stale = candidate.model_copy(
        update={"champion": candidate.champion.model_copy(update={"bento_tag": "ecg:0-a"})}
    )
    journal.write_open(settings, stale)
    assert any("not served" in one.problem for one in doctor.examine(settings))
    assert tried(settings) is None


def test_the_files_of_a_candidate_are_needed(
    settings: Settings, start: Callable[..., Candidate]
) -> None:
    start()
    assert "ecg:2-a" in {one.bento_tag for one in list_needed_releases(settings)}


# Looks


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
