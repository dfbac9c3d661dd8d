"""Cache of the network's outputs, so that it is run once for each provisional beat.

The template of a beat changes little from one second to the next. Final beats are computed again.
So are provisional beats at the end of the signal, as their next RR interval is not known yet.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.signal_path.preprocessing import PreparedBeats

_SAME_BEAT_S: Final = 0.01
_OPEN_S: Final = 2.0
"""Beats this near to the end of the signal are computed again."""


class RecentLogits:
    """Cached logits of beats, by position."""

    def __init__(self) -> None:
        self._classifier: BeatClassifier | None = None
        self._positions = np.empty(0, dtype=np.int64)
        self._logits = np.empty((0, 2))

    def predict(
        self, classifier: BeatClassifier, prepared: PreparedBeats, *, offset: int
    ) -> NDArray[np.float64]:
        """Return the logits of beats, shape ``(n_beats, 2)``, and cache those that stay.

        Parameters
        ----------
        classifier : BeatClassifier
            A new one clears the cache.
        prepared : PreparedBeats
            The beats of a window.
        offset : int
            Position of the first sample of the window.

        """
        positions = prepared.r_peaks + offset
        logits = np.empty((len(positions), 2))
        known = np.full(len(positions), -1)
        if classifier is self._classifier and len(self._positions):
            after = np.searchsorted(self._positions, positions)
            for nearest in (np.maximum(after - 1, 0), np.minimum(after, len(self._positions) - 1)):
                distance = np.abs(self._positions[nearest] - positions)
                is_same = distance <= _SAME_BEAT_S * prepared.fs
                known[is_same] = nearest[is_same]
        is_new = known < 0
        logits[~is_new] = self._logits[known[~is_new]]
        logits[is_new] = classifier.predict_logits(
            prepared.windows[is_new], prepared.features[is_new]
        )
        stays = prepared.r_peaks < (prepared.duration_s - _OPEN_S) * prepared.fs
        self._classifier = classifier
        self._positions, self._logits = positions[stays], logits[stays]
        return logits
