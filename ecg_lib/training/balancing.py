"""Balance the classes of a training fold; the only door to imbalanced-learn.

All inputs of a beat (both channels of its window and its features) are over-sampled together, so
a synthetic beat is one beat. Only ever called with training beats, never with validation beats.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Balancing(StrEnum):
    """Ways to give ventricular beats more weight."""

    NONE = "none"
    RANDOM_OVERSAMPLER = "random_oversampler"
    SMOTE = "smote"
    CLASS_WEIGHTS = "class_weights"


class TrainingBeats(NamedTuple):
    """The beats that a network is fitted to."""

    windows: NDArray[np.float32]
    """Shape ``(n_beats, 360, 2)``."""

    features: NDArray[np.float32]
    """Shape ``(n_beats, n_features)``."""

    is_v: NDArray[np.bool_]
    is_beat: NDArray[np.bool_]
    """False for detections that belong to no annotated beat."""
    weights: NDArray[np.float32]
    """Weight of each beat in the loss, with a mean of about one."""


def balance(
    beats: TrainingBeats, *, strategy: Balancing, ratio: float = 0.5, seed: int = 0
) -> TrainingBeats:
    """Give ventricular beats more weight.

    Parameters
    ----------
    beats : TrainingBeats
        Beats of both classes.
    strategy : Balancing
        ``none``; ``random_oversampler`` repeats V beats and ``smote`` interpolates between
        neighbouring ones (Chawla et al. 2002, DOI 10.1613/jair.953) until there are `ratio`
        times as many as others; ``class_weights`` multiplies the loss of V beats by the square
        root of the imbalance.
    ratio : float
        Wanted number of V beats over others, above 0 and at most 1. A fold that has more already
        is left as it is.
    seed : int
        Seed of the over-sampling.

    Returns
    -------
    TrainingBeats

    Raises
    ------
    ValueError
        If `ratio` is out of range, or a class is missing.

    """
    if not 0 < ratio <= 1:
        msg = f"ratio must be above 0 and at most 1, got ratio={ratio!r}"
        raise ValueError(msg)
    n_v = int(beats.is_v.sum())
    n_other = len(beats.is_v) - n_v
    if min(n_v, n_other) == 0:
        msg = f"both classes must be there, got {n_v} V beats and {n_other} others"
        raise ValueError(msg)
    if strategy is Balancing.CLASS_WEIGHTS:
        weights = np.where(beats.is_v, np.sqrt(n_other / n_v), 1.0) * beats.weights
        return beats._replace(weights=(weights / weights.mean()).astype(np.float32))
    if strategy is Balancing.NONE or n_v >= ratio * n_other:
        return beats
    return _oversample(beats, strategy, ratio, seed)


def _oversample(
    beats: TrainingBeats, strategy: Balancing, ratio: float, seed: int
) -> TrainingBeats:
    # imbalanced-learn brings scikit-learn, which takes a second to import.
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    n_beats = len(beats.is_v)
    if strategy is Balancing.RANDOM_OVERSAMPLER:
        sampler = RandomOverSampler(sampling_strategy=ratio, random_state=seed)
        rows, is_v = sampler.fit_resample(np.arange(n_beats)[:, None], beats.is_v)
        chosen = rows[:, 0]
        return TrainingBeats(
            beats.windows[chosen],
            beats.features[chosen],
            is_v,
            beats.is_beat[chosen],
            beats.weights[chosen],
        )
    neighbours = min(5, int(beats.is_v.sum()) - 1)
    if neighbours < 1:
        msg = "SMOTE needs at least 2 V beats, got 1"
        raise ValueError(msg)
    flat = np.concatenate([beats.windows.reshape(n_beats, -1), beats.features], axis=1)
    sampler = SMOTE(sampling_strategy=ratio, k_neighbors=neighbours, random_state=seed)
    flat, is_v = sampler.fit_resample(flat, beats.is_v)
    split = beats.windows[0].size
    return TrainingBeats(
        windows=flat[:, :split].reshape(-1, *beats.windows.shape[1:]).astype(np.float32),
        features=flat[:, split:].astype(np.float32),
        is_v=np.asarray(is_v, dtype=np.bool_),
        # Synthetic beats lie between V beats.
        is_beat=np.append(beats.is_beat, np.ones(len(flat) - n_beats, dtype=np.bool_)),
        # Synthetic beats come after those that they were made of.
        weights=np.concatenate(
            [beats.weights, np.ones(len(flat) - n_beats, dtype=np.float32)], dtype=np.float32
        ),
    )
