"""Nothing is deleted unless the list of releases that it depends on is complete."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from ecg_lib.operations.releases import CURRENT, LAST_GOOD, SERVED, Release, write_release
from ecg_lib.operations.settings import Settings
from flows.doors.ledger import append_event
from flows.doors.release_history import EventKind, make_event
from flows.monitoring.needed_releases import UnknownReleasesError, list_needed_releases
from flows.monitoring.retention.stores import forget_old_files
from flows.release.transaction import INTENT


def _release(version: str) -> Release:
    return Release(
        bento_tag=f"ecg:{version}",
        model_tag=f"ecg_bundle:{version}",
        bundle_hash=version,
        code_hash="c",
        model_version=version,
        released_at="2026-01-01T00:00:00+00:00",
    )


def _append(settings: Settings, version: str) -> str:
    return append_event(
        settings.ledger_dir,
        make_event(EventKind.RELEASE, _release(version), why="", is_signed=True),
        reason=f"release model {version}",
        metrics={},
        model_card="",
    )


def _tear(settings: Settings, commit: str) -> None:
    path = settings.ledger_dir / ".git" / "objects" / commit[:2] / commit[2:]
    path.chmod(0o600)
    path.write_bytes(b"")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, bentos_kept=1)


def test_releases_of_the_ledger_and_the_current_one_are_needed(settings: Settings) -> None:
    for version in "12":
        _append(settings, version)
    write_release(settings.serving_dir / CURRENT, _release("3"))
    found = list_needed_releases(settings, versions=["1", "2", "3", "4"])
    assert [release.model_version for release in found] == ["2", "1", "3"]


@pytest.mark.parametrize("torn", [0, 1])
def test_a_torn_entry_of_the_ledger_hides_a_release(settings: Settings, torn: int) -> None:
    commits = [_append(settings, version) for version in "12"]
    _tear(settings, commits[torn])
    with pytest.raises(UnknownReleasesError, match=f"{commits[torn][:12]} cannot be"):
        list_needed_releases(settings)


@pytest.mark.parametrize("name", [CURRENT, SERVED, LAST_GOOD])
def test_a_ledger_that_is_missing_after_a_release_hides_all(settings: Settings, name: str) -> None:
    write_release(settings.serving_dir / name, _release("1"))
    with pytest.raises(UnknownReleasesError, match=f"as there is {name}; it is missing or empty"):
        list_needed_releases(settings)


def test_signatures_and_model_versions_show_that_a_ledger_is_missing(settings: Settings) -> None:
    assert list_needed_releases(settings) == []
    with pytest.raises(UnknownReleasesError, match="as there is a registered model version"):
        list_needed_releases(settings, versions=["1"])
    settings.signatures_dir.mkdir()
    (settings.signatures_dir / "adopting").touch()
    assert list_needed_releases(settings) == []
    (settings.signatures_dir / "0.json").touch()
    with pytest.raises(UnknownReleasesError, match="as there is a signature of a release"):
        list_needed_releases(settings)


def test_a_broken_ledger_that_was_set_aside_hides_releases_although_a_new_one_is_whole(
    settings: Settings,
) -> None:
    _append(settings, "1")
    shutil.rmtree(settings.ledger_dir / ".git" / "refs")
    shutil.rmtree(settings.ledger_dir / ".git" / "objects")
    _append(settings, "2")
    with pytest.raises(UnknownReleasesError, match=r"restore \.git\.broken-"):
        list_needed_releases(settings)
    for path in settings.ledger_dir.glob(".git.broken-*"):
        shutil.rmtree(path)
    assert [one.model_version for one in list_needed_releases(settings)] == ["2"]


@pytest.mark.parametrize("name", [CURRENT, INTENT])
def test_a_torn_file_that_names_a_release_hides_it(settings: Settings, name: str) -> None:
    _append(settings, "1")
    settings.serving_dir.mkdir()
    (settings.serving_dir / name).write_text('{"bento_tag": "ec')
    with pytest.raises(UnknownReleasesError, match=f"{name} must be readable"):
        list_needed_releases(settings)


def _lose_entry(settings: Settings) -> None:
    _tear(settings, _append(settings, "1"))


def _lose_ledger(settings: Settings) -> None:
    shutil.rmtree(settings.ledger_dir / ".git")


@pytest.mark.parametrize("damage", [_lose_entry, _lose_ledger])
def test_no_bento_is_deleted_while_the_ledger_is_damaged(
    settings: Settings, damage: Callable[[Settings], None]
) -> None:
    write_release(settings.serving_dir / CURRENT, _release("5"))
    _append(settings, "5")
    damage(settings)
    for kind, name in (("bentos", "ecg"), ("models", "ecg_bundle")):
        for version in "12345":
            (settings.bentoml_home / kind / name / version).mkdir(parents=True)
    with disable_run_logger():
        forget_old_files.fn(settings)
    for kind, name in (("bentos", "ecg"), ("models", "ecg_bundle")):
        folder = settings.bentoml_home / kind / name
        assert {path.name for path in folder.iterdir()} == set("12345")
