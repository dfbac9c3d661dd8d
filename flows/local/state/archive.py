"""The file of a backup: a zip archive of a home, with a manifest and, if wanted, its secrets.

The manifest lists every file with its SHA-256. Secrets are not on that list: they are left out, or
stored as one member, in clear or encrypted by AES-256-GCM (NIST SP 800-38D) under a key that
HKDF-SHA256 (RFC 5869) derives from a key file. The manifest is authenticated with them, so a
rewritten manifest is detected when the key is given.
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
_MANIFEST_BYTES: Final = 2**30
"""About six million files."""
_SECRETS_BYTES: Final = 16 * 2**20
_PACKED: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_IS_ENCRYPTED: Final = 1
"""Flag of a zip member with a password; ours have none."""

SET_ASIDE: Final = "before-"
"""Prefix of the folder into which a restore moves the files of a home."""

STAGING: Final = ".restore-"
"""Prefix of the folder of a home into which a backup is unpacked."""


class BackupError(EcgError):
    """A backup cannot be made, read or restored."""


def describe(error: Exception) -> str:
    """Describe an error; a system error without its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"


class SecretsIn(StrEnum):
    """How a backup holds the secrets."""

    LEFT_OUT = "left out"
    CLEAR = "clear"
    ENCRYPTED = "encrypted"


def _check_name(name: str) -> str:
    path = PurePosixPath(name)
    is_plain = not path.is_absolute() and ".." not in path.parts and str(path) == name
    if not path.parts or not is_plain or "\0" in name or name.startswith((SET_ASIDE, STAGING)):
        msg = f"a name in a backup must be relative and plain, got {name!r}"
        raise ValueError(msg)
    return name


def _check_home(home: str) -> str:
    if not PurePosixPath(home).is_absolute() or "\0" in home:
        msg = f"the home of a backup must be absolute, got {home!r}"
        raise ValueError(msg)
    return home


Name = Annotated[str, AfterValidator(_check_name)]
TimeNs = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class StoredFile(BaseModel):
    """One file of the home."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, lt=2**63)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    modified_ns: TimeNs
    """When it was changed: retention goes by that time."""


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
    folders: dict[Name, TimeNs]
    """When each folder was changed."""
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


def write_manifest(manifest: Manifest) -> bytes:
    """Write a manifest.

    Raises:
        BackupError: If it is so large that it could not be read again.
    """
    text = manifest.model_dump_json().encode()
    if len(text) > _MANIFEST_BYTES:
        msg = (
            f"the manifest of a backup must be at most {_MANIFEST_BYTES} bytes, this home with its "
            f"{len(manifest.files)} files needs {len(text)}; copy the home with another tool while "
            "the platform is down"
        )
        raise BackupError(msg)
    return text


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
        _check_packing(archive)
        head = TypeAdapter(dict[str, object]).validate_json(archive.read(found))
        if head.get("format") != FORMAT:
            msg = (
                f"the backup must have the format {FORMAT}, it has {head.get('format')!r} and was "
                f"made by version {head.get('software')!r}; restore it with that version"
            )
            raise BackupError(msg)
        manifest = Manifest.model_validate(head)
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
        msg = f"the backup must hold the files of its manifest, it differs in {', '.join(strange)}"
        raise BackupError(msg)
    if manifest.secrets is not SecretsIn.LEFT_OUT:
        size = archive.getinfo(SECRETS).file_size
        if size > _SECRETS_BYTES:
            msg = f"its secrets must be at most {_SECRETS_BYTES} bytes, got {size}"
            raise BackupError(msg)
    return manifest


def _check_packing(archive: zipfile.ZipFile) -> None:
    for one in archive.infolist():
        if one.compress_type not in _PACKED or one.flag_bits & _IS_ENCRYPTED:
            msg = f"{one.filename} must be packed as `ecg backup` packs it; it was changed"
            raise BackupError(msg)


def _order(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def pack_secrets(files: Mapping[str, bytes], *, key_file: Path | None, manifest: bytes) -> bytes:
    """Pack secrets, encrypted where a key file is named.

    Args:
        files: Content by name.
        key_file: File of the key, which is made (mode 0600) when it is missing.
        manifest: The manifest to authenticate with them.

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
