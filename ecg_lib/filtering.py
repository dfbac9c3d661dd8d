"""Bring a signal to the one sampling rate and pass band that everything else works in.

Every later step sees 360 Hz, the rate of the MIT-BIH Arrhythmia Database, and 0.5 to 40 Hz:
below lies baseline wander, above mostly muscle noise and mains hum.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import signal as sp

from ecg_lib.errors import InvalidSamplingRateError, NonFiniteSignalError

FS_HZ = 360.0
"""Sampling rate, in Hz, of every signal after :func:`resample`."""

MIN_FS_HZ = 100.0
"""Lowest accepted sampling rate: the pass band ends at 40 Hz, and the QRS needs some room."""

MAX_FS_HZ = 1000.0
"""Highest accepted sampling rate."""

_MAX_DENOMINATOR = 1000


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


def check_sampling_rate(fs: float) -> None:
    """Refuse a sampling rate that the analysis was not made for.

    Raises
    ------
    InvalidSamplingRateError
        If `fs` (Hz) is not between 100 and 1000.

    """
    if not MIN_FS_HZ <= fs <= MAX_FS_HZ:
        msg = f"fs must be between {MIN_FS_HZ:g} and {MAX_FS_HZ:g} Hz, got fs={fs!r}"
        raise InvalidSamplingRateError(msg)


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
    ratio = Fraction(FS_HZ / fs).limit_denominator(_MAX_DENOMINATOR)
    resampled = sp.resample_poly(samples, ratio.numerator, ratio.denominator, padtype="edge")
    return Resampled(resampled, float(ratio))


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
    sections = _butterworth(low_hz, high_hz, order)
    # Three time constants of the low corner: longer than scipy's default, which leaves a
    # transient of baseline wander in the first second of a strip.
    pad = min(len(signal) - 1, int(3 * FS_HZ / (2 * np.pi * low_hz)) + 3 * (2 * order + 1))
    return np.asarray(sp.sosfiltfilt(sections, signal, padlen=pad))


@lru_cache(maxsize=32)
def _butterworth(low_hz: float, high_hz: float, order: int) -> NDArray[np.float64]:
    return np.asarray(sp.butter(order, [low_hz, high_hz], "bandpass", fs=FS_HZ, output="sos"))


def robust_scale(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the median and divide by 1.4826 times the median absolute deviation.

    Mean and deviation would follow artefacts and tall ectopic beats; median and MAD do not. A
    signal whose MAD is zero is only centred.
    """
    centred = signal - np.median(signal)
    deviation = 1.4826 * float(np.median(np.abs(centred)))
    return centred / deviation if deviation > 0 else centred
