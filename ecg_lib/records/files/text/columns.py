"""Find out what the columns of a text file are: leads with their units, time, counts of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import CorruptRecordError, MissingDetailError, UnsupportedRecordError
from ecg_lib.records.files.lead import MAX_NAME, no_leads, unnamed_leads
from ecg_lib.records.files.text.headings import (
    DATE_NAME,
    ColumnKind,
    Heading,
    find_unit,
    read_heading,
    seconds_of,
    states_unit,
)
from ecg_lib.records.files.text.layout import Layout
from ecg_lib.records.files.text.rounding import read_steps
from ecg_lib.records.files.text.times import (
    LOOSE_DEVIATION,
    RATE_DEVIATION,
    Rate,
    measure_rate,
    read_clocks,
    size_of_unit,
)
from ecg_lib.records.limits import MAX_FS_HZ, MAX_SIGNALS, MIN_FS_HZ
from ecg_lib.records.signal_names import (
    COUNTS,
    UNIT_TO_MV,
    SignalKind,
    is_other_unit,
    is_usual_name,
    kind_of,
    read_unit,
)

_MAX_CYCLES: Final = 0.2
"""Share of the rows at which a count begins again; OpenSignals counts to 15."""

_LEAST_REGULAR: Final = 0.9
"""Share of steps of a count that are equal, or begin again."""

_LEAST_WRAPS: Final = 3
_LEAST_WHOLE: Final = 0.8
"""Share of the times a count begins again that are near its end; lost packets hide others."""

_GREATEST_PERIOD: Final = 2.0**16

_PARTS_OF_S: Final = (1.0, 1e-3, 1e-6, 1e-9)

_ANOTHER_RATE: Final = 0.05
"""Relative difference from which the rates of two columns of time contradict each other."""

_COUNTED_ROWS: Final = 100
"""Rows by which a column that is called a count is known to be one."""


class CsvColumn(NamedTuple):
    """A column of numbers, with what they are multiplied by and what is added."""

    number: int
    scale: float
    """To mV."""
    offset: float = 0.0
    has_unit: bool = True
    """See :class:`Lead`."""
    label: str = ""
    """The name in the heading, where another column has it too."""


class TimeColumn(NamedTuple):
    """A column of time."""

    number: int
    scale: float
    """To seconds; 0 for times of day, with or without a date."""


class CountColumn(NamedTuple):
    """A column that counts the rows that were recorded: where it jumps, some are missing."""

    number: int
    step: float
    """From one row to the next."""
    period: float
    """After which it begins again; 0 where it does not."""


def read_headings(layout: Layout) -> list[Heading]:
    """Read the heading of each column, with the unit of the row below it."""
    if layout.names is None:
        numbers = [at for at, numeric in enumerate(layout.is_numeric) if numeric]
        names = dict(zip(numbers, unnamed_leads(len(numbers)), strict=True))
        if len(numbers) == 1 and layout.lead:
            names[numbers[0]] = layout.lead
        headings = [
            Heading(ColumnKind.LEAD, names[at]) if at in names else Heading(ColumnKind.COUNT, "")
            for at in range(layout.width)
        ]
        return _find_unnamed_time(layout, headings)
    headings = [read_heading(cell) for cell in layout.names]
    for at, stated in enumerate(layout.units):
        kind, name, unit = headings[at]
        if kind is ColumnKind.TIME and seconds_of(stated) is not None:
            headings[at] = Heading(kind, name, stated.lower())
        elif kind is ColumnKind.TIME and (read_unit(stated) or is_other_unit(stated)):
            headings[at] = Heading(kind, name, None)  # counts of a clock
        elif kind is not ColumnKind.TIME and unit is None:
            headings[at] = Heading(kind, name, find_unit(stated) or (stated or None))
    if not layout.names[0] and layout.is_numeric[0]:
        first = _describe_first(_numbers_of(layout, 0))
        if first is not None and first.kind is ColumnKind.TIME:
            headings[0] = first
    return headings


def _find_unnamed_time(layout: Layout, headings: list[Heading]) -> list[Heading]:
    """Take a first column without a name for time or a count, where its numbers say so.

    Time is of day, or goes up from 0 at the rate of an ECG; a count goes up in other equal steps.
    """
    if layout.width < 2:
        return headings
    if not layout.is_numeric[0]:
        clocks = read_clocks([row[0] for row in layout.rows[:_COUNTED_ROWS]])
        if np.isfinite(clocks).all():
            return [Heading(ColumnKind.TIME, "time", "s"), *headings[1:]]
        return headings
    first = _describe_first(_numbers_of(layout, 0))
    if first is None:
        return headings
    left = [at for at, numeric in enumerate(layout.is_numeric) if numeric and at > 0]
    named = dict(zip(left, unnamed_leads(len(left)), strict=True))
    rest = (
        Heading(kind, named.get(at, name)) for at, (kind, name, _) in enumerate(headings) if at > 0
    )
    return [first, *rest]


def _describe_first(numbers: NDArray[np.float64]) -> Heading | None:
    """Describe a first column without a name: time, a count, or None for a lead."""
    if len(numbers) <= _COUNTED_ROWS or not np.isfinite(numbers).all():
        return None
    steps = np.diff(numbers)
    step = float(steps.mean())
    is_time = numbers[0] == 0.0 and 1 / MAX_FS_HZ <= step <= 1 / MIN_FS_HZ
    if is_time and (np.abs(steps - step) <= 0.5 * step).all():
        return Heading(ColumnKind.TIME, "time", "s")
    is_even = step > 0 and (np.abs(steps - step) <= 1e-9 * np.abs(numbers).max()).all()
    is_count = is_even or _measure_count(numbers) is not None
    return Heading(ColumnKind.COUNT, "") if is_count else None


def _measure_count(numbers: NDArray[np.float64]) -> tuple[float, float] | None:
    """Measure the step and the period of whole numbers that count up; None where they do not.

    Counts of packets begin again; where rows were lost they jump.
    """
    if len(numbers) <= 2 or not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
        return None
    steps = np.diff(numbers)
    step = float(np.median(steps))
    back = steps < 0
    is_usual = (steps == step) | back
    if step < 1 or back.mean() > _MAX_CYCLES or is_usual.mean() < _LEAST_REGULAR:
        return None
    if (steps == 0).any():
        return None
    return step, _measure_period(numbers, np.flatnonzero(back), step)


def _measure_period(numbers: NDArray[np.float64], wraps: NDArray[np.intp], step: float) -> float:
    """Measure after how much a count begins again, mostly near its end; 0 where it does not.

    Tables that were joined begin again too, but not at the same number.
    """
    span = float(np.ptp(numbers))
    if len(wraps) < _LEAST_WRAPS or span > _GREATEST_PERIOD:
        return 0.0
    is_whole = (numbers[wraps] >= numbers.max() - 0.2 * span) & (
        numbers[wraps + 1] <= numbers.min() + 0.2 * span
    )
    return span + step if is_whole.mean() >= _LEAST_WHOLE else 0.0


def find_count(layout: Layout, headings: list[Heading]) -> CountColumn | None:
    """Find the first column that counts rows; without a column of time it shows lost ones."""
    for number, heading in enumerate(headings):
        if heading.kind is ColumnKind.COUNT and layout.is_numeric[number]:
            measured = _measure_count(_numbers_of(layout, number))
            if measured is not None:
                return CountColumn(number, *measured)
    return None


def _numbers_of(layout: Layout, number: int) -> NDArray[np.float64]:
    """The numbers of a column in the first rows; NaN where a cell is empty or broken."""
    return np.array([_number_of(row[number], layout) for row in layout.rows], dtype=np.float64)


def _number_of(cell: str, layout: Layout) -> float:
    text = cell.strip("'\" ")
    try:
        return float(text.replace(",", ".") if layout.decimal == "," else text)
    except ValueError:
        return float("nan")


def find_time(
    layout: Layout, headings: list[Heading], *, given: float | None = None
) -> tuple[TimeColumn | None, Rate | None]:
    """Find the column of time that keeps its rate best: a regular one before one that repeats.

    Raises
    ------
    MissingDetailError
        If regular columns give different rates and `given` is None.

    """
    refused: Exception | None = None
    found: list[tuple[TimeColumn, Rate]] = []
    for number, (kind, name, unit) in enumerate(headings):
        if kind is not ColumnKind.TIME:
            continue
        try:
            column, times_s = _read_time(layout, number, unit, given=given)
            rate = _mend_rounding(measure_rate(times_s), layout, column)
            found.append((column, rate))
        except (CorruptRecordError, UnsupportedRecordError, MissingDetailError) as error:
            if DATE_NAME.fullmatch(name) is None:
                refused = refused or error
    usual = [one for one in found if one[1].is_regular] or found
    if usual:
        return _choose_time(usual, given)
    if refused is not None:
        raise refused
    return None, None


def _choose_time(
    found: list[tuple[TimeColumn, Rate]], given: float | None
) -> tuple[TimeColumn, Rate]:
    """Choose the column that fits the given rate, else the first; refuse different rates."""
    fitting = [one for one in found if MIN_FS_HZ <= one[1].fs <= MAX_FS_HZ and one[1].is_regular]
    if not fitting:
        return found[0]
    if given is not None:
        return min(fitting, key=lambda one: abs(one[1].fs - given) > RATE_DEVIATION * given)
    others = [rate.fs for _, rate in fitting if abs(rate.fs / fitting[0][1].fs - 1) > _ANOTHER_RATE]
    if others:
        msg = (
            "sampling_rate must be given: columns of time of the CSV file give "
            f"{fitting[0][1].fs:.4g} and {others[0]:.4g} Hz"
        )
        raise MissingDetailError(msg, detail="sampling_rate")
    return fitting[0]


def _mend_rounding(rate: Rate, layout: Layout, column: TimeColumn) -> Rate:
    """Replace the rate of equal steps by the one they were rounded from, unless it is whole."""
    rounded = read_steps([row[column.number] for row in layout.rows], column.scale)
    is_odd = rounded is not None and rounded.as_written != round(rounded.as_written)
    is_that = rounded is not None and abs(rounded.as_written - rate.fs) <= RATE_DEVIATION * rate.fs
    if rounded is None or not is_odd or not is_that:
        return rate
    return Rate(rounded.fs, rate.is_regular, rounded)


def _read_time(
    layout: Layout, number: int, unit: str | None, *, given: float | None
) -> tuple[TimeColumn, NDArray[np.float64]]:
    if not layout.is_numeric[number]:
        times_s = read_clocks([row[number] for row in layout.rows])
        if not np.isfinite(times_s[:2]).all():
            msg = (
                "the column of time of the CSV file must hold seconds, or times like "
                "2026-03-14 09:15:00.004 or 0:00.004, it does not"
            )
            raise CorruptRecordError(msg)
        return TimeColumn(number, 0.0), times_s
    if unit is None:
        msg = (
            "the column of time of the CSV file must be in s, ms, us, ns or parts of a second "
            "(s/256), it is not"
        )
        raise UnsupportedRecordError(msg)
    times = _numbers_of(layout, number)
    scale = seconds_of(unit) or 1.0
    if scale == 1.0:
        scale = size_of_unit(times)
    if scale == 1.0 and given is not None and not _states_unit(layout, number, unit):
        scale = _scale_to(given, times)
    return TimeColumn(number, scale), times * scale


def _states_unit(layout: Layout, number: int, unit: str | None) -> bool:
    """Return whether the heading of a column of time, or the cell below it, states its unit."""
    if layout.names is None or (layout.units and layout.units[number]):
        return True
    name = layout.names[number]
    return states_unit(name, read_heading(name)._replace(unit=unit))


def _scale_to(fs: float, times: NDArray[np.float64]) -> float:
    """Return the seconds of the unit in which stamps without one give `fs`; 1 if none does."""
    span = float(times[-1] - times[0]) if len(times) else 0.0
    if not span > 0:
        return 1.0
    in_seconds = (len(times) - 1) / span
    fitting = (part for part in _PARTS_OF_S if abs(in_seconds / part - fs) <= LOOSE_DEVIATION * fs)
    return next(fitting, 1.0)


def find_leads(
    layout: Layout, headings: list[Heading], time: TimeColumn | None, *, unit: str | None
) -> tuple[dict[str, CsvColumn], tuple[str, ...]]:
    """Find the columns of leads by name; `unit` is that of those that state none."""
    leads: dict[str, CsvColumn] = {}
    others: list[str] = []
    unclear: list[str] = []
    default = unit or next(iter(layout.stated_units), "mV")
    has_default = unit is not None or len(layout.stated_units) <= 1
    doubled: Counter[str] = Counter()
    has_counts = False
    for number, (_, long_name, stated) in enumerate(headings):
        if not _holds_samples(layout, headings, number) or (time and time.number == number):
            continue
        name = long_name[:MAX_NAME]
        voltage = read_unit(stated or default)
        converter = layout.converters.get(long_name)
        if converter is None and not stated and not has_default and not layout.has_counts:
            unclear.append(name)
            continue
        if converter is None and (voltage in {None, COUNTS} or layout.has_counts):
            has_counts = has_counts or voltage == COUNTS or layout.has_counts
            is_scaled = bool(stated) and voltage is None and find_unit(stated or "") is not None
            others.append(f"{name} ({stated})"[:MAX_NAME] if is_scaled else name)
            continue
        if stated and unit and UNIT_TO_MV.get(voltage or "") not in {None, UNIT_TO_MV[unit]}:
            msg = f"the file states {voltage}; unit must be that or left out"
            raise MissingDetailError(msg, detail="unit")
        if converter is not None:
            name = name if "ECG" in leads else "ECG"
            column = CsvColumn(number, converter.gain_mv, converter.offset_mv)
        else:
            has_unit = bool(stated or unit or layout.stated_units)
            column = CsvColumn(number, UNIT_TO_MV[voltage or "mV"], has_unit=has_unit)
        unique = name
        while unique in leads:
            doubled[name] += 1
            unique = f"{name} ({doubled[name] + 1})"
        leads[unique] = column._replace(label="" if unique == name else name)
    _refuse_unclear(unclear, layout, has_others=bool(leads))
    others += unclear
    if not leads:
        raise _no_lead(has_counts=has_counts, others=others)
    if len(leads) > MAX_SIGNALS:
        msg = f"the CSV file must have one column for each lead, at most {MAX_SIGNALS}"
        raise CorruptRecordError(msg)
    return leads, tuple(others)


def explain_columns(
    layout: Layout, headings: list[Heading], columns: Mapping[str, CsvColumn]
) -> tuple[str, ...]:
    """Warn of leads that have no numbers where the text begins, and of equal names."""
    blank = [
        f"{_name_column(name, number)} has no numbers where the text begins, and is left out"
        for number, (numeric, (_, name, _)) in enumerate(
            zip(layout.is_numeric, headings, strict=True)
        )
        if not numeric and kind_of(name) is SignalKind.ECG
    ]
    doubled = [
        f"{_name_column(name, column.number)} has the name of another one, and a number is added"
        for name, column in columns.items()
        if column.label
    ]
    return (*blank, *doubled)


def _name_column(name: str, number: int) -> str:
    """Name a column for a warning, which results keep: not by what may be a person's name."""
    return f"column {number + 1}" + (f" ({name})" if is_usual_name(name) else "")


def _holds_samples(layout: Layout, headings: list[Heading], number: int) -> bool:
    """Return whether a column holds numbers that are neither time nor a count of rows."""
    kind, name, _ = headings[number]
    if kind is ColumnKind.TIME or not layout.is_numeric[number]:
        return False
    return kind is not ColumnKind.COUNT or bool(name and not _counts_rows(layout, number))


def _refuse_unclear(names: list[str], layout: Layout, *, has_others: bool) -> None:
    """Refuse leads for which contradictory units are stated, unless others can be analysed."""
    kinds = {kind_of(name) for name in names}
    if SignalKind.ECG in kinds or (SignalKind.UNKNOWN in kinds and not has_others):
        msg = (
            "unit must be given (mV, uV or V): above its samples the CSV file states "
            f"{' and '.join(layout.stated_units)}"
        )
        raise MissingDetailError(msg, detail="unit")


def _no_lead(*, has_counts: bool, others: list[str]) -> CorruptRecordError | UnsupportedRecordError:
    if has_counts:
        msg = (
            "the leads of a CSV file must be in mV, uV or V, one states counts, which need the "
            "gain of the device"
        )
        return UnsupportedRecordError(msg)
    if others:
        return no_leads("a CSV file", others)
    msg = "the CSV file must have a column for a lead, it has none but time and counts of rows"
    return CorruptRecordError(msg)


def _counts_rows(layout: Layout, number: int) -> bool:
    counts = _numbers_of(layout, number)
    with np.errstate(invalid="ignore"):  # of two infinities
        is_even = len(counts) > 1 and bool((np.diff(counts[:_COUNTED_ROWS]) == 1).all())
    return is_even or _measure_count(counts) is not None
