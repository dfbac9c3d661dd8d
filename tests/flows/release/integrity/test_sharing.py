"""Releases of several homes that share a store: one at a time, each known to all."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from ecg_lib.operations.releases import Release, is_same_release, read_release_notes
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.lease import LeaseHeldError, leased
from ecg_lib.operations.store.objects import StoreError, open_store
from ecg_lib.operations.store.shared_releases import POINTER
from flows.doors.ledger import merge_ledger, read_ledger
from flows.doors.release_history import EventKind
from flows.local.commands.platform import find_served
from flows.release.integrity.sharing import LEDGER_KEY, PublishError, join
from flows.release.switch_service import ReleaseRefusedError, read_current
from flows.release.transaction import (
    Step,
    Steps,
    SupersededError,
    recover,
    release_model,
    roll_back,
)
from tests.homes import KilledError, make_sharing_home

Make = Callable[..., Release]
GIT = shutil.which("git")


class Service(Protocol):
    """The stand-in for the service, see ``conftest.py``."""

    bad: set[str]

    @property
    def steps(self) -> Steps: ...


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


@pytest.fixture
def settings(tmp_path: Path, store_url: str) -> Settings:
    return make_sharing_home(tmp_path, "home", store_url)


@pytest.fixture
def other(tmp_path: Path, store_url: str) -> Settings:
    return make_sharing_home(tmp_path, "other", store_url)


@pytest.fixture
def elsewhere(other: Settings, make_service: Callable[[Settings], Service]) -> Service:
    """The service of the other home."""
    return make_service(other)


def _tags(settings: Settings) -> list[tuple[str, str]]:
    """Events of a home's ledger, the latest first."""
    entries = read_ledger(settings.ledger_dir).entries
    return [(one.event.kind.value, one.event.release.bento_tag) for one in entries]


def test_a_release_and_its_ledger_reach_the_other_home(
    settings: Settings, service: Service, make_stored: Make, other: Settings, elsewhere: Service
) -> None:
    one, two = make_stored("1"), make_stored("2")
    release_model(settings, one, why="first", steps=service.steps)
    release_model(settings, two, why="second", steps=service.steps)
    assert recover(other, steps=elsewhere.steps) == two
    assert _tags(other) == _tags(settings) == [("release", "ecg:2-a"), ("release", "ecg:1-a")]
    notes = read_release_notes(other.ledger_dir / "history.json")
    assert notes is not None
    assert [note.why for note in notes] == ["second", "first"]
    # The other home goes back to what only the first one packaged, and the first one follows.
    roll_back(other, why="it is worse", steps=elsewhere.steps)
    back = recover(settings, steps=service.steps)
    assert back is not None
    assert back.bento_tag == "ecg:1-a"
    assert _tags(settings)[0] == ("rollback", "ecg:1-a")


@pytest.mark.skipif(GIT is None, reason="git is not installed")
def test_git_reads_the_ledger_of_the_store(
    settings: Settings, service: Service, make_stored: Make, store_url: str, tmp_path: Path
) -> None:
    release_model(settings, make_stored("1"), why="first", steps=service.steps)
    open_store(store_url).download(LEDGER_KEY, tmp_path / "ledger.bundle")
    cloned = subprocess.run(
        [str(GIT), "clone", "-q", str(tmp_path / "ledger.bundle"), str(tmp_path / "clone")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert cloned.returncode == 0, cloned.stderr
    assert (tmp_path / "clone" / "release.json").read_text().count("ecg:1-a") == 1


def test_a_decision_against_what_another_home_has_replaced_changes_nothing(
    settings: Settings, service: Service, make_stored: Make, other: Settings, elsewhere: Service
) -> None:
    one, two, three = make_stored("1"), make_stored("2"), make_stored("3")
    release_model(settings, one, why="first", steps=service.steps)
    recover(other, steps=elsewhere.steps)
    release_model(settings, two, why="second", steps=service.steps)
    with pytest.raises(SupersededError, match="ecg:2-a is served now"):
        release_model(other, three, why="third", expected=one, steps=elsewhere.steps)
    assert read_current(other) == two


def test_one_home_at_a_time_releases(
    settings: Settings, service: Service, make_stored: Make, store_url: str
) -> None:
    one = make_stored("1")
    with (
        leased(open_store(store_url), owner="elsewhere", wait_s=0.0),
        pytest.raises(LeaseHeldError, match="elsewhere does"),
    ):
        release_model(settings, one, why="first", steps=service.steps)
    assert read_current(settings) is None
    release_model(settings, one, why="first", steps=service.steps)
    assert read_current(settings) == one


def test_a_release_that_the_service_refuses_never_reaches_other_homes(
    settings: Settings, service: Service, make_stored: Make, other: Settings, elsewhere: Service
) -> None:
    one, bad = make_stored("1"), make_stored("2")
    release_model(settings, one, why="first", steps=service.steps)
    service.bad.add(bad.bento_tag)
    with pytest.raises(ReleaseRefusedError):
        release_model(settings, bad, why="second", steps=service.steps)
    assert recover(other, steps=elsewhere.steps) == one
    assert _tags(other)[0] == ("refused", "ecg:2-a")  # though they know of it


def test_nothing_is_changed_while_the_store_cannot_be_reached(
    settings: Settings, service: Service, make_stored: Make, tmp_path: Path
) -> None:
    one = make_stored("1")
    (tmp_path / "file").touch()
    cut_off = settings.model_copy(update={"store_url": (tmp_path / "file").as_uri()})
    with pytest.raises(StoreError, match="cannot be read or written"):
        release_model(cut_off, one, why="first", steps=service.steps)
    assert read_current(settings) is None
    assert _tags(settings) == []


def test_a_release_that_was_made_without_the_store_is_published_later(
    settings: Settings, service: Service, make_stored: Make, other: Settings, elsewhere: Service
) -> None:
    one, two = make_stored("1"), make_stored("2")
    release_model(settings, one, why="first", steps=service.steps)
    alone = settings.model_copy(update={"store_url": None})
    release_model(alone, two, why="second", steps=service.steps)
    assert recover(other, steps=elsewhere.steps) == one
    assert recover(settings, steps=service.steps) == two
    assert recover(other, steps=elsewhere.steps) == two
    assert _tags(other) == _tags(settings)


def test_ledgers_of_homes_that_diverged_are_merged_with_all_events(
    settings: Settings,
    service: Service,
    make_stored: Make,
    make_release: Callable[..., Release],
    other: Settings,
    elsewhere: Service,
) -> None:
    release_model(settings, make_stored("1"), why="first", steps=service.steps)
    recover(other, steps=elsewhere.steps)
    alone = settings.model_copy(update={"store_url": None})
    release_model(alone, make_stored("2"), why="alone", steps=service.steps)
    three = make_release(other, "3")
    release_model(other, three, why="shared", steps=elsewhere.steps)
    assert recover(settings, steps=service.steps) == three  # the other one was there first
    told = {"first", "alone", "shared"}
    assert {one.event.why for one in read_ledger(settings.ledger_dir).entries} >= told
    recover(other, steps=elsewhere.steps)
    assert _tags(other) == _tags(settings)
    assert read_current(other) == three
    history = read_ledger(settings.ledger_dir)
    assert history.latest is not None
    assert history.latest.event.release.bento_tag == "ecg:3-a"


@pytest.mark.parametrize("step", list(Step)[:-1])
@pytest.mark.parametrize("kind", ["release", "rollback"])
def test_a_kill_at_any_step_is_finished_or_undone_in_every_home(
    settings: Settings,
    service: Service,
    make_stored: Make,
    other: Settings,
    elsewhere: Service,
    kind: str,
    step: Step,
) -> None:
    one, two, three = (make_stored(version) for version in "123")
    for release in (one, two):
        release_model(settings, release, why=release.bento_tag, steps=service.steps)

    def kill(reached: Step) -> None:
        if reached is step:
            raise KilledError

    act = partial(release_model, wanted=three) if kind == "release" else roll_back
    with pytest.raises(KilledError):
        act(settings, why="a kill", steps=replace(service.steps, on_step=kill))
    is_done = step not in {Step.LOCKED, Step.INTENT_WRITTEN}
    wanted = (three if kind == "release" else one) if is_done else two
    for home, of_home in ((settings, service), (other, elsewhere), (settings, service)):
        served = recover(home, steps=of_home.steps)
        assert served is not None
        assert is_same_release(served, wanted)
    assert _tags(other) == _tags(settings)
    served_tags = [tag for event, tag in _tags(other) if event in {"release", "rollback"}]
    assert served_tags == [wanted.bento_tag] * is_done + ["ecg:2-a", "ecg:1-a"]


def test_a_failed_publication_is_reported_and_made_up_for_by_the_next_command(
    settings: Settings,
    service: Service,
    make_stored: Make,
    other: Settings,
    elsewhere: Service,
    store_url: str,
    tmp_path: Path,
) -> None:
    one, two = make_stored("1"), make_stored("2")
    release_model(settings, one, why="first", steps=service.steps)
    store = tmp_path / "store" / "bentos"

    def cut(reached: Step) -> None:
        if reached is Step.VERIFIED:
            store.rename(tmp_path / "away")
            store.touch()

    with pytest.raises(PublishError, match="other machines do not have"):
        release_model(settings, two, why="second", steps=replace(service.steps, on_step=cut))
    assert read_current(settings) == two
    pointer = open_store(store_url).read(POINTER)
    assert pointer is not None
    assert b"ecg:1-a" in pointer.content
    store.unlink()
    (tmp_path / "away").rename(store)
    recover(settings, steps=service.steps)
    assert recover(other, steps=elsewhere.steps) == two


def test_a_home_without_the_key_of_the_others_releases_nothing(
    settings: Settings, service: Service, make_stored: Make, tmp_path: Path, store_url: str
) -> None:
    release_model(settings, make_stored("1"), why="first", steps=service.steps)
    keyless = Settings(home=tmp_path / "keyless", store_url=store_url)
    with pytest.raises(StoreError, match="ECG_RELEASE_KEY_FILE"):
        recover(keyless, steps=service.steps)
    assert not (keyless.home / "secrets").exists()


def test_on_an_s3_api_two_homes_release_in_turn(
    bucket_url: str,
    tmp_path: Path,
    make_release: Callable[..., Release],
    make_service: Callable[[Settings], Service],
) -> None:
    homes = [make_sharing_home(tmp_path, name, bucket_url) for name in ("a", "b")]
    services = [make_service(home) for home in homes]
    for number in range(4):
        home, service = homes[number % 2], services[number % 2]
        release_model(home, make_release(home, str(number)), why=f"{number}", steps=service.steps)
    for home, service in zip(homes, services, strict=True):
        served = recover(home, steps=service.steps)
        assert served is not None
        assert served.bento_tag == "ecg:3-a"
        assert len(_tags(home)) == 4
        assert all(kind == EventKind.RELEASE.value for kind, _ in _tags(home))


@pytest.mark.parametrize("content", [b"", b"# v2 git bundle\ntorn"])
def test_a_damaged_ledger_of_the_store_stops_no_service_and_is_replaced_when_deleted(
    settings: Settings,
    service: Service,
    make_stored: Make,
    store_url: str,
    tmp_path: Path,
    content: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two = make_stored("1"), make_stored("2")
    release_model(settings, one, why="first", steps=service.steps)
    store = open_store(store_url)
    store.write(LEDGER_KEY, content)
    with pytest.raises(StoreError, match="if it is damaged, delete it"):
        join(settings)
    assert find_served(settings) == one  # of `ecg up`
    assert "goes on with its own release" in capsys.readouterr().out
    (tmp_path / "store" / LEDGER_KEY).unlink()
    release_model(settings, two, why="second", steps=service.steps)
    stored = store.read(LEDGER_KEY)
    assert stored is not None
    merge_ledger(tmp_path / "ledger", stored.content)
    assert len(read_ledger(tmp_path / "ledger").entries) == 2


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_pointer_of_the_store_that_was_lost_is_written_again(
    settings: Settings,
    service: Service,
    make_stored: Make,
    store_url: str,
    tmp_path: Path,
    content: bytes | None,
) -> None:
    release_model(settings, make_stored("1"), why="first", steps=service.steps)
    store = open_store(store_url)
    if content is None:
        (tmp_path / "store" / POINTER).unlink()
    else:
        store.write(POINTER, content)
    two = make_stored("2")
    release_model(settings, two, why="second", steps=service.steps)
    stored = store.read(POINTER)
    assert stored is not None
    assert Release.model_validate_json(stored.content) == read_current(settings) == two
