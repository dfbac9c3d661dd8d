"""Files that machines share: an index in the store names each of them, with its hash.

The index of an area, such as ``reports/index.json``, is the only object of it that is ever
replaced, and only if nobody else has replaced it meanwhile. A file is an object of its own, written
under a new name before the index names it. So a publication is seen as a whole or not at all, a
reader checks each file against the index, and an object that was damaged or deleted is written
again by the next publication of its file.

An object that no file needs any more is first marked as spare, in the index, and then removed. No
publication uses a spare object again, so that a slow removal cannot take what another machine has
just published.

A home keeps a copy of the last index that it has seen. If the index of the store is damaged or
deleted, the next publication begins a new one with those files of that copy whose objects are still
there. Deletions of patients that a home knows of are part of every index that it writes, also after
the store was restored to an earlier state.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecg_lib.operations.store.objects import (
    MOST_READ_BYTES,
    ConflictError,
    ObjectStore,
    StoreError,
    check_size,
)
from ecg_lib.records.atomic_files import replacing, write_durably

ORPHAN_S: Final = 24 * 3600.0
"""Age of an object that no index names, as a killed publication leaves; a living one is faster."""

_N_REQUESTS: Final = 8
_N_ATTEMPTS: Final = 20

_logger = logging.getLogger(__name__)


class DamagedError(StoreError):
    """A file or an index of the store is not what was published."""

    version: str | None = None
    """Version of the index that was found damaged."""


class Entry(BaseModel):
    """A file of the index."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    key: str
    """Its object."""
    version: str
    """Version of the object when it was written."""
    modified_s: float
    """Time of change of the file, in seconds since 1970."""
    needs: tuple[str, ...] = ()
    """Names of the parts that belong to it."""
    is_part: bool = False
    """True for a part, which goes when no file needs it."""
    owner: str = ""
    """The home that published it."""


class Index(BaseModel):
    """The files of an area."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    generation: str = ""
    """Changes when an index replaces a damaged one."""
    revision: int = 0
    """Grows with each change; a smaller one than before is of a store that was restored."""
    files: dict[str, Entry] = Field(default_factory=dict)
    latest: str | None = None
    """The file that is meant when none is named."""
    erased: dict[str, float] = Field(default_factory=dict)
    """Keyed hashes of patients whose signals were deleted, with the time in seconds since 1970."""
    spare: tuple[str, ...] = ()
    """Objects that are being removed."""


class Known(BaseModel):
    """The last index that a home has seen."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str = ""
    version: str | None = None
    index: Index = Field(default_factory=Index)
    pending: dict[str, str | None] = Field(default_factory=dict)
    """Files that were changed here and are not published yet, with the hash of what was there
    before; None for a new file."""


class Addition(NamedTuple):
    """A file to publish."""

    write: Callable[[Path], None]
    """Writes the content to a path."""
    sha256: str | None
    """Hash of the content; None where the name of the file stands for its content."""
    modified_s: float
    needs: tuple[str, ...] = ()
    is_part: bool = False
    patient: str | None = None
    """Keyed hash of the patient whose signal it is; it is left out if that was deleted since."""
    replaces: frozenset[str | None] | None = None
    """Hashes of the file that may be replaced, with None for no file; it is left out if the index
    has another one, which is undamaged. Without, any file is replaced."""


class SharedFiles:
    """The files of an area of the store, as a home sees them.

    Parameters
    ----------
    store : ObjectStore
    area : str
        Prefix of all objects.
    url : str
        Of the store; the copy of the index of another one does not count.
    copy : Path
        Where the home keeps its copy of the index.

    """

    def __init__(self, store: ObjectStore, area: str, *, url: str, copy: Path) -> None:
        self._store, self._area, self._url, self._copy = store, area, url, copy
        self.owner = f"{socket.gethostname()}:{copy}"
        """Names this home in the index."""

    @property
    def _index_key(self) -> str:
        return f"{self._area}/index.json"

    def read_known(self) -> Known:
        """Read the last index that this home has seen; an empty one of another store."""
        try:
            known = Known.model_validate_json(self._copy.read_bytes())
        except (FileNotFoundError, ValidationError):
            known = Known()
        return known if known.url == self._url else Known(url=self._url)

    def write_known(self, known: Known) -> None:
        """Keep the index that this home has seen."""
        write_durably(self._copy, known.model_dump_json())

    def find_version(self) -> str | None:
        """Return the version of the index, without reading it."""
        return self._store.find_version(self._index_key)

    def read(self) -> tuple[Index, str | None]:
        """Read the index, with the deletions of patients that this home knows, and its version.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        DamagedError
            If the index cannot be read, or is no longer there.

        """
        index, version = self._read_stored()
        return _merge_erased(index, self.read_known().index), version

    def _read_stored(self) -> tuple[Index, str | None]:
        stored = self._store.read(self._index_key)
        if stored is None:
            if self.read_known().version is not None:
                msg = f"{self._index_key} must be in the store, it is missing; {self._advice()}"
                raise DamagedError(msg)
            return Index(), None
        try:
            index = Index.model_validate_json(stored.content)
            self._check_keys(index)
        except ValueError as error:
            msg = f"{self._index_key} of the store cannot be read; {self._advice()}"
            damaged = DamagedError(msg)
            damaged.version = stored.version
            raise damaged from error
        return index, stored.version

    def _check_keys(self, index: Index) -> None:
        """Reject an index whose objects are not all of this area: they are read and removed."""
        for key in (*(one.key for one in index.files.values()), *index.spare):
            parts = key.removeprefix(f"{self._area}/objects/").split("/")
            if not key.startswith(f"{self._area}/objects/") or not {"", ".", ".."}.isdisjoint(
                parts
            ):
                msg = (
                    f"objects of {self._index_key} must be below {self._area}/objects, got {key!r}"
                )
                raise ValueError(msg)

    def publish(
        self,
        files: Mapping[str, Addition],
        *,
        removed: Mapping[str, str | None] | None = None,
        latest: str | None = None,
    ) -> Index:
        """Publish files, all of them or none; return the index.

        Parameters
        ----------
        files : mapping of str to Addition
            Files by name. One that is there already, undamaged, is not written again.
        removed : mapping of str to str, optional
            Names that go with the same publication, with the hash that each must still have; a file
            that has another one stays.
        latest : str, optional
            Name to be meant when none is given.

        Raises
        ------
        StoreError
            If the store cannot be reached.

        """
        written: dict[str, Entry] = {}

        def change(index: Index) -> Index:
            names = [
                name
                for name, file in files.items()
                if not _is_erased(file, index) and self._may_replace(index.files.get(name), file)
            ]
            with ThreadPoolExecutor(_N_REQUESTS) as pool:
                found = pool.map(lambda name: self._place(index, name, files[name], written), names)
                entries = dict(zip(names, found, strict=True))
            kept = {
                name: one
                for name, one in index.files.items()
                if removed is None or name not in removed or removed[name] != one.sha256
            }
            return index.model_copy(
                update={"files": kept | entries, "latest": latest or index.latest}
            )

        after = self._change(change)
        # Those of an attempt that was made again, such as signals of a patient deleted meanwhile.
        for key in {one.key for one in written.values()} - {e.key for e in after.files.values()}:
            self._store.remove(key)
        return after

    def remove(
        self,
        is_due: Callable[[str, Entry], bool],
        *,
        erased: Mapping[str, float] | None = None,
        forget_before_s: float = 0.0,
    ) -> tuple[str, ...]:
        """Remove files, with the parts that only they needed, and return their names.

        Parameters
        ----------
        is_due : callable
            Tells by name and entry which files go; the latest one stays.
        erased : mapping of str to float, optional
            Patients whose signals other homes must delete, with the time of the deletion.
        forget_before_s : float
            Deletions before this time are forgotten: nothing so old is kept anywhere.

        Raises
        ------
        StoreError
            If the store cannot be reached, or an object cannot be removed. The index no longer
            names the files then, and the next change removes the objects. Patients whose signals
            must go are then told to other homes by the next change of this one.

        """
        if erased:
            known = self.read_known()
            told = _merge_erased(known.index, Index(erased=dict(erased)))
            self.write_known(known.model_copy(update={"index": told}))
        gone: tuple[str, ...] = ()

        def change(index: Index) -> Index:
            nonlocal gone
            gone = tuple(
                name
                for name, one in index.files.items()
                if name != index.latest and is_due(name, one)
            )
            kept = {name: one for name, one in index.files.items() if name not in gone}
            known = {one: at for one, at in index.erased.items() if at >= forget_before_s}
            return index.model_copy(update={"files": kept, "erased": known | dict(erased or {})})

        self._change(change)
        return gone

    def fetch(self, entry: Entry, path: Path) -> None:
        """Write a file to a path, which stays as it is if the file is damaged.

        Raises
        ------
        StoreError
            If the store cannot be reached.
        DamagedError
            If the file is missing or damaged.

        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path) as draft:
                self.check_there(self._store.download(entry.key, draft), entry)
                if (found := hash_file(draft)) != entry.sha256:
                    msg = (
                        f"{entry.key} of the store must have the SHA-256 {entry.sha256[:12]}, it "
                        f"has {found[:12]}; {self._advice()}"
                    )
                    raise DamagedError(msg)
                os.utime(draft, (entry.modified_s, entry.modified_s))
        except OSError as error:
            msg = f"{entry.key} of the store cannot be copied: {error.strerror or error}"
            raise StoreError(msg) from error

    def check_there(self, is_there: bool, entry: Entry) -> None:  # noqa: FBT001  what was found
        """Reject a file without an object.

        Raises
        ------
        DamagedError
            If it has none.

        """
        if not is_there:
            msg = f"{entry.key} must be in the store, it is missing; {self._advice()}"
            raise DamagedError(msg)

    def remove_orphans(self, *, now_s: float) -> int:
        """Remove the objects that killed publications left, and return how many they were.

        Raises
        ------
        StoreError
            If the store cannot be reached.

        """
        old = [
            one.key
            for one in self._store.list_objects(f"{self._area}/objects/")
            if one.modified_s < now_s - ORPHAN_S
        ]
        index, version = self.read()
        if version is None:  # deleted, perhaps, and a home that has seen it will begin a new one
            return 0
        named = {one.key for one in index.files.values()}
        orphans = [key for key in old if key not in named]
        for key in orphans:
            self._store.remove(key)
        return len(orphans)

    def _advice(self) -> str:
        return f"the next publication of a machine that has {self._area} of its own repairs it"

    def _may_replace(self, entry: Entry | None, file: Addition) -> bool:
        found = entry.sha256 if entry is not None else None
        return (
            file.replaces is None
            or found in {*file.replaces, file.sha256}
            or (entry is not None and not self._is_whole(entry))
        )

    def _is_whole(self, entry: Entry) -> bool:
        return self._store.find_version(entry.key) == entry.version

    def _place(self, index: Index, name: str, file: Addition, written: dict[str, Entry]) -> Entry:
        """Return the entry of a file, of which there is an undamaged object."""
        entry = written.get(name) or index.files.get(name)
        if (
            entry is not None
            and file.sha256 in {None, entry.sha256}
            and entry.key not in index.spare
            and self._is_whole(entry)
        ):
            return entry.model_copy(update={"needs": file.needs, "is_part": file.is_part})
        with tempfile.TemporaryDirectory(prefix="ecg-publish-") as folder:
            draft = Path(folder) / "file"
            try:
                file.write(draft)
            except OSError as error:
                msg = f"{name} cannot be read for the store: {error.strerror or error}"
                raise StoreError(msg) from error
            sha256 = hash_file(draft)
            if file.sha256 not in {None, sha256}:
                msg = f"{name} was changed while it was published; publish it again"
                raise StoreError(msg)
            key = f"{self._area}/objects/{sha256[:16]}-{secrets.token_hex(4)}/{Path(name).name}"
            self._store.upload(draft, key)
        version = self._store.find_version(key)
        if version is None:
            msg = f"{key} must be in the store after it was written, it is not"
            raise StoreError(msg)
        written[name] = Entry(
            sha256=sha256,
            key=key,
            version=version,
            modified_s=file.modified_s,
            needs=file.needs,
            is_part=file.is_part,
            owner=self.owner,
        )
        return written[name]

    def _change(self, change: Callable[[Index], Index]) -> Index:
        """Change the index, whatever other machines do meanwhile, then remove what is spare."""
        for _ in range(_N_ATTEMPTS):
            before, version, is_new = self._read_to_change()
            known = _merge_erased(before, self.read_known().index)
            after = _settle(before, change(known))
            if after == before and not (is_new and after.files):
                if not is_new:
                    self._note(after, version)
                break
            after = after.model_copy(update={"revision": before.revision + 1})
            try:
                version = self._write(after, version)
            except ConflictError:
                continue
            break
        else:
            msg = f"{self._index_key} was written by other machines all the time; try again"
            raise ConflictError(msg)
        return self._remove_spare(after, version)

    def _write(self, index: Index, expected: str | None) -> str:
        content = index.model_dump_json(indent=1).encode()
        check_size(self._index_key, len(content), most_bytes=MOST_READ_BYTES)
        version = self._store.replace(self._index_key, content, expected=expected)
        self._note(index, version)
        return version

    def _note(self, index: Index, version: str | None) -> None:
        known = self.read_known()
        self.write_known(known.model_copy(update={"index": index, "version": version}))

    def _read_to_change(self) -> tuple[Index, str | None, bool]:
        """Read the index, or begin a new one: with the copy of this home if it is damaged."""
        try:
            index, version = self._read_stored()
        except DamagedError as error:
            _logger.warning("%s; this home begins a new one", error)
            index, version = self._leave_out_missing(self.read_known().index), error.version
        else:
            if version is not None:
                return index, version, False
        return index.model_copy(update={"generation": secrets.token_hex(4)}), version, True

    def _leave_out_missing(self, index: Index) -> Index:
        """Leave out files whose objects were removed or damaged since the copy was made."""
        with ThreadPoolExecutor(_N_REQUESTS) as pool:
            are_whole = list(pool.map(self._is_whole, index.files.values()))
        files = {
            name: one
            for (name, one), is_whole in zip(index.files.items(), are_whole, strict=True)
            if is_whole
        }
        lost = {name for name, one in index.files.items() if one.is_part and name not in files}
        files = {name: one for name, one in files.items() if lost.isdisjoint(one.needs)}
        latest = index.latest if index.latest in files else None
        return index.model_copy(update={"files": files, "latest": latest, "spare": ()})

    def _remove_spare(self, index: Index, version: str | None) -> Index:
        if not index.spare:
            return index
        with ThreadPoolExecutor(_N_REQUESTS) as pool:
            list(pool.map(self._store.remove, index.spare))
        cleared = index.model_copy(update={"spare": (), "revision": index.revision + 1})
        try:
            self._write(cleared, version)
        except ConflictError:
            return index  # they are gone, and the next change takes them off the list
        return cleared


def _is_erased(file: Addition, index: Index) -> bool:
    return file.patient is not None and file.modified_s <= index.erased.get(file.patient, -math.inf)


def _merge_erased(index: Index, known: Index) -> Index:
    """Add the deletions that this home knows to an index that was begun again or restored."""
    erased = dict(index.erased)
    for patient, at_s in known.erased.items():
        erased[patient] = max(at_s, erased.get(patient, at_s))
    return index.model_copy(update={"erased": erased})


def _settle(before: Index, after: Index) -> Index:
    """Drop the parts that no file needs, and mark the objects that no file has as spare."""
    needed = {name for one in after.files.values() for name in one.needs}
    files = {name: one for name, one in after.files.items() if not one.is_part or name in needed}
    kept = {one.key for one in files.values()}
    spare = {*before.spare, *(one.key for one in before.files.values())} - kept
    return after.model_copy(update={"files": files, "spare": tuple(sorted(spare))})


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
