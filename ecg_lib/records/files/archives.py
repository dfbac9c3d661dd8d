"""Take a recording out of a zip, npz or gzip file from someone who is not trusted.

Names in an archive are data: files are written under names of our own, and a name that tries to
lead elsewhere is refused. Bytes are counted while they are unpacked; the sizes that an archive
states are not trusted. The identity in an EDF header is blanked before the file is written.
"""

from __future__ import annotations

import gzip
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from ecg_lib.errors import (
    CorruptRecordError,
    RecordError,
    RecordTooLongError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.edf_file import blank_identity
from ecg_lib.records.files.opening import (
    SUFFIXES,
    TEXT_SUFFIXES,
    UNKNOWN_SUFFIX,
    begins_as_recording,
    begins_as_samples,
)
from ecg_lib.records.files.text.csv_file import may_be_recording
from ecg_lib.records.files.wfdb.header import (
    MAX_HEADER_BYTES,
    NULL_SEGMENT,
    decode_header,
    is_plain_name,
    parse_header,
)
from ecg_lib.records.signal_names import SignalKind, kind_of

ARCHIVE_SUFFIXES: Final = (".zip", ".npz", ".gz")

PEEK_BYTES: Final = 2**16
"""Bytes read from the beginning of a text to decide whether it may be a recording."""

MAX_ENTRIES: Final = 64
MAX_UNPACKED_BYTES: Final = 2**30
MAX_RATIO: Final = 100
"""Greatest ratio of unpacked to packed bytes; ECG samples pack to a third or so."""

_MAX_SHOWN: Final = 8
"""Most file names that an error lists."""

_MAX_SHOWN_CHARS: Final = 64

_GZIP: Final = b"\x1f\x8b"
_GZIP_HEADER_BYTES: Final = 300
_HAS_NAME: Final = 0x08
"""Flag of a gzip header that stores the name of the file and no field before it."""

_WEAK: Final = frozenset({*TEXT_SUFFIXES, ".xml"})
"""Suffixes of files that may only describe a recording; their content decides."""

_RATIO_FROM_BYTES: Final = 2**20
_BLOCK_BYTES: Final = 2**20
_ARCHIVES: Final = frozenset(".zip .gz .tgz .bz2 .xz .7z .tar .rar .zst".split())
_HEADER: Final = ".hea"
_OF_RECORDS: Final = frozenset({_HEADER, ".dat", ".mat", ".atr"})
_STRONG: Final = frozenset(SUFFIXES) - _WEAK - {_HEADER}
_ZIP: Final = "zip archive"
_GZ: Final = "gzip file"
_LITTER: Final = frozenset(
    {"__MACOSX", "Thumbs.db", "desktop.ini", "DICOMDIR", "RECORDS", "ANNOTATORS"}
)
"""Files that archivers, desktops and viewers add, beside those whose names begin with a point, and
the lists of PhysioNet's databases."""


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield the path of a recording; an archive stays unpacked while the context is open.

    Raises
    ------
    RecordError
        If it is an archive that cannot be used, see :func:`unpack_recording`.

    """
    if not is_archive(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ecg-") as scratch:
        # Two folders: a file of the archive may have the name of a part that is not yet renamed.
        parts, named = Path(scratch) / "parts", Path(scratch) / "named"
        parts.mkdir()
        named.mkdir()
        names = unpack_recording(path, parts)
        for name, part in names.items():
            part.rename(named / name)
        if any(name.lower().endswith(_HEADER) for name in names):
            yield named / find_header({name: named / name for name in names})
        else:
            yield named / next(iter(names))


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive by its suffix, or a gzip file by its content."""
    if not path.is_file():
        return False
    if path.suffix.lower() in ARCHIVE_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def name_of(path: Path) -> str:
    """Name a recording by its file, without extensions.

    >>> name_of(Path("a/r.csv.gz")), name_of(Path("r.1.edf"))
    ('r', 'r.1')

    """
    is_packed = path.suffix.lower() == ".gz" and PurePosixPath(path.stem).suffix.lower() in SUFFIXES
    return Path(path.stem).stem if is_packed else path.stem


def unpack_recording(
    archive: Path, directory: Path, *, max_bytes: int | None = None, is_part: bool = False
) -> dict[str, Path]:
    """Unpack the only recording in an archive: a file, or a WFDB header and its signals.

    Parameters
    ----------
    archive : Path
        A zip or npz file, or a file that gzip packed.
    directory : Path
        Where the files go, as ``part0``, ``part1`` and so on.
    max_bytes : int, optional
        The most that it may unpack to, 1 GiB when left out.
    is_part : bool
        Whether the archive is only the beginning of a gzip file.

    Returns
    -------
    dict
        Where each file is now, by the name that it had, without folders.

    Raises
    ------
    CorruptRecordError
        If it is not an archive, is damaged, or tries a trick.
    UnsupportedRecordError
        If it is encrypted, uses another compression, or holds an archive or not one recording.
    RecordTooLongError
        If it unpacks to too much.
    OSError
        If the archive cannot be opened, or what comes out of it cannot be written.

    """
    most = MAX_UNPACKED_BYTES if max_bytes is None else max_bytes
    if archive.suffix.lower() not in {".zip", ".npz"}:
        return _unpack_gzip(archive, directory, most=most, is_part=is_part)
    if is_part:
        msg = "the beginning of a zip archive cannot be read; send all of it as a recording"
        raise UnsupportedRecordError(msg)
    with archive.open("rb") as packed:
        with _telling_damage(_ZIP):
            opened = zipfile.ZipFile(packed)
            # Not is_dir(), which fails for a name that is empty.
            entries = [one for one in opened.infolist() if not _path_of(one).endswith("/")]
        with opened:
            entries = [one for one in entries if not is_litter(_path_of(one))]
            _check_entries(entries)
            if any(_suffix(entry) == _HEADER for entry in entries):
                wanted = _find_record(opened, entries)
            else:
                wanted = [_find_file(opened, entries, kind=archive.suffix.lower())]
            found: dict[str, Path] = {}
            left = most
            for entry in wanted:
                name = PurePosixPath(_path_of(entry)).name
                path = found[name] = directory / f"part{len(found)}"
                left -= _write(path, _unpack(opened, entry, left, most=most))
            return found


def _unpack_gzip(archive: Path, directory: Path, *, most: int, is_part: bool) -> dict[str, Path]:
    is_named = archive.suffix.lower() == ".gz"
    name = archive.stem if is_named else archive.name
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _ARCHIVES:
        msg = "the gzip file must hold a recording, it holds another archive"
        raise UnsupportedRecordError(msg)
    if suffix in _OF_RECORDS:
        msg = (
            "the gzip file must hold one whole recording, it holds a file of a WFDB record; pack "
            "the header (.hea) and its signals in a zip"
        )
        raise UnsupportedRecordError(msg)
    if suffix not in SUFFIXES:
        name += _suffix_within(archive)
    path = directory / "part0"
    _write(path, _unpack_stream(archive, most=most, is_part=is_part))
    return {name: path}


def _suffix_within(archive: Path) -> str:
    """Return the extension of the name that gzip stored, or one that leaves it to the content.

    A file without an extension would be taken for the name of a WFDB record.
    """
    with archive.open("rb") as file:
        start = file.read(_GZIP_HEADER_BYTES)
    has_name = len(start) > 10 and start[3] & 0x1C == _HAS_NAME
    kept = start[10:].partition(b"\0")[0].decode("latin-1") if has_name else ""
    suffix = PurePosixPath(kept).suffix.lower()
    return suffix if suffix in SUFFIXES else UNKNOWN_SUFFIX


def _unpack_stream(archive: Path, *, most: int, is_part: bool) -> Iterator[bytes]:
    packed_bytes = archive.stat().st_size

    def read(opened: gzip.GzipFile) -> bytes:
        try:
            # Where a file is cut off, read raises; read1 first returns the bytes before the cut.
            return opened.read1(_BLOCK_BYTES) if is_part else opened.read(_BLOCK_BYTES)
        except EOFError:
            if is_part:
                return b""
            raise

    with archive.open("rb") as file, gzip.GzipFile(fileobj=file) as opened:
        yield from _count(
            lambda: read(opened),
            _GZ,
            packed_bytes=packed_bytes,
            left=most,
            most=most,
            is_part=is_part,
        )


def _write(path: Path, blocks: Iterable[bytes]) -> int:
    """Write a file with the identity in an EDF header blanked; return its size in bytes."""
    total = 0
    with path.open("xb") as file:
        for block in blocks:
            file.write(block if total else blank_identity(block))
            total += len(block)
    return total


def _find_record(opened: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Find the files of the WFDB record; texts may be next to it, other recordings not."""
    texts = {
        _path_of(one): b"".join(_unpack(opened, one, MAX_HEADER_BYTES))
        for one in entries
        if _suffix(one) == _HEADER
    }
    root = _find_root(texts)
    others = [_path_of(one) for one in entries if _suffix(one) in _STRONG]
    if others:
        raise _several([root, *others])
    folder = PurePosixPath(root).parent
    named = set()
    for name, text in texts.items():
        if PurePosixPath(name).parent == folder:
            words = (PurePosixPath(name).name, *decode_header(text).split())
            named |= {word.casefold() for word in words}
    paths = {_path_of(entry): entry for entry in entries}
    return [
        entry
        for path, entry in paths.items()
        if PurePosixPath(path).parent == folder and PurePosixPath(path).name.casefold() in named
    ]


def _find_file(
    opened: zipfile.ZipFile, entries: list[zipfile.ZipInfo], *, kind: str
) -> zipfile.ZipInfo:
    """Find the only recording; a file named as an ECG goes before those of other signals.

    Text and NPY under other names may be annotations: they count when there is nothing else.
    """
    found = [entry for entry in entries if _may_be_recording(opened, entry)] or [
        entry
        for entry in entries
        if _suffix(entry) not in _WEAK and _begins_as_samples(opened, entry)
    ]
    if kind == ".npz":
        found = [entry for entry in entries if _suffix(entry) == ".npy"]
        if len(found) != 1:
            msg = (
                f"the npz file must hold one array, it holds {_tell(map(_path_of, entries))}; save "
                "the signal alone with numpy.save"
            )
            raise UnsupportedRecordError(msg)
    kinds = {entry.filename: kind_of(PurePosixPath(_path_of(entry)).stem) for entry in found}
    of_ecg = [entry for entry in found if kinds[entry.filename] is SignalKind.ECG]
    left = [entry for entry in found if kinds[entry.filename] is not SignalKind.OTHER]
    if len(of_ecg) == 1 and left == of_ecg:
        return of_ecg[0]
    if len(found) > 1:
        raise _several(list(map(_path_of, found)), is_none_ecg=not left)
    if not found:
        held = f"; it holds {_tell(map(_path_of, entries))}" if entries else ", it is empty"
        msg = f"the zip archive must hold a recording ({', '.join(SUFFIXES)}){held}"
        raise UnsupportedRecordError(msg)
    return found[0]


def _may_be_recording(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    suffix = _suffix(entry)
    if suffix in _STRONG:
        return True
    start, is_whole = _peek(opened, entry)
    return begins_as_recording(start) or (
        suffix in TEXT_SUFFIXES and may_be_recording(start, is_whole=is_whole)
    )


def _begins_as_samples(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    start, is_whole = _peek(opened, entry)
    return begins_as_samples(start, is_whole=is_whole)


def _peek(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[bytes, bool]:
    """Read the beginning of a file, and tell whether that is all of it."""
    blocks = _unpack(opened, entry, MAX_UNPACKED_BYTES)
    start = next(blocks, b"")[:PEEK_BYTES]
    blocks.close()
    return start, len(start) < PEEK_BYTES


def _several(names: Sequence[str], *, is_none_ecg: bool = False) -> UnsupportedRecordError:
    why = ", and none is named as an ECG" if is_none_ecg else "; give one at a time"
    msg = f"the zip archive must hold one recording, it holds {len(names)}: {_tell(names)}{why}"
    return UnsupportedRecordError(msg)


def _tell(names: Iterable[str]) -> str:
    """List file names without folders; replace characters that cannot be printed."""
    shown = [PurePosixPath(name).name[:_MAX_SHOWN_CHARS] for name in names]
    shown = ["".join(char if char.isprintable() else "?" for char in name) for name in shown]
    more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
    return ", ".join(shown[:_MAX_SHOWN]) + more


def find_header(files: Mapping[str, Path]) -> str:
    """Name the header by which a record is opened: the only one, or that of several segments.

    Raises
    ------
    UnsupportedRecordError
        If there are several records, or none.

    """
    headers = {}
    for name, path in files.items():
        if name.lower().endswith(_HEADER):
            with path.open("rb") as file:
                headers[name] = file.read(MAX_HEADER_BYTES)
    return _find_root(headers)


def _find_root(headers: Mapping[str, bytes]) -> str:
    if len(headers) == 1:
        return next(iter(headers))
    parted = [name for name, text in headers.items() if _has_segments(text)]
    if len(parted) != 1:
        msg = (
            "there must be one WFDB record, with one header (.hea), it holds "
            f"{len(headers)}: {_tell(headers)}"
        )
        raise UnsupportedRecordError(msg)
    return parted[0]


def _has_segments(text: bytes) -> bool:
    try:
        header = parse_header(decode_header(text))
    except RecordError:
        return False
    return any(one.name != NULL_SEGMENT for one in header.segments)


def is_litter(name: str) -> bool:
    """Return whether a path is that of a file that software adds to folders of recordings."""
    parts = PurePosixPath(name).parts
    return any(part in _LITTER or re.fullmatch(r"\.[^.].*", part) for part in parts)


@contextmanager
def _telling_damage(kind: str) -> Iterator[None]:
    """Report errors of reading an archive as damage: zipfile and zlib have no common error.

    An :class:`OSError` is one of them: a seek to a place that a damaged entry names.
    """
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        ValueError,
        OSError,
    ) as error:
        msg = f"the {kind} cannot be read: it is damaged or not a {kind}"
        raise CorruptRecordError(msg) from error


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        msg = f"the zip archive must have at most {MAX_ENTRIES} files, got {len(entries)}"
        raise CorruptRecordError(msg)
    for entry in entries:
        _check_entry(entry)
    names = list(map(_path_of, entries))
    if len(set(names)) < len(names):
        msg = "the zip archive must hold one record, two files have the same name"
        raise CorruptRecordError(msg)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    if not all(is_plain_name(part) for part in _path_of(entry).split("/")):
        msg = "names in the zip archive must be plain, one leads elsewhere"
        raise CorruptRecordError(msg)
    if stat.S_ISLNK(entry.external_attr >> 16):
        msg = "the zip archive must hold files, it holds a link"
        raise CorruptRecordError(msg)
    if entry.flag_bits & 0x1:
        msg = "the zip archive must not be encrypted, it is"
        raise UnsupportedRecordError(msg)
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        msg = "the zip archive must be stored or deflated, it is packed otherwise"
        raise UnsupportedRecordError(msg)
    if _suffix(entry) in _ARCHIVES:
        msg = "the zip archive must hold a recording, it holds another archive"
        raise UnsupportedRecordError(msg)


def _path_of(entry: zipfile.ZipInfo) -> str:
    """Return the path in the archive; some archivers of Windows write backslashes."""
    return entry.filename.replace("\\", "/")


def _suffix(entry: zipfile.ZipInfo) -> str:
    return PurePosixPath(_path_of(entry)).suffix.lower()


def _unpack(
    opened: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int, *, most: int | None = None
) -> Generator[bytes, None, None]:
    with _telling_damage(_ZIP):
        packed = opened.open(entry)
    with packed:
        yield from _count(
            lambda: packed.read(_BLOCK_BYTES),
            _ZIP,
            packed_bytes=entry.compress_size,
            left=left,
            most=MAX_UNPACKED_BYTES if most is None else most,
        )


def _count(
    read: Callable[[], bytes],
    kind: str,
    *,
    packed_bytes: int,
    left: int,
    most: int,
    is_part: bool = False,
) -> Iterator[bytes]:
    """Yield unpacked blocks while they are within the limits."""
    limit = max(_RATIO_FROM_BYTES, MAX_RATIO * packed_bytes)
    total = 0
    while True:
        with _telling_damage(kind):
            block = read()
        if not block:
            return
        total += len(block)
        if total > limit:
            msg = f"the {kind} must not unpack to more than {MAX_RATIO} times its size"
            raise CorruptRecordError(msg)
        if total > left:
            if is_part:
                return
            msg = f"the {kind} must unpack to at most {most} bytes"
            raise RecordTooLongError(msg)
        yield block
