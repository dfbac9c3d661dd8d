"""Design of band-passes and of polyphase resampling, without scipy.signal."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ

MAX_DENOMINATOR = 1000

MAX_ORDER = 8
"""Sections that the kernel has room for."""


@lru_cache(maxsize=16)
def design_resampling(up: int, down: int) -> NDArray[np.float64]:
    """Weights of the samples around for each phase of ``up`` over ``down`` times the rate.

    Returns
    -------
    ndarray of shape (up, 2 * reach + 1)
        Not those of inserted zeros, nor for what is dropped.

    """
    half = 10 * max(up, down)
    reach = half // up + 1
    low_pass = np.pad(_low_pass(half, 1 / max(up, down)) * up, (reach + 1) * up)
    middle = half + (reach + 1) * up
    offsets = np.arange(up) * down % up
    at = middle + offsets[:, None] + np.arange(reach, -reach - 1, -1) * up
    return np.ascontiguousarray(low_pass[at])


def _low_pass(half: int, cutoff: float) -> NDArray[np.float64]:
    """Window design (Kaiser, beta 5) of ``2 half + 1`` taps; `cutoff` 1 is half the rate."""
    taps = np.sinc(cutoff * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, 5.0)
    return np.asarray(taps / taps.sum())


class BandPassDesign(NamedTuple):
    """A Butterworth band-pass in second-order sections, with numerators ``gain (1, 0, -1)``."""

    coefficients: NDArray[np.float64]
    """Gain, a1 and a2 of each section, shape ``(order, 3)``."""

    steady: NDArray[np.float64]
    """Both states of each section under a signal that has always been 1, shape ``(order, 2)``."""


@lru_cache(maxsize=32)
def design_band_pass(low_hz: float, high_hz: float, order: int) -> BandPassDesign:
    """Design a Butterworth band-pass for 360 Hz.

    Raises
    ------
    ValueError
        If the order is not 1 to 8.

    """
    if not 1 <= order <= MAX_ORDER:
        msg = f"order must be 1 to {MAX_ORDER}, got {order}"
        raise ValueError(msg)
    sections = _butterworth(low_hz, high_hz, order)
    n_states = 2 * len(sections)
    steps = [_step_cascade(sections, unit, 0.0) for unit in np.eye(n_states)]
    step = np.stack([state for state, _ in steps], axis=1)  # (n_states, n_states)
    into, _ = _step_cascade(sections, np.zeros(n_states), 1.0)
    steady = np.asarray(np.linalg.solve(np.eye(n_states) - step, into), dtype=np.float64)
    return BandPassDesign(sections[:, [0, 4, 5]], steady.reshape(-1, 2))


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
