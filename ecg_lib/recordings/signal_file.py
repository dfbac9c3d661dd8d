"""The analysed lead of a recording on disk, so that any stretch of it can be shown at once.

The samples lie in ``signal.f32``, the least and greatest of every 16, 256 and 4096 of them in
``envelope-16.f32`` and so on, all as float32 little-endian in mV. A stretch of a day is read in
milliseconds, because no more is read than 16 times what is shown.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIGNAL: Final = "signal.f32"
STEPS: Final = (16, 256, 4096)

DTYPE: Final = np.dtype("<f4")
_RATIO: Final = 16
_BINS_AT_ONCE: Final = 65_536


class SampleKind(StrEnum):
    """The kinds of values in a stretch."""

    SAMPLES = "samples"
    ENVELOPE = "envelope"
    """Least and greatest value of each bin, in turn."""


class SignalStretch(NamedTuple):
    """A stretch of a lead as it is shown."""

    kind: SampleKind
    start_s: float
    step_s: float
    """Seconds from one sample, or one pair, to the next."""
    values_mv: NDArray[np.float32]

    @property
    def points(self) -> int:
        """Number of samples or pairs."""
        return len(self.values_mv) // (2 if self.kind is SampleKind.ENVELOPE else 1)


def write_signal(blocks: Iterable[NDArray[np.float32]], directory: Path) -> int:
    """Write a lead and its envelopes; tell the number of samples."""
    n_samples = 0
    with (directory / SIGNAL).open("wb") as file:
        for block in blocks:
            file.write(block.astype(DTYPE, copy=False).tobytes())
            n_samples += len(block)
    if n_samples == 0:
        return 0
    low = high = read_signal(directory)
    for step in STEPS:
        path = directory / f"envelope-{step}.f32"
        with path.open("wb") as file:
            for start in range(0, len(low), _RATIO * _BINS_AT_ONCE):
                part = slice(start, start + _RATIO * _BINS_AT_ONCE)
                pairs = np.stack([_halve(low[part], np.fmin), _halve(high[part], np.fmax)], axis=1)
                file.write(pairs.astype(DTYPE, copy=False).tobytes())
        low, high = _read_pairs(path).T
    return n_samples


def _halve(values: NDArray[np.float32], ufunc: np.ufunc) -> NDArray[np.float32]:
    """Least or greatest of every 16 values; the last ones may be fewer.

    fmin and fmax: an invalid sample is NaN, and leaves the others as they are.
    """
    padded = np.pad(values, (0, -len(values) % _RATIO), constant_values=np.nan)
    for _ in range(4):
        padded = ufunc(padded[::2], padded[1::2])
    return padded


def read_signal(directory: Path) -> NDArray[np.float32]:
    """Map the samples of a lead, shape ``(n_samples,)``."""
    return np.memmap(directory / SIGNAL, dtype=DTYPE, mode="r")


def release_memory(signal_mv: NDArray[np.float32]) -> None:
    """Release the memory of samples read from a mapped file; they are read again when needed.

    Otherwise a pass over a signal leaves all of it in memory.
    """
    mapped: object = signal_mv.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


def _read_pairs(path: Path) -> NDArray[np.float32]:
    return np.memmap(path, dtype=DTYPE, mode="r").reshape(-1, 2)


def read_stretch(
    directory: Path, *, fs: float, start_s: float, duration_s: float, max_points: int
) -> SignalStretch:
    """Read a stretch as samples, or as an envelope when it has more than `max_points` of them.

    A stretch that reaches beyond the recording is cut. The bins of an envelope begin at whole
    multiples of their step, so those of neighbouring stretches fit together; the first one may
    begin before `start_s`.
    """
    n_samples = (directory / SIGNAL).stat().st_size // DTYPE.itemsize
    first = min(max(0, int(np.floor(start_s * fs))), n_samples)
    last = min(max(first, int(np.ceil((start_s + duration_s) * fs))), n_samples)
    if last - first <= max_points:
        samples = np.array(read_signal(directory)[first:last])
        return SignalStretch(SampleKind.SAMPLES, first / fs, 1 / fs, samples)
    # One bin less than asked for: the first and the last may reach beyond the stretch.
    wanted = -(-(last - first) // max(1, max_points - 1))
    level = max((step for step in STEPS if step <= wanted), default=1)
    step = level * -(-wanted // level)
    first = first // step * step
    count = min(-(-(last - first) // step), max_points)
    pairs: NDArray[np.float32]
    if level == 1:
        part = read_signal(directory)[first : first + count * step]
        pairs = np.stack([part, part], axis=1)
    else:
        pairs = _read_pairs(directory / f"envelope-{level}.f32")[
            first // level : (first + count * step) // level
        ]
    edges = np.arange(0, len(pairs), step // level)
    low, high = np.fmin.reduceat(pairs[:, 0], edges), np.fmax.reduceat(pairs[:, 1], edges)
    envelope = np.stack([low, high], axis=1).ravel()
    return SignalStretch(SampleKind.ENVELOPE, first / fs, step / fs, envelope)
