"""Read WFDB signal files block by block, without trusting them.

``wfdb`` reads whole records and takes half a second to import; :mod:`ecg_lib.records.record` uses
it for records that are trusted. Here a header is taken literally (WFDB header(5)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, RecordNotFoundError
from ecg_lib.records.files.lead import Lead, check_samples, leads_of_usual_rate
from ecg_lib.records.files.wfdb.encodings import (
    DIFFERENCES,
    FRAMES_AT_ONCE,
    count_frames,
    invalid_value,
    read_frames,
    refuse_workspace,
)
from ecg_lib.records.files.wfdb.header import (
    MAX_HEADER_BYTES,
    NULL_SEGMENT,
    WfdbHeader,
    WfdbSignal,
    decode_header,
    find_beside,
    name_signals,
    parse_header,
)
from ecg_lib.records.signal_names import COUNTS, UNIT_TO_MV, read_unit

_UNCALIBRATED: Final = "the WFDB header states no gain: 200 units per mV are assumed, as WFDB does"


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbPart:
    """A segment; one without a header was not recorded."""

    header: WfdbHeader | None
    names: tuple[str, ...]
    files: Mapping[str, Path]
    n_samples: int
    """Frames."""

    def find(self, name: str) -> WfdbSignal | None:
        """Find the signal of a name; None where it was not recorded."""
        if self.header is None or name not in self.names:
            return None
        return self.header.signals[self.names.index(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbFile:
    """A WFDB record of one segment or several; its signals in volts are leads."""

    fs: float
    parts: tuple[WfdbPart, ...]
    leads: tuple[Lead, ...]
    others: tuple[str, ...]
    start_clock_s: float | None
    warnings: tuple[str, ...] = ()
    kind: str = "wfdb"

    @classmethod
    def open(cls, path: Path) -> WfdbFile:
        """Open a record by its header; its signal files are beside it."""
        header = read_wfdb_header(path)
        parts = _open_segments(header, path) if header.segments else (_open_part(header, path),)
        n_frames = sum(part.n_samples for part in parts)
        leads: dict[str, Lead] = {}
        others: dict[str, None] = {}
        warnings: dict[str, None] = {}
        for part in parts:
            for name in part.names:
                signal = part.find(name)
                if signal is None or read_unit(signal.unit) in {None, COUNTS}:
                    others[name] = None
                    continue
                rate = header.fs * signal.per_frame
                label = "" if signal.name == name else signal.name
                lead = Lead(name, rate, n_frames * signal.per_frame, label)
                known = leads.setdefault(name, lead)
                if known.fs != rate:
                    msg = "a signal of a WFDB record must keep its rate in all segments"
                    raise CorruptRecordError(msg)
                if not signal.is_calibrated and part.n_samples:
                    warnings[_UNCALIBRATED] = None
        return cls(
            fs=header.fs,
            parts=tuple(part for part in parts if part.n_samples),
            leads=leads_of_usual_rate(tuple(leads.values())),
            others=tuple(name for name in others if name not in leads),
            start_clock_s=header.start_clock_s,
            warnings=tuple(warnings),
        )

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`; a segment without the lead is missing."""
        per_frame = round(lead.fs / self.fs)
        return map(
            check_samples,
            chain.from_iterable(_read_part(part, lead.name, per_frame) for part in self.parts),
        )


def read_wfdb_header(path: Path) -> WfdbHeader:
    """Read and parse a header file.

    Raises
    ------
    RecordError
        If it is missing, or cannot be used.

    """
    if not path.is_file():
        msg = "a header that the WFDB record names is missing"
        raise RecordNotFoundError(msg)
    if path.stat().st_size > MAX_HEADER_BYTES:
        msg = f"a WFDB header must have at most {MAX_HEADER_BYTES} bytes"
        raise CorruptRecordError(msg)
    return parse_header(decode_header(path.read_bytes()))


def _open_segments(header: WfdbHeader, path: Path) -> tuple[WfdbPart, ...]:
    parts = []
    for name, n_samples in header.segments:
        if name == NULL_SEGMENT:
            parts.append(WfdbPart(header=None, names=(), files={}, n_samples=n_samples))
            continue
        segment = read_wfdb_header(find_beside(path, f"{name}.hea"))
        if segment.segments or abs(segment.fs - header.fs) > 1e-6 * header.fs:
            msg = "a segment of a WFDB record must have signals at the rate of the record"
            raise CorruptRecordError(msg)
        if n_samples == 0:  # the layout of a record whose signals vary
            names = name_signals(segment)
            parts.append(WfdbPart(header=segment, names=names, files={}, n_samples=0))
            continue
        part = _open_part(segment, path)
        if part.n_samples != n_samples:
            msg = (
                f"a segment of the WFDB record must hold {n_samples} samples, "
                f"it holds {part.n_samples}"
            )
            raise CorruptRecordError(msg)
        parts.append(part)
    return tuple(parts)


def _open_part(header: WfdbHeader, path: Path) -> WfdbPart:
    files = {signal.file: find_beside(path, signal.file) for signal in header.signals}
    return WfdbPart(
        header=header,
        names=name_signals(header),
        files=files,
        n_samples=count_samples(header, files),
    )


def count_samples(header: WfdbHeader, files: Mapping[str, Path]) -> int:
    """Count the frames of a segment, by the header and by what the files hold.

    Raises
    ------
    RecordNotFoundError
        If a signal file is missing.
    CorruptRecordError
        If a file is shorter than the header says, or holds nothing.
    UnsupportedRecordError
        If a file is a MATLAB file of version 5 or later.

    """
    held = []
    for name in {signal.file for signal in header.signals}:
        together = [signal for signal in header.signals if signal.file == name]
        path = files.get(name)
        if path is None or not path.is_file():
            msg = "a signal file that the WFDB header names is missing"
            raise RecordNotFoundError(msg)
        refuse_workspace(path)
        if len({(signal.format, signal.offset) for signal in together}) > 1:
            msg = "the signals of one WFDB file must have one format"
            raise CorruptRecordError(msg)
        held.append(
            count_frames(
                path,
                together[0].format,
                offset=together[0].offset,
                per_frame=[signal.per_frame for signal in together],
            )
        )
    n_samples = header.n_samples or min(held)
    if n_samples == 0 or n_samples > min(held):
        msg = f"the signal file must hold {n_samples or 'some'} samples, it holds {min(held)}"
        raise CorruptRecordError(msg)
    return n_samples


def _read_part(part: WfdbPart, name: str, per_frame: int) -> Iterator[NDArray[np.float32]]:
    signal = part.find(name)
    if signal is None or read_unit(signal.unit) in {None, COUNTS}:
        return _missing(part.n_samples * per_frame)
    blocks = _read_signal(part, signal)
    skipped = min(signal.skew, part.n_samples) * per_frame
    return chain(_skip(blocks, skipped), _missing(skipped)) if skipped else blocks


def _missing(n_samples: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, n_samples, FRAMES_AT_ONCE):
        yield np.full(min(FRAMES_AT_ONCE, n_samples - start), np.nan, dtype=np.float32)


def _skip(blocks: Iterator[NDArray[np.float32]], count: int) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        yield block[count:]
        count = max(0, count - len(block))


def _read_signal(part: WfdbPart, signal: WfdbSignal) -> Iterator[NDArray[np.float32]]:
    """Read one signal block by block, in mV, NaN where a sample is missing.

    Raises
    ------
    CorruptRecordError
        At the end, if the checksum is another than the header's. One of 0 is not compared: the
        PhysioNet challenges write it for "not known".

    """
    assert part.header is not None  # noqa: S101  for mypy: a signal is of a header
    together = [other for other in part.header.signals if other.file == signal.file]
    first = sum(other.per_frame for other in islice(together, together.index(signal)))
    scale = UNIT_TO_MV[read_unit(signal.unit) or "mV"] / signal.gain
    invalid = invalid_value(signal.format)
    total, last = 0, signal.initial
    for frames in read_frames(
        part.files[signal.file],
        signal.format,
        offset=signal.offset,
        per_frame=[other.per_frame for other in together],
        n_frames=part.n_samples,
    ):
        samples = frames[:, first : first + signal.per_frame].ravel()
        if signal.format == DIFFERENCES:
            samples = last + np.cumsum(samples)
            last = int(samples[-1])
        total += int(samples.sum())
        block = ((samples - signal.baseline) * scale).astype(np.float32)
        if invalid is not None:
            block[samples == invalid] = np.nan
        yield block
    if signal.checksum and (total - signal.checksum) % 65_536:
        msg = (
            f"the signal must have the checksum {signal.checksum % 65_536} of its header, "
            f"got {total % 65_536}"
        )
        raise CorruptRecordError(msg)
