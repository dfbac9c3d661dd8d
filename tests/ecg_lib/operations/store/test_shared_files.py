"""Files that machines share are seen whole, checked by their readers, and repaired."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Final

import pytest

from ecg_lib.operations.store.objects import ConflictError, ObjectStore, StoreError, open_store
from ecg_lib.operations.store.shared_files import (
    ORPHAN_S,
    Addition,
    DamagedError,
    SharedFiles,
    hash_file,
)

_KEY: Final = "area/index.json"


def _files(tmp_path: Path, store_url: str, home: str = "one") -> SharedFiles:
    return SharedFiles(
        open_store(store_url), "area", url=store_url, copy=tmp_path / home / "shared.json"
    )


def _text(text: str, *, needs: tuple[str, ...] = (), is_part: bool = False) -> Addition:
    return Addition(lambda draft: _write(draft, text), None, 1000.5, needs, is_part)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _checked(tmp_path: Path, text: str) -> Addition:
    """An addition whose content must be this text, as a file of a home is."""
    path = tmp_path / "content"
    _write(path, text)
    return Addition(lambda draft: _write(draft, text), hash_file(path), 1000.5)


def _objects(store: ObjectStore) -> list[str]:
    return sorted(one.key for one in store.list_objects("area/objects/"))


def test_a_file_comes_back_with_its_content_and_its_time(tmp_path: Path, store_url: str) -> None:
    _files(tmp_path, store_url).publish({"a.txt": _text("one")}, latest="a.txt")
    other = _files(tmp_path, store_url, "other")
    index, _ = other.read()
    assert index.latest == "a.txt"
    other.fetch(index.files["a.txt"], tmp_path / "deep" / "a.txt")
    assert (tmp_path / "deep" / "a.txt").read_text() == "one"
    assert (tmp_path / "deep" / "a.txt").stat().st_mtime == 1000.5


def test_a_publication_that_is_repeated_writes_no_object_again(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    files = _files(tmp_path, store_url)
    files.publish({"a.txt": _text("one")})
    before = _objects(store), files.find_version()
    files.publish({"a.txt": _text("one")})
    _files(tmp_path, store_url, "other").publish({"a.txt": _text("one")})
    assert (_objects(store), files.find_version()) == before


def test_a_changed_file_replaces_the_one_before_whose_object_goes(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    files = _files(tmp_path, store_url)
    files.publish({"a.txt": _checked(tmp_path, "one")})
    files.publish({"a.txt": _checked(tmp_path, "two")})
    index, _ = files.read()
    assert _objects(store) == [index.files["a.txt"].key]
    assert index.spare == ()
    files.fetch(index.files["a.txt"], tmp_path / "back")
    assert (tmp_path / "back").read_text() == "two"


@pytest.mark.parametrize("damage", [b"ONE", b"", None])
def test_a_damaged_object_is_rejected_by_readers_and_written_by_the_next_publication(
    tmp_path: Path, store_url: str, store: ObjectStore, damage: bytes | None
) -> None:
    files = _files(tmp_path, store_url)
    entry = files.publish({"a.txt": _text("one")}).files["a.txt"]
    if damage is None:
        store.remove(entry.key)
    else:
        store.write(entry.key, damage)
    (tmp_path / "back").write_text("what was here")
    with pytest.raises(DamagedError, match="the next publication of a machine"):
        files.fetch(entry, tmp_path / "back")
    assert (tmp_path / "back").read_text() == "what was here"
    again = files.publish({"a.txt": _text("one")}).files["a.txt"]
    files.fetch(again, tmp_path / "back")
    assert (tmp_path / "back").read_text() == "one"
    assert _objects(store) == [again.key]


@pytest.mark.parametrize("damage", [b"{torn", None])
def test_a_damaged_index_is_rejected_by_readers_and_replaced_by_the_next_publication(
    tmp_path: Path, store_url: str, store: ObjectStore, damage: bytes | None
) -> None:
    files = _files(tmp_path, store_url)
    first = files.publish({"a.txt": _text("one"), "b.txt": _text("two")})
    if damage is None:
        store.remove(_KEY)
    else:
        store.write(_KEY, damage)
    with pytest.raises(DamagedError, match=r"area/index\.json"):
        files.read()
    second = files.publish({"b.txt": _text("two")})
    assert files.read()[0] == second
    assert second.files.keys() == {"a.txt", "b.txt"}
    assert second.generation != first.generation
    assert files.publish({"b.txt": _text("two")}) == second


def test_a_new_index_leaves_out_files_that_others_removed_since_the_copy_was_made(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    files = _files(tmp_path, store_url)
    part = {"part": _text("part", is_part=True)}
    files.publish({**part, "a": _text("a", needs=("part",)), "b": _text("b"), "c": _text("c")})
    other = _files(tmp_path, store_url, "other")
    other.remove(lambda name, _: name in {"a", "b"})
    store.remove(_KEY)
    assert files.publish({"d": _text("d")}).files.keys() == {"c", "d"}


def test_an_index_that_another_machine_has_just_repaired_is_not_replaced(
    tmp_path: Path, store_url: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, other = _files(tmp_path, store_url), _files(tmp_path, store_url, "other")
    files.publish({"a.txt": _text("one")})
    other.publish({"b.txt": _text("two")})
    store.write(_KEY, b"{torn")
    read, repairs = files._read_stored, [lambda: other.publish({"c.txt": _text("three")})]

    def read_late() -> object:
        try:
            return read()
        finally:
            if repairs:
                repairs.pop()()

    monkeypatch.setattr(files, "_read_stored", read_late)
    files.publish({"d.txt": _text("four")})
    assert other.read()[0].files.keys() == {"a.txt", "b.txt", "c.txt", "d.txt"}


def test_deletions_of_patients_stay_when_an_index_is_lost_or_restored(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    files, other = _files(tmp_path, store_url), _files(tmp_path, store_url, "other")
    other.publish({"signals/p/1": _text("1")})
    earlier = store.read(_KEY)
    assert earlier is not None
    files.remove(lambda name, _: name.startswith("signals/p/"), erased={"p": 2000.0})
    store.remove(_KEY)
    other.publish({"b.txt": _text("two")})  # has not seen the deletion
    files.publish({"c.txt": _text("three")})
    assert other.read()[0].erased == {"p": 2000.0}
    store.write(_KEY, earlier.content)
    files.publish({"c.txt": _text("three")})
    assert other.read()[0].erased == {"p": 2000.0}


def test_a_signal_that_was_uploaded_while_its_patient_was_deleted_leaves_the_store(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    files, other = _files(tmp_path, store_url), _files(tmp_path, store_url, "other")
    files.publish({"a.txt": _text("one")})
    deletions = [lambda: other.remove(lambda *_: False, erased={"p": 2000.0})]

    def write(draft: Path) -> None:
        _write(draft, "signal")
        if deletions:
            deletions.pop()()

    signal = Addition(write, None, 1000.0, patient="p")
    assert files.publish({"signals/p/1": signal}).files.keys() == {"a.txt"}
    assert len(_objects(store)) == 1


def test_the_latest_file_is_never_removed(tmp_path: Path, store_url: str) -> None:
    files = _files(tmp_path, store_url)
    files.publish({"a.txt": _text("one"), "b.txt": _text("two")}, latest="b.txt")
    assert files.remove(lambda *_: True) == ("a.txt",)
    index, _ = files.read()
    assert (index.files.keys(), index.latest) == ({"b.txt"}, "b.txt")


def test_objects_stay_while_there_is_no_index(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    _files(tmp_path, store_url).publish({"a.txt": _text("one")})
    store.remove(_KEY)
    now_s = max(one.modified_s for one in store.list_objects("area/objects/"))
    fresh = _files(tmp_path, store_url, "fresh")
    assert fresh.remove_orphans(now_s=now_s + ORPHAN_S + 1) == 0
    assert len(_objects(store)) == 1


@pytest.mark.parametrize(
    "key", ["../victim", "area/objects/../../victim", "serving/current.json", "area/objects//x"]
)
@pytest.mark.parametrize("place", ["spare", "files"])
def test_an_index_cannot_name_objects_outside_its_area(
    tmp_path: Path, store_url: str, store: ObjectStore, key: str, place: str
) -> None:
    files = _files(tmp_path, store_url)
    files.publish({"a.txt": _text("one")})
    stored = store.read(_KEY)
    assert stored is not None
    content = json.loads(stored.content)
    if place == "spare":
        content["spare"] = [key]
    else:
        content["files"]["a.txt"]["key"] = key
    store.write(_KEY, json.dumps(content).encode())
    store.write("serving/current.json", b"{}")
    with pytest.raises(DamagedError, match="cannot be read"):
        files.read()
    files.publish({"b.txt": _text("two")})
    assert store.read("serving/current.json") is not None
    assert files.read()[0].files.keys() == {"a.txt", "b.txt"}


def test_nothing_is_seen_of_a_publication_that_fails(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    files = _files(tmp_path, store_url)
    before = files.publish({"a.txt": _text("one")})

    def fail(_draft: Path) -> None:
        raise OSError(5, "the disk is broken")

    with pytest.raises(StoreError, match=r"c\.txt cannot be read for the store: the disk"):
        files.publish({"b.txt": _text("two"), "c.txt": Addition(fail, None, 0.0)})
    assert files.read()[0] == before
    left = [key for key in _objects(store) if key != before.files["a.txt"].key]
    now_s = max(one.modified_s for one in store.list_objects("area/objects/"))
    assert files.remove_orphans(now_s=now_s + ORPHAN_S) == 0  # perhaps it is still under way
    assert files.remove_orphans(now_s=now_s + ORPHAN_S + 1) == len(left)
    assert _objects(store) == [before.files["a.txt"].key]


def test_parts_go_with_the_last_file_that_needs_them(
    tmp_path: Path, store_url: str, store: ObjectStore
) -> None:
    files = _files(tmp_path, store_url)
    parts = {f"part-{number}": _text(str(number), is_part=True) for number in range(3)}
    files.publish(
        {
            **parts,
            "a": _text("a", needs=("part-0", "part-1")),
            "b": _text("b", needs=("part-1", "part-2")),
        }
    )
    assert files.remove(lambda name, _: name == "a") == ("a",)
    assert files.read()[0].files.keys() == {"b", "part-1", "part-2"}
    assert len(_objects(store)) == 3
    assert files.remove(lambda name, _: name == "b") == ("b",)
    assert (files.read()[0].files, _objects(store)) == ({}, [])


def test_a_publication_does_not_use_an_object_that_another_machine_removes(
    tmp_path: Path, store_url: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(tmp_path, store_url)
    files.publish({"a.txt": _text("one")})
    other = _files(tmp_path, store_url, "other")
    slow: list[str] = []
    monkeypatch.setattr(other._store, "remove", slow.append)  # it stops before the removal
    other.remove(lambda *_: True)
    again = files.publish({"a.txt": _text("one")}).files["a.txt"]
    assert slow
    assert again.key not in slow
    for key in slow:
        store.remove(key)  # and goes on
    files.fetch(again, tmp_path / "back")
    assert (tmp_path / "back").read_text() == "one"


def test_publications_of_machines_at_once_are_all_seen(tmp_path: Path, store_url: str) -> None:
    gate = threading.Barrier(5)
    problems: list[Exception] = []

    def publish(number: int) -> None:
        files = _files(tmp_path, store_url, f"home-{number}")
        gate.wait()
        try:
            files.publish({f"{number}.txt": _text(str(number))})
        except (StoreError, ConflictError) as error:
            problems.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    index, _ = _files(tmp_path, store_url).read()
    assert index.files.keys() == {f"{number}.txt" for number in range(5)}


def test_deletions_of_patients_are_kept_until_nothing_is_so_old(
    tmp_path: Path, store_url: str
) -> None:
    files = _files(tmp_path, store_url)
    files.publish({"signals/p/1": _text("1"), "signals/q/1": _text("2")})
    files.remove(lambda name, _: name.startswith("signals/p/"), erased={"p": 100.0})
    files.remove(lambda *_: False, forget_before_s=100.0)
    index, _ = files.read()
    assert (index.files.keys(), index.erased) == ({"signals/q/1"}, {"p": 100.0})
    files.remove(lambda *_: False, forget_before_s=101.0)
    assert files.read()[0].erased == {}
