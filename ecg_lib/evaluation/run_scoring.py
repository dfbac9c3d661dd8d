"""Score couplets and runs of V beats as EC57 and WFDB's ``rxr`` do.

For sensitivity, every run of the reference is looked for: the longest run of the detections that
lies within it, 150 ms of room on both sides, is found. For predictivity it is the other way
round. Runs are couplets (2), short (3 to 5) or long (6 and more). As in ``rxr``, F counts as V, a
ventricular flutter of the reference is a run of the greatest length, and single V beats are in the
table but in no figure. Deviations from ``rxr``: a run that the end of the record cuts off counts,
and a beat may be in the window of two runs that are less than 300 ms apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import LEARNING_PERIOD_S
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S
from ecg_lib.signal_path.readability.quality import find_spans

LONGEST: Final = 6
"""Runs of six and more V beats are one length."""

_COUPLET: Final = slice(2, 3)
_SHORT: Final = slice(3, 6)
_LONG: Final = slice(6, 7)


class RunFigure(NamedTuple):
    """Runs of one kind that were found, of all that there are."""

    true: int
    total: int

    @property
    def share(self) -> float:
        """Sensitivity or predictivity; NaN without a run."""
        return self.true / self.total if self.total else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunCounts:
    """The run-by-run tables of one record, or of several added up."""

    of_reference: NDArray[np.int64]
    """Shape ``(7, 7)``: runs of the reference, by their length and the longest found in them."""
    of_detected: NDArray[np.int64]
    """Shape ``(7, 7)``: runs of the detections, by the longest true one in them and their own
    length."""

    def __add__(self, other: Self) -> Self:
        return type(self)(
            of_reference=self.of_reference + other.of_reference,
            of_detected=self.of_detected + other.of_detected,
        )

    @property
    def couplet_sensitivity(self) -> RunFigure:
        """True couplets in which two V beats in a row were found."""
        return self._sensitivity(_COUPLET)

    @property
    def short_run_sensitivity(self) -> RunFigure:
        """True runs of three to five in which three in a row were found."""
        return self._sensitivity(_SHORT)

    @property
    def long_run_sensitivity(self) -> RunFigure:
        """True runs of six or more in which six in a row were found."""
        return self._sensitivity(_LONG)

    @property
    def couplet_predictivity(self) -> RunFigure:
        """Reported couplets in which there are two V beats in a row."""
        return self._predictivity(_COUPLET)

    @property
    def short_run_predictivity(self) -> RunFigure:
        """Reported runs of three to five in which there are three in a row."""
        return self._predictivity(_SHORT)

    @property
    def long_run_predictivity(self) -> RunFigure:
        """Reported runs of six or more in which there are six in a row."""
        return self._predictivity(_LONG)

    def _sensitivity(self, kind: slice) -> RunFigure:
        rows = self.of_reference[kind]
        return RunFigure(int(rows[:, kind.start :].sum()), int(rows.sum()))

    def _predictivity(self, kind: slice) -> RunFigure:
        columns = self.of_detected[:, kind]
        return RunFigure(int(columns[kind.start :].sum()), int(columns.sum()))


class _Run(NamedTuple):
    start: int
    stop: int
    length: int


def score_runs(
    annotations: Annotations,
    *,
    detections: NDArray[np.int64],
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_] | None = None,
    fs: float,
    start_s: float = LEARNING_PERIOD_S,
) -> RunCounts:
    """Score the runs of one record against its annotations.

    Parameters
    ----------
    annotations : Annotations
        Reference annotations.
    detections : ndarray of int64, shape (n_detections,)
        Ascending positions in samples of the record.
    is_v, is_readable : ndarray of bool, shape (n_detections,)
        What was called V; a detection that could not be read ends a run.
    fs : float
        Sampling rate of the record in Hz.
    start_s : float
        Runs that begin earlier are left out (EC57's learning period).

    """
    readable = np.ones(len(detections), dtype=np.bool_) if is_readable is None else is_readable
    beats = annotations.beat_samples
    is_true_v = np.isin(annotations.beat_classes, ["V", "F"])
    is_called_v = is_v & readable
    flutter = [_Run(start, stop, LONGEST) for start, stop in annotations.flutter_episodes]
    reach, first = round(MATCH_TOLERANCE_S * fs), start_s * fs
    of_reference = np.zeros((LONGEST + 1, LONGEST + 1), dtype=np.int64)
    of_detected = np.zeros_like(of_reference)
    for run in [*_find_runs(beats, is_true_v), *flutter]:
        if run.start >= first:
            found = _longest_within(run, detections, is_called_v, reach)
            of_reference[run.length, found] += 1
    for run in _find_runs(detections, is_called_v):
        if run.start >= first:
            true = _longest_within(run, beats, is_true_v, reach)
            is_flutter = any(
                episode.start <= run.stop + reach and episode.stop >= run.start - reach
                for episode in flutter
            )
            of_detected[LONGEST if is_flutter else true, run.length] += 1
    return RunCounts(of_reference=of_reference, of_detected=of_detected)


FALSE_RUN: Final = 3
"""V beats in a row that are an alarm."""


def count_false_runs(
    annotations: Annotations,
    *,
    detections: NDArray[np.int64],
    is_v: NDArray[np.bool_],
    is_readable: NDArray[np.bool_],
    fs: float,
    spans: Sequence[tuple[float, float]],
) -> int:
    """Count reported runs of three V beats and more where no such run is annotated.

    Parameters
    ----------
    annotations, detections, is_v, is_readable, fs
        See :func:`score_runs`.
    spans : sequence of (float, float)
        Runs that begin inside one of these, in seconds, are counted.

    """
    beats = annotations.beat_samples
    is_true_v = np.isin(annotations.beat_classes, ["V", "F"])
    reach = round(MATCH_TOLERANCE_S * fs)
    return sum(
        any(start_s <= run.start / fs < stop_s for start_s, stop_s in spans)
        and _longest_within(run, beats, is_true_v, reach) < FALSE_RUN
        and not any(
            start <= run.stop + reach and stop >= run.start - reach
            for start, stop in annotations.flutter_episodes
        )
        for run in _find_runs(detections, is_v & is_readable)
        if run.length >= FALSE_RUN
    )


def add_up_runs(counts: Sequence[RunCounts]) -> RunCounts:
    """Add up the tables of several records."""
    zeros = np.zeros((LONGEST + 1, LONGEST + 1), dtype=np.int64)
    return sum(counts, RunCounts(of_reference=zeros, of_detected=zeros))


def _find_runs(positions: NDArray[np.int64], is_v: NDArray[np.bool_]) -> list[_Run]:
    return [
        _Run(int(positions[start]), int(positions[stop - 1]), min(stop - start, LONGEST))
        for start, stop in find_spans(is_v)
    ]


def _longest_within(
    run: _Run, positions: NDArray[np.int64], is_v: NDArray[np.bool_], reach: int
) -> int:
    first = int(np.searchsorted(positions, run.start - reach, side="left"))
    last = int(np.searchsorted(positions, run.stop + reach, side="right"))
    return max(
        (found.length for found in _find_runs(positions[first:last], is_v[first:last])), default=0
    )
