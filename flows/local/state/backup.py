"""Write the state of a home into one file, while the platform runs.

The order of copying keeps the backup consistent. First comes what a release writes, under the lock
of releases, with the answers that are not logged yet. Then each SQLite database, by SQLite's online
backup. Then all other files, so that every file that a row names is in the backup. An answer that
is logged meanwhile is copied twice; logging it again changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from sqlalchemy.engine import make_url

from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import replacing, require_room
from flows.local.state.archive import (
    FILES,
    FORMAT,
    MANIFEST,
    SECRETS,
    SET_ASIDE,
    STAGING,
    BackupError,
    Manifest,
    SecretsIn,
    StoredFile,
    describe,
    own_version,
    pack_secrets,
    write_manifest,
)
from flows.local.state.restore import check_whole
from flows.local.supervision.platform_status import state_path, states_path
from flows.release.transaction import locked

_OF_RELEASES: Final = ("serving", "ledger", "signatures", "bentoml")
_LEFT_OUT: Final = ("logs", "cache", "bentoml/tmp", "prefect/ui", "sign-in.html")
"""Output, caches, and the page of ``ecg login``, which has passwords."""
_SECRETS_FOLDER: Final = "secrets"
_SQLITE: Final = b"SQLite format 3\x00"
_SQLITE_WAIT_S: Final = 60.0
_BESIDE_SQLITE: Final = ("-wal", "-shm", "-journal")
_CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A finished backup."""

    manifest: Manifest
    size_bytes: int
    databases: tuple[str, ...]


@dataclass(slots=True)
class _Copy:
    """The archive while it is written, and the files in it so far."""

    archive: zipfile.ZipFile
    directory: Path
    home: Path
    files: dict[str, StoredFile] = field(default_factory=dict)
    databases: list[str] = field(default_factory=list)


def make_backup(
    settings: Settings,
    path: Path,
    *,
    secrets: SecretsIn = SecretsIn.LEFT_OUT,
    key_file: Path | None = None,
) -> Backup:
    """Write all state below the home into a file (mode 0600), whole or not at all.

    Args:
        settings: The home.
        path: The file; it must not exist.
        secrets: How to store the secrets.
        key_file: Key that encrypts the secrets; made when missing.

    Raises:
        BackupError: If the file exists or cannot be written, a database is damaged, or an earlier
            restore of the home was interrupted.
        BusyError: If a release or rollback holds its lock for too long.
    """
    home = settings.home
    if not home.is_dir():
        msg = f"there must be a home to back up, {home} is not there"
        raise BackupError(msg)
    check_whole(home)
    for file in filter(None, (path, key_file)):
        if file.resolve().is_relative_to(home.resolve()):
            msg = f"a backup and its key must lie outside the home, got {file}"
            raise BackupError(msg)
    if path.exists():
        msg = f"{path} exists; name a new file"
        raise BackupError(msg)
    if not path.parent.is_dir():
        msg = f"the folder of the backup must exist, {path.parent} does not; make it"
        raise BackupError(msg)
    try:
        with replacing(path) as draft:
            draft.touch(mode=0o600)
            backup = _write(settings, draft, secrets=secrets, key_file=key_file)
    except OSError as error:
        msg = f"the backup cannot be written: {describe(error)}"
        raise BackupError(msg) from error
    return backup


def _write(settings: Settings, draft: Path, *, secrets: SecretsIn, key_file: Path | None) -> Backup:
    home = settings.home
    found_secrets = {name: (home / name).read_bytes() for name in _list_secrets(settings)}
    left_out = _list_left_out(settings)
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        copy = _Copy(archive, draft.parent, home)
        with locked(settings, is_shared=False):
            for folder in _OF_RELEASES:
                for file in _walk(home / folder, home, left_out):
                    _add_file(copy, file)
        files = list(_walk(home, home, left_out))
        databases = [file for file in files if _is_sqlite(file)]
        beside = {Path(f"{file}{end}") for file in databases for end in _BESIDE_SQLITE}
        for file in databases:
            _add_database(copy, file, beside=draft)
        for file in files:
            if file not in beside:
                _add_file(copy, file)
        manifest = Manifest(
            format=FORMAT,
            software=own_version(),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            home=str(home),
            secrets=secrets,
            files=copy.files,
            folders=dict(_list_folders(home, left_out)),
            elsewhere=(*_list_elsewhere(settings), *_list_links(home, left_out)),
        )
        text = write_manifest(manifest)
        if secrets is not SecretsIn.LEFT_OUT:
            archive.writestr(SECRETS, pack_secrets(found_secrets, key_file=key_file, manifest=text))
        archive.writestr(MANIFEST, text)
    return Backup(
        manifest=manifest, size_bytes=draft.stat().st_size, databases=tuple(copy.databases)
    )


def _list_secrets(settings: Settings) -> list[str]:
    """List the keys and passwords below the home."""
    home = settings.home
    found = [*(home / _SECRETS_FOLDER).rglob("*"), *_name_keys(settings)]
    return sorted(
        path.relative_to(home).as_posix()
        for path in found
        if path.is_file() and not path.is_symlink() and not _is_draft(path.name)
    )


def _name_keys(settings: Settings) -> list[Path]:
    """Name the keys below the home but outside of its folder of secrets, made yet or not."""
    named = (
        *(settings.patient_key_path, settings.signal_key_path, settings.api_keys_file),
        settings.release_key_path,
    )
    return [path for path in named if path is not None and path.is_relative_to(settings.home)]


def _list_left_out(settings: Settings) -> set[str]:
    """List secrets, the state of running processes, and what can be made again."""
    home, keys = settings.home, _name_keys(settings)
    states = (state_path(settings), states_path(settings))
    # A process that was killed while it made a key has left a copy of it.
    drafts = [draft for key in keys for draft in key.parent.glob(f".{key.name}.*")]
    aside = [path for start in (SET_ASIDE, STAGING) for path in home.glob(f"{start}*")]
    return {
        *(*_LEFT_OUT, _SECRETS_FOLDER),
        *(path.relative_to(home).as_posix() for path in (*states, *keys, *drafts, *aside)),
    }


def _list_elsewhere(settings: Settings) -> Iterator[str]:
    """List state that is not below the home, without what may be a password."""
    mlflow = "ECG_MLFLOW_TRACKING_URI" if settings.mlflow_tracking_uri else "ECG_MLFLOW_STORE_URL"
    urls = {
        "ECG_MONITORING_URL": settings.monitoring_database_url,
        "ECG_STUDY_URL": settings.study_storage_url,
        mlflow: settings.tracking_uri,
        "PREFECT_API_DATABASE_CONNECTION_URL": os.environ.get(
            "PREFECT_API_DATABASE_CONNECTION_URL", ""
        ),
    }
    for name, text in urls.items():
        if not text:
            continue
        if not text.startswith("sqlite"):
            url = make_url(text)
            yield f"{name}: {url.get_backend_name()} at {url.host or 'another place'}"
        elif not Path(make_url(text).database or "").is_relative_to(settings.home):
            yield f"{name}: {make_url(text).database}"
    if settings.store_url is not None:
        yield f"ECG_STORE_URL: {settings.store_url}"
    for name in ("patient_key_file", "release_key_file", "signal_key_file", "api_keys_file"):
        path = getattr(settings, name)
        if path is not None and not path.is_relative_to(settings.home):
            yield f"ECG_{name.upper()}: {path}"


def _list_links(home: Path, left_out: set[str]) -> Iterator[str]:
    """List symbolic links, which are not followed: what they lead to is not in the backup."""
    for place, folders, files in os.walk(home):
        name = _name(Path(place), home)
        folders[:] = sorted(one for one in folders if _join(name, one) not in left_out)
        for one in sorted((*folders, *files)):
            if (link := Path(place, one)).is_symlink() and _join(name, one) not in left_out:
                yield f"link {_name(link, home)} -> {_show(link.readlink())}"


def _show(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")


def _name(path: Path, home: Path) -> str:
    name = path.relative_to(home).as_posix()
    if _show(Path(name)) != name:
        msg = f"the name of a file must be UTF-8 to be backed up, {name!r} is not; rename it"
        raise BackupError(msg)
    return name


def _walk(folder: Path, home: Path, left_out: set[str]) -> Iterator[Path]:
    """List regular files, without links, sockets, drafts and empty lock files."""
    for entry in _list_folder(folder):
        path = Path(entry.path)
        if path.relative_to(home).as_posix() in left_out:
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # it was removed meanwhile
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, home, left_out)
        elif stat.S_ISREG(status.st_mode):
            is_lock = status.st_size == 0 and entry.name.endswith(".lock")
            if not is_lock and not _is_draft(entry.name):
                yield path


def _is_draft(name: str) -> bool:
    return name.startswith(".") and name.endswith(".draft")


def _list_folder(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _list_folders(home: Path, left_out: set[str]) -> Iterator[tuple[str, int]]:
    """List all folders with the times at which they were changed."""
    for place, folders, _ in os.walk(home):
        name = _name(Path(place), home)
        folders[:] = sorted(one for one in folders if _join(name, one) not in left_out)
        try:
            modified_ns = Path(place).stat().st_mtime_ns
        except FileNotFoundError:
            continue  # it was removed meanwhile
        if name != ".":
            yield name, modified_ns


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def _add_database(copy: _Copy, path: Path, *, beside: Path) -> None:
    """Add a database as it is at one moment, in one step, so that no writer can disturb it.

    Its copy lies next to the backup, where there must be room for it; `/tmp` is often memory.
    """
    with tempfile.TemporaryDirectory(prefix=".ecg-backup-", dir=beside.parent) as folder:
        draft = Path(folder) / path.name
        try:
            with (
                closing(sqlite3.connect(path, timeout=_SQLITE_WAIT_S)) as source,
                closing(sqlite3.connect(draft)) as target,
            ):
                source.backup(target)
                target.execute("PRAGMA journal_mode=DELETE")
                (problem,) = target.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            msg = f"the database {path.name} cannot be copied: {error}"
            raise BackupError(msg) from error
        if problem != "ok":
            msg = f"the database {path.name} is damaged: {problem}"
            raise BackupError(msg)
        with draft.open("rb") as file:
            _add(copy, path, file, modified_ns=path.stat().st_mtime_ns)
    copy.databases.append(path.relative_to(copy.home).as_posix())


def _add_file(copy: _Copy, path: Path) -> None:
    if path.relative_to(copy.home).as_posix() in copy.files:
        return
    try:
        with path.open("rb") as file:
            _add(copy, path, file, modified_ns=os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return  # it was removed meanwhile, and nothing needs it


def _add(copy: _Copy, path: Path, file: IO[bytes], *, modified_ns: int) -> None:
    """Add a file with the hash of what is added: it may grow meanwhile."""
    name, digest, size = _name(path, copy.home), hashlib.sha256(), 0
    with copy.archive.open(FILES + name, "w", force_zip64=True) as member:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            member.write(chunk)
            size += len(chunk)
    copy.files[name] = StoredFile(size=size, sha256=digest.hexdigest(), modified_ns=modified_ns)
    require_room(copy.directory)
