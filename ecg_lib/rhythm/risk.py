"""Rate how much attention a rhythm deserves: information for a reader, not a diagnosis.

A strip shows which beats occurred, not how often they occur; burden counts only for recordings of
an hour or more.
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
    """The basis of the level: one strip, or a recording that is long enough for a burden."""

    STRIP = "strip"
    RECORDING = "recording"


NOTICE: Final = "For research and education. Not a medical device, and not a diagnosis."
"""Stands beside every result."""

HIGH_BURDEN: Final = 0.10
"""Share of PVCs above which guidelines recommend looking for a cardiomyopathy.

Zeppenfeld et al. 2022 (ESC guideline on ventricular arrhythmias), DOI 10.1093/eurheartj/ehac262:
"above 10 %, with a risk that rises above 20 %".
"""

VERY_HIGH_BURDEN: Final = 0.24
"""Share of PVCs above which impaired left ventricular function was most common.

Baman et al. 2010, DOI 10.1016/j.hrthm.2010.03.036: 24 % separated the two groups best.
"""

FREQUENT_PER_HOUR: Final = 30.0
"""V beats an hour from which they count as frequent (grade 2 of Lown & Wolf 1971)."""

_RUN_WORDS: Final = {
    RunKind.SUSTAINED_VT: "at 100/min or more for 30 s or longer",
    RunKind.AIVR: "at 50 to 100/min, the rate of an accelerated idioventricular rhythm",
    RunKind.ESCAPE: "below 50/min, the rate of a ventricular escape rhythm",
}

BURDEN_FROM_S: Final = 3600.0
"""Length from which a recording shows how often V beats come, so that their burden counts."""

_FULL_DAY_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """A level, what it rests on, and why."""

    level: RiskLevel
    basis: RiskBasis
    reasons: tuple[str, ...]
    is_provisional: bool = False
    """True when the level rests on the burden of less than 24 h alone."""


def assess_risk(
    rhythm: RhythmSummary,
    *,
    duration_s: float,
    readable_s: float,
    alarms: Sequence[str] = (),
    basis: RiskBasis | None = None,
    doubts: Sequence[str] = (),
) -> Risk:
    """Rate a rhythm LOW, MEDIUM or HIGH, with reasons.

    LOW without V beats; MEDIUM with isolated ones; HIGH with couplets, runs of three or more, or
    R-on-T candidates (grades 4a, 4b and 5 of Lown & Wolf 1971, DOI 10.1161/01.CIR.44.1.130), and,
    for recordings of an hour or more, with a burden above 10 %. Runs count whatever their rate;
    the reasons name their kinds. An alarm makes the level HIGH regardless of the beats.

    Parameters
    ----------
    rhythm : RhythmSummary
    duration_s : float
        Length of the recording in seconds.
    readable_s : float
        Readable seconds of it, to which the count of V beats refers.
    alarms : sequence of str
        :func:`ecg_lib.signal_path.readability.findings.list_alarms`: flutter or asystole that is
        suspected.
    basis : RiskBasis, optional
        What the level is judged on; a recording from one hour on when left out.
    doubts : sequence of str
        Why the unit or the sampling rate does not fit the signal: findings may be wrong, so the
        level is not LOW.

    Returns
    -------
    Risk

    """
    has_hours = duration_s >= BURDEN_FROM_S
    basis = basis or (RiskBasis.RECORDING if has_hours else RiskBasis.STRIP)
    high = list(alarms)
    if rhythm.runs:
        longest = max(run.beats for run in rhythm.runs)
        which = "" if len(rhythm.runs) == 1 else "the longest "
        high.append(f"{_count(len(rhythm.runs), 'run')} of V, {which}of {longest} beats")
        high += [
            f"{count} of them {words}"
            for kind, words in _RUN_WORDS.items()
            if (count := len(rhythm.runs_of(kind)))
        ]
    if rhythm.couplets:
        high.append(f"{_count(rhythm.couplets, 'couplet')} of V")
    if rhythm.r_on_t:
        high.append(f"{_count(rhythm.r_on_t, 'V beat')} that may fall on a T wave")
    counts_burden = has_hours and rhythm.burden > HIGH_BURDEN
    if counts_burden:
        limit = VERY_HIGH_BURDEN if rhythm.burden > VERY_HIGH_BURDEN else HIGH_BURDEN
        high.append(f"V burden of {rhythm.burden:.1%}, above {limit:.0%}")
    doubtful = []
    if rhythm.doubtful_runs:
        longest = max(run.beats for run in rhythm.doubtful_runs)
        which = "" if len(rhythm.doubtful_runs) == 1 else "the longest "
        doubtful.append(
            f"{_count(len(rhythm.doubtful_runs), 'doubtful run')} of V, {which}of {longest} beats, "
            "too uncertain to count as a run"
        )
    if high:
        is_provisional = counts_burden and len(high) == 1 and duration_s < _FULL_DAY_S
        return Risk(
            level=RiskLevel.HIGH,
            basis=basis,
            reasons=(*high, *doubtful),
            is_provisional=is_provisional,
        )
    if rhythm.v_beats:
        reasons = [_count(rhythm.isolated, "isolated V beat")] if rhythm.isolated else []
        reasons += doubtful
        per_hour = rhythm.v_per_hour(readable_s)
        if has_hours and per_hour >= FREQUENT_PER_HOUR:
            reasons.append(f"{per_hour:.0f} V beats an hour, {FREQUENT_PER_HOUR:g} or more")
        return Risk(level=RiskLevel.MEDIUM, basis=basis, reasons=tuple(reasons))
    if doubts:
        reasons = [f"not judged: {doubt}" for doubt in doubts]
        return Risk(level=RiskLevel.MEDIUM, basis=basis, reasons=tuple(reasons))
    return Risk(level=RiskLevel.LOW, basis=basis, reasons=("no V beats",))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
