"""Read a file of samples for a page that shows it before it is analysed.

Nothing of the file is kept. What the file does not state is not guessed: it is listed, so that a
person can be asked, and samples without a unit are given as they stand in the file.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from bentos.wire.problems import (
    CRASHED,
    INVALID_REQUEST,
    QUEUE_FULL,
    TOO_LARGE,
    UNSUPPORTED_FILE,
    ProblemError,
    explain_file_error,
    explain_validation_error,
)
from bentos.wire.schemas import SignalTable
from ecg_lib.errors import (
    EcgError,
    InvalidSignalError,
    MissingDetailError,
    RecordTooLongError,
    UnknownLeadError,
)
from ecg_lib.recordings.leads import require_unit
from ecg_lib.records.files.archives import is_archive, unpack_recording
from ecg_lib.records.files.lead import (
    ChosenLeads,
    Lead,
    RecordingFile,
    choose_lead,
    choose_usable_leads,
)
from ecg_lib.records.files.npy_file import NpyFile
from ecg_lib.records.files.opening import TEXT_SUFFIXES, open_recording
from ecg_lib.records.files.text.csv_file import CsvFile
from ecg_lib.records.limits import MIN_FS_HZ
from ecg_lib.records.signal_names import UNIT_TO_MV, SignalKind, kind_of

MAX_TABLE_BYTES: Final = 16 * 2**20
MAX_WAITING: Final = 8
_RETRY_S: Final = 5
LONGEST_READ_S: Final = 10.0
"""CPU time, so that the load of the machine does not matter."""
MAX_NUMBERS: Final = 4_000_000
"""Samples of all leads: what a page can show."""

MAX_UNPACKED_BYTES: Final = 4 * MAX_TABLE_BYTES
"""Limit of a compressed file when unpacked; text compresses to about a quarter."""

_TEXT: Final = frozenset(TEXT_SUFFIXES)
_SUFFIXES: Final = _TEXT | {".npy"}
SUFFIXES: Final = (*sorted(_SUFFIXES), ".npz", *(f"{suffix}.gz" for suffix in sorted(_SUFFIXES)))
"""Suffixes of files that are read."""
_KINDS: Final = frozenset({"csv", "npy"})
_DIGITS: Final = 7
_RAW: Final = "uV"
"""Unit by which samples without one are read when they are out of the range of mV."""


class TableFields(BaseModel):
    """The fields of the form beside its file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    is_part: bool = False
    """Whether it is only the beginning of a file."""


class Looks:
    """Reads files one after the other, in a thread of its own: parsing text holds up the others."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="looks")
        self._waiting = 0

    def require_place(self) -> None:
        """Reject a file when many wait.

        Raises
        ------
        ProblemError
            If so.

        """
        if self._waiting >= MAX_WAITING:
            msg = f"{MAX_WAITING} files wait to be read; try again later"
            raise ProblemError(QUEUE_FULL, msg, retry_after_s=_RETRY_S)

    async def read(self, work: Callable[[], bytes]) -> bytes:
        """Do the work when it is its turn; also when nobody waits for its end any more."""
        self.require_place()
        self._waiting += 1
        reading = asyncio.get_running_loop().run_in_executor(self._executor, work)
        reading.add_done_callback(self._end)
        return await asyncio.shield(reading)

    def _end(self, reading: asyncio.Future[bytes]) -> None:
        self._waiting -= 1
        if not reading.cancelled():
            reading.exception()  # whoever still waits gets it


def read_table(texts: dict[str, str], files: dict[str, Path]) -> SignalTable:
    """Read the file of a form.

    Raises
    ------
    ProblemError
        If the form has not one CSV, text or NPY file, or the file cannot be read.

    """
    try:
        stated = TableFields.model_validate(texts)
    except ValidationError as error:
        raise explain_validation_error(error) from None
    if len(files) != 1:
        detail = f"files: there must be one file, got {len(files)}"
        raise ProblemError(INVALID_REQUEST, detail, errors=[("files", detail)])
    (path,) = files.values()
    try:
        path = _unpack(path, is_part=stated.is_part)
        if path.suffix not in _SUFFIXES:
            detail = (
                f"the file must be one of {', '.join(sorted(_SUFFIXES))}, as it is or compressed; "
                "send others as recordings"
            )
            raise ProblemError(UNSUPPORTED_FILE, detail, errors=[("files", detail)])
        if stated.is_part and path.suffix in _TEXT:
            _cut_last_line(path)
        return _read(path, is_part=stated.is_part)
    except EcgError as error:
        problem = explain_file_error(error)
        if problem.kind is CRASHED:  # not an error of a file
            raise
        raise problem from error


def _unpack(path: Path, *, is_part: bool) -> Path:
    """Unpack a compressed file beside itself; return any other file unchanged."""
    if not is_archive(path):
        return path
    directory = path.with_name("unpacked")
    directory.mkdir()
    try:
        unpacked = unpack_recording(path, directory, max_bytes=MAX_UNPACKED_BYTES, is_part=is_part)
    except RecordTooLongError as error:
        raise ProblemError(TOO_LARGE, f"{error}; send the file as a recording") from error
    (name, part), *others = unpacked.items()
    suffix = PurePosixPath(name).suffix.lower()
    return part.rename(
        part.with_name("table" + (suffix if suffix in _SUFFIXES and not others else ""))
    )


def _read(path: Path, *, is_part: bool) -> SignalTable:
    deadline = time.thread_time() + LONGEST_READ_S
    opened, missing, reasons = _open(path, is_part=is_part)
    if opened.kind not in _KINDS:
        detail = f"the file holds an export ({opened.kind}) and not text; send it as a recording"
        raise ProblemError(UNSUPPORTED_FILE, detail, errors=[("files", detail)])
    is_raw = "unit" in missing
    has_unit = not is_raw and any(lead.has_unit for lead in opened.leads)
    try:
        lead = choose_lead(opened.leads, others=opened.others).name
    except UnknownLeadError:
        if all(kind_of(one.name) is SignalKind.OTHER for one in opened.leads):
            raise
        lead = None
    try:
        columns = _read_columns(opened, deadline)
    except InvalidSignalError:  # counts, for instance, are out of the range of mV
        if has_unit or is_raw:
            raise
        is_raw = True
        opened, _, _ = _open(path, is_part=is_part, unit=_RAW)
        columns = _read_columns(opened, deadline)
    passed_over: tuple[str, ...] = ()
    if lead is not None:
        samples = dict(zip(opened.leads, columns, strict=True))
        leads = choose_usable_leads(opened, blocks=lambda one: [samples[one]])
        if not _may_be_in_volts(leads, samples, opened):
            lead, passed_over = leads.first.name, leads._replace(unused=()).describe()
    return SignalTable(
        kind=opened.kind,
        leads=tuple(one.name for one in opened.leads),
        has_lead_names=all(one.is_named for one in opened.leads),
        lead=lead,
        sampling_rate=None if "sampling_rate" in missing else opened.leads[0].fs,
        units=tuple("mV" if one.has_unit and not is_raw else None for one in opened.leads),
        missing=missing,
        warnings=(*reasons, *opened.warnings, *passed_over),
        columns=tuple(_as_in_the_file(one) if is_raw else one for one in columns),
    )


def _may_be_in_volts(
    leads: ChosenLeads, samples: Mapping[Lead, NDArray[np.float32]], opened: RecordingFile
) -> bool:
    """Return whether a lead that looks flat in mV shows beats in volts; its unit is asked for."""
    try:
        for one, _ in leads.passed_over:
            require_unit(samples[one], lead=one, opened=opened)
    except MissingDetailError:
        return True
    return False


def _read_columns(opened: RecordingFile, deadline: float) -> list[NDArray[np.float32]]:
    blocks: list[tuple[NDArray[np.float32], ...]] = []
    room = MAX_NUMBERS
    for block in _read_blocks(opened):
        room -= sum(map(len, block))
        if room < 0:
            msg = f"at most {MAX_NUMBERS:,} samples are shown; send the file as a recording"
            raise ProblemError(TOO_LARGE, msg)
        if time.thread_time() > deadline:
            msg = (
                f"the file takes more than {LONGEST_READ_S:g} s of a processor to read; send it as "
                "a recording, or its beginning with is_part"
            )
            raise ProblemError(TOO_LARGE, msg)
        blocks.append(block)
    if not blocks:
        return [np.zeros(0, dtype=np.float32) for _ in opened.leads]
    return [np.concatenate(column) for column in zip(*blocks, strict=True)]


def _read_blocks(opened: RecordingFile) -> Iterator[tuple[NDArray[np.float32], ...]]:
    """Read all leads together, block by block."""
    if isinstance(opened, CsvFile):
        return opened.blocks_of(opened.leads)
    return zip(*map(opened.blocks, opened.leads), strict=True)


def _as_in_the_file(samples_mv: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo the unit by which samples without one were read, to the digits that float32 holds."""
    samples = samples_mv.astype(np.float64) / UNIT_TO_MV[_RAW]
    largest = float(np.nanmax(np.abs(samples), initial=0.0))
    if largest == 0.0:
        return samples_mv
    return np.round(samples, _DIGITS - math.ceil(math.log10(largest))).astype(np.float32)


def _open(
    path: Path, *, is_part: bool, unit: str | None = None
) -> tuple[RecordingFile, tuple[str, ...], tuple[str, ...]]:
    """Open a file that may lack details; return which, and why its rate must be confirmed."""
    fs: float | None = None
    missing: list[str] = []
    reasons: tuple[str, ...] = ()
    opened: RecordingFile
    while True:
        try:
            if is_part and path.suffix == ".npy":
                opened = NpyFile.open(path, fs=fs, unit=unit, is_part=True)
            else:
                opened = open_recording(path, fs=fs, unit=unit)
        except MissingDetailError as error:
            if error.detail == "sampling_rate" and fs is None:
                fs = error.found_hz or MIN_FS_HZ
                reasons = (str(error),) if error.found_hz else ()
            elif error.detail == "unit" and unit is None:
                unit = _RAW
            else:
                raise
            missing.append(error.detail)
        else:
            return opened, tuple(missing), reasons


def _cut_last_line(path: Path) -> None:
    """Leave out the last line of the beginning of a file, which may be half a line."""
    content = path.read_bytes()
    end = max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
    if content.startswith(b"\xff\xfe"):  # UTF-16, little-endian: the second half of the line end
        end += 1
    if end > 1:
        path.write_bytes(content[:end])
