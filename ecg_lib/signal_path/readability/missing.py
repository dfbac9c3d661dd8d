"""Samples that a file marks as missing: bridged for the filters, and no signal to anybody else.

A gap of up to 0.04 s, half a QRS complex, is bridged by a straight line and read on. A longer one
cannot be read: there is no beat in it, no RR interval, pause or run across it, and what is found
beside it must not lean on it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason, find_spans

MAX_BRIDGED_S: Final = 0.04
"""Longest gap that is read across; a QRS complex lasts 0.06 s and more."""

EDGE_S: Final = 0.05
"""An R-peak nearer to a gap than this is that of half a QRS complex."""

_REMNANT_S: Final = 0.45
"""P and T waves are at most this far from the gap in which their QRS complex is."""

_LEAST_STEEPNESS: Final = 0.3
"""Share of the slope energy of a usual beat, below which a detection beside a gap is a P or T wave.

Chosen on 22 records of DS1 and 12 simulated ones with random gaps: of 243 detections beside gaps
that are not beats 27 are left, nearly all in the flutter of 207; of 2912 beats 23 are lost, 15 of
which are cut by the gap itself.
"""

_QRS_HALF: Final = round(0.05 * FS_HZ)


class Bridged(NamedTuple):
    """A signal without NaN."""

    signal: NDArray[np.floating]
    missing: tuple[tuple[int, int], ...]
    """Gaps that cannot be read: first sample, and first sample after each."""


def bridge_missing(signal_mv: NDArray[np.floating], *, fs: float) -> Bridged:
    """Bridge missing samples (NaN) by straight lines, and tell the gaps that cannot be read.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        Samples, NaN where they are missing.
    fs : float
        Sampling rate in Hz.

    """
    is_missing = np.isnan(signal_mv)
    if not is_missing.any():
        return Bridged(signal_mv, ())
    spans = find_spans(is_missing)
    longest = MAX_BRIDGED_S * fs
    gaps = tuple((start, stop) for start, stop in spans if stop - start > longest)
    if is_missing.all():
        return Bridged(np.zeros_like(signal_mv), gaps)
    at = np.arange(len(signal_mv))
    bridged = np.interp(at, at[~is_missing], signal_mv[~is_missing])
    return Bridged(bridged.astype(signal_mv.dtype), gaps)


def cut_out(
    stretches: tuple[Stretch, ...], missing: tuple[tuple[int, int], ...]
) -> tuple[Stretch, ...]:
    """Lay missing stretches over others, which lose what they cover."""
    if not missing:
        return stretches
    kept = [
        Stretch(start, stop, reason)
        for first, last, reason in stretches
        for start, stop in subtract(first, last, missing)
    ]
    kept += [Stretch(start, stop, UnreadableReason.MISSING) for start, stop in missing]
    return tuple(sorted(kept))


def subtract(start: int, stop: int, missing: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Give what is left of a span.

    >>> subtract(0, 10, ((3, 5), (8, 20)))
    [(0, 3), (5, 8)]

    """
    left = []
    for first, last in missing:
        if last <= start or first >= stop:
            continue
        if first > start:
            left.append((start, first))
        start = last
    return [*left, (start, stop)] if start < stop else left


def touches(start: int, stop: int, spans: tuple[tuple[int, int], ...], *, margin: int) -> bool:
    """Return True if a span overlaps one of others, or is nearer to it than `margin`."""
    return any(start < last + margin and stop > first - margin for first, last in spans)


def are_near(
    positions: NDArray[np.int64], spans: tuple[tuple[int, int], ...], *, margin: int = 0
) -> NDArray[np.bool_]:
    """Return True for positions in a span, or nearer to it than `margin`."""
    near = np.zeros(len(positions), dtype=np.bool_)
    for start, stop in spans:
        near |= (positions >= start - margin) & (positions < stop + margin)
    return near


def are_remnants(
    peaks: NDArray[np.int64], energy: NDArray[np.float64], missing: tuple[tuple[int, int], ...]
) -> NDArray[np.bool_]:
    """Find the P and T waves that are detected because a gap hides their QRS complex.

    Parameters
    ----------
    peaks : ndarray of int64, shape (n_peaks,)
        Detections at 360 Hz.
    energy : ndarray of shape (n_samples,)
        :func:`ecg_lib.signal_path.readability.quality.measure_slope_energy` of the signal.
    missing : tuple of (int, int)
        Gaps, in samples at 360 Hz.

    Returns
    -------
    ndarray of bool, shape (n_peaks,)
        True for detections beside a gap that are far less steep than those elsewhere.

    """
    beside = are_near(peaks, missing, margin=round(_REMNANT_S * FS_HZ))
    if not beside.any() or beside.all():
        return np.zeros(len(peaks), dtype=np.bool_)
    around = np.clip(peaks[:, None] + np.arange(-_QRS_HALF, _QRS_HALF + 1), 0, len(energy) - 1)
    steepness = energy[around].max(axis=1)
    usual = float(np.median(steepness[~beside]))
    return np.asarray(beside & (steepness < _LEAST_STEEPNESS * usual))
