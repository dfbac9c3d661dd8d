"""Score R-peaks whatever their class: found, extra, V missed, and how far off they are.

Beats inside ventricular flutter are left out. The 150 ms of EC57 say whether a beat was found; 50
ms and the offsets say how well it was placed, on which every RR interval and window rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up, score_beats
from ecg_lib.records.annotations import Annotations
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats

NARROW_TOLERANCE_S: Final = 0.050
"""A detection this near is well placed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PeakScores:
    """The R-peaks of one record, or of several added up."""

    counts: BeatCounts
    """Within 150 ms; classes are not scored."""
    narrow: BeatCounts
    """Within 50 ms."""
    offset_ms: NDArray[np.float64]
    """Of each found beat: detection minus annotation."""

    @property
    def v_missed(self) -> int:
        """V beats without a detection within 150 ms."""
        return self.counts.v_beats - self.counts.v_found

    @property
    def narrow_f1(self) -> float:
        """Harmonic mean of Se and +P within 50 ms; NaN without beats and detections."""
        total = self.narrow.beats + self.narrow.found + self.narrow.extra
        return 2 * self.narrow.found / total if total else float("nan")

    @property
    def median_offset_ms(self) -> float:
        """Median of the offsets; NaN when no beat was found."""
        return float(np.median(self.offset_ms)) if len(self.offset_ms) else float("nan")

    @property
    def spread_ms(self) -> tuple[float, float]:
        """The range of offsets of 95 % of the found beats; NaN when there is none."""
        if len(self.offset_ms) == 0:
            return float("nan"), float("nan")
        low, high = np.quantile(self.offset_ms, [0.025, 0.975])
        return float(low), float(high)


def score_peaks(
    annotations: Annotations, *, detections: NDArray[np.int64], fs: float
) -> PeakScores:
    """Score the R-peaks of one record against its annotations.

    Parameters
    ----------
    annotations : Annotations
        Reference annotations.
    detections : ndarray of int64, shape (n_detections,)
        Ascending positions in samples of the record.
    fs : float
        Sampling rate of the record in Hz.

    Returns
    -------
    PeakScores

    """
    nothing = np.zeros(len(detections), dtype=np.bool_)
    beats = annotations.beat_samples
    match = match_beats(beats, detections, tolerance=round(MATCH_TOLERANCE_S * fs))
    is_scored = (match.of_reference >= 0) & ~annotations.is_in_flutter(beats)
    offsets = detections[match.of_reference[is_scored]] - beats[is_scored]
    return PeakScores(
        counts=score_beats(annotations, detections=detections, is_v=nothing, fs=fs),
        narrow=score_beats(
            annotations, detections=detections, is_v=nothing, fs=fs, tolerance_s=NARROW_TOLERANCE_S
        ),
        offset_ms=np.asarray(1000.0 * offsets / fs, dtype=np.float64),
    )


def add_up_peaks(scores: Sequence[PeakScores]) -> PeakScores:
    """Add up the R-peaks of several records."""
    return PeakScores(
        counts=add_up([score.counts for score in scores]),
        narrow=add_up([score.narrow for score in scores]),
        offset_ms=np.concatenate([np.zeros(0), *(score.offset_ms for score in scores)]),
    )
