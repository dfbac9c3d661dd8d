"""Directories of this machine and prefixes of stores, by one interface, which is that of fsspec."""

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

from botocore.exceptions import BotoCoreError
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.store.s3_objects import open_client
from ecg_lib.records.atomic_files import replacing
from ecg_lib.records.files.wfdb.header import find_name
from flows.recordings.analyzed_files import is_full
from flows.recordings.batches.s3_files import PROTOCOL, S3Files

_STARTS_AT_ONCE: Final = 1000
"""Files that a store is asked for at a time."""

_ATTEMPTS: Final = 3
_PAUSE_S: Final = 2.0
"""Pause before a store is asked again; the second pause is twice as long."""

_LASTING: Final = (FileNotFoundError, PermissionError, IsADirectoryError)
"""Errors that another attempt does not change."""

_NO_PARTS: Final = frozenset({"", ".", ".."})
"""Parts of a key that would lead results out of the output, or over those of another recording."""

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


def _ignore(_place: Place, _reason: str) -> None:
    """Note nothing: who lists names asks for those that there can be."""


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

    def find_beside(self, name: str) -> Place:
        """Find a file in the same directory, also in other capitals; by its name if none is there.

        Raises:
            OSError: If the directory cannot be listed.
        """
        with _asking_store():
            paths = self.files.ls(self.path.rpartition("/")[0], detail=False)
        return self.beside(find_name((path.rpartition("/")[2] for path in paths), name) or name)

    def is_directory(self) -> bool:
        """Return whether there is a directory, or anything with this prefix.

        False where this machine denies access: that error comes when the place is read.

        Raises:
            OSError: If the store cannot be asked, or denies access.
        """
        try:
            return bool(self._describe()["type"] == "directory")
        except _ABSENT:
            return False
        except PermissionError:
            if self.is_local:
                return False
            raise  # nothing below could be listed

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

    def list_names(self) -> list[str]:
        """List the files below, by their paths after this place; an absent place has none.

        Raises:
            OSError: If a directory cannot be listed.
        """
        try:
            return sorted(
                f"{folder}/{name}" if folder else name
                for folder, files in self.walk(is_entered=bool)
                for name in files
            )
        except _ABSENT:
            return []

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

    def walk(
        self,
        *,
        is_entered: Callable[[str], bool],
        note_left_out: Callable[[Place, str], None] | None = None,
    ) -> Iterator[tuple[str, dict[str, int]]]:
        """Walk through this directory and all below.

        Args:
            is_entered: Whether to enter a directory, by its path. Hidden ones and links to
                directories are never entered.
            note_left_out: Called with each directory below that must not be listed, and each key
                that no file can have as its path, and the reason. Without it the former is an
                error.

        Yields:
            The directory, as a path after this place, and the sizes of its files in bytes by name.

        Raises:
            OSError: If a directory cannot be listed.
        """
        if isinstance(self.files, S3Files):
            listed = self.files.list_below(self.path)
            yield from self._walk_listing(listed, is_entered, note_left_out or _ignore)
            return
        self.files.invalidate_cache()
        todo = [self.path.rstrip("/")]
        cut = len(todo[0]) + 1
        while todo:
            path = todo.pop()
            try:
                directories, sizes = self._list_one(path)
            except FileNotFoundError:
                if len(path) < cut:
                    raise
                continue  # removed meanwhile
            except PermissionError as error:
                if len(path) < cut or note_left_out is None:
                    raise
                reason = f"the directory must be listed, which is denied: {error}"
                note_left_out(Place(self.files, path), reason)
                continue
            todo += [one for one in reversed(directories) if is_entered(one)]
            yield path[cut:], sizes

    @_asking_store()
    def _list_one(self, path: str) -> tuple[list[str], dict[str, int]]:
        """List the directories of one that may be entered, and the sizes of its files."""
        directories, sizes = [], {}
        for about in self.files.ls(path, detail=True):
            one = about["name"].rstrip("/")
            name = one.rpartition("/")[2]
            if one == path:  # a store may have an object for the directory itself
                continue
            if self._is_file(about):
                sizes[name] = int(about["size"] or 0)
            elif about["type"] == "directory" and not (
                about.get("islink", False) or name.startswith(".")
            ):
                directories.append(one)
        return directories, sizes

    def _walk_listing(
        self,
        listed: Iterator[tuple[str, int]],
        is_entered: Callable[[str], bool],
        note_left_out: Callable[[Place, str], None],
    ) -> Iterator[tuple[str, dict[str, int]]]:
        """Walk through a listing of all that is below, folder by folder."""
        root = self.path.rstrip("/")
        folders: dict[str, dict[str, int]] = {}
        entered: dict[str, bool] = {"": True}

        def enters(folder: str) -> bool:
            if folder not in entered:
                above, _, name = folder.rpartition("/")
                is_hidden = name.startswith(".")
                entered[folder] = enters(above) and not is_hidden and is_entered(f"{root}/{folder}")
            return entered[folder]

        for path, size in listed:
            folder, _, name = path.rpartition("/")
            if not name:  # an object for the folder itself
                continue
            if "\0" in path or not _NO_PARTS.isdisjoint(path.split("/")):
                note_left_out(Place(self.files, f"{root}/{path}"), "no file can have this path")
            elif enters(folder):
                folders.setdefault(folder, {})[name] = size
        yield from folders.items()

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
        ConfigurationError: If no installed package reads such a URL, or settings of an S3 API are
            not valid.
    """
    if "://" not in url:
        return Place(LocalFileSystem(), os.path.abspath(url))  # noqa: PTH100  no link is followed, ".." goes
    if url.startswith(f"{PROTOCOL}://"):
        return _open_s3(url)
    try:
        files, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        msg = f"{url} must be a path, or the URL of a store that can be opened: {error}"
        raise ConfigurationError(msg) from error
    if isinstance(files, LocalFileSystem):
        return open_place(path)
    return Place(files, path)


def _open_s3(url: str) -> Place:
    path = url.removeprefix(f"{PROTOCOL}://").rstrip("/")
    if not path.partition("/")[0]:
        msg = f"{url} must be {PROTOCOL}://BUCKET/PREFIX, it names no bucket"
        raise ConfigurationError(msg)
    try:
        open_client()
    except (BotoCoreError, ValueError) as error:
        msg = f"{url} cannot be opened with the AWS_ variables: {error}"
        raise ConfigurationError(msg) from error
    return Place(S3Files(), path)
