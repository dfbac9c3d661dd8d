"""Compare the answers of two models to the same strip, beat by beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np

from ecg_lib.signal_path.r_peaks.matching import match_beats

MAX_KEPT: Final = 50
"""Largest number of disagreements that are kept of one strip."""

_TOLERANCE_S: Final = 0.05
"""Largest distance of one beat in two answers: both are positions of an R-peak."""

Beat = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The answers of champion and candidate to one strip."""

    beats: Mapping[str, int]
    """Number of beats by class of champion and candidate, such as ``NV``; ``-`` stands for a
    missing class or beat."""
    v_champion: int
    v_candidate: int
    judged_champion: int
    """Number of beats that have a class."""
    judged_candidate: int
    runs_champion: int
    runs_candidate: int
    disagreements: tuple[dict[str, Any], ...]
    """Beats whose class differs: position, class and probability of V by both."""

    @property
    def n_beats(self) -> int:
        """Number of beats, of either model."""
        return sum(self.beats.values())

    @property
    def n_disagreements(self) -> int:
        """Number of beats whose class differs."""
        return sum(n for pair, n in self.beats.items() if pair[0] != pair[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One strip that both models were asked for."""

    prediction_id: str
    created_at: datetime
    candidate_id: str
    stage: int
    answered_by: str
    """``champion`` or ``candidate``."""
    traffic_group: str
    duration_s: float
    comparison: Comparison | None = None
    """None where one of them gave no answer."""
    failure: str | None = None
    """Why the candidate gave none: ``refused: ...``, or ``failed: ...`` for an error."""
    champion_refused: bool = False
    """True where the champion alone refuses the strip."""
    ms_champion: float | None = None
    ms_candidate: float | None = None
    """Times for the strip, taken one after the other in one process; not of every strip."""


def compare_answers(champion: Mapping[str, Any], candidate: Mapping[str, Any]) -> Comparison:
    """Compare two answers to the same strip.

    Parameters
    ----------
    champion, candidate : mapping
        Bodies of :class:`bentos.wire.schemas.Prediction`.

    """
    ours, theirs = champion["beat_predictions"], candidate["beat_predictions"]
    matched = match_beats(
        _positions(ours),
        _positions(theirs),
        tolerance=max(round(_TOLERANCE_S * champion["sampling_rate"]), 1),
    )
    pairs: list[tuple[Beat | None, Beat | None]] = [
        (beat, theirs[at] if at >= 0 else None)
        for beat, at in zip(ours, matched.of_reference.tolist(), strict=True)
    ]
    pairs += [
        (None, beat)
        for beat, at in zip(theirs, matched.of_detected.tolist(), strict=True)
        if at < 0
    ]
    beats: dict[str, int] = {}
    kept: list[dict[str, Any]] = []
    for one, other in pairs:
        classes = _class_of(one), _class_of(other)
        beats["".join(classes)] = beats.get("".join(classes), 0) + 1
        if classes[0] != classes[1]:
            kept.append(_describe(one, other))
    kept.sort(key=lambda beat: beat["position_sample"])
    return Comparison(
        beats=beats,
        v_champion=_count(ours, "V"),
        v_candidate=_count(theirs, "V"),
        judged_champion=_count(ours, "N", "V"),
        judged_candidate=_count(theirs, "N", "V"),
        runs_champion=len(champion["rhythm"]["runs"]),
        runs_candidate=len(candidate["rhythm"]["runs"]),
        disagreements=tuple(kept[:MAX_KEPT]),
    )


def _positions(beats: list[Beat]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([beat["position_sample"] for beat in beats], dtype=np.int64)


def _class_of(beat: Beat | None) -> str:
    return "-" if beat is None else beat["arrhythmia_type"] or "-"


def _count(beats: list[Beat], *classes: str) -> int:
    return sum(beat["arrhythmia_type"] in classes for beat in beats)


def _describe(champion: Beat | None, candidate: Beat | None) -> dict[str, Any]:
    place = champion or candidate or {}
    return {
        "position_sample": place["position_sample"],
        "champion": None if champion is None else champion["arrhythmia_type"],
        "candidate": None if candidate is None else candidate["arrhythmia_type"],
        "probability_champion": None if champion is None else champion["probability_v"],
        "probability_candidate": None if candidate is None else candidate["probability_v"],
    }
