"""A store in a folder, such as one that several machines mount."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ecg_lib.operations.store.objects import (
    MOST_FILE_BYTES,
    MOST_READ_BYTES,
    ConflictError,
    Listed,
    Stored,
    StoreError,
    check_size,
)
from ecg_lib.records.atomic_files import replacing, require_room

_LOCK: Final = ".lock"


class FolderObjects:
    """Objects as files below a folder; a conditional write holds a lock of the folder.

    Parameters
    ----------
    root : Path
        Made when missing.

    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str, *, most_bytes: int = MOST_READ_BYTES) -> Stored | None:
        """Read a small object; None if there is none."""
        with _explained(key):
            try:
                with self._path_of(key).open("rb") as file:
                    check_size(key, os.fstat(file.fileno()).st_size, most_bytes=most_bytes)
                    content = file.read()
            except FileNotFoundError:
                return None
        return Stored(content, hashlib.sha256(content).hexdigest())

    def find_version(self, key: str) -> str | None:
        """Return the version of an object; None if there is none."""
        with _explained(key):
            try:
                with self._path_of(key).open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                return None

    def replace(self, key: str, content: bytes, *, expected: str | None) -> str:
        """Write an object if it still has the expected version."""
        with _explained(key):
            self._root.mkdir(parents=True, exist_ok=True)
            with (self._root / _LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.find_version(key) != expected:
                    msg = f"{key} was written by another machine meanwhile"
                    raise ConflictError(msg)
                self.write(key, content)
        return hashlib.sha256(content).hexdigest()

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, replacing any other."""
        with _explained(key), replacing(self._make_parents(key), is_durable=True) as draft:
            draft.write_bytes(content)

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object, replacing any other."""
        with _explained(key), replacing(self._make_parents(key), is_durable=True) as draft:
            shutil.copyfile(path, draft)

    def download(self, key: str, path: Path, *, most_bytes: int = MOST_FILE_BYTES) -> bool:
        """Write an object to a file; False if there is none."""
        found = self._path_of(key)
        if not found.is_file():
            return False
        with _explained(key):
            n_bytes = found.stat().st_size
            check_size(key, n_bytes, most_bytes=most_bytes)
            require_room(path.parent, n_bytes=n_bytes)
            with replacing(path) as draft:
                shutil.copyfile(found, draft)
        return True

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""
        with _explained(key):
            self._path_of(key).unlink(missing_ok=True)

    def list_objects(self, prefix: str) -> Iterator[Listed]:
        """List the objects below a prefix, without drafts."""
        with _explained(prefix):
            for path in self._path_of(prefix.removesuffix("/")).rglob("*"):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue  # it was removed meanwhile
                if stat.S_ISREG(status.st_mode) and not path.name.startswith("."):
                    yield Listed(path.relative_to(self._root).as_posix(), status.st_mtime)

    def _path_of(self, key: str) -> Path:
        return self._root.joinpath(*key.split("/"))

    def _make_parents(self, key: str) -> Path:
        path = self._path_of(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def _explained(key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{key} of the store cannot be read or written: {error.strerror or error}"
        raise StoreError(msg) from error
