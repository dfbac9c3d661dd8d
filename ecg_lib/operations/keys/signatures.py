"""Signatures of releases: what may be served is what this home released, unchanged.

A release is signed (HMAC-SHA256) when it is made. The key is made at the first start, mode 0600,
and is not in the folders of releases, bundles and code. Before the code of a release runs, its
signature and the hash of its code are checked; so a bundle, its manifest and the release file that
were rewritten together are not served. Another user, another container that shares the volume or a
restored copy cannot make a signature; a process of the same user that reads the key can.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.keys.key_files import make_key_file, read_own_key
from ecg_lib.operations.releases import (
    Release,
    ReleaseError,
    bento_source,
    identify,
)
from ecg_lib.records.atomic_files import write_durably

_KEY: Final = "release-key"
_BYTECODE: Final = "__pycache__"


class Places(Protocol):
    """Where key, signatures and code are; the settings say so."""

    @property
    def home(self) -> Path:
        """Directory with the folder of secrets."""

    @property
    def bentoml_home(self) -> Path:
        """BentoML's store."""

    @property
    def signatures_dir(self) -> Path:
        """Signatures of all releases that were ever served."""


class SignatureError(ReleaseError):
    """A release that is not signed, or is not as it was when it was signed."""


class Signature(BaseModel):
    """The signature of a release, and the reason for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: dict[str, str]
    """Everything that names the release, without the time at which it was served."""
    code_digest: str
    """Hash of every file below the code; :attr:`Release.code_hash` covers two folders of it."""
    signed_at: str
    why: str
    hmac: str = ""

    def compute_hmac(self, key: str) -> str:
        """Compute the HMAC of everything else."""
        content = json.dumps(self.model_dump(exclude={"hmac"}), sort_keys=True)
        return hmac.new(key.encode(), content.encode(), hashlib.sha256).hexdigest()


def key_path(places: Places) -> Path:
    """Return the path of the key."""
    return places.home / "secrets" / _KEY


def has_key(places: Places) -> bool:
    """Return whether this home has a key of releases."""
    return key_path(places).exists()


def make_key(places: Places) -> None:
    """Make the key, unless there is one."""
    make_key_file(key_path(places), secrets.token_urlsafe(32))


def sign_release(places: Places, release: Release, *, why: str) -> None:
    """Sign a release with its code as it is in the store now.

    Raises
    ------
    SignatureError
        If the key cannot be used, or the code is missing.

    """
    draft = Signature(
        release=identify(release),
        code_digest=_digest_code(places, release),
        signed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why,
    )
    signed = draft.model_copy(update={"hmac": draft.compute_hmac(_read_key(places, release))})
    write_durably(_path_of(places, release), signed.model_dump_json(indent=2))


def is_signed(places: Places, release: Release) -> bool:
    """Return whether there is a signature of a release; it may be wrong."""
    return _path_of(places, release).exists()


def check_signature(places: Places, release: Release) -> Signature:
    """Check that a release was signed in this home, with this bundle and this code.

    Raises
    ------
    SignatureError
        If it was not.

    """
    key, path = _read_key(places, release), _path_of(places, release)
    advice = f"look at it, then sign it with `ecg doctor --sign {release.bento_tag}`"
    try:
        found = Signature.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise _reject(release, f"has no signature of this home; {advice}") from error
    except (OSError, ValidationError) as error:
        raise _reject(release, f"has a signature that cannot be read; {advice}") from error
    is_ours = hmac.compare_digest(found.hmac, found.compute_hmac(key))
    if not is_ours or found.release != identify(release):
        raise _reject(release, f"is not what its signature says; {advice}")
    return found


def check_code(places: Places, release: Release) -> None:
    """Check signature and code of a release before its code runs, and remove compiled code.

    The caller runs the code with ``PYTHONDONTWRITEBYTECODE``.

    Raises
    ------
    SignatureError
        If it is not signed, or its code has changed.

    """
    signature = check_signature(places, release)
    found = _digest_code(places, release)
    if found != signature.code_digest:
        raise _reject(
            release,
            f"must have the code {signature.code_digest[:12]} that was signed, it has "
            f"{found[:12]}; restore it, or look at it and sign it with "
            f"`ecg doctor --sign {release.bento_tag}`",
        )
    try:
        remove_compiled(bento_source(places.bentoml_home, release))
    except OSError as error:
        raise _reject(release, f"has compiled code that cannot be removed: {error}") from error


def remove_compiled(source: Path) -> None:
    """Remove compiled code below a directory, which Python prefers and which no hash covers.

    Raises
    ------
    OSError
        If it cannot be removed.

    """
    for compiled in [*source.rglob(_BYTECODE)]:
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            shutil.rmtree(compiled)


def _path_of(places: Places, release: Release) -> Path:
    name = hashlib.sha256(json.dumps(identify(release), sort_keys=True).encode()).hexdigest()
    return places.signatures_dir / f"{name[:32]}.json"


def _read_key(places: Places, release: Release) -> str:
    path = key_path(places)
    try:
        return read_own_key(path)
    except FileNotFoundError as error:
        raise _reject(
            release,
            f"cannot be checked without the key of releases {path}; restore it from a backup, or "
            f"sign what you trust with `ecg doctor --sign {release.bento_tag}`",
        ) from error
    except (OSError, ConfigurationError) as error:
        raise _reject(release, f"cannot be checked: {error}") from error


def _digest_code(places: Places, release: Release) -> str:
    """Compute a hash of every file that a process with this code could import or read."""
    source = bento_source(places.bentoml_home, release)
    if not source.is_dir():
        raise _reject(release, "must have its code in the store, it has not")
    digest = hashlib.sha256()
    try:
        for path in _list_files(source):
            name = path.relative_to(source).as_posix()
            if path.is_symlink():
                content = f"-> {path.readlink()}"
            else:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{json.dumps(name)} {content}\n".encode())
    except OSError as error:
        raise _reject(release, f"has code that cannot be read: {error}") from error
    return digest.hexdigest()


def _list_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name == _BYTECODE and path.is_dir() and not path.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _list_files(path)
        else:
            yield path


def _reject(release: Release, problem: str) -> SignatureError:
    msg = f"{release.bento_tag} of model {release.model_version} {problem}"
    return SignatureError(msg, bento_tag=release.bento_tag)
