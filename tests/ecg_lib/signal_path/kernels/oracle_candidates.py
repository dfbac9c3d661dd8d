"""Features of candidates in NumPy, as they were before the kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.r_peaks.candidate_features import Candidates, Envelopes
from ecg_lib.signal_path.r_peaks.detection import DetectionConfig
from tests.ecg_lib.signal_path.kernels.oracle_detection import local_level

_TINY = 1e-12
_FLOOR = 0.02
_ENVELOPE_AT = np.arange(-8, 9) * 18
_PICTURE_AT = np.arange(-25, 26) * 6
_SHAPE = slice(17, 34)
_QRS = slice(19, 32)
_BASELINE_BEFORE = slice(1, 16)
_BASELINE_AFTER = slice(35, 50)
_SHIFTS = (-2, -1, 0, 1, 2)
_NEIGHBOURS = 4
_CURVE_STEP = 5
_CURVE_REACH = 9
_CURVE_QRS_REACH = 38


def measure_candidates(
    candidates: Candidates, envelopes: Envelopes, is_beat: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Compute the features of each candidate, shape ``(n, len(CANDIDATE_FEATURES))``."""
    position = candidates.position
    n_samples = len(envelopes.smooth)
    picture = envelopes.smooth[np.clip(position[:, None] + _PICTURE_AT, 0, n_samples - 1)]
    span = np.ptp(picture[:, _QRS], axis=1) + _TINY
    curvature = _measure_curvature(envelopes.smooth)
    curve = _greatest_around(curvature, position, -_CURVE_QRS_REACH, _CURVE_QRS_REACH)
    beats = _neighbours(np.flatnonzero(is_beat), len(position))
    others = _neighbours(np.flatnonzero(~is_beat), len(position))
    alike = _compare_shapes(picture, np.stack([beats, others], axis=1))  # (n, 2, 8)
    return np.concatenate(
        [
            _measure_energy(candidates, envelopes),
            _measure_bends(curvature, position),
            _measure_surroundings(candidates, envelopes, picture, span),
            _measure_rhythm(position / FS_HZ, beats),
            _measure_sizes((candidates.height, candidates.slope, span, curve), beats, others),
            _summarise(alike),
            np.nan_to_num(alike[:, 0, [0, _NEIGHBOURS]]),
            is_beat[:, None],
        ],
        axis=1,
        dtype=np.float32,
    )


def _measure_energy(candidates: Candidates, envelopes: Envelopes) -> NDArray[np.float64]:
    """Slope energy around the candidate, over its level, on two scales: ``(n, 34)``."""
    at = np.clip(candidates.position[:, None] + _ENVELOPE_AT, 0, len(envelopes.smooth) - 1)
    steep = envelopes.steep[at] / envelopes.steep_level[:, None]
    slow = envelopes.slow[at] / envelopes.slow_level[:, None]
    return np.asarray(np.log(np.concatenate([steep, slow], axis=1) + _FLOOR))


def _measure_surroundings(
    candidates: Candidates,
    envelopes: Envelopes,
    picture: NDArray[np.float64],
    span: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Noise, sizes and steps of the baseline, and the ends of the signal: ``(n, 6)``."""
    position, n_samples = candidates.position, len(envelopes.smooth)
    level = envelopes.steep_level
    sums = np.concatenate([[0.0], np.cumsum(envelopes.steep)])
    first, last = np.maximum(position - int(FS_HZ), 0), np.minimum(position + int(FS_HZ), n_samples)
    noise = (sums[last] - sums[first]) / (last - first)
    step = np.abs(_middle(picture[:, _BASELINE_AFTER]) - _middle(picture[:, _BASELINE_BEFORE]))
    return np.stack(
        [
            np.log(noise / level + _FLOOR),
            np.log(candidates.slope / level + _FLOOR),
            np.log(span / (np.ptp(picture, axis=1) + _TINY) + _FLOOR),
            np.minimum(step / span, 3.0),
            np.minimum(position / FS_HZ, 2.0),
            np.minimum((n_samples - position) / FS_HZ, 2.0),
        ],
        axis=1,
    )


def _measure_curvature(smooth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitude of the second difference over 14 ms, zero at the ends."""
    step = _CURVE_STEP
    curvature = np.zeros_like(smooth)
    curvature[step:-step] = np.abs(
        smooth[2 * step :] - 2 * smooth[step:-step] + smooth[: -2 * step]
    )
    return curvature


def _greatest_around(
    values: NDArray[np.float64], position: NDArray[np.int64], first: int, last: int
) -> NDArray[np.float64]:
    """Greatest value of each window; zero outside of the signal."""
    reach = max(-first, last) + 9 * 18
    padded = np.pad(values, reach)
    return padded[position[:, None] + reach + np.arange(first, last + 1)].max(axis=1)


def _measure_bends(
    curvature: NDArray[np.float64], position: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The greatest curvature of each 50 ms around the candidate, over its level: ``(n, 17)``."""
    greatest = [
        _greatest_around(curvature, position, at - _CURVE_REACH, at + _CURVE_REACH - 1)
        for at in _ENVELOPE_AT
    ]
    level = local_level(curvature, position, DetectionConfig())
    return np.minimum(np.stack(greatest, axis=1) / level[:, None], 3.0)


def _neighbours(members: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Indices of the members nearest to each candidate, but itself; -1 where there is none.

    Shape ``(n, 8)``: four before it, the nearest first, then four after it.
    """
    itself = np.arange(n)
    before = np.searchsorted(members, itself, "left")[:, None] - np.arange(1, _NEIGHBOURS + 1)
    after = np.searchsorted(members, itself, "right")[:, None] + np.arange(_NEIGHBOURS)
    place = np.concatenate([before, after], axis=1)
    padded = np.append(members, -1)
    return padded[np.where((place >= 0) & (place < len(members)), place, len(members))]


def _measure_rhythm(time_s: NDArray[np.float64], beats: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances from the beats around, in seconds and in RR intervals: ``(n, 10)``."""
    beat_s = np.where(beats >= 0, time_s[beats], np.nan)
    near = [0, 1, _NEIGHBOURS, _NEIGHBOURS + 1]
    distance_s = np.clip(np.nan_to_num(np.abs(beat_s[:, near] - time_s[:, None]), nan=3.0), 0.1, 3)
    rr_s = np.concatenate(
        [-np.diff(beat_s[:, :_NEIGHBOURS]), np.diff(beat_s[:, _NEIGHBOURS:])], axis=1
    )
    local_rr_s = np.clip(_lower_median(rr_s, nothing=0.8), 0.25, 2.5)[:, None]
    gap_s = distance_s[:, [0]] + distance_s[:, [2]]
    ratios = [
        distance_s,
        local_rr_s,
        distance_s[:, [0, 2]] / local_rr_s,
        gap_s / local_rr_s,
        distance_s[:, [1, 3]] / local_rr_s,
    ]
    return np.asarray(np.log(np.concatenate(ratios, axis=1)))


def _measure_sizes(
    sizes: tuple[NDArray[np.float64], ...],
    beats: NDArray[np.int64],
    others: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Logarithms of size over that of beats and of other candidates around: ``(n, 18)``."""
    size = np.stack(sizes, axis=1)[:, :, None]  # (n, sizes, 1)
    around = np.stack([beats, others], axis=1)[:, None]  # (n, 1, 2, 8)
    around_size = size[:, :, 0][around, np.arange(len(sizes))[:, None, None]]  # (n, sizes, 2, 8)
    around_size = np.where(around >= 0, around_size, np.nan)
    sides = [0, _NEIGHBOURS]
    ratio = _log_ratio(size, around_size[:, :, 0, sides])
    nearest = np.where(np.isnan(ratio), 0.0, ratio)  # (n, sizes, 2)
    usual = _log_ratio(size, _lower_median(around_size, nothing=size))  # (n, sizes, 2)
    tallest = np.where(others >= 0, around_size[:, 0, 1], 0.0).max(axis=1)
    above = np.clip(np.log((sizes[0] + _TINY) / (tallest + 1e-3)), -4.0, 6.0)
    contrast = np.clip(usual[:, 0, 0] - usual[:, 0, 1], -4.0, 4.0)
    n = len(beats)
    return np.concatenate(
        [nearest.reshape(n, -1), usual.reshape(n, -1), above[:, None], contrast[:, None]], axis=1
    )


def _log_ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.log((one + _TINY) / (other + _TINY)), -4.0, 4.0)


def _lower_median(
    values: NDArray[np.float64], *, nothing: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Median along the last axis without NaN, the lower one of two, or `nothing` if all are NaN."""
    ordered = np.sort(values, axis=-1)  # NaN last
    count = np.count_nonzero(~np.isnan(values), axis=-1)
    place = np.maximum(count - 1, 0) // 2
    middle = np.take_along_axis(ordered, place[..., None], axis=-1)[..., 0]
    return np.where(count > 0, middle, nothing)


def _middle(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each row of an odd number of values: ``np.median``, in less time."""
    return np.sort(values, axis=1)[:, values.shape[1] // 2]


def _compare_shapes(picture: NDArray[np.float64], around: NDArray[np.int64]) -> NDArray[np.float64]:
    """Best correlation over small shifts with each neighbour, NaN for none.

    Neighbours and result have the shape ``(n, 2, 8)``.
    """
    shapes = _normalise(picture[:, _SHAPE])
    flat = around.reshape(len(around), -1)
    alike = np.empty(flat.shape)
    columns = np.arange(_SHAPE.start, _SHAPE.stop) + np.array(_SHIFTS)[:, None]
    shifted = _normalise(picture[:, columns])  # (n, shifts, samples)
    alike[:] = (shapes[flat] @ shifted.swapaxes(1, 2)).max(axis=2)
    alike[flat < 0] = np.nan
    return alike.reshape(around.shape)


def _normalise(shapes: NDArray[np.float64]) -> NDArray[np.float32]:
    # As it was when the weights were fitted: filtering.unit_rows differs in the last bit.
    centred = shapes - shapes.mean(axis=-1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    return np.asarray(centred / (norm + _TINY), dtype=np.float32)


def _summarise(alike: NDArray[np.float64]) -> NDArray[np.float64]:
    """Greatest, second and mean correlation of each group, zero for none: ``(n, 2 * 3)``."""
    count = np.count_nonzero(~np.isnan(alike), axis=2)
    ordered = np.sort(np.nan_to_num(alike, nan=-1.0), axis=2)
    summary = np.stack(
        [
            np.where(count > 0, ordered[..., -1], 0.0),
            np.where(count > 1, ordered[..., -2], 0.0),
            np.nansum(alike, axis=2) / np.maximum(count, 1),
        ],
        axis=2,
    )
    return summary.reshape(len(alike), -1)
