"""Share the served release between machines through the store.

Each home has its own copy of everything, and its service reads only that copy, so a service goes on
while the store is down. The pointer ``serving/current.json`` of the store names the release that
all machines are to serve. Code and bundle are one archive each, named by their tags. They are used
only after signature and hashes have been checked. The pointer itself is not signed.

A home records which version of the pointer it knows. If the store has another version, another
machine has released, and the home adopts that release. If the home serves another release than
that version names, the home has released, and publishes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecg_lib.operations.keys.signatures import (
    SignatureError,
    check_code,
    check_signature,
    has_key,
    key_path,
    signature_path,
)
from ecg_lib.operations.releases import (
    BYTECODE,
    CURRENT,
    Release,
    ReleaseError,
    bento_source,
    is_same_release,
    model_directory,
    read_release,
    write_release,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.archives import (
    DamagedArchiveError,
    download_directory,
    upload_directory,
)
from ecg_lib.operations.store.objects import ObjectStore, StoreError
from ecg_lib.operations.store.shared_files import hash_file
from ecg_lib.records.atomic_files import write_durably

RELEASE_LOCK: Final = "release.lock"
"""Lock below ``serving``, held by a release, a rollback, or the adoption of a release."""

POINTER: Final = "serving/current.json"
_KNOWN: Final = "store-state.json"
_MANIFEST: Final = Path("bundle", "manifest.json")
_MOST_SIGNATURE_BYTES: Final = 2**16
_MOST_POINTER_BYTES: Final = 2**20

_logger = logging.getLogger(__name__)


class PointerError(ReleaseError):
    """The pointer of the store names no release."""


class Known(BaseModel):
    """The versions in the store that a home knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str = ""
    pointer: str | None = None
    """Version of the pointer that the home has adopted or written."""
    ledger: str | None = None
    """Version of the ledger."""
    ledger_head: str | None = None
    """Last commit of this version of the ledger, if the home has written it."""
    archives: dict[str, str] = Field(default_factory=dict)
    """Versions of the archives of the served release that hold what this home has."""


def read_known(settings: Settings) -> Known:
    """Read the versions that the home knows; none of them if the settings name another store."""
    try:
        known = Known.model_validate_json((settings.serving_dir / _KNOWN).read_bytes())
    except (FileNotFoundError, ValidationError):
        known = Known()
    url = settings.store_url or ""
    return known if known.url == url else Known(url=url)


def write_known(settings: Settings, known: Known) -> None:
    """Record the versions that the home knows."""
    write_durably(settings.serving_dir / _KNOWN, known.model_dump_json(indent=2))


def adopt_release(settings: Settings, store: ObjectStore) -> Release | None:
    """Adopt the release of another machine; return it, or None if there is no other one.

    The caller holds the lock of releases.

    Raises
    ------
    StoreError
        If the store cannot be reached, or the home has no key of releases.
    ReleaseError
        If the release is not in the store, or differs from what was signed.
    PointerError
        If the pointer cannot be read.

    """
    known = read_known(settings)
    stored = store.read(POINTER, most_bytes=_MOST_POINTER_BYTES)
    if stored is None or stored.version == known.pointer:
        return None
    release = _parse(stored.content)
    current = _read_or_none(settings)
    if not is_same_release(current, release):
        fetch_release(settings, store, release)
        if current is not None:
            _logger.warning(
                "another machine released %s, which replaces %s",
                *(release.bento_tag, current.bento_tag),
            )
    # Also when it is served already: workers that rejected the one in between look at it again.
    write_release(settings.serving_dir / CURRENT, release)
    write_known(settings, known.model_copy(update={"pointer": stored.version}))
    return release


def publish_release(settings: Settings, store: ObjectStore) -> bool:
    """Make all machines serve what this home serves; return whether anything was written.

    The caller holds the lock of releases.

    Raises
    ------
    ConflictError
        If another machine has released meanwhile; nothing is changed.
    StoreError
        If the store cannot be reached.
    ReleaseError
        If the release of this home cannot be read.

    """
    current = read_release(settings.serving_dir / CURRENT)
    if current is None:
        return False
    known = read_known(settings)
    stored = store.read(POINTER, most_bytes=_MOST_POINTER_BYTES)
    expected = known.pointer
    if stored is None:  # never written, or deleted
        expected = None
    else:
        try:
            is_same = is_same_release(current, _parse(stored.content))
        except PointerError:  # damaged: no machine can adopt it
            is_same, expected = False, stored.version
        if is_same:
            is_repaired = upload_release(settings, store, current)
            known = read_known(settings)
            if stored.version != known.pointer:
                write_known(settings, known.model_copy(update={"pointer": stored.version}))
            return is_repaired
    upload_release(settings, store, current)
    content = current.model_dump_json(indent=2).encode()
    version = store.replace(POINTER, content, expected=expected)
    write_known(settings, read_known(settings).model_copy(update={"pointer": version}))
    return True


def upload_release(settings: Settings, store: ObjectStore, release: Release) -> bool:
    """Write what is missing or damaged of a release to the store: code, bundle and signature.

    An archive whose version this home knows is not read; another one is compared with the home.

    Returns
    -------
    bool
        Whether anything was written.

    Raises
    ------
    StoreError
        If the store cannot be reached, or a file cannot be read.
    ReleaseError
        If the copy of this home is not as it was signed; nothing is written.

    """
    known = read_known(settings).archives
    archives = dict(_archives(settings, release))
    found = {key: store.find_version(key) for key in archives.values()}
    unsure = {
        directory: key
        for directory, key in archives.items()
        if found[key] is None or found[key] != known.get(key)
    }
    is_changed = False
    if unsure:
        _check(settings, release)
    for directory, key in unsure.items():
        if found[key] is None or not _holds(store, key, directory):
            upload_directory(store, directory, key, leave_out=BYTECODE)
            found[key] = store.find_version(key)
            is_changed = True
    versions = {key: version for key, version in found.items() if version is not None}
    if versions != known:
        write_known(settings, read_known(settings).model_copy(update={"archives": versions}))
    path = signature_path(settings, release)
    signature = store.read(_signature_key(path))
    if signature is None or signature.content != path.read_bytes():
        store.upload(path, _signature_key(path))
        is_changed = True
    return is_changed


def _holds(store: ObjectStore, key: str, directory: Path) -> bool:
    """Return whether an archive of the store holds the files of a directory."""
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as place:
        draft = Path(place) / "draft"
        try:
            is_there = download_directory(store, key, draft)
        except DamagedArchiveError as error:
            _logger.warning("%s", error)
            return False
        return is_there and _hash_files(draft) == _hash_files(directory)


def _hash_files(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hash_file(path)
        for path in directory.rglob("*")
        if path.is_file() and BYTECODE not in path.relative_to(directory).parts
    }


def fetch_release(settings: Settings, store: ObjectStore, release: Release) -> None:
    """Copy the missing or damaged parts of a release to the home, and check them.

    Raises
    ------
    StoreError
        If the store cannot be reached, or the home has no key of releases.
    ReleaseError
        If the store lacks it too, or it differs from what was signed; the home is left as it was.

    """
    if not has_key(settings):
        msg = (
            f"{key_path(settings)} must hold the key of the machine that released "
            f"{release.bento_tag}, it is missing; copy it (ECG_RELEASE_KEY_FILE)"
        )
        raise StoreError(msg)
    _fetch_signature(settings, store, release)
    archives = dict(_archives(settings, release))
    present = [directory for directory in archives if directory.is_dir()]
    made: list[Path] = []
    try:
        for directory, key in archives.items():
            if directory not in present:
                _unpack(store, key, directory, release)
                made.append(directory)
        try:
            _check(settings, release)
        except ReleaseError as error:
            if not present:
                raise
            _logger.warning("%s is damaged and copied again: %s", release.bento_tag, error)
            _copy_again(settings, store, release, {one: archives[one] for one in present})
    except (ReleaseError, StoreError):
        for directory in made:
            shutil.rmtree(directory, ignore_errors=True)
        raise


@contextmanager
def holding_releases(settings: Settings) -> Iterator[bool]:
    """Hold the lock of releases, if it is free; yield whether it is."""
    settings.serving_dir.mkdir(parents=True, exist_ok=True)
    with (settings.serving_dir / RELEASE_LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _archives(settings: Settings, release: Release) -> Iterator[tuple[Path, str]]:
    model = model_directory(settings.bentoml_home, release)
    for directory in (bento_source(settings.bentoml_home, release).parent, model):
        name = directory.relative_to(settings.bentoml_home).as_posix()
        yield directory, f"{name}.tar.gz"


def _signature_key(path: Path) -> str:
    return f"signatures/{path.name}"


def _fetch_signature(settings: Settings, store: ObjectStore, release: Release) -> None:
    try:
        check_signature(settings, release)
    except SignatureError:
        path = signature_path(settings, release)
        path.parent.mkdir(parents=True, exist_ok=True)
        if store.download(_signature_key(path), path, most_bytes=_MOST_SIGNATURE_BYTES):
            check_signature(settings, release)
        else:
            raise


def _check(settings: Settings, release: Release) -> None:
    check_code(settings, release)
    _check_bundle(settings, release)


def _check_bundle(settings: Settings, release: Release) -> None:
    """Check the manifest of a bundle, whose hash the release names, and the files that it lists."""
    manifest = model_directory(settings.bentoml_home, release) / _MANIFEST
    text = manifest.read_bytes() if manifest.is_file() else None
    found = "none" if text is None else hashlib.sha256(text).hexdigest()
    if text is None or found != release.bundle_hash:
        msg = (
            f"{release.model_tag} must be the bundle {release.bundle_hash[:12]}, it is {found[:12]}"
        )
        raise ReleaseError(msg, bento_tag=release.bento_tag)
    content = json.loads(text)
    listed = content.get("files", {}) if isinstance(content, dict) else {}
    for name, expected in listed.items():
        path = manifest.parent / name
        if not path.is_file() or hash_file(path) != expected:
            msg = f"{name} of {release.model_tag} must have the SHA-256 of the manifest, it has not"
            raise ReleaseError(msg, bento_tag=release.bento_tag)


def _unpack(
    store: ObjectStore, key: str, directory: Path, release: Release, *, aside: Path | None = None
) -> None:
    """Copy a directory, whole or not at all; move the one that is there to `aside`."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as place:
            draft = Path(place) / "draft"
            if not download_directory(store, key, draft):
                msg = f"{release.bento_tag} must be in the store, {key} is not"
                raise ReleaseError(msg, bento_tag=release.bento_tag)
            if aside is not None:
                directory.rename(aside)
            draft.rename(directory)
    except OSError as error:
        msg = f"{key} of the store cannot be unpacked: {error}"
        raise StoreError(msg) from error


def _copy_again(
    settings: Settings, store: ObjectStore, release: Release, archives: Mapping[Path, str]
) -> None:
    """Replace parts that the home has; restore them if the release is still not as signed.

    Another release, the served one among them, may share a part that is not damaged.
    """
    with tempfile.TemporaryDirectory(dir=settings.bentoml_home, prefix=".fetch-") as place:
        replaced = {one: Path(place) / str(number) for number, one in enumerate(archives)}
        try:
            for directory, key in archives.items():
                _unpack(store, key, directory, release, aside=replaced[directory])
            _check(settings, release)
        except (ReleaseError, StoreError):
            for directory, old in replaced.items():
                if old.is_dir():
                    shutil.rmtree(directory, ignore_errors=True)
                    old.rename(directory)
            raise


def _parse(content: bytes) -> Release:
    try:
        return Release.model_validate_json(content)
    except ValidationError as error:
        msg = f"{POINTER} of the store must hold a release, it does not"
        raise PointerError(msg, bento_tag="unknown") from error


def _read_or_none(settings: Settings) -> Release | None:
    try:
        return read_release(settings.serving_dir / CURRENT)
    except ReleaseError:
        return None  # torn; the one of the store replaces it
