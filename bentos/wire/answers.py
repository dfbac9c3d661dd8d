"""Build the answer to a prediction from classified beats, as a dict that is ready for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import ClassifiedBeats
from ecg_lib.rhythm.description import (
    describe_beat_counts,
    describe_pattern,
    describe_pause,
    describe_rhythm,
    describe_risk,
    describe_run,
)
from ecg_lib.rhythm.patterns import summarize_rhythm
from ecg_lib.rhythm.risk import NOTICE, assess_risk
from ecg_lib.rhythm.run_evidence import find_credible_of
from ecg_lib.rhythm.strip_forms import group_beats, name_forms
from ecg_lib.signal_path.preprocessing import PreparedBeats
from ecg_lib.signal_path.readability.findings import (
    FINDING_WORDS,
    Finding,
    FindingKind,
    list_alarms,
)
from ecg_lib.signal_path.readability.plausibility import list_doubts
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason


def build_answer(
    classified: ClassifiedBeats, *, fs: float, is_fs_assumed: bool = False
) -> dict[str, Any]:
    """Sum up a signal in which a beat is readable, or flutter is suspected.

    Parameters
    ----------
    classified : ClassifiedBeats
    fs : float
        Sampling rate of the signal in Hz.
    is_fs_assumed : bool
        True when the request states none, which a warning says.

    Returns
    -------
    dict
        The part of :class:`bentos.wire.schemas.Prediction` that the signal decides.

    """
    prepared = classified.prepared
    doubts = list_doubts(prepared, what="signal_data")
    rhythm = summarize_rhythm(
        classified.r_peaks,
        is_v=classified.is_v,
        is_readable=classified.is_readable,
        fs=fs,
        unreadable=prepared.unreadable,
        is_paced=prepared.is_paced,
        is_credible=find_credible_of(classified),
    )
    risk = assess_risk(
        rhythm,
        duration_s=prepared.duration_s,
        readable_s=prepared.readable_s,
        alarms=list_alarms(prepared.findings, fs=fs),
        doubts=doubts,
    )
    overall, confidence = _judge_all(classified)
    return {
        "overall_arrhythmia_type": overall,
        "confidence": confidence,
        **describe_risk(risk),
        **describe_beat_counts(
            rhythm, detected=len(classified), paced=int(np.count_nonzero(prepared.is_paced))
        ),
        "beat_predictions": _list_beats(classified),
        "rhythm": {
            **describe_rhythm(rhythm),
            "couplet_starts_s": list(rhythm.couplet_starts_s),
            "runs": [describe_run(run) for run in rhythm.runs],
            "doubtful_runs": [describe_run(run) for run in rhythm.doubtful_runs],
            "patterns": [describe_pattern(pattern) for pattern in rhythm.patterns],
            "pauses": [describe_pause(pause) for pause in rhythm.pauses],
        },
        "signal_quality": _describe_quality(
            prepared, doubts=doubts, assumed_fs=fs if is_fs_assumed else None
        ),
        "threshold": classified.threshold,
        "duration_s": prepared.duration_s,
        "notice": NOTICE,
    }


def _judge_all(classified: ClassifiedBeats) -> tuple[str | None, float | None]:
    """Give the class of the whole, with its probability; None where no beat has one."""
    probability_v = classified.probability_v[classified.has_class]
    if len(probability_v) == 0:
        return None, None
    if classified.is_v.any():
        return "V", float(classified.probability_v[classified.is_v].max())
    return "N", float(1 - probability_v.max())


def _list_beats(classified: ClassifiedBeats) -> list[dict[str, Any]]:
    prepared = classified.prepared
    columns = zip(
        classified.r_peaks.tolist(),
        np.where(classified.is_v, "V", "N").tolist(),
        classified.confidence.tolist(),
        round_known(prepared.rr_prev_s, 4),
        round_known(prepared.rr_next_s, 4),
        classified.probability_v.tolist(),
        round_known(prepared.qrs_width_s * 1e3, 1),
        classified.rule.tolist(),
        prepared.beat_quality.tolist(),
        name_forms(group_beats(prepared.shapes, has_class=classified.has_class)),
        strict=True,
    )
    beats = [
        {
            "beat_index": index,
            "position_sample": position,
            "arrhythmia_type": arrhythmia_type,
            "confidence": confidence,
            "rr_previous": rr_previous,
            "rr_next": rr_next,
            "probability_v": probability_v,
            "qrs_width_ms": qrs_width_ms,
            "rule": rule or None,
            "quality": quality,
            "form": form,
        }
        for index, (
            position,
            arrhythmia_type,
            confidence,
            rr_previous,
            rr_next,
            probability_v,
            qrs_width_ms,
            rule,
            quality,
            form,
        ) in enumerate(columns)
    ]
    for index in (~classified.has_class).nonzero()[0].tolist():
        beats[index].update(arrhythmia_type=None, confidence=None, probability_v=None)
    for index in (~classified.is_readable).nonzero()[0].tolist():
        beats[index].update(qrs_width_ms=None)
    return beats


def round_known(values: NDArray[np.float64], digits: int) -> list[float | None]:
    """Round numbers, and give None for NaN."""
    return [round(value, digits) if value == value else None for value in values.tolist()]  # noqa: PLR0124  NaN


def _describe_quality(
    prepared: PreparedBeats, *, doubts: tuple[str, ...], assumed_fs: float | None
) -> dict[str, Any]:
    warnings = [*_list_warnings(prepared), *doubts]
    if assumed_fs is not None:
        warnings.append(
            f"sampling_rate was left out: {assumed_fs:g} Hz is assumed, and times and rates are "
            "wrong if the signal has another"
        )
    return {
        "usable_share": prepared.readable_s / prepared.duration_s,
        "warnings": warnings,
        "per_second": round_known(prepared.quality_per_second, 2),
        "unreadable": [describe_stretch(stretch) for stretch in prepared.unreadable],
        "findings": [describe_finding(finding) for finding in prepared.findings],
    }


def describe_stretch(stretch: Stretch) -> dict[str, Any]:
    """Write a :class:`bentos.wire.schemas.UnreadableStretch`."""
    return {
        "start_sample": stretch.start,
        "end_sample": stretch.stop,
        "reason": stretch.reason.value,
    }


def describe_finding(finding: Finding) -> dict[str, Any]:
    """Write a :class:`bentos.wire.schemas.SuspectedFinding`."""
    return {
        "kind": finding.kind.value,
        "start_sample": finding.start,
        "end_sample": finding.stop,
        "text": FINDING_WORDS[finding.kind],
    }


def _list_warnings(prepared: PreparedBeats) -> list[str]:
    warnings = []
    if prepared.unreadable_s > 0:
        warnings.append(
            f"{prepared.unreadable_s:.1f} s of {prepared.duration_s:.1f} s cannot be read"
        )
    if any(stretch.reason is UnreadableReason.FLAT for stretch in prepared.unreadable):
        warnings.append(
            "where the line is flat or disconnected an electrode is off; asystole is not ruled out"
        )
    found = {finding.kind for finding in prepared.findings}
    warnings += [FINDING_WORDS[kind] for kind in FindingKind if kind in found]
    return warnings
