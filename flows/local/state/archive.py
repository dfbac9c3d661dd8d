"""The file of a backup: a zip archive of a home, with a manifest and, if wanted, its secrets.

Every file is named by the manifest with its SHA-256. Secrets are not among them: they are left
out, or are one member of their own, in clear or encrypted by AES-256-GCM (NIST SP 800-38D) under
a key that HKDF-SHA256 (RFC 5869) derives from a key file. That member is bound to the manifest, so
that with the key a manifest that was rewritten is found.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import zipfile
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ecg_lib.errors import EcgError
from ecg_lib.operations.keys.key_files import make_key_file, read_own_key

FORMAT: Final = 1
"""Changes when an earlier version of this software could not restore the file."""

FILES: Final = "home/"
MANIFEST: Final = "manifest.json"
SECRETS: Final = "secrets"

_NONCE_BYTES: Final = 12
_SALT_BYTES: Final = 16
_INFO: Final = b"ecg backup secrets"
_KEY_ADVICE: Final = "use the key file that the backup was made with"
_MANIFEST_BYTES: Final = 256 * 2**20
_SECRETS_BYTES: Final = 2**20


class BackupError(EcgError):
    """A backup that cannot be made, read or restored."""


class SecretsIn(StrEnum):
    """The ways in which a backup has its secrets."""

    LEFT_OUT = "left out"
    CLEAR = "clear"
    ENCRYPTED = "encrypted"


def _check_name(name: str) -> str:
    path = PurePosixPath(name)
    is_plain = name and str(path) == name and not {"\\", "\0"} & set(name)
    if not is_plain or path.is_absolute() or ".." in path.parts:
        msg = f"a name in a backup must be relative and plain, got {name!r}"
        raise ValueError(msg)
    return name


def _check_home(home: str) -> str:
    if not PurePosixPath(home).is_absolute() or "\0" in home:
        msg = f"the home of a backup must be absolute, got {home!r}"
        raise ValueError(msg)
    return home


Name = Annotated[str, AfterValidator(_check_name)]


class StoredFile(BaseModel):
    """One file of the home."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """The content of a backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    software: str
    """Version of the software that made it."""
    made_at: str
    """UTC, ISO 8601."""
    home: Annotated[str, AfterValidator(_check_home)]
    """Where the home was; MLflow's database names it."""
    secrets: SecretsIn
    files: dict[Name, StoredFile]
    empty_folders: tuple[Name, ...]
    elsewhere: tuple[str, ...] = ()
    """State that settings keep outside the home, and that is not in the backup."""


class SealedFile(BaseModel):
    """One secret, as base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: str


_SECRET_FILES: Final = TypeAdapter(dict[Name, SealedFile])


def own_version() -> str:
    """Return the version of this software."""
    return version("ecg-arrhythmia-mlops")


def read_manifest(archive: zipfile.ZipFile) -> Manifest:
    """Read the manifest, and check that this software can restore the archive.

    Raises:
        BackupError: If it cannot.
    """
    try:
        found = archive.getinfo(MANIFEST)
        if found.file_size > _MANIFEST_BYTES:
            msg = f"its manifest must be at most {_MANIFEST_BYTES} bytes, got {found.file_size}"
            raise BackupError(msg)
        text = archive.read(found)
        head = TypeAdapter(dict[str, object]).validate_json(text)
        if head.get("format") != FORMAT:
            msg = (
                f"the backup must have the format {FORMAT}, it has {head.get('format')!r} and was "
                f"made by version {head.get('software')!r}; restore it with that version"
            )
            raise BackupError(msg)
        manifest = Manifest.model_validate_json(text)
    except KeyError as error:
        msg = f"a backup must have a {MANIFEST}, this file has none"
        raise BackupError(msg) from error
    except ValidationError as error:
        msg = f"the manifest of the backup cannot be read: {error.errors()[0]['msg']}"
        raise BackupError(msg) from error
    if _order(manifest.software) > _order(own_version()):
        msg = (
            f"the backup was made by version {manifest.software}, this is {own_version()}; "
            "restore it with that version or a later one"
        )
        raise BackupError(msg)
    expected = {FILES + name for name in manifest.files} | {MANIFEST}
    if manifest.secrets is not SecretsIn.LEFT_OUT:
        expected.add(SECRETS)
    names = archive.namelist()
    if len(names) != len(set(names)) or set(names) != expected:
        strange = sorted(set(names) ^ expected)[:3]
        msg = f"the backup must hold what its manifest names, it differs in {', '.join(strange)}"
        raise BackupError(msg)
    if manifest.secrets is not SecretsIn.LEFT_OUT:
        size = archive.getinfo(SECRETS).file_size
        if size > _SECRETS_BYTES:
            msg = f"its secrets must be at most {_SECRETS_BYTES} bytes, got {size}"
            raise BackupError(msg)
    return manifest


def _order(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def pack_secrets(files: Mapping[str, bytes], *, key_file: Path | None, manifest: bytes) -> bytes:
    """Pack secrets, encrypted where a key file is named.

    Args:
        files: Content by name.
        key_file: File of the key, which is made (mode 0600) when it is missing.
        manifest: The manifest that they are bound to.

    Raises:
        ConfigurationError: If the key file cannot be used.
        BackupError: If it cannot be read or made.
    """
    plain = _SECRET_FILES.dump_json(
        {
            name: SealedFile(content=base64.b64encode(content).decode())
            for name, content in files.items()
        }
    )
    if key_file is None:
        return plain
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    try:
        make_key_file(key_file, secrets.token_urlsafe(32))
    except OSError as error:
        msg = f"the key file {key_file} cannot be made: {error.strerror}"
        raise BackupError(msg) from error
    return salt + nonce + AESGCM(_derive(key_file, salt)).encrypt(nonce, plain, _bind(manifest))


def unpack_secrets(packed: bytes, *, key_file: Path | None, manifest: bytes) -> dict[str, bytes]:
    """Unpack secrets; content by name.

    Raises:
        ConfigurationError: If the key file cannot be used.
        BackupError: If the key is another, or the backup was changed.
    """
    plain = packed
    if key_file is not None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt, rest = packed[:_SALT_BYTES], packed[_SALT_BYTES:]
        nonce, sealed = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        try:
            plain = AESGCM(_derive(key_file, salt)).decrypt(nonce, sealed, _bind(manifest))
        except (InvalidTag, ValueError) as error:
            msg = (
                f"the secrets of the backup cannot be opened with {key_file}: it is another key, "
                "or the backup was changed"
            )
            raise BackupError(msg) from error
    try:
        files = _SECRET_FILES.validate_json(plain)
        return {name: base64.b64decode(file.content) for name, file in files.items()}
    except ValueError as error:
        msg = "the secrets of the backup cannot be read: it was changed"
        raise BackupError(msg) from error


def _derive(key_file: Path, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    try:
        key = read_own_key(key_file, advice=_KEY_ADVICE)
    except OSError as error:
        msg = f"the key file {key_file} cannot be read: {error.strerror}"
        raise BackupError(msg) from error
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=_INFO).derive(key.encode())


def _bind(manifest: bytes) -> bytes:
    return hashlib.sha256(manifest).digest()
