"""API keys: made once and shown once; a file keeps the SHA-256 and the scopes of each.

A line is ``HASH [SCOPE,SCOPE]  # name``; a hash alone may predict and label. ``#`` begins a
comment. A key is 32 random bytes, so that its plain hash cannot be found by guessing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from ecg_lib.errors import ConfigurationError

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f#]{0,80}")
_OWNER_LENGTH: Final = 32


class Scope(StrEnum):
    """Rights of a key."""

    PREDICT = "predict"
    """Send signals and recordings, and read or delete what the key made."""
    LABEL = "label"
    """Send a reader's labels; monitoring scores the model against them."""
    OPERATE = "operate"
    """See the objects of all keys, the model that `/health` names, and the operations page."""
    METRICS = "metrics"
    """Read `/metrics`."""


DEFAULT_SCOPES: Final = frozenset({Scope.PREDICT, Scope.LABEL})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that is accepted."""

    hash: str
    scopes: frozenset[Scope] = DEFAULT_SCOPES

    @property
    def owner(self) -> str:
        """Name of the key in what is stored; it cannot be used as the key."""
        return self.hash[:_OWNER_LENGTH]


class KeysFile(NamedTuple):
    """The content of a keys file."""

    keys: tuple[ApiKey, ...]
    wrong_lines: tuple[int, ...]
    """Numbers, from 1, of lines that are not a key."""


def make_api_key() -> str:
    """Make a key: 43 characters of the URL-safe alphabet."""
    return secrets.token_urlsafe(32)


def hash_api_key(key: bytes) -> str:
    """Hash a key; hexadecimal, 64 characters."""
    return hashlib.sha256(key).hexdigest()


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Read names of scopes.

    Raises
    ------
    ConfigurationError
        If one is not a scope.

    """
    wanted = set(names)
    if not wanted <= set(Scope):
        msg = f"a scope must be one of {', '.join(Scope)}, got {', '.join(sorted(wanted))}"
        raise ConfigurationError(msg)
    return frozenset(map(Scope, wanted))


def write_key_line(key: str, *, name: str = "", scopes: Collection[Scope] = ()) -> str:
    """Write the line of a key, without its end.

    Raises
    ------
    ConfigurationError
        If the name cannot be a comment.

    """
    if not _NAME.fullmatch(name):
        msg = f"the name of a key must be one line of at most 80 characters without #, got {name!r}"
        raise ConfigurationError(msg)
    allowed = ",".join(scope for scope in Scope if scope in scopes)
    parts = (hash_api_key(key.encode()), allowed, f" # {name}" if name else "")
    return " ".join(filter(None, parts))


def add_api_key(path: Path, key: str, *, name: str = "", scopes: Collection[Scope] = ()) -> None:
    """Add the hash of a key to the file, which is made (mode 0600) when there is none.

    Parameters
    ----------
    path : Path
        File of the hashes.
    key : str
    name : str
        Whose key it is; becomes the comment of its line.
    scopes : collection of Scope
        What it may do; to predict and to label when left out.

    Raises
    ------
    ConfigurationError
        If the file cannot be written, or the name cannot be a comment.

    """
    line = write_key_line(key, name=name, scopes=scopes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "rb+") as file:
            text = file.read()
            file.write((b"" if not text or text.endswith(b"\n") else b"\n") + f"{line}\n".encode())
    except OSError as error:
        msg = f"ECG_API_KEYS_FILE cannot be written: {error.strerror}"
        raise ConfigurationError(msg) from error


def read_keys_file(path: Path) -> KeysFile:
    """Read the keys that are accepted.

    None is accepted when the file is missing, empty or unreadable, or when every user can write or
    replace it.
    """
    try:
        if _is_open_to_all(path):
            return KeysFile((), ())
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return KeysFile((), ())
    keys, wrong = [], []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip().lower()
        key = _read_key(text)
        if key is not None:
            keys.append(key)
        elif text:
            wrong.append(number)
    return KeysFile(tuple(keys), tuple(wrong))


def read_api_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read the keys that are accepted; none when the file is missing or has none.

    Raises
    ------
    ConfigurationError
        If a line is neither a key nor a comment, or every user can add a key.

    """
    if path.exists():
        if path.stat().st_mode & stat.S_IWOTH:
            msg = f"ECG_API_KEYS_FILE must not be writable by all users, chmod o-w {path}"
            raise ConfigurationError(msg)
        if _is_open_to_all(path):
            msg = (
                "ECG_API_KEYS_FILE must not be replaceable by other users, it belongs to one or a "
                f"directory above it is writable by all; check {path} and the directories above it"
            )
            raise ConfigurationError(msg)
    found = read_keys_file(path)
    if found.wrong_lines:
        msg = (
            "ECG_API_KEYS_FILE must hold SHA-256 hashes in hexadecimal, one a line, each with its "
            f"scopes ({', '.join(Scope)}) or none; these lines are not: {list(found.wrong_lines)}"
        )
        raise ConfigurationError(msg)
    return found.keys


def _is_open_to_all(path: Path) -> bool:
    """Return whether every user can write a file or put another in its place, or has done so."""
    if path.stat().st_mode & stat.S_IWOTH:
        return True
    for spelled in (path.absolute(), path.resolve()):
        for child, parent in zip((spelled, *spelled.parents), spelled.parents, strict=False):
            mode = parent.stat().st_mode
            # In a sticky directory a name belongs to whoever took it first.
            is_own = mode & stat.S_ISVTX and child.lstat().st_uid in {0, os.geteuid()}
            if mode & stat.S_IWOTH and not is_own:
                return True
    return False


def _read_key(text: str) -> ApiKey | None:
    """Read a line without its comment; None when it is not a key."""
    found, _, listed = text.partition(" ")
    names = [name.strip() for name in listed.split(",")] if listed.strip() else []
    if not _HASH.fullmatch(found) or not set(names) <= set(Scope):
        return None
    return ApiKey(hash=found, scopes=frozenset(map(Scope, names)) or DEFAULT_SCOPES)


def find_api_key(key: bytes | None, accepted: Collection[ApiKey]) -> ApiKey | None:
    """Find a key among those accepted, in a time that does not tell how far it matched."""
    if key is None:
        return None
    found, match = hash_api_key(key), None
    for one in accepted:
        if hmac.compare_digest(found, one.hash):
            match = one
    return match
