"""Put the state of a backup into a home.

Everything is unpacked into a folder of the home and checked before the first of its own files is
moved. Files are moved by renaming alone. A mark says that they are being moved: as long as it is
there, the home is a mixture, and nothing but another restore uses it.

MLflow stores the addresses of its artifacts: where the home has another path, they are rewritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import LEAST_FREE_BYTES
from flows.local.state.archive import (
    FILES,
    MANIFEST,
    SECRETS,
    SET_ASIDE,
    STAGING,
    BackupError,
    Manifest,
    SecretsIn,
    describe,
    read_manifest,
    unpack_secrets,
)
from flows.local.supervision.platform_status import read_status

_CHUNK_BYTES: Final = 2**20
_MARK: Final = f"{STAGING}under-way"
_UNREADABLE: Final = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError),
    sqlite3.Error,
)
"""Raised by zipfile, zlib and SQLite for damaged files, and by the disk."""
_MLFLOW_DATABASE: Final = "mlflow/mlflow.db"
_MLFLOW_ADDRESSES: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


def restore_backup(
    settings: Settings,
    path: Path,
    *,
    key_file: Path | None = None,
    with_secrets: bool = True,
    is_replacing: bool = False,
) -> Manifest:
    """Restore a backup into the home; the home stays as it was when that fails.

    A process that is killed while it moves files has lost none: what was there before is in folders
    ``before-TIME``, and the next restore with `is_replacing` starts again.

    Args:
        settings: The home, which exists.
        path: The backup.
        key_file: Key of its secrets, where they are encrypted.
        with_secrets: Whether to restore its secrets.
        is_replacing: Whether the home may have files; they are moved into its folder
            ``before-TIME``.

    Returns:
        The manifest of the backup.

    Raises:
        BackupError: If the home is in use or has files, or the backup cannot be restored.
        ConfigurationError: If the key file cannot be used.
    """
    home = settings.home
    if not path.is_file():
        msg = f"the backup must be a file, {path} is not; check the path"
        raise BackupError(msg)
    if any(process.is_alive for process in read_status(settings)):
        msg = f"the platform of {home} must be down while it is restored; end it with `ecg down`"
        raise BackupError(msg)
    try:
        with _alone(home):
            return _restore(
                home,
                path,
                key_file=key_file,
                with_secrets=with_secrets,
                is_replacing=is_replacing,
            )
    except EcgError:
        raise
    except _UNREADABLE as error:
        msg = f"the backup {path} cannot be restored: {describe(error)}"
        raise BackupError(msg) from error


def check_whole(home: Path) -> None:
    """Reject a home in which a restore was interrupted while it moved files.

    Raises:
        BackupError: If it was.
    """
    if (home / _MARK).exists():
        msg = (
            f"{home} is half restored, as `ecg restore` was interrupted; run it again with "
            f"--replace. What was there before is in {SET_ASIDE}TIME"
        )
        raise BackupError(msg)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Let no other process restore this home at the same time."""
    folder = os.open(home, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another process is restoring {home}; wait until it has ended"
            raise BackupError(msg) from error
        yield
    finally:
        os.close(folder)


def _restore(
    home: Path, path: Path, *, key_file: Path | None, with_secrets: bool, is_replacing: bool
) -> Manifest:
    _remove_leftovers(home)
    old = [one for one in home.iterdir() if not one.name.startswith((SET_ASIDE, STAGING))]
    if old and not is_replacing:
        check_whole(home)
        msg = (
            f"a backup is restored into an empty home, {home} has files; name another ECG_HOME, or "
            "move them aside with --replace"
        )
        raise BackupError(msg)
    with (
        zipfile.ZipFile(path) as archive,
        tempfile.TemporaryDirectory(dir=home, prefix=STAGING) as staging,
    ):
        manifest = read_manifest(archive)
        _check_secrets(manifest, key_file=key_file, with_secrets=with_secrets)
        _check_room(manifest, home)
        _extract(archive, manifest, Path(staging))
        if with_secrets and manifest.secrets is not SecretsIn.LEFT_OUT:
            is_sealed = manifest.secrets is SecretsIn.ENCRYPTED
            _write_secrets(archive, Path(staging), key_file=key_file if is_sealed else None)
        _move_mlflow(Path(staging) / _MLFLOW_DATABASE, Path(manifest.home), home)
        _set_times(manifest, Path(staging))
        _swap(home, old, Path(staging))
    return manifest


def _remove_leftovers(home: Path) -> None:
    """Remove what a killed restore had unpacked, but nothing that it had moved."""
    for left in home.glob(f"{STAGING}*"):
        if left.is_dir():
            shutil.rmtree(left)


def _check_room(manifest: Manifest, home: Path) -> None:
    needed, free = sum(file.size for file in manifest.files.values()), shutil.disk_usage(home).free
    if needed + LEAST_FREE_BYTES > free:
        msg = (
            f"the backup needs {needed / 2**20:.0f} MiB below {home} and must leave "
            f"{LEAST_FREE_BYTES / 2**20:.0f} MiB free, {free / 2**20:.0f} MiB are free; make room, "
            "or name another ECG_HOME"
        )
        raise BackupError(msg)


def _check_secrets(manifest: Manifest, *, key_file: Path | None, with_secrets: bool) -> None:
    if manifest.secrets is SecretsIn.ENCRYPTED and with_secrets and key_file is None:
        msg = (
            "the secrets of the backup are encrypted; name --key-file, or leave them out with "
            "--no-secrets"
        )
        raise BackupError(msg)
    if key_file is not None and manifest.secrets is not SecretsIn.ENCRYPTED:
        msg = f"the backup has no encrypted secrets ({manifest.secrets}); leave out --key-file"
        raise BackupError(msg)


def _extract(archive: zipfile.ZipFile, manifest: Manifest, staging: Path) -> None:
    for name, expected in manifest.files.items():
        target = staging / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with archive.open(FILES + name) as member, target.open("xb") as file:
            while (chunk := member.read(_CHUNK_BYTES)) and size <= expected.size:
                digest.update(chunk)
                file.write(chunk)
                size += len(chunk)
        target.chmod(0o600)
        if (size, digest.hexdigest()) != (expected.size, expected.sha256):
            msg = f"{name} must match its hash in the manifest, it does not: the backup was changed"
            raise BackupError(msg)
    for name in manifest.folders:
        (staging / name).mkdir(mode=0o700, parents=True, exist_ok=True)


def _write_secrets(archive: zipfile.ZipFile, staging: Path, *, key_file: Path | None) -> None:
    files = unpack_secrets(
        archive.read(SECRETS), key_file=key_file, manifest=archive.read(MANIFEST)
    )
    for name, content in files.items():
        target = staging / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(content)


def _move_mlflow(database: Path, old: Path, new: Path) -> None:
    """Rewrite the addresses of artifacts in MLflow's database for the new home."""
    if old == new or not database.exists():
        return
    before, after = f"{old.as_uri()}/", f"{new.as_uri()}/"
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in _MLFLOW_ADDRESSES:
            known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            if column in known:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  constants
                    f"WHERE substr({column}, 1, ?) = ?",
                    (after, len(before) + 1, len(before), before),
                )


def _set_times(manifest: Manifest, staging: Path) -> None:
    """Give files and folders their times, as retention goes by them."""
    for name, file in manifest.files.items():
        os.utime(staging / name, ns=(file.modified_ns, file.modified_ns))
    for name, modified_ns in manifest.folders.items():
        os.utime(staging / name, ns=(modified_ns, modified_ns))


def _swap(home: Path, old: list[Path], staging: Path) -> None:
    """Move the files of the home aside and the restored ones in; undo it when one cannot be moved.

    A mount point below the home is such a case: the operator has to unmount it first.
    """
    moves = [(one, home / one.name) for one in sorted(staging.iterdir())]
    aside = home / f"{SET_ASIDE}{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}"
    if old:
        aside.mkdir(mode=0o700)
        moves = [*((one, aside / one.name) for one in sorted(old)), *moves]
    done: list[tuple[Path, Path]] = []
    was_half_done = (home / _MARK).exists()
    (home / _MARK).touch(mode=0o600)
    try:
        for source, target in moves:
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        if old:
            aside.rmdir()
        if not was_half_done:
            (home / _MARK).unlink()
        raise
    (home / _MARK).unlink()
