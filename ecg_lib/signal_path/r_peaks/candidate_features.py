"""Features of candidate R-peaks: surroundings, rhythm, sizes and likeness to neighbours.

Envelopes are read each 50 ms, 0.4 s to both sides; the picture, the signal itself, at 60 Hz (it
ends at 30 Hz), 0.42 s to both sides. The curvature is the second difference over 14 ms, the
greatest in 50 ms: a QRS complex bends sharply, a T wave of any height hardly. The QRS complex is
the 0.1 s to both sides of the candidate, its baseline the time from 0.4 to 0.17 s, and the shape
that is compared 0.13 s, at the best of five shifts. Rhythm, sizes and likeness look at four beats,
and four other candidates, on each side.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.kernels.library import run_kernel

_OFFSETS_MS = range(-400, 401, 50)
_SIZES = ("height", "slope", "span", "curvature")

CANDIDATE_FEATURES: Final = (
    *(f"steep_energy_at_{at_ms}_ms" for at_ms in _OFFSETS_MS),
    *(f"slow_energy_at_{at_ms}_ms" for at_ms in _OFFSETS_MS),
    *(f"curvature_at_{at_ms}_ms" for at_ms in _OFFSETS_MS),
    "noise_over_level", "slope_over_level", "span_over_picture", "baseline_step",
    "time_from_start_s", "time_to_end_s",
    "since_last_beat", "since_last_but_one", "until_next_beat", "until_next_but_one", "local_rr",
    "since_last_beat_over_rr", "until_next_beat_over_rr", "gap_over_rr",
    "since_last_but_one_over_rr", "until_next_but_one_over_rr",
    *(f"{size}_over_{beat}_beat" for size in _SIZES for beat in ("last", "next")),
    *(f"{size}_over_usual_{kind}" for size in _SIZES for kind in ("beat", "other")),
    "height_over_tallest_other", "beat_contrast",
    "best_likeness_to_beats", "second_likeness_to_beats", "mean_likeness_to_beats",
    "best_likeness_to_others", "second_likeness_to_others", "mean_likeness_to_others",
    "likeness_to_last_beat", "likeness_to_next_beat",
    "is_beat_by_rules",
)  # fmt: skip
"""Names of the features, in the order of the network's inputs."""

VERDICT_FEATURES: Final = (
    "verdict",
    *(f"{name}_{side}" for name in ("verdict", "distance_s") for side in
      ("before", "second_before", "after", "second_after")),
    "is_accepted_by_rules",
)  # fmt: skip
"""Additional features of the second look: the first verdicts on a candidate and its neighbours."""

_SHAPE_FLOATS: Final = 5 * 20 + 25
"""Of each candidate: five shifts of 17 points, with room for 20, and its likeness to 25 others."""


class Candidates(NamedTuple):
    """Possible beats: local maxima of the slope energy of one lead, in order of time."""

    position: NDArray[np.int64]
    """Samples at 360 Hz, shape ``(n,)``."""
    height: NDArray[np.float64]
    """Slope energy over the local level, the greater one of two scales."""
    slope: NDArray[np.float64]
    """Steepest slope near the candidate, in units of the signal."""


class Envelopes(NamedTuple):
    """The signal as the detector sees it; ``n_samples`` long, but the levels."""

    steep: NDArray[np.float64]
    slow: NDArray[np.float64]
    smooth: NDArray[np.float64]
    """The signal between 1 and 30 Hz."""
    steep_level: NDArray[np.float64]
    """Local level of the steep slope energy at each candidate, shape ``(n,)``."""
    slow_level: NDArray[np.float64]


class FirstLook(NamedTuple):
    """The features of candidates, and what a second look at them needs."""

    features: NDArray[np.float32]
    """Shape ``(n, len(CANDIDATE_FEATURES))``."""
    rows: NDArray[np.float32]
    """The rows that `features` are the first columns of; their others have no values yet."""
    sizes: NDArray[np.float64]
    """Span and curvature, shape ``(2, n)``."""
    shapes: NDArray[np.float32]
    """Shapes of the candidates, as the kernel compares them, and what it found."""


def measure_candidates(
    candidates: Candidates, envelopes: Envelopes, is_beat: NDArray[np.bool_]
) -> FirstLook:
    """Compute the features of each candidate.

    Parameters
    ----------
    candidates : Candidates
        At least one.
    envelopes : Envelopes
        Of the same signal.
    is_beat : ndarray of bool, shape (n,)
        What the rules take for beats: the context. A candidate is never its own context, but the
        last feature says what it was taken for.

    Returns
    -------
    FirstLook

    """
    n, n_features = len(candidates.position), len(CANDIDATE_FEATURES)
    rows = np.empty((n, n_features + len(VERDICT_FEATURES)), dtype=np.float32)
    sizes, shapes = np.empty((2, n)), np.empty((n, _SHAPE_FLOATS), dtype=np.float32)
    run_kernel(
        "measure_candidates",
        candidates.position,
        candidates.height,
        candidates.slope,
        n,
        envelopes.steep,
        envelopes.slow,
        envelopes.smooth,
        len(envelopes.smooth),
        envelopes.steep_level,
        envelopes.slow_level,
        is_beat,
        sizes,
        shapes,
        rows.shape[1],
        rows,
    )
    return FirstLook(rows[:, :n_features], rows, sizes, shapes)


def look_again(
    candidates: Candidates,
    first: FirstLook,
    by_rules: NDArray[np.bool_],
    verdicts: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Compute the features of each candidate for a second look.

    Parameters
    ----------
    candidates : Candidates
        At least one.
    first : FirstLook
        Of these candidates.
    by_rules : ndarray of bool, shape (n,)
        What the rules take for beats.
    verdicts : ndarray of float32, shape (n,)
        Logits of the first look. Those above zero are the beats of the context.

    Returns
    -------
    ndarray of float32, shape (n, len(CANDIDATE_FEATURES) + len(VERDICT_FEATURES))

    """
    features = first.rows.copy()
    run_kernel(
        "look_again",
        candidates.position,
        candidates.height,
        candidates.slope,
        len(verdicts),
        first.sizes,
        first.shapes,
        by_rules,
        verdicts,
        features.shape[1],
        features,
    )
    return features
