"""Collect the counts of one record in every condition: beats, rules, alarms, abstention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.rule_guard import CATALOGUE, Rule
from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up, score_beats
from ecg_lib.evaluation.report.conditions import Calls, truth_of
from ecg_lib.evaluation.run_scoring import count_false_runs
from ecg_lib.evaluation.selection import ScoredBeats
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import LEARNING_PERIOD_S, SEGMENT_S


class Part(StrEnum):
    """Minutes of a record that are scored."""

    WHOLE = "whole"
    AFTER_5_MIN = "after_5_min"
    NOISY_MINUTES = "noisy_minutes"
    """Of the noise stress test: every other two minutes after the fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleAlone:
    """The effect of a rule when it is the only one."""

    counts: BeatCounts
    fired: int
    """Beats whose class it changes."""
    right: int
    """Those whose class it changes to the right one."""


class Alarms(NamedTuple):
    """Runs of V beats that were reported where there is none, and the time they were looked for."""

    seconds: float
    false_runs: int


class ConditionScorer:
    """Collects the counts of one record.

    Parameters
    ----------
    annotations : Annotations
    fs : float
        Sampling rate in Hz.
    duration_s : float
        Length of the record.
    catalogue : sequence of Rule
        Rules to score one by one.

    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        fs: float,
        duration_s: float,
        catalogue: Sequence[Rule] = (),
    ) -> None:
        self._annotations = annotations
        self._fs = fs
        self._duration_s = duration_s
        self._catalogue = catalogue
        self.counts: dict[str, dict[Part, BeatCounts]] = {}
        self.unguarded: dict[str, dict[Part, BeatCounts]] = {}
        self.rules: dict[str, dict[str, tuple[int, int]]] = {}
        self.alone: dict[str, dict[str, RuleAlone]] = {}
        self.alarms: dict[str, dict[Part, Alarms]] = {}
        self.selection: dict[str, ScoredBeats] = {}

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

        self.alarms[condition] = {part: self._count_alarms(calls, part) for part in parts}
        self.selection[condition] = self._select(calls, parts[0], self.counts[condition])

    def _count_alarms(self, calls: Calls, part: Part) -> Alarms:
        spans = self._spans(calls, part)
        return Alarms(
            seconds=sum(max(0.0, min(b, self._duration_s) - a) for a, b in spans),
            false_runs=count_false_runs(
                self._annotations,
                detections=calls.detections,
                is_v=calls.is_credible,
                is_readable=calls.has_class,
                fs=self._fs,
                spans=spans,
            ),
        )

    def _select(self, calls: Calls, part: Part, counts: Mapping[Part, BeatCounts]) -> ScoredBeats:
        spans = self._spans(calls, part)
        truth = truth_of(self._annotations, calls.detections, fs=self._fs)
        in_part = self._is_inside(calls, spans) & np.isin(truth, ["N", "S", "V", "F", "Q", "O"])
        keep = in_part & calls.has_class
        return ScoredBeats(
            quality=calls.quality[keep],
            is_v=truth[keep] == "V",
            called_v=calls.is_v[keep],
            counts_false=np.isin(truth[keep], ["N", "S", "O"]),
            n_missed=max(0, counts[part].v_beats - int((truth[keep] == "V").sum())),
            n_without_class=int((in_part & ~calls.has_class).sum()),
        )

    def _is_inside(self, calls: Calls, spans: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
        time_s = calls.detections / self._fs
        inside = np.zeros(len(time_s), dtype=np.bool_)
        for start_s, stop_s in spans:
            inside |= (time_s >= start_s) & (time_s < stop_s)
        return inside

    def _score_span(self, calls: Calls, start_s: float, stop_s: float) -> BeatCounts:
        return score_beats(
            self._annotations,
            detections=calls.detections,
            is_v=calls.is_v,
            is_readable=calls.has_class,
            fs=self._fs,
            start_s=start_s,
            stop_s=min(stop_s, calls.stop_s),
        )

    def _score(self, calls: Calls, part: Part) -> BeatCounts:
        return add_up([self._score_span(calls, *span) for span in self._spans(calls, part)])

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
        in_part = self._is_inside(calls, self._spans(calls, part))
        fired = is_changed & calls.has_class & in_part & np.isin(truth, ["N", "S", "V", "O"])
        return int(fired.sum()), int((fired & (calls.is_v == (truth == "V"))).sum())
