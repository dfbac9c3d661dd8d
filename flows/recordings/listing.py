"""List the recordings among files and directories: by names, or by how a file begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from ecg_lib.errors import EcgError
from ecg_lib.recordings.summary import ResultFormat
from ecg_lib.records.files.archives import ARCHIVE_SUFFIXES, PEEK_BYTES, name_of
from ecg_lib.records.files.edf_file import is_edf
from ecg_lib.records.files.opening import SUFFIXES
from ecg_lib.records.files.text.csv_file import may_be_recording
from ecg_lib.records.files.wfdb.header import MAX_HEADER_BYTES, decode_header, parse_header

HEADER: Final = ".hea"

_TAKEN: Final = (*SUFFIXES, *ARCHIVE_SUFFIXES)

NO_RECORDING: Final = f"the directory holds no recording that is read ({', '.join(_TAKEN)})"

_PEEKED: Final = {".txt": PEEK_BYTES, HEADER: MAX_HEADER_BYTES}
"""Bytes that are read of files whose names do not tell what they are."""


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
        names = [one.name for one in path.iterdir() if is_taken(one.name) and one.is_file()]
        starts = {name: _read_start(path / name) for name in names if bytes_to_peek(name)}
        inside = choose_recordings(names, starts)
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


def is_taken(name: str) -> bool:
    """Return whether a file may be a recording by its name; results of recordings are not.

    >>> [is_taken(name) for name in ("r.EDF", "r.csv.gz", "notes.md.gz", "r.beats.csv", "r.dat")]
    [True, True, False, False, False]

    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _TAKEN or name.lower().endswith(ResultFormat.CSV.suffix):
        return False
    return suffix != ".gz" or PurePosixPath(PurePosixPath(name).stem).suffix.lower() in SUFFIXES


def bytes_to_peek(name: str) -> int:
    """Count the bytes of a file that :func:`choose_recordings` needs; 0 where its name tells."""
    return _PEEKED.get(PurePosixPath(name).suffix.lower(), 0)


def choose_recordings(names: Iterable[str], starts: Mapping[str, bytes]) -> list[str]:
    """Choose the recordings of one directory among files that are taken by their names.

    Args:
        names: Names of files.
        starts: How files begin of which :func:`bytes_to_peek` asks for it. A header that is
            missing here, or broken, counts as a recording: its error is told when it is read.

    Returns:
        Names in their order, without segments of WFDB records and texts of another kind.
    """
    segments = {segment for name in starts for segment in _segments_of(name, starts[name])}
    return sorted(
        name
        for name in names
        if _is_recording(name, starts.get(name))
        and not (_is_header(name) and _stem(name) in segments)
    )


def _is_recording(name: str, start: bytes | None) -> bool:
    if PurePosixPath(name).suffix.lower() != ".txt" or start is None:
        return True
    return is_edf(start) or may_be_recording(start, is_whole=len(start) < PEEK_BYTES)


def _is_header(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() == HEADER


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


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(bytes_to_peek(path.name))
