"""API keys: a file with the SHA-256 of each key in hexadecimal, one a line, ``#`` for comments."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from ecg_lib.errors import ConfigurationError

HEADER: Final = b"x-api-key"
_HASH: Final = re.compile(r"[0-9a-f]{64}")


def read_api_keys(path: Path) -> tuple[str, ...]:
    """Read the hashes of the keys that are accepted.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, has no hash, or a line that is none.

    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
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
    found = hashlib.sha256(key).hexdigest()
    return sum(hmac.compare_digest(found, accepted) for accepted in hashes) > 0
