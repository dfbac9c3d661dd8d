"""Dataset versions in the store that machines share, with the source files of their records.

A version is published by the ingest that makes it: first an archive of the files of each record,
then the version, and only then the index that names both. A home that lacks a version takes it from
the store, and fetches the files of a record that it has nowhere else. Files and versions are
checked against their hashes, so that it does not matter which home they come from.

Prepared records and cut training beats are not shared: each home makes them from the source files.
Kept signals of labelled traffic stay encrypted; another home needs their key. They go by age, or
when their patient is deleted, which the index tells to all homes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from ecg_lib.errors import DatasetError
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.archives import download_directory, pack_files
from ecg_lib.operations.store.objects import ObjectStore, StoreError, open_store
from ecg_lib.operations.store.shared_files import (
    Addition,
    DamagedError,
    Entry,
    Index,
    SharedFiles,
)
from ecg_lib.records.atomic_files import write_whole
from flows.data.databases import PUBLISHED, SITE
from flows.data.dataset_versions import (
    LATEST,
    DatasetVersion,
    PreparedRecord,
    has_its_content,
    hash_files,
    list_versions,
    load_version,
    parse_version,
    read_latest,
)
from flows.data.records.sources import find_directory

_AREA: Final = "datasets"
_SIGNALS: Final = "signals/"
_VERSIONS: Final = "versions/"
_FETCHED: Final = "shared"
"""Folder below ``data`` of the records that came from the store."""

_N_REQUESTS: Final = 8

_logger = logging.getLogger(__name__)


def share_version(version: DatasetVersion, settings: Settings, *, is_latest: bool) -> None:
    """Publish a version with the files of its records; nothing without a store.

    What is in the store already, undamaged, is not written again.

    Args:
        version: The version.
        settings: Where the store is.
        is_latest: Whether homes are to take it where none is named.

    Raises:
        StoreError: If the store cannot be reached, or a file has changed or gone since the version
            was made. Other homes see nothing of it then.
    """
    if settings.store_url is None:
        return
    parts = {_name_part(record): _describe(record, version) for record in version.records}
    content = json.dumps(asdict(version), indent=2)
    name = _name_version(version.version)
    whole = Addition(
        partial(_write, content),
        None,
        datetime.fromisoformat(version.created_at).timestamp(),
        needs=tuple(parts),
    )
    _open(settings).publish({**parts, name: whole}, latest=name if is_latest else None)


def ensure_shared(version: DatasetVersion, settings: Settings) -> None:
    """Publish a version that the store does not have, such as one from before there was a store.

    Raises:
        StoreError: As :func:`share_version`.
    """
    if version.version not in _list_shared(settings):
        share_version(version, settings, is_latest=False)


def list_all_versions(settings: Settings) -> list[str]:
    """List the names of the versions of this home and of the store.

    Raises:
        StoreError: If the store cannot be reached.
    """
    return sorted({*list_versions(settings.datasets_dir), *_list_shared(settings)})


def open_version(settings: Settings, version: str | None = None) -> DatasetVersion:
    """Load a version, or the latest, from this home or the store, with the files of its records.

    With a store, the latest is the one that any home has made last. The files of a record are those
    where the version was made or, on another machine, those of a directory that the settings name;
    else they are fetched.

    Args:
        settings: The home, and where the store is.
        version: Name of the version.

    Raises:
        DatasetError: If there is no such version.
        StoreError: If the store cannot be reached, or files in it are damaged.
    """
    if settings.store_url is None:
        return load_version(settings.datasets_dir, version)
    files = _open(settings)
    index, _ = files.read()
    name = _name_latest(index, settings) if version in {None, LATEST} else version
    if name is None:
        msg = "there is no dataset yet; run ingest-records first"
        raise DatasetError(msg)
    return _with_records(_load(name, files, index, settings), index, settings)


def open_own_version(settings: Settings, name: str) -> DatasetVersion:
    """Load a version of this home with the files of its records, without the store.

    Raises:
        DatasetError: If there is no such version here, it is damaged, or its records are not here.
    """
    nothing = Index()
    return _with_records(_load(name, _open(settings), nothing, settings), nothing, settings)


def read_version(settings: Settings, name: str) -> DatasetVersion:
    """Load a version from this home or the store, without the files of its records.

    Raises:
        DatasetError: If there is no such version.
        StoreError: If the store cannot be reached, or the version in it is damaged.
    """
    if settings.store_url is None:
        return load_version(settings.datasets_dir, name)
    files = _open(settings)
    return _load(name, files, files.read()[0], settings)


def forget_shared_versions(
    settings: Settings, needed: set[str], *, are_runs_shared: bool, gone: Sequence[str]
) -> list[str]:
    """Remove old versions from the store, with the files that only they need; return their names.

    Args:
        settings: Where the store is.
        needed: Versions of runs and releases, which stay.
        are_runs_shared: Whether `needed` tells of all homes. Otherwise only versions go that this
            home published and has deleted itself.
        gone: Versions that this home has deleted.

    Raises:
        StoreError: If the store cannot be reached.
    """
    if settings.store_url is None:
        return []
    files = _open(settings)
    index, _ = files.read()
    versions = {_read_name(name): entry for name, entry in index.files.items() if _is_version(name)}
    newest = sorted(versions, key=lambda name: versions[name].modified_s, reverse=True)
    kept = needed | set(newest[: settings.dataset_versions_kept])

    def is_due(name: str, entry: Entry) -> bool:
        if versions.get(_read_name(name)) != entry or _read_name(name) in kept:
            return False  # among them those that were published since
        return are_runs_shared or (entry.owner == files.owner and _read_name(name) in gone)

    return sorted(_read_name(name) for name in files.remove(is_due))


def remove_killed_publications(settings: Settings, *, now: datetime) -> int:
    """Remove what publications that were killed left in the store; return the number of objects.

    Raises:
        StoreError: If the store cannot be reached.
    """
    if settings.store_url is None:
        return 0
    return _open(settings).remove_orphans(now_s=now.timestamp())


def forget_shared_patient(settings: Settings, patient_key: str, *, now: datetime) -> None:
    """Remove the signals of a patient from the store, and tell other homes to delete theirs.

    Raises:
        StoreError: If the store cannot be reached.
    """
    if settings.store_url is None:
        return
    _open(settings).remove(
        lambda name, _: name.startswith(f"{_SIGNALS}{patient_key}/"),
        erased={patient_key: now.timestamp()},
    )


def follow_deletions(settings: Settings, signals: SignalStore, *, now: datetime) -> int:
    """Delete signals whose patient another home has deleted, here, and old ones from the store.

    From the store go those of deleted patients too, which a lost or restored index may name.

    Args:
        settings: Where the store is, and how long signals are kept.
        signals: The signals of this home.
        now: The time.

    Returns:
        Number of signals that were deleted here.

    Raises:
        StoreError: If the store cannot be reached.
    """
    if settings.store_url is None:
        return 0
    files = _open(settings)
    index, _ = files.read()
    n_deleted = 0
    for file in list(signals.list_files()):
        if _is_deleted(file.patient_key, file.written_s, index):
            signals.delete(file)
            n_deleted += 1
    kept = timedelta(days=settings.signals_kept_days)
    waits = timedelta(days=settings.signals_wait_days)
    files.remove(
        lambda name, entry: (
            name.startswith(_SIGNALS)
            and (
                entry.modified_s <= (now - kept).timestamp()
                or _is_deleted(name.split("/")[1], entry.modified_s, index)
            )
        ),
        forget_before_s=(now - max(kept, waits)).timestamp(),
    )
    return n_deleted


def list_deleted_patients(settings: Settings) -> dict[str, datetime]:
    """List the keyed hashes of the patients whose signals must go, with the time of the deletion.

    Raises:
        StoreError: If the store cannot be reached.
    """
    if settings.store_url is None:
        return {}
    index, _ = _open(settings).read()
    return {patient: datetime.fromtimestamp(at_s, UTC) for patient, at_s in index.erased.items()}


def list_shared_signals(settings: Settings) -> set[str]:
    """List the signals of labelled strips in the store, by their names in its index.

    Raises:
        StoreError: If the store cannot be reached.
    """
    if settings.store_url is None:
        return set()
    index, _ = _open(settings).read()
    return {name for name in index.files if name.startswith(_SIGNALS)}


def name_signal(record: PreparedRecord) -> str:
    """Name a labelled strip as :func:`list_shared_signals` does."""
    return _name_part(record)


def list_fetched(settings: Settings) -> list[Path]:
    """List the directories of records that came from the store."""
    return sorted(path for path in (settings.data_dir / _FETCHED).glob("[!.]*") if path.is_dir())


def fetched_dir(settings: Settings, records: Sequence[PreparedRecord]) -> Path:
    """Return where the records of a database that come from the store are, in this home."""
    text = json.dumps(sorted(_hash(record) for record in records))
    number = hashlib.sha256(text.encode()).hexdigest()[:16]
    return settings.data_dir / _FETCHED / f"{records[0].database}-{number}"


def _open(settings: Settings) -> SharedFiles:
    url = str(settings.store_url)
    copy = settings.datasets_dir / f"{_AREA}-shared.json"
    return SharedFiles(open_store(url), _AREA, url=url, copy=copy)


def _list_shared(settings: Settings) -> list[str]:
    if settings.store_url is None:
        return []
    index, _ = _open(settings).read()
    return [_read_name(name) for name in index.files if _is_version(name)]


def _is_deleted(patient_key: str, written_s: float, index: Index) -> bool:
    return written_s <= index.erased.get(patient_key, float("-inf"))


def _name_version(version: str) -> str:
    return f"{_VERSIONS}{version}.json"


def _is_version(name: str) -> bool:
    return name.startswith(_VERSIONS)


def _read_name(name: str) -> str:
    return name.removeprefix(_VERSIONS).removesuffix(".json")


def _name_latest(index: Index, settings: Settings) -> str | None:
    if index.latest is None:  # no version was made since there is a store
        return read_latest(settings.datasets_dir)
    return _read_name(index.latest)


def _hash(record: PreparedRecord) -> str:
    text = json.dumps(record.files, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _name_part(record: PreparedRecord) -> str:
    """Name the archive of a record by its content; that of a signal by its patient too."""
    if record.database == SITE.name:
        (source,) = record.files
        _, patient_key, file = Path(source).parts
        return f"{_SIGNALS}{patient_key}/{Path(file).stem}-{_hash(record)[:16]}"
    return f"records/{_hash(record)[:32]}"


def _describe(record: PreparedRecord, version: DatasetVersion) -> Addition:
    directory, is_signal = version.directory_of(record), record.database == SITE.name
    try:
        written = [(directory / name).stat().st_mtime for name in record.files]
    except OSError as error:
        msg = (
            f"the files of record {record.name} must be there to be shared, {error.filename} is "
            "not; run ingest-records again"
        )
        raise StoreError(msg) from error
    return Addition(
        partial(_pack, directory, record),
        None,
        max(written),
        is_part=not is_signal,
        patient=Path(next(iter(record.files))).parts[1] if is_signal else None,
    )


def _pack(directory: Path, record: PreparedRecord, archive: Path) -> None:
    pack_files(directory, tuple(record.files), archive)
    if hash_files(directory, tuple(record.files)) != record.files:
        msg = (
            f"the files of record {record.name} must be those of its dataset version, they have "
            "changed; run ingest-records again"
        )
        raise StoreError(msg)


def _write(text: str, draft: Path) -> None:
    draft.write_text(text, encoding="utf-8")


def _load(name: str, files: SharedFiles, index: Index, settings: Settings) -> DatasetVersion:
    """Load a version of this home, or the store's where it is missing or damaged here."""
    path = settings.datasets_dir / "versions" / f"{name}.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if content and has_its_content(content, name):
        return parse_version(content, name)
    entry = index.files.get(_name_version(name))
    if entry is None:
        if content:
            msg = (
                f"dataset version {name} must hold what its name is the hash of, it is damaged "
                "here and not in the store; run ingest-records again"
            )
            raise DatasetError(msg)
        msg = (
            f"dataset version must be one of {list_versions(settings.datasets_dir)} of this home "
            f"or {sorted(_read_name(one) for one in index.files if _is_version(one))} of the "
            f"store, got {name!r}"
        )
        raise DatasetError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        draft = Path(folder) / path.name
        files.fetch(entry, draft)
        content = draft.read_bytes()
        if not has_its_content(content, name):
            msg = f"dataset version {name} of the store must hold what its name is the hash of"
            raise StoreError(msg)
        version = parse_version(content, name)
        _check_files(version)
        write_whole(path, content.decode())
    _logger.info("dataset version %s was taken from the store", name)
    return version


def _check_files(version: DatasetVersion) -> None:
    """Reject files outside the directory of their records, to which they would be copied."""
    for record in version.records:
        for name in record.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                msg = (
                    f"files of dataset version {version.version} of the store must be below the "
                    f"directory of their records, got {name!r}"
                )
                raise DatasetError(msg)


def _with_records(version: DatasetVersion, index: Index, settings: Settings) -> DatasetVersion:
    """Return the version with directories of this home that hold the files of its records."""
    if not version.records:
        return version
    found = {
        name: str(_place(version.records_in(name), version, index, settings))
        for name in version.databases
    }
    first, *others = version.databases
    return replace(
        version,
        source_directory=found[first],
        other_directories={name: found[name] for name in others},
    )


def _place(
    records: Sequence[PreparedRecord], version: DatasetVersion, index: Index, settings: Settings
) -> Path:
    """Find the directory with the files of the records of a database, or fetch them."""
    database = records[0].database
    if database == SITE.name:
        target = settings.signals_dir
    else:
        target = fetched_dir(settings, records)
        for directory in _list_directories(records[0], version, settings):
            if not _list_missing(records, directory):
                return directory
    missing = _list_missing(records, target)
    entries = [(record, _find_part(record, index)) for record in missing]
    unknown = [record.name for record, entry in entries if entry is None]
    if unknown and database == SITE.name:  # an error for whoever reads them
        _logger.warning("signals of %d labelled strips are no longer kept", len(unknown))
    elif unknown:
        msg = (
            f"records of dataset {version.version} must be on this machine or in the store, these "
            f"are not: {', '.join(unknown[:5])}; run ingest-records where their files are"
        )
        raise DatasetError(msg)
    store = open_store(str(settings.store_url))
    jobs = [(record, entry) for record, entry in entries if entry is not None]
    with ThreadPoolExecutor(_N_REQUESTS) as pool:
        list(pool.map(lambda job: _fetch(store, job[0], job[1], target), jobs))
    if jobs:
        _logger.info("%d records of %s were taken from the store", len(jobs), database)
    return target


def _find_part(record: PreparedRecord, index: Index) -> Entry | None:
    """Find the archive of a record; None for a signal whose patient was deleted."""
    entry = index.files.get(_name_part(record))
    if entry is None or record.database != SITE.name:
        return entry
    patient_key = _name_part(record).split("/")[1]
    return None if _is_deleted(patient_key, entry.modified_s, index) else entry


def _list_directories(
    record: PreparedRecord, version: DatasetVersion, settings: Settings
) -> Iterator[Path]:
    """List where the files of a record may be: where they were, and where settings name them."""
    yield version.directory_of(record)
    for database in PUBLISHED.values():
        if database.name == record.database:
            directory = find_directory(database, settings)
            if directory is not None:
                yield directory


def _fetch(store: ObjectStore, record: PreparedRecord, entry: Entry, target: Path) -> None:
    """Fetch the files of a record, all of them or none."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".fetch-") as folder:
        draft = Path(folder) / "files"
        is_there = download_directory(store, entry.key, draft)
        if not is_there or hash_files(draft, tuple(record.files)) != record.files:
            state = "are others" if is_there else "are missing"
            msg = (
                f"the files of record {record.name} in the store must be those of its dataset "
                f"version, they {state}; ingest-records on a machine that has them repairs that"
            )
            raise DamagedError(msg)
        for name in record.files:
            path = target / name
            for parent in reversed(path.relative_to(target).parents):
                (target / parent).mkdir(mode=0o700, exist_ok=True)
            (draft / name).replace(path)


def _list_missing(records: Sequence[PreparedRecord], directory: Path) -> list[PreparedRecord]:
    """List the records whose files are missing in a directory, or are others."""
    with ThreadPoolExecutor(_N_REQUESTS) as pool:
        found = pool.map(lambda record: hash_files(directory, tuple(record.files)), records)
        return [
            record for record, files in zip(records, found, strict=True) if files != record.files
        ]
