"""Judge by its surroundings whether a candidate of the R-peak detector is a beat.

Rules over height, slope and gap cannot tell a small ventricular beat from a T wave or a burst of
muscle noise: each of them is sometimes the taller one. A person looks at the whole picture, and so
does the small network here: the shape of the slope energy around the candidate, the noise of its
neighbourhood, its place in the rhythm, its size beside that of the beats and of the other waves
near it, and how alike it is to both. All of that is relative or a magnitude, so that gain and
polarity play no part.

The network is a perceptron of two hidden layers in plain NumPy. Its weights are next to this file;
:mod:`flows.training.fit_verifier` made them, and says from what.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import BundleIntegrityError
from ecg_lib.signal_path.r_peaks.candidate_features import CANDIDATE_FEATURES

WEIGHTS = Path(__file__).with_suffix(".npz")
"""The committed weights."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeatVerifier:
    """The weights of the network.

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

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Self:
        """Read weights that :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            n_layers = (len(arrays.files) - 2) // 2
            return cls(
                mean=arrays["mean"],
                scale=arrays["scale"],
                layers=tuple(
                    (arrays[f"weights_{index}"], arrays[f"offsets_{index}"])
                    for index in range(n_layers)
                ),
            )

    def save(self, path: Path = WEIGHTS) -> None:
        """Write the weights as NPZ."""
        arrays = {"mean": self.mean, "scale": self.scale}
        for index, (weights, offsets) in enumerate(self.layers):
            arrays |= {f"weights_{index}": weights, f"offsets_{index}": offsets}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logit of "is a beat" of each candidate, shape ``(n,)``.

        Parameters
        ----------
        features : ndarray of float32, shape (n, n_features)
            What :func:`measure_candidates` gave.

        """
        values = (features - self.mean) / self.scale
        for weights, offsets in self.layers[:-1]:
            values = np.maximum(values @ weights + offsets, 0.0)
        weights, offsets = self.layers[-1]
        return np.asarray((values @ weights + offsets)[:, 0], dtype=np.float32)


@lru_cache(maxsize=1)
def load_verifier() -> BeatVerifier:
    """Return the committed network; read once.

    Raises
    ------
    BundleIntegrityError
        If it is not one of the features that are measured here.

    """
    verifier = BeatVerifier.load()
    if len(verifier.mean) != len(CANDIDATE_FEATURES):
        msg = (
            f"the verifier must have {len(CANDIDATE_FEATURES)} features, got {len(verifier.mean)}; "
            "fit it again"
        )
        raise BundleIntegrityError(msg)
    return verifier
