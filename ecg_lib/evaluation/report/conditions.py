"""Classify a record as it is scored: whole, in strips, and under recorded noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, ClassifiedBeats, require_readable
from ecg_lib.classifier.rule_guard import RuleGuardConfig, propose_changes
from ecg_lib.errors import EcgError, UnreadableSignalError
from ecg_lib.evaluation.beat_scoring import NO_BEAT, label_beats
from ecg_lib.evaluation.prepared_views import PreparedStrip
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import mix_at_snr, nst_gate
from ecg_lib.records.record import read_wfdb
from ecg_lib.rhythm.run_evidence import find_credible_of

NOISE_SIGNAL: Final = 0
"""Signal of the noise records that evaluation uses; training may have heard signal 1."""

RECORDED_ADU_PER_MV: Final = 200.0
"""Units of the noise records bw and ma, see :func:`ecg_lib.records.noise.mix_at_snr`."""


class EvaluationError(EcgError):
    """An evaluation cannot or must not be made."""


class Calls(NamedTuple):
    """The classes of one record; every array has one row for each detection."""

    detections: NDArray[np.int64]
    is_v: NDArray[np.bool_]
    is_v_unguarded: NDArray[np.bool_]
    """Without RuleGuard."""
    rule: NDArray[np.str_]
    probability_v: NDArray[np.float64]
    proposed: NDArray[np.bool_]
    """The changes of each rule of the catalogue if it were the only one, a column for each."""
    has_class: NDArray[np.bool_]
    """False for detections that were reported as unreadable or paced, neither N nor V."""
    quality: NDArray[np.float32]
    """Of the signal in the second of each detection, 0 to 1."""
    is_credible: NDArray[np.bool_]
    """True for the V beats of which couplets and runs are made."""
    stop_s: float = float("inf")
    """End of what was classified."""


def quality_at(
    detections: NDArray[np.int64], per_second: NDArray[np.float64], *, fs: float
) -> NDArray[np.float32]:
    """Look up the quality of the second that each detection is in; 0 where it is not known."""
    if len(per_second) == 0:
        return np.zeros(len(detections), dtype=np.float32)
    seconds = np.minimum((detections / fs).astype(np.int64), len(per_second) - 1)
    return np.nan_to_num(per_second[seconds]).astype(np.float32)


def calls_of(classified: ClassifiedBeats, config: RuleGuardConfig, *, fs: float) -> Calls:
    """Take the scored columns of an answer; the rule limits are those of the answer."""
    return Calls(
        detections=classified.r_peaks,
        is_v=classified.is_v,
        is_v_unguarded=(classified.probability_v >= classified.threshold) & classified.has_class,
        rule=classified.rule,
        probability_v=classified.probability_v,
        proposed=propose_changes(
            classified.probability_v,
            classified.prepared.features,
            threshold=classified.threshold,
            config=config,
        )
        & classified.has_class[:, None],
        has_class=classified.has_class,
        quality=quality_at(classified.r_peaks, classified.prepared.quality_per_second, fs=fs),
        is_credible=find_credible_of(classified),
    )


def call_strips(
    classifier: BeatClassifier, strips: Sequence[PreparedStrip], *, strip_s: int, fs: float
) -> Calls:
    """Classify prepared strips, each alone, as requests are.

    A strip that the service would reject counts as unreadable. The rest at the end of a record,
    which is shorter than a strip, is not classified and not scored.

    Raises
    ------
    EvaluationError
        If there is no strip.

    """
    if not strips:
        msg = f"the record must last at least {strip_s} s, as one strip does; it is shorter"
        raise EvaluationError(msg)
    parts: list[Calls] = []
    for start, prepared in strips:
        classified = classifier.classify_prepared(prepared)
        calls = calls_of(classified, classifier.config.rule_guard, fs=fs)
        try:
            require_readable(classified.prepared)
        except UnreadableSignalError:
            calls = calls._replace(has_class=np.zeros_like(calls.has_class))
        parts.append(calls._replace(detections=calls.detections + start))
    # Two strips may both see a beat that lies on their border, so order is not given.
    *columns, _ = zip(*parts, strict=True)
    joined: list[Any] = [np.concatenate(column) for column in columns]
    order = np.argsort(joined[0], kind="stable")
    found = Calls(*[column[order] for column in joined])
    return found._replace(stop_s=float(len(strips) * strip_s))


def truth_of(
    annotations: Annotations, detections: NDArray[np.int64], *, fs: float
) -> NDArray[np.str_]:
    """Return the AAMI class of each detection, O for no beat, ! in flutter."""
    truth = label_beats(annotations, detections, fs=fs)
    truth[truth == NO_BEAT] = "O"
    return truth


def read_noise(directory: Path, name: str, *, fs: float) -> NDArray[np.float64]:
    """Read signal 0 of a noise record, in mV.

    Raises
    ------
        EvaluationError: If its rate differs from that of the record.
    """
    noise = read_wfdb(directory / name)
    if noise.fs != fs:
        msg = f"noise must have the rate of the record, got {noise.fs:g} Hz for {fs:g} Hz"
        raise EvaluationError(msg)
    return np.asarray(noise.signals_mv[:, NOISE_SIGNAL], dtype=np.float64)


def add_noise(
    signal_mv: NDArray[np.float32],
    noise_mv: NDArray[np.float64],
    annotations: Annotations,
    *,
    snr_db: int,
    fs: float,
    noise_adu_per_mv: float | None = RECORDED_ADU_PER_MV,
) -> NDArray[np.float64]:
    """Add noise to a lead by the standard protocol of WFDB's ``nst``, as the program does it.

    Args:
        signal_mv: The clean lead.
        noise_mv: Noise at the same rate.
        annotations: Beats that the amplitude of the signal is measured from; V and F are not.
        snr_db: Signal-to-noise ratio in dB.
        fs: Sampling rate in Hz.
        noise_adu_per_mv: Units of the noise record; None for noise that was not digitised.

    Returns
    -------
        The noisy lead in mV.
    """
    is_measured = ~np.isin(annotations.symbols, ["V", "E", "r", "F"]) & annotations.is_beat
    return mix_at_snr(
        signal_mv,
        noise_mv,
        snr_db=float(snr_db),
        r_peaks=annotations.samples[is_measured],
        fs=fs,
        gate=nst_gate(len(signal_mv), fs=fs),
        noise_adu_per_mv=noise_adu_per_mv,
    )
