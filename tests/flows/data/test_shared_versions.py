"""A dataset version that one machine made is complete on another one, and goes from the store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import numpy as np
import pytest

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.errors import DatasetError
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import ObjectStore, StoreError, open_store
from ecg_lib.operations.store.shared_files import Addition, DamagedError, Entry, SharedFiles
from flows.data.databases import SITE, Role
from flows.data.dataset_versions import (
    DatasetVersion,
    PreparedRecord,
    StripLabels,
    has_its_content,
    hash_files,
    list_versions,
    load_version,
    make_version,
    save_version,
)
from flows.data.records.site import name_person, name_strip
from flows.data.shared_versions import (
    ensure_shared,
    fetched_dir,
    follow_deletions,
    forget_shared_patient,
    forget_shared_versions,
    list_all_versions,
    list_deleted_patients,
    open_version,
    read_version,
    share_version,
)
from flows.evaluation.ec57_evaluation import find_dataset
from tests.homes import keep_from_store

NAMES: Final = ("101", "106", "108", "109", "112")
PATIENT: Final = "a" * 63 + "0"
NOW: Final = datetime.now(UTC)
_DAYS: Final = count()
"""Versions are made a day apart."""


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    """The store of datasets; that of this folder's conftest is of signals."""
    return open_store(store_url)


def _record(directory: Path, name: str, content: str, **fields: str) -> PreparedRecord:
    """Write the files of a record, whose content says which one it is."""
    directory.mkdir(parents=True, exist_ok=True)
    files = tuple(f"{name}.{extension}" for extension in ("hea", "dat", "atr"))
    for file in files:
        (directory / file).write_text(f"{content} {file}")
    return PreparedRecord(
        name=name,
        role=Role.DEVELOPMENT,
        files=hash_files(directory, files),
        prepared=f"p-{name}",
        duration_s=60.0,
        lead="MLII",
        annotated=dict.fromkeys("NSVFQ", 10),
        detected=50,
        unreadable_s=0.0,
        **fields,
    )


def _make(
    settings: Settings, content: str = "first", *, extra: tuple[PreparedRecord, ...] = ()
) -> DatasetVersion:
    """Make a version in a home, as ingestion does."""
    directory = settings.home / "source"
    version = make_version(
        data_source=DataSource.MITDB,
        source_directory=directory,
        records=[*(_record(directory, name, content) for name in NAMES), *extra],
        broken=[],
        other_directories={SITE.name: settings.signals_dir} if extra else {},
    )
    version = replace(version, created_at=(NOW + timedelta(days=next(_DAYS))).isoformat())
    share_version(version, settings, is_latest=True)
    save_version(version, settings.datasets_dir)
    return version


def _strip(settings: Settings, *, patient: str = PATIENT, name: str = "s1") -> PreparedRecord:
    """Keep a signal, and describe it as a labelled strip."""
    signals = SignalStore(settings.signals_dir, settings.home / "signals.key")
    signals.add(
        KeptSignal(
            prediction_id=name,
            patient_key=patient,
            created_at=NOW,
            fs=360.0,
            lead="MLII",
            signal_mv=np.zeros(3600, dtype=np.float32),
        ),
        is_waiting=False,
    )
    source = f"kept/{patient}/{name}.signal"
    return PreparedRecord(
        name=name_strip(name),
        role=Role.DEVELOPMENT,
        files=hash_files(settings.signals_dir, (source,)),
        prepared=f"p-{name}",
        duration_s=10.0,
        lead="MLII",
        annotated=dict.fromkeys("NSVFQ", 1),
        detected=10,
        unreadable_s=0.0,
        database=SITE.name,
        person=name_person(patient),
        marks_are_peaks=False,
        labels=StripLabels(
            samples=(100,), symbols="V", not_beats=(), is_complete=False, is_drawn=True, weight=5.0
        ),
    )


def _read(version: DatasetVersion) -> dict[str, str]:
    return {
        file: (version.directory_of(record) / file).read_text()
        for record in version.records_in("mitdb")
        for file in record.files
    }


def _as_at_home(found: DatasetVersion, made: DatasetVersion) -> DatasetVersion:
    """Return a version as if its files were where it was made."""
    return replace(
        found,
        source_directory=made.source_directory,
        other_directories=made.other_directories,
    )


def test_another_machine_has_the_version_with_all_its_files(one: Settings, other: Settings) -> None:
    made = _make(one)
    files = _read(made)
    shutil.rmtree(one.home)  # that machine is gone
    for name in (made.version, None, "latest"):
        found = open_version(other, name)
        assert _as_at_home(found, made) == made
        assert _read(found) == files
        assert Path(found.source_directory).is_relative_to(other.data_dir)
    assert list_all_versions(other) == [made.version]
    assert load_version(other.datasets_dir, made.version) == made


def test_a_machine_that_was_wiped_gets_its_version_back(one: Settings) -> None:
    made = _make(one)
    files = _read(made)
    shutil.rmtree(one.home)
    assert _read(open_version(one)) == files


def test_files_that_are_on_the_machine_are_not_fetched(
    one: Settings, other: Settings, tmp_path: Path
) -> None:
    made = _make(one)
    assert open_version(one) == made
    own = tmp_path / "own-copy"
    shutil.copytree(made.source_directory, own)
    shutil.rmtree(made.source_directory)
    configured = other.model_copy(update={"mitdb_dir": own})
    assert open_version(configured).source_directory == str(own)
    assert not (other.data_dir / "shared").exists()
    (own / "101.dat").write_text("others")
    assert _read(open_version(configured))["101.dat"] == "first 101.dat"


def test_the_latest_version_is_the_one_that_any_machine_made_last(
    one: Settings, other: Settings
) -> None:
    first, second = _make(one), _make(other, "second")
    assert first.version != second.version
    assert open_version(one).version == second.version
    share_version(first, one, is_latest=False)
    assert open_version(one).version == second.version


def test_versions_with_the_same_records_share_their_files(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    made = _make(one)
    before = len(list(store.list_objects("datasets/objects/")))
    again = _make(other)  # the same records on another machine
    assert again.version == made.version
    extra = _record(one.home / "source", "114", "first")
    _make(one, extra=())
    larger = make_version(
        data_source=DataSource.MITDB,
        source_directory=one.home / "source",
        records=[*made.records, extra],
        broken=[],
    )
    share_version(larger, one, is_latest=True)
    after = len(list(store.list_objects("datasets/objects/")))
    assert (before, after) == (len(NAMES) + 1, len(NAMES) + 3)


def test_a_version_from_before_there_was_a_store_is_published_when_it_is_used(
    one: Settings, other: Settings
) -> None:
    made = _make(one.model_copy(update={"store_url": None}))
    with pytest.raises(DatasetError, match=f"of the store, got '{made.version}'"):
        open_version(other, made.version)
    assert open_version(one) == made  # the store has no latest yet: that of the home
    ensure_shared(made, one)
    assert _read(open_version(other, made.version)) == _read(made)


def test_without_a_version_anywhere_an_error_says_what_to_do(one: Settings) -> None:
    with pytest.raises(DatasetError, match="there is no dataset yet; run ingest-records"):
        open_version(one)
    assert list_all_versions(one) == []


def test_a_store_that_is_away_makes_no_version_and_is_an_error(
    one: Settings, store_url: str
) -> None:
    _make(one)
    with keep_from_store(store_url):
        with pytest.raises(StoreError):
            _make(one, "second")
        with pytest.raises(StoreError):
            open_version(one)
        with pytest.raises(StoreError):
            list_all_versions(one)
    assert len(list_versions(one.datasets_dir)) == 1
    _make(one, "second")
    assert len(list_all_versions(one)) == 2


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"MLII"', b'"V5"', 1))


@pytest.mark.parametrize("damage", [_truncate, _change, Path.unlink])
def test_a_damaged_copy_of_a_version_is_taken_from_the_store_again(
    one: Settings, other: Settings, damage: Callable[[Path], None]
) -> None:
    made = _make(one)
    open_version(other)
    path = other.datasets_dir / "versions" / f"{made.version}.json"
    damage(path)
    assert _as_at_home(open_version(other), made) == made
    assert load_version(other.datasets_dir, made.version) == made
    assert read_version(other, made.version) == made


def test_a_damaged_version_that_is_not_in_the_store_is_an_error(one: Settings) -> None:
    made = _make(one.model_copy(update={"store_url": None}))
    _change(one.datasets_dir / "versions" / f"{made.version}.json")
    with pytest.raises(DatasetError, match="is damaged here and not in the store"):
        open_version(one, made.version)


@pytest.mark.parametrize("damage", [b"damaged", None])
def test_damaged_files_of_a_machine_are_fetched_again(
    one: Settings, other: Settings, damage: bytes | None
) -> None:
    made = _make(one)
    files = _read(made)
    for settings in (other, one):
        if settings is other:
            shutil.rmtree(made.source_directory)
        path = Path(open_version(settings).source_directory) / "101.dat"
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)
        assert _read(open_version(settings)) == files


@pytest.mark.parametrize("part", ["file", ".json"])
@pytest.mark.parametrize("damage", [b"damaged", b"", None])
def test_damaged_objects_are_rejected_and_written_by_the_next_publication(
    one: Settings, other: Settings, store: ObjectStore, part: str, damage: bytes | None
) -> None:
    made = _make(one)
    keys = [one.key for one in store.list_objects("datasets/objects/")]
    key = min(key for key in keys if key.endswith(".json") == (part == ".json"))
    if damage is None:
        store.remove(key)
    else:
        store.write(key, damage)
    Path(made.source_directory).rename(one.home / "aside")
    with pytest.raises(StoreError, match=r"damaged|missing|unpacked|repairs|SHA-256"):
        open_version(other)
    assert not list(other.home.rglob(".fetch-*"))
    (one.home / "aside").rename(made.source_directory)
    share_version(made, one, is_latest=True)
    Path(made.source_directory).rename(one.home / "aside")
    found = open_version(other)
    assert _read(found).keys() == {f"{n}.{e}" for n in NAMES for e in ("hea", "dat", "atr")}


def test_a_record_with_other_content_than_its_version_is_not_used(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    made = _make(one)
    stored = store.read("datasets/index.json")
    assert stored is not None
    index = json.loads(stored.content)
    first, second, *_ = (name for name in index["files"] if name.startswith("records/"))
    index["files"][first] = index["files"][second]
    store.write("datasets/index.json", json.dumps(index).encode())
    shutil.rmtree(made.source_directory)
    with pytest.raises(DamagedError, match="must be those of its dataset version, they are"):
        open_version(other)


def test_files_that_changed_since_the_version_was_made_are_not_published(
    one: Settings, other: Settings
) -> None:
    made = _make(one.model_copy(update={"store_url": None}))
    (Path(made.source_directory) / "101.dat").write_text("changed")
    with pytest.raises(StoreError, match="the files of record 101 must be those"):
        share_version(made, one, is_latest=True)
    with pytest.raises(DatasetError, match="no dataset yet"):
        open_version(other)


def test_the_content_of_a_version_is_what_its_name_is_the_hash_of(one: Settings) -> None:
    made = _make(one, extra=(_strip(one),))
    content = (one.datasets_dir / "versions" / f"{made.version}.json").read_bytes()
    assert has_its_content(content, made.version)
    for change in ((b"2026", b"2027"), (b"/source", b"/elsewhere")):
        assert has_its_content(content.replace(*change), made.version)
    for text in (b"", b"[]", b'{"records": 3}', content[:-1], content.replace(b'"V"', b'"N"')):
        assert not has_its_content(text, made.version)


def test_old_versions_leave_the_store_with_the_files_that_only_they_need(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    few = one.model_copy(update={"dataset_versions_kept": 1})
    versions = [_make(one, content) for content in ("first", "second", "third")]
    gone = forget_shared_versions(few, {versions[0].version}, are_runs_shared=True, gone=[])
    assert gone == [versions[1].version]
    assert len(list(store.list_objects("datasets/objects/"))) == 2 * (len(NAMES) + 1)
    Path(versions[0].source_directory).rename(one.home / "aside")
    assert _read(open_version(other, versions[0].version))["101.dat"] == "first 101.dat"
    with pytest.raises(DatasetError, match="of the store, got"):
        open_version(other, versions[1].version)
    assert forget_shared_versions(few, set(), are_runs_shared=True, gone=[]) == [
        versions[0].version
    ]
    assert open_version(other).version == versions[2].version


def test_a_home_that_does_not_know_the_runs_of_others_removes_only_what_it_published_and_deleted(
    one: Settings, other: Settings
) -> None:
    versions = [_make(one), _make(other, "second"), _make(one, "third")]
    few = one.model_copy(update={"dataset_versions_kept": 1})
    names = [version.version for version in versions]
    assert forget_shared_versions(few, set(), are_runs_shared=False, gone=[]) == []
    assert forget_shared_versions(few, set(), are_runs_shared=False, gone=names) == [names[0]]
    assert list_all_versions(other) == sorted(names[1:])


def test_kept_signals_come_encrypted_to_a_home_with_their_key(
    one: Settings, other: Settings, store: ObjectStore, tmp_path: Path
) -> None:
    made = _make(one, extra=(_strip(one),))
    (strip,) = made.records_in(SITE.name)
    path = one.signals_dir / "kept" / PATIENT / "s1.signal"
    os.utime(path, (NOW.timestamp() - 1000, NOW.timestamp() - 1000))
    share_version(made, one, is_latest=True)
    shutil.rmtree(one.home / "datasets")
    found = open_version(other)
    copy = other.signals_dir / "kept" / PATIENT / "s1.signal"
    assert copy.read_bytes() == path.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [parent.stat().st_mode & 0o777 for parent in list(copy.parents)[:3]] == [0o700] * 3
    assert found.directory_of(strip) == other.signals_dir
    signal = SignalStore(other.signals_dir, one.home / "signals.key").read(PATIENT, "s1")
    assert signal is not None
    for found_object in store.list_objects("datasets/"):
        store.download(found_object.key, tmp_path / "object")
        assert b"MLII" not in (tmp_path / "object").read_bytes() or found_object.key.endswith(
            "json"
        )


def test_the_signals_of_a_deleted_patient_leave_the_store_and_every_home(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    keeper = "b" * 64
    made = _make(one, extra=(_strip(one), _strip(one, patient=keeper, name="s2")))
    open_version(other)
    forget_shared_patient(other, PATIENT, now=datetime.now(UTC))
    index = json.loads((store.read("datasets/index.json") or pytest.fail("no index")).content)
    signals = [name for name in index["files"] if name.startswith("signals/")]
    assert [name.split("/")[1] for name in signals] == [keeper]
    assert len(list(store.list_objects("datasets/objects/"))) == len(NAMES) + 2
    for settings in (one, other):
        kept = SignalStore(settings.signals_dir, one.home / "signals.key")
        assert follow_deletions(settings, kept, now=datetime.now(UTC)) == 1
        assert [file.patient_key for file in kept.list_files()] == [keeper]
    # A home that has not followed yet cannot bring them back, and a new signal is not lost.
    strip = _strip(one)
    old = NOW.timestamp() - 1000
    os.utime(one.signals_dir / "kept" / PATIENT / "s1.signal", (old, old))
    again = make_version(
        data_source=DataSource.RECORDS,
        source_directory=Path(made.source_directory),
        records=[*made.records_in("mitdb"), strip],
        broken=[],
        other_directories={SITE.name: one.signals_dir},
    )
    share_version(again, one, is_latest=True)
    later = datetime.now(UTC).timestamp() + 10
    os.utime(one.signals_dir / "kept" / PATIENT / "s1.signal", (later, later))
    index = json.loads((store.read("datasets/index.json") or pytest.fail("no index")).content)
    assert not [name for name in index["files"] if name.startswith(f"signals/{PATIENT}")]
    share_version(again, one, is_latest=True)
    index = json.loads((store.read("datasets/index.json") or pytest.fail("no index")).content)
    assert [name for name in index["files"] if name.startswith(f"signals/{PATIENT}")]


def test_signals_leave_the_store_when_they_are_old(one: Settings, store: ObjectStore) -> None:
    _make(one, extra=(_strip(one),))
    kept = SignalStore(one.signals_dir, one.home / "signals.key")

    def count_signals() -> int:
        return len(list(store.list_objects("datasets/objects/"))) - len(NAMES) - 1

    almost = datetime.now(UTC) + timedelta(days=one.signals_kept_days, minutes=-5)
    follow_deletions(one, kept, now=almost)
    assert count_signals() == 1
    follow_deletions(one, kept, now=almost + timedelta(minutes=10))
    assert count_signals() == 0


def test_the_folder_of_fetched_records_is_named_by_their_content(one: Settings) -> None:
    first, second = _make(one), _make(one, "second")
    assert fetched_dir(one, first.records) == fetched_dir(one, first.records[::-1])
    assert fetched_dir(one, first.records) != fetched_dir(one, second.records)


def test_a_deletion_while_the_store_is_away_is_told_to_it_by_the_next_drift_check(
    one: Settings, other: Settings, store_url: str
) -> None:
    _make(one, extra=(_strip(one),))
    open_version(other)
    with keep_from_store(store_url), pytest.raises(StoreError):
        forget_shared_patient(one, PATIENT, now=datetime.now(UTC))
    shutil.rmtree(one.signals_dir)
    open_version(one)  # takes nothing of the patient from the store
    assert not list(one.signals_dir.rglob("*.signal"))
    for settings in (one, other):
        signals = SignalStore(settings.signals_dir, one.home / "signals.key")
        follow_deletions(settings, signals, now=datetime.now(UTC))
        assert list(signals.list_files()) == []
    assert PATIENT in list_deleted_patients(other)
    assert not any("signal" in key for key in _list_names(other))


def _list_names(settings: Settings) -> set[str]:
    """List what the index of the store names."""
    stored = open_store(str(settings.store_url)).read("datasets/index.json")
    assert stored is not None
    return set(json.loads(stored.content)["files"])


def test_signals_of_a_deleted_patient_that_a_lost_index_names_again_leave_the_store(
    one: Settings, other: Settings, store: ObjectStore
) -> None:
    _make(one, extra=(_strip(one),))
    open_version(other)
    earlier = {found.key: store.read(found.key) for found in store.list_objects("datasets/")}
    forget_shared_patient(other, PATIENT, now=datetime.now(UTC))
    for key, stored in earlier.items():  # the bucket is restored
        assert stored is not None
        store.write(key, stored.content)
    assert any(name.startswith("signals/") for name in _list_names(one))
    signals = SignalStore(other.signals_dir, other.home / "signals.key")
    follow_deletions(other, signals, now=datetime.now(UTC))
    assert not any(name.startswith("signals/") for name in _list_names(one))
    own = SignalStore(one.signals_dir, one.home / "signals.key")
    assert follow_deletions(one, own, now=datetime.now(UTC)) == 1


def test_retention_does_not_remove_a_version_that_is_published_meanwhile(
    one: Settings, other: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = one.model_copy(update={"dataset_versions_kept": 1})
    _make(one), _make(one, "second")
    remove, newest = SharedFiles.remove, []

    def publish_first(files: SharedFiles, is_due: Callable[[str, Entry], bool]) -> tuple[str, ...]:
        newest.append(_make(other, "third").version)
        newest.append(_make(other, "fourth").version)
        return remove(files, is_due)

    monkeypatch.setattr(SharedFiles, "remove", publish_first)
    assert len(forget_shared_versions(one, set(), are_runs_shared=True, gone=[])) == 1
    assert set(newest) <= set(list_all_versions(other))
    assert open_version(one).version == newest[-1]


def test_a_signal_that_is_deleted_before_its_version_is_shared_is_an_error(one: Settings) -> None:
    strip = _strip(one)
    (one.signals_dir / next(iter(strip.files))).unlink()
    with pytest.raises(StoreError, match=r"must be there to be shared, .*s1\.signal is not"):
        _make(one, extra=(strip,))


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil"])  # noqa: S108  never written
def test_a_version_cannot_name_files_outside_its_directory(
    one: Settings, other: Settings, name: str
) -> None:
    record = _record(one.home / "source", "101", "first")
    version = make_version(
        data_source=DataSource.MITDB,
        source_directory=one.home / "source",
        records=[replace(record, files={name: "0" * 64}, role=Role.TEST)],
        broken=[],
    )
    files = SharedFiles(
        open_store(str(one.store_url)),
        "datasets",
        url=str(one.store_url),
        copy=one.datasets_dir / "datasets-shared.json",
    )
    content = json.dumps(asdict(version))
    path = f"versions/{version.version}.json"
    files.publish({path: Addition(lambda draft: _write(draft, content), None, 0.0)}, latest=path)
    with pytest.raises(DatasetError, match="must be below the directory of their records"):
        open_version(other)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def test_an_evaluation_goes_on_with_the_copy_of_the_home_while_the_store_is_away(
    one: Settings, other: Settings, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = _make(one)
    shutil.rmtree(one.home)
    open_version(other)
    bundle = cast("Any", SimpleNamespace(provenance=SimpleNamespace(dataset_version=made.version)))
    with keep_from_store(store_url):
        found = find_dataset(bundle, other)
        assert {record.name for record in found.records} == set(NAMES)
        assert _read(found)
        assert "the copy of dataset" in caplog.text
        with pytest.raises(StoreError):
            find_dataset(bundle, one)
