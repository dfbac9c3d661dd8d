"""Find the recordings below directories and prefixes of stores, and fetch one to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from ecg_lib.errors import EcgError
from ecg_lib.records.files.archives import name_of
from ecg_lib.records.files.wfdb.header import NULL_SEGMENT
from ecg_lib.records.files.wfdb.wfdb_file import read_wfdb_header
from flows.recordings.analyzed_files import AnalysisError
from flows.recordings.batches.places import Place, open_place
from flows.recordings.listing import (
    HEADER,
    NO_RECORDING,
    choose_recordings,
    plan_peeks,
    refuse_shared_name,
)

_NAMED: Final = 5
"""Paths in an error message at most."""


class Recording(NamedTuple):
    """A recording that was found."""

    path: str
    """Path or URL."""
    folder: str
    """Its folder below the named directory; its results have the same folder below `results`."""
    n_bytes: int
    """Size of the file; of a WFDB record, of all files with the name of its header."""

    @property
    def name(self) -> str:
        """Its name without extensions, as results have it."""
        return name_of(Path(self.path.rpartition("/")[2]))


class Found(NamedTuple):
    """The recordings below directories and prefixes."""

    recordings: list[Recording]
    refused: list[tuple[Recording, str]]
    """Recordings that are not analysed, and why."""
    empty: dict[str, str]
    """Directories, prefixes and keys without a recording, and the reason."""


def find_recordings(urls: Sequence[str], *, output: Place) -> Found:
    """Find the recordings among files, and below directories and prefixes of stores.

    Files below the output are left out, unless it is itself a named directory; results are always
    left out. Recordings whose results would have the same names are rejected.

    Raises:
        ConfigurationError: If a URL cannot be opened.
        OSError: If a directory cannot be listed.
    """
    found: dict[str, Recording] = {}
    empty: dict[str, str] = {}
    for url in urls:
        place = open_place(url)
        if not place.is_directory():
            found[place.url] = Recording(place.url, "", _size_of(place))
            continue
        left_out: dict[str, str] = {}
        inside = {one.path: one for one in _find_below(place, output, left_out)}
        if not inside and not left_out:
            empty[place.url] = NO_RECORDING
        empty |= left_out
        found |= inside
    counts = Counter((one.folder, one.name) for one in found.values())
    return Found(
        recordings=[one for one in found.values() if counts[one.folder, one.name] == 1],
        refused=[
            (one, refuse_shared_name(one.name, count))
            for one in found.values()
            if (count := counts[one.folder, one.name]) > 1
        ],
        empty=empty,
    )


def require_inputs(urls: Sequence[str]) -> None:
    """Reject paths of which none is there; of some that are there, each other one gets a row.

    Raises:
        AnalysisError: If there is none.
        ConfigurationError: If a URL cannot be opened.
        OSError: If a store cannot be asked, or denies access.
    """
    places = [open_place(url) for url in urls]
    if not [place for place in places if place.is_directory() or _is_file(place)]:
        named = ", ".join(place.url for place in places[:_NAMED])
        msg = f"at least one of the paths must be there, and none is: {named}"
        raise AnalysisError(msg)


def _is_file(place: Place) -> bool:
    try:
        return place.exists()
    except PermissionError:
        if place.is_local:
            return True  # its error comes when it is read
        raise


def _size_of(place: Place) -> int:
    try:
        return place.size() or 0
    except PermissionError:
        return 0  # its error comes when it is read


def _find_below(root: Place, output: Place, left_out: dict[str, str]) -> Iterator[Recording]:
    own = output.path.rstrip("/")
    state = output.below("_state").path

    def note_left_out(place: Place, reason: str) -> None:
        left_out[place.url] = reason

    for folder, sizes in root.walk(
        is_entered=lambda path: path not in {own, state}, note_left_out=note_left_out
    ):
        wanted = plan_peeks(sizes)
        place = root.below(folder)
        starts = place.read_starts({name: n for name, n in wanted.items() if n})
        of_stem: Counter[str] = Counter()
        for name, size in sizes.items():
            of_stem[PurePosixPath(name).stem.casefold()] += size
        for name in choose_recordings(wanted, starts):
            is_header = PurePosixPath(name).suffix.lower() == HEADER
            n_bytes = of_stem[PurePosixPath(name).stem.casefold()] if is_header else sizes[name]
            yield Recording(place.below(name).url, folder, n_bytes)


def fetch(recording: Recording, scratch: Path) -> Path:
    """Return the file of a recording; from a store it is copied first, with its signals.

    Raises:
        FileNotFoundError: If it is gone.
        OSError: If it cannot be copied.
    """
    place = open_place(recording.path)
    if place.is_local:
        return place.as_path()
    copy = scratch / place.name
    place.download(copy)
    if copy.suffix.lower() == HEADER:
        for name in _named_by(copy):
            _fetch_beside(place, name, scratch)
            if name.lower().endswith(HEADER) and (scratch / name).exists():
                for more in _named_by(scratch / name):
                    _fetch_beside(place, more, scratch)
    return copy


def _named_by(header: Path) -> list[str]:
    """List the files that a header names; none for a broken header, which is rejected when read.

    A header may only name files beside it.
    """
    try:
        read = read_wfdb_header(header)
    except EcgError:
        return []
    names = [f"{one.name}{header.suffix}" for one in read.segments if one.name != NULL_SEGMENT]
    names += [one.file for one in read.signals if one.file != NULL_SEGMENT]
    return list(dict.fromkeys(names))


def _fetch_beside(place: Place, name: str, scratch: Path) -> None:
    if (scratch / name).exists():
        return
    try:
        place.beside(name).download(scratch / name)
    except FileNotFoundError:
        with suppress(FileNotFoundError):  # the reader names the missing file
            place.find_beside(name).download(scratch / name)
