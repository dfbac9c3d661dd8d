"""Directories of this machine and prefixes of stores, by one interface; the only door to fsspec."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from ecg_lib.errors import ConfigurationError
from ecg_lib.records.atomic_files import replacing
from flows.recordings.analyzed_files import is_full

_STARTS_AT_ONCE: Final = 1000
"""Files that a store is asked for at a time."""

_ATTEMPTS: Final = 3
_PAUSE_S: Final = 2.0
"""Pause before a store is asked again; the second pause is twice as long."""

_LASTING: Final = (FileNotFoundError, PermissionError, IsADirectoryError)
"""Errors that another attempt does not change."""

_ABSENT: Final = (FileNotFoundError, NotADirectoryError)

_logger = logging.getLogger(__name__)


@contextmanager
def _asking_store() -> Iterator[None]:
    """Raise errors of a store's library as OSError, such as those of botocore without a network."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__ == "builtins":
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of this machine or a prefix of a store, or a file there."""

    files: AbstractFileSystem
    path: str
    """Without the protocol, and absolute."""

    @property
    def is_local(self) -> bool:
        """Whether processes of this machine read and write it as files."""
        return isinstance(self.files, LocalFileSystem)

    @property
    def url(self) -> str:
        """The path as :func:`open_place` takes it."""
        return self.path if self.is_local else str(self.files.unstrip_protocol(self.path))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def below(self, *parts: str) -> Place:
        """Name a place below this one."""
        return Place(self.files, "/".join([self.path.rstrip("/"), *filter(None, parts)]))

    def beside(self, name: str) -> Place:
        """Name a file in the same directory."""
        return Place(self.files, f"{self.path.rpartition('/')[0]}/{name}")

    def is_directory(self) -> bool:
        """Return whether there is a directory, or anything with this prefix.

        False where access is denied: that error comes when the place is read.

        Raises:
            OSError: If the store cannot be asked.
        """
        try:
            return bool(self._describe()["type"] == "directory")
        except (*_ABSENT, PermissionError):
            return False

    def exists(self) -> bool:
        """Return whether there is a file.

        Raises:
            OSError: If the store cannot be asked.
        """
        return self.size() is not None

    def size(self) -> int | None:
        """Return the size of a file in bytes; None if there is none.

        Raises:
            OSError: If the store cannot be asked.
        """
        try:
            described = self._describe()
        except _ABSENT:
            return None
        return int(described["size"] or 0) if described["type"] == "file" else None

    @_asking_store()
    def _describe(self) -> dict[str, Any]:
        # isfile and isdir of fsspec take an error of the store for "no".
        described: dict[str, Any] = self.files.info(self.path)
        return described

    @_asking_store()
    def read(self) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: If there is none.
        """
        content: bytes = self.files.cat_file(self.path)
        return content

    @_asking_store()
    def write(self, content: bytes) -> None:
        """Write a file whole or not at all: a store shows an object when all of it is there."""
        if not self.is_local:
            self.files.pipe_file(self.path, content)
            return
        self.as_path().parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.as_path()) as draft:
            draft.write_bytes(content)

    @_asking_store()
    def upload(self, path: Path) -> None:
        """Write a file with the content of one of this machine."""
        self.files.put_file(str(path), self.path)

    def download(self, path: Path) -> None:
        """Copy a file to this machine; try again after an error that may pass.

        Raises:
            FileNotFoundError: If there is none.
            OSError: If the store or the disk fails.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with _asking_store():
                    self.files.get_file(self.path, str(path))
            except OSError as error:
                if attempt == _ATTEMPTS or not _may_pass(error):
                    raise
                _logger.warning("%s is fetched again: %s", self.name, error)
                time.sleep(_PAUSE_S * attempt)
            else:
                return

    @_asking_store()
    def remove_files(self, names: Sequence[str]) -> None:
        """Remove files of this directory."""
        for start in range(0, len(names), _STARTS_AT_ONCE):
            some = names[start : start + _STARTS_AT_ONCE]
            self.files.rm([self.below(name).path for name in some])

    @_asking_store()
    def list_names(self) -> list[str]:
        """List the files below, by their paths after this place; an absent place has none."""
        self.files.invalidate_cache()
        cut = len(self.path.rstrip("/")) + 1
        return sorted(path[cut:] for path in self.files.find(self.path))

    def read_starts(self, sizes: dict[str, int]) -> dict[str, bytes]:
        """Read the beginnings of files of this directory, by name; try again like a download.

        Files that cannot be read are left out.

        Args:
            sizes: Bytes to read of each.
        """
        found: dict[str, bytes] = {}
        todo = dict(sizes)
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_S * attempt)
            failed: dict[str, int] = {}
            for name, start in self._read_once(todo):
                if isinstance(start, bytes):
                    found[name] = start
                elif _may_pass(start):
                    failed[name] = todo[name]
            if not failed:
                break
            todo = failed
        return found

    def _read_once(self, sizes: dict[str, int]) -> Iterator[tuple[str, bytes | Exception]]:
        names = list(sizes)
        for at in range(0, len(names), _STARTS_AT_ONCE):
            some = names[at : at + _STARTS_AT_ONCE]
            contents = self.files.cat_ranges(
                [self.below(name).path for name in some],
                [0] * len(some),
                [sizes[name] for name in some],
                on_error="return",
            )
            yield from zip(some, contents, strict=True)

    def walk(self, *, is_entered: Callable[[str], bool]) -> Iterator[tuple[str, dict[str, int]]]:
        """Walk through this directory and all below.

        Args:
            is_entered: Whether to enter a directory, by its path. Hidden ones and links to
                directories are never entered.

        Yields:
            The directory, as a path after this place, and the sizes of its files in bytes by name.

        Raises:
            OSError: If a directory cannot be listed.
        """
        with _asking_store():
            self.files.invalidate_cache()
            root = self.path.rstrip("/")
            walked: Iterator[tuple[str, dict[str, Any], dict[str, Any]]] = self.files.walk(
                root, detail=True, on_error="raise"
            )
            for folder, directories, files in walked:
                for name, about in list(directories.items()):
                    is_link = about.get("islink", False)
                    if name.startswith(".") or is_link or not is_entered(about["name"].rstrip("/")):
                        del directories[name]
                yield (
                    folder.rstrip("/")[len(root) + 1 :],
                    {
                        name: int(about["size"] or 0)
                        for name, about in files.items()
                        if name and self._is_file(about)
                    },
                )

    def _is_file(self, about: dict[str, Any]) -> bool:
        """Return whether an entry of a listing is a file, or a link to one."""
        is_link = about.get("islink", False)
        return about["type"] == "file" or bool(is_link and self.files.isfile(about["name"]))

    def as_path(self) -> Path:
        """Return the path of a local place."""
        return Path(self.path)


def _may_pass(error: Exception) -> bool:
    """Return whether another attempt may succeed."""
    return not isinstance(error, _LASTING) and not is_full(error)


def open_place(url: str) -> Place:
    """Open a path of this machine, or the URL of a store such as ``s3://bucket/holters``.

    Raises:
        ConfigurationError: If no installed package reads such a URL.
    """
    if "://" not in url:
        return Place(LocalFileSystem(), os.path.abspath(url))  # noqa: PTH100  no link is followed, ".." goes
    try:
        files, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        msg = f"{url} must be a path, or the URL of a store that can be opened: {error}"
        raise ConfigurationError(msg) from error
    if isinstance(files, LocalFileSystem):
        return open_place(path)
    return Place(files, path)
