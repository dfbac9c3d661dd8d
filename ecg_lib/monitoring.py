"""What monitoring keeps of each beat: the columns of the drift reference and of the live log.

Both come from :func:`observe_beats`, so that reference and traffic are measured alike.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.beats import FEATURE_NAMES
from ecg_lib.classifier import ClassifiedBeats

NUMERICAL_COLUMNS: Final = (
    "rr_prev_s",
    "heart_rate_bpm",
    "qrs_width_ms",
    "template_correlation",
    "amplitude_mv",
    "readable_share",
    "probability_v",
)
"""Columns of floats; the heart rate and readable share are those of the whole strip."""

CATEGORICAL_COLUMNS: Final = ("arrhythmia_type", "rule")
"""``N`` or ``V``; the rule that fired or ``none``."""

OBSERVED_COLUMNS: Final = NUMERICAL_COLUMNS + CATEGORICAL_COLUMNS

REFERENCE_KEYS: Final = ("subject", "strip", "strip_s")
"""Further columns of the drift reference: who, which strip, and its length in seconds."""


def observe_beats(classified: ClassifiedBeats) -> dict[str, NDArray[np.generic]]:
    """Measure the readable beats of one strip.

    Returns
    -------
    dict of ndarray
        :data:`OBSERVED_COLUMNS`, each of shape ``(n_classed_beats,)``; ``rr_prev_s`` of the
        first beat is NaN.

    """
    prepared = classified.prepared
    keep = classified.has_class
    n_kept = int(keep.sum())
    rr_s = prepared.rr_prev_s[keep]
    known = rr_s[np.isfinite(rr_s)]
    rate = 60 / float(np.median(known)) if len(known) else float("nan")
    similarity = prepared.features[:, FEATURE_NAMES.index("qrs_similarity")]
    rule = classified.rule[keep]
    return {
        "rr_prev_s": rr_s,
        "heart_rate_bpm": np.full(n_kept, rate),
        "qrs_width_ms": prepared.qrs_width_s[keep] * 1e3,
        "template_correlation": similarity[keep].astype(np.float64),
        "amplitude_mv": prepared.amplitude_mv[keep],
        "readable_share": np.full(n_kept, prepared.readable_s / prepared.duration_s),
        "probability_v": classified.probability_v[keep],
        "arrhythmia_type": np.where(classified.is_v[keep], "V", "N"),
        "rule": np.where(rule == "", "none", rule),
    }
