"""Take a WFDB record out of a zip archive from someone who is not trusted.

Names in an archive are data: files are written under names of our own, and a name that tries to
lead elsewhere is refused. What an archive unpacks to is counted while it is unpacked, so its own
word about its size does not matter.
"""

from __future__ import annotations

import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from ecg_lib.errors import (
    CorruptRecordError,
    RecordError,
    RecordTooLongError,
    UnsupportedRecordError,
)
from ecg_lib.records.files.wfdb.header import (
    MAX_HEADER_BYTES,
    NULL_SEGMENT,
    decode_header,
    is_plain_name,
    parse_header,
)

MAX_ENTRIES: Final = 64
MAX_UNPACKED_BYTES: Final = 2**30
MAX_RATIO: Final = 100
"""Greatest ratio of unpacked to packed bytes; ECG samples pack to a third or so."""

_RATIO_FROM_BYTES: Final = 2**20
_BLOCK_BYTES: Final = 2**20
_ARCHIVES: Final = frozenset(".zip .gz .tgz .bz2 .xz .7z .tar .rar .zst".split())
_HEADER: Final = ".hea"
_LITTER: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
"""Files that archivers and desktops add, beside those whose names begin with a point."""


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give the path of a recording; that of a zip archive is unpacked as long as it is read.

    Raises
    ------
    RecordError
        If it is an archive that cannot be used, see :func:`unpack_record`.

    """
    if path.suffix.lower() != ".zip" or not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ecg-") as scratch:
        # Two folders: a file of the archive may have the name of a part that is not yet renamed.
        parts, named = Path(scratch) / "parts", Path(scratch) / "named"
        parts.mkdir()
        named.mkdir()
        names = unpack_record(path, parts)
        for name, part in names.items():
            part.rename(named / name)
        yield named / find_header({name: named / name for name in names})


def unpack_record(archive: Path, directory: Path) -> dict[str, Path]:
    """Unpack the header and the signal files of the record in an archive.

    Parameters
    ----------
    archive : Path
    directory : Path
        Where the files go, as ``part0``, ``part1`` and so on.

    Returns
    -------
    dict
        Where each file is now, by the name that it had, without folders.

    Raises
    ------
    CorruptRecordError
        If it is not an archive, is damaged, or tries a trick.
    UnsupportedRecordError
        If it is encrypted, packed in an unusual way, or has an archive in it.
    RecordTooLongError
        If it unpacks to too much.
    OSError
        If the archive cannot be opened, or what comes out of it cannot be written.

    """
    with archive.open("rb") as packed:
        with _telling_damage():
            opened = zipfile.ZipFile(packed)
            # Not is_dir(), which fails for a name that is empty.
            entries = [one for one in opened.infolist() if not _path_of(one).endswith("/")]
        with opened:
            entries = [one for one in entries if not _is_litter(_path_of(one))]
            _check_entries(entries)
            texts = {
                _path_of(one): b"".join(_unpack(opened, one, MAX_HEADER_BYTES))
                for one in entries
                if _suffix(one) == _HEADER
            }
            folder = PurePosixPath(_find_root(texts)).parent
            named = set()
            for name, text in texts.items():
                if PurePosixPath(name).parent == folder:
                    words = (PurePosixPath(name).name, *decode_header(text).split())
                    named |= {word.casefold() for word in words}
            found: dict[str, Path] = {}
            left = MAX_UNPACKED_BYTES
            for entry in entries:
                inside = PurePosixPath(_path_of(entry))
                if inside.parent != folder or inside.name.casefold() not in named:
                    continue
                path = found[inside.name] = directory / f"part{len(found)}"
                with path.open("xb") as file:
                    for block in _unpack(opened, entry, left):
                        left -= len(block)
                        file.write(block)
            return found


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
        msg = f"there must be one WFDB record, with one header (.hea), it holds {len(headers)}"
        raise UnsupportedRecordError(msg)
    return parted[0]


def _has_segments(text: bytes) -> bool:
    try:
        header = parse_header(decode_header(text))
    except RecordError:
        return False
    return any(one.name != NULL_SEGMENT for one in header.segments)


def _is_litter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in _LITTER or re.fullmatch(r"\.[^.].*", part) for part in parts)


@contextmanager
def _telling_damage() -> Iterator[None]:
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
        msg = "the zip archive cannot be read: it is damaged or none"
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
    if not any(_suffix(entry) == _HEADER for entry in entries):
        msg = (
            "the zip archive must hold one WFDB header (.hea), it holds 0; recordings of other "
            "formats are read without an archive"
        )
        raise UnsupportedRecordError(msg)


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
        msg = "the zip archive must hold a WFDB record, it holds another archive"
        raise UnsupportedRecordError(msg)


def _path_of(entry: zipfile.ZipInfo) -> str:
    """Return the path in the archive; some archivers of Windows write backslashes."""
    return entry.filename.replace("\\", "/")


def _suffix(entry: zipfile.ZipInfo) -> str:
    return PurePosixPath(_path_of(entry)).suffix.lower()


def _unpack(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int) -> Iterator[bytes]:
    limit = max(_RATIO_FROM_BYTES, MAX_RATIO * entry.compress_size)
    total = 0
    with _telling_damage(), opened.open(entry) as packed:
        while block := packed.read(_BLOCK_BYTES):
            total += len(block)
            if total > limit:
                msg = f"the zip archive must not unpack to more than {MAX_RATIO} times its size"
                raise CorruptRecordError(msg)
            if total > left:
                msg = f"the zip archive must unpack to at most {MAX_UNPACKED_BYTES} bytes"
                raise RecordTooLongError(msg)
            yield block
