"""Signatures of releases: what may be served is what this home released, unchanged.

A release is signed (HMAC-SHA256) when it is made. The key is made at the first start, mode 0600,
and is not in the folders of releases, bundles and code. Before the code of a release runs, its
signature and the hash of its code are checked; so a bundle, its manifest and the release file that
were rewritten together are not served. Whoever can read the key can sign: each process of the same
user, and each container that mounts the volume of the home.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.keys.key_files import make_key_file, read_own_key
from ecg_lib.operations.releases import (
    BYTECODE,
    CodeError,
    Release,
    ReleaseError,
    bento_source,
    identify,
    list_code_files,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import write_durably

_KEY_ADVICE: Final = (
    "put it back from a backup; if only its mode is wrong and nobody else used it, chmod 0600 it; "
    "without a backup remove it, and sign what you trust with `ecg doctor --sign TAG`, because no "
    "earlier signature is valid with another key"
)


class SignatureError(ReleaseError):
    """A release that is not signed, or is not as it was when it was signed."""


class UnsignedError(SignatureError):
    """A release without a signature, or with one that cannot be read."""


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


def key_path(settings: Settings) -> Path:
    """Return the path of the key."""
    return settings.release_key_path


def has_key(settings: Settings) -> bool:
    """Return whether this home has a key of releases."""
    return key_path(settings).exists()


def make_key(settings: Settings) -> None:
    """Make the key, unless there is one."""
    make_key_file(key_path(settings), secrets.token_urlsafe(32))


def sign_release(settings: Settings, release: Release, *, why: str) -> None:
    """Sign a release with its code as it is in the store now.

    Raises
    ------
    SignatureError
        If the key cannot be used, or the code is missing or has links.

    """
    draft = Signature(
        release=identify(release),
        code_digest=_digest_code(settings, release),
        signed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why,
    )
    signed = draft.model_copy(update={"hmac": draft.compute_hmac(_read_key(settings, release))})
    write_durably(signature_path(settings, release), signed.model_dump_json(indent=2))


def is_signed(settings: Settings, release: Release) -> bool:
    """Return whether a release has a signature that is valid; its code is not looked at."""
    try:
        check_signature(settings, release)
    except SignatureError:
        return False
    return True


def check_signature(settings: Settings, release: Release) -> Signature:
    """Check that a release was signed in this home, with this bundle and this code.

    Raises
    ------
    UnsignedError
        If it has no signature, or one that cannot be read.
    SignatureError
        If the signature is of something else, or the key cannot be used.

    """
    key, path = _read_key(settings, release), signature_path(settings, release)
    advice = f"look at it, then sign it with `ecg doctor --sign {release.bento_tag}`"
    try:
        found = Signature.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        msg = _describe(release, f"has no signature of this home; {advice}")
        raise UnsignedError(msg, bento_tag=release.bento_tag) from error
    except (OSError, ValidationError) as error:
        msg = _describe(release, f"has a signature that cannot be read; {advice}")
        raise UnsignedError(msg, bento_tag=release.bento_tag) from error
    is_ours = hmac.compare_digest(found.hmac, found.compute_hmac(key))
    if not is_ours or found.release != identify(release):
        raise _reject(release, f"is not what its signature says; {advice}")
    return found


def check_code(settings: Settings, release: Release) -> None:
    """Check signature and code of a release, and change nothing.

    Raises
    ------
    UnsignedError
        If it has no signature, or one that cannot be read.
    SignatureError
        If its signature is wrong, its code has changed or has links, or the key cannot be used.

    """
    signature = check_signature(settings, release)
    found = _digest_code(settings, release)
    if found != signature.code_digest:
        raise _reject(
            release,
            f"must have the code {signature.code_digest[:12]} that was signed, it has "
            f"{found[:12]}; restore it, or look at it and sign it with "
            f"`ecg doctor --sign {release.bento_tag}`",
        )


def prepare_code(settings: Settings, release: Release) -> None:
    """Make the code of a release ready to run: check it, and remove compiled code.

    The caller runs the code with ``PYTHONDONTWRITEBYTECODE``.

    Raises
    ------
    SignatureError
        If :func:`check_code` rejects it, or compiled code cannot be removed.

    """
    check_code(settings, release)
    try:
        remove_compiled(bento_source(settings.bentoml_home, release))
    except OSError as error:
        raise _reject(release, f"has compiled code that cannot be removed: {error}") from error


def remove_compiled(source: Path) -> None:
    """Remove compiled code below a directory, which Python prefers and which no hash covers.

    Raises
    ------
    OSError
        If it cannot be removed.

    """
    for compiled in [*source.rglob(BYTECODE)]:
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            shutil.rmtree(compiled)


def signature_path(settings: Settings, release: Release) -> Path:
    """Name the file of the signature of a release."""
    name = hashlib.sha256(json.dumps(identify(release), sort_keys=True).encode()).hexdigest()
    return settings.signatures_dir / f"{name[:32]}.json"


def _read_key(settings: Settings, release: Release) -> str:
    path = key_path(settings)
    try:
        return read_own_key(path, advice=_KEY_ADVICE)
    except FileNotFoundError as error:
        if not any(settings.signatures_dir.glob("*.json")):
            raise _reject(
                release,
                "is not signed yet, as this home has no key of releases; `ecg up` or `ecg doctor` "
                "makes the key and signs what earlier code released",
            ) from error
        raise _reject(
            release,
            f"cannot be checked without the key of releases {path}; restore it from a backup, or "
            f"sign what you trust with `ecg doctor --sign {release.bento_tag}`",
        ) from error
    except (OSError, ConfigurationError) as error:
        raise _reject(release, f"cannot be checked: {error}") from error


def _digest_code(settings: Settings, release: Release) -> str:
    """Compute a hash of every file that a process with this code could import or read."""
    source = bento_source(settings.bentoml_home, release)
    if not source.is_dir():
        raise _reject(release, "must have its code in the store, it has not")
    digest = hashlib.sha256()
    try:
        for path in list_code_files(source):
            name = path.relative_to(source).as_posix()
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{json.dumps(name)} {content}\n".encode())
    except CodeError as error:
        raise _reject(release, f"has code that cannot be signed: {error}") from error
    except OSError as error:
        raise _reject(release, f"has code that cannot be read: {error}") from error
    return digest.hexdigest()


def _reject(release: Release, problem: str) -> SignatureError:
    return SignatureError(_describe(release, problem), bento_tag=release.bento_tag)


def _describe(release: Release, problem: str) -> str:
    return f"{release.bento_tag} of model {release.model_version} {problem}"
