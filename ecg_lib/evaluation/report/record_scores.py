"""Score one record in every condition of an evaluation.

The classifier answers in each condition (own and reference R-peaks, strips, noise, the other lead)
and the answers are scored; only counts are returned, so that each record can be scored in its own
process. :mod:`ecg_lib.evaluation.report.summary` turns counts into figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.rule_guard import CATALOGUE, Rule
from ecg_lib.evaluation.beat_scoring import (
    BeatCounts,
    add_up,
    score_beats,
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
from ecg_lib.evaluation.run_scoring import RunCounts, score_runs
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import LEARNING_PERIOD_S, SEGMENT_S
from ecg_lib.records.record import Record

STRIPS_S: Final = (10, 30, 300)
"""Lengths of strips in seconds."""

NOISES: Final = ("bw", "ma")
"""Records of the MIT-BIH Noise Stress Test Database: baseline wander and muscle artefact."""

SNRS_DB: Final = (24, 18, 12, 6, 0)

OWN: Final = "own_r_peaks"
REFERENCE: Final = "reference_r_peaks"
SECOND_LEAD: Final = "second_lead"


class Extent(StrEnum):
    """Size of an evaluation."""

    QUICK = "quick"
    """Own and reference R-peaks, and strips of 10 s: seconds."""
    FULL = "full"
    """Longer strips, noise, and the second lead as well: a few minutes."""


class Part(StrEnum):
    """Minutes of a record that are scored."""

    WHOLE = "whole"
    AFTER_5_MIN = "after_5_min"
    NOISY_MINUTES = "noisy_minutes"
    """Of the noise stress test: every other two minutes after the fifth."""


def strips_condition(strip_s: int) -> str:
    """Name the condition of strips of one length."""
    return f"strips_{strip_s}_s"


def noise_condition(noise: str, snr_db: int) -> str:
    """Name the condition of one noise at one ratio."""
    return f"noise_{noise}_{snr_db}_db"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleAlone:
    """The effect of a rule when it is the only one."""

    counts: BeatCounts
    fired: int
    """Beats whose class it changes."""
    right: int
    """Those whose class it changes to the right one."""


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
    own_lead = record.choose_lead()
    signal, fs = record.signal_mv(own_lead), record.fs
    classified = classifier.classify_prepared(prepare(ScoredView(None, Peaks.BLIND))[0].beats)
    rule_guard = classifier.config.rule_guard
    own = calls_of(classified, rule_guard)
    # Rules are chosen on DS1 alone, so DS2 does not score the others.
    score = _Scorer(annotations, fs, catalogue=() if fold is None else CATALOGUE)
    score.add(OWN, own, (Part.WHOLE, Part.AFTER_5_MIN))
    given = classifier.classify_prepared(prepare(ScoredView(None, Peaks.REFERENCE))[0].beats)
    score.add(REFERENCE, calls_of(given, rule_guard), (Part.WHOLE, Part.AFTER_5_MIN))
    for strip_s in STRIPS_S if extent is Extent.FULL else STRIPS_S[:1]:
        strips = prepare(ScoredView(strip_s, Peaks.BLIND))
        calls = call_strips(classifier, strips, strip_s=strip_s)
        score.add(strips_condition(strip_s), calls, (Part.WHOLE,))
    others = [lead for lead in record.leads if lead != own_lead]
    second_lead = others[0] if others else None
    if extent is Extent.FULL:
        if second_lead is not None:
            other = classifier.classify(record.signal_mv(second_lead), fs=fs)
            score.add(SECOND_LEAD, calls_of(other, rule_guard), (Part.WHOLE, Part.AFTER_5_MIN))
        if nstdb_dir is not None:
            for noise in NOISES:
                noise_mv = read_noise(nstdb_dir, noise, fs=fs)
                for snr_db in SNRS_DB:
                    noisy = add_noise(signal, noise_mv, annotations, snr_db=snr_db, fs=fs)
                    calls = calls_of(classifier.classify(noisy, fs=fs), rule_guard)
                    parts = (Part.NOISY_MINUTES, Part.AFTER_5_MIN)
                    score.add(noise_condition(noise, snr_db), calls, parts)
    truth = truth_of(annotations, own.detections, fs=fs)
    is_scored = own.has_class & np.isin(truth, ["N", "S", "V", "O"])
    return RecordScores(
        name=record.name,
        subject=record.subject,
        lead=own_lead,
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
            is_v=own.is_v,
            is_readable=own.has_class,
            fs=fs,
        ),
        peaks=score_peaks(annotations, detections=own.detections, fs=fs),
        probability_v=own.probability_v[is_scored],
        is_v=truth[is_scored] == "V",
        unreadable_s=classified.prepared.unreadable_s,
        errors=find_errors(record, lead=own_lead, annotations=annotations, calls=own),
    )


def _annotations_of(record: Record) -> Annotations:
    if record.annotations is None:
        msg = f"a record that is scored must have annotations, {record.name} has none"
        raise EvaluationError(msg)
    return record.annotations


class _Scorer:
    """Collects the counts of one record."""

    def __init__(self, annotations: Annotations, fs: float, *, catalogue: Sequence[Rule]) -> None:
        self._annotations = annotations
        self._fs = fs
        self._catalogue = catalogue
        self.counts: dict[str, dict[Part, BeatCounts]] = {}
        self.unguarded: dict[str, dict[Part, BeatCounts]] = {}
        self.rules: dict[str, dict[str, tuple[int, int]]] = {}
        self.alone: dict[str, dict[str, RuleAlone]] = {}

    def add(self, condition: str, calls: Calls, parts: tuple[Part, ...]) -> None:
        """Score the calls of one condition; the rules in the first part."""
        self.counts[condition] = {part: self._score(calls, part) for part in parts}
        plain = calls._replace(is_v=calls.is_v_unguarded)
        self.unguarded[condition] = {part: self._score(plain, part) for part in parts}
        self.rules[condition] = self._judge_rules(calls, parts[0])
        self.alone[condition] = {
            rule.value: self._judge_alone(calls, CATALOGUE.index(rule), parts[0])
            for rule in self._catalogue
        }

    def _score(self, calls: Calls, part: Part) -> BeatCounts:
        return add_up(
            [
                score_beats(
                    self._annotations,
                    detections=calls.detections,
                    is_v=calls.is_v,
                    is_readable=calls.has_class,
                    fs=self._fs,
                    start_s=start_s,
                    stop_s=min(stop_s, calls.stop_s),
                )
                for start_s, stop_s in self._spans(calls, part)
            ]
        )

    def _spans(self, calls: Calls, part: Part) -> list[tuple[float, float]]:
        if part is Part.WHOLE:
            return [(0.0, calls.stop_s)]
        if part is Part.AFTER_5_MIN:
            return [(LEARNING_PERIOD_S, calls.stop_s)]
        # Beats behind the last annotation can only be extra detections in its segment.
        last = max(
            (a[-1] for a in (self._annotations.samples, calls.detections) if len(a)), default=0
        )
        starts = np.arange(LEARNING_PERIOD_S, last / self._fs, 2 * SEGMENT_S)
        return [(float(start_s), float(start_s + SEGMENT_S)) for start_s in starts]

    def _judge_rules(self, calls: Calls, part: Part) -> dict[str, tuple[int, int]]:
        return {
            rule: self._judge_changes(calls, calls.rule == rule, part)
            for rule in sorted(set(calls.rule.tolist()) - {""})
        }

    def _judge_alone(self, calls: Calls, column: int, part: Part) -> RuleAlone:
        is_changed = calls.proposed[:, column]
        alone = calls._replace(is_v=calls.is_v_unguarded ^ is_changed)
        fired, right = self._judge_changes(alone, is_changed, part)
        return RuleAlone(counts=self._score(alone, part), fired=fired, right=right)

    def _judge_changes(
        self, calls: Calls, is_changed: NDArray[np.bool_], part: Part
    ) -> tuple[int, int]:
        """Count the changed classes that are scored, and the right ones of them."""
        truth = truth_of(self._annotations, calls.detections, fs=self._fs)
        time_s = calls.detections / self._fs
        in_part = np.zeros(len(time_s), dtype=np.bool_)
        for start_s, stop_s in self._spans(calls, part):
            in_part |= (time_s >= start_s) & (time_s < stop_s)
        fired = is_changed & calls.has_class & in_part & np.isin(truth, ["N", "S", "V", "O"])
        return int(fired.sum()), int((fired & (calls.is_v == (truth == "V"))).sum())
