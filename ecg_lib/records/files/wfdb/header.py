"""Parse WFDB headers (WFDB header(5)) without trusting them, and write them without names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.lead import unique_names
from ecg_lib.records.files.wfdb.encodings import KNOWN_FORMATS
from ecg_lib.records.limits import MAX_SIGNALS

MAX_HEADER_BYTES: Final = 65_536

MAX_SEGMENTS: Final = 1024

NULL_SEGMENT: Final = "~"
"""Name of a segment in which nothing was recorded."""

_LONGEST_NAME: Final = 255
"""Bytes in the name of a file, on any system."""

_DEFAULT_GAIN: Final = 200.0

_DEFAULT_FS_HZ: Final = 250.0

_MAX_PER_FRAME: Final = 4096

_MAX_COUNT: Final = 1e18

_NUMBER: Final = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?"

_RECORD_LINE: Final = re.compile(
    r"(?P<name>[^\s/]{1,255})(?P<segments>/\d{1,9})?\s+(?P<n_signals>\d{1,9})"
    rf"(?:\s+(?P<fs>{_NUMBER})(?:/\S+)?"
    # The number of samples may be left out, or come from a program that knows floats alone.
    r"(?:\s+(?P<n_samples>\d{1,18}(?:\.0*|(?:\.\d*)?[eE]\+?\d{1,2})?)(?=\s|$))?"
    r"(?:\s+(?P<when>.*))?)?\s*"
)

_CLOCK: Final = re.compile(
    r"(?<![\d:])(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:[.,]\d+)?))?(?![\d:])"
    r"(?:\s*(?P<half>[ap])\.?m\b)?",
    re.IGNORECASE,
)
"""Time of day, wherever it stands: dates are written before and after it, in many ways."""

_SECONDS: Final = re.compile(r"(\d{1,2}(?:\.\d+)?)(?:\s+\d{1,2}/\d{1,2}/\d{1,4})?\s*")
"""A time of seconds alone, which WFDB reads as well; a number before other words is a date."""

_SIGNAL_LINE: Final = re.compile(
    r"(?P<file>\S{1,255})\s+(?P<format>\d{1,9})(?:x(?P<per_frame>\d{1,9}))?(?::(?P<skew>\d{1,9}))?"
    r"(?:\+(?P<offset>\d{1,18}))?"
    rf"(?:\s+(?P<gain>{_NUMBER})(?:\((?P<baseline>[-+]?\d{{1,12}})(?:\.0*)?\))?"
    r"(?:/(?P<unit>\S+))?"
    r"(?:\s+\d{1,9}(?:\.0*)?(?:\s+(?P<zero>[-+]?\d{1,12})(?:\.0*)?(?:\s+(?P<initial>[-+]?\d{1,18})"
    r"(?:\s+(?P<checksum>[-+]?\d{1,12})(?:\s+\d{1,18}(?:\s+(?P<name>.*\S))?)?)?)?)?)?)?\s*"
)

_SEGMENT_LINE: Final = re.compile(r"(?P<name>\S{1,255})\s+(?P<n_samples>\d{1,18})\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbSignal:
    """One line of a header."""

    file: str
    format: int
    per_frame: int
    """Samples in a frame."""
    skew: int
    """Frames by which it is stored too late."""
    offset: int
    gain: float
    """Units of the converter in one of `unit`; 200 when the header states none, or 0."""
    is_calibrated: bool
    """False when the header states no gain."""
    baseline: int
    unit: str
    initial: int
    checksum: int | None
    name: str


class Segment(NamedTuple):
    """A part of a record that has a header of its own."""

    name: str
    """``~`` when nothing was recorded."""
    n_samples: int
    """0 for the layout of a record whose signals vary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WfdbHeader:
    """A header, parsed."""

    fs: float
    """Frames a second."""
    n_samples: int | None
    """Frames; None when the header leaves it to the size of the file."""
    start_clock_s: float | None
    """Time of day at which the record begins."""
    signals: tuple[WfdbSignal, ...]
    segments: tuple[Segment, ...] = ()
    """Empty for a record of one segment."""


def parse_header(text: str) -> WfdbHeader:
    """Parse a header.

    Raises
    ------
    CorruptRecordError
        If it is not a header.
    UnsupportedRecordError
        If it has a signal in a format that is not read here.

    """
    if len(text) > MAX_HEADER_BYTES:
        msg = f"a WFDB header must have at most {MAX_HEADER_BYTES} bytes, got {len(text)}"
        raise CorruptRecordError(msg)
    # Not splitlines, which parts lines at characters that stand in names and comments too.
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    lines = [line for line in lines if line and line[0] != "#"]
    first = _RECORD_LINE.fullmatch(lines[0]) if lines else None
    if first is None:
        msg = "the first line of a WFDB header must be: name, signals, rate, samples; it is not"
        raise CorruptRecordError(msg)
    fs = float(first["fs"] or 0) or _DEFAULT_FS_HZ
    n_samples = _parse_count(first["n_samples"])
    clock_s = _parse_clock(first["when"])
    if first["segments"]:
        segments = _parse_segments(lines, int(first["segments"][1:]))
        return WfdbHeader(
            fs=fs, n_samples=n_samples, start_clock_s=clock_s, signals=(), segments=segments
        )
    n_signals = int(first["n_signals"])
    if not 1 <= n_signals <= MAX_SIGNALS or len(lines) <= n_signals:
        msg = (
            f"a WFDB header must describe 1 to {MAX_SIGNALS} signals, one a line, it says "
            f"{n_signals} and has {len(lines) - 1} lines"
        )
        raise CorruptRecordError(msg)
    signals = [_parse_signal(line, number) for number, line in enumerate(lines[1 : n_signals + 1])]
    return WfdbHeader(fs=fs, n_samples=n_samples, start_clock_s=clock_s, signals=tuple(signals))


def _parse_count(text: str | None) -> int | None:
    """Parse the number of samples; 0 and none leave it to the file."""
    value = float(text or 0)
    if value != int(value) or value >= _MAX_COUNT:
        msg = "the number of samples in a WFDB header must be a whole number, it is not"
        raise CorruptRecordError(msg)
    # Not by the float, which rounds.
    return (int(text) if text and text.isdecimal() else int(value)) or None


def _parse_segments(lines: list[str], count: int) -> tuple[Segment, ...]:
    matches = [_SEGMENT_LINE.fullmatch(line) for line in lines[1 : count + 1]]
    segments = tuple(Segment(match["name"], int(match["n_samples"])) for match in matches if match)
    if not 1 <= count <= MAX_SEGMENTS or len(segments) != count:
        msg = (
            f"a WFDB header of several segments must list 1 to {MAX_SEGMENTS} of them, one a line, "
            f"it says {count} and lists {len(segments)}"
        )
        raise CorruptRecordError(msg)
    if not all(one.name == NULL_SEGMENT or is_plain_name(one.name) for one in segments):
        msg = "the segments of a WFDB header must be plain names beside it"
        raise CorruptRecordError(msg)
    return segments


def _parse_signal(line: str, number: int) -> WfdbSignal:
    match = _SIGNAL_LINE.fullmatch(line)
    if match is None:
        msg = f"line {number + 2} of a WFDB header must describe a signal, it does not"
        raise CorruptRecordError(msg)
    encoding, per_frame = int(match["format"]), int(match["per_frame"] or 1) or 1
    is_layout = match["file"] == NULL_SEGMENT and encoding == 0
    if encoding not in KNOWN_FORMATS and not is_layout:
        known = ", ".join(map(str, KNOWN_FORMATS))
        msg = f"the format of a WFDB signal must be one of {known}, got {encoding}"
        raise UnsupportedRecordError(msg)
    if per_frame > _MAX_PER_FRAME:
        msg = f"a WFDB signal of format {encoding} with {per_frame} samples in a frame is not read"
        raise UnsupportedRecordError(msg)
    if not is_layout and not is_plain_name(match["file"]):
        msg = "the signal file of a WFDB header must be a plain name beside it"
        raise CorruptRecordError(msg)
    zero = int(match["zero"] or 0)
    gain = float(match["gain"] or 0)
    return WfdbSignal(
        file=match["file"],
        format=encoding,
        per_frame=per_frame,
        skew=int(match["skew"] or 0),
        offset=int(match["offset"] or 0),
        gain=gain or _DEFAULT_GAIN,
        is_calibrated=gain != 0,
        baseline=int(match["baseline"]) if match["baseline"] else zero,
        unit=match["unit"] or "mV",
        initial=int(match["initial"] or 0),
        checksum=int(match["checksum"]) if match["checksum"] else None,
        name=match["name"] or f"signal{number + 1}",
    )


def decode_header(content: bytes) -> str:
    """Decode a header: names of leads may be UTF-8, UTF-16, or Latin-1 of older programs."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def name_signals(header: WfdbHeader) -> tuple[str, ...]:
    """Give each signal of a header a name of its own."""
    return unique_names([signal.name for signal in header.signals])


def find_name(names: Iterable[str], wanted: str) -> str | None:
    """Find the name of a file: as it is, or in other capitals, which some systems do not keep.

    >>> find_name(["R.HEA", "R.DAT"], "r.dat"), find_name(["R.DAT", "r.Dat"], "r.dat")
    ('R.DAT', None)

    """
    known = list(names)
    if wanted in known:
        return wanted
    alike = [name for name in known if name.casefold() == wanted.casefold()]
    return alike[0] if len(alike) == 1 else None


def find_beside(path: Path, name: str) -> Path:
    """Find a file beside another one; where there is none, give the path that it should have."""
    exact = path.with_name(name)
    if exact.exists() or not path.parent.is_dir():
        return exact
    found = find_name((one.name for one in path.parent.iterdir()), name)
    return exact if found is None else path.with_name(found)


def is_plain_name(name: str) -> bool:
    """Return whether a name is that of a file, and not a path."""
    if not name or name in {".", "..", "~", "-"} or re.search(r"[/\\:\x00]", name):
        return False
    return len(name.encode(errors="replace")) <= _LONGEST_NAME


def _parse_clock(text: str | None) -> float | None:
    found = _CLOCK.search(text or "")
    if found is None:
        alone = _SECONDS.fullmatch(text or "")
        return float(alone[1]) if alone else None
    hours, minutes, seconds = (float((found[n] or "0").replace(",", ".")) for n in (1, 2, 3))
    if found["half"]:  # a clock of twelve hours shows no seconds as a rule
        hours = hours % 12 + 12 * (found["half"] in "pP")
    elif found[3] is None:  # minutes and seconds
        hours, minutes, seconds = 0.0, hours, minutes
    clock_s = 3600 * hours + 60 * minutes + seconds
    return clock_s if clock_s < 86_400 else None


def write_neutral_header(
    header: WfdbHeader, files: Mapping[str, str], *, segments: Mapping[str, str] | None = None
) -> str:
    """Write a header again without comments and names, for files that were renamed.

    Parameters
    ----------
    header : WfdbHeader
    files : mapping
        New name of each signal file.
    segments : mapping, optional
        New name of each segment, for a record of several.

    """
    count = f"/{len(header.segments)}" if header.segments else ""
    width = len(header.signals) or 1
    lines = [f"record{count} {width} {header.fs!r} {header.n_samples or 0}"]
    if header.start_clock_s is not None:
        minutes, seconds = divmod(int(header.start_clock_s), 60)
        lines[0] += f" {minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
    renamed = segments or {}
    lines += [f"{renamed.get(one.name, NULL_SEGMENT)} {one.n_samples}" for one in header.segments]
    for signal in header.signals:
        layout = f"x{signal.per_frame}" if signal.per_frame > 1 else ""
        layout += f":{signal.skew}" if signal.skew else ""
        layout += f"+{signal.offset}" if signal.offset else ""
        # Names stand behind checksums: a signal without the one has not the other.
        known = "" if signal.checksum is None else f" {signal.checksum} 0 {signal.name}"
        gain = repr(signal.gain) if signal.is_calibrated else "0"
        lines.append(
            f"{files.get(signal.file, NULL_SEGMENT)} {signal.format}{layout} "
            f"{gain}({signal.baseline})/{signal.unit} 0 0 {signal.initial}{known}"
        )
    return "\n".join(lines) + "\n"
