"""Release and rollback: recorded, serialised, and finished or undone after a kill."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import pytest

from ecg_lib.operations.releases import CURRENT, Release, ReleaseError, read_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.release_history import EventKind, LedgerError
from flows.release.integrity.aliases import read_pending
from flows.release.integrity.signing import ensure_signed
from flows.release.switch_service import ReleaseRefusedError, read_current
from flows.release.transaction import (
    INTENT,
    BusyError,
    Step,
    Steps,
    SupersededError,
    TransactionError,
    locked,
    recover,
    release_model,
    roll_back,
)
from tests.homes import KilledError

Make = Callable[..., Release]


class Service(Protocol):
    """The stand-in for the service, see ``conftest.py``."""

    is_running: bool
    bad: set[str]
    served: Release | None

    @property
    def steps(self) -> Steps: ...


def served_tag(settings: Settings) -> str | None:
    current = read_current(settings)
    return None if current is None else current.bento_tag


def release_all(settings: Settings, service: Service, *releases: Release) -> None:
    for one in releases:
        release_model(settings, one, why=f"release model {one.model_version}", steps=service.steps)


def test_a_release_is_served_noted_and_followed(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    outcome = release_model(
        settings, make_stored("1"), why="release model 1", who="Ada", steps=service.steps
    )
    assert (outcome.is_new, outcome.switch.is_running) == (True, True)
    assert service.served.bento_tag == "ecg:1-a"
    (entry,) = read_ledger(settings.ledger_dir).entries
    assert (entry.reason, entry.event.who, entry.event.is_verified) == (
        "release model 1",
        "Ada",
        True,
    )
    pending = read_pending(settings)
    assert pending is not None
    assert pending.version == "1"
    assert not (settings.serving_dir / INTENT).exists()


def test_what_is_served_already_is_left_as_it_is(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    first = make_stored("1")
    release_all(settings, service, first)
    later = first.model_copy(update={"released_at": "2027-01-01T00:00:00.000+00:00"})
    outcome = release_model(settings, later, why="again", steps=service.steps)
    assert not outcome.is_new
    current = read_current(settings)
    assert current is not None
    assert current.released_at == first.released_at
    assert len(read_ledger(settings.ledger_dir).entries) == 1


def test_without_a_service_the_release_is_noted_as_not_verified(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    service.is_running = False
    outcome = release_model(settings, make_stored("1"), why="first", steps=service.steps)
    assert not outcome.switch.is_running
    (entry,) = read_ledger(settings.ledger_dir).entries
    assert not entry.event.is_verified


def test_a_refused_release_is_put_back_and_noted(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"))
    service.bad.add("ecg:2-a")
    with pytest.raises(ReleaseRefusedError, match="golden requests failed"):
        release_all(settings, service, make_stored("2"))
    assert served_tag(settings) == "ecg:1-a"
    latest = read_ledger(settings.ledger_dir).entries[0]
    assert (latest.event.kind, latest.release.bento_tag) == (EventKind.REFUSED, "ecg:2-a")
    pending = read_pending(settings)
    assert pending is not None
    assert pending.version == "1"
    # Once it is repaired the same command serves it.
    service.bad.clear()
    release_all(settings, service, make_stored("2"))
    assert served_tag(settings) == "ecg:2-a"


def test_a_first_release_that_is_refused_leaves_nothing(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    service.bad.add("ecg:1-a")
    with pytest.raises(ReleaseRefusedError, match="nothing is served as before"):
        release_all(settings, service, make_stored("1"))
    assert served_tag(settings) is None
    assert read_ledger(settings.ledger_dir).latest is None


def test_each_rollback_goes_back_one_release_further(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_all(settings, service, *(make_stored(version) for version in "1234"))
    for expected in ("3", "2", "1"):
        roll_back(settings, why="worse", steps=service.steps)
        assert served_tag(settings) == f"ecg:{expected}-a"
    with pytest.raises(LedgerError, match="the ledger has none"):
        roll_back(settings, why="worse", steps=service.steps)
    release_all(settings, service, make_stored("5"))
    roll_back(settings, why="worse", steps=service.steps)
    assert served_tag(settings) == "ecg:1-a"
    reasons = [entry.reason for entry in read_ledger(settings.ledger_dir).entries]
    assert reasons[:2] == ["roll back model 5 to 1: worse", "release model 5"]


def test_a_rollback_restores_earlier_code_of_the_same_model(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"), make_stored("1", "b"))
    outcome = roll_back(settings, why="slow", steps=service.steps)
    assert outcome.release.bento_tag == "ecg:1-a"
    assert outcome.release.code_hash == make_stored("1").code_hash
    assert read_ledger(settings.ledger_dir).entries[0].reason == (
        "roll back ecg:1-b to ecg:1-a: slow"
    )


@pytest.mark.parametrize("by", ["model_version", "bento_tag", "commit"])
def test_any_release_can_be_named(
    settings: Settings, service: Service, make_stored: Make, by: str
) -> None:
    release_all(settings, service, *(make_stored(version) for version in "123"))
    first = read_ledger(settings.ledger_dir).entries[-1]
    name = first.commit[:7] if by == "commit" else getattr(first.release, by)
    roll_back(settings, why="named", to=name, steps=service.steps)
    assert served_tag(settings) == "ecg:1-a"


def test_a_release_that_was_rolled_back_is_served_again_by_force_alone(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    one, two, three = (make_stored(version) for version in "123")
    release_all(settings, service, one, two)
    roll_back(settings, why="misses beats", steps=service.steps)
    with pytest.raises(TransactionError, match="misses beats"):
        release_all(settings, service, two)
    with pytest.raises(TransactionError, match="misses beats"):
        roll_back(settings, why="oops", to="2", steps=service.steps)
    release_model(settings, two, why="release model 2", force=True, steps=service.steps)
    release_all(settings, service, three)
    with pytest.raises(TransactionError, match="misses beats"):
        roll_back(settings, why="worse", steps=service.steps)
    assert served_tag(settings) == "ecg:3-a"
    roll_back(settings, why="worse", force=True, steps=service.steps)
    assert served_tag(settings) == "ecg:2-a"


def test_a_rollback_decided_against_another_release_does_nothing(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"), make_stored("2"))
    with pytest.raises(SupersededError, match="decided against ecg:1-a, but ecg:2-a is served"):
        roll_back(settings, why="drift", decided_against="ecg:1-a", steps=service.steps)
    assert served_tag(settings) == "ecg:2-a"
    roll_back(settings, why="drift", decided_against="ecg:2-a", steps=service.steps)
    assert served_tag(settings) == "ecg:1-a"


def test_a_release_expects_what_was_served_when_it_was_decided(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    one, two, three = (make_stored(version) for version in "123")
    release_all(settings, service, one, two)
    with pytest.raises(SupersededError):
        release_model(settings, three, why="late", expected=one, steps=service.steps)
    assert served_tag(settings) == "ecg:2-a"


def test_a_release_whose_code_is_not_in_the_store_is_refused_before_anything_changes(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"))
    gone = make_stored("2").model_copy(update={"bento_tag": "ecg:gone"})
    with pytest.raises(TransactionError, match="ecg:gone must be in the bento store"):
        release_all(settings, service, gone)
    assert not (settings.serving_dir / INTENT).exists()


def test_two_releases_at_once_come_one_after_the_other(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    steps = replace(service.steps, lock_timeout_s=20.0)
    releases = [make_stored(str(number)) for number in range(1, 9)]
    threads = [
        threading.Thread(
            target=release_model,
            args=(settings, one),
            kwargs={"why": f"release model {one.model_version}", "steps": steps},
        )
        for one in releases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = read_ledger(settings.ledger_dir).entries
    assert sorted(entry.release.model_version for entry in entries) == list("12345678")
    assert all(entry.reason == f"release model {entry.release.model_version}" for entry in entries)
    assert served_tag(settings) == entries[0].release.bento_tag


def test_who_waits_too_long_for_the_lock_is_told(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    with locked(settings), pytest.raises(BusyError, match="another one is since"):
        release_all(settings, service, make_stored("1"))


@pytest.mark.parametrize("step", list(Step)[:-1])
@pytest.mark.parametrize("kind", ["release", "rollback"])
def test_a_kill_at_any_step_is_finished_or_undone(
    settings: Settings, service: Service, make_stored: Make, kind: str, step: Step
) -> None:
    release_all(settings, service, make_stored("1"), make_stored("2"))

    def kill(reached: Step) -> None:
        if reached is step:
            raise KilledError

    steps = replace(service.steps, on_step=kill)
    act: Callable[..., Any] = roll_back
    arguments: dict[str, Any] = {"why": "worse"}
    if kind == "release":
        act, arguments = release_model, {"wanted": make_stored("3"), "why": "release model 3"}
    with pytest.raises(KilledError):
        act(settings, **arguments, steps=steps)
    # Seen by everybody from the start, before anything is mended: the ledger never runs ahead.
    assert len(read_ledger(settings.ledger_dir).torn) == 0

    recover(settings, steps=service.steps)

    target = "ecg:3-a" if kind == "release" else "ecg:1-a"
    is_done = step not in {Step.LOCKED, Step.INTENT_WRITTEN}
    assert served_tag(settings) == (target if is_done else "ecg:2-a")
    assert not (settings.serving_dir / INTENT).exists()
    latest = read_ledger(settings.ledger_dir).latest
    assert latest is not None
    assert latest.release.bento_tag == served_tag(settings)
    # The same command again ends where it should, without a second entry.
    if kind == "release" or not is_done:
        act(settings, **arguments, steps=service.steps)
    assert served_tag(settings) == target
    served = [entry for entry in read_ledger(settings.ledger_dir).entries if entry.is_served]
    assert len(served) == 3


@pytest.mark.parametrize("text", ["", "{", "null", '{"id": 1}'])
def test_a_torn_intent_or_current_file_is_mended_by_the_ledger(
    settings: Settings, service: Service, make_stored: Make, text: str
) -> None:
    release_all(settings, service, make_stored("1"), make_stored("2"))
    (settings.serving_dir / INTENT).write_text(text)
    (settings.serving_dir / CURRENT).write_text(text)
    current = recover(settings, steps=service.steps)
    assert current is not None
    assert current.bento_tag == served_tag(settings) == "ecg:2-a"


@pytest.mark.parametrize("time", ["2026-01-01T0:00:00+00:00", "2026-01-01", "soon", ""])
def test_a_current_file_with_a_damaged_time_is_mended_by_the_ledger(
    settings: Settings, service: Service, make_stored: Make, time: str
) -> None:
    release_all(settings, service, make_stored("1"), make_stored("2"))
    path = settings.serving_dir / CURRENT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"released_at": time}))
    with pytest.raises(ReleaseError, match="released_at: "):
        read_release(path)
    current = recover(settings, steps=service.steps)
    assert current is not None
    assert datetime.fromisoformat(current.released_at).tzinfo is not None
    assert read_release(path) == current


def test_what_is_served_without_an_entry_is_noted_by_the_next_release(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_all(settings, service, make_stored("1"))
    ensure_signed(settings, make_stored("2"), why="by a process that was killed")
    (settings.serving_dir / CURRENT).write_text(make_stored("2").model_dump_json())
    release_all(settings, service, make_stored("3"))
    history = read_ledger(settings.ledger_dir)
    assert [entry.event.kind.value for entry in history.entries] == ["release", "noted", "release"]
    roll_back(settings, why="worse", steps=service.steps)
    assert served_tag(settings) == "ecg:2-a"


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"version": "7"})])
def test_a_torn_pending_file_makes_the_aliases_follow_what_is_served(
    settings: Settings, service: Service, make_stored: Make, text: str
) -> None:
    release_all(settings, service, make_stored("1"))
    (settings.home / "registry-pending.json").write_text(text)
    pending = read_pending(settings)
    assert pending is not None
    assert pending.version == "1"


def test_rolled_back_versions_wait_until_mlflow_is_told_of_all(
    settings: Settings, service: Service, make_stored: Make
) -> None:
    release_all(settings, service, *(make_stored(version) for version in "123"))
    roll_back(settings, why="worse", steps=service.steps)
    roll_back(settings, why="worse", steps=service.steps)
    pending = read_pending(settings)
    assert pending is not None
    assert (pending.version, pending.rolled_back) == ("1", ["3", "2"])
