"""The flow ``release-service`` without a server of Prefect: what it decides, and what it leaves."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.learning.rollout.candidate import read_candidate
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import read_ledger
from flows.doors.registry import RegistryError
from flows.doors.release_history import EventKind
from flows.release import release_service as module
from flows.release.integrity.aliases import Pending, read_pending
from flows.release.release_service import begin_rollout, release_service, show, switch_to
from flows.release.rollout.approval import RejectedError
from flows.release.rollout.steps import Rollout
from flows.release.switch_service import Health, Presence, Switch, find_bundle, read_current
from flows.release.transaction import Outcome, SupersededError, TransactionError, release_model
from flows.release.transaction import roll_back as roll_back_now

Make = Callable[..., Release]


class Run:
    """The flow as a function; what it tells MLflow and Prefect is kept."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.followed: list[Pending | None] = []
        self.can_follow = True
        self.packaged: list[str] = []
        self.package: Release | None = None
        self.names: list[str] = []
        self.artifacts: list[dict[str, Any]] = []
        self.approvals: list[tuple[str, float]] = []
        self.on_approval: Callable[[], object] = lambda: None
        self.shown: list[Outcome] = []
        logger = logging.getLogger("the run")
        logger.setLevel(logging.INFO)
        for name, stand_in in {
            "follow_pending": self._follow,
            "package_bento": self._package,
            "wait_for_approval": self._wait,
            "begin_rollout": begin_rollout.fn,
            "switch_to": switch_to.fn,
            "show": lambda outcome, _: self.shown.append(outcome),
            "name_run": self.names.append,
            "show_artifact": lambda **given: self.artifacts.append(given),
            "get_run_logger": lambda: logger,
        }.items():
            monkeypatch.setattr(module, name, stand_in)

    def _follow(self, settings: Settings) -> bool:
        self.followed.append(read_pending(settings))
        if self.can_follow:
            (settings.home / "registry-pending.json").unlink(missing_ok=True)
        return self.can_follow

    def _package(self, model_version: str) -> dict[str, str]:
        self.packaged.append(model_version)
        assert self.package is not None
        return self.package.model_dump()

    def _wait(self, _: Settings, __: Release, *, what: str, hours: float) -> None:
        self.approvals.append((what, hours))
        self.on_approval()

    def release(self, wanted: Release, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        found: dict[str, Any] = release_service.fn(wanted.model_dump(), **options)
        return found


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose service port is closed."""
    monkeypatch.setenv("ECG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ECG_SERVICE_PORT", "9")
    return Settings(home=tmp_path / "home", service_port=9)


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(settings, monkeypatch)


def served_tag(settings: Settings) -> str | None:
    current = read_current(settings)
    return None if current is None else current.bento_tag


def test_a_release_is_served_named_and_shown(
    run: Run, make_stored: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = make_stored("1")
    assert run.release(one) == {**one.model_dump(), "is_running": False}
    assert served_tag(run.settings) == "ecg:1-a"
    assert run.names == ["release of model 1: served"]
    assert [outcome.release for outcome in run.shown] == [one]
    assert run.followed == [("1", [])]
    assert run.packaged == []
    assert run.approvals == []
    assert "no service runs; it will start with ecg:1-a" in caplog.text
    run.release(one)
    assert run.names[1:] == ["release of model 1: served already"]
    assert len(run.shown) == 1
    assert "ecg:1-a is served already" in caplog.text
    (entry,) = read_ledger(run.settings.ledger_dir).entries
    assert (entry.reason, entry.event.who) == ("release model 1", "flow release-service")


def test_a_service_that_took_the_release_is_said_to_have_it(
    run: Run, make_stored: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = make_stored("1")
    outcome = Outcome(one, None, is_new=True, switch=Switch(is_running=True, seconds=1.26))
    monkeypatch.setattr(module, "release_model", lambda *_, **__: outcome)
    assert run.release(one)["is_running"] is True
    assert "ecg:1-a took the traffic after 1.3 s" in caplog.text


def test_without_a_release_the_champion_is_packaged_after_the_aliases_have_followed(
    run: Run, make_stored: Make
) -> None:
    run.package = make_stored("3")
    release_service.fn()
    assert run.packaged == ["champion"]
    assert len(run.followed) == 2
    assert served_tag(run.settings) == "ecg:3-a"
    release_service.fn(model_version="7")
    assert run.packaged == ["champion", "7"]


def test_without_mlflow_no_champion_is_packaged_and_a_named_release_is_made(
    run: Run, make_stored: Make
) -> None:
    run.can_follow = False
    with pytest.raises(RegistryError, match="the aliases must follow what is served"):
        release_service.fn()
    assert run.packaged == []
    assert served_tag(run.settings) is None
    run.release(make_stored("1"))
    assert served_tag(run.settings) == "ecg:1-a"


@pytest.mark.parametrize("rollout", list(Rollout))
def test_a_release_waits_for_approval_where_it_is_asked_for(
    run: Run, make_stored: Make, rollout: Rollout
) -> None:
    run.release(make_stored("1"), rollout=rollout, needs_approval=True)
    assert run.approvals == [("release it at once", 24.0)]  # the first one is always at once
    assert run.followed == [("1", [])]
    run.release(make_stored("2"), rollout=rollout, needs_approval=True, approval_hours=2.0)
    is_gradual = rollout is Rollout.GRADUAL
    what = "try it in a gradual rollout" if is_gradual else "release it at once"
    assert run.approvals[1:] == [(what, 2.0)]
    assert run.followed[1] == ("1", [])  # while a person is asked
    assert served_tag(run.settings) == ("ecg:1-a" if is_gradual else "ecg:2-a")


@pytest.mark.parametrize(
    ("error", "rolled_back"),
    [(RejectedError("no"), ["2"]), (TransactionError("cannot be written"), [])],
)
def test_after_a_refusal_the_aliases_follow_what_is_served(
    run: Run, make_stored: Make, error: Exception, rolled_back: list[str]
) -> None:
    run.release(make_stored("1"))

    def refuse() -> None:
        raise error

    run.on_approval = refuse
    with pytest.raises(type(error)):
        run.release(make_stored("2"), needs_approval=True)
    assert served_tag(run.settings) == "ecg:1-a"
    assert run.followed[-1] == ("1", rolled_back)
    assert len(run.followed) == 3
    assert run.names == ["release of model 1: served"]


def test_a_first_release_that_is_rejected_leaves_no_note(run: Run, make_stored: Make) -> None:
    def refuse() -> None:
        raise RejectedError("no")

    run.on_approval = refuse
    with pytest.raises(RejectedError):
        run.release(make_stored("1"), needs_approval=True)
    assert run.followed == []
    assert read_pending(run.settings) is None


def test_an_approval_does_not_hold_after_another_release(run: Run, make_stored: Make) -> None:
    run.release(make_stored("1"))
    run.on_approval = lambda: release_model(run.settings, make_stored("3"), why="meanwhile")
    with pytest.raises(SupersededError, match="against ecg:1-a, but ecg:3-a is served now"):
        run.release(make_stored("2"), needs_approval=True)
    assert served_tag(run.settings) == "ecg:3-a"
    assert run.followed[-1] == ("3", [])


def test_a_release_decided_against_another_one_is_superseded_and_the_aliases_follow(
    run: Run, make_stored: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_stored("1")
    run.release(one)
    release_model(run.settings, make_stored("2"), why="meanwhile")
    monkeypatch.setattr(module, "recover", lambda _: one)
    with pytest.raises(SupersededError):
        run.release(make_stored("3"))
    assert len(run.followed) == 2


def test_what_was_rolled_back_is_released_by_force_alone(run: Run, make_stored: Make) -> None:
    run.release(make_stored("1"))
    run.release(make_stored("2"))
    roll_back_now(run.settings, why="worse")
    with pytest.raises(TransactionError, match="worse"):
        run.release(make_stored("2"))
    run.release(make_stored("2"), force=True)
    assert served_tag(run.settings) == "ecg:2-a"


@pytest.mark.parametrize("is_running", [True, False])
def test_a_gradual_rollout_tries_a_release_beside_the_served_one(
    run: Run,
    make_stored: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    is_running: bool,
) -> None:
    run.release(make_stored("1"), rollout=Rollout.GRADUAL)
    assert "nothing is served yet: the first release is made at once" in caplog.text
    caplog.clear()
    presence = Presence.ANSWERS if is_running else Presence.ABSENT
    monkeypatch.setattr(module, "ask_service", lambda _: Health(presence))
    found = run.release(make_stored("2"), rollout=Rollout.GRADUAL, reason="fewer misses")
    assert "nothing is served yet" not in caplog.text
    assert (found["bento_tag"], found["is_running"]) == ("ecg:2-a", is_running)
    assert found["rollout"] == "shadow"
    assert served_tag(run.settings) == "ecg:1-a"
    assert run.names[1:] == ["model 2 is tried: shadow"]
    assert run.artifacts[0]["key"] == "rollout"
    assert "# Model 2 is tried beside 1" in run.artifacts[0]["markdown"]
    assert len(run.followed) == 2
    assert read_ledger(run.settings.ledger_dir).entries[0].event.why == "fewer misses"
    # The next candidate takes its place.
    run.release(make_stored("3"), rollout=Rollout.GRADUAL)
    candidate = read_candidate(run.settings.serving_dir / "candidate.json")
    assert candidate is not None
    assert candidate.release.bento_tag == "ecg:3-a"
    latest = read_ledger(run.settings.ledger_dir).entries[0].event
    assert (latest.kind, latest.why) == (EventKind.CANDIDATE, "try model 3")


def test_what_is_served_is_not_tried(run: Run, make_stored: Make) -> None:
    run.release(make_stored("1"))
    run.release(make_stored("1"), rollout=Rollout.GRADUAL)
    assert run.names[1:] == ["release of model 1: served already"]
    assert not (run.settings.serving_dir / "candidate.json").exists()


def test_a_rollout_that_is_refused_leaves_the_aliases_with_what_is_served(
    run: Run, make_stored: Make
) -> None:
    run.release(make_stored("1"))
    gone = make_stored("2").model_copy(update={"bento_tag": "ecg:gone"})
    with pytest.raises(TransactionError, match="ecg:gone"):
        run.release(gone, rollout=Rollout.GRADUAL)
    assert run.followed[-1] == ("1", [])
    assert served_tag(run.settings) == "ecg:1-a"


@pytest.mark.parametrize(
    ("switch", "state"),
    [
        (Switch(is_running=True, seconds=1.26), "taken after 1.3 s"),
        (Switch(is_running=False, seconds=0.0), "no service runs yet"),
    ],
)
def test_the_page_of_a_release_says_what_is_served(
    run: Run, make_stored: Make, toy_bundle: Bundle, switch: Switch, state: str
) -> None:
    one = make_stored("1")
    directory = find_bundle(run.settings, one.model_tag)
    shutil.rmtree(directory)
    shutil.copytree(toy_bundle.directory, directory)
    show.fn(Outcome(one, None, is_new=True, switch=switch), run.settings)
    (artifact,) = run.artifacts
    assert (artifact["key"], artifact["description"]) == ("release", "Model 1 is served")
    assert f"({state})" in artifact["markdown"]
    assert f"| out-of-fold V-F1 | {toy_bundle.metrics['oof_v_f1']:.4f} |" in artifact["markdown"]
