"""A folder that is the same in all homes that share a store, such as that of reports.

:meth:`Mirror.pull` makes the folder of a home what the index of the store names: it fetches what is
missing, old or damaged, and deletes what is no longer named. :meth:`Mirror.changing` pulls, lets
the caller write and delete files, and publishes the difference as one change. Where the store
cannot be reached, the change stays in this home and the next one publishes it.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Final

from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import StoreError, open_store
from ecg_lib.operations.store.shared_files import (
    Addition,
    DamagedError,
    Known,
    SharedFiles,
    hash_file,
)
from ecg_lib.records.atomic_files import state_of

_N_CHECKED: Final = 500
"""Files, the newest, whose objects each change checks, and writes again if they are damaged."""

_logger = logging.getLogger(__name__)


class Mirror:
    """Folders of a home that the store has too.

    Parameters
    ----------
    settings : Settings
        Must have the URL of a store.
    root : Path
        Parent of the folders; the copy of the index is in it.
    folders : tuple of str
        Names of the folders. Files below a folder of theirs are not shared.
    area : str
        Area of the store.

    """

    def __init__(
        self, settings: Settings, root: Path, folders: tuple[str, ...], *, area: str
    ) -> None:
        url = str(settings.store_url)
        self._root, self._folders = root, folders
        self._lock = root / f"{area}-shared.lock"
        copy = root / f"{area}-shared.json"
        self._files = SharedFiles(open_store(url), area, url=url, copy=copy)
        self._hashes: dict[str, tuple[tuple[int, ...] | None, str]] = {}

    def pull(self) -> int:
        """Make this home's folders those of the store; return how many files changed.

        Another process of the home that changes them at the moment does it instead.

        Raises
        ------
        StoreError
            If the store cannot be reached, or files of it are damaged. All others are fetched.

        """
        with self._locked(is_waiting=False) as is_free:
            return self._pull() if is_free else 0

    @contextmanager
    def changing(self, *, must_publish: bool = False) -> Iterator[None]:
        """Let the caller change the folders, and publish what has changed at the end.

        Also what was changed before an error of the caller. Other processes of the home wait.

        Parameters
        ----------
        must_publish : bool
            Whether a store that fails is an error. Otherwise it is a warning, and the next change
            publishes this one too.

        Raises
        ------
        StoreError
            If the change must be published, and the store fails. If it fails at the beginning,
            nothing is changed.

        """
        with self._locked(is_waiting=True):
            try:
                self._pull()
            except StoreError as error:
                if must_publish and not isinstance(error, DamagedError):
                    raise
                _logger.warning("%s", error)
            before = self._list()
            try:
                yield
            finally:
                self._note_pending(before)
                try:
                    self._push()
                except StoreError as error:
                    if must_publish:
                        raise
                    _logger.warning("other machines do not see what has changed yet: %s", error)

    @contextmanager
    def _locked(self, *, is_waiting: bool) -> Iterator[bool]:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def _list(self) -> dict[str, str]:
        """List the files of the folders with their hashes."""
        found = {}
        for folder in self._folders:
            for path in (self._root / folder).glob("[!.]*"):
                if path.is_file() and (sha256 := self._hash(path)) is not None:
                    found[f"{folder}/{path.name}"] = sha256
        return found

    def _hash(self, path: Path) -> str | None:
        """Hash a file, unless that was done since it was written; None when it is gone."""
        name, state = str(path), state_of(path)
        known = self._hashes.get(name)
        if known is None or known[0] != state:
            try:
                known = self._hashes[name] = (state, hash_file(path))
            except FileNotFoundError:
                return None
        return known[1]

    def _pull(self) -> int:
        known = self._files.read_known()
        index = known.index
        if known.version is None or self._files.find_version() != known.version:
            index, version = self._files.read()
        else:
            version = known.version
        here, pending, n_changed = self._list(), set(known.pending), 0
        if index.generation == known.index.generation:
            removed = known.index.files.keys() - index.files.keys() - pending
            for name in removed & here.keys():
                (self._root / name).unlink(missing_ok=True)
                n_changed += 1
        else:  # begun again by another home, which may not have known all files
            pending |= {name for name in here if name not in index.files}
        problems: list[StoreError] = []
        newest_first = sorted(index.files.items(), key=lambda item: -item[1].modified_s)
        for name, entry in newest_first:
            if name in pending or here.get(name) == entry.sha256 or not self._is_inside(name):
                continue
            try:
                self._files.fetch(entry, self._root / name)
                n_changed += 1
            except StoreError as error:
                problems.append(error)
        after = Known(url=known.url, version=version, index=index, pending=tuple(sorted(pending)))
        if after != known:
            self._files.write_known(after)
        if problems:
            first = next(
                (one for one in problems if not isinstance(one, DamagedError)), problems[0]
            )
            more = f" (and {len(problems) - 1} others)" if len(problems) > 1 else ""
            raise type(first)(f"{first}{more}")
        return n_changed

    def _is_inside(self, name: str) -> bool:
        """Return whether a name of the index is of a file in one of the folders."""
        folder, _, file = name.partition("/")
        return folder in self._folders and Path(file).name == file and not file.startswith(".")

    def _note_pending(self, before: dict[str, str]) -> None:
        known, now = self._files.read_known(), self._list()
        changed = {name for name in before.keys() | now if before.get(name) != now.get(name)}
        if changed:
            pending = tuple(sorted(changed | set(known.pending)))
            self._files.write_known(known.model_copy(update={"pending": pending}))

    def _push(self) -> None:
        """Publish what was changed here, and what the store does not have."""
        known, here = self._files.read_known(), self._list()
        pending = set(known.pending)
        gone = frozenset(pending - here.keys())
        new = {name for name in here if name in pending or name not in known.index.files}
        newest = sorted(here, key=lambda name: (self._root / name).stat().st_mtime)[-_N_CHECKED:]
        additions = {name: self._describe(name, here[name]) for name in {*new, *newest}}
        if not additions and not gone:
            return
        self._files.publish(additions, removed=gone)
        self._files.write_known(self._files.read_known().model_copy(update={"pending": ()}))

    def _describe(self, name: str, sha256: str) -> Addition:
        path = self._root / name
        return Addition(partial(_copy, path), sha256, path.stat().st_mtime)


def _copy(path: Path, draft: Path) -> None:
    copyfile(path, draft)


def mirror_reports(settings: Settings) -> Mirror:
    """Return the mirror of the reports: pages of drift checks, and evaluation reports."""
    return Mirror(settings, settings.reports_dir, ("drift", "evaluation"), area="reports")


def mirror_baselines(settings: Settings) -> Mirror:
    """Return the mirror of the traffic that a site has accepted as usual."""
    return Mirror(settings, settings.home, ("baselines",), area="baselines")


@contextmanager
def changing_reports(settings: Settings, *, must_publish: bool = False) -> Iterator[None]:
    """Let the caller change reports, in this home and in the store where there is one.

    See :meth:`Mirror.changing`.
    """
    if settings.store_url is None:
        yield
        return
    with mirror_reports(settings).changing(must_publish=must_publish):
        yield


@contextmanager
def changing_baselines(settings: Settings) -> Iterator[None]:
    """Let the caller change baselines, in this home and in the store where there is one.

    See :meth:`Mirror.changing`; the change must be published.
    """
    if settings.store_url is None:
        yield
        return
    with mirror_baselines(settings).changing(must_publish=True):
        yield
