"""Rollouts: recorded, bound to what is served, and finished after a kill."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.learning.rollout.candidate import Candidate, EndKind, Plan, read_candidate
from ecg_lib.operations.releases import bento_source
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.monitoring.needed_releases import UnknownReleasesError, list_needed_releases
from flows.release.integrity import doctor
from flows.release.integrity.aliases import read_pending
from flows.release.rollout import journal
from flows.release.rollout.steps import (
    RolloutError,
    advance,
    end_rollout,
    find_candidate,
    start_rollout,
)
from flows.release.switch_service import ReleaseRefusedError
from flows.release.transaction import Outcome, TransactionError, recover, release_model, roll_back
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
