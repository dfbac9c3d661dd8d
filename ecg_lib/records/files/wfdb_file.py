"""Read WFDB headers and signal files block by block, without trusting them.

``wfdb`` reads whole records and takes half a second to import; :mod:`ecg_lib.records.record` uses
it for records that are trusted. Here a header is taken literally (WFDB header(5)).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, RecordNotFoundError, UnsupportedRecordError
from ecg_lib.records.files.lead import (
    Lead,
    check_samples,
)
from ecg_lib.records.limits import MAX_SIGNALS, UNIT_TO_MV


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbFile:
    """A WFDB record of one segment."""

    header: WfdbHeader
    files: Mapping[str, Path]
    n_samples: int
    kind: str = "wfdb"

    @classmethod
    def open(cls, path: Path) -> WfdbFile:
        """Open a record by its header; its signal files are beside it."""
        if path.stat().st_size > MAX_HEADER_BYTES:
            msg = f"a WFDB header must have at most {MAX_HEADER_BYTES} bytes"
            raise CorruptRecordError(msg)
        header = parse_header(path.read_text(encoding="latin-1"))
        files = {signal.file: path.with_name(signal.file) for signal in header.signals}
        count = count_samples(header, files)
        return cls(header=header, files=files, n_samples=count)

    @property
    def leads(self) -> tuple[Lead, ...]:
        """Every signal of the header."""
        return tuple(
            Lead(signal.name, self.header.fs, self.n_samples) for signal in self.header.signals
        )

    @property
    def start_clock_s(self) -> float | None:
        """Base time of the header."""
        return self.header.start_clock_s

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`RecordingFile`."""
        number = self.leads.index(lead)
        blocks = read_blocks(self.header, number, self.files, self.n_samples)
        return map(check_samples, blocks)


MAX_HEADER_BYTES: Final = 65_536


_LONGEST_NAME: Final = 255
"""Bytes in the name of a file, on any system."""


_DEFAULT_GAIN: Final = 200.0


_DEFAULT_FS_HZ: Final = 250.0


_FRAMES_AT_ONCE: Final = 131_072


_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"


_RECORD_LINE: Final = re.compile(
    r"(?P<name>[^\s/]{1,255})(?P<segments>/\d+)?\s+(?P<n_signals>\d{1,9})"
    rf"(?:\s+(?P<fs>{_NUMBER})(?:/\S+)?(?:\s+(?P<n_samples>\d{{1,18}})"
    r"(?:\s+(?P<time>\d{1,2}(?::\d{1,2}){0,2}(?:\.\d+)?)(?:\s+\S+)?)?)?)?\s*"
)


_SIGNAL_LINE: Final = re.compile(
    r"(?P<file>\S{1,255})\s+(?P<format>\d{1,9})(?:x(?P<per_frame>\d{1,9}))?(?::(?P<skew>\d{1,9}))?"
    r"(?:\+(?P<offset>\d{1,18}))?"
    rf"(?:\s+(?P<gain>{_NUMBER})(?:\((?P<baseline>[-+]?\d{{1,9}})\))?(?:/(?P<unit>\S+))?"
    r"(?:\s+\d{1,9}(?:\s+(?P<zero>[-+]?\d{1,9})(?:\s+[-+]?\d{1,18}"
    r"(?:\s+(?P<checksum>[-+]?\d{1,9})(?:\s+\d{1,18}(?:\s+(?P<name>.*\S))?)?)?)?)?)?)?\s*"
)


class _Encoding(NamedTuple):
    """How samples are stored."""

    bytes_of: Callable[[int], int]
    """Bytes of so many samples."""
    decode: Callable[[NDArray[np.uint8]], NDArray[np.int64]]
    invalid: int
    """The value that marks a sample as invalid."""


def _integers(dtype: str) -> Callable[[NDArray[np.uint8]], NDArray[np.int64]]:
    return lambda raw: raw.view(dtype).astype(np.int64)


def _decode_80(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    return raw.astype(np.int64) - 128


def _decode_160(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    return raw.view("<u2").astype(np.int64) - 32768


def _decode_24(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    low, middle, high = raw.reshape(-1, 3).astype(np.int64).T
    return np.asarray(((high << 16 | middle << 8 | low) ^ 0x800000) - 0x800000)


def _decode_212(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Two samples of twelve bits in three bytes; of an odd number the last has two."""
    padded = np.pad(raw, (0, -len(raw) % 3)).reshape(-1, 3).astype(np.int64)
    first = padded[:, 0] | (padded[:, 1] & 0x0F) << 8
    second = padded[:, 2] | (padded[:, 1] & 0xF0) << 4
    pairs = np.stack([first, second], axis=1).ravel()
    return np.asarray((pairs ^ 0x800) - 0x800)


_ENCODINGS: Final[dict[int, _Encoding]] = {
    16: _Encoding(lambda count: 2 * count, _integers("<i2"), -(2**15)),
    24: _Encoding(lambda count: 3 * count, _decode_24, -(2**23)),
    32: _Encoding(lambda count: 4 * count, _integers("<i4"), -(2**31)),
    61: _Encoding(lambda count: 2 * count, _integers(">i2"), -(2**15)),
    80: _Encoding(lambda count: count, _decode_80, -(2**7)),
    160: _Encoding(lambda count: 2 * count, _decode_160, -(2**15)),
    212: _Encoding(lambda count: (3 * count + 1) // 2, _decode_212, -(2**11)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbSignal:
    """One line of a header."""

    file: str
    format: int
    offset: int
    gain: float
    baseline: int
    unit: str
    checksum: int | None
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbHeader:
    """What a header says."""

    fs: float
    n_samples: int | None
    """None when the header leaves it to the size of the file."""
    start_clock_s: float | None
    """Time of day at which the record begins."""
    signals: tuple[WfdbSignal, ...]


def parse_header(text: str) -> WfdbHeader:
    """Parse a header.

    Raises
    ------
    CorruptRecordError
        If it is no header.
    UnsupportedRecordError
        If it is one of several segments, or has a signal that is not read here.

    """
    if len(text) > MAX_HEADER_BYTES:
        msg = f"a WFDB header must have at most {MAX_HEADER_BYTES} bytes, got {len(text)}"
        raise CorruptRecordError(msg)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = _RECORD_LINE.fullmatch(lines[0]) if lines else None
    if first is None:
        msg = "the first line of a WFDB header must be: name, signals, rate, samples; it is not"
        raise CorruptRecordError(msg)
    if first["segments"]:
        msg = "a WFDB record must be of one segment, this one is of several"
        raise UnsupportedRecordError(msg)
    n_signals = int(first["n_signals"])
    if not 1 <= n_signals <= MAX_SIGNALS or len(lines) <= n_signals:
        msg = (
            f"a WFDB header must describe 1 to {MAX_SIGNALS} signals, one a line, it says "
            f"{n_signals} and has {len(lines) - 1} lines"
        )
        raise CorruptRecordError(msg)
    signals = tuple(
        _parse_signal(line, number) for number, line in enumerate(lines[1 : n_signals + 1])
    )
    names = [signal.name for signal in signals]
    if len(set(names)) < len(names):
        msg = "each signal of a WFDB header must have a name of its own, two have the same"
        raise CorruptRecordError(msg)
    return WfdbHeader(
        fs=float(first["fs"] or _DEFAULT_FS_HZ),
        n_samples=int(first["n_samples"] or 0) or None,
        start_clock_s=_parse_clock(first["time"]),
        signals=signals,
    )


def _parse_signal(line: str, number: int) -> WfdbSignal:
    match = _SIGNAL_LINE.fullmatch(line)
    if match is None:
        msg = f"line {number + 2} of a WFDB header must describe a signal, it does not"
        raise CorruptRecordError(msg)
    encoding = int(match["format"])
    if encoding not in _ENCODINGS:
        known = ", ".join(map(str, sorted(_ENCODINGS)))
        msg = f"the format of a WFDB signal must be one of {known}, got {encoding}"
        raise UnsupportedRecordError(msg)
    if int(match["per_frame"] or 1) != 1 or int(match["skew"] or 0) != 0:
        msg = "the signals of a WFDB record must share one rate and have no skew"
        raise UnsupportedRecordError(msg)
    if not is_plain_name(match["file"]):
        msg = "the signal file of a WFDB header must be a plain name beside it"
        raise CorruptRecordError(msg)
    zero = int(match["zero"] or 0)
    return WfdbSignal(
        file=match["file"],
        format=encoding,
        offset=int(match["offset"] or 0),
        gain=float(match["gain"] or 0) or _DEFAULT_GAIN,
        baseline=int(match["baseline"]) if match["baseline"] else zero,
        unit=match["unit"] or "mV",
        checksum=int(match["checksum"]) if match["checksum"] else None,
        name=match["name"] or f"signal{number + 1}",
    )


def is_plain_name(name: str) -> bool:
    """Tell whether a name is that of a file, and not a way to one."""
    if not name or name in {".", "..", "~", "-"} or re.search(r"[/\\:\x00]", name):
        return False
    return len(name.encode(errors="replace")) <= _LONGEST_NAME


def _parse_clock(text: str | None) -> float | None:
    if text is None:
        return None
    clock_s = 0.0
    for part in text.split(":"):
        clock_s = 60 * clock_s + float(part)
    return clock_s if clock_s < 86_400 else None


def write_neutral_header(header: WfdbHeader, files: Mapping[str, str]) -> str:
    """Write a header again without comments and names, for files that were renamed.

    Parameters
    ----------
    header : WfdbHeader
    files : mapping
        New name of each signal file.

    """
    lines = [f"record {len(header.signals)} {header.fs!r} {header.n_samples or 0}"]
    if header.start_clock_s is not None:
        minutes, seconds = divmod(int(header.start_clock_s), 60)
        lines[0] += f" {minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
    for signal in header.signals:
        offset = f"+{signal.offset}" if signal.offset else ""
        # Names stand behind checksums: a signal without the one has not the other.
        known = "" if signal.checksum is None else f" 0 {signal.checksum} 0 {signal.name}"
        lines.append(
            f"{files[signal.file]} {signal.format}{offset} "
            f"{signal.gain!r}({signal.baseline})/{signal.unit} 0 0{known}"
        )
    return "\n".join(lines) + "\n"


def count_samples(header: WfdbHeader, files: Mapping[str, Path]) -> int:
    """Count the samples of each signal, by the header and by what the files hold.

    Raises
    ------
    RecordNotFoundError
        If a signal file is missing.
    CorruptRecordError
        If a file is shorter than the header says, or holds nothing.

    """
    held = []
    for name in {signal.file for signal in header.signals}:
        together = [signal for signal in header.signals if signal.file == name]
        path = files.get(name)
        if path is None or not path.is_file():
            msg = "a signal file that the WFDB header names is missing"
            raise RecordNotFoundError(msg)
        if len({(signal.format, signal.offset) for signal in together}) > 1:
            msg = "the signals of one WFDB file must have one format"
            raise CorruptRecordError(msg)
        encoding, size = _ENCODINGS[together[0].format], path.stat().st_size - together[0].offset
        held.append(_frames_in(encoding, size, len(together)))
    n_samples = header.n_samples or min(held)
    if n_samples == 0 or n_samples > min(held):
        msg = f"the signal file must hold {n_samples or 'some'} samples, it holds {min(held)}"
        raise CorruptRecordError(msg)
    return n_samples


def _frames_in(encoding: _Encoding, size: int, n_signals: int) -> int:
    frames = max(0, size) * 2 // (encoding.bytes_of(2) * n_signals)
    while frames and encoding.bytes_of(frames * n_signals) > size:
        frames -= 1
    return frames


def read_blocks(
    header: WfdbHeader, number: int, files: Mapping[str, Path], n_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Read one signal block by block, in mV, NaN where a sample is invalid.

    Raises
    ------
    CorruptRecordError
        If the unit is no voltage, or, at the end, the checksum is another than the header's.

    """
    signal = header.signals[number]
    if signal.unit not in UNIT_TO_MV:
        msg = f"the unit of an ECG signal must be one of {', '.join(UNIT_TO_MV)}"
        raise CorruptRecordError(msg)
    together = [other for other in header.signals if other.file == signal.file]
    width, column = len(together), together.index(signal)
    encoding = _ENCODINGS[signal.format]
    scale = UNIT_TO_MV[signal.unit] / signal.gain
    total = 0
    with files[signal.file].open("rb") as file:
        file.seek(signal.offset)
        for start in range(0, n_samples, _FRAMES_AT_ONCE):  # an even number: 212 packs pairs
            count = min(_FRAMES_AT_ONCE, n_samples - start)
            raw = np.fromfile(file, dtype=np.uint8, count=encoding.bytes_of(count * width))
            samples = encoding.decode(raw)[: count * width].reshape(count, width)[:, column]
            total += int(samples.sum())
            block = ((samples - signal.baseline) * scale).astype(np.float32)
            block[samples == encoding.invalid] = np.nan
            yield block
    if signal.checksum is not None and (total - signal.checksum) % 65_536:
        msg = (
            f"the signal must have the checksum {signal.checksum % 65_536} of its header, "
            f"got {total % 65_536}"
        )
        raise CorruptRecordError(msg)


_CODE_OF_SYMBOL: Final = {"N": 1, "V": 5, "/": 12, "Q": 13, "~": 14, "!": 31, "[": 32, "]": 33}


def encode_annotations(samples: NDArray[np.int64], symbols: NDArray[np.str_]) -> bytes:
    """Encode annotations in MIT format (WFDB annot(5)).

    ``wfdb.wrann`` takes seconds for the beats of a day.

    Parameters
    ----------
    samples : ndarray of int64, shape (n_annotations,)
        Ascending positions.
    symbols : ndarray of str, shape (n_annotations,)
        ``N``, ``V``, ``Q`` (unclassifiable), ``/`` (paced), ``~`` (change of signal quality),
        ``[``, ``!`` and ``]`` (flutter: its beginning, waves and end).

    Raises
    ------
    KeyError
        If a symbol is another.

    """
    steps = np.diff(samples, prepend=0)
    names, places = np.unique(symbols, return_inverse=True)
    codes = np.array([_CODE_OF_SYMBOL[name] for name in names.tolist()], dtype=np.int64)[places]
    is_far = steps > 1023
    words = np.zeros((len(samples), 4), dtype=np.int64)  # skip, high and low half of it, beat
    words[:, 0] = 59 << 10
    words[:, 1], words[:, 2] = steps >> 16, steps & 0xFFFF
    words[:, 3] = codes << 10 | np.where(is_far, 0, steps)
    is_written = np.stack([is_far, is_far, is_far, np.ones_like(is_far)], axis=1)
    return words[is_written].astype("<u2").tobytes() + b"\x00\x00"
