"""Join the files of one recording: parts in their order, with gaps where their clocks leave some.

Recorders begin a new file each day, or after a battery was changed. A file says at which time of
day it begins; dates are not read. So a gap is the least time from the end of a part to the time of
day at which the next one begins. The length of a text is known when it has been read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, UnsupportedRecordError
from ecg_lib.records.files.lead import Lead, RecordingFile, refuse_too_long
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.signal_names import SignalKind, kind_of

MAX_PARTS: Final = 1000

_DAY_S: Final = 86_400.0
_CLOCK_ERROR_S: Final = 2.0
"""Clocks of files are whole seconds at both ends of a seam."""
_LONGEST_GAP_S: Final = 12 * 3600.0
"""A longer gap looks like parts that overlap, or are out of order."""
_SAMPLES_AT_ONCE: Final = 2**20


class _Part(NamedTuple):
    """A file, and the seconds that are missing before it."""

    opened: RecordingFile
    gap_s: float | None
    """None while the length of the part before is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedFile:
    """Files that are one recording; see :class:`ecg_lib.records.files.lead.RecordingFile`."""

    parts: tuple[_Part, ...]

    @property
    def kind(self) -> str:
        """Kind of the first part."""
        return self.parts[0].opened.kind

    @property
    def start_clock_s(self) -> float | None:
        """Time of day at which the first part begins."""
        return self.parts[0].opened.start_clock_s

    @property
    def leads(self) -> tuple[Lead, ...]:
        """The leads that every part has, at one rate."""
        found = []
        for first in self.parts[0].opened.leads:
            count: int | None = 0
            for part in self.parts:
                lead = _find(part.opened, first)
                if lead is None:
                    break
                known = lead.n_samples
                if count is None or known is None or part.gap_s is None:
                    count = None
                else:
                    count += round(part.gap_s * first.fs) + known
            else:
                found.append(first._replace(n_samples=count))
        return tuple(found)

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the signals of the first part that are not in volts."""
        return self.parts[0].opened.others

    @property
    def warnings(self) -> tuple[str, ...]:
        """Assumptions about any part, each once, and about the time between parts."""
        said = [one for part in self.parts for one in part.opened.warnings]
        if len(self.parts) > 1 and any(part.opened.start_clock_s is None for part in self.parts):
            said.append(
                "a part states no time of day: it is taken to follow the part before it at once, "
                "and so is the part after it"
            )
        return tuple(dict.fromkeys(said))

    def blocks(self, lead: Lead) -> Iterator[NDArray[np.float32]]:
        """See :class:`ecg_lib.records.files.lead.RecordingFile`; gaps are NaN."""
        before, read, total = self.parts[0].opened, 0, 0
        for number, (opened, known_s) in enumerate(self.parts, start=1):
            gap_s = known_s
            if gap_s is None:
                gap_s = _gap_between(before, opened, number, lasts_s=read / lead.fs)
            missing = round(gap_s * lead.fs)
            refuse_too_long((total + missing) / lead.fs)
            for start in range(0, missing, _SAMPLES_AT_ONCE):
                count = min(_SAMPLES_AT_ONCE, missing - start)
                yield np.full(count, np.nan, dtype=np.float32)
            own = _find(opened, lead)
            before, read = opened, 0
            if own is not None:  # every part has the leads of the recording
                for block in opened.blocks(own):
                    read += len(block)
                    yield block
            total += missing + read


def _find(opened: RecordingFile, like: Lead) -> Lead | None:
    return next(
        (lead for lead in opened.leads if (lead.name, lead.fs) == (like.name, like.fs)), None
    )


def open_parts(
    paths: Sequence[Path], *, fs: float | None = None, unit: str | None = None
) -> RecordingFile:
    """Open the files of one recording, in the order in which they were recorded.

    Parameters
    ----------
    paths : sequence of Path
        At least one, in order; see :func:`ecg_lib.records.files.opening.open_recording`.
    fs, unit
        As :func:`ecg_lib.records.files.opening.open_recording` takes them, for all parts.

    Raises
    ------
    RecordError
        If a part cannot be read, the parts have no lead in common, or do not follow each other.
    RecordTooLongError
        If they are too long together.

    """
    if not 1 <= len(paths) <= MAX_PARTS:
        msg = f"a recording must have 1 to {MAX_PARTS} parts, got {len(paths)}"
        raise CorruptRecordError(msg)
    opened = [open_recording(path, fs=fs, unit=unit) for path in paths]
    gaps: list[float | None] = [0.0]
    for number, (before, after) in enumerate(pairwise(opened), start=2):
        known = [lead.n_samples / lead.fs for lead in before.leads if lead.n_samples is not None]
        gaps.append(_gap_between(before, after, number, lasts_s=max(known)) if known else None)
    joined = JoinedFile(parts=tuple(map(_Part, opened, gaps)))
    has_ecg = any(_is_ecg(lead) for file in opened for lead in file.leads)
    if not joined.leads or (has_ecg and not any(map(_is_ecg, joined.leads))):
        msg = "the parts of a recording must have a lead in common, of one name and one rate"
        raise UnsupportedRecordError(msg)
    for lead in joined.leads:
        refuse_too_long((lead.n_samples or 0) / lead.fs)
    return joined


def _is_ecg(lead: Lead) -> bool:
    return kind_of(lead.label or lead.name) is SignalKind.ECG


def _gap_between(
    before: RecordingFile, after: RecordingFile, number: int, *, lasts_s: float
) -> float:
    """Give the seconds from the end of a part to the next; none where a clock is not known."""
    if before.start_clock_s is None or after.start_clock_s is None:
        return 0.0
    gap_s = (after.start_clock_s - before.start_clock_s - lasts_s) % _DAY_S
    if gap_s > _DAY_S - _CLOCK_ERROR_S or gap_s < _CLOCK_ERROR_S:
        return 0.0
    if gap_s > _LONGEST_GAP_S:
        msg = (
            f"part {number} must begin within 12 h after the end of the part before it, by its "
            "clock; give the parts in the order in which they were recorded"
        )
        raise CorruptRecordError(msg)
    return gap_s
