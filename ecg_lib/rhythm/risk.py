"""How much attention a rhythm deserves: information for a reader, not a diagnosis.

A strip shows what was there, not how often it is there; so burden counts only for recordings of
hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ecg_lib.rhythm.patterns import RhythmSummary, RunKind


class RiskLevel(StrEnum):
    """Level of attention."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


class RiskBasis(StrEnum):
    """What the level was judged on."""

    STRIP = "strip"
    RECORDING = "recording"


HIGH_BURDEN: Final = 0.10
"""Share of PVCs from which a cardiomyopathy is to be looked for.

Zeppenfeld et al. 2022 (ESC guideline on ventricular arrhythmias), DOI 10.1093/eurheartj/ehac262:
"above 10 %, with a risk that rises above 20 %".
"""

VERY_HIGH_BURDEN: Final = 0.24
"""Share of PVCs above which left ventricular function was impaired most often.

Baman et al. 2010, DOI 10.1016/j.hrthm.2010.03.036: 24 % separated both groups best.
"""

FREQUENT_PER_HOUR: Final = 30.0
"""V beats in an hour from which they are called frequent (grade 2 of Lown & Wolf 1971)."""

_RUN_WORDS: Final = {
    RunKind.SUSTAINED_VT: "at 100/min or more for 30 s or longer",
    RunKind.AIVR: "at 50 to 100/min, the rate of an accelerated idioventricular rhythm",
    RunKind.ESCAPE: "below 50/min, the rate of a ventricular escape rhythm",
}

_BURDEN_FROM_S: Final = 3600.0
_FULL_DAY_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """A level, what it rests on, and why."""

    level: RiskLevel
    basis: RiskBasis
    reasons: tuple[str, ...]
    is_provisional: bool = False
    """True when a burden counted that rests on less than 24 h."""


def assess_risk(
    rhythm: RhythmSummary,
    *,
    duration_s: float,
    readable_s: float,
    alarms: Sequence[str] = (),
    doubt: str | None = None,
) -> Risk:
    """Judge a rhythm.

    LOW without V beats; MEDIUM with isolated ones; HIGH with couplets, runs of three or more, or
    R-on-T candidates (grades 4a, 4b and 5 of Lown & Wolf 1971, DOI 10.1161/01.CIR.44.1.130), and,
    for recordings of an hour or more, with a burden above 10 %. A run counts as one whatever its
    rate; the reason names what kind it is. HIGH whatever the beats with an alarm.

    Parameters
    ----------
    rhythm : RhythmSummary
    duration_s : float
        Length of the recording in seconds.
    readable_s : float
        Seconds of it that can be read, in which V beats are counted.
    alarms : sequence of str
        :func:`ecg_lib.signal_path.readability.findings.list_alarms`: flutter or asystole that is
        suspected.
    doubt : str, optional
        Why the sampling rate does not fit the signal: what was found may be wrong, so it is not
        LOW.

    Returns
    -------
    Risk

    """
    basis = RiskBasis.RECORDING if duration_s >= _BURDEN_FROM_S else RiskBasis.STRIP
    high = list(alarms)
    if rhythm.runs:
        longest = max(run.beats for run in rhythm.runs)
        high.append(f"{len(rhythm.runs)} run(s) of V, the longest of {longest} beats")
        high += [
            f"{count} of them {words}"
            for kind, words in _RUN_WORDS.items()
            if (count := len(rhythm.runs_of(kind)))
        ]
    if rhythm.couplets:
        high.append(f"{rhythm.couplets} couplet(s) of V")
    if rhythm.r_on_t:
        high.append(f"{rhythm.r_on_t} V beat(s) that may fall on a T wave")
    counts_burden = basis is RiskBasis.RECORDING and rhythm.burden > HIGH_BURDEN
    if counts_burden:
        limit = VERY_HIGH_BURDEN if rhythm.burden > VERY_HIGH_BURDEN else HIGH_BURDEN
        high.append(f"V burden of {rhythm.burden:.1%}, above {limit:.0%}")
    if high:
        is_provisional = counts_burden and len(high) == 1 and duration_s < _FULL_DAY_S
        return Risk(
            level=RiskLevel.HIGH, basis=basis, reasons=tuple(high), is_provisional=is_provisional
        )
    if rhythm.v_beats:
        reasons = [f"{rhythm.v_beats} isolated V beat(s)"]
        per_hour = rhythm.v_per_hour(readable_s)
        if basis is RiskBasis.RECORDING and per_hour >= FREQUENT_PER_HOUR:
            reasons.append(f"{per_hour:.0f} V beats an hour, {FREQUENT_PER_HOUR:g} or more")
        return Risk(level=RiskLevel.MEDIUM, basis=basis, reasons=tuple(reasons))
    if doubt is not None:
        reasons = [f"not judged: {doubt}"]
        return Risk(level=RiskLevel.MEDIUM, basis=basis, reasons=tuple(reasons))
    return Risk(level=RiskLevel.LOW, basis=basis, reasons=("no V beats",))
