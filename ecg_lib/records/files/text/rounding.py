"""Find the rate behind an interval of samples that was rounded when it was written.

0.0028 s is the interval of 360 Hz with four decimals; taken literally it gives 357.14 Hz. An
interval that gives a whole number of Hz is taken literally (0.008 s is 125 Hz, not 128). Otherwise
the one usual rate that fits the written digits is taken, and the interval itself where several
fit; a note says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation, Overflow
from itertools import pairwise
from typing import Final, NamedTuple

USUAL_HZ: Final = (
    *(100, 120, 125, 128, 130, 150, 180, 200, 240, 250, 256, 257, 300, 320, 360, 400),
    *(480, 500, 512, 600, 750, 800, 1000),
)
"""Rates at which ECG recorders sample."""

MAX_ROUNDING: Final = 0.025
"""Greatest relative error of a rate that is put down to rounding."""

_EXACT: Final = 1e-9
_PARTS_OF_S: Final = (1.0, 1e-3, 1e-6)
_LEAST_STEPS: Final = 20
_LEAST_EQUAL: Final = 0.9
_LEAST_GAP: Final = Decimal("1.5")
"""Multiple of the usual step from which a step is a gap."""


class RoundedRate(NamedTuple):
    """A rate, and the range of rates that its written digits allow."""

    fs: float
    """The rate that is taken."""
    as_written: float
    """The rate that the digits give literally."""
    least: float
    most: float
    note: str
    """The assumption; empty when there is none."""

    def allows(self, fs: float) -> bool:
        """Return whether a rate is one that the written digits allow."""
        return self.least <= fs <= self.most


def read_interval(text: str, unit_s: float) -> RoundedRate | None:
    """Read an interval of samples as it is written, in units of `unit_s` seconds.

    >>> read_interval("2.8", 1e-3).fs, read_interval("0.008", 1.0).fs
    (360.0, 125.0)

    """
    try:
        interval = Decimal(text.replace(",", ".")).normalize()
    except (InvalidOperation, Overflow):
        return None
    if not interval.is_finite() or interval <= 0:
        return None
    half = Decimal(5).scaleb(int(interval.as_tuple().exponent) - 1)
    interval_s, half_s = float(interval) * unit_s, min(float(half), float(interval) / 2) * unit_s
    written = round(1 / interval_s, 6)
    least = max(1 / (interval_s + half_s), written * (1 - MAX_ROUNDING))
    most = min(1 / (interval_s - half_s), written * (1 + MAX_ROUNDING))
    rate = RoundedRate(written, written, least, most, "")
    if abs(written - round(written)) <= _EXACT * written:
        return rate._replace(fs=float(round(written)))
    usual = [float(fs) for fs in USUAL_HZ if rate.allows(fs)]
    whole = [float(fs) for fs in range(int(least), int(most) + 2) if rate.allows(fs)]
    fitting = usual or whole
    said = f"the interval of samples is written as {interval_s:.6g} s, which is rounded"
    if len(fitting) == 1:
        return rate._replace(fs=fitting[0], note=f"{said}: {fitting[0]:g} Hz is taken")
    if usual:
        possible = ", ".join(f"{fs:g}" for fs in usual)
        taken = f"{written:.6g} Hz is taken, sampling_rate may be given"
        return rate._replace(note=f"{said} ({possible} Hz are possible): {taken}")
    return rate


def read_steps(cells: Sequence[str], unit_s: float) -> RoundedRate | None:
    """Read the interval from the cells of a column of time; None where steps differ.

    Stamps that are rounded one by one have steps of different lengths, and give the rate better.
    """
    if unit_s not in _PARTS_OF_S or len(cells) <= _LEAST_STEPS:
        return None
    try:
        times = [Decimal(cell.strip("'\" ").replace(",", ".")) for cell in cells]
    except InvalidOperation:
        return None
    steps = Counter(later - earlier for earlier, later in pairwise(times))
    step, count = steps.most_common(1)[0]
    are_gaps = all(other == step or other > _LEAST_GAP * step for other in steps)
    if count < _LEAST_EQUAL * len(times) or not are_gaps:
        return None
    return read_interval(str(step), unit_s)
