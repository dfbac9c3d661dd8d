"""Notes of what the aliases must follow, with a registry that stands in for MLflow's."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecg_lib.operations.releases import CURRENT, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.doors.registry import Alias, ModelVersion, RegistryError
from flows.release.integrity import aliases
from flows.release.integrity.aliases import (
    Pending,
    find_alias_problem,
    follow_pending,
    note_pending,
    read_pending,
)

Make = Callable[..., Release]
NOTE = "registry-pending.json"


class FakeRegistry:
    """Knows versions 1 to 3, of which the first is the champion."""

    def __init__(self) -> None:
        self.followed: list[tuple[str, list[str]]] = []
        self.on_follow: Callable[[], object] = lambda: None
        self.reason = ""
        self.tags: dict[str, dict[str, str]] = {"1": {}, "2": {}, "3": {}}
        self.champion: str | None = "1"

    @contextmanager
    def reach(self, _: Settings) -> Iterator[FakeRegistry]:
        if self.reason:
            raise RegistryError(self.reason)
        yield self

    def follow_release(self, version: str, *, rolled_back: list[str]) -> None:
        self.followed.append((version, rolled_back))
        self.on_follow()

    def versions(self) -> list[ModelVersion]:
        return [
            ModelVersion(version=version, run_id=version, tags=tags)
            for version, tags in self.tags.items()
        ]

    def get_alias(self, alias: Alias) -> ModelVersion | None:
        assert alias is Alias.CHAMPION
        return next((one for one in self.versions() if one.version == self.champion), None)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    registry = FakeRegistry()
    monkeypatch.setattr(aliases, "reaching_registry", registry.reach)
    return registry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home that is not there yet, nor is the folder that it is to be in."""
    return Settings(home=tmp_path / "homes" / "one")


def test_nothing_is_noted_at_first(settings: Settings, registry: FakeRegistry) -> None:
    assert read_pending(settings) is None
    assert follow_pending(settings)
    assert registry.followed == []


def test_notes_name_the_latest_version_and_each_that_was_rolled_back_once(
    settings: Settings,
) -> None:
    note_pending(settings, "3")
    assert read_pending(settings) == Pending("3", [])
    note_pending(settings, "2", rolled_back="3")
    note_pending(settings, "3", rolled_back="2")
    note_pending(settings, "2", rolled_back="3")
    note_pending(settings, "1")
    assert read_pending(settings) == Pending("1", ["3", "2"])


@pytest.mark.parametrize(
    ("rolled_back", "read"), [(None, []), ("3", ["3"]), ("", []), (["3", 4], ["3", "4"])]
)
def test_notes_of_earlier_code_are_read(
    settings: Settings, rolled_back: object, read: list[str]
) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / NOTE).write_text(json.dumps({"version": 2, "rolled_back": rolled_back}))
    assert read_pending(settings) == Pending("2", read)


def test_a_torn_note_is_removed_where_nothing_is_served(
    settings: Settings, registry: FakeRegistry
) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / NOTE).write_text("{")
    assert follow_pending(settings)
    assert registry.followed == []
    assert not (settings.home / NOTE).exists()


def test_a_torn_note_makes_the_aliases_follow_what_is_served_and_is_removed(
    settings: Settings, registry: FakeRegistry, make_stored: Make
) -> None:
    write_release(settings.serving_dir / CURRENT, make_stored("2"))
    (settings.home / NOTE).write_text("{")
    assert follow_pending(settings)
    assert registry.followed == [("2", [])]
    assert not (settings.home / NOTE).exists()


def test_a_note_is_written_under_the_lock(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, is_free = aliases.write_durably, []

    def look(path: Path, text: str) -> None:
        with (settings.home / "registry.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_free.append(True)
            except BlockingIOError:
                is_free.append(False)
        write(path, text)

    monkeypatch.setattr(aliases, "write_durably", look)
    note_pending(settings, "1")
    assert is_free == [False]


def test_the_aliases_follow_once(settings: Settings, registry: FakeRegistry) -> None:
    note_pending(settings, "1", rolled_back="2")
    assert follow_pending(settings)
    assert follow_pending(settings)
    assert registry.followed == [("1", ["2"])]
    assert read_pending(settings) is None


def test_what_is_noted_meanwhile_is_followed_too(
    settings: Settings, registry: FakeRegistry
) -> None:
    note_pending(settings, "1")

    def note_another() -> None:
        registry.on_follow = lambda: None
        note_pending(settings, "2", rolled_back="1")

    registry.on_follow = note_another
    assert follow_pending(settings)
    assert registry.followed == [("1", []), ("2", ["1"])]
    assert read_pending(settings) is None


def test_what_cannot_be_followed_stays_noted(
    settings: Settings, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    note_pending(settings, "1", rolled_back="2")
    registry.reason = "no answer"
    assert not follow_pending(settings)
    assert "MLflow cannot be used (no answer): its aliases follow model 1" in caplog.text
    assert read_pending(settings) == Pending("1", ["2"])


def test_what_contradicts_the_served_version_is_said(
    settings: Settings, registry: FakeRegistry
) -> None:
    assert find_alias_problem(settings, "1", worse=set()) == ""
    assert find_alias_problem(settings, "998", worse={"2"}) == ""  # of another registry
    said = find_alias_problem(settings, "2", worse=set())
    assert said == "the champion is model 1, model 2 is served"
    registry.champion = None
    said = find_alias_problem(settings, "2", worse=set())
    assert said == "the champion is nothing, model 2 is served"
    registry.reason = "no answer"
    said = find_alias_problem(settings, "1", worse=set())
    assert said == "MLflow cannot be used: no answer"


def test_versions_that_were_rolled_back_and_are_not_marked_are_named(
    settings: Settings, registry: FakeRegistry
) -> None:
    registry.tags["2"] = {"rolled_back": "true"}
    assert find_alias_problem(settings, "1", worse={"2", "998"}) == ""
    said = find_alias_problem(settings, "1", worse={"2", "3"})
    assert said == "models ['3'] were rolled back and may be promoted"
