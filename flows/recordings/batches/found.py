"""Find the recordings below directories and prefixes of stores, and fetch one to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ecg_lib.errors import EcgError
from ecg_lib.records.files.archives import name_of
from ecg_lib.records.files.wfdb.header import NULL_SEGMENT
from ecg_lib.records.files.wfdb.wfdb_file import read_wfdb_header
from flows.recordings.batches.places import Place, open_place
from flows.recordings.listing import (
    HEADER,
    NO_RECORDING,
    choose_recordings,
    plan_peeks,
    refuse_shared_name,
)


class Recording(NamedTuple):
    """A recording that was found."""

    path: str
    """Path or URL."""
    folder: str
    """Where it is below the directory that was named; its results are there below `results`."""
    n_bytes: int
    """Of the file; of a WFDB record, of all files with the name of its header."""

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
    """Directories and prefixes without a recording, and what is wrong."""


def find_recordings(urls: Sequence[str], *, output: Place) -> Found:
    """Find the recordings among files, and below directories and prefixes of stores.

    Files below the output are passed over, except where it is itself a directory that was named;
    results are passed over anyway. Recordings whose results would have the same names are refused.

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
        inside = {one.path: one for one in _find_below(place, output)}
        if not inside:
            empty[place.url] = NO_RECORDING
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


def _size_of(place: Place) -> int:
    return int(place.files.size(place.path) or 0) if place.exists() else 0


def _find_below(root: Place, output: Place) -> Iterator[Recording]:
    own = output.path.rstrip("/")
    state = output.below("_state").path
    for folder, sizes in root.walk(is_entered=lambda path: path not in {own, state}):
        wanted = plan_peeks(sizes)
        place = root.below(folder)
        starts = place.read_starts({name: n for name, n in wanted.items() if n})
        of_stem: Counter[str] = Counter()
        for name, size in sizes.items():
            of_stem[PurePosixPath(name).stem] += size
        for name in choose_recordings(wanted, starts):
            is_header = PurePosixPath(name).suffix.lower() == HEADER
            n_bytes = of_stem[PurePosixPath(name).stem] if is_header else sizes[name]
            yield Recording(place.below(name).url, folder, n_bytes)


def fetch(recording: Recording, scratch: Path) -> Path:
    """Give the file of a recording to read; that of a store is copied, with its signals.

    Raises:
        FileNotFoundError: If it is gone.
        OSError: If the store does not give it.
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
    """Name the files that a header names; none of a broken one, whose error comes when it is read.

    A header names plain files beside it, or it is refused.
    """
    try:
        read = read_wfdb_header(header)
    except EcgError:
        return []
    names = [f"{one.name}{header.suffix}" for one in read.segments if one.name != NULL_SEGMENT]
    names += [one.file for one in read.signals if one.file != NULL_SEGMENT]
    return list(dict.fromkeys(names))


def _fetch_beside(place: Place, name: str, scratch: Path) -> None:
    beside = place.beside(name)
    if not (scratch / name).exists() and beside.exists():
        beside.download(scratch / name)
