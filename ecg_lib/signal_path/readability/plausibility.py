"""Doubt a unit or a sampling rate that does not fit the signal.

A signal that is read at another rate than its own has all its times too short or too long by the
same factor: RR intervals, QRS complexes and R-to-T intervals. Hum of the mains is no longer at
50 or 60 Hz either. The limits were chosen on 286 readings of one minute (10 s for LUDB) of DS1, the
development part of the MIT-BIH Supraventricular Arrhythmia Database and subjects 1 to 100 of LUDB:
none is doubted at its own rate. `benchmarks/wrong_rates.py` measures how many are at others.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import median
from ecg_lib.signal_path.kernels.library import run_kernel

USUAL_RANGE_MV: Final = (0.1, 20.0)
"""Peak-to-peak amplitude of QRS complexes on the skin, with room on both sides."""

_USUAL_RR_S: Final = (0.4, 1.5)
"""Median RR interval of a whole signal; 0.42 to 1.31 s in the readings."""

_USUAL_QRS_HZ: Final = (9.5, 27.0)
"""Median frequency of QRS complexes; 9.9 to 26.2 Hz."""

_LEAST_QRS_HZ: Final = 5.0
"""Half of the least in the readings: a wrong rate alone seldom explains less, a pulse wave does."""

_USUAL_HZ_PER_S: Final = (10.3, 45.0)
"""That frequency over the RR interval; 10.6 to 43.2."""

_USUAL_QRS_S: Final = (0.055, 0.23)
"""Median width of QRS complexes; 0.058 to 0.222 s."""

_USUAL_T_S: Final = (0.1, 0.375)
"""Way from the R-peak to that of the T wave; 0.106 to 0.364 s."""

_TEMPO_POWERS: Final = (0.3, -0.5, 0.2)
_USUAL_TEMPO: Final = (0.125, 0.245)
"""Product of powers of the RR interval, frequency and R-to-T interval; 0.127 to 0.238."""

_TALL_DEFLECTION: Final = 0.3
_MAX_UNEXPLAINED: Final = 0.4
_EARLY_T: Final = 0.225
"""Beats are missed where 0.4 of the RR intervals hold a deflection of 0.3 of a beat's slopes, and
the T wave comes within 0.225 of the RR interval. Of the readings with such deflections (tall P and
T waves) it comes after 0.24 and more."""

_MIN_BEATS: Final = 8
_MAX_PACED: Final = 0.3

_SMOOTH: Final = 9
_T_FROM_S: Final = 0.12
_T_FROM_RR: Final = 0.2
_T_UNTIL_RR: Final = 0.62
"""Where the T wave is looked for, after the R-peak; the P wave comes later in the RR interval."""

_LINES_FROM_HZ: Final = 35.0
_LINE_RATIO: Final = 15.0
_QUANTILE: Final = 0.9
"""Power of a line over the 0.9 quantile of its neighbourhood."""

_MAX_SPECTRA: Final = 240
_EDGE_HZ: Final = 3.0
_MAINS_HZ: Final = (50.0, 60.0)
_MAINS_WIDTH: Final = 0.025
"""Share by which mains and tape recorders differ from their frequency."""

_RECORDER_HZ: Final = np.array([30.0, 90.0])
"""Lines of the tape recorders of the MIT-BIH databases."""

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
    def t_peak_s(self) -> NDArray[np.float64]:
        """See :func:`measure_t_peak`."""
        ...

    @property
    def stray_line_hz(self) -> NDArray[np.float64]:
        """See :func:`measure_stray_line`; of the part of the signal that a beat is in."""
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

    Raises
    ------
    ValueError
        If the windows have less than 72 samples.

    """
    rows = np.asarray(windows, dtype=np.float32)
    if rows.shape[1] < 2 * _QRS_HALF:
        msg = f"windows must have at least {2 * _QRS_HALF} samples, got {rows.shape[1]}"
        raise ValueError(msg)
    row_step, step = (stride // rows.itemsize for stride in rows.strides)
    hz = np.empty(len(rows))
    middle = rows[:, rows.shape[1] // 2 :]
    run_kernel("measure_qrs_hz", middle, len(rows), row_step, step, _QRS_HALF, hz)
    return hz


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
    n_beats = len(r_peaks)
    greatest, between = np.empty(n_beats), np.empty(n_beats - 1)
    run_kernel("max_around", energy, len(energy), r_peaks, n_beats, -36, 36, 4, greatest)
    run_kernel("max_between", energy, r_peaks, n_beats, _CLEAR_HALF, between)
    return np.concatenate([[np.nan], between / max(median(greatest), 1e-12)])


def measure_t_peak(
    windows: NDArray[np.floating], rr_prev_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Measure how long after the R-peak the usual beat has its T wave.

    Parameters
    ----------
    windows : ndarray of shape (n_beats, n_samples)
        Beats at 360 Hz, band-passed, in any unit; the R-peak is in the middle.
    rr_prev_s : ndarray of shape (n_beats,)
        Seconds since the beat before, NaN where it is not known.

    Returns
    -------
    ndarray of shape (n_beats,)
        Seconds, the same for all beats: that of their median beat. NaN where none is known.

    """
    known_s = rr_prev_s[np.isfinite(rr_prev_s)]
    if len(known_s) == 0:
        return np.full(len(windows), np.nan)
    rr_s, middle = median(known_s), windows.shape[1] // 2
    usual = _median_of_columns(windows)
    smooth = np.convolve(usual, np.full(_SMOOTH, 1 / _SMOOTH), mode="same")
    first = round(min(_T_FROM_S, _T_FROM_RR * rr_s) * FS_HZ)
    last = min(middle - _SMOOTH, round(_T_UNTIL_RR * rr_s * FS_HZ))
    after = np.abs(smooth[middle + first : middle + last] - median(usual))
    if len(after) < _SMOOTH:
        return np.full(len(windows), np.nan)
    return np.full(len(windows), (first + int(after.argmax())) / FS_HZ)


def _median_of_columns(windows: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = np.asarray(windows, dtype=np.float32)
    n_rows, n_columns = rows.shape
    row_step, step = (stride // rows.itemsize for stride in rows.strides)
    medians = np.empty(n_columns)
    run_kernel("median_of_columns", rows, n_rows, n_columns, row_step, step, medians)
    return medians


def measure_stray_line(signal_mv: NDArray[np.float64], *, fs: float) -> float:
    """Find a sharp line in the spectrum where mains hum cannot be.

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        One lead at 360 Hz, not filtered.
    fs : float
        The rate that it was given at, which bounds its spectrum and folds the harmonics.

    Returns
    -------
    float
        Its frequency in Hz; NaN when there is none, or when there is hum where it belongs.

    """
    found = _find_lines(signal_mv, last_hz=min(fs, FS_HZ) / 2 - _EDGE_HZ)
    if not found or any(
        abs(line - base) <= _MAINS_WIDTH * base for line in found for base in _MAINS_HZ
    ):
        return float("nan")
    allowed, width = _list_known_lines(fs)
    strays = [line for line in found if (np.abs(line - allowed) > width).all()]
    return strays[0] if strays else float("nan")


@lru_cache(maxsize=8)
def _list_known_lines(fs: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """List the lines that hum and recorders make at a rate, and how far they may be off, in Hz."""
    mains = np.array([base * number for base in _MAINS_HZ for number in range(1, 8)])
    folded = np.abs(mains - fs * np.round(mains / fs))
    allowed = np.concatenate([mains, folded, _RECORDER_HZ])
    width = np.concatenate(
        [_MAINS_WIDTH * mains, np.full(len(mains), 1.5), np.full(len(_RECORDER_HZ), 0.6)]
    )
    return allowed, width


def _find_lines(signal_mv: NDArray[np.float64], *, last_hz: float) -> list[float]:
    """Find sharp lines above 35 Hz, the strongest first; below are harmonics of the heart rate."""
    length = min(len(signal_mv), round(4 * FS_HZ))
    count = max(1, (len(signal_mv) - length) // (length // 2) + 1)
    # A long signal is sampled: hum is there all the time.
    count = min(count, _MAX_SPECTRA)
    step = (len(signal_mv) - length) / max(1, count - 1)
    starts = np.array([int(number * step) for number in range(count)])
    parts = np.empty((count, length))
    run_kernel("cut_parts", signal_mv, starts, count, _hann_window(length), length, parts)
    spectra = np.fft.rfft(parts, axis=1)
    n_spectra, n_bins = spectra.shape
    step_hz = FS_HZ / length
    near, far = round(1 / step_hz), round(6 / step_hz)
    first, last = round(_LINES_FROM_HZ / step_hz), int(last_hz / step_hz)
    first, last = max(first, far), min(last, n_bins - far)
    if first >= last or near == far:
        return []
    bins, ratios = np.empty(last - first, dtype=np.int64), np.empty(last - first)
    count = run_kernel(
        "find_lines",
        spectra.view(np.float64),
        n_spectra,
        n_bins,
        first,
        last,
        near,
        far,
        _QUANTILE,
        bins,
        ratios,
    )
    is_line = (ratios[:count] > _LINE_RATIO).nonzero()[0]
    strongest = is_line[np.argsort(-ratios[is_line], kind="stable")]
    return [place * step_hz for place in bins[strongest].tolist()]


@lru_cache(maxsize=8)
def _hann_window(length: int) -> NDArray[np.float64]:
    return np.hanning(length)


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
    if not np.count_nonzero(is_readable):
        return None
    usual_mv = median(amplitude_mv[is_readable])
    low_mv, high_mv = USUAL_RANGE_MV
    if low_mv <= usual_mv <= high_mv:
        return None
    return (
        f"{what} must be in mV: QRS complexes span {low_mv:g} to {high_mv:g} mV as a rule, "
        f"got {usual_mv:.3g} mV"
    )


def explain_rate(beats: MeasuredBeats) -> str | None:
    """Explain why the sampling rate is likely to be another; None when it fits.

    Times are not judged from fewer than eight beats, nor from paced ones, whose spikes are not QRS
    complexes; a line of hum at a wrong place is.
    """
    is_known = beats.is_readable
    lines_hz = beats.stray_line_hz
    if 2 * np.count_nonzero(np.isfinite(lines_hz)) > len(lines_hz):
        return (
            f"sampling_rate may be wrong: the spectrum has a line of {np.nanmedian(lines_hz):.1f} "
            "Hz, where hum of the mains (50 or 60 Hz) cannot be; check the rate of the recording"
        )
    intervals_s = beats.rr_prev_s[is_known]
    intervals_s = intervals_s[np.isfinite(intervals_s)]
    n_paced, n_known = np.count_nonzero(beats.is_paced), np.count_nonzero(is_known)
    if len(intervals_s) < _MIN_BEATS or n_paced > _MAX_PACED * n_known:
        return None
    rr_s = median(intervals_s)
    qrs_hz = median(beats.qrs_hz[is_known])
    width_s = median(beats.qrs_width_s[is_known])
    t_s = median(beats.t_peak_s[is_known])
    deflections = beats.deflection[is_known]
    n_measured = int(np.count_nonzero(np.isfinite(deflections)))
    unexplained = int(np.count_nonzero(deflections > _TALL_DEFLECTION)) / max(n_measured, 1)
    if unexplained > _MAX_UNEXPLAINED and t_s < _EARLY_T * rr_s:
        return (
            f"sampling_rate may be too high: {unexplained:.0%} of the RR intervals hold a steep "
            "deflection that is not a beat; check the rate of the recording"
        )
    # Each grows with the rate at which the signal is too slow; a NaN compares as False.
    measured = [
        (rr_s, *_USUAL_RR_S),
        (1 / qrs_hz, 1 / _USUAL_QRS_HZ[1], 1 / _USUAL_QRS_HZ[0]),
        (rr_s / qrs_hz, 1 / _USUAL_HZ_PER_S[1], 1 / _USUAL_HZ_PER_S[0]),
        (width_s, *_USUAL_QRS_S),
        (t_s, *_USUAL_T_S),
        (math.prod(map(pow, (rr_s, qrs_hz, t_s), _TEMPO_POWERS)), *_USUAL_TEMPO),
    ]
    is_high = any(value < low for value, low, _ in measured)
    is_low = any(value > high for value, _, high in measured)
    if not (is_high or is_low):
        return None
    kind = "wrong" if is_high and is_low else "too high" if is_high else "too low"
    waves = "" if np.isnan(t_s) else f" and T waves {t_s * 1e3:.0f} ms after them"
    return (
        f"sampling_rate may be {kind}: beats of {60 / rr_s:.0f}/min with QRS complexes of "
        f"{width_s * 1e3:.0f} ms ({qrs_hz:.0f} Hz){waves} are unusual; check the rate of the "
        f"recording{', and that the signal is an ECG' if qrs_hz < _LEAST_QRS_HZ else ''}"
    )
