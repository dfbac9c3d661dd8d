"""Take an upload: a form that is written to disk as it comes, then laid out as a recording.

Nothing of what a client calls its files is kept, because a name may be a person's. The identity in
an EDF file is blanked before the file is written. Of a device's export only the samples are kept,
copied to a WFDB record without identity, and the export is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from bentos.recordings.kept_names import KeptNames
from bentos.wire.problems import (
    CRASHED,
    INVALID_REQUEST,
    MALFORMED_FORM,
    STORAGE_FULL,
    TOO_LARGE,
    UNKNOWN_FIELD,
    UPLOAD_STALLED,
    WRONG_MEDIA_TYPE,
    ProblemError,
    explain_file_error,
    explain_validation_error,
)
from ecg_lib.errors import EcgError, RecordNotFoundError
from ecg_lib.recordings.leads import choose_leads
from ecg_lib.records.files.archives import (
    ARCHIVE_SUFFIXES,
    find_header,
    is_archive,
    unpack_recording,
)
from ecg_lib.records.files.devices.device_file import DeviceFile, write_copy
from ecg_lib.records.files.edf_file import EdfFile, blank_annotations, blank_identity, is_edf
from ecg_lib.records.files.lead import Lead, choose_lead
from ecg_lib.records.files.opening import SUFFIXES, UNKNOWN_SUFFIX, open_recording
from ecg_lib.records.files.parts import open_parts
from ecg_lib.records.files.wfdb.header import (
    NULL_SEGMENT,
    WfdbHeader,
    find_name,
    write_neutral_header,
)
from ecg_lib.records.files.wfdb.wfdb_file import read_wfdb_header
from ecg_lib.records.limits import MAX_FS_HZ, MIN_FS_HZ

MAX_UPLOAD_BYTES: Final = 512 * 2**20
MAX_FILES: Final = 16
RETRY_S: Final = 30
"""When room may have been made for another recording."""
RECORDING: Final = "recording"
"""Name of the file that is opened, without its extension."""

_STALL_S: Final = 30.0
_FEED_BYTES: Final = 2**20
_MAX_TEXT_BYTES: Final = 256
_MAX_HEADERS_BYTES: Final = 8192
_EDF_HEADER_BYTES: Final = 256
_ALONE: Final = frozenset(SUFFIXES) - {".hea"}
"""Suffixes of files each of which is a whole recording."""
_LEFT_OUT: Final = ".atr"
_KEPT_SUFFIXES: Final = frozenset({*SUFFIXES, *ARCHIVE_SUFFIXES, ".dat", ".mat"})
"""Another suffix may be part of a person's name; the content of such a file decides."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class UploadFields(BaseModel):
    """The fields of the form beside its files."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    lead: str | None = Field(default=None, min_length=1, max_length=64)
    sampling_rate: float | None = Field(default=None, ge=MIN_FS_HZ, le=MAX_FS_HZ)
    unit: str | None = Field(default=None, min_length=1, max_length=32)
    join: bool = False
    """Whether the files are parts of one recording, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recording that was laid out and checked."""

    path: Path
    """The file, or the first part."""
    more_parts: tuple[Path, ...] = ()
    lead: Lead
    second_lead: str | None = None
    """The second lead of the classification, where the client named no lead."""
    warnings: tuple[str, ...] = ()
    """Which leads were passed over, and why."""
    leads: tuple[str, ...]
    kind: str
    fields: UploadFields


@dataclass(slots=True)
class _Part:
    """The part of the form that comes now."""

    name: str = ""
    file_name: str | None = None
    header_name: bytes = b""
    header_value: bytes = b""
    header_bytes: int = 0
    text: bytes = b""
    start: bytes = b""
    file: BinaryIO | None = None


@dataclass(slots=True)
class _Form:
    """The form as far as it has come."""

    directory: Path
    fields: tuple[str, ...]
    """Names of the fields beside the files."""
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    """Where each file is, by the name that the client gave it."""
    left_out: set[str] = field(default_factory=set)
    """Names of the files that are not kept."""
    part: _Part = field(default_factory=_Part)
    is_over: bool = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """The functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_header_name,
            "on_header_value": self._take_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._take_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def close(self) -> None:
        """Close the file that is open."""
        if self.part.file is not None:
            self.part.file.close()

    def _begin(self) -> None:
        self.part = _Part()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self.part.header_name += data[start:end]
        self._count_header(end - start)

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self.part.header_value += data[start:end]
        self._count_header(end - start)

    def _count_header(self, count: int) -> None:
        self.part.header_bytes += count
        if self.part.header_bytes > _MAX_HEADERS_BYTES:
            raise ProblemError(
                MALFORMED_FORM, f"headers of a part must have at most {_MAX_HEADERS_BYTES} bytes"
            )

    def _end_header(self) -> None:
        part = self.part
        if part.header_name.lower() == b"content-disposition":
            _, options = parse_options_header(part.header_value)
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                part.file_name = options[b"filename"].decode("utf-8", "replace")
        part.header_name = part.header_value = b""

    def _open(self) -> None:
        part = self.part
        if part.name == "files":
            self._open_file()
        elif part.name not in self.fields:
            *names, last = ("files", *self.fields)
            raise ProblemError(
                UNKNOWN_FIELD,
                f"the form must have {', '.join(names)} and {last}, and nothing else",
                errors=[(part.name[:80], "unknown field")],
            )
        elif part.name in self.texts:
            raise _refuse(part.name, f"{part.name} must be given once")

    def _open_file(self) -> None:
        name = PurePosixPath((self.part.file_name or "").replace("\\", "/")).name
        if len(self.files) + len(self.left_out) == MAX_FILES:
            raise _refuse("files", f"there must be at most {MAX_FILES} files")
        if name in self.files or name in self.left_out:
            raise _refuse("files", "files must have different names, two have the same")
        suffix = _suffix_of(name)
        if name.lower().endswith(_LEFT_OUT):
            # Nobody needs the annotations of others, and they may say whose they are.
            self.left_out.add(name)
            path = Path(os.devnull)
        else:
            ends = _suffix_of(PurePosixPath(name).stem) + suffix if suffix == ".gz" else suffix
            path = self.files[name] = self.directory / f"upload{len(self.files)}{ends}"
        self.part.file = path.open("wb")

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        part, piece = self.part, data[start:end]
        if part.file is None:
            part.text += piece
            if len(part.text) > _MAX_TEXT_BYTES:
                raise _refuse(part.name, f"must have at most {_MAX_TEXT_BYTES} bytes")
            return
        if len(part.start) < _EDF_HEADER_BYTES:
            # Held back until it is known whose header this is.
            part.start += piece
            if len(part.start) >= _EDF_HEADER_BYTES:
                part.file.write(blank_identity(part.start))
            return
        part.file.write(piece)

    def _end(self) -> None:
        part = self.part
        if part.file is None:
            self.texts[part.name] = part.text.decode("utf-8", "replace")
            return
        if len(part.start) < _EDF_HEADER_BYTES and not is_edf(part.start):
            part.file.write(part.start)
        part.file.close()
        part.file = None

    def _finish(self) -> None:
        self.is_over = True


def _refuse(name: str, reason: str) -> ProblemError:
    return ProblemError(INVALID_REQUEST, f"{name}: {reason}", errors=[(name, reason)])


def explain_no_room() -> ProblemError:
    """Report that the disk is full."""
    return ProblemError(
        STORAGE_FULL, "there is no room for the recording now", retry_after_s=RETRY_S
    )


@contextlib.contextmanager
def refuse_without_room() -> Iterator[None]:
    """Turn a disk that has become full into a problem.

    Raises
    ------
    ProblemError
        If it has.

    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise explain_no_room() from error
        raise


async def receive_form(
    stream: AsyncIterator[bytes],
    *,
    content_type: str,
    directory: Path,
    executor: Executor,
    fields: type[BaseModel] = UploadFields,
    max_bytes: int | None = None,
) -> tuple[dict[str, str], dict[str, Path]]:
    """Write the files of a form below a directory; give its texts, and the files by their names.

    Raises
    ------
    ProblemError
        If it is not a form, is too large, or stops coming.

    """
    limit = MAX_UPLOAD_BYTES if max_bytes is None else max_bytes
    media_type, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if media_type != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise ProblemError(WRONG_MEDIA_TYPE, "Content-Type must be multipart/form-data")
    form = _Form(directory, tuple(fields.model_fields))
    callbacks: Any = form.callbacks()
    parser = MultipartParser(boundary, callbacks)
    loop = asyncio.get_running_loop()
    total, waiting = 0, bytearray()
    iterator = aiter(stream)
    try:
        while (chunk := await _next(iterator)) is not None:
            total += len(chunk)
            if total > limit:
                raise ProblemError(TOO_LARGE, f"the body must have at most {limit} bytes")
            waiting += chunk
            if len(waiting) >= _FEED_BYTES:
                await _outlast(loop.run_in_executor(executor, _feed, parser, bytes(waiting)))
                waiting.clear()
        await _outlast(loop.run_in_executor(executor, _feed, parser, bytes(waiting)))
    finally:
        form.close()
    if not form.is_over:
        raise ProblemError(MALFORMED_FORM, "the form must end with its boundary, it is cut off")
    return form.texts, form.files


async def _next(iterator: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await asyncio.wait_for(anext(iterator), _STALL_S)
    except StopAsyncIteration:
        return None
    except TimeoutError as error:
        raise ProblemError(UPLOAD_STALLED, f"nothing came for {_STALL_S:g} s") from error


async def _outlast(feeding: asyncio.Future[None]) -> None:
    """Wait for a thread that writes; also when cancelled, as what it writes is removed then."""
    try:
        await asyncio.shield(feeding)
    except asyncio.CancelledError:
        await asyncio.gather(feeding, return_exceptions=True)
        raise


def _feed(parser: MultipartParser, data: bytes) -> None:
    try:
        parser.write(data)
    except FormParserError as error:
        raise ProblemError(MALFORMED_FORM, "the body must be a multipart form") from error


def lay_out(texts: dict[str, str], files: dict[str, Path], directory: Path) -> Recording:
    """Check the fields, lay the files out as a recording, and open it.

    Raises
    ------
    ProblemError
        If the form is not that of a recording, or the recording cannot be read.

    """
    try:
        fields = UploadFields.model_validate(texts)
    except ValidationError as error:
        raise explain_validation_error(error) from None
    try:
        paths = _arrange_parts(files, directory) if fields.join else [_arrange(files, directory)]
        opened = open_parts(paths, fs=fields.sampling_rate, unit=fields.unit)
        kept = KeptNames(opened)
        leads = choose_leads(opened, kept.name_in_file(fields.lead))
        lead, second = leads.first, leads.second
        warnings = leads.describe(lambda one: kept.keep(one).name)
        path, *more_parts = [
            _without_identity(path, lead.name, directory, number, fields)
            for number, path in enumerate(paths)
        ]
    except EcgError as error:
        problem = explain_file_error(error)
        if problem.kind is CRASHED:  # not an error of a file
            raise
        raise problem from error
    return Recording(
        path=path,
        more_parts=tuple(more_parts),
        lead=kept.keep(lead),
        second_lead=None if second is None else kept.keep(second).name,
        warnings=warnings,
        leads=tuple(other.name for other in kept.leads),
        kind=opened.kind,
        fields=fields,
    )


def _arrange_parts(files: dict[str, Path], directory: Path) -> list[Path]:
    """Leave the parts of a recording under numbers, in the order of the form."""
    parts = [_unpack(path, directory) for path in files.values()]
    suffixes = {path.suffix for part in parts for path in part.values()}
    if not suffixes or suffixes - _ALONE - {UNKNOWN_SUFFIX}:
        raise _refuse("files", "parts to join must be EDF, CSV, NPY or the exports of a device")
    return [
        path.rename(directory / f"{RECORDING}{number or ''}{path.suffix}")
        for number, part in enumerate(parts)
        for path in part.values()
    ]


def _unpack(path: Path, directory: Path) -> dict[str, Path]:
    """Replace an archive by its files; return any other file unchanged."""
    if not is_archive(path):
        return {path.name: path}
    unpacked = directory / f"unpacked-{path.name}"
    unpacked.mkdir()
    try:
        return {
            name: part.rename(directory / f"{path.name}-{part.name}{_suffix_of(name)}")
            for name, part in unpack_recording(path, unpacked).items()
        }
    finally:
        shutil.rmtree(unpacked)
        path.unlink()


def _suffix_of(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in _KEPT_SUFFIXES else UNKNOWN_SUFFIX


def _without_identity(
    path: Path, lead: str, directory: Path, number: int, fields: UploadFields
) -> Path:
    """Take the identity out of a part of a recording; an export of a device is copied for that."""
    opened = open_recording(path, fs=fields.sampling_rate, unit=fields.unit)
    if isinstance(opened, EdfFile):
        blank_annotations(path, opened.header)
    if not isinstance(opened, DeviceFile):
        return path
    target = directory / f"part{number}" if number else directory
    target.mkdir(exist_ok=True)
    copied = write_copy(opened, choose_lead(opened.leads, lead), target, name=RECORDING)
    path.unlink()
    return copied


def _arrange(files: dict[str, Path], directory: Path) -> Path:
    """Leave the recording under one name, and nothing else."""
    if len(files) == 1:
        ((name, path),) = files.items()
        files = _unpack(path, directory) if is_archive(path) else {name: path}
    suffixes = [path.suffix for path in files.values()]
    if len(files) == 1 and suffixes[0] != ".hea":
        (only,) = files.values()
        return only.rename(directory / f"{RECORDING}{only.suffix}")
    if ".hea" in suffixes and not set(suffixes) & {*_ALONE, *ARCHIVE_SUFFIXES}:
        return _arrange_wfdb(files, directory)
    raise _refuse(
        "files",
        "must be one EDF, text, NPY, DICOM, ISHNE, SCP-ECG, ATC or XML file, a WFDB header with "
        "its signals, or a zip or gzip file of one recording; set join=true if they are parts of "
        "one recording",
    )


def _arrange_wfdb(files: dict[str, Path], directory: Path) -> Path:
    """Leave a record under neutral names: its header, those of its segments, their signals."""
    root = find_header(files)
    header = read_wfdb_header(files[root])
    names: dict[str, str] = {}
    segments: dict[str, str] = {}
    texts: dict[str, str] = {}
    for number, segment in enumerate(header.segments):
        if segment.name != NULL_SEGMENT and segment.name not in segments:
            source = files.get(find_name(files, f"{segment.name}.hea") or "")
            if source is None:
                msg = "the header of a segment that the WFDB header names is missing"
                raise RecordNotFoundError(msg)
            part = read_wfdb_header(source)
            _rename_signals(part, files, names, directory)
            segments[segment.name] = f"segment{number}"
            texts[f"segment{number}.hea"] = write_neutral_header(part, names)
    _rename_signals(header, files, names, directory)
    texts[f"{RECORDING}.hea"] = write_neutral_header(header, names, segments=segments)
    for path in files.values():
        path.unlink(missing_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory / f"{RECORDING}.hea"


def _rename_signals(
    header: WfdbHeader, files: dict[str, Path], names: dict[str, str], directory: Path
) -> None:
    for signal in header.signals:
        if signal.file in names or signal.file == NULL_SEGMENT:
            continue
        found = find_name(files, signal.file)
        if found is None:
            msg = "a signal file that the WFDB header names is missing"
            raise RecordNotFoundError(msg)
        if found not in names:  # else it was named in other capitals before
            target = f"signal{len(names)}.dat"
            files[found].rename(directory / target)
            names[found] = target
        names[signal.file] = names[found]
