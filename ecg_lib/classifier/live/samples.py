"""The latest samples of a live lead."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROOM: Final = 0.25
"""Spare room, as a share of the samples that are held."""

_FIRST_ROOM: Final = 4096


class LiveSamples:
    """Samples in mV by their position, NaN where one is missing.

    Parameters
    ----------
    start : int
        Position of the first sample.

    """

    def __init__(self, start: int = 0) -> None:
        self._held = np.empty(0, dtype=np.float32)
        self._first = 0
        """Index of the first sample in the array."""
        self._n_held = 0
        self.start = start
        """Position of the first sample that is held."""

    @property
    def stop(self) -> int:
        """Position after the last sample."""
        return self.start + self._n_held

    def append(self, samples_mv: NDArray[np.floating]) -> None:
        """Add samples at the end."""
        count = len(samples_mv)
        end = self._first + self._n_held
        if end + count > len(self._held):
            self._move(count)
            end = self._n_held
        self._held[end : end + count] = samples_mv
        self._n_held += count

    def append_missing(self, count: int) -> None:
        """Add missing samples at the end."""
        self.append(np.full(count, np.nan, dtype=np.float32))

    def forget(self, position: int) -> None:
        """Drop the samples before a position."""
        count = min(max(0, position - self.start), self._n_held)
        self._first, self._n_held, self.start = (
            self._first + count,
            self._n_held - count,
            self.start + count,
        )

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the samples from `start` to `stop`, as a view until the next change."""
        offset = self._first - self.start
        return self._held[start + offset : stop + offset]

    def _move(self, count: int) -> None:
        """Make room for more samples."""
        needed = self._n_held + count
        room = needed + max(_FIRST_ROOM, round(_ROOM * needed))
        moved = np.empty(room, dtype=np.float32)
        moved[: self._n_held] = self._held[self._first : self._first + self._n_held]
        self._held, self._first = moved, 0
