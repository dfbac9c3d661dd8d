"""Follow the time stamps of a text file: one constant rate, with gaps, or a refusal.

Stamps are rounded, jitter, or are those of packets, so that several rows have the same one. The
rate is that of long stretches, and a gap is where the stamps move on against it and stay there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, MissingDetailError
from ecg_lib.records.files.lead import rate_contradiction, refuse_too_long
from ecg_lib.records.files.text.rounding import RoundedRate

RATE_DEVIATION: Final = 1e-3
"""Share by which the rate of a column of time may differ, of what was said or of its beginning."""

LOOSE_DEVIATION: Final = 0.05
"""The same for stamps that repeat or jitter: of few rows they give a poor rate."""

_LONGEST_STEP: Final = 2.5
"""Intervals of samples from which a step of time may be a gap; rounding makes two of one."""

_LATEST_S: Final = 1e12
"""Beyond any clock: seconds since 1970 are below it."""

_AROUND: Final = 32
"""Stamps on each side of a long step that tell a gap from jitter."""

_NAN_AT_ONCE: Final = 2**20

_MAX_JITTER_S: Final = 0.1

_SIZES: Final = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
"""Since 1970 there are fewer seconds, milliseconds and microseconds than these."""

_DATES: Final = (1e4, 1e6)
"""Days since 1900 or since year 0 are between these."""

_DAY_STEP: Final = 1e-6
"""A step of 86 ms in days; of 1 MHz in seconds."""

_CLOCK: Final = re.compile(
    r"\[?\s*(?:(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})[T ]"
    r"|(?P<first>\d{1,2})(?P<mark>[-/.])(?P<second>\d{1,2})[-/.](?P<late>\d{4}|\d{2})[T ,])?\s*"
    r"(?:(?P<hours>\d{1,3}):)?(?P<minutes>\d{1,3}):(?P<seconds>\d{1,2}(?:[.,]\d{1,12}|:\d{3})?)"
    r"\s*(?P<half>[ap]\.?\s?m\.?)?\s*(?:Z|UTC|GMT|[-+]\d{2}:?\d{2})?"
    r"(?:\s+\d{1,2}[-/.]\d{1,2}[-/.]\d{4})?\s*\]?",
    re.IGNORECASE,
)

_DAY_S: Final = 86_400.0
_FIRST_S: Final = 60.0
"""Times without a date that begin below it count from the beginning, and not from midnight."""

_MONTHS: Final = 12


class Rate(NamedTuple):
    """The rate that the first stamps of a column give."""

    fs: float
    is_regular: bool
    """False when stamps repeat or jitter by more than a sample."""
    rounded: RoundedRate | None = None
    """The rates that equal steps allow, where those do not give a whole number of Hz."""


def read_clocks(cells: list[str]) -> NDArray[np.float64]:
    """Read times of day, with or without a date, in seconds; NaN where a cell is none.

    Past midnight a time of day without a date goes on.
    """
    times_s = np.array([_read_clock(cell) for cell in cells], dtype=np.float64)
    if len(times_s) and np.nanmax(np.abs(times_s), initial=0.0) <= _DAY_S:
        with np.errstate(invalid="ignore"):
            times_s += _DAY_S * np.cumsum(np.diff(times_s, prepend=times_s[:1]) < -_DAY_S / 2)
    return times_s


def read_time_of_day(cell: str) -> float | None:
    """Read the time of day, in seconds; None where it is the time since the beginning."""
    match = _CLOCK.fullmatch(cell.strip().strip("'\""))
    time_s = _read_clock(cell)
    if match is None or not time_s > 0 or not match["hours"]:
        return None
    is_elapsed = _date_of(match) is None and time_s < _FIRST_S
    return None if is_elapsed else time_s % _DAY_S


def _read_clock(cell: str) -> float:
    match = _CLOCK.fullmatch(cell.strip().strip("'\""))
    if match is None:
        return float("nan")
    time_s = 60.0 * int(match["minutes"]) + float(re.sub("[,:]", ".", match["seconds"]))
    hours = int(match["hours"] or 0)
    if match["half"]:
        hours = hours % 12 + 12 * match["half"].lower().startswith("p")
    time_s += 3600.0 * hours
    date = _date_of(match)
    if date is None:
        return time_s
    try:
        return time_s + _DAY_S * float(np.datetime64(date, "D").astype(np.int64))
    except ValueError:
        return float("nan")


def _date_of(match: re.Match[str]) -> str | None:
    """Give the date of a time; 3/31/2024, and with AM or PM 3/1/2024, have the month first."""
    if match["year"]:
        return f"{match['year']}-{int(match['month']):02d}-{int(match['day']):02d}"
    if not match["late"]:
        return None
    day, month = int(match["first"]), int(match["second"])
    if month > _MONTHS or (match["half"] and match["mark"] == "/"):
        day, month = month, day
    year = match["late"] if len(match["late"]) > 2 else f"20{match['late']}"
    return f"{year}-{month:02d}-{day:02d}"


def size_of_unit(times: NDArray[np.float64]) -> float:
    """Return how many seconds a step of one is in stamps that state no unit.

    Those since 1970 may be in parts of a second. Dates of Excel and MATLAB are in days, by which
    two rows are less than a microsecond apart if they are read as seconds.
    """
    first = abs(float(times[0])) if len(times) else 0.0
    if _DATES[0] <= first <= _DATES[1] and len(times) > 1:
        step = float(np.median(np.diff(times)))
        if 0 < step < _DAY_STEP:
            return _DAY_S
    return next((scale for limit, scale in _SIZES if first >= limit), 1.0)


def measure_rate(times_s: NDArray[np.float64]) -> Rate:
    """Measure the sampling rate from the first stamps; near a whole number it is that number.

    Raises
    ------
    CorruptRecordError
        If there are fewer than two, or time goes backwards.
    MissingDetailError
        If they keep no constant rate.

    """
    steps_s = _steps_of(times_s)
    if len(steps_s) == 0:
        msg = "the CSV file must have two rows or more for a rate, it has one"
        raise CorruptRecordError(msg)
    if not (steps_s > 0).any():
        msg = "time must go forwards in the CSV file, it does not"
        raise CorruptRecordError(msg)
    lag = max(1, min(len(steps_s) // 2, 1000))
    step_s = float(np.median(times_s[lag:] - times_s[:-lag])) / lag
    if step_s <= 0:
        msg = "sampling_rate must be given: the time stamps of the CSV file repeat"
        raise MissingDetailError(msg, detail="sampling_rate")
    is_gap = _find_gaps(times_s, 1 / step_s) > 0
    parts = np.split(np.arange(len(times_s)), np.flatnonzero(is_gap))
    # Rows that share the stamp of a packet say how long it lasted when the next one begins.
    anchors = [part[np.flatnonzero(np.diff(times_s[part]) > 0) + 1] for part in parts]
    spans = [
        (part[0] if (steps_s > 0).all() else place[0], place[-1])
        for part, place in zip(parts, anchors, strict=True)
        if len(place)
    ]
    lasts_s = sum(float(times_s[last] - times_s[first]) for first, last in spans)
    n_steps = sum(int(last - first) for first, last in spans)
    fs = n_steps / lasts_s if lasts_s > 0 else 1 / step_s
    expected = np.concatenate([times_s[part[0]] + np.arange(len(part)) / fs for part in parts])
    jitter_s = float(np.quantile(np.abs(times_s - expected), 0.95))
    is_regular = bool((steps_s > 0).all()) and jitter_s <= max(1.5 / fs, 2e-3)
    # Times are rounded to milliseconds as a rule.
    nearest = 2e-4 if jitter_s <= 2e-3 else RATE_DEVIATION
    if jitter_s > _MAX_JITTER_S + 2 / fs and (steps_s > 0).all():
        msg = (
            "sampling_rate must be given: the time stamps of the CSV file keep no constant rate "
            f"(they stray by {jitter_s:.2f} s)"
        )
        raise MissingDetailError(msg, detail="sampling_rate")
    return Rate(float(round(fs)) if abs(fs - round(fs)) < nearest * fs else fs, is_regular)


def settle_rate(measured: Rate, given: float | None) -> float:
    """Decide for a rate: the one that was given must fit the stamps, which may be left out.

    Raises
    ------
    MissingDetailError
        If they differ, or stamps repeat and no rate is given.

    """
    if given is None:
        if not measured.is_regular:
            msg = (
                "sampling_rate must be given: the time stamps of the CSV file repeat or jitter, "
                f"they give about {measured.fs:.4g} Hz"
            )
            raise MissingDetailError(msg, detail="sampling_rate", found_hz=measured.fs)
        return measured.fs
    allowed = RATE_DEVIATION if measured.is_regular else LOOSE_DEVIATION
    if measured.rounded is not None and measured.rounded.allows(given):
        return given
    if abs(measured.fs - given) > allowed * given:
        raise rate_contradiction(measured.fs)
    return given


class Clock:
    """Follows a column of time block by block, and finds where samples are missing.

    The last rows of a block wait for the next one, because a gap is known by what follows it.
    """

    def __init__(self, fs: float, *, is_regular: bool, n_columns: int) -> None:
        self._fs = fs
        self._allowed = RATE_DEVIATION if is_regular else LOOSE_DEVIATION
        self._first_s: float | None = None
        self._before_s: NDArray[np.float64] = np.zeros(0)
        self._waiting_s: NDArray[np.float64] = np.zeros(0)
        self._waiting: NDArray[np.float64] = np.zeros((n_columns, 0))
        self._rows = 0

    def take(
        self, samples: NDArray[np.float64], times_s: NDArray[np.float64]
    ) -> Iterator[NDArray[np.float64]]:
        """Give the samples that are settled, NaN in gaps; shape (columns, rows), as those taken.

        Raises
        ------
        CorruptRecordError
            If time goes back, or at another rate than in the beginning.
        RecordTooLongError
            If it goes on for more than a day.

        """
        return self._settle(samples, times_s, n_waiting=_AROUND)

    def end(self) -> Iterator[NDArray[np.float64]]:
        """Give the samples that waited for more rows; raises as :meth:`take` does."""
        return self._settle(self._waiting[:, :0], self._waiting_s[:0], n_waiting=0)

    def _settle(
        self, samples: NDArray[np.float64], times_s: NDArray[np.float64], *, n_waiting: int
    ) -> Iterator[NDArray[np.float64]]:
        samples = np.concatenate([self._waiting, samples], axis=1)
        times_s = np.concatenate([self._waiting_s, times_s])
        settled = max(0, len(times_s) - n_waiting)
        self._waiting, self._waiting_s = samples[:, settled:], times_s[settled:]
        every_s = np.concatenate([self._before_s, times_s])
        _steps_of(every_s)
        if settled == 0:
            return iter(())
        if self._first_s is None:
            self._first_s = float(times_s[0])
        known = len(self._before_s)
        missing = _find_gaps(every_s, self._fs)[known : known + settled]
        self._before_s = every_s[: known + settled][-_AROUND:]
        self._rows += settled + int(missing.sum())
        self._check(float(times_s[settled - 1]) - self._first_s)
        return _fill_gaps(samples[:, :settled], missing)

    def _check(self, lasts_s: float) -> None:
        refuse_too_long(lasts_s)
        expected_s = (self._rows - 1) / self._fs
        # A second is left to the times of few rows, which are rounded.
        if abs(lasts_s - expected_s) > self._allowed * expected_s + 1.0:
            msg = "the column of time of the CSV file must keep the rate of its beginning"
            raise CorruptRecordError(msg)


class CountClock:
    """Follows a count of rows block by block; where it jumps, samples are missing.

    A count of packets begins again after its period, and goes on from there. Where a count without
    one goes back, nothing is known to be missing.
    """

    def __init__(self, fs: float, *, step: float, period: float) -> None:
        self._fs = fs
        self._step = step
        self._period = period
        self._last: float | None = None
        self._rows = 0

    def take(
        self, samples: NDArray[np.float64], counts: NDArray[np.float64]
    ) -> Iterator[NDArray[np.float64]]:
        """Give the samples of some rows, NaN in gaps; shape (columns, rows), as those taken.

        Raises
        ------
        RecordTooLongError
            If it goes on for more than 14 days.

        """
        if len(counts) == 0:
            return iter(())
        before = counts[0] - self._step if self._last is None else self._last
        with np.errstate(invalid="ignore"):
            steps = np.diff(counts, prepend=before)
            self._last = float(counts[-1])
            steps = np.where(steps < -self._period / 8, steps + self._period, steps)
            lost = np.where(steps > self._step, np.rint(steps / self._step) - 1, 0.0)
            is_back = steps <= 0  # rows out of order, or a count that begins again
        beside = is_back.copy()
        beside[1:] |= is_back[:-1]
        beside[:-1] |= is_back[1:]
        lost[beside | ~np.isfinite(lost)] = 0.0
        self._rows += len(counts) + int(lost.sum())
        refuse_too_long(self._rows / self._fs)
        return _fill_gaps(samples, lost.astype(np.int64))

    def end(self) -> Iterator[NDArray[np.float64]]:
        """Give nothing more: no row waits for the next one."""
        return iter(())


def _fill_gaps(
    samples: NDArray[np.float64], missing: NDArray[np.int64]
) -> Iterator[NDArray[np.float64]]:
    """Give samples of shape (columns, rows) with NaN for those that are missing before a row."""
    edges = [0, *np.flatnonzero(missing).tolist(), len(missing)]
    for start, stop in pairwise(edges):
        left = int(missing[start]) if start < len(missing) else 0
        while left > 0:
            yield np.full((len(samples), min(left, _NAN_AT_ONCE)), np.nan)
            left -= _NAN_AT_ONCE
        yield samples[:, start:stop]


def _find_gaps(times_s: NDArray[np.float64], fs: float) -> NDArray[np.int64]:
    """Count the samples that are missing before each row."""
    missing = np.zeros(len(times_s), dtype=np.int64)
    steps_s = np.diff(times_s)
    # Of rows with one stamp only the first says when: the others came with it.
    anchors = np.concatenate([[0], np.flatnonzero(steps_s > 0) + 1])
    if len(anchors) < 2:
        return missing
    late_s = times_s[anchors] - anchors / fs
    least_s = max(1.5 / fs, 0.75 * float(np.median(np.diff(times_s[anchors]))))
    long_s = max(_LONGEST_STEP / fs, 1.5 * float(np.median(np.diff(times_s[anchors]))))
    long = np.flatnonzero(np.diff(times_s[anchors]) > long_s) + 1
    for number, place in enumerate(long.tolist()):
        after = long[number + 1] if number + 1 < len(long) else len(anchors)
        before = long[number - 1] if number else 0
        gap_s = float(
            np.median(late_s[place : min(after, place + _AROUND)])
            - np.median(late_s[max(before, place - _AROUND) : place])
        )
        if gap_s > least_s:
            missing[anchors[place]] = round(gap_s * fs)
    return missing


def _steps_of(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds from each row to the next, none of them less than 0."""
    if not (np.abs(times_s) < _LATEST_S).all():  # not so where one is NaN
        msg = "the column of time of the CSV file must hold seconds, it does not"
        raise CorruptRecordError(msg)
    steps_s = np.diff(times_s)
    if (steps_s < 0).any():
        msg = "time must go forwards in the CSV file, it does not"
        raise CorruptRecordError(msg)
    return steps_s
