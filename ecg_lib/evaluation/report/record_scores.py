"""Score one record in every condition of an evaluation.

The classifier answers in each condition (own and reference R-peaks, strips, noise, the other lead)
and the answers are scored; only counts are returned, so that each record can be scored in its own
process. :mod:`ecg_lib.evaluation.report.summary` turns counts into figures.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.rule_guard import CATALOGUE
from ecg_lib.evaluation.beat_scoring import (
    BeatCounts,
    tabulate_beats,
)
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.evaluation.peak_scoring import PeakScores, score_peaks
from ecg_lib.evaluation.prepared_views import Peaks, Prepare, ScoredView, prepare_scored_view
from ecg_lib.evaluation.report.conditions import (
    Calls,
    EvaluationError,
    add_noise,
    call_strips,
    calls_of,
    read_noise,
    truth_of,
)
from ecg_lib.evaluation.report.mistakes import BeatError, find_errors
from ecg_lib.evaluation.report.scoring import Alarms, ConditionScorer, Part, RuleAlone
from ecg_lib.evaluation.run_scoring import RunCounts, score_runs
from ecg_lib.evaluation.selection import ScoredBeats
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import LEARNING_PERIOD_S
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.movement import simulate_movement

STRIPS_S: Final = (10, 30, 300)
"""Lengths of strips in seconds."""

NOISES: Final = ("bw", "ma")
"""Records of the MIT-BIH Noise Stress Test Database: baseline wander and muscle artefact."""

RECORDED_NOISE_HZ: Final = 360.0

SNRS_DB: Final = (24, 18, 12, 6, 0)

NoiseMaker = Callable[..., NDArray[np.float64]]
"""Makes noise in mV from its length, ``fs``, ``rms_mv`` and ``rng``, as
:func:`ecg_lib.records.simulation.movement.simulate_movement` does."""

SIMULATED_NOISES: Final[dict[str, NoiseMaker]] = {"simulated_movement": simulate_movement}
"""Noises that are simulated, so that a condition needs no recorded noise."""

OWN: Final = "own_r_peaks"
REFERENCE: Final = "reference_r_peaks"
SECOND_LEAD: Final = "second_lead"
TWO_LEADS: Final = "two_leads"


class Extent(StrEnum):
    """Size of an evaluation."""

    QUICK = "quick"
    """Own and reference R-peaks, and strips of 10 s: seconds."""
    FULL = "full"
    """Longer strips, noise, and the second lead as well: a few minutes."""


def strips_condition(strip_s: int) -> str:
    """Name the condition of strips of one length."""
    return f"strips_{strip_s}_s"


def noise_condition(noise: str, snr_db: int) -> str:
    """Name the condition of one noise at one ratio."""
    return f"noise_{noise}_{snr_db}_db"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordScores:
    """The counts of one record."""

    name: str
    subject: str
    lead: str
    second_lead: str | None
    duration_s: float
    annotated: dict[str, int]
    """Beats of each AAMI class."""
    fold: int | None
    """The network that judged it; None for that of all folds."""
    counts: dict[str, dict[Part, BeatCounts]]
    """By condition and part."""
    unguarded: dict[str, dict[Part, BeatCounts]]
    """The same without RuleGuard."""
    rules: dict[str, dict[str, tuple[int, int]]]
    """By condition and rule: how often it changed a class, and how often it was right."""
    alone: dict[str, dict[str, RuleAlone]]
    """By condition and rule of the catalogue: its effect as the only rule."""
    table: dict[Part, NDArray[np.int64]]
    """See :func:`ecg_lib.evaluation.beat_scoring.tabulate_beats`, of own R-peaks."""
    runs: RunCounts
    """Of own R-peaks, after 5 min."""
    peaks: PeakScores
    probability_v: NDArray[np.float64]
    """Of the scored beats of own R-peaks."""
    is_v: NDArray[np.bool_]
    """True for those that are V."""
    unreadable_s: float
    errors: tuple[BeatError, ...]
    alarms: dict[str, dict[Part, Alarms]]
    """By condition and part."""
    selection: dict[str, ScoredBeats]
    """By condition, in its first part."""
    notes: tuple[str, ...] = ()
    """Notes for the reader, such as why a lead has no detections."""


def score_record(
    record: Record,
    *,
    bundle: Bundle,
    fold: int | None,
    extent: Extent,
    nstdb_dir: Path | None,
    prepare: Prepare | None = None,
) -> RecordScores:
    """Classify one record in every condition and score it.

    Parameters
    ----------
    record : Record
        With annotations.
    bundle : Bundle
        The classifier.
    fold : int or None
        The network to use, for a development record; that of all folds when None.
    extent : Extent
        Which conditions.
    nstdb_dir : Path or None
        Directory of the noise records; no noise without it.
    prepare : callable, optional
        Gives the record's beats in a view, to read those that are prepared already; the default
        prepares each.

    Raises
    ------
    EvaluationError
        If the record has no annotations.

    """
    annotations = _annotations_of(record)
    prepare = prepare or partial(prepare_scored_view, record, config=bundle.config.preprocessing)
    classifier = BeatClassifier.load(bundle, fold=fold, verifier=load_blind_verifier(record.name))
    own_lead, fs = record.choose_lead(), record.fs
    classified = classifier.classify_prepared(prepare(ScoredView(None, Peaks.BLIND))[0].beats)
    rule_guard = classifier.config.rule_guard
    own = calls_of(classified, rule_guard, fs=fs)
    # Rules are chosen on DS1 alone, so DS2 does not score the others.
    score = ConditionScorer(
        annotations,
        fs=fs,
        duration_s=record.duration_s,
        catalogue=() if fold is None else CATALOGUE,
    )
    score.add(OWN, own, (Part.WHOLE, Part.AFTER_5_MIN))
    given = classifier.classify_prepared(prepare(ScoredView(None, Peaks.REFERENCE))[0].beats)
    score.add(REFERENCE, calls_of(given, rule_guard, fs=fs), (Part.WHOLE, Part.AFTER_5_MIN))
    for strip_s in STRIPS_S if extent is Extent.FULL else STRIPS_S[:1]:
        strips = prepare(ScoredView(strip_s, Peaks.BLIND))
        calls = call_strips(classifier, strips, strip_s=strip_s, fs=fs)
        score.add(strips_condition(strip_s), calls, (Part.WHOLE,))
    others = [lead for lead in record.leads if lead != own_lead]
    if extent is Extent.FULL:
        if others:
            other = classifier.classify(record.signal_mv(others[0]), fs=fs)
            calls = calls_of(other, rule_guard, fs=fs)
            score.add(SECOND_LEAD, calls, (Part.WHOLE, Part.AFTER_5_MIN))
            both = classifier.classify_prepared(
                prepare(ScoredView(None, Peaks.BLIND))[0].beats, others=[other.prepared]
            )
            calls = calls_of(both, rule_guard, fs=fs)
            score.add(TWO_LEADS, calls, (Part.WHOLE, Part.AFTER_5_MIN))
        for condition, noisy in _add_noises(record, annotations, nstdb_dir):
            calls = calls_of(classifier.classify(noisy, fs=fs), rule_guard, fs=fs)
            score.add(condition, calls, (Part.NOISY_MINUTES, Part.AFTER_5_MIN))
    return summarize_record(
        record,
        annotations,
        score=score,
        own=own,
        lead=own_lead,
        second_lead=others[0] if others else None,
        fold=fold,
        unreadable_s=classified.prepared.unreadable_s,
    )


def _add_noises(
    record: Record, annotations: Annotations, nstdb_dir: Path | None
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield each condition of noise with the noisy lead; recorded noise where it is there."""
    signal, fs = record.signal_mv(), record.fs
    if len(signal) < (LEARNING_PERIOD_S + 1) * fs:
        return
    # Recorded noise has the rate of MIT-BIH; records of another rate have simulated noise alone.
    is_recorded = nstdb_dir is not None and fs == RECORDED_NOISE_HZ
    for noise in NOISES if is_recorded else ():
        noise_mv = read_noise(nstdb_dir or Path(), noise, fs=fs)
        for snr_db in SNRS_DB:
            noisy = add_noise(signal, noise_mv, annotations, snr_db=snr_db, fs=fs)
            yield noise_condition(noise, snr_db), noisy
    for name, simulate in SIMULATED_NOISES.items():
        rng = np.random.default_rng(zlib.crc32(f"{record.name} {name}".encode()))
        noise_mv = simulate(len(signal), fs=fs, rms_mv=1.0, rng=rng)
        for snr_db in SNRS_DB:
            noisy = add_noise(
                signal, noise_mv, annotations, snr_db=snr_db, fs=fs, noise_adu_per_mv=None
            )
            yield noise_condition(name, snr_db), noisy


def summarize_record(
    record: Record,
    annotations: Annotations,
    *,
    score: ConditionScorer,
    own: Calls,
    lead: str,
    second_lead: str | None,
    fold: int | None,
    unreadable_s: float,
) -> RecordScores:
    """Put together the counts of one record.

    Parameters
    ----------
    record : Record
    annotations : Annotations
        Of the record.
    score : ConditionScorer
        The counts in every condition.
    own : Calls
        The calls of the condition :data:`OWN`, for tables, runs, R-peaks and errors.
    lead : str
        The lead that they are of.
    second_lead : str or None
        The other lead that was scored.
    fold : int or None
        The network that judged it; None for that of all folds.
    unreadable_s : float
        Seconds of the lead that cannot be read.

    """
    fs = record.fs
    truth = truth_of(annotations, own.detections, fs=fs)
    is_scored = own.has_class & np.isin(truth, ["N", "S", "V", "O"])
    return RecordScores(
        name=record.name,
        subject=record.subject,
        lead=lead,
        second_lead=second_lead,
        duration_s=record.duration_s,
        annotated={name: int((annotations.beat_classes == name).sum()) for name in "NSVFQ"},
        fold=fold,
        counts=score.counts,
        unguarded=score.unguarded,
        rules=score.rules,
        alone=score.alone,
        table={
            part: tabulate_beats(
                annotations,
                detections=own.detections,
                is_v=own.is_v,
                is_readable=own.has_class,
                fs=fs,
                start_s=0.0 if part is Part.WHOLE else LEARNING_PERIOD_S,
            )
            for part in (Part.WHOLE, Part.AFTER_5_MIN)
        },
        runs=score_runs(
            annotations,
            detections=own.detections,
            is_v=own.is_credible,
            is_readable=own.has_class,
            fs=fs,
        ),
        peaks=score_peaks(annotations, detections=own.detections, fs=fs),
        probability_v=own.probability_v[is_scored],
        is_v=truth[is_scored] == "V",
        unreadable_s=unreadable_s,
        errors=find_errors(record, lead=lead, annotations=annotations, calls=own),
        alarms=score.alarms,
        selection=score.selection,
    )


def _annotations_of(record: Record) -> Annotations:
    if record.annotations is None:
        msg = f"a record that is scored must have annotations, {record.name} has none"
        raise EvaluationError(msg)
    return record.annotations
