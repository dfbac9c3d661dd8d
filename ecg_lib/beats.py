"""Windows, RR features and the patient-relative template of the beats of one recording.

A ventricular beat is known by what differs from *this* patient's conducted beats: it comes early,
it is wide, it looks different. So every beat is compared with a template of the conducted beats
of the same recording, which is found without labels: among groups of beats of one shape, the one
that is frequent, not premature, not followed by a pause, and narrow. That holds when PVCs
alternate with conducted beats or outnumber them, in a 10 s strip as in a 24 h recording (taken in
overlapping blocks of 240 beats, with a memory of the shape that most blocks agree on).

How different is different depends on the recording: noise and breathing change every beat a
little. So the limit of one shape follows from how much neighbours in shape differ, and each
difference to the template is given twice, as it is and against the usual one of conducted beats.

Constants were chosen on DS1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from ecg_lib.filtering import FS_HZ, pad_ends, unit_rows

WINDOW_SAMPLES = 360
"""Samples of a beat window: one second at 360 Hz, centred on the R-peak."""

FEATURE_NAMES = (
    "rr_prev_ratio",
    "rr_next_ratio",
    "rr_prev_over_next",
    "rr_prev_ratio_of_previous",
    "rr_next_ratio_of_next",
    "rr_prev_over_median",
    "rr_variability",
    "rr_reference_s",
    "qrs_similarity",
    "beat_similarity",
    "p_similarity",
    "t_similarity",
    "qrs_residual",
    "beat_residual",
    "qrs_width_ratio",
    "qrs_width_s",
    "amplitude_ratio",
    "qrs_similarity_of_previous",
    "qrs_similarity_of_next",
    "beat_similarity_of_previous",
    "beat_similarity_of_next",
    "similarity_to_previous",
    "similarity_to_next",
    "shape_share",
    "shape_count",
    "shape_prematurity",
    "shape_pause",
    "shape_qrs_width_s",
    "similarity_to_recording",
    "template_similarity_to_recording",
    "qrs_unlikeness",
    "beat_unlikeness",
    "p_unlikeness",
    "t_unlikeness",
    "qrs_residual_excess",
    "beat_residual_excess",
    "qrs_width_excess",
    "amplitude_excess",
    "usual_qrs_similarity",
    "usual_p_similarity",
    "usual_t_similarity",
)
"""Names of the columns of :attr:`BeatFeatures.features`; ratios are natural logarithms.

``unlikeness`` and ``excess`` are differences to the template in units of those that the
recording's conducted beats usually have; ``usual`` is what they usually have.
"""

_CENTRE = WINDOW_SAMPLES // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatConfig:
    """Constants of the template and the features."""

    block_beats: int = 240
    qrs_half_s: float = 0.15
    """Half of the window in which QRS shapes are compared."""
    beat_before_s: float = 0.25
    beat_after_s: float = 0.39
    """The window in which whole beats (PR segment, QRS, ST, T) are compared."""
    qrs_weight: float = 0.65
    """Share of the QRS in the similarity of two beats; the rest is the whole beat's."""
    same_shape_differences: float = 5.0
    """Two beats are of one shape when they differ less than this many times what a beat and those
    most similar to it usually do."""
    same_shape_limits: tuple[float, float] = (0.85, 0.975)
    """Least and greatest similarity that this limit may be."""
    same_shape_sharpness: float = 6.0
    """Slope of the transition at the limit, in units of its distance to 1."""
    align_s: float = 0.035
    """How far a beat may be shifted to fit the template."""
    score_share: float = 1.0
    score_prematurity: float = 3.0
    score_pause: float = 1.0
    score_width_per_s: float = 6.0
    score_recording: float = 2.0
    slope_floor: float = 0.10
    """The QRS ends where its slope stays below this share of its greatest slope."""


class ShapeBlock(NamedTuple):
    """How much some beats of a recording are of one shape with the beats around them."""

    rows: slice
    """The beats."""
    columns: slice
    """Those that they are compared with, which they are among."""
    sameness: NDArray[np.float32]
    """From 0 (other shape) to 1 (same), shape ``(n_rows, n_columns)``."""


class BeatFeatures(NamedTuple):
    """What the classifier sees of each beat, in time order."""

    windows: NDArray[np.float32]
    """Shape ``(n_beats, 360, 2)``: the beat, and the beat minus its template.

    Both are in units of the template's QRS amplitude, so the gain of the lead drops out.
    """

    features: NDArray[np.float32]
    """Shape ``(n_beats, len(FEATURE_NAMES))``."""

    rr_prev_s: NDArray[np.float64]
    """Seconds since the previous R-peak, NaN for the first beat."""

    rr_next_s: NDArray[np.float64]
    """Seconds to the next R-peak, NaN for the last beat."""

    qrs_width_s: NDArray[np.float64]
    """Width of the QRS complex in seconds."""

    is_template_beat: NDArray[np.bool_]
    """True for the beats that the template was made of."""

    shapes: tuple[ShapeBlock, ...]
    """Which beats are of one shape; the rows of all blocks are the beats in order."""


def extract_beats(
    signal: NDArray[np.float64],
    r_peaks: NDArray[np.int64],
    *,
    config: BeatConfig | None = None,
) -> BeatFeatures:
    """Cut windows and compute features of every beat of one recording.

    Windows that reach beyond the signal are filled with its end values; RR intervals that do not
    exist count as usual ones, so the first and the last beat are reported like any other.

    Parameters
    ----------
    signal : ndarray of shape (n_samples,)
        One lead at 360 Hz, band-passed.
    r_peaks : ndarray of int64, shape (n_beats,)
        Ascending sample positions.
    config : BeatConfig, optional

    Returns
    -------
    BeatFeatures
        One row for each R-peak; empty arrays when there is none.

    """
    config = config or BeatConfig()
    n_beats = len(r_peaks)
    if n_beats == 0:
        return _no_beats()
    intervals = np.diff(r_peaks) / FS_HZ
    rr_prev = np.concatenate([[np.nan], intervals])
    rr_next = np.concatenate([intervals, [np.nan]])
    margin = round(config.align_s * FS_HZ)
    wide = _cut(signal, r_peaks, _CENTRE + margin)  # (n_beats, 360 + 2 margin)
    beats = _Beats(
        wide=wide,
        margin=margin,
        rr_prev=rr_prev,
        rr_next=rr_next,
        width=measure_qrs_width(wide[:, margin : margin + WINDOW_SAMPLES], config=config),
        config=config,
    )
    blocks = [_Block.survey(beats, start, stop) for start, stop in _block_bounds(n_beats, config)]
    recording = _recording_template(blocks, config)
    kept = _kept_parts(n_beats, config)
    parts = [
        block.describe(beats, recording, keep=keep)
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


def measure_qrs_width(
    windows: NDArray[np.floating], *, config: BeatConfig | None = None
) -> NDArray[np.float64]:
    """Measure the QRS width of beats from the slope of one lead.

    From the steepest point outwards, the complex ends where the slope stays below a share of its
    greatest value for 40 ms (a rounded peak is flat for less).

    Parameters
    ----------
    windows : ndarray of shape (n_beats, n_samples)
        Windows at 360 Hz with the R-peak in the middle.

    Returns
    -------
    ndarray of shape (n_beats,)
        Seconds, at most 0.3.

    """
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


def _no_beats() -> BeatFeatures:
    nothing = np.zeros(0)
    return BeatFeatures(
        windows=np.zeros((0, WINDOW_SAMPLES, 2), dtype=np.float32),
        features=np.zeros((0, len(FEATURE_NAMES)), dtype=np.float32),
        rr_prev_s=nothing,
        rr_next_s=nothing,
        qrs_width_s=nothing,
        is_template_beat=np.zeros(0, dtype=np.bool_),
        shapes=(),
    )


def _cut(
    signal: NDArray[np.float64], positions: NDArray[np.int64], half: int
) -> NDArray[np.float32]:
    padded = pad_ends(signal.astype(np.float32), half)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * half)[positions])


def _block_bounds(n_beats: int, config: BeatConfig) -> list[tuple[int, int]]:
    """Blocks of beats that overlap by half."""
    size = config.block_beats
    if n_beats <= size:
        return [(0, n_beats)]
    return [
        (start, min(start + size, n_beats)) for start in range(0, n_beats - size // 2, size // 2)
    ]


def _kept_parts(n_beats: int, config: BeatConfig) -> list[slice]:
    """The middle of each block, so that together they cover each beat once."""
    bounds = _block_bounds(n_beats, config)
    quarter = config.block_beats // 4
    last = len(bounds) - 1
    return [
        slice(
            0 if index == 0 else quarter,
            stop - start if index == last else 3 * quarter,
        )
        for index, (start, stop) in enumerate(bounds)
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Beats:
    """All beats of the recording, with room to shift them."""

    wide: NDArray[np.float32]
    margin: int
    rr_prev: NDArray[np.float64]
    rr_next: NDArray[np.float64]
    width: NDArray[np.float64]
    config: BeatConfig

    def windows(self, part: slice, shift: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        wide = self.wide[part]
        if shift is None:
            return wide[:, self.margin : self.margin + WINDOW_SAMPLES]
        columns = (self.margin + shift)[:, None] + np.arange(WINDOW_SAMPLES)
        return np.asarray(np.take_along_axis(wide, columns, axis=1))


def _qrs_of(windows: NDArray[np.float32], config: BeatConfig) -> NDArray[np.float32]:
    half = round(config.qrs_half_s * FS_HZ)
    return windows[..., _CENTRE - half : _CENTRE + half]


def _beat_of(windows: NDArray[np.float32], config: BeatConfig) -> NDArray[np.float32]:
    start = _CENTRE - round(config.beat_before_s * FS_HZ)
    stop = _CENTRE + round(config.beat_after_s * FS_HZ)
    return windows[..., start:stop:2]


class _Forms(NamedTuple):
    """What beats are compared by: QRS complex and whole beat, centred and of length one."""

    qrs: NDArray[np.float32]
    beat: NDArray[np.float32]

    @staticmethod
    def of(windows: NDArray[np.float32], config: BeatConfig) -> _Forms:
        return _Forms(unit_rows(_qrs_of(windows, config)), unit_rows(_beat_of(windows, config)))

    def similarity(self, others: _Forms, config: BeatConfig) -> NDArray[np.float32]:
        """Similarity of every beat to every one of the others, -1 to 1."""
        # Copies: of a matrix and itself BLAS makes a product that is rounded otherwise, and the
        # similarity of two beats must not depend on where the other one is from.
        qrs, beat = self.qrs @ others.qrs.copy().T, self.beat @ others.beat.copy().T
        return np.asarray(config.qrs_weight * qrs + (1 - config.qrs_weight) * beat)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Up to 240 neighbouring beats, their groups of one shape and the best template in them."""

    part: slice
    forms: _Forms
    sameness: NDArray[np.float32]
    """How much two beats are of one shape, 0 to 1, shape ``(n, n)``."""
    shape_features: NDArray[np.float64]
    """Share, count, prematurity, pause and QRS width of each beat's shape, shape ``(n, 5)``."""
    score: NDArray[np.float64]
    """How much each beat's shape looks like the conducted one."""
    median_rr_s: float
    template: NDArray[np.float32]
    weight: float

    @staticmethod
    def survey(beats: _Beats, start: int, stop: int) -> _Block:
        config = beats.config
        part = slice(start, stop)
        windows = beats.windows(part)
        forms = _Forms.of(windows, config)
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
        return _Block(
            part=part,
            forms=forms,
            sameness=sameness,
            shape_features=np.stack([share, count, prematurity, pause, width], axis=1),
            score=score,
            median_rr_s=median_rr,
            template=_weighted_mean(sameness[best], windows),
            weight=float(sameness[best].sum()),
        )

    def shapes(self, keep: slice) -> ShapeBlock:
        """Tell the sameness of some of the block's beats with all of it."""
        start = self.part.start
        rows = slice(start + keep.start, start + keep.stop)
        return ShapeBlock(rows, self.part, self.sameness[keep])

    def describe(
        self, beats: _Beats, recording: NDArray[np.float32], *, keep: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Compute windows and features against the template that fits the whole recording."""
        config = beats.config
        windows = beats.windows(self.part)
        form_of_recording = _Forms.of(recording[None], config)
        to_recording = self.forms.similarity(form_of_recording, config)[:, 0]
        score = self.score + config.score_recording * np.clip(to_recording, 0, 1)
        weights = self.sameness[int(np.argmax(score))]
        template = _weighted_mean(weights, windows)
        shift = _best_shift(beats, self.part, template)
        windows = beats.windows(self.part, shift)
        is_template_beat = weights > 0.5
        template = _weighted_mean(weights, windows)
        amplitude = max(float(np.ptp(_qrs_of(template, config))), 1e-9)

        form = _Forms.of(template[None], config)
        fit_of_template = form.similarity(form_of_recording, config)[0, 0]
        features = np.concatenate(
            [
                self._rhythm_features(beats, is_template_beat),
                _shape_features(windows, template, beats.width[self.part], config),
                self.shape_features,
                np.stack([to_recording, np.full(len(windows), fit_of_template)], axis=1),
            ],
            axis=1,
        )
        features = np.concatenate([features, _excess_features(features, is_template_beat)], axis=1)
        scaled = np.stack([windows, windows - template], axis=2) / np.float32(amplitude)
        return (
            np.clip(scaled[keep], -8, 8).astype(np.float32),
            features[keep].astype(np.float32),
            is_template_beat[keep],
        )

    def _rhythm_features(
        self, beats: _Beats, is_template_beat: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """RR intervals against those between conducted beats in the neighbourhood."""
        rr_prev, rr_next = beats.rr_prev[self.part], beats.rr_next[self.part]
        follows = np.concatenate([[False], is_template_beat[:-1]])
        conducted = np.flatnonzero(is_template_beat & follows & np.isfinite(rr_prev))
        if len(conducted) >= 5:
            size = min(11, len(conducted))
            local = ndimage.median_filter(rr_prev[conducted], size=size, mode="nearest")
            reference = np.interp(np.arange(len(rr_prev)), conducted, local)
        else:
            usual = (
                float(np.median(rr_prev[conducted])) if len(conducted) >= 3 else self.median_rr_s
            )
            reference = np.full(len(rr_prev), usual)
        prev_ratio = _usual_if_unknown(np.log(rr_prev / reference))
        next_ratio = _usual_if_unknown(np.log(rr_next / reference))
        over_median = np.log(rr_prev / self.median_rr_s)
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


def _weighted_mean(
    weights: NDArray[np.float32], windows: NDArray[np.float32]
) -> NDArray[np.float32]:
    return np.asarray((weights / weights.sum()) @ windows, dtype=np.float32)


def _usual_if_unknown(log_ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(log_ratio), -1.5, 1.5)


def _recording_template(blocks: list[_Block], config: BeatConfig) -> NDArray[np.float32]:
    """Mean of the block templates that most beats of the recording agree with."""
    if len(blocks) == 1:
        return blocks[0].template
    templates = np.stack([block.template for block in blocks])
    weights = np.array([block.weight for block in blocks])
    forms = _Forms.of(templates, config)
    agrees = forms.similarity(forms, config) > 0.85
    np.fill_diagonal(agrees, val=True)  # a flat template resembles nothing, not even itself
    quality = np.array([block.score.max() for block in blocks])
    support = agrees @ weights / weights.sum() + 0.3 * quality
    return _weighted_mean(weights * agrees[int(np.argmax(support))], templates)


def _best_shift(beats: _Beats, part: slice, template: NDArray[np.float32]) -> NDArray[np.int64]:
    """Shift, in samples, at which the QRS of each beat correlates best with the template's."""
    margin, config = beats.margin, beats.config
    half = round(config.qrs_half_s * FS_HZ)
    target = unit_rows(_qrs_of(template, config))
    shifts = np.arange(-margin, margin + 1)
    reach = beats.wide[part, _CENTRE - half : _CENTRE + half + 2 * margin]
    # (n_beats, n_shifts, 2 half) @ (2 half,)
    fits = unit_rows(sliding_window_view(reach, 2 * half, axis=1)) @ target
    # A shift must pay: without this, beats unlike the template wander.
    fits -= 0.002 * np.abs(shifts)
    return np.asarray(shifts[fits.argmax(axis=1)])


def _shape_features(
    windows: NDArray[np.float32],
    template: NDArray[np.float32],
    width: NDArray[np.float64],
    config: BeatConfig,
) -> NDArray[np.float64]:
    """Similarity, residual, width and size of each beat against the template."""
    qrs, qrs_t = _qrs_of(windows, config), _qrs_of(template, config)
    beat, beat_t = _beat_of(windows, config), _beat_of(template, config)
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


def _columns(features: NDArray[np.float64], *names: str) -> NDArray[np.float64]:
    return features[:, [FEATURE_NAMES.index(name) for name in names]]


def _part(start_s: float, stop_s: float) -> slice:
    """Columns of a window between two times from the R-peak."""
    return slice(_CENTRE + round(start_s * FS_HZ), _CENTRE + round(stop_s * FS_HZ))


def _of_previous(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.concatenate([values[:1], values[:-1]])


def _of_next(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.concatenate([values[1:], values[-1:]])
