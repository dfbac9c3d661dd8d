"""The steps of a release, and the state that each leaves where it fails."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dulwich.repo import Repo
from pydantic import ValidationError

from ecg_lib.operations.keys.signatures import SignatureError, signature_path
from ecg_lib.operations.learning.rollout.candidate import DEFAULT_PLAN
from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import find_head, read_ledger
from flows.doors.release_history import EventKind, find_user
from flows.release import transaction
from flows.release.integrity.aliases import read_pending
from flows.release.integrity.signing import ensure_signed
from flows.release.rollout.steps import start_rollout
from flows.release.switch_service import ReleaseRefusedError, Switch, read_current
from flows.release.transaction import (
    INTENT,
    BusyError,
    Step,
    Steps,
    SupersededError,
    TransactionError,
    locked,
    read_intent,
    recover,
    recover_locked,
    release_model,
    roll_back,
)
from tests.homes import KilledError

if TYPE_CHECKING:
    from tests.flows.release.conftest import FakeService

Make = Callable[..., Release]
DONE = [Step.NOTED_IN_LEDGER, Step.ALIAS_PENDING, Step.CLOSED]


def release_all(settings: Settings, service: FakeService, *releases: Release) -> None:
    for one in releases:
        release_model(settings, one, why=f"release model {one.model_version}", steps=service.steps)


def served_tag(settings: Settings) -> str | None:
    current = read_current(settings)
    return None if current is None else current.bento_tag


def act_at(service: FakeService, step: Step, act: Callable[[], object]) -> Steps:
    """Steps of which one does something beside."""

    def on_step(reached: Step) -> None:
        if reached is step:
            act()

    return replace(service.steps, timeout_s=0.1, on_step=on_step)


def kill() -> None:
    raise KilledError


def test_the_usual_limits_of_time() -> None:
    assert (Steps().timeout_s, Steps().lock_timeout_s) == (90.0, 150.0)


def test_the_steps_come_in_their_order(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    reached: list[Step] = []
    steps = replace(service.steps, on_step=reached.append)
    begin = [Step.LOCKED, Step.INTENT_WRITTEN, Step.SWITCHED]
    release_model(settings, make_stored("1"), why="first", steps=steps)
    assert reached == [*begin, Step.VERIFIED, *DONE]
    reached.clear()
    service.bad.add("ecg:2-a")
    with pytest.raises(ReleaseRefusedError):
        release_model(settings, make_stored("2"), why="second", steps=steps)
    assert reached == [*begin, Step.PUT_BACK, *DONE]
    reached.clear()
    release_model(settings, make_stored("1"), why="again", steps=steps)
    assert reached == [Step.LOCKED]


def test_an_intent_cannot_be_changed_and_is_written_for_people(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    with pytest.raises(KilledError):
        release_model(
            settings, make_stored("1"), why="first",
            steps=act_at(service, Step.INTENT_WRITTEN, kill),
        )  # fmt: skip
    assert (settings.serving_dir / INTENT).read_text().startswith('{\n  "id": ')
    intent = read_intent(settings)
    assert intent is not None
    assert (intent.kind, intent.who, intent.before) == (EventKind.RELEASE, find_user(), None)
    with pytest.raises(ValidationError, match="frozen"):
        intent.why = "another reason"


def test_the_lock_is_asked_for_twenty_times_a_second(
    settings: Settings, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    settings.serving_dir.mkdir(parents=True)
    with (settings.serving_dir / "release.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr("flows.release.transaction.time.sleep", sleep)
        with locked(settings, steps=service.steps):
            assert slept == [0.05]


def test_a_lock_that_is_held_by_oneself_keeps_others_out(
    settings: Settings, service: FakeService
) -> None:
    with (
        locked(settings, steps=service.steps),
        pytest.raises(BusyError, match=r"since 0\.2 s"),
        locked(settings, steps=service.steps),
    ):
        pass


@pytest.mark.parametrize("is_running", [True, False])
def test_what_is_served_already_takes_no_time(
    settings: Settings, service: FakeService, make_stored: Make, *, is_running: bool
) -> None:
    one = make_stored("1")
    release_all(settings, service, one)
    service.is_running = is_running
    outcome = release_model(settings, one, why="again", steps=service.steps)
    assert outcome == (one, one, False, Switch(is_running=is_running, seconds=0.0))
    assert roll_back(settings, why="named", to="1", steps=service.steps) == outcome


def test_a_release_says_what_was_served_before(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    one, two = make_stored("1"), make_stored("2")
    first = release_model(settings, one, why="first", steps=service.steps)
    assert (first.release, first.before, first.is_new) == (one, None, True)
    second = release_model(settings, two, why="second", steps=service.steps)
    assert (second.release, second.before, second.is_new) == (two, one, True)
    (latest, _) = read_ledger(settings.ledger_dir).entries
    assert latest.event.before == one
    assert latest.event.is_verified
    assert latest.event.who == find_user()
    pending = read_pending(settings)
    assert pending == ("2", [])


def test_a_release_whose_model_is_not_in_the_store_is_refused(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    two = make_stored("2")
    shutil.rmtree(settings.bentoml_home / "models" / "ecg_bundle" / "2" / "bundle")
    with pytest.raises(TransactionError, match="ecg_bundle:2 must be in the model store"):
        release_all(settings, service, two)
    assert not (settings.serving_dir / INTENT).exists()


def test_without_a_release_there_is_nothing_to_roll_back_and_any_decision_is_late(
    settings: Settings, service: FakeService
) -> None:
    with pytest.raises(SupersededError, match="against ecg:1-a, but nothing is served now"):
        roll_back(settings, why="drift", decided_against="ecg:1-a", steps=service.steps)


def test_a_release_expects_the_first_one_where_nothing_is_served(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    one, two = make_stored("1"), make_stored("2")
    with pytest.raises(SupersededError, match="against ecg:1-a, but nothing is served now"):
        release_model(settings, two, why="late", expected=one, steps=service.steps)
    release_all(settings, service, one)
    release_model(settings, two, why="in time", expected=one, steps=service.steps)
    assert served_tag(settings) == "ecg:2-a"


def test_a_check_under_the_lock_may_refuse(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    def refuse() -> None:
        raise TransactionError("not now")

    with pytest.raises(TransactionError, match="not now"):
        release_model(settings, make_stored("1"), why="1", check=refuse, steps=service.steps)
    assert served_tag(settings) is None
    assert read_ledger(settings.ledger_dir).entries == []


def test_a_switch_that_cannot_be_written_is_noted_as_abandoned(
    settings: Settings, service: FakeService, make_stored: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_all(settings, service, make_stored("1"))
    with monkeypatch.context() as full:

        def fail(path: Path, release: Release) -> None:
            full.undo()
            raise OSError(28, "No space left on device")

        full.setattr(transaction, "write_release", fail)
        with pytest.raises(TransactionError, match="No space left on device; nothing has changed"):
            release_all(settings, service, make_stored("2"))
    assert served_tag(settings) == "ecg:1-a"
    latest = read_ledger(settings.ledger_dir).entries[0]
    assert (latest.event.kind, latest.event.is_verified) == (EventKind.ABANDONED, False)
    assert latest.reason == "release model 2: abandoned, No space left on device"
    assert not (settings.serving_dir / INTENT).exists()


def test_a_refused_release_is_noted_as_not_verified_with_its_reason(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    service.bad.add("ecg:1-a")
    with pytest.raises(ReleaseRefusedError):
        release_all(settings, service, make_stored("1"))
    (entry,) = read_ledger(settings.ledger_dir).entries
    assert (entry.event.kind, entry.event.is_verified) == (EventKind.REFUSED, False)
    assert entry.reason == "release model 1: refused, golden requests failed"
    assert read_pending(settings) is None
    assert not (settings.serving_dir / INTENT).exists()


@pytest.mark.parametrize("step", [Step.PUT_BACK, Step.NOTED_IN_LEDGER, Step.ALIAS_PENDING])
def test_a_kill_while_a_refused_release_is_put_back_is_finished(
    settings: Settings, service: FakeService, make_stored: Make, step: Step
) -> None:
    release_all(settings, service, make_stored("1"))
    service.bad.add("ecg:2-a")
    with pytest.raises(KilledError):
        release_model(settings, make_stored("2"), why="2", steps=act_at(service, step, kill))
    recover(settings, steps=service.steps)
    assert served_tag(settings) == "ecg:1-a"
    assert not (settings.serving_dir / INTENT).exists()
    kinds = [entry.event.kind for entry in read_ledger(settings.ledger_dir).entries]
    is_noted = step is not Step.PUT_BACK
    assert kinds == [EventKind.REFUSED if is_noted else EventKind.ABANDONED, EventKind.RELEASE]


def test_a_release_that_is_refused_after_a_kill_is_put_back(
    settings: Settings, service: FakeService, make_stored: Make, caplog: pytest.LogCaptureFixture
) -> None:
    release_all(settings, service, make_stored("1"))
    with pytest.raises(KilledError):
        release_model(
            settings, make_stored("2"), why="2", steps=act_at(service, Step.SWITCHED, kill)
        )
    service.bad.add("ecg:2-a")
    recover(settings, steps=service.steps)
    assert served_tag(settings) == "ecg:1-a"
    assert read_ledger(settings.ledger_dir).entries[0].event.kind is EventKind.REFUSED
    assert "the service refused ecg:2-a" in caplog.text


def test_code_that_changed_after_a_kill_is_put_back(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"))
    with pytest.raises(KilledError):
        release_model(
            settings, make_stored("2"), why="2", steps=act_at(service, Step.SWITCHED, kill)
        )
    source = settings.bentoml_home / "bentos" / "ecg" / "2-a" / "src"
    next(source.rglob("code.py")).write_text("changed")
    recover(settings, steps=service.steps)
    assert served_tag(settings) == "ecg:1-a"
    assert not (settings.serving_dir / INTENT).exists()
    assert read_ledger(settings.ledger_dir).entries[0].event.kind is EventKind.REFUSED


@pytest.mark.parametrize("is_first", [True, False])
def test_a_switch_that_somebody_removed_is_put_back(
    settings: Settings, service: FakeService, make_stored: Make, *, is_first: bool
) -> None:
    if not is_first:
        release_all(settings, service, make_stored("1"))
    steps = act_at(service, Step.SWITCHED, (settings.serving_dir / CURRENT).unlink)
    with pytest.raises(ReleaseRefusedError, match=r"it was not taken within 0\.1 s"):
        release_model(settings, make_stored("2"), why="2", steps=steps)
    assert served_tag(settings) == (None if is_first else "ecg:1-a")


def test_a_switch_that_somebody_wrote_over_is_left(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"))
    three = make_stored("3")
    steps = act_at(
        service, Step.SWITCHED, lambda: write_release(settings.serving_dir / CURRENT, three)
    )
    with pytest.raises(ReleaseRefusedError):
        release_model(settings, make_stored("2"), why="2", steps=steps)
    assert served_tag(settings) == "ecg:3-a"


@pytest.mark.parametrize("is_bad", [True, False])
def test_an_intent_that_somebody_removed_does_not_stop_the_end(
    settings: Settings, service: FakeService, make_stored: Make, *, is_bad: bool
) -> None:
    release_all(settings, service, make_stored("1"))
    service.bad |= {"ecg:2-a"} if is_bad else set()
    reached: list[Step] = []

    def on_step(step: Step) -> None:
        reached.append(step)
        if step is Step.ALIAS_PENDING:
            (settings.serving_dir / INTENT).unlink()

    steps = replace(service.steps, on_step=on_step)
    if is_bad:
        with pytest.raises(ReleaseRefusedError):
            release_model(settings, make_stored("2"), why="2", steps=steps)
    else:
        release_model(settings, make_stored("2"), why="2", steps=steps)
    assert reached[-1] is Step.CLOSED


def test_a_torn_intent_is_removed(settings: Settings, service: FakeService) -> None:
    settings.serving_dir.mkdir(parents=True)
    (settings.serving_dir / INTENT).write_text("{")
    assert recover(settings, steps=service.steps) is None
    assert not (settings.serving_dir / INTENT).exists()


def test_what_was_served_without_an_entry_is_in_the_ledger_that_is_returned(
    settings: Settings, service: FakeService, make_stored: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make_stored("1"), make_stored("2")
    release_all(settings, service, one)
    ensure_signed(settings, two, why="by hand")
    write_release(settings.serving_dir / CURRENT, two)
    with locked(settings, steps=service.steps):
        current, history = recover_locked(settings, service.steps)
    assert current == two
    latest = history.entries[0]
    assert (latest.event.kind, latest.release, latest.event.before) == (EventKind.NOTED, two, one)
    assert latest.reason == "note model 2, which is served"
    assert latest.event.is_signed
    assert "is not signed" not in caplog.text


def test_what_was_served_before_the_ledger_began_is_noted_and_said_to_lack_a_signature(
    settings: Settings, service: FakeService, make_stored: Make, caplog: pytest.LogCaptureFixture
) -> None:
    release_all(settings, service, make_stored("1"))
    shutil.rmtree(settings.ledger_dir)
    write_release(settings.serving_dir / CURRENT, make_stored("2"))
    recover(settings, steps=service.steps)
    (entry,) = read_ledger(settings.ledger_dir).entries
    assert (entry.event.kind, entry.event.before) == (EventKind.NOTED, None)
    assert entry.event.is_signed is ("ecg:2-a is not signed" not in caplog.text)


def test_a_release_is_pushed_to_the_remote_of_the_ledger(
    settings: Settings, service: FakeService, make_stored: Make, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    remote = tmp_path / "remote"
    remote.mkdir()
    Repo.init_bare(str(remote)).close()
    pushing = settings.model_copy(update={"ledger_remote": str(remote)})
    release_all(pushing, service, make_stored("1"))
    with Repo(str(remote)) as repository:
        assert repository.refs[b"refs/heads/master"].decode() == find_head(settings.ledger_dir)
    shutil.rmtree(remote)
    with caplog.at_level(logging.WARNING):
        release_all(pushing, service, make_stored("2"))
    assert "the next event is pushed with this one" in caplog.text
    assert served_tag(settings) == "ecg:2-a"


def test_a_current_file_with_a_wrong_hash_is_mended_by_the_ledger(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    one = make_stored("1")
    release_all(settings, service, one, make_stored("2"), make_stored("1", "b"))
    path = settings.serving_dir / CURRENT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bundle_hash": "f" * 64}))
    current = recover(settings, steps=service.steps)
    assert current is not None
    assert current.bundle_hash == one.bundle_hash
    assert read_current(settings) == current
    kinds = {entry.event.kind for entry in read_ledger(settings.ledger_dir).entries}
    assert kinds == {EventKind.RELEASE}


def test_an_earlier_release_that_was_put_there_by_hand_stays(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    one = make_stored("1")
    release_all(settings, service, one, make_stored("2"))
    write_release(settings.serving_dir / CURRENT, one)
    assert recover(settings, steps=service.steps) == one
    latest = read_ledger(settings.ledger_dir).entries[0]
    assert (latest.event.kind, latest.release) == (EventKind.NOTED, one)


def test_a_release_that_is_served_is_signed_again_where_its_signature_is_gone(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    one = make_stored("1")
    release_all(settings, service, one, make_stored("2"), one)
    signature_path(settings, one).unlink()
    release_all(settings, service, one)
    assert signature_path(settings, one).exists()


def test_a_release_that_is_tried_is_served_by_its_rollout_or_by_force_alone(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    one, two, three = (make_stored(version) for version in "123")
    release_all(settings, service, one)
    release_all(settings, service, two, one)
    start_rollout(settings, three, plan=DEFAULT_PLAN, why="better", steps=service.steps)
    with pytest.raises(TransactionError, match="ecg:3-a is being tried in a gradual rollout"):
        release_all(settings, service, three)
    release_all(settings, service, two)  # another one may be released
    start_rollout(settings, three, plan=DEFAULT_PLAN, why="better", steps=service.steps)
    checked: list[bool] = []
    release_model(
        settings, three, why="a rollout", check=lambda: checked.append(True), steps=service.steps
    )
    assert (checked, served_tag(settings)) == ([True], "ecg:3-a")
    assert not (settings.serving_dir / "candidate.json").exists()


def test_a_release_that_is_tried_is_served_by_force(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"))
    start_rollout(settings, make_stored("2"), plan=DEFAULT_PLAN, why="better", steps=service.steps)
    release_model(settings, make_stored("2"), why="at once", force=True, steps=service.steps)
    assert served_tag(settings) == "ecg:2-a"


def test_a_release_whose_code_has_changed_is_not_gone_back_to(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"), make_stored("2"))
    source = settings.bentoml_home / "bentos" / "ecg" / "1-a" / "src"
    next(source.rglob("code.py")).write_text("changed")
    with pytest.raises(SignatureError):
        roll_back(settings, why="worse", steps=service.steps)
    assert served_tag(settings) == "ecg:2-a"
    assert not (settings.serving_dir / INTENT).exists()
    assert len(read_ledger(settings.ledger_dir).entries) == 2


def test_the_aliases_follow_the_release_that_stays_after_a_refusal(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"))
    (settings.home / "registry-pending.json").unlink()  # they have followed
    service.bad.add("ecg:2-a")
    with pytest.raises(ReleaseRefusedError):
        release_all(settings, service, make_stored("2"))
    assert read_pending(settings) == ("1", [])


def test_a_candidate_whose_champion_is_not_served_any_longer_is_ended(
    settings: Settings, service: FakeService, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"), make_stored("3"), make_stored("1"))
    start_rollout(settings, make_stored("2"), plan=DEFAULT_PLAN, why="better", steps=service.steps)
    recover(settings, steps=service.steps)
    assert (settings.serving_dir / "candidate.json").exists()
    write_release(settings.serving_dir / CURRENT, make_stored("3"))
    with locked(settings, steps=service.steps):
        _, history = recover_locked(settings, service.steps)
    assert not (settings.serving_dir / "candidate.json").exists()
    assert history == read_ledger(settings.ledger_dir)
