"""The recording that each reader of a device's export returns, and what those readers share.

Identity never comes this far: a reader takes samples, gains, rates, lead names and the time of day.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, RecordTooLongError, UnsupportedRecordError
from ecg_lib.records.files.lead import MAX_NAME, Lead, check_samples
from ecg_lib.records.limits import MAX_SIGNALS, MIN_DURATION_S
from ecg_lib.records.signal_names import UNIT_TO_MV, read_unit

_SAMPLES_AT_ONCE: Final = 2**20
_COPY_BITS: Final = 30
"""Bits of a sample in a copy: more than the 24 of a float32."""

MISSING_16: Final = -32_768
"""The sample of 16 bits that no converter gives: a missing one."""

LEAD_NAMES: Final[dict[int, str]] = {
    **dict(enumerate(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "V7"), start=1)),
    **dict(enumerate(("V2R", "V3R", "V4R", "V5R", "V6R", "V7R", "X", "Y", "Z"), start=10)),
    **dict(enumerate(("CC5", "CM5"), start=19)),
    **dict(enumerate(("III", "aVR", "aVL", "aVF", "-aVR", "V8", "V9", "V8R", "V9R"), start=61)),
}
"""Leads by their codes in SCP-ECG (EN 1064), which IEEE 11073-10101 (MDC) shares."""

_BY_UPPER: Final = {name.upper(): name for name in LEAD_NAMES.values()}
_DECORATION: Final = re.compile(r"^(?:MDC_ECG_LEAD_|LEAD\s+)|\s*\(.*\)$", flags=re.IGNORECASE)
_CLOCK: Final = re.compile(r"(?:\d{8}|.*[T ]|)([01]\d|2[0-3]):?([0-5]\d):?([0-5]\d)(?:\D.*)?")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceLead:
    """A lead as the device stored it."""

    name: str
    fs: float
    samples: NDArray[np.number]
    """Shape ``(n_samples,)``; may be mapped from the file."""
    gain_mv: float = 1.0
    """mV of one step."""
    offset_mv: float = 0.0
    """mV of a sample that is 0."""
    missing: tuple[int, ...] = (MISSING_16,)
    """Values that mark a sample as missing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceFile:
    """A recording that a device exported; see :class:`ecg_lib.records.files.lead.RecordingFile`."""

    kind: str
    tracks: tuple[DeviceLead, ...]
    start_clock_s: float | None

    @property
    def leads(self) -> tuple[Lead, ...]:
        """Every lead, in the order of the file."""
        return tuple(Lead(track.name, track.fs, len(track.samples)) for track in self.tracks)

    @property
    def others(self) -> tuple[str, ...]:
        """Signals that are not ECG leads: devices export ECG alone."""
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Assumptions about the file: these formats state lead, rate and gain."""
        return ()

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`ecg_lib.records.files.lead.RecordingFile`."""
        track = next(track for track in self.tracks if track.name == lead.name)
        for start in range(0, len(track.samples), _SAMPLES_AT_ONCE):
            raw = np.asarray(track.samples[start : start + _SAMPLES_AT_ONCE])
            samples_mv = raw.astype(np.float64) * track.gain_mv + track.offset_mv
            if track.missing:
                samples_mv[np.isin(raw, track.missing)] = np.nan
            yield check_samples(samples_mv)


def make_device_file(
    kind: str, found: Sequence[DeviceLead], *, start_clock_s: float | None
) -> DeviceFile:
    """Keep the leads that can be analysed, each under a name of its own.

    Devices store the averaged beat of each lead beside its recording. Of leads with one name the
    longest is kept, and leads of less than 10 s are left out where there are longer ones.

    Raises
    ------
    UnsupportedRecordError
        If there is no lead.
    CorruptRecordError
        If there are too many leads, or a gain or a rate is not a number that can be used.

    """
    if not found:
        msg = f"the {kind} file must hold an ECG lead in volts, it holds none"
        raise UnsupportedRecordError(msg)
    if len(found) > MAX_SIGNALS:
        msg = f"the {kind} file must have at most {MAX_SIGNALS} leads, it has {len(found)}"
        raise CorruptRecordError(msg)
    for track in found:
        if not (math.isfinite(track.gain_mv) and track.gain_mv != 0):
            msg = f"the gain of a lead of the {kind} file must be a number other than 0"
            raise CorruptRecordError(msg)
        if not (math.isfinite(track.offset_mv) and math.isfinite(track.fs) and track.fs > 0):
            msg = f"the sampling rate and baseline of the {kind} file must be numbers, they are not"
            raise CorruptRecordError(msg)
    durations = [len(track.samples) / track.fs for track in found]
    is_long = max(durations) >= MIN_DURATION_S
    longest: dict[str, tuple[float, DeviceLead]] = {}
    for number, (track, duration_s) in enumerate(zip(found, durations, strict=True), 1):
        name = _clean(track.name) or f"lead{number}"
        is_kept = duration_s >= MIN_DURATION_S or not is_long
        if is_kept and (name not in longest or duration_s > longest[name][0]):
            longest[name] = duration_s, replace(track, name=name)
    tracks = tuple(track for _, track in longest.values())
    return DeviceFile(kind=kind, tracks=tracks, start_clock_s=start_clock_s)


def _clean(name: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in name[: 4 * MAX_NAME])
    return " ".join(printable.split())[:MAX_NAME]


def name_lead(text: str) -> str:
    """Name a lead from what a device calls it, such as ``MDC_ECG_LEAD_AVR`` or ``Lead aVR``."""
    bare = _DECORATION.sub("", _DECORATION.sub("", text.strip())).strip()
    return _BY_UPPER.get(bare.upper(), bare)


def scale_of(unit: str) -> float | None:
    """Return the mV of a unit of voltage, None when it is another unit."""
    return UNIT_TO_MV.get(read_unit(unit) or "")


def read_number(text: object, what: str) -> float:
    """Read a finite number, from text that names no one.

    Raises
    ------
    CorruptRecordError

    """
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"the {what} must be a number, it is not"
        raise CorruptRecordError(msg)
    return value


def read_count(text: object, what: str) -> int:
    """Read a whole number that is not negative.

    Raises
    ------
    CorruptRecordError

    """
    value = read_number(text, what)
    if value < 0 or value != int(value):
        msg = f"the {what} must be a whole number, it is not"
        raise CorruptRecordError(msg)
    return int(value)


def read_clock(text: str) -> float | None:
    """Read the time of day from ``YYYYMMDDHHMMSS`` or ``HH:MM:SS``, None when there is none."""
    match = _CLOCK.fullmatch(text.strip()[:64])
    return 3600.0 * int(match[1]) + 60.0 * int(match[2]) + int(match[3]) if match else None


def check_size(path: Path, limit: int, kind: str) -> None:
    """Refuse a file that is too large to be read whole.

    Raises
    ------
    RecordTooLongError

    """
    if (size := path.stat().st_size) > limit:
        msg = (
            f"a {kind} file must have at most {limit // 2**20} MiB, it has {size // 2**20}; "
            "export the recording as WFDB, EDF or ISHNE"
        )
        raise RecordTooLongError(msg)


def write_copy(opened: DeviceFile, lead: Lead, directory: Path, *, name: str) -> Path:
    """Write the leads that share the rate and length of one as a WFDB record, without identity.

    Parameters
    ----------
    opened : DeviceFile
    lead : Lead
        The lead that must be in it.
    directory : Path
    name : str
        Name of the header, without extension.

    Returns
    -------
    Path
        The header.

    """
    lines: list[str] = []
    for other in opened.leads:
        if (other.fs, other.n_samples) != (lead.fs, lead.n_samples):
            continue
        file_name = f"signal{len(lines)}.dat"
        largest_mv = max(
            (float(np.nanmax(np.abs(block), initial=0.0)) for block in opened.blocks(other)),
            default=0.0,
        )
        # A power of two: samples of the file that have few bits stay as they are.
        gain = 2.0 ** (_COPY_BITS - math.ceil(math.log2(max(largest_mv, 1e-3))) - 1)
        checksum = 0
        with (directory / file_name).open("wb") as file:
            for block in opened.blocks(other):
                steps = np.full(len(block), -(2**31), dtype=np.int64)
                is_known = np.isfinite(block)
                steps[is_known] = np.rint(block[is_known].astype(np.float64) * gain)
                checksum += int(steps.sum())
                file.write(steps.astype("<i4").tobytes())
        described = f"{gain!r}(0)/mV 0 0 0 {checksum % 65_536} 0 {other.name}"
        lines.append(f"{file_name} 32 {described}")
    first = f"{name} {len(lines)} {lead.fs!r} {lead.n_samples}"
    if opened.start_clock_s is not None:
        minutes, seconds = divmod(int(opened.start_clock_s), 60)
        first += f" {minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"
    path = directory / f"{name}.hea"
    path.write_text("\n".join([first, *lines]) + "\n", encoding="utf-8")
    return path
