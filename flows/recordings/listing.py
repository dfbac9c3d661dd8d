"""List the recordings among files and directories: by names, or by how a file begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from ecg_lib.errors import EcgError
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.files.archives import ARCHIVE_SUFFIXES, PEEK_BYTES, is_litter, name_of
from ecg_lib.records.files.opening import SUFFIXES, begins_as_recording, begins_as_samples
from ecg_lib.records.files.text.csv_file import may_be_recording
from ecg_lib.records.files.wfdb.header import MAX_HEADER_BYTES, decode_header, parse_header

HEADER: Final = ".hea"

_TAKEN: Final = (*SUFFIXES, *ARCHIVE_SUFFIXES)

NO_RECORDING: Final = (
    f"the directory must hold a recording, it holds none by its suffix ({', '.join(_TAKEN)}) "
    "or its content (EDF, NPY, text of samples, exports of devices)"
)

_PEEKED: Final = {".txt": PEEK_BYTES, HEADER: MAX_HEADER_BYTES}
"""Bytes that are read of files whose kind the name does not show."""

_OF_OTHERS: Final = 2**16
"""Bytes that are read of files of any other name: they are known by their content."""


class ListedRecordings(NamedTuple):
    """The recordings among files and directories."""

    paths: list[Path]
    refused: dict[Path, str]
    """Why others are not analysed."""


def list_recordings(paths: Sequence[Path], *, are_parts: bool = False) -> ListedRecordings:
    """List the recordings among files and directories; of a WFDB record its header.

    Results that lie in a directory are passed over. Results have the names of their recordings,
    so recordings that share one are refused, and the others are not; parts of one recording may
    share a name. Segments of a WFDB record are not recordings of their own, and a directory
    without any is refused.
    """
    found: list[Path] = []
    empty: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        wanted = plan_peeks(one.name for one in path.iterdir() if one.is_file())
        read = {name: _read_start(path / name, n) for name, n in wanted.items() if n}
        starts = {name: start for name, start in read.items() if start is not None}
        inside = choose_recordings(wanted, starts)
        if not inside:
            empty[path] = NO_RECORDING
        found += [path / name for name in inside]
    found = list(dict.fromkeys(found))
    names_of_all = Counter(name_of(path) for path in (found if not are_parts else ()))
    return ListedRecordings(
        paths=[path for path in found if names_of_all[name_of(path)] <= 1],
        refused=empty
        | {
            path: refuse_shared_name(name, count)
            for path in found
            if (count := names_of_all[name := name_of(path)]) > 1
        },
    )


def refuse_shared_name(name: str, count: int) -> str:
    """Explain why recordings that share a name are not analysed."""
    return f"a recording must have a name of its own, {count} are {name}"


def plan_peeks(names: Iterable[str]) -> dict[str, int]:
    """Choose the files of one directory that may be recordings, and how much to read of each.

    Results of recordings, files that software adds to folders, and the signals and annotations of
    a header beside them are left out.

    >>> plan_peeks(["r.EDF", "s.hea", "s.dat", "IM0001", "r.beats.csv", "notes.md.gz"])
    {'r.EDF': 0, 's.hea': 65536, 'IM0001': 65536}

    Returns:
        Bytes of each that :func:`choose_recordings` needs; 0 where the name is enough.
    """
    every = list(names)
    of_headers = {_stem(name) for name in every if _is_header(name)}
    return {
        name: _bytes_to_peek(name)
        for name in every
        if not name.lower().endswith(ResultFormat.CSV.suffix)
        and not is_litter(name)
        and (_is_taken(name) or (_suffix(name) != ".gz" and _stem(name) not in of_headers))
    }


def _is_taken(name: str) -> bool:
    """Return whether a file is a recording by its name."""
    suffix = _suffix(name)
    return suffix in _TAKEN and (suffix != ".gz" or _suffix(_stem(name)) in SUFFIXES)


def _bytes_to_peek(name: str) -> int:
    return _PEEKED.get(_suffix(name), 0 if _is_taken(name) else _OF_OTHERS)


def choose_recordings(names: Iterable[str], starts: Mapping[str, bytes]) -> list[str]:
    """Choose the recordings of one directory.

    Args:
        names: Names of files that :func:`plan_peeks` chose.
        starts: First bytes of the files that it names. A file that is missing here and a broken
            header count as recordings: reading them raises the error.

    Returns:
        Names in their order, without segments of WFDB records and texts of another kind.
    """
    every = list(names)
    segments = {segment for name in starts for segment in _segments_of(name, starts[name])}
    chosen = {name for name in every if _is_recording(name, starts.get(name))}
    # Samples of another name beside a recording of that name may be its annotations.
    of_chosen = {name_of(Path(name)) for name in chosen}
    chosen |= {
        name
        for name in every
        if _stem(name) not in of_chosen and _may_hold_samples(name, starts.get(name))
    }
    return sorted(name for name in chosen if not (_is_header(name) and _stem(name) in segments))


def _is_recording(name: str, start: bytes | None) -> bool:
    is_taken = _is_taken(name)
    if start is None or (is_taken and _suffix(name) != ".txt"):
        return is_taken
    return begins_as_recording(start) or (
        is_taken and may_be_recording(start, is_whole=len(start) < PEEK_BYTES)
    )


def _may_hold_samples(name: str, start: bytes | None) -> bool:
    """Return whether a file of unknown suffix is text of samples, NPY, or unreadable."""
    if start is None:
        return True
    return not _is_taken(name) and begins_as_samples(start, is_whole=len(start) < _OF_OTHERS)


def _is_header(name: str) -> bool:
    return _suffix(name) == HEADER


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _segments_of(name: str, content: bytes) -> list[str]:
    if not _is_header(name):
        return []
    try:
        segments = parse_header(decode_header(content)).segments
    except EcgError:
        return []
    return [segment.name for segment in segments]


def _read_start(path: Path, n_bytes: int) -> bytes | None:
    """Read the first bytes of a file; None where it cannot be read: its analysis fails later."""
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError:
        return None
