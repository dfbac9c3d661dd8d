"""Releases: the content of ``serving/current.json``, and where BentoML's store keeps its parts.

The latest events of the release ledger are a file too: reading its git repository takes a library
that the service does not have.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from ecg_lib.errors import EcgError
from ecg_lib.records.atomic_files import write_durably, write_whole

BUNDLE_MODEL: Final = "ecg_bundle"
"""Name of bundles in BentoML's model store."""

CURRENT: Final = "current.json"
"""The release that the service is to serve; written by a release or a rollback."""

SERVED: Final = "served.json"
"""The release that all workers served last; written by the host."""

LAST_GOOD: Final = "last-good.json"
"""The release that was served before that one; what the service starts with when the current
release cannot be loaded."""

NOTES: Final = "history.json"
"""The latest events of the ledger, in its directory; written with each event."""

Tag = Annotated[str, Field(pattern=r"^[a-z0-9_]+:[A-Za-z0-9_.\-]+$", max_length=128)]


class ReleaseError(EcgError):
    """A release that the service does not take, or whose file cannot be read."""

    def __init__(self, message: str, *, bento_tag: str) -> None:
        super().__init__(message)
        self.bento_tag = bento_tag


class CodeError(EcgError):
    """The code of a bento is not what was packed, or has links."""


class Release(BaseModel):
    """One release, as the file says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bento_tag: Tag
    model_tag: Tag
    bundle_hash: str
    code_hash: str
    model_version: str
    released_at: str
    """ISO 8601, with its zone."""

    @field_validator("released_at")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        if datetime.fromisoformat(text).tzinfo is None:
            msg = f"a time must have a zone, got {text!r}"
            raise ValueError(msg)
        return text


def read_release(path: Path) -> Release | None:
    """Read a release; None when the file does not exist.

    Raises
    ------
    ReleaseError
        If the file cannot be read or does not hold a release.

    """
    try:
        return Release.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        msg = f"{path.name} cannot be read: {error.strerror}"
        raise ReleaseError(msg, bento_tag="unknown") from error
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()
        )
        msg = f"{path.name} must be a release: {reasons}"
        raise ReleaseError(msg, bento_tag="unknown") from error


def write_release(path: Path, release: Release) -> None:
    """Write a release, whole or not at all."""
    write_durably(path, release.model_dump_json(indent=2))


class ReleaseNote(BaseModel):
    """One event of the release ledger."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    commit: str
    """Commit of the ledger."""
    at: str
    """UTC, ISO 8601."""
    kind: str
    """release, rollback, noted, refused, abandoned or signed."""
    who: str
    why: str
    bento_tag: str
    model_version: str
    before: str | None
    """Bento that was served before."""
    is_verified: bool
    """True when the running service answered with the release."""
    is_signed: bool
    oof_v_f1: float | None


_NOTES: Final = TypeAdapter(list[ReleaseNote])


def write_release_notes(path: Path, notes: Sequence[ReleaseNote]) -> None:
    """Write events of the ledger, latest first, whole or not at all."""
    write_whole(path, _NOTES.dump_json(list(notes), indent=2).decode())


def read_release_notes(path: Path) -> list[ReleaseNote] | None:
    """Read the latest events of the ledger, latest first; None when the file does not exist.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it does not hold events.

    """
    try:
        return _NOTES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None


def is_same_release(one: Release | None, other: Release | None) -> bool:
    """Return whether two releases serve the same code and model, whenever they were made."""
    if one is None or other is None:
        return one is other
    return identify(one) == identify(other)


def identify(release: Release) -> dict[str, str]:
    """Return everything that names a release, without the time at which it was served."""
    named: dict[str, str] = release.model_dump(exclude={"released_at"})
    return named


def bento_source(bentoml_home: Path, release: Release) -> Path:
    """Name the directory of a release's code in BentoML's store.

    BentoML itself is not asked: importing it takes longer than all that serves.
    """
    name, _, version = release.bento_tag.partition(":")
    return bentoml_home / "bentos" / name / version / "src"


def model_directory(bentoml_home: Path, release: Release) -> Path:
    """Name the directory of a release's model in BentoML's store."""
    name, _, version = release.model_tag.partition(":")
    return bentoml_home / "models" / name / version


SERVING_PACKAGES: Final = ("bentos", "ecg_lib")
"""The packages of a bento."""

LOCK: Final = "requirements-serving.lock"
"""The packages that a bento runs with."""

BYTECODE: Final = "__pycache__"

_BESIDE_PACKAGES: Final = (LOCK, "bentofile.yaml")
"""Files of a bento next to its packages."""

NOT_SERVING: Final = ("ecg_lib/evaluation", "ecg_lib/training")
"""Folders of these packages that no bento needs; a change in them asks for no new workers."""


def hash_code(root: Path) -> str:
    """Compute the SHA-256 of the serving packages below a directory.

    Parameters
    ----------
    root : Path
        A checkout, or the ``src`` directory of a bento.

    Raises
    ------
    FileNotFoundError
        If a package is missing.

    """
    return _hash_packages(root, left_out=NOT_SERVING)


def check_bento_code(source: Path, code_hash: str) -> None:
    """Check that the code of a bento is what was packed, and nothing else.

    Earlier code left no folder of the packages out of the hash, and packed locks of other bentos.

    Parameters
    ----------
    source : Path
        The ``src`` directory of the bento.
    code_hash : str
        Hash that its release names.

    Raises
    ------
    CodeError
        If its code has another hash, it has files that the hash does not cover, or links.
    FileNotFoundError
        If a package is missing.

    """
    names = [path.relative_to(source) for path in list_code_files(source)]
    found = {hash_code(source): NOT_SERVING, _hash_packages(source, left_out=()): ()}
    if code_hash not in found:
        msg = f"its code does not have the hash {code_hash[:12]}"
        raise CodeError(msg)
    strangers = [str(name) for name in names if _is_strange(name, left_out=found[code_hash])]
    if strangers:
        msg = f"it must hold the code alone, it also has {', '.join(strangers[:5])}"
        raise CodeError(msg)


def _is_strange(name: Path, *, left_out: Sequence[str]) -> bool:
    """Return whether a file could be imported and is not covered by the hash of the packages."""
    if str(name) in _BESIDE_PACKAGES or name.name == LOCK:
        return False
    is_left_out = any(name.is_relative_to(folder) for folder in left_out)
    return is_left_out or name.parts[0] not in SERVING_PACKAGES or len(name.parts) == 1


def list_code_files(source: Path) -> Iterator[Path]:
    """List every file below a directory but compiled code, sorted.

    Raises
    ------
    CodeError
        If something is neither a file nor a directory: what a link leads to may change unnoticed.

    """
    for path in (source, *sorted(source.iterdir())):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            msg = f"{path.name} must be a file or a directory, it is a link or a device"
            raise CodeError(msg)
        elif path != source and path.name != BYTECODE:
            yield from list_code_files(path)


def _hash_packages(root: Path, *, left_out: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for package in SERVING_PACKAGES:
        if not (root / package).is_dir():
            msg = f"{root.name} must hold the packages {SERVING_PACKAGES}, {package} is missing"
            raise FileNotFoundError(msg)
        for path in sorted((root / package).rglob("*")):
            name = path.relative_to(root)
            if any(name.is_relative_to(folder) for folder in left_out):
                continue
            if path.is_file() and BYTECODE not in name.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{name.as_posix()} {content}\n".encode())
    return digest.hexdigest()
