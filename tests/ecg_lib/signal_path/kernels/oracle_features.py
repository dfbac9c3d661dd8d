"""Features of beats in NumPy, as they were before the kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.features import FEATURE_NAMES, BeatFeatures, measure_intervals
from ecg_lib.signal_path.filtering import unit_rows
from ecg_lib.signal_path.template import (
    CENTRE,
    WINDOW_SAMPLES,
    BeatConfig,
    Beats,
    Block,
    block_bounds,
    kept_parts,
    recording_template,
)
from tests.ecg_lib.signal_path.kernels.oracle_template import (
    best_shift,
    cut_forms,
    cut_windows,
    forms_of,
    measure_qrs_width,
    survey,
    weighted_mean,
    windows_of,
)

_NOISE_BEATS = 9


def extract_beats(
    signal: NDArray[np.float64],
    r_peaks: NDArray[np.int64],
    *,
    config: BeatConfig | None = None,
    breaks: NDArray[np.bool_] | None = None,
) -> BeatFeatures:
    """Cut windows and compute features of one beat or more."""
    config = config or BeatConfig()
    n_beats = len(r_peaks)
    rr_prev, rr_next = measure_intervals(r_peaks, breaks)
    margin = round(config.align_s * FS_HZ)
    wide = cut_windows(signal, r_peaks, CENTRE + margin)  # (n_beats, 360 + 2 margin)
    windows = wide[:, margin : margin + WINDOW_SAMPLES]
    beats = Beats(
        wide=wide,
        margin=margin,
        forms=forms_of(windows, config),
        rr_prev=rr_prev,
        rr_next=rr_next,
        width=measure_qrs_width(windows, config=config),
        config=config,
    )
    blocks = [survey(beats, start, stop) for start, stop in block_bounds(n_beats, config)]
    recording = recording_template(blocks, config)
    kept = kept_parts(n_beats, config)
    parts = [
        describe_block(block, beats, recording, keep=keep)
        for block, keep in zip(blocks, kept, strict=True)
    ]
    return BeatFeatures(
        windows=np.concatenate([part[0] for part in parts]),
        features=np.concatenate([part[1] for part in parts]),
        rr_prev_s=rr_prev,
        rr_next_s=rr_next,
        qrs_width_s=beats.width,
        is_template_beat=np.concatenate([part[2] for part in parts]),
        shapes=tuple(block.shapes(keep) for block, keep in zip(blocks, kept, strict=True)),
    )


def _usual_if_unknown(log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(log_ratio), -1.5, 1.5)


def _shape_features(
    windows: NDArray[np.float32],
    template: NDArray[np.float32],
    width: NDArray[np.float64],
    config: BeatConfig,
) -> NDArray[np.float64]:
    """Similarity, residual, width and size of each beat against the template."""
    (qrs, beat), (qrs_t, beat_t) = cut_forms(windows, config), cut_forms(template, config)
    p_part, t_part = _part(-0.265, -0.085), _part(0.1, 0.415)
    qrs_units = unit_rows(qrs)
    qrs_similarity = qrs_units @ unit_rows(qrs_t)
    beat_similarity = unit_rows(beat) @ unit_rows(beat_t)
    to_previous = np.concatenate(
        [np.ones(1, np.float32), (qrs_units[1:] * qrs_units[:-1]).sum(axis=1)]
    )
    template_width = measure_qrs_width(template[None], config=config)[0]
    qrs_size = np.linalg.norm(qrs_t - qrs_t.mean()) + 1e-9
    beat_size = np.linalg.norm(beat_t - beat_t.mean()) + 1e-9
    columns: list[NDArray[np.floating]] = [
        qrs_similarity,
        beat_similarity,
        unit_rows(windows[:, p_part]) @ unit_rows(template[p_part]),
        unit_rows(windows[:, t_part]) @ unit_rows(template[t_part]),
        np.log(np.linalg.norm(qrs - qrs_t, axis=1) / qrs_size + 0.01),
        np.log(np.linalg.norm(beat - beat_t, axis=1) / beat_size + 0.01),
        np.log(width / template_width),
        width,
        np.log(np.ptp(qrs, axis=1) / max(float(np.ptp(qrs_t)), 1e-9) + 1e-3),
        _of_previous(qrs_similarity),
        _of_next(qrs_similarity),
        _of_previous(beat_similarity),
        _of_next(beat_similarity),
        to_previous,
        _of_next(to_previous),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _excess_features(
    features: NDArray[np.float64], is_template_beat: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Compare differences to the template with those that its own beats have."""
    # Floors: differences as small as these come from sampling alone.
    likeness = _columns(
        features, "qrs_similarity", "beat_similarity", "p_similarity", "t_similarity"
    )
    likeness_floor = np.array([0.003, 0.005, 0.02, 0.02])
    residual = _columns(features, "qrs_residual", "beat_residual")
    size = _columns(features, "qrs_width_s", "amplitude_ratio")
    size_floor = np.array([0.005, 0.03])

    def usual(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.median(values[is_template_beat], axis=0))

    unlikeness = 1 - likeness
    middle = usual(np.concatenate([unlikeness, likeness, residual, size], axis=1))
    usual_unlikeness, usual_likeness, usual_residual, usual_size = np.split(middle, [4, 8, 10])
    centred = size - usual_size
    deviation = 1.4826 * usual(np.abs(centred)) + size_floor
    constant = np.broadcast_to(usual_likeness[[0, 2, 3]], (len(features), 3))
    return np.concatenate(
        [
            np.log((unlikeness + likeness_floor) / (usual_unlikeness + likeness_floor)),
            residual - usual_residual,
            np.arcsinh(centred / deviation),
            constant,
        ],
        axis=1,
    )


def _noise_features(difference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Measure what is left of each beat outside its QRS complex, where movement shows.

    Parameters
    ----------
    difference : ndarray of shape (n_beats, 360)
        Beat minus template, in QRS amplitudes of the template.

    Returns
    -------
    ndarray of shape (n_beats, 7)

    """
    before, after = difference[:, _part(-0.5, -0.13)], difference[:, _part(0.13, 0.5)]
    rest = np.concatenate([before, after], axis=1).astype(np.float64)
    slopes = np.concatenate([np.diff(before, axis=1), np.diff(after, axis=1)], axis=1)
    level = np.log(rest.std(axis=1) + 0.01)
    slope = np.log(np.sqrt(np.mean(slopes.astype(np.float64) ** 2, axis=1)) + 0.001)
    size = min(_NOISE_BEATS, len(difference))
    return np.stack(
        [
            level,
            np.log(np.abs(rest).max(axis=1) + 0.02),
            slope,
            ndimage.median_filter(level, size=size, mode="nearest"),
            ndimage.median_filter(slope, size=size, mode="nearest"),
            ndimage.maximum_filter1d(level, 3, mode="nearest"),
            np.log(np.abs(after.mean(axis=1) - before.mean(axis=1)) + 0.01),
        ],
        axis=1,
    )


def _columns(features: NDArray[np.float64], *names: str) -> NDArray[np.float64]:
    return features[:, [FEATURE_NAMES.index(name) for name in names]]


def _part(start_s: float, stop_s: float) -> slice:
    """Columns of a window between two times from the R-peak."""
    return slice(CENTRE + round(start_s * FS_HZ), CENTRE + round(stop_s * FS_HZ))


def _of_previous(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.concatenate([values[:1], values[:-1]])


def _of_next(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.concatenate([values[1:], values[-1:]])


def describe_block(
    block: Block, beats: Beats, recording: NDArray[np.float32], *, keep: slice
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Compute windows and features against the template that fits the whole recording."""
    config = beats.config
    windows = windows_of(beats, block.part)
    form_of_recording = forms_of(recording[None], config)
    to_recording = block.forms.similarity(form_of_recording, config)[:, 0]
    score = block.score + config.score_recording * np.clip(to_recording, 0, 1)
    weights = block.sameness[int(np.argmax(score))]
    template = weighted_mean(weights, windows)
    shift = best_shift(beats, block.part, template)
    windows = windows_of(beats, block.part, shift)
    is_template_beat = weights > 0.5
    template = weighted_mean(weights, windows)
    amplitude = max(float(np.ptp(cut_forms(template, config)[0])), 1e-9)

    form = forms_of(template[None], config)
    fit_of_template = form.similarity(form_of_recording, config)[0, 0]
    features = np.concatenate(
        [
            _rhythm_features(block, beats, is_template_beat),
            _shape_features(windows, template, beats.width[block.part], config),
            block.shape_features,
            np.stack([to_recording, np.full(len(windows), fit_of_template)], axis=1),
        ],
        axis=1,
    )
    features = np.concatenate([features, _excess_features(features, is_template_beat)], axis=1)
    difference = (windows - template) / np.float32(amplitude)
    features = np.concatenate([features, _noise_features(difference)], axis=1)
    scaled = np.stack([windows / np.float32(amplitude), difference], axis=2)
    return (
        np.clip(scaled[keep], -8, 8).astype(np.float32),
        features[keep].astype(np.float32),
        is_template_beat[keep],
    )


def _rhythm_features(
    block: Block, beats: Beats, is_template_beat: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """RR intervals against those between conducted beats in the neighbourhood."""
    rr_prev, rr_next = beats.rr_prev[block.part], beats.rr_next[block.part]
    follows = np.concatenate([[False], is_template_beat[:-1]])
    conducted = np.flatnonzero(is_template_beat & follows & np.isfinite(rr_prev))
    if len(conducted) >= 5:
        size = min(11, len(conducted))
        local = ndimage.median_filter(rr_prev[conducted], size=size, mode="nearest")
        reference = np.interp(np.arange(len(rr_prev)), conducted, local)
    else:
        usual = float(np.median(rr_prev[conducted])) if len(conducted) >= 3 else block.median_rr_s
        reference = np.full(len(rr_prev), usual)
    prev_ratio = _usual_if_unknown(np.log(rr_prev / reference))
    next_ratio = _usual_if_unknown(np.log(rr_next / reference))
    over_median = np.log(rr_prev / block.median_rr_s)
    known = over_median[np.isfinite(over_median)]
    variability = float(known.std()) if len(known) else 0.0
    return np.stack(
        [
            prev_ratio,
            next_ratio,
            _usual_if_unknown(np.log(rr_prev / rr_next)),
            np.concatenate([[0.0], prev_ratio[:-1]]),
            np.concatenate([next_ratio[1:], [0.0]]),
            _usual_if_unknown(over_median),
            np.full(len(rr_prev), variability),
            reference,
        ],
        axis=1,
    )
