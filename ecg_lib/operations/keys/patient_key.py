"""Patients and clients as keyed hashes (HMAC-SHA256): the same patient, but nobody's name."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.keys.key_files import make_key_file

MIN_KEY_BYTES: Final = 16


def hash_patient(patient_id: str, *, key: bytes) -> str:
    """Hash an identifier; hexadecimal, 64 characters."""
    return hmac.new(key, patient_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def hash_client(client: str, *, key: bytes) -> str:
    """Hash the API key or address of a client; hexadecimal, 16 characters."""
    return hash_patient(f"client {client}", key=key)[:16]


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
            make_key_file(path, secrets.token_hex(32))
        key = path.read_bytes().strip()
    except OSError as error:
        msg = f"the file of the patient key cannot be used: {error.strerror}"
        raise ConfigurationError(msg) from error
    if len(key) < MIN_KEY_BYTES:
        msg = f"the patient key must have at least {MIN_KEY_BYTES} bytes, got {len(key)}"
        raise ConfigurationError(msg)
    return key
