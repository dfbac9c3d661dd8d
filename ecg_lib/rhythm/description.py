"""Describe a rhythm and its risk as the JSON members that every result shares.

The answer to a request and the result of a recording take their figures from here, so that the
same beats never have two heart rates. What only one of them shows is added where it is built:
:mod:`bentos.wire.answers` and :mod:`ecg_lib.recordings.summary`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ecg_lib.rhythm.patterns import Pattern, Pause, RhythmSummary, Run
from ecg_lib.rhythm.risk import Risk


def describe_rhythm(rhythm: RhythmSummary) -> dict[str, Any]:
    """Describe the rates, the burden and the counts of a rhythm."""
    return {
        "heart_rate_bpm": rhythm.heart_rate_bpm,
        "heart_rate_min_bpm": rhythm.heart_rate_min_bpm,
        "heart_rate_max_bpm": rhythm.heart_rate_max_bpm,
        "heart_rate_mean_bpm": rhythm.heart_rate_mean_bpm,
        "longest_rr_s": rhythm.longest_rr_s,
        "pvc_burden": rhythm.burden,
        "isolated": rhythm.isolated,
        "couplets": rhythm.couplets,
        "bigeminy_beats": rhythm.bigeminy_beats,
        "trigeminy_beats": rhythm.trigeminy_beats,
        "r_on_t": rhythm.r_on_t,
    }


def describe_run(run: Run) -> dict[str, Any]:
    """Describe a run with the name of its kind."""
    return {**asdict(run), "kind": run.kind.value}


def describe_pattern(pattern: Pattern) -> dict[str, Any]:
    """Describe an episode of bigeminy or trigeminy."""
    return {**asdict(pattern), "kind": pattern.kind.value}


def describe_pause(pause: Pause) -> dict[str, Any]:
    """Describe a pause."""
    return asdict(pause)


def describe_risk(risk: Risk) -> dict[str, Any]:
    """Describe the level of attention, what it rests on, and why."""
    return {
        "risk_level": risk.level.value,
        "risk_basis": risk.basis.value,
        "risk_reasons": list(risk.reasons),
    }


def describe_beat_counts(rhythm: RhythmSummary, *, detected: int, paced: int) -> dict[str, int]:
    """Count the beats of each class; they add up to the beats that were detected."""
    return {
        "total_beats_detected": detected,
        "normal_beats": rhythm.beats - rhythm.v_beats - paced,
        "ventricular_beats": rhythm.v_beats,
        "paced_beats": paced,
        "unreadable_beats": detected - rhythm.beats,
    }
