"""Templates of beats in NumPy, as they were before the kernels."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import pad_ends, unit_rows
from ecg_lib.signal_path.template import (
    CENTRE,
    WINDOW_SAMPLES,
    BeatConfig,
    Beats,
    Block,
    FormBounds,
    Forms,
)


def measure_qrs_width(
    windows: NDArray[np.floating], *, config: BeatConfig | None = None
) -> NDArray[np.float64]:
    """Measure the QRS width of beats with the R-peak in the middle of their windows."""
    config = config or BeatConfig()
    centre = windows.shape[1] // 2
    reach, core = int(0.15 * FS_HZ), int(0.07 * FS_HZ)
    around = windows[:, centre - reach - 8 : centre + reach + 9]
    slope = ndimage.uniform_filter1d(np.abs(np.gradient(around, axis=1)), 5, axis=1)[:, 4:-4]
    middle = slope.shape[1] // 2
    greatest = slope[:, middle - core : middle + core + 1].max(axis=1, keepdims=True)
    is_flat = slope < config.slope_floor * greatest
    still = ndimage.minimum_filter1d(is_flat.astype(np.int8), 15, axis=1) > 0
    steepest = middle - core + slope[:, middle - core : middle + core + 1].argmax(axis=1)
    columns = np.arange(slope.shape[1])
    before = still & (columns <= steepest[:, None])
    after = still & (columns >= steepest[:, None])
    last = slope.shape[1] - 1
    onset = np.where(before.any(axis=1), last - before[:, ::-1].argmax(axis=1), 0) + 7
    offset = np.where(after.any(axis=1), after.argmax(axis=1), last) - 7
    return np.asarray(np.clip((offset - onset) / FS_HZ, 0.02, 0.3))


def cut_windows(
    signal: NDArray[np.float64], positions: NDArray[np.int64], half: int
) -> NDArray[np.float32]:
    """Cut windows of twice ``half`` samples around positions; the ends are padded."""
    padded = pad_ends(signal.astype(np.float32), half)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * half)[positions])


def windows_of(
    beats: Beats, part: slice, shift: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Return the windows of some beats, shape ``(n, 360)``, each shifted where asked."""
    wide = beats.wide[part]
    if shift is None:
        return wide[:, beats.margin : beats.margin + WINDOW_SAMPLES]
    columns = (beats.margin + shift)[:, None] + np.arange(WINDOW_SAMPLES)
    return np.asarray(np.take_along_axis(wide, columns, axis=1))


def cut_forms(
    windows: NDArray[np.float32], config: BeatConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut the QRS complex, and the whole beat at half the rate, out of windows."""
    qrs, beat = FormBounds.of(config).parts_of_a_window()
    return windows[..., qrs], windows[..., beat]


def forms_of(windows: NDArray[np.float32], config: BeatConfig) -> Forms:
    """Normalise windows to the forms that are compared."""
    return Forms(*map(unit_rows, cut_forms(windows, config)))


def survey(beats: Beats, start: int, stop: int) -> Block:
    """Compare the beats of a block with each other and choose its template."""
    config = beats.config
    part = slice(start, stop)
    windows, forms = windows_of(beats, part), beats.forms.part(part)
    sameness = _measure_sameness(forms.similarity(forms, config), config)
    rr_prev, rr_next = beats.rr_prev[part], beats.rr_next[part]
    known = np.isfinite(rr_prev)
    median_rr = float(np.median(rr_prev[known])) if known.any() else 0.8
    share = sameness.mean(axis=1)
    prematurity = _mean_of_shape(sameness, np.log(rr_prev / median_rr))
    pause = _mean_of_shape(sameness, np.log(rr_prev / rr_next))
    width = _mean_of_shape(sameness, beats.width[part])
    score = (
        config.score_share * np.log(share + 0.02)
        + config.score_prematurity * np.clip(prematurity, -0.6, 0.1)
        + config.score_pause * np.clip(pause, -0.6, 0.2)
        - config.score_width_per_s * width
    )
    best = int(np.argmax(score))
    count = np.log(sameness.sum(axis=1))
    return Block(
        part=part,
        forms=forms,
        sameness=sameness,
        shape_features=np.stack([share, count, prematurity, pause, width], axis=1),
        score=score,
        median_rr_s=median_rr,
        template=weighted_mean(sameness[best], windows),
        weight=float(sameness[best].sum()),
    )


def _measure_sameness(similarity: NDArray[np.float32], config: BeatConfig) -> NDArray[np.float32]:
    """Turn the similarity of beats into how much they are of one shape, 0 to 1."""
    n_beats = len(similarity)
    usual = 1.0
    if n_beats > 1:
        n_nearest = min(5, max(1, n_beats // 6))
        to_others = similarity.copy()
        np.fill_diagonal(to_others, -1.0)
        nearest = np.partition(to_others, n_beats - n_nearest, axis=1)[:, -n_nearest:]
        usual = float(np.median(nearest.mean(axis=1)))
    limit = np.clip(1 - config.same_shape_differences * (1 - usual), *config.same_shape_limits)
    sameness = expit((similarity - limit) * (config.same_shape_sharpness / (1 - limit)))
    np.fill_diagonal(sameness, 1.0)
    return np.asarray(sameness, dtype=np.float32)


def _mean_of_shape(
    sameness: NDArray[np.float32], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean of a value over the beats of each beat's shape; unknown values do not count."""
    known = np.isfinite(values)
    total = sameness @ np.where(known, values, 0.0)
    return np.asarray(total / np.maximum(sameness @ known.astype(np.float64), 1e-3))


def weighted_mean(
    weights: NDArray[np.float32], windows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Average windows by weight."""
    return np.asarray((weights / weights.sum()) @ windows, dtype=np.float32)


def best_shift(beats: Beats, part: slice, template: NDArray[np.float32]) -> NDArray[np.int64]:
    """Shift, in samples, at which the QRS of each beat correlates best with the template's."""
    margin, config = beats.margin, beats.config
    half = round(config.qrs_half_s * FS_HZ)
    target = unit_rows(cut_forms(template, config)[0])
    shifts = np.arange(-margin, margin + 1)
    reach = beats.wide[part, CENTRE - half : CENTRE + half + 2 * margin]
    # (n_beats, n_shifts, 2 half) @ (2 half,)
    fits = unit_rows(sliding_window_view(reach, 2 * half, axis=1)) @ target
    # A shift must pay: without this, beats unlike the template wander.
    fits -= 0.002 * np.abs(shifts)
    return np.asarray(shifts[fits.argmax(axis=1)])
