"""Secrets of the platform's own servers, each in a file that only its owner can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.settings import Settings
from flows.local.servers.gate import Credentials

USER: Final = "ecg"
PREFECT: Final = "prefect"
MLFLOW: Final = "mlflow"
MIN_SECRET_CHARACTERS: Final = 32


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
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        with path.open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        msg = f"the secret {path} cannot be used: {error.strerror}"
        raise ConfigurationError(msg) from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        msg = (
            f"the secret {path} must belong to this user and have mode 0600, it has mode "
            f"{mode:04o} and belongs to uid {found.st_uid}; remove it, and a new one is made"
        )
        raise ConfigurationError(msg)
    return _credentials(path, text)


def read_mounted_secret(path: Path) -> Credentials:
    """Read credentials that a container runtime mounted, whoever owns the file.

    Raises:
        ConfigurationError: If the file cannot be read, or is too short.
    """
    try:
        return _credentials(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"the secret {path} cannot be used: {error.strerror}"
        raise ConfigurationError(msg) from error


def _credentials(path: Path, text: str) -> Credentials:
    password = text.strip()
    if len(password) < MIN_SECRET_CHARACTERS:
        msg = (
            f"the secret {path} must have at least {MIN_SECRET_CHARACTERS} characters, "
            f"it has {len(password)}"
        )
        raise ConfigurationError(msg)
    return Credentials(user=USER, password=password)


def _make(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link does not replace: the second process uses the secret of the first.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
