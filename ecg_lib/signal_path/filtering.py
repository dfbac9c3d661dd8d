"""Bring a signal to the one sampling rate and pass band that everything else works in.

Every later step sees 360 Hz, the rate of the MIT-BIH Arrhythmia Database, and 0.5 to 40 Hz:
below lies baseline wander, above mostly muscle noise and mains hum.

The filters give what ``scipy.signal`` gives (``butter``, ``sosfiltfilt``, ``resample_poly``; the
tests compare). They are designed here and run in C, four bands of a signal side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import NonFiniteSignalError
from ecg_lib.records.limits import FS_HZ, check_sampling_rate
from ecg_lib.signal_path.filter_design import (
    MAX_DENOMINATOR,
    design_band_pass,
    design_resampling,
)
from ecg_lib.signal_path.kernels.library import run_kernel

Real = TypeVar("Real", np.float32, np.float64)

Band = tuple[float, float, int]
"""Corners in Hz, and the order of one pass."""

_FEW: Final = 64
"""Values that Python sorts before NumPy has begun."""

_LANES: Final = 4
"""Bands that the kernel filters side by side."""


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
    up, down = _find_ratio(fs)
    weights = design_resampling(up, down)
    resampled = np.empty(-(-len(samples) * up // down))
    width, n_resampled = weights.shape[1], len(resampled)
    run_kernel("resample", samples, len(samples), weights, width, up, down, resampled, n_resampled)
    return Resampled(resampled, up / down)


@lru_cache(maxsize=64)
def _find_ratio(fs: float) -> tuple[int, int]:
    """Find the whole numbers by which a rate is multiplied and divided to get 360 Hz."""
    ratio = Fraction(FS_HZ / fs).limit_denominator(MAX_DENOMINATOR)
    return ratio.numerator, ratio.denominator


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
    samples = np.ascontiguousarray(signal, dtype=np.float64)
    (filtered,) = _filter_bands(samples, ((low_hz, high_hz, order),))
    return np.asarray(filtered)


def _filter_bands(samples: NDArray[np.float64], bands: tuple[Band, ...]) -> NDArray[np.float64]:
    """Filter up to four bands of one order; shape ``(n_bands, n_samples)``."""
    lanes = _lay_side_by_side(bands)
    pads = np.minimum(len(samples) - 1, lanes.pads)
    filtered = np.empty((len(bands), len(samples)))
    run_kernel(
        "band_pass",
        samples,
        len(samples),
        len(bands),
        lanes.order,
        lanes.coefficients,
        lanes.steady,
        pads,
        filtered,
    )
    return filtered


class _Lanes(NamedTuple):
    order: int
    coefficients: NDArray[np.float64]
    """Shape ``(order, 3, 4)``, of zeros for a lane that is not used."""
    steady: NDArray[np.float64]
    """Shape ``(order, 2, 4)``."""
    pads: NDArray[np.int64]
    """Samples by which each band continues a long signal."""


@lru_cache(maxsize=16)
def _lay_side_by_side(bands: tuple[Band, ...]) -> _Lanes:
    (order,) = {order for _, _, order in bands}
    coefficients, steady = np.zeros((order, 3, _LANES)), np.zeros((order, 2, _LANES))
    for lane, band in enumerate(bands):
        design = design_band_pass(*band)
        coefficients[:, :, lane], steady[:, :, lane] = design
    # Three time constants of the low corner: longer than scipy's default, which leaves a
    # transient of baseline wander in the first second of a strip.
    pads = [int(3 * FS_HZ / (2 * np.pi * low)) + 3 * (2 * order + 1) for low, _, _ in bands]
    return _Lanes(order, coefficients, steady, np.array(pads, dtype=np.int64))


class Slope(NamedTuple):
    """How steep a band of a signal is; both to be read only."""

    slope: NDArray[np.float64]
    """Absolute slope in mV a sample, shape ``(n_samples,)``."""

    average: NDArray[np.float64]
    """Its average over a window, never negative."""


class Bands:
    """The pass bands of one signal at 360 Hz: each is filtered once, whoever asks for it.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        Samples at 360 Hz.
    expected : tuple of Band
        Bands that will be asked for: they are filtered together, which takes as long as one.

    """

    def __init__(self, signal: NDArray[np.floating], *, expected: tuple[Band, ...] = ()) -> None:
        self.signal = np.ascontiguousarray(signal, dtype=np.float64)
        self._expected = expected
        self._filtered: dict[Band, NDArray[np.float64]] = {}
        self._slopes: dict[tuple[Band, int], Slope] = {}

    def band(self, low_hz: float, high_hz: float, *, order: int = 2) -> NDArray[np.float64]:
        """Give what :func:`band_pass` gives of the signal, to be read only."""
        key = (low_hz, high_hz, order)
        if key not in self._filtered:
            others = (
                band
                for band in self._expected
                if band != key and band[2] == order and band not in self._filtered
            )
            together = tuple(dict.fromkeys((key, *others)))[:_LANES]
            filtered = _filter_bands(self.signal, together)
            filtered.flags.writeable = False
            self._filtered.update(zip(together, filtered, strict=True))
        return self._filtered[key]

    def slope(self, low_hz: float, high_hz: float, *, window: int) -> Slope:
        """Give the slope of a band and its average over `window` samples, to be read only."""
        key = ((low_hz, high_hz, 2), window)
        if key not in self._slopes:
            self._slopes[key] = measure_slope(self.band(low_hz, high_hz), window=window)
        return self._slopes[key]


def measure_slope(band: NDArray[np.float64], *, window: int) -> Slope:
    """Measure the absolute slope of a signal, and average it over `window` samples.

    Raises
    ------
    ValueError
        If the signal has fewer than two samples.

    """
    if len(band) < 2:
        msg = f"a slope needs at least 2 samples, got {len(band)}"
        raise ValueError(msg)
    slope, average = np.empty_like(band), np.empty_like(band)
    run_kernel("average_slope", band, len(band), window, slope, average)
    slope.flags.writeable = average.flags.writeable = False
    return Slope(slope, average)


def robust_scale(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the median and divide by 1.4826 times the median absolute deviation.

    Mean and deviation would follow artefacts and tall ectopic beats; median and MAD do not. A
    signal whose MAD is zero is only centred.

    Raises
    ------
    ValueError
        If there is no sample.

    """
    if len(signal) == 0:
        msg = "a median needs at least one sample, got none"
        raise ValueError(msg)
    scaled = np.empty_like(signal)
    run_kernel("robust_scale", signal, len(signal), scaled)
    return scaled


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


def pad_ends(samples: NDArray[Real], count: int) -> NDArray[Real]:
    """Extend samples at both ends by `count` of their end values: ``np.pad``, in less time."""
    first, last = samples[:1].repeat(count), samples[-1:].repeat(count)
    return np.concatenate([first, samples, last])


def filter_rank(
    values: NDArray[np.float64], *, size: int, rank: int | None = None
) -> NDArray[np.float64]:
    """Take the value of a rank, that of the median, of as many values around each.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Without NaN; the ends go on with their values.
    size : int
        Of an even number, one value more is before than after.
    rank : int, optional
        From 0, the least; half of `size` when left out: of an even number the higher one of two.

    Raises
    ------
    ValueError
        If the window is empty or does not have that rank.

    """
    filtered = np.empty_like(values)
    rank = size // 2 if rank is None else rank
    if not 0 <= rank < size:
        msg = f"rank must be 0 to {size - 1}, got {rank} of {size} values"
        raise ValueError(msg)
    run_kernel("filter_rank", values, len(values), size, rank, filtered)
    return filtered


def median(values: NDArray[np.floating]) -> float:
    """Take the median of at least one value: ``np.median``, in a tenth of the time of few."""
    few = values.tolist() if len(values) <= _FEW else []
    if few and not math.isnan(sum(few)):
        few.sort()
        middle = len(few) // 2
        return float(few[middle] if len(few) % 2 else (few[middle - 1] + few[middle]) / 2)
    ordered = values.copy()
    ordered.sort()
    last, middle = float(ordered[-1]), len(ordered) // 2
    if math.isnan(last):
        return last
    upper = float(ordered[middle])
    return upper if len(ordered) % 2 else (float(ordered[middle - 1]) + upper) / 2


def quantile(values: NDArray[np.floating], share: float) -> float:
    """Take a quantile of at least one value: ``np.quantile``, in a tenth of the time of few."""
    ordered = values.copy()
    ordered.sort()
    place = share * (len(ordered) - 1)
    below = int(place)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return low + (place - below) * (high - low)
