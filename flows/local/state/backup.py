"""Write the state of a home into one file, while the platform runs.

The order makes the copy consistent. What a release writes is copied first, under the lock of
releases, with the answers that wait to be logged. Then each SQLite database, by SQLite's online
backup. Then all other files: rows name files that were there before them. An answer that was
logged meanwhile is copied twice, and logging it again changes nothing.
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
    BackupError,
    Manifest,
    SecretsIn,
    StoredFile,
    own_version,
    pack_secrets,
)
from flows.local.supervision.platform_status import state_path, states_path
from flows.release.transaction import locked

_OF_RELEASES: Final = ("serving", "ledger", "signatures", "bentoml")
_LEFT_OUT: Final = ("logs", "cache", "bentoml/tmp", "prefect/ui", "sign-in.html")
"""Output, what is made again, and a page with passwords that ``ecg login`` makes."""
_SET_ASIDE: Final = "before-"
_SQLITE: Final = b"SQLite format 3\x00"
_SQLITE_WAIT_S: Final = 60.0
_BESIDE_SQLITE: Final = ("-wal", "-shm", "-journal")
_IN_MEMORY_BYTES: Final = 16 * 2**20
_CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was made."""

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
        secrets: What becomes of the secrets.
        key_file: Key of encrypted secrets; made when missing.

    Raises:
        BackupError: If the file exists or cannot be written, or a database is damaged.
        BusyError: If a release or rollback goes on for too long.
    """
    home = settings.home
    if not home.is_dir():
        msg = f"there must be a home to back up, {home} is not there"
        raise BackupError(msg)
    for file in filter(None, (path, key_file)):
        if file.resolve().is_relative_to(home.resolve()):
            msg = f"a backup and its key must lie outside the home, got {file}"
            raise BackupError(msg)
    if path.exists():
        msg = f"{path} exists; name a new file"
        raise BackupError(msg)
    try:
        with replacing(path) as draft:
            draft.touch(mode=0o600)
            backup = _write(settings, draft, secrets=secrets, key_file=key_file)
    except OSError as error:
        msg = f"the backup cannot be written: {error.strerror or error}"
        raise BackupError(msg) from error
    return backup


def _write(settings: Settings, draft: Path, *, secrets: SecretsIn, key_file: Path | None) -> Backup:
    home = settings.home
    found_secrets = {name: (home / name).read_bytes() for name in _list_secrets(settings)}
    left_out = _list_left_out(settings) | set(found_secrets)
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        copy = _Copy(archive, draft.parent, home)
        with locked(settings):
            for folder in _OF_RELEASES:
                for file in _walk(home / folder, home, left_out):
                    _add_file(copy, file)
        files = list(_walk(home, home, left_out))
        databases = [file for file in files if _is_sqlite(file)]
        beside = {Path(f"{file}{end}") for file in databases for end in _BESIDE_SQLITE}
        for file in databases:
            _add_database(copy, file)
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
            empty_folders=tuple(_list_empty_folders(home, left_out)),
            elsewhere=tuple(_list_elsewhere(settings)),
        )
        text = manifest.model_dump_json(indent=1).encode()
        if secrets is not SecretsIn.LEFT_OUT:
            archive.writestr(SECRETS, pack_secrets(found_secrets, key_file=key_file, manifest=text))
        archive.writestr(MANIFEST, text)
    return Backup(
        manifest=manifest, size_bytes=draft.stat().st_size, databases=tuple(copy.databases)
    )


def _list_secrets(settings: Settings) -> list[str]:
    """List the keys and passwords below the home."""
    home = settings.home
    named = [settings.patient_key_path, settings.signal_key_path, settings.api_keys_file]
    found = [*(home / "secrets").glob("*"), *(path for path in named if path is not None)]
    return sorted(
        path.relative_to(home).as_posix()
        for path in found
        if path.is_relative_to(home) and path.is_file() and not path.is_symlink()
    )


def _list_left_out(settings: Settings) -> set[str]:
    """List what is of the processes of this moment, or is made again."""
    states = (state_path(settings), states_path(settings))
    return {
        *_LEFT_OUT,
        *(path.relative_to(settings.home).as_posix() for path in states),
        *(path.name for path in settings.home.glob(f"{_SET_ASIDE}*")),
    }


def _list_elsewhere(settings: Settings) -> Iterator[str]:
    """List state that is not below the home, without what may be a password."""
    urls = {
        "ECG_MONITORING_URL": settings.monitoring_database_url,
        "ECG_STUDY_URL": settings.study_storage_url,
        "ECG_MLFLOW_STORE_URL": settings.tracking_uri,
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
    for name in ("patient_key_file", "signal_key_file", "api_keys_file"):
        path = getattr(settings, name)
        if path is not None and not path.is_relative_to(settings.home):
            yield f"ECG_{name.upper()}: {path}"


def _walk(folder: Path, home: Path, left_out: set[str]) -> Iterator[Path]:
    """List regular files; links, sockets, drafts and files that are only locked are passed over."""
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
            if not is_lock and not (entry.name.startswith(".") and entry.name.endswith(".draft")):
                yield path


def _list_folder(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _list_empty_folders(home: Path, left_out: set[str]) -> Iterator[str]:
    for place, folders, files in os.walk(home):
        name = Path(place).relative_to(home).as_posix()
        folders[:] = [one for one in folders if _join(name, one) not in left_out]
        if not folders and not files and name != ".":
            yield name


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def _add_database(copy: _Copy, path: Path) -> None:
    """Add a database as it is at one moment, in one step, so that no writer can disturb it."""
    with tempfile.TemporaryDirectory(prefix="ecg-backup-") as folder:
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
            _add(copy, path, file)
    copy.databases.append(path.relative_to(copy.home).as_posix())


def _add_file(copy: _Copy, path: Path) -> None:
    if path.relative_to(copy.home).as_posix() in copy.files:
        return
    try:
        with path.open("rb") as file:
            _add(copy, path, file)
    except FileNotFoundError:
        return  # it was removed meanwhile, and nothing needs it


def _add(copy: _Copy, path: Path, file: IO[bytes]) -> None:
    """Add a file with the hash of what is added: it may grow meanwhile."""
    name, digest, size = path.relative_to(copy.home).as_posix(), hashlib.sha256(), 0
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as read:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            read.write(chunk)
            size += len(chunk)
        require_room(copy.directory, n_bytes=size)
        read.seek(0)
        with copy.archive.open(FILES + name, "w", force_zip64=True) as member:
            while chunk := read.read(_CHUNK_BYTES):
                member.write(chunk)
    copy.files[name] = StoredFile(size=size, sha256=digest.hexdigest())
