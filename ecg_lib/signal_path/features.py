"""Features of the beats of one recording: RR intervals and differences to the template."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.conducted_shapes import (
    ConductedShape,
    assign_shapes,
    find_conducted_shapes,
)
from ecg_lib.signal_path.filtering import filter_rank, pad_ends
from ecg_lib.signal_path.kernels.library import run_kernel
from ecg_lib.signal_path.template import (
    WINDOW_SAMPLES,
    BeatConfig,
    Beats,
    Block,
    ShapeBlock,
    block_bounds,
    kept_parts,
    list_constants,
    recording_template,
)

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
    "noise_level",
    "noise_peak",
    "noise_slope",
    "noise_level_around",
    "noise_slope_around",
    "noise_worst_around",
    "noise_drift",
)
"""Names of the columns of :attr:`BeatFeatures.features`; ratios are natural logarithms.

``unlikeness`` and ``excess`` are differences to the template in units of those that the
recording's conducted beats usually have; ``usual`` is what they usually have. ``noise`` is what
differs from the template outside the QRS complex, in QRS amplitudes, at a beat and around it, the
median of nine beats.
"""


class BeatFeatures(NamedTuple):
    """The classifier's input for each beat, in time order."""

    windows: NDArray[np.float32]
    """Shape ``(n_beats, 360, 2)``: the beat, and the beat minus its template.

    Both are in units of the template's QRS amplitude, so the gain of the lead drops out. The
    template of a beat is that of the conducted shape that it is compared with.
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
    """True for the beats that a template was made of."""

    shapes: tuple[ShapeBlock, ...]
    """Which beats are of one shape; the rows of all blocks are the beats in order."""


def extract_beats(
    signal: NDArray[np.float64],
    r_peaks: NDArray[np.int64],
    *,
    config: BeatConfig | None = None,
    breaks: NDArray[np.bool_] | None = None,
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
    breaks : ndarray of bool, shape (n_beats - 1,), optional
        True where samples are missing between a beat and the next one: they have no RR interval.

    Returns
    -------
    BeatFeatures
        One row for each R-peak; empty arrays when there is none.

    """
    config = config or BeatConfig()
    n_beats = len(r_peaks)
    if n_beats == 0:
        return _no_beats()
    rr_prev, rr_next = measure_intervals(r_peaks, breaks)
    beats = Beats.cut(signal, r_peaks, rr_prev=rr_prev, rr_next=rr_next, config=config)
    blocks = [Block.survey(beats, start, stop) for start, stop in block_bounds(n_beats, config)]
    recording = recording_template(blocks, config)
    kept = kept_parts(n_beats, config)
    described = _Described.empty(n_beats)
    for block, keep in zip(blocks, kept, strict=True):
        _describe_block(block, beats, recording, keep=keep, described=described)
    return BeatFeatures(
        windows=described.windows,
        features=described.features,
        rr_prev_s=rr_prev,
        rr_next_s=rr_next,
        qrs_width_s=beats.width,
        is_template_beat=described.is_template_beat,
        shapes=tuple(block.shapes(keep) for block, keep in zip(blocks, kept, strict=True)),
    )


def measure_intervals(
    r_peaks: NDArray[np.int64], breaks: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure the seconds since the beat before and to the next one, NaN where unknown."""
    intervals = (r_peaks[1:] - r_peaks[:-1]) / FS_HZ
    if breaks is not None and np.count_nonzero(breaks):
        intervals[breaks] = np.nan
    return np.concatenate([[np.nan], intervals]), np.concatenate([intervals, [np.nan]])


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


_NEVER: Final = -1e6
"""Score of a beat that no template is made of."""

_NOISE_BEATS: Final = 9
"""As in `templates.c`, which computes these columns where a block has one template."""
_REACH: Final = _NOISE_BEATS // 2
"""Neighbours on either side that the columns of a beat need."""

_COLUMN: Final = {name: column for column, name in enumerate(FEATURE_NAMES)}

_NEIGHBOURS: Final = tuple(
    tuple(_COLUMN[name + of] for of in ("", "_of_previous", "_of_next"))
    for name in ("qrs_similarity", "beat_similarity")
)
"""Columns that repeat a column of the beats before and after."""


class _Described(NamedTuple):
    windows: NDArray[np.float32]
    features: NDArray[np.float32]
    is_template_beat: NDArray[np.bool_]

    @staticmethod
    def empty(n_beats: int) -> _Described:
        return _Described(
            np.empty((n_beats, WINDOW_SAMPLES, 2), dtype=np.float32),
            np.empty((n_beats, len(FEATURE_NAMES)), dtype=np.float32),
            np.empty(n_beats, dtype=np.bool_),
        )

    def part(self, rows: slice) -> _Described:
        return _Described(self.windows[rows], self.features[rows], self.is_template_beat[rows])


def _describe_block(
    block: Block,
    beats: Beats,
    recording: NDArray[np.float32],
    *,
    keep: slice,
    described: _Described,
) -> None:
    """Compute windows and features against the template, or against another conducted shape.

    See :mod:`ecg_lib.signal_path.conducted_shapes`.
    """
    kept = described.part(slice(block.part.start + keep.start, block.part.start + keep.stop))
    best = _describe(block, beats, recording, score=block.score, keep=keep, described=kept)
    is_template = block.sameness[best] > 0.5
    shapes = find_conducted_shapes(
        block,
        is_template=is_template,
        rr_prev=beats.rr_prev[block.part],
        rr_next=beats.rr_next[block.part],
        windows=beats.wide[block.part],
    )
    if shapes:
        _describe_shapes(block, beats, recording, is_template, shapes, keep=keep, described=kept)


def _describe_shapes(
    block: Block,
    beats: Beats,
    recording: NDArray[np.float32],
    is_template: NDArray[np.bool_],
    shapes: list[ConductedShape],
    *,
    keep: slice,
    described: _Described,
) -> None:
    """Describe each beat against the conducted shape that it is assigned to.

    Rows of another shape than the recording's have that shape in place of the recording's template.
    """
    n_beats = len(is_template)
    # With the neighbours that some columns need.
    wide = slice(max(keep.start - _REACH, 0), min(keep.stop + _REACH, n_beats))
    merged, other = (_Described.empty(wide.stop - wide.start) for _ in range(2))
    _describe(block, beats, recording, score=block.score, keep=wide, described=merged)
    owner = assign_shapes(is_template, shapes)[wide]
    for number, shape in enumerate(shapes, 1):
        weights = block.sameness[shape.beat] * shape.members
        template = (weights / weights.sum()) @ beats.windows[block.part]
        score = np.where(shape.members, block.score, _NEVER)
        _describe(block, beats, template, score=score, keep=wide, described=other)
        for of_merged, of_other in zip(merged, other, strict=True):
            of_merged[owner == number] = of_other[owner == number]
    _put_neighbours(merged.features)
    trimmed = merged.part(slice(keep.start - wide.start, keep.stop - wide.start))
    for of_kept, of_merged in zip(described, trimmed, strict=True):
        of_kept[:] = of_merged


def _put_neighbours(features: NDArray[np.float32]) -> None:
    """Compute the columns that come from neighbouring beats, of rows against several templates."""
    for own, previous, following in _NEIGHBOURS:
        features[1:, previous] = features[:-1, own]
        features[:-1, following] = features[1:, own]
    level = features[:, _COLUMN["noise_level"]].astype(np.float64)
    slope = features[:, _COLUMN["noise_slope"]].astype(np.float64)
    size = min(_NOISE_BEATS, len(features))
    features[:, _COLUMN["noise_level_around"]] = filter_rank(level, size=size)
    features[:, _COLUMN["noise_slope_around"]] = filter_rank(slope, size=size)
    around = pad_ends(level, 1)
    worst = np.maximum(np.maximum(around[:-2], around[2:]), level)
    features[:, _COLUMN["noise_worst_around"]] = worst


def _describe(
    block: Block,
    beats: Beats,
    recording: NDArray[np.float32],
    *,
    score: NDArray[np.float64],
    keep: slice,
    described: _Described,
) -> int:
    """Compute windows and features against the template that fits the whole recording.

    Returns the beat of the block whose shape the template is of.

    The template is that of the beat whose shape looks most like the conducted one, by its score,
    and like the recording's. Beats are shifted to it, by up to 35 ms where that makes their QRS
    complexes more alike, and it is made again of the shifted ones.
    """
    part = block.part
    return run_kernel(
        "describe",
        beats.wide[part],
        part.stop - part.start,
        beats.margin,
        *block.forms,
        block.sameness,
        score,
        block.shape_features,
        recording,
        beats.rr_prev[part],
        beats.rr_next[part],
        beats.width[part],
        block.median_rr_s,
        list_constants(beats.config),
        keep.start,
        keep.stop,
        *described,
    )
