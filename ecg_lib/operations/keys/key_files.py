"""Secrets in files of their own, made at the first start and readable by their owner alone."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from ecg_lib.errors import ConfigurationError


def make_key_file(path: Path, key: str) -> None:
    """Write a key (mode 0600) unless the file exists.

    Processes that start together get the same key: a link does not replace a file, so that the
    second process uses the key of the first.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def read_own_key(path: Path) -> str:
    """Read a key that only this user can read.

    Raises
    ------
    ConfigurationError
        If the file belongs to another user, or others can read or replace it.
    OSError
        If it cannot be read.

    """
    with path.open(encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        text = file.read()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid() or mode & 0o077:
        msg = (
            f"the secret {path} must belong to this user and have mode 0600, it has mode "
            f"{mode:04o} and belongs to uid {found.st_uid}; remove it, and a new one is made"
        )
        raise ConfigurationError(msg)
    return text.strip()
