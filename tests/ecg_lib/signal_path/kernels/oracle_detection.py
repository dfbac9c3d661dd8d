"""Candidates and rules of the detector in NumPy, as they were before the kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy import signal as sp

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import pad_ends
from ecg_lib.signal_path.r_peaks.candidate_features import Candidates, Envelopes
from ecg_lib.signal_path.r_peaks.detection import DetectionConfig


def band_pass(
    signal: NDArray[np.floating], low_hz: float, high_hz: float, order: int = 2
) -> NDArray[np.float64]:
    sections = sp.butter(order, (low_hz, high_hz), "bandpass", fs=FS_HZ, output="sos")
    pad = min(len(signal) - 1, int(3 * FS_HZ / (2 * np.pi * low_hz)) + 3 * (2 * order + 1))
    filtered: NDArray[np.float64] = sp.sosfiltfilt(sections, signal, padlen=pad)
    return filtered


def find_candidates(
    signal: NDArray[np.floating], config: DetectionConfig
) -> tuple[Candidates, Envelopes]:
    steep_slope = np.abs(np.gradient(band_pass(signal, *config.steep_band_hz)))
    window = int(config.steep_window_s * FS_HZ)
    steep = average_slope(steep_slope, window)
    slow_slope = np.abs(np.gradient(band_pass(signal, *config.slow_band_hz)))
    slow = average_slope(slow_slope, int(config.slow_window_s * FS_HZ))

    position, _ = sp.find_peaks(steep, distance=int(config.refractory_s * FS_HZ))
    steep_level = local_level(steep, position, config)
    slow_level = local_level(slow, position, config)
    slow_height = ndimage.maximum_filter1d(slow, window)[position] / slow_level
    candidates = Candidates(
        position.astype(np.int64),
        np.maximum(steep[position] / steep_level, config.slow_weight * slow_height),
        ndimage.maximum_filter1d(steep_slope, window)[position],
    )
    smooth = band_pass(signal, 1.0, 30.0)
    return candidates, Envelopes(steep, slow, smooth, steep_level, slow_level)


def average_slope(slope: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Average over a window: a running sum, which rounding may leave below zero on a still line."""
    return np.asarray(np.maximum(ndimage.uniform_filter1d(slope, window), 0.0))


def accept_by_rules(candidates: Candidates, *, config: DetectionConfig) -> NDArray[np.bool_]:
    """Accept candidates by height, slope and gap alone, shape ``(n,)``."""
    accepted = candidates.height >= config.strong
    _reject_waves(candidates, accepted, config)
    for gap, height in config.gap_thresholds:
        _fill_gaps(candidates, accepted, config, gap=gap, height=height)
    return accepted


def local_level(
    envelope: NDArray[np.float64], position: NDArray[np.int64], config: DetectionConfig
) -> NDArray[np.float64]:
    """Median, over about half a minute, of the greatest value in each two seconds.

    Two seconds hold a QRS complex at any rate above 30/min, so the median is the height of a
    usual beat, and neither one artefact nor one giant PVC moves it.
    """
    width = int(config.level_bin_s * FS_HZ)
    n_bins = max(1, len(envelope) // width)
    edges = np.arange(n_bins) * width
    greatest = np.maximum.reduceat(envelope, edges)
    size = min(n_bins, config.level_bins)
    level = ndimage.median_filter(greatest, size=size, mode="nearest")
    level = np.maximum(level, np.finfo(np.float64).tiny)
    return np.asarray(np.interp(position, edges + width / 2, level))


def _reject_waves(
    candidates: Candidates, accepted: NDArray[np.bool_], config: DetectionConfig
) -> None:
    """Take back candidates that are the T wave of a beat or the P wave of the next (in place)."""
    position, slope = candidates.position.tolist(), candidates.slope.tolist()
    t_reach, p_reach = int(config.t_wave_s * FS_HZ), int(config.p_wave_s * FS_HZ)
    last = -1
    for index in np.flatnonzero(accepted).tolist():
        distance = position[index] - position[last]
        if last >= 0 and distance < t_reach and slope[index] < config.t_wave_slope * slope[last]:
            accepted[index] = False
            continue
        if last >= 0 and distance < p_reach and slope[last] < config.t_wave_slope * slope[index]:
            accepted[last] = False
        last = index


def _fill_gaps(
    candidates: Candidates,
    accepted: NDArray[np.bool_],
    config: DetectionConfig,
    *,
    gap: float,
    height: float,
) -> None:
    """Accept the tallest candidate in each RR interval that is too long, twice (in place)."""
    position = candidates.position / FS_HZ
    for _ in range(2):
        beats = np.flatnonzero(accepted)
        if len(beats) < 3:
            return
        rr_s = np.diff(position[beats])
        size = min(9, len(rr_s))
        local_rr_s = ndimage.median_filter(np.minimum(rr_s, 2.0), size=size, mode="nearest")
        is_long = rr_s > np.minimum(gap * local_rr_s, config.longest_gap_s)
        found = []
        for index in np.flatnonzero(is_long & (np.diff(beats) > 1)).tolist():
            before, after = beats[index], beats[index + 1]
            inside = np.arange(before + 1, after)
            since_s = position[inside] - position[before]
            is_beat = candidates.height[inside] > height
            is_beat &= (since_s > config.t_wave_s) | (
                candidates.slope[inside] > config.t_wave_slope * candidates.slope[before]
            )
            is_beat &= position[after] - position[inside] > config.next_beat_s
            if is_beat.any():
                inside = inside[is_beat]
                found.append(inside[np.argmax(candidates.height[inside])])
        if not found:
            return
        accepted[found] = True


def find_extrema(
    smooth: NDArray[np.float64], position: NDArray[np.int64], config: DetectionConfig
) -> NDArray[np.int64]:
    """Find the extremum of the complex of each beat, in the polarity of the neighbourhood."""
    if len(position) == 0:
        return position
    reach = int(config.peak_search_s * FS_HZ)
    padded = pad_ends(smooth, 3 * reach)
    around = padded[position[:, None] + np.arange(6 * reach + 1)]  # (n_beats, 6 reach + 1)
    inside = slice(2 * reach, 4 * reach + 1)
    highest, lowest = around[:, inside].argmax(axis=1), around[:, inside].argmin(axis=1)
    around -= np.median(around, axis=1, keepdims=True)
    up = np.maximum(around[:, inside].max(axis=1), 1e-9)
    down = np.maximum(-around[:, inside].min(axis=1), 1e-9)
    size = min(config.polarity_beats, len(position))
    is_upright = ndimage.median_filter(np.log(up / down), size=size, mode="nearest") > 0
    ratio = config.polarity_ratio
    take_up = np.where(is_upright, down < ratio * up, up > ratio * down)
    placed = position - reach + np.where(take_up, highest, lowest)
    return np.asarray(np.clip(placed, 0, len(smooth) - 1), dtype=np.int64)
