"""Find beats near the ends of a signal that are made by mains hum and not by the heart.

The filters continue a signal beyond its end as if turned about its last sample. Hum that ends on a
crest is continued by hum about another level, and that step has the slopes of a QRS complex: a
beat a few milliseconds before the end, or behind the start. Averages over 6 and 7 samples hold a
whole period of 60 Hz and nearly one of 50 Hz. What they leave of such a beat is next to nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import band_pass, median

_REACH: Final = round(0.05 * FS_HZ)
"""A step at the end makes a beat this near to it, in samples."""
_PART: Final = round(3 * FS_HZ)
_NO_HUM: Final = np.convolve(np.full(6, 1 / 6), np.full(7, 1 / 7))
_LEAST_HUM: Final = 0.1
"""Median of the hum's size over the span of a usual QRS complex; without hum there is no step.
In DS1 it is below 0.03 in all but a few strips of record 108."""
_LEAST_SHARE: Final = 0.25
"""Share of its slope that a beat keeps without hum: a hundredth when hum made it, most when not."""


def are_near_ends(position: NDArray[np.int64], *, n_samples: int) -> NDArray[np.bool_]:
    """Return True for beats so near to an end of the signal that hum may have made them."""
    return np.asarray((position < _REACH) | (n_samples - 1 - position < _REACH))


def are_hum(
    signal: NDArray[np.float64],
    position: NDArray[np.int64],
    slope: NDArray[np.float64],
    *,
    band_hz: tuple[float, float],
    usual_span: float,
) -> NDArray[np.bool_]:
    """Return True for beats that are steps which hum makes at the ends of a signal at 360 Hz.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
    position : ndarray of int64, shape (n_beats,)
    slope : ndarray of shape (n_beats,)
        Steepest slope near each beat in the band.
    band_hz : tuple of float
    usual_span : float
        Peak-to-peak amplitude of a usual QRS complex, in units of the signal.

    Returns
    -------
    ndarray of bool, shape (n_beats,)

    """
    is_hum = np.zeros(len(position), dtype=np.bool_)
    last = len(signal) - 1
    for from_end, part in ((position, signal[:_PART][::-1]), (last - position, signal[-_PART:])):
        near = (from_end < _REACH).nonzero()[0]
        if len(near) == 0 or len(part) <= 2 * _REACH:
            continue
        calm = np.convolve(part, _NO_HUM, mode="valid")
        cut = len(_NO_HUM) // 2
        hum = median(np.abs(part[cut : cut + len(calm)] - calm))
        if hum < _LEAST_HUM * usual_span:
            continue
        left = np.abs(np.gradient(band_pass(calm, low_hz=band_hz[0], high_hz=band_hz[1])))
        is_hum[near] = left[-2 * _REACH :].max() < _LEAST_SHARE * slope[near]
    return is_hum
