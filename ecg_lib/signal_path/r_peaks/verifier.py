"""Judge by its surroundings whether a candidate of the R-peak detector is a beat.

Rules over height, slope and gap cannot tell a small ventricular beat from a T wave or a burst of
muscle noise: each of them is sometimes the taller one. A person looks at the whole picture, and so
does the small network here: the shape of the slope energy around the candidate, how sharply the
signal bends there, the noise of its neighbourhood, its place in the rhythm, its size beside that of
the beats and of the other waves near it, and how alike it is to both. All of that is relative or a
magnitude, so that gain and polarity play no part.

It looks twice. In the first look the beats around a candidate are those that the rules accept,
among them T waves that are taller than the QRS complex. In the second they are those that the first
look took for beats, and the verdicts on the neighbours count as well.

The networks are perceptrons of two hidden layers in plain NumPy. Their weights are next to this
file; :mod:`flows.training.fit_verifier` made them, and says from what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import BundleIntegrityError
from ecg_lib.signal_path.r_peaks.candidate_features import (
    CANDIDATE_FEATURES,
    VERDICT_FEATURES,
    Candidates,
    Envelopes,
    look_again,
    measure_candidates,
)

WEIGHTS = Path(__file__).with_suffix(".npz")
"""The committed weights."""


LOOKS: Final = ("first", "second")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Perceptron:
    """The weights of one network.

    Parameters
    ----------
    mean, scale : ndarray of float32, shape (n_features,)
        What is subtracted from the features, and what they are divided by.
    layers : tuple of (ndarray, ndarray)
        Weights ``(n_in, n_out)`` and offsets ``(n_out,)`` of each layer.

    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def __post_init__(self) -> None:
        widths = [len(self.mean), *(weights.shape[1] for weights, _ in self.layers)]
        shapes = [weights.shape for weights, _ in self.layers]
        if shapes != list(pairwise(widths)) or widths[-1] != 1:
            msg = f"layers must follow each other from the features to one logit, got {shapes}"
            raise ValueError(msg)

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logit of "is a beat" of each candidate, shape ``(n,)``.

        Parameters
        ----------
        features : ndarray of float32, shape (n, n_features)

        """
        values = (features - self.mean) / self.scale
        for weights, offsets in self.layers[:-1]:
            values = np.maximum(values @ weights + offsets, 0.0)
        weights, offsets = self.layers[-1]
        return np.asarray((values @ weights + offsets)[:, 0], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeatVerifier:
    """The networks of both looks.

    Parameters
    ----------
    first : Perceptron
        Of :data:`~ecg_lib.signal_path.r_peaks.candidate_features.CANDIDATE_FEATURES`.
    second : Perceptron
        Of these and :data:`~ecg_lib.signal_path.r_peaks.candidate_features.VERDICT_FEATURES`.

    """

    first: Perceptron
    second: Perceptron

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Self:
        """Read weights that :meth:`save` wrote.

        Raises
        ------
        BundleIntegrityError
            If they are not of the features that are measured here.

        """
        n_features = len(CANDIDATE_FEATURES)
        widths = (n_features, n_features + len(VERDICT_FEATURES))
        with np.load(path, allow_pickle=False) as arrays:
            found = [
                len(arrays[name])
                for name in (f"{look}_mean" for look in LOOKS)
                if name in arrays.files
            ]
            if tuple(found) != widths:
                msg = (
                    f"{path.name} must have networks of {widths[0]} and {widths[1]} features, got "
                    f"{found}; fit it again"
                )
                raise BundleIntegrityError(msg)
            return cls(**{look: _read(arrays, look) for look in LOOKS})

    def save(self, path: Path = WEIGHTS) -> None:
        """Write the weights as NPZ."""
        arrays: dict[str, NDArray[np.float32]] = {}
        for look in LOOKS:
            network: Perceptron = getattr(self, look)
            arrays |= {f"{look}_mean": network.mean, f"{look}_scale": network.scale}
            for index, (weights, offsets) in enumerate(network.layers):
                arrays |= {f"{look}_weights_{index}": weights, f"{look}_offsets_{index}": offsets}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    def judge(
        self, candidates: Candidates, envelopes: Envelopes, by_rules: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Compute the logit of "is a beat" of each candidate, shape ``(n,)``.

        Parameters
        ----------
        candidates : Candidates
            At least one.
        envelopes : Envelopes
            Of the same signal.
        by_rules : ndarray of bool, shape (n,)
            What the rules take for beats.

        """
        first = measure_candidates(candidates, envelopes, by_rules)
        verdicts = self.first.logits(first.features)
        return self.second.logits(look_again(candidates, first, by_rules, verdicts))


def _read(arrays: Mapping[str, NDArray[np.float32]], look: str) -> Perceptron:
    n_layers = sum(name.startswith(f"{look}_weights_") for name in arrays)
    return Perceptron(
        mean=arrays[f"{look}_mean"],
        scale=arrays[f"{look}_scale"],
        layers=tuple(
            (arrays[f"{look}_weights_{index}"], arrays[f"{look}_offsets_{index}"])
            for index in range(n_layers)
        ),
    )


@lru_cache(maxsize=1)
def load_verifier() -> BeatVerifier:
    """Return the committed networks; read once.

    Raises
    ------
    BundleIntegrityError
        If they are not of the features that are measured here.

    """
    return BeatVerifier.load()
