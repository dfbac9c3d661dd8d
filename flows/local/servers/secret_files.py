"""Secrets of the platform's own servers, each in a file that only its owner can read."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.keys.key_files import (
    MIN_KEY_CHARACTERS,
    describe_short_key,
    make_key_file,
    read_own_key,
)
from ecg_lib.operations.settings import Settings
from flows.local.servers.gate import Credentials

USER: Final = "ecg"
PREFECT: Final = "prefect"
MLFLOW: Final = "mlflow"

_ADVICE: Final = "remove it, and a new one is made at the next start"


def read_secret(settings: Settings, name: str) -> Credentials:
    """Read the credentials of a server, and make them (mode 0600) at the first start.

    Processes that start together get the same secret.

    Args:
        settings: Where everything is; secrets are in ``secrets`` below the home.
        name: ``PREFECT`` or ``MLFLOW``.

    Raises:
        ConfigurationError: If the file cannot be used, is too short, belongs to another user, or
            can be read by others.
    """
    path = settings.home / "secrets" / name
    try:
        if not path.exists():
            make_key_file(path, secrets.token_urlsafe(32))
        return Credentials(user=USER, password=read_own_key(path, advice=_ADVICE))
    except OSError as error:
        msg = f"the secret {path} cannot be used: {error.strerror}"
        raise ConfigurationError(msg) from error


def read_mounted_secret(path: Path) -> Credentials:
    """Read credentials that a container runtime mounted, whoever owns the file.

    Raises:
        ConfigurationError: If the file cannot be read, or is too short.
    """
    try:
        password = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        msg = f"the secret {path} cannot be used: {error.strerror}"
        raise ConfigurationError(msg) from error
    if len(password) < MIN_KEY_CHARACTERS:
        raise ConfigurationError(describe_short_key(path, password))
    return Credentials(user=USER, password=password)
