"""Secrets in files of their own, made at the first start and readable by their owner alone."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from ecg_lib.errors import ConfigurationError

MIN_KEY_CHARACTERS: Final = 32
"""A file that a crash or an editor emptied must not become a key that everybody knows."""


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


def read_own_key(path: Path, *, advice: str) -> str:
    """Read a key that only this user can read.

    Parameters
    ----------
    path : Path
    advice : str
        What to do when the file cannot be used; ends the message.

    Raises
    ------
    ConfigurationError
        If the file belongs to another user, others can read or replace it, or the key is short.
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
            f"{mode:04o} and belongs to uid {found.st_uid}; {advice}"
        )
        raise ConfigurationError(msg)
    key = text.strip()
    if len(key) < MIN_KEY_CHARACTERS:
        msg = f"{describe_short_key(path, key)}; {advice}"
        raise ConfigurationError(msg)
    return key


def describe_short_key(path: Path, key: str) -> str:
    """Say that a key is too short, without showing it."""
    return (
        f"the secret {path} must have at least {MIN_KEY_CHARACTERS} characters, it has {len(key)}"
    )
