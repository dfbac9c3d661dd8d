"""A folder that is the same in all homes that share a store."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.mirror import Mirror, mirror_reports
from ecg_lib.operations.store.objects import (
    ConflictError,
    ObjectStore,
    StoreError,
)
from ecg_lib.operations.store.shared_files import ORPHAN_S
from tests.homes import keep_from_store


def _write(settings: Settings, name: str, text: str) -> None:
    path = settings.reports_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _share(settings: Settings, name: str, text: str | None) -> None:
    """Write a report of a home, or delete it, as flows do."""
    with mirror_reports(settings).changing():
        if text is None:
            (settings.reports_dir / name).unlink()
        else:
            _write(settings, name, text)


def _pull(settings: Settings) -> int:
    return mirror_reports(settings).pull()


def _read(settings: Settings) -> dict[str, str]:
    folders = ("drift", "evaluation")
    return {
        f"{folder}/{path.name}": path.read_text()
        for folder in folders
        for path in (settings.reports_dir / folder).glob("*")
    }


def test_a_report_reaches_other_homes_and_goes_from_them(one: Settings, other: Settings) -> None:
    _share(one, "drift/a.html", "A")
    _share(one, "evaluation/b.json", "B")
    assert _pull(other) == 2
    assert _read(other) == {"drift/a.html": "A", "evaluation/b.json": "B"}
    _share(other, "drift/c.html", "C")
    _share(one, "evaluation/b.json", "B2")
    assert _read(one) == {"drift/a.html": "A", "evaluation/b.json": "B2", "drift/c.html": "C"}
    _share(other, "drift/a.html", None)
    for settings in (one, other):
        _pull(settings)
        assert _read(settings) == {"evaluation/b.json": "B2", "drift/c.html": "C"}
        assert _pull(settings) == 0


def test_reports_from_before_there_was_a_store_are_published(
    one: Settings, other: Settings
) -> None:
    _write(one, "drift/old.html", "old")
    _share(one, "drift/new.html", "new")
    _pull(other)
    assert _read(other) == {"drift/old.html": "old", "drift/new.html": "new"}


@pytest.mark.parametrize("damage", ["changed", "", None])
def test_a_damaged_copy_of_a_home_is_repaired(
    one: Settings, other: Settings, damage: str | None
) -> None:
    _share(one, "drift/a.html", "A")
    for settings in (other, one):  # also that of the home that wrote it
        mirror = mirror_reports(settings)
        mirror.pull()
        path = settings.reports_dir / "drift" / "a.html"
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)
        assert mirror.pull() == 1
        assert _read(settings) == {"drift/a.html": "A"}


def test_a_damaged_object_is_not_shown_and_the_next_report_of_its_home_repairs_it(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    _share(one, "drift/a.html", "A")
    _share(one, "drift/b.html", "B")
    (key,) = [one.key for one in store.list_objects("reports/") if one.key.endswith("a.html")]
    store.write(key, b"X")
    with pytest.raises(StoreError, match=r"a\.html of the store must have the SHA-256"):
        _pull(other)
    assert _read(other) == {"drift/b.html": "B"}
    _share(one, "drift/c.html", "C")
    _pull(other)
    assert _read(other) == {"drift/a.html": "A", "drift/b.html": "B", "drift/c.html": "C"}


def test_a_damaged_index_takes_no_report_and_the_next_one_repairs_it(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    _share(one, "drift/a.html", "A")
    _pull(other)
    _share(other, "drift/b.html", "B")  # `one` has not seen it yet
    store.write("reports/index.json", b"{torn")
    with pytest.raises(StoreError, match="cannot be read"):
        _pull(other)
    assert _read(other) == {"drift/a.html": "A", "drift/b.html": "B"}
    _share(one, "drift/c.html", "C")
    _pull(other)
    assert _read(other) == {"drift/a.html": "A", "drift/b.html": "B", "drift/c.html": "C"}
    _share(other, "drift/d.html", "D")
    _pull(one)
    assert _read(one) == _read(other)
    assert len(_read(one)) == 4


def test_what_was_changed_while_the_store_was_away_is_published_later(
    one: Settings, other: Settings, caplog: pytest.LogCaptureFixture, store_url: str
) -> None:
    _share(one, "evaluation/a.html", "A")
    _share(one, "drift/gone.html", "G")
    _pull(other)
    with keep_from_store(store_url), caplog.at_level(logging.WARNING):
        _share(one, "evaluation/a.html", "A2")
        _share(one, "drift/b.html", "B")
        _share(one, "drift/gone.html", None)
    assert "other machines do not see what has changed yet" in caplog.text
    assert _read(one) == {"evaluation/a.html": "A2", "drift/b.html": "B"}
    _pull(one)  # takes nothing back
    assert _read(one) == {"evaluation/a.html": "A2", "drift/b.html": "B"}
    _share(one, "drift/c.html", "C")
    _pull(other)
    assert _read(other) == _read(one)
    assert _read(one).keys() == {"evaluation/a.html", "drift/b.html", "drift/c.html"}


def test_a_change_that_must_be_published_fails_before_it_without_a_store(
    one: Settings, store_url: str
) -> None:
    _share(one, "drift/a.html", "A")
    with (
        keep_from_store(store_url),
        pytest.raises(StoreError),
        mirror_reports(one).changing(must_publish=True),
    ):
        pytest.fail("the change must not begin")
    _share(one, "drift/b.html", "B")
    assert _read(one) == {"drift/a.html": "A", "drift/b.html": "B"}


def test_an_error_while_reports_are_changed_publishes_what_was_changed_before_it(
    one: Settings, other: Settings
) -> None:
    def fail() -> None:
        with mirror_reports(one).changing():
            _write(one, "drift/a.html", "A")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    _pull(other)
    assert _read(other) == {"drift/a.html": "A"}


@pytest.mark.parametrize(
    "name", ["drift/../../evil.html", "secrets/key", "drift/a/b.html", "/etc/x", "drift/.x"]
)
def test_an_index_cannot_name_a_file_outside_its_folders(
    one: Settings, other: Settings, store: ObjectStore, tmp_path: Path, name: str
) -> None:
    _share(one, "drift/a.html", "A")
    stored = store.read("reports/index.json")
    assert stored is not None
    store.write("reports/index.json", stored.content.replace(b"drift/a.html", name.encode()))
    assert _pull(other) == 0
    assert _read(other) == {}
    assert not list(tmp_path.rglob("*evil*"))


def test_a_home_that_is_changing_its_reports_is_not_pulled_meanwhile(
    one: Settings, other: Settings
) -> None:
    _share(other, "drift/a.html", "A")
    with mirror_reports(one).changing():
        _write(one, "drift/a.html", "newer")
        assert _pull(one) == 0
    _pull(other)
    assert _read(other) == _read(one) == {"drift/a.html": "newer"}


def test_folders_of_reports_and_drafts_are_not_shared(one: Settings, other: Settings) -> None:
    _write(one, "drift/.a.html.draft", "half")
    _write(one, "drift/folder/b.html", "B")
    _write(one, "recordings/1/part.parquet", "P")
    _share(one, "drift/c.html", "C")
    _pull(other)
    assert _read(other) == {"drift/c.html": "C"}


def test_a_home_that_was_wiped_gets_everything_back(one: Settings, tmp_path: Path) -> None:
    _share(one, "drift/a.html", "A")
    path = one.reports_dir / "drift" / "a.html"
    os.utime(path, (1000, 1000))
    with mirror_reports(one).changing():
        path.write_text("A2")
        os.utime(path, (2000, 2000))
    wiped = Settings(home=tmp_path / "wiped", store_url=one.store_url)
    Mirror(wiped, wiped.reports_dir, ("drift",), area="reports").pull()
    assert _read(wiped) == {"drift/a.html": "A2"}
    assert (wiped.reports_dir / "drift" / "a.html").stat().st_mtime == 2000


def test_a_slow_change_brings_back_nothing_that_another_home_changed_or_deleted_meanwhile(
    one: Settings, other: Settings
) -> None:
    _share(one, "drift/a.beats.json", "a deleted patient and others")
    _share(one, "drift/old.html", "old")
    with mirror_reports(other).changing():  # a drift check takes minutes
        _share(one, "drift/a.beats.json", "others")
        _share(one, "drift/old.html", None)
        _write(other, "drift/new.html", "new")
    _share(other, "drift/new.html", "new again")
    _share(other, "drift/new.html", "new")
    for settings in (one, other):
        _pull(settings)
        assert _read(settings) == {"drift/a.beats.json": "others", "drift/new.html": "new"}


def test_a_home_that_cannot_fetch_a_newer_file_does_not_publish_its_older_one(
    one: Settings, other: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _share(one, "drift/a.beats.json", "a deleted patient and others")
    _pull(other)
    _share(one, "drift/a.beats.json", "others")
    mirror = mirror_reports(other)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            message = "the store answers 500"
            raise StoreError(message)

        patch.setattr(mirror._files, "fetch", fail)
        with mirror.changing():
            _write(other, "drift/b.html", "B")
    for settings in (one, other):
        _pull(settings)
        assert _read(settings) == {"drift/a.beats.json": "others", "drift/b.html": "B"}


def test_of_a_file_that_two_homes_change_at_once_the_first_version_stays(
    one: Settings, other: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    _share(one, "drift/a.beats.json", "p and q")

    def change_at_once() -> None:
        with mirror_reports(other).changing(must_publish=True):
            _share(one, "drift/a.beats.json", "p")
            _write(other, "drift/a.beats.json", "q")

    with pytest.raises(ConflictError, match=r"a\.beats\.json was changed by another machine"):
        change_at_once()
    with caplog.at_level(logging.WARNING):
        _pull(other)
    assert "was changed by another machine, whose version stays" in caplog.text
    assert _read(other) == _read(one) == {"drift/a.beats.json": "p"}
    _share(other, "drift/a.beats.json", "neither")
    _pull(one)
    assert _read(one) == {"drift/a.beats.json": "neither"}


def test_a_home_that_was_restored_publishes_nothing_over_newer_reports(
    one: Settings, other: Settings, tmp_path: Path, store_url: str
) -> None:
    _share(one, "drift/a.html", "first")
    with keep_from_store(store_url):
        _share(one, "drift/a.html", "changed while the store was away")
    shutil.copytree(one.home, tmp_path / "backup")
    _share(one, "drift/b.html", "B")
    _pull(other)
    _share(other, "drift/a.html", "newest")
    shutil.rmtree(one.home)
    shutil.copytree(tmp_path / "backup", one.home)
    _share(one, "drift/c.html", "C")
    assert _read(one)["drift/a.html"] == "newest"
    _pull(other)
    assert _read(other) == _read(one)


def test_homes_keep_and_publish_what_a_store_that_was_restored_lacks(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    _share(one, "drift/a.html", "A")
    earlier = {one.key: store.read(one.key) for one in store.list_objects("reports/")}
    _share(one, "drift/b.html", "B")
    _pull(other)
    for key in {one.key for one in store.list_objects("reports/")} - earlier.keys():
        store.remove(key)
    for key, stored in earlier.items():
        assert stored is not None
        store.write(key, stored.content)
    _pull(other)
    assert _read(other) == {"drift/a.html": "A", "drift/b.html": "B"}
    _share(other, "drift/c.html", "C")
    _pull(one)
    assert _read(one) == {"drift/a.html": "A", "drift/b.html": "B", "drift/c.html": "C"}


def test_a_pull_gives_up_when_a_store_fails_again_and_again(
    one: Settings, other: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirror_reports(one).changing():
        for number in range(9):
            _write(one, f"drift/{number}.html", str(number))
    mirror, asked = mirror_reports(other), []

    def fail(entry: object, _path: Path) -> None:
        asked.append(entry)
        message = "no answer in 30 s"
        raise StoreError(message)

    monkeypatch.setattr(mirror._files, "fetch", fail)
    with pytest.raises(StoreError, match="no answer"):
        mirror.pull()
    assert len(asked) == 3


def test_what_a_killed_publication_of_reports_left_is_removed(
    one: Settings, store: ObjectStore
) -> None:
    _share(one, "drift/a.html", "A")
    store.write("reports/objects/0-0/b.html", b"B")
    now_s = max(one.modified_s for one in store.list_objects("reports/objects/"))
    assert mirror_reports(one).remove_orphans(now_s=now_s + ORPHAN_S + 1) == 1
    assert _pull(one) == 0
