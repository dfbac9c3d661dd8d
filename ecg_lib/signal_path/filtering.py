"""Bring a signal to the one sampling rate and pass band that everything else works in.

Every later step sees 360 Hz, the rate of the MIT-BIH Arrhythmia Database, and 0.5 to 40 Hz:
below lies baseline wander, above mostly muscle noise and mains hum.

The filters give what ``scipy.signal`` gives (``butter``, ``sosfiltfilt``, ``resample_poly``; the
tests compare), and are written out here for what that costs a service: importing it takes as long
as everything else that serves together, and a strip of 10 s a third of the time here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import NonFiniteSignalError
from ecg_lib.records.limits import FS_HZ, check_sampling_rate
from ecg_lib.signal_path.block_filter import (
    BLOCK,
    MAX_DENOMINATOR,
    Real,
    make_recursion,
    resample_polyphase,
    run_recursion,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandPassConfig:
    """The pass band of the analysis.

    The corners are those of ambulatory monitoring (0.5 to 40 Hz; Kligfield et al. 2007,
    DOI 10.1016/j.jacc.2007.01.024, discusses what they cost: ST segments and late potentials,
    which this product does not judge).
    """

    low_hz: float = 0.5
    high_hz: float = 40.0
    order: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.low_hz < self.high_hz < FS_HZ / 2:
            msg = f"0 < low_hz < high_hz < {FS_HZ / 2} must hold, got {self.low_hz}, {self.high_hz}"
            raise ValueError(msg)


class Resampled(NamedTuple):
    """A signal at 360 Hz and the way back to its own time base."""

    signal: NDArray[np.float64]
    """Samples at 360 Hz, shape ``(n_samples,)``."""

    ratio: float
    """Samples at 360 Hz for one sample of the input."""

    def to_source(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map sample positions at 360 Hz to the nearest samples of the input."""
        mapped: NDArray[np.int64] = np.rint(positions / self.ratio).astype(np.int64)
        return mapped

    def from_source(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map sample positions of the input to the nearest samples at 360 Hz."""
        mapped: NDArray[np.int64] = np.rint(positions * self.ratio).astype(np.int64)
        return np.asarray(np.clip(mapped, 0, len(self.signal) - 1))


def resample(signal: NDArray[np.floating], *, fs: float) -> Resampled:
    """Resample a signal to 360 Hz with a polyphase anti-aliasing filter.

    The signal is extended by its end values, so that the filter makes no step at the edges.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        Samples in any unit, without NaN.
    fs : float
        Sampling rate of `signal` in Hz, 100 to 1000.

    Returns
    -------
    Resampled
        The samples at 360 Hz and the exact ratio between both time bases.

    Raises
    ------
    InvalidSamplingRateError
        If `fs` is out of range.
    NonFiniteSignalError
        If a sample is NaN or infinite.

    """
    check_sampling_rate(fs)
    samples = np.ascontiguousarray(signal, dtype=np.float64)
    if not np.isfinite(samples).all():
        count = int((~np.isfinite(samples)).sum())
        msg = f"every sample must be finite, got {count} of {len(samples)} NaN or infinite"
        raise NonFiniteSignalError(msg)
    if fs == FS_HZ:
        return Resampled(samples, 1.0)
    ratio = Fraction(FS_HZ / fs).limit_denominator(MAX_DENOMINATOR)
    return Resampled(
        resample_polyphase(samples, up=ratio.numerator, down=ratio.denominator), float(ratio)
    )


def band_pass(
    signal: NDArray[np.floating], *, low_hz: float, high_hz: float, order: int = 2
) -> NDArray[np.float64]:
    """Filter a 360 Hz signal forwards and backwards with a Butterworth band-pass.

    Zero phase: an R-peak stays where it is. The effective order is twice `order`.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        Samples at 360 Hz.
    low_hz, high_hz : float
        The -6 dB corners (both passes together).
    order : int
        Order of one pass.

    Returns
    -------
    ndarray of shape (n_samples,)

    """
    samples = np.asarray(signal, dtype=np.float64)
    recursion = make_recursion(low_hz, high_hz, order)
    # Three time constants of the low corner: longer than scipy's default, which leaves a
    # transient of baseline wander in the first second of a strip.
    pad = min(len(samples) - 1, int(3 * FS_HZ / (2 * np.pi * low_hz)) + 3 * (2 * order + 1))
    stop = len(samples) + 2 * pad
    extended = np.zeros(-(-stop // BLOCK) * BLOCK)
    extended[:pad] = 2 * samples[0] - samples[pad:0:-1]
    extended[pad : stop - pad] = samples
    extended[stop - pad : stop] = 2 * samples[-1] - samples[-2 : -pad - 2 : -1]
    run_recursion(extended, recursion)
    extended[:stop] = extended[:stop][::-1].copy()
    extended[stop:] = 0.0
    run_recursion(extended, recursion)
    return extended[:stop][::-1][pad : stop - pad].copy()


class Bands:
    """The pass bands of one signal at 360 Hz: each is filtered once, whoever asks for it.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        Samples at 360 Hz.

    """

    def __init__(self, signal: NDArray[np.floating]) -> None:
        self.signal = np.asarray(signal, dtype=np.float64)
        self._filtered: dict[tuple[float, float, int], NDArray[np.float64]] = {}

    def band(self, low_hz: float, high_hz: float, *, order: int = 2) -> NDArray[np.float64]:
        """Give what :func:`band_pass` gives of the signal, to be read only."""
        key = (low_hz, high_hz, order)
        if key not in self._filtered:
            filtered = band_pass(self.signal, low_hz=low_hz, high_hz=high_hz, order=order)
            filtered.flags.writeable = False
            self._filtered[key] = filtered
        return self._filtered[key]


def robust_scale(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the median and divide by 1.4826 times the median absolute deviation.

    Mean and deviation would follow artefacts and tall ectopic beats; median and MAD do not. A
    signal whose MAD is zero is only centred.
    """
    centred = signal - np.median(signal)
    deviation = 1.4826 * float(np.median(np.abs(centred)))
    return centred / deviation if deviation > 0 else centred


def unit_rows(rows: NDArray[Real], *, least: float = 1e-9) -> NDArray[Real]:
    """Centre rows and scale them to length one, so that a product is a correlation.

    Parameters
    ----------
    rows : ndarray of shape (..., n_samples)
    least : float
        A centred row that is shorter than this is divided by it: a flat row stays near zero.

    Returns
    -------
    ndarray of the shape and dtype of `rows`

    """
    # The reductions themselves: `mean` and `norm` take longer to get to them than they do.
    count, floor = rows.dtype.type(rows.shape[-1]), rows.dtype.type(least)
    centred = rows - np.add.reduce(rows, axis=-1, keepdims=True) / count
    norm = np.sqrt(np.add.reduce(centred * centred, axis=-1, keepdims=True))
    return np.asarray(centred / np.maximum(norm, floor), dtype=rows.dtype)
