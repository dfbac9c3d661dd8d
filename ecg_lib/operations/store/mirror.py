"""A folder that is the same in all homes that share a store, such as that of reports.

:meth:`Mirror.pull` makes the folder of a home what the index of the store names: it fetches what is
missing, old or damaged, and deletes what is no longer named. :meth:`Mirror.changing` pulls, lets
the caller write and delete files, and publishes the difference as one change. Where the store
cannot be reached, the change stays in this home and the next one publishes it. Of a file that two
homes change at once, the version that is published first stays.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Final

from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import ConflictError, StoreError, open_store
from ecg_lib.operations.store.shared_files import (
    Addition,
    DamagedError,
    Index,
    Known,
    SharedFiles,
    hash_file,
)
from ecg_lib.records.atomic_files import state_of

_N_CHECKED: Final = 500
"""Files, the newest, whose objects each change checks, and writes again if they are damaged."""

_MOST_FAILURES: Final = 3
"""Files that cannot be fetched before a store counts as one that cannot be reached."""

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
            If the store cannot be reached, or files of it are damaged. All others are fetched,
            unless several requests fail.

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
        ConflictError
            If it must be published, and another home has changed the same files meanwhile.

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

    def remove_orphans(self, *, now_s: float) -> int:
        """Remove the objects that killed publications left, and return how many they were.

        Raises
        ------
        StoreError
            If the store cannot be reached.

        """
        return self._files.remove_orphans(now_s=now_s)

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
        here, pending, n_deleted = self._list(), known.pending, 0
        if index.generation == known.index.generation and index.revision >= known.index.revision:
            removed = known.index.files.keys() - index.files.keys()
            for name in (removed & here.keys()) - _list_unseen(pending, index, here):
                (self._root / name).unlink(missing_ok=True)
                n_deleted += 1
        else:  # begun again by another home, or restored: it may lack files that there are
            pending = _find_lacking(index, known, here)
        unseen = _list_unseen(pending, index, here)
        fetched, problems = self._fetch(index, here, skipped=unseen)
        taken = pending.keys() - unseen
        for name in sorted(taken & fetched):
            _logger.warning("%s was changed by another machine, whose version stays", name)
        left = unseen | {
            name
            for name in taken - fetched
            if name in index.files and index.files[name].sha256 != here.get(name)
        }
        pending = {name: base for name, base in pending.items() if name in left}
        after = Known(url=known.url, version=version, index=index, pending=pending)
        if after != known:
            self._files.write_known(after)
        if problems:
            first = next(
                (one for one in problems if not isinstance(one, DamagedError)), problems[0]
            )
            more = f" (and {len(problems) - 1} others)" if len(problems) > 1 else ""
            raise type(first)(f"{first}{more}")
        return n_deleted + len(fetched)

    def _fetch(
        self, index: Index, here: Mapping[str, str], *, skipped: set[str]
    ) -> tuple[set[str], list[StoreError]]:
        """Fetch what is missing or old here, the newest first; return names and failures."""
        fetched: set[str] = set()
        problems: list[StoreError] = []
        n_failures = 0
        for name, entry in sorted(index.files.items(), key=lambda item: -item[1].modified_s):
            if name in skipped or here.get(name) == entry.sha256 or not self._is_inside(name):
                continue
            try:
                self._files.fetch(entry, self._root / name)
                fetched.add(name)
            except StoreError as error:
                problems.append(error)
                n_failures += not isinstance(error, DamagedError)
            if n_failures == _MOST_FAILURES:
                break
        return fetched, problems

    def _is_inside(self, name: str) -> bool:
        """Return whether a name of the index is of a file in one of the folders."""
        folder, _, file = name.partition("/")
        return folder in self._folders and Path(file).name == file and not file.startswith(".")

    def _note_pending(self, before: dict[str, str]) -> None:
        known, now = self._files.read_known(), self._list()
        changed = {
            name: before.get(name)
            for name in sorted(before.keys() | now)
            if before.get(name) != now.get(name)
        }
        if changed:
            pending = changed | known.pending  # what was pending keeps what it replaces
            self._files.write_known(known.model_copy(update={"pending": pending}))

    def _push(self) -> None:
        """Publish what was changed here, and what the store does not have."""
        known, here = self._files.read_known(), self._list()
        pending = known.pending
        gone = {name: base for name, base in pending.items() if name not in here}
        changed = {name: pending.get(name) for name in here if name in pending}
        changed |= {name: None for name in here if name not in {*pending, *known.index.files}}
        newest = sorted(here, key=lambda name: (self._root / name).stat().st_mtime)[-_N_CHECKED:]
        additions = {name: self._describe(name, here[name], base) for name, base in changed.items()}
        for name in newest:  # repairs: only files that the index names as they are here
            if name not in additions:
                additions[name] = self._describe(name, here[name], here[name])
        if not additions and not gone:
            return
        index = self._files.publish(additions, removed=gone)
        if index.generation == known.index.generation:
            # The next pull does not see what other homes have deleted since the last one.
            for name in (known.index.files.keys() - index.files.keys()) & here.keys():
                (self._root / name).unlink(missing_ok=True)
        known = self._files.read_known()
        refused = {
            name: base
            for name, base in (changed | gone).items()
            if (found := index.files.get(name)) is not None and found.sha256 != here.get(name)
        }
        # They are fetched by the next pull.
        self._files.write_known(known.model_copy(update={"pending": refused}))
        if refused:
            msg = f"{', '.join(sorted(refused))} was changed by another machine meanwhile"
            raise ConflictError(msg)

    def _describe(self, name: str, sha256: str, base: str | None) -> Addition:
        path = self._root / name
        return Addition(
            partial(_copy, path), sha256, path.stat().st_mtime, replaces=frozenset({base})
        )


def _list_unseen(
    pending: Mapping[str, str | None], index: Index, here: Mapping[str, str]
) -> set[str]:
    """List what was changed here alone: the index has what was there before."""
    unseen = set()
    for name, base in pending.items():
        entry = index.files.get(name)
        found = entry.sha256 if entry is not None else None
        if found == base and found != here.get(name):
            unseen.add(name)
    return unseen


def _find_lacking(index: Index, known: Known, here: Mapping[str, str]) -> dict[str, str | None]:
    """Find what an index lacks that does not continue the one that this home has seen."""
    found: dict[str, str | None] = {}
    for name in {*here, *known.pending}:
        entry, seen = index.files.get(name), known.index.files.get(name)
        is_newer = (
            entry is not None
            and seen is not None
            and seen.sha256 == here.get(name)
            and seen.modified_s > entry.modified_s
        )
        if entry is None or name in known.pending or is_newer:
            found[name] = entry.sha256 if entry is not None else None
    return found


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
