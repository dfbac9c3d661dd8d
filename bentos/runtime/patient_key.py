"""Patient identifiers as keyed hashes (HMAC-SHA256): the same patient, but nobody's name."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from ecg_lib.errors import ConfigurationError

MIN_KEY_BYTES: Final = 16


def hash_patient(patient_id: str, *, key: bytes) -> str:
    """Hash an identifier; hexadecimal, 64 characters."""
    return hmac.new(key, patient_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def read_patient_key(path: Path) -> bytes:
    """Read the key, and make it (mode 0600) when there is none.

    Processes that start together get the same key.

    Raises
    ------
    ConfigurationError
        If the file cannot be used.

    """
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        msg = f"the file of the patient key cannot be used: {error.strerror}"
        raise ConfigurationError(msg) from error
    if len(key) < MIN_KEY_BYTES:
        msg = f"the patient key must have at least {MIN_KEY_BYTES} bytes, got {len(key)}"
        raise ConfigurationError(msg)
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(32).encode())
    try:
        # A link does not replace: whoever comes second uses the key of the first.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
