"""Put the state of a backup into a home.

Everything is written beside the home's own files and checked before the first of them is moved.
MLflow keeps its artifacts by address: where the home has another path, its database is changed.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import require_room
from flows.local.state.archive import (
    FILES,
    MANIFEST,
    SECRETS,
    BackupError,
    Manifest,
    SecretsIn,
    read_manifest,
    unpack_secrets,
)
from flows.local.supervision.platform_status import read_status

_CHUNK_BYTES: Final = 2**20
_STAGING: Final = ".restore-"
_SET_ASIDE: Final = "before-"
"""Of the disk, left to everything else."""

_DAMAGE: Final = (OSError, EOFError, zipfile.BadZipFile, zlib.error, sqlite3.Error, RuntimeError)
"""Errors of a file that is not a whole backup; RuntimeError is of members that are encrypted or
packed in an unusual way."""

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
    """Restore a backup into the home; nothing changes when it cannot be restored whole.

    Args:
        settings: The home, which exists.
        path: The backup.
        key_file: Key of its secrets, where they are encrypted.
        with_secrets: Whether to restore its secrets.
        is_replacing: Whether a home with files may be used; they are moved into a folder
            ``before-TIME`` of it.

    Returns:
        The manifest of the backup.

    Raises:
        BackupError: If the home is in use or has files, or the backup cannot be restored.
        ConfigurationError: If the key file cannot be used.
    """
    home = settings.home
    if any(process.is_alive for process in read_status(settings)):
        msg = f"the platform of {home} must not run while it is restored; end it with `ecg down`"
        raise BackupError(msg)
    old = [one for one in home.iterdir() if not one.name.startswith(_SET_ASIDE)]
    if old and not is_replacing:
        msg = (
            f"a backup is restored into an empty home, {home} has files; name another ECG_HOME, or "
            "move them aside with --replace"
        )
        raise BackupError(msg)
    try:
        with (
            zipfile.ZipFile(path) as archive,
            tempfile.TemporaryDirectory(dir=home, prefix=_STAGING) as staging,
        ):
            manifest = read_manifest(archive)
            _check_secrets(manifest, key_file=key_file, with_secrets=with_secrets)
            _check_room(manifest, home)
            _extract(archive, manifest, Path(staging))
            if with_secrets and manifest.secrets is not SecretsIn.LEFT_OUT:
                is_sealed = manifest.secrets is SecretsIn.ENCRYPTED
                _write_secrets(archive, Path(staging), key_file=key_file if is_sealed else None)
            _move_mlflow(Path(staging) / _MLFLOW_DATABASE, Path(manifest.home), home)
            _set_aside(home, old)
            for one in Path(staging).iterdir():
                one.rename(home / one.name)
    except _DAMAGE as error:
        msg = f"the backup {path} cannot be restored: {error}"
        raise BackupError(msg) from error
    return manifest


def _check_secrets(manifest: Manifest, *, key_file: Path | None, with_secrets: bool) -> None:
    if manifest.secrets is SecretsIn.ENCRYPTED and with_secrets and key_file is None:
        msg = "the secrets of the backup are encrypted; name --key-file, or leave them out with "
        msg += "--no-secrets"
        raise BackupError(msg)
    if key_file is not None and manifest.secrets is not SecretsIn.ENCRYPTED:
        msg = f"the backup has no encrypted secrets ({manifest.secrets}); leave out --key-file"
        raise BackupError(msg)


def _check_room(manifest: Manifest, home: Path) -> None:
    needed = sum(file.size for file in manifest.files.values())
    try:
        require_room(home, n_bytes=needed)
    except OSError as error:
        raise BackupError(error.strerror or str(error)) from error


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
            msg = f"{name} must have the hash of the manifest, it has not: the backup was changed"
            raise BackupError(msg)
    for name in manifest.empty_folders:
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
    """Let MLflow's database name the artifacts below the new home."""
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


def _set_aside(home: Path, old: list[Path]) -> None:
    if not old:
        return
    aside = home / f"{_SET_ASIDE}{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}"
    aside.mkdir(mode=0o700)
    for one in old:
        shutil.move(one, aside / one.name)
