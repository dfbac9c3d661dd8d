"""The flow ``rollback-champion`` without a server of Prefect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.operations.learning.rollout.candidate import DEFAULT_PLAN, Candidate
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.release_history import EventKind
from flows.release.integrity.aliases import Pending, read_pending
from flows.release.rollout import rollback_champion as module
from flows.release.rollout.rollback_champion import end_candidate, put_back, rollback_champion
from flows.release.rollout.steps import RolloutError, start_rollout
from flows.release.switch_service import read_current
from flows.release.transaction import TransactionError, release_model

Make = Callable[..., Release]


class Told:
    """Names and artifacts of the run, and when the aliases follow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.followed: list[Pending | None] = []
        self.names: list[str] = []
        self.artifacts: list[tuple[str, str]] = []
        for name, stand_in in {
            "follow_pending": lambda settings: self.followed.append(read_pending(settings)),
            "name_run": self.names.append,
            "show_artifact": lambda text, *, key: self.artifacts.append((key, text)),
            "get_run_logger": lambda: logging.getLogger("the run"),
            "end_candidate": end_candidate.fn,
            "put_back": put_back.fn,
        }.items():
            monkeypatch.setattr(module, name, stand_in)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose service port is closed."""
    monkeypatch.setenv("ECG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ECG_SERVICE_PORT", "9")
    return Settings(home=tmp_path / "home", service_port=9)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


@pytest.fixture
def releases(settings: Settings, make_stored: Make) -> list[Release]:
    """Three releases, of which the last one is served."""
    made = [make_stored(version) for version in "123"]
    for one in made:
        release_model(settings, one, why=f"release model {one.model_version}")
    return made


def served_tag(settings: Settings) -> str | None:
    current = read_current(settings)
    return None if current is None else current.bento_tag


def try_out(settings: Settings, release: Release) -> Candidate:
    return start_rollout(settings, release, plan=DEFAULT_PLAN, why="better")


def roll_back(**given: Any) -> Any:  # noqa: ANN401
    return rollback_champion.fn(**given)


def test_the_release_before_is_served_again_and_the_run_says_so(
    settings: Settings, told: Told, releases: list[Release], caplog: pytest.LogCaptureFixture
) -> None:
    found = roll_back(reason="misses  beats\n*often*")
    assert (found["bento_tag"], found["model_version"]) == ("ecg:2-a", "2")
    assert served_tag(settings) == "ecg:2-a"
    assert told.names == ["back to model 2: misses  beats\n*often*"]
    ((key, text),) = told.artifacts
    assert key == "rollback"
    assert "misses beats \\*often\\*" in text
    assert "bento `ecg:2-a`" in text
    assert told.followed == [("2", ["3"])]
    event = read_ledger(settings.ledger_dir).entries[0].event
    assert (event.why, event.who) == ("misses beats *often*", "flow rollback-champion")
    assert f"rolled back from model {releases[2].model_version} to model 2 (ecg:2-a)" in caplog.text


def test_a_release_may_be_named(settings: Settings, told: Told, releases: list[Release]) -> None:
    roll_back(to="1", decided_against=releases[2].bento_tag)
    assert served_tag(settings) == "ecg:1-a"
    assert told.followed == [("1", ["3"])]


def test_a_rollback_decided_against_another_release_changes_nothing(
    settings: Settings, told: Told, releases: list[Release]
) -> None:
    state = roll_back(decided_against=releases[0].bento_tag)
    assert (state.name, state.is_completed()) == ("Superseded", True)
    assert "this was decided against ecg:1-a, but ecg:3-a is served now" in state.message
    assert served_tag(settings) == "ecg:3-a"
    assert told.names == ["rollback: superseded, nothing done"]
    assert told.artifacts == []
    assert len(told.followed) == 1


@pytest.mark.usefixtures("releases")
def test_a_release_that_was_rolled_back_itself_is_served_by_force_alone(
    settings: Settings, told: Told
) -> None:
    roll_back()
    with pytest.raises(TransactionError, match="asked for by hand"):
        roll_back(to="3")
    assert served_tag(settings) == "ecg:2-a"
    assert len(told.followed) == 2  # the aliases follow although it failed
    roll_back(to="3", force=True)
    assert served_tag(settings) == "ecg:3-a"


def test_a_candidate_is_taken_back_and_what_is_served_stays(
    settings: Settings, told: Told, releases: list[Release], make_stored: Make
) -> None:
    candidate = try_out(settings, make_stored("4"))
    given = {
        "candidate": candidate.id, "decided_against": "ecg:4-a", "reason": "too many V",
    }  # fmt: skip
    state = roll_back(**given)
    assert (state.name, state.message) == ("CandidateTakenBack", "too many V")
    assert told.names == ["candidate ecg:4-a taken back: too many V"]
    assert served_tag(settings) == releases[2].bento_tag
    assert len(told.followed) == 1
    event = read_ledger(settings.ledger_dir).entries[0].event
    assert (event.kind, event.release.bento_tag) == (EventKind.TAKEN_BACK, "ecg:4-a")
    # Asked for once more it is taken back already.
    assert roll_back(**given).name == "CandidateTakenBack"


def test_a_candidate_that_has_ended_is_superseded(
    settings: Settings, told: Told, releases: list[Release], make_stored: Make
) -> None:
    candidate = try_out(settings, make_stored("4"))
    release_model(settings, releases[1], why="another one", force=True)
    state = roll_back(candidate=candidate.id, decided_against="ecg:4-a", reason="too many V")
    assert (state.name, state.message) == ("Superseded", "ecg:4-a is not tried any more")
    assert told.names == ["candidate ecg:4-a: not tried any more, nothing done"]
    assert served_tag(settings) == "ecg:2-a"


@pytest.mark.usefixtures("releases")
def test_a_candidate_that_was_released_meanwhile_needs_a_rollback(
    settings: Settings, told: Told, make_stored: Make
) -> None:
    four = make_stored("4")
    candidate = try_out(settings, four)
    release_model(settings, four, why="a rollout", check=lambda: None)
    with pytest.raises(RolloutError, match="ecg:4-a was released before it could be taken back"):
        roll_back(candidate=candidate.id, decided_against="ecg:4-a", reason="too many V")
    assert served_tag(settings) == "ecg:4-a"
    assert told.names == []
