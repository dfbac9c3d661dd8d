"""Say when a unit or a sampling rate that was given does not fit the signal.

A signal that is read at another rate than its own has beats that are too fast or too slow, and QRS
complexes that are too narrow or too wide, both by the same factor; read much too fast, the detector
misses beats, and deflections are left that no beat explains. The limits were chosen on DS1 and the
paced records at 0.28 to 2.78 times their rate: at their own rate none is doubted.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ

USUAL_RANGE_MV: Final = (0.1, 20.0)
"""Peak-to-peak amplitude of QRS complexes on the skin, with room on both sides."""

_USUAL_HZ_PER_S: Final = (11.5, 45.0)
"""Frequency of QRS complexes over the RR interval; on DS1 13.5 to 40 at the right rate."""

_USUAL_RR_S: Final = (0.4, 1.5)
"""Median RR interval of a whole signal; on DS1 0.46 to 1.1 s."""

_WIDE_S: Final = 0.2
_SLOW_HZ: Final = 12.5
"""QRS complexes that are wide, and slow as well: bundle branch blocks are one or the other."""

_TALL_DEFLECTION: Final = 0.3
_MAX_UNEXPLAINED: Final = 0.4
"""Share of RR intervals with a deflection of 0.3 of a beat's slopes; on DS1 at most 0.1."""

_MIN_BEATS: Final = 8
_MAX_PACED: Final = 0.3

_QRS_HALF: Final = 36
_CLEAR_HALF: Final = 54
"""0.1 s and 0.15 s at 360 Hz."""


class MeasuredBeats(Protocol):
    """Beats with what is measured of them, one row for each R-peak."""

    @property
    def amplitude_mv(self) -> NDArray[np.float64]:
        """Peak-to-peak amplitude of each QRS complex."""
        ...

    @property
    def qrs_width_s(self) -> NDArray[np.float64]:
        """Width of each QRS complex."""
        ...

    @property
    def qrs_hz(self) -> NDArray[np.float64]:
        """See :func:`measure_qrs_hz`."""
        ...

    @property
    def deflection(self) -> NDArray[np.float64]:
        """See :func:`measure_deflections`."""
        ...

    @property
    def rr_prev_s(self) -> NDArray[np.float64]:
        """Seconds since the beat before, NaN where it is not known."""
        ...

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """False where a beat cannot be read."""
        ...

    @property
    def is_paced(self) -> NDArray[np.bool_]:
        """True where a pacemaker seems to have made a beat."""
        ...


def measure_qrs_hz(windows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Measure the mean frequency of each QRS complex: of its slopes, weighted by their energy.

    Parameters
    ----------
    windows : ndarray of shape (n_beats, n_samples)
        Beats at 360 Hz, band-passed, in any unit; the R-peak is in the middle.

    """
    middle = windows.shape[1] // 2
    qrs = windows[:, middle - _QRS_HALF : middle + _QRS_HALF].astype(np.float64)
    slope = np.diff(qrs, axis=1)
    energy = (slope**2).sum(axis=1)
    bend = (np.diff(slope, axis=1) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(bend / np.maximum(energy, 1e-12)) * FS_HZ / (2 * np.pi))


def measure_deflections(
    energy: NDArray[np.float64], r_peaks: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Measure the steepest deflection between each beat and the one before, against a usual beat.

    Parameters
    ----------
    energy : ndarray of shape (n_samples,)
        :func:`ecg_lib.signal_path.readability.quality.measure_slope_energy`, at 360 Hz.
    r_peaks : ndarray of int64, shape (n_beats,)

    Returns
    -------
    ndarray of shape (n_beats,)
        NaN for the first beat.

    """
    if len(r_peaks) < 2:
        return np.full(len(r_peaks), np.nan)
    around = np.clip(r_peaks[:, None] + np.arange(-36, 37, 4), 0, len(energy) - 1)
    usual = max(float(np.median(energy[around].max(axis=1))), 1e-12)
    left = energy.copy()
    for peak in r_peaks.tolist():
        left[max(0, peak - _CLEAR_HALF) : peak + _CLEAR_HALF] = 0.0
    between = np.maximum.reduceat(left, r_peaks[:-1])
    between[-1] = left[r_peaks[-2] : r_peaks[-1]].max(initial=0.0)
    return np.concatenate([[np.nan], between / usual])


def list_doubts(beats: MeasuredBeats, *, what: str) -> tuple[str, ...]:
    """List what does not fit a signal: its unit, its sampling rate.

    Parameters
    ----------
    beats : MeasuredBeats
    what : str
        Name of the samples, as the reader knows them.

    """
    doubts = (
        explain_amplitude(beats.amplitude_mv, is_readable=beats.is_readable, what=what),
        explain_rate(beats),
    )
    return tuple(doubt for doubt in doubts if doubt is not None)


def explain_amplitude(
    amplitude_mv: NDArray[np.float64], *, is_readable: NDArray[np.bool_], what: str
) -> str | None:
    """Say that samples are not in mV when QRS complexes are too small or too tall for it.

    Parameters
    ----------
    amplitude_mv : ndarray of shape (n_beats,)
        Peak-to-peak amplitude of each QRS complex.
    is_readable : ndarray of bool, shape (n_beats,)
    what : str
        Name of the samples, as the reader knows them.

    Returns
    -------
    str or None
        The doubt; None when the amplitude is usual, or there is no beat.

    """
    if not is_readable.any():
        return None
    usual_mv = float(np.median(amplitude_mv[is_readable]))
    low_mv, high_mv = USUAL_RANGE_MV
    if low_mv <= usual_mv <= high_mv:
        return None
    return (
        f"{what} must be in mV: QRS complexes span {low_mv:g} to {high_mv:g} mV as a rule, "
        f"got {usual_mv:.3g} mV"
    )


def explain_rate(beats: MeasuredBeats) -> str | None:
    """Say that the sampling rate is likely to be another; None when it fits.

    It is not judged from fewer than eight beats, nor from paced ones, whose spikes are not QRS
    complexes.
    """
    is_known = beats.is_readable
    intervals_s = beats.rr_prev_s[is_known]
    intervals_s = intervals_s[np.isfinite(intervals_s)]
    if len(intervals_s) < _MIN_BEATS or beats.is_paced.sum() > _MAX_PACED * is_known.sum():
        return None
    rr_s = float(np.median(intervals_s))
    qrs_hz = float(np.median(beats.qrs_hz[is_known]))
    width_s = float(np.median(beats.qrs_width_s[is_known]))
    deflections = beats.deflection[is_known]
    unexplained = float(np.mean(deflections[np.isfinite(deflections)] > _TALL_DEFLECTION))
    shortest_s, longest_s = _USUAL_RR_S
    low, high = _USUAL_HZ_PER_S
    is_high = qrs_hz / rr_s > high or rr_s < shortest_s
    is_low = qrs_hz / rr_s < low or rr_s > longest_s or (width_s > _WIDE_S and qrs_hz < _SLOW_HZ)
    if is_high or is_low:
        return (
            f"sampling_rate may be too {'high' if is_high else 'low'}: beats of "
            f"{60 / rr_s:.0f}/min with QRS complexes of {width_s * 1e3:.0f} ms ({qrs_hz:.0f} Hz) "
            "are unusual; "
            "check the rate of the recording"
        )
    if unexplained > _MAX_UNEXPLAINED:
        return (
            f"sampling_rate may be wrong: {unexplained:.0%} of the RR intervals hold a steep "
            "deflection that is not a beat; check the rate of the recording"
        )
    return None
