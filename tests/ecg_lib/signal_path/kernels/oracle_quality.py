"""Measures of quality and plausibility in NumPy, as they were before the kernels."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import pad_ends, unit_rows
from ecg_lib.signal_path.readability.flutter import FlutterConfig
from ecg_lib.signal_path.readability.pacing import PacingConfig

_DECIMATION = 4
_RATE_HZ = FS_HZ / _DECIMATION
_BEFORE, _AFTER, _SEARCH = 100, 146, 40
_TINY = 1e-12


def look_like_flutter(windows: NDArray[np.float64], config: FlutterConfig) -> NDArray[np.bool_]:
    slopes = np.abs(windows[:, 1:] - windows[:, :-1])
    mean_slope = slopes.mean(axis=1) + _TINY
    # Twice the limit of the sharper measure below, so that it need not look at every window.
    candidates = np.flatnonzero(slopes.max(axis=1) < 2 * config.max_slope_ratio * mean_slope)
    found = np.zeros(len(slopes), dtype=np.bool_)
    if len(candidates) == 0:
        return found
    windows = windows[candidates]
    windows = windows - windows.mean(axis=1, keepdims=True)
    sizes = np.abs(windows)
    # A sine of n samples a period has a mean slope of 2 pi / n times its mean size.
    half_period = np.pi * (sizes.mean(axis=1) + _TINY) / mean_slope[candidates]
    lowest_hz, highest_hz = config.mean_frequency_hz
    frequency_hz = _RATE_HZ / (2 * half_period)
    is_flutter = (frequency_hz > lowest_hz) & (frequency_hz < highest_hz)
    is_flutter &= np.ptp(windows, axis=1) > config.min_range_mv
    lags = np.rint(half_period).astype(np.int64)
    for lag in np.unique(lags[is_flutter]).tolist():
        rows = np.flatnonzero(is_flutter & (lags == lag))
        left = np.abs(windows[rows, lag:] + windows[rows, :-lag]).sum(axis=1)
        passed = (sizes[rows, lag:] + sizes[rows, :-lag]).sum(axis=1)
        is_flutter[rows] = left < config.max_leakage * passed
    rows = np.flatnonzero(is_flutter)
    ordered = np.sort(slopes[candidates[rows]], axis=1)
    steep, usual = ordered[:, int(0.98 * ordered.shape[1])], ordered[:, ordered.shape[1] // 2]
    is_flutter[rows] = steep < config.max_slope_ratio * usual
    found[candidates] = is_flutter
    return found


def have_spikes(
    signal_mv: NDArray[np.float64], r_peaks: NDArray[np.int64], config: PacingConfig
) -> NDArray[np.bool_]:
    first, last = int(r_peaks[0]) - _BEFORE - 1, int(r_peaks[-1]) + _AFTER
    signal = signal_mv[first:last]
    bends = np.abs(signal[2:] - 2 * signal[1:-1] + signal[:-2])
    bends = np.concatenate([[0.0], bends, [0.0]])
    positions = r_peaks - first

    def cut(
        values: NDArray[np.float64], at: NDArray[np.int64], start: int, stop: int
    ) -> NDArray[np.float64]:
        """From `start` to `stop` samples after each position, one row for each."""
        return np.asarray(sliding_window_view(values, stop - start)[at + start])

    searched = cut(bends, positions, -_SEARCH, 26)  # (n_beats, 66)
    spike = searched.max(axis=1, keepdims=True)
    at = positions - _SEARCH + searched.argmax(axis=1)
    # Few beats have so short a burst: the costlier questions are for them alone.
    found = (cut(bends, at, -20, 21) > 0.25 * spike).sum(axis=1) <= config.max_burst
    rows = np.flatnonzero(found)
    if len(rows) == 0:
        return np.asarray(found, dtype=np.bool_)
    spike, at = spike[rows], at[rows]
    span = np.ptp(cut(signal, positions[rows], -70, 70), axis=1)
    found[rows] = (
        (cut(bends, at, -45, -4) <= config.max_before * spike).all(axis=1)
        & (cut(bends, at, 6, 41) <= config.max_after * spike).all(axis=1)
        & (_smooth_span(cut(signal, at, 2, 75)) >= config.min_slow * span)
        & (_smooth_span(cut(signal, at, -54, -6)) <= config.max_base * span)
        & (
            spike[:, 0]
            > config.min_over_noise * (np.median(cut(bends, at, -60, 61), axis=1) + 1e-9)
        )
    )
    return np.asarray(found, dtype=np.bool_)


def _smooth_span(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Span of each row after a moving average of nine samples."""
    sums = np.cumsum(samples, axis=1)
    return np.asarray(np.ptp(sums[:, 9:] - sums[:, :-9], axis=1) / 9)


def likeness_of_beats(band: NDArray[np.float64], r_peaks: NDArray[np.int64]) -> NDArray[np.float64]:
    half, reach = int(0.15 * FS_HZ), 10
    padded = pad_ends(band, half)
    windows = unit_rows(padded[r_peaks[:, None] + np.arange(2 * half)], least=1e-12)
    likeness = []
    for distance in range(1, min(reach, len(r_peaks) - 1) + 1):
        products = (windows[distance:] * windows[:-distance]).sum(axis=1)
        missing = np.full(distance, -1.0)
        likeness += [np.append(products, missing), np.append(missing, products)]
    return np.asarray(np.sort(np.stack(likeness, axis=1), axis=1)[:, -3:].mean(axis=1))


def find_quiet(energy: NDArray[np.float64], limit: float, shortest: float) -> list[tuple[int, int]]:
    loud = np.flatnonzero(energy >= limit)
    edges = np.concatenate([[-1], loud, [len(energy)]])
    long = np.flatnonzero(np.diff(edges) > shortest)
    return list(zip((edges[long] + 1).tolist(), edges[long + 1].tolist(), strict=True))


def measure_deflections(
    energy: NDArray[np.float64], r_peaks: NDArray[np.int64]
) -> NDArray[np.float64]:
    around = np.clip(r_peaks[:, None] + np.arange(-36, 37, 4), 0, len(energy) - 1)
    usual = max(float(np.median(energy[around].max(axis=1))), 1e-12)
    left = energy.copy()
    for peak in r_peaks.tolist():
        left[max(0, peak - 54) : peak + 54] = 0.0
    between = np.maximum.reduceat(left, r_peaks[:-1])
    between[-1] = left[r_peaks[-2] : r_peaks[-1]].max(initial=0.0)
    return np.concatenate([[np.nan], between / usual])


def measure_qrs_hz(windows: NDArray[np.floating]) -> NDArray[np.float64]:
    qrs = windows[:, 144:216].astype(np.float64)
    slope = np.diff(qrs, axis=1)
    energy = (slope**2).sum(axis=1)
    bend = (np.diff(slope, axis=1) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(bend / np.maximum(energy, 1e-12)) * FS_HZ / (2 * np.pi))


def find_lines(
    power: NDArray[np.float64], first: int, last: int, near: int, far: int
) -> dict[int, float]:
    tallest = sliding_window_view(power, 4 * near + 1).max(axis=1)
    is_peak = power[first:last] >= tallest[first - 2 * near : last - 2 * near]
    ratios = {}
    for place in (first + np.flatnonzero(is_peak)).tolist():
        around = np.concatenate(
            [power[place - far : place - near], power[place + near + 1 : place + far + 1]]
        )
        ratios[place] = float(power[place] / max(float(np.quantile(around, 0.9)), 1e-30))
    return ratios
