"""Zero-phase IIR filters and polyphase resampling in blocks, without scipy.signal."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ

Real = TypeVar("Real", np.float32, np.float64)


MAX_DENOMINATOR = 1000


BLOCK = 32
"""Samples that the recursive filter takes in one step; with 24 to 48 it is equally fast."""


_CHUNK = 1024
"""Blocks that are filtered together, so that all of them stay in the cache."""


def resample_polyphase(samples: NDArray[np.float64], *, up: int, down: int) -> NDArray[np.float64]:
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


def pad_ends(samples: NDArray[Real], count: int) -> NDArray[Real]:
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
    """State of a signal that has always been 1, shape ``(n_states,)``."""


def run_recursion(extended: NDArray[np.float64], recursion: _Recursion) -> None:
    """Filter whole blocks forwards (in place), as if the first sample had been there forever."""
    state = recursion.steady * extended[0]
    blocks = extended.reshape(-1, BLOCK)
    for start in range(0, len(blocks), _CHUNK):
        part = blocks[start : start + _CHUNK]
        done = part @ recursion.of_samples
        states = np.concatenate([state[None], done[:, BLOCK:]])
        for exponent, power in enumerate(recursion.powers):
            step = 2**exponent
            if step > len(part):
                break
            states[step:] += states[:-step] @ power
        np.add(done[:, :BLOCK], states[:-1] @ recursion.of_state, out=part)
        state = states[-1]


@lru_cache(maxsize=32)
def make_recursion(low_hz: float, high_hz: float, order: int) -> _Recursion:
    """Make the block recursion of a Butterworth band-pass."""
    sections = _butterworth(low_hz, high_hz, order)
    n_states = 2 * len(sections)
    steps = [_step_cascade(sections, unit, 0.0) for unit in np.eye(n_states)]
    step = np.stack([state for state, _ in steps], axis=1)  # (n_states, n_states)
    out = np.array([sample for _, sample in steps])
    into, direct = _step_cascade(sections, np.zeros(n_states), 1.0)
    powers = [np.eye(n_states)]
    for _ in range(BLOCK):
        powers.append(step @ powers[-1])
    response = np.array([direct, *(out @ power @ into for power in powers[: BLOCK - 1])])
    lag = np.arange(BLOCK)[None, :] - np.arange(BLOCK)[:, None]
    of_block = [powers[BLOCK]]
    while 2 ** len(of_block) <= _CHUNK:
        of_block.append(of_block[-1] @ of_block[-1])
    return _Recursion(
        of_samples=np.concatenate(
            [
                np.where(lag >= 0, response[lag], 0.0),
                np.stack([power @ into for power in powers[BLOCK - 1 :: -1]]),
            ],
            axis=1,
        ),
        of_state=np.stack([out @ power for power in powers[:BLOCK]], axis=1),
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
