"""API keys: made once and shown once; a file keeps the SHA-256 of each, ``#`` begins a comment.

A key is 32 random bytes, so that its plain hash cannot be found by guessing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Final

from ecg_lib.errors import ConfigurationError

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f#]{0,80}")


def make_api_key() -> str:
    """Make a key: 43 characters of the URL-safe alphabet."""
    return secrets.token_urlsafe(32)


def hash_api_key(key: bytes) -> str:
    """Hash a key; hexadecimal, 64 characters."""
    return hashlib.sha256(key).hexdigest()


def add_api_key(path: Path, key: str, *, name: str = "") -> None:
    """Add the hash of a key to the file, which is made (mode 0600) when there is none.

    Parameters
    ----------
    path : Path
        File of the hashes.
    key : str
    name : str
        Whose key it is; becomes the comment of its line.

    Raises
    ------
    ConfigurationError
        If the file cannot be written, or the name cannot be a comment.

    """
    if not _NAME.fullmatch(name):
        msg = f"the name of a key must be one line of at most 80 characters without #, got {name!r}"
        raise ConfigurationError(msg)
    line = f"{hash_api_key(key.encode())}{f'  # {name}' if name else ''}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "rb+") as file:
            text = file.read()
            file.write((b"" if not text or text.endswith(b"\n") else b"\n") + line.encode())
    except OSError as error:
        msg = f"ECG_API_KEYS_FILE cannot be written: {error.strerror}"
        raise ConfigurationError(msg) from error


def read_api_keys(path: Path) -> tuple[str, ...]:
    """Read the hashes of the keys that are accepted.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, has no hash, or a line that is none.

    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"ECG_API_KEYS_FILE cannot be read: {type(error).__name__}"
        raise ConfigurationError(msg) from error
    hashes = [text for line in lines if (text := line.partition("#")[0].strip().lower())]
    wrong = [number for number, text in enumerate(hashes, 1) if not _HASH.fullmatch(text)]
    if wrong or not hashes:
        msg = (
            "ECG_API_KEYS_FILE must hold SHA-256 hashes in hexadecimal, one a line, "
            f"got {len(hashes)} of which these are none: {wrong}"
        )
        raise ConfigurationError(msg)
    return tuple(hashes)


def is_accepted(key: bytes | None, hashes: tuple[str, ...]) -> bool:
    """Tell whether a key is one of those, in a time that does not tell how far it matched."""
    if key is None:
        return False
    found = hash_api_key(key)
    return sum(hmac.compare_digest(found, accepted) for accepted in hashes) > 0
