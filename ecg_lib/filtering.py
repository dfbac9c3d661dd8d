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
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ecg_lib.errors import InvalidSamplingRateError, NonFiniteSignalError

FS_HZ = 360.0
"""Sampling rate, in Hz, of every signal after :func:`resample`."""

MIN_FS_HZ = 100.0
"""Lowest accepted sampling rate: the pass band ends at 40 Hz, and the QRS needs some room."""

MAX_FS_HZ = 1000.0
"""Highest accepted sampling rate."""

_Real = TypeVar("_Real", np.float32, np.float64)

_MAX_DENOMINATOR = 1000

_BLOCK = 32
"""Samples that the recursive filter takes in one step; with 24 to 48 it is equally fast."""

_CHUNK = 1024
"""Blocks that are filtered together, so that all of them stay in the cache."""


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
    return Resampled(
        _resample_polyphase(samples, up=ratio.numerator, down=ratio.denominator), float(ratio)
    )


def _resample_polyphase(samples: NDArray[np.float64], *, up: int, down: int) -> NDArray[np.float64]:
    """Insert zeros, low-pass and decimate, without computing what is dropped."""
    half = 10 * max(up, down)
    reach = half // up + 1
    low_pass = np.pad(_low_pass(half, 1 / max(up, down)) * up, (reach + 1) * up)
    middle = half + (reach + 1) * up
    windows = sliding_window_view(pad_ends(samples, reach), 2 * reach + 1)
    resampled = np.empty(-(-len(samples) * up // down))
    for phase in range(min(up, len(resampled))):
        first, offset = divmod(phase * down, up)
        weights = low_pass[middle + offset + np.arange(reach, -reach - 1, -1) * up]
        part = resampled[phase::up]
        part[:] = windows[first::down][: len(part)] @ weights
    return resampled


def _low_pass(half: int, cutoff: float) -> NDArray[np.float64]:
    """Window design (Kaiser, beta 5) of ``2 half + 1`` taps; `cutoff` 1 is half the rate."""
    taps = np.sinc(cutoff * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, 5.0)
    return np.asarray(taps / taps.sum())


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
    recursion = _make_recursion(low_hz, high_hz, order)
    # Three time constants of the low corner: longer than scipy's default, which leaves a
    # transient of baseline wander in the first second of a strip.
    pad = min(len(samples) - 1, int(3 * FS_HZ / (2 * np.pi * low_hz)) + 3 * (2 * order + 1))
    stop = len(samples) + 2 * pad
    extended = np.zeros(-(-stop // _BLOCK) * _BLOCK)
    extended[:pad] = 2 * samples[0] - samples[pad:0:-1]
    extended[pad : stop - pad] = samples
    extended[stop - pad : stop] = 2 * samples[-1] - samples[-2 : -pad - 2 : -1]
    _run_recursion(extended, recursion)
    extended[:stop] = extended[:stop][::-1].copy()
    extended[stop:] = 0.0
    _run_recursion(extended, recursion)
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


def pad_ends(samples: NDArray[_Real], count: int) -> NDArray[_Real]:
    """Extend samples at both ends by `count` of their end values: ``np.pad``, in less time."""
    first, last = samples[:1].repeat(count), samples[-1:].repeat(count)
    return np.concatenate([first, samples, last])


class _Recursion(NamedTuple):
    """A recursive filter in state-space form, for blocks of samples.

    With the state ``s`` before a block and its samples ``x``, the output is ``O s + T x`` and the
    next state ``P s + R x``: products of matrices, where the recursion itself would need a loop
    over all samples.
    """

    of_samples: NDArray[np.float64]
    """``[T; R]`` transposed, shape ``(block, block + n_states)``."""

    of_state: NDArray[np.float64]
    """``O`` transposed, shape ``(n_states, block)``."""

    powers: tuple[NDArray[np.float64], ...]
    """``P`` to the powers 1, 2, 4, ..., transposed: the way of a state over so many blocks."""

    steady: NDArray[np.float64]
    """State of a signal that has been 1 for ever, shape ``(n_states,)``."""


def _run_recursion(extended: NDArray[np.float64], recursion: _Recursion) -> None:
    """Filter whole blocks forwards (in place), as if the first sample had been there for ever."""
    state = recursion.steady * extended[0]
    blocks = extended.reshape(-1, _BLOCK)
    for start in range(0, len(blocks), _CHUNK):
        part = blocks[start : start + _CHUNK]
        done = part @ recursion.of_samples
        states = np.concatenate([state[None], done[:, _BLOCK:]])
        for exponent, power in enumerate(recursion.powers):
            step = 2**exponent
            if step > len(part):
                break
            states[step:] += states[:-step] @ power
        np.add(done[:, :_BLOCK], states[:-1] @ recursion.of_state, out=part)
        state = states[-1]


@lru_cache(maxsize=32)
def _make_recursion(low_hz: float, high_hz: float, order: int) -> _Recursion:
    sections = _butterworth(low_hz, high_hz, order)
    n_states = 2 * len(sections)
    steps = [_step_cascade(sections, unit, 0.0) for unit in np.eye(n_states)]
    step = np.stack([state for state, _ in steps], axis=1)  # (n_states, n_states)
    out = np.array([sample for _, sample in steps])
    into, direct = _step_cascade(sections, np.zeros(n_states), 1.0)
    powers = [np.eye(n_states)]
    for _ in range(_BLOCK):
        powers.append(step @ powers[-1])
    response = np.array([direct, *(out @ power @ into for power in powers[: _BLOCK - 1])])
    lag = np.arange(_BLOCK)[None, :] - np.arange(_BLOCK)[:, None]
    of_block = [powers[_BLOCK]]
    while 2 ** len(of_block) <= _CHUNK:
        of_block.append(of_block[-1] @ of_block[-1])
    return _Recursion(
        of_samples=np.concatenate(
            [
                np.where(lag >= 0, response[lag], 0.0),
                np.stack([power @ into for power in powers[_BLOCK - 1 :: -1]]),
            ],
            axis=1,
        ),
        of_state=np.stack([out @ power for power in powers[:_BLOCK]], axis=1),
        powers=tuple(np.ascontiguousarray(power.T) for power in of_block),
        steady=np.asarray(np.linalg.solve(np.eye(n_states) - step, into)),
    )


def _step_cascade(
    sections: NDArray[np.float64], state: NDArray[np.float64], sample: float
) -> tuple[NDArray[np.float64], float]:
    """One sample through second-order sections (transposed direct form II)."""
    following = state.copy()
    for section, (b0, b1, b2, _, a1, a2) in enumerate(sections.tolist()):
        first, second = state[2 * section], state[2 * section + 1]
        filtered = b0 * sample + first
        following[2 * section] = b1 * sample - a1 * filtered + second
        following[2 * section + 1] = b2 * sample - a2 * filtered
        sample = filtered
    return following, float(sample)


def _butterworth(low_hz: float, high_hz: float, order: int) -> NDArray[np.float64]:
    """Design a Butterworth band-pass: second-order sections, shape ``(order, 6)``.

    The poles of the analogue low-pass of corner 1 are moved to the band and then, by the bilinear
    transform with both corners prewarped, into the unit circle. Each section has one zero at
    0 Hz and one at half the sampling rate.
    """
    low, high = np.tan(np.pi * np.array([low_hz, high_hz]) / FS_HZ)
    prototype = np.exp(1j * np.pi * (2 * np.arange(order) + order + 1) / (2 * order))
    middle = prototype * (high - low) / 2
    root = np.sqrt(middle**2 - low * high)
    analogue = np.stack([middle + root, middle - root])  # (2, order)
    gain = np.prod((high - low) / np.abs(np.prod(1 - analogue, axis=0)))
    poles = (1 + analogue) / (1 - analogue)
    sections = []
    for index in range(order):
        if abs(prototype[index].imag) < 1e-9:
            sections.append(poles[:, index])
        elif prototype[index].imag > 0:
            sections += [np.array([pole, pole.conj()]) for pole in poles[:, index]]
    numerators = np.tile([1.0, 0.0, -1.0], (order, 1))
    numerators[0] *= gain
    return np.concatenate([numerators, [np.poly(pair).real for pair in sections]], axis=1)


def robust_scale(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the median and divide by 1.4826 times the median absolute deviation.

    Mean and deviation would follow artefacts and tall ectopic beats; median and MAD do not. A
    signal whose MAD is zero is only centred.
    """
    centred = signal - np.median(signal)
    deviation = 1.4826 * float(np.median(np.abs(centred)))
    return centred / deviation if deviation > 0 else centred


def unit_rows(rows: NDArray[_Real], *, least: float = 1e-9) -> NDArray[_Real]:
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
