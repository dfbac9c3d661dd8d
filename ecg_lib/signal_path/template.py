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
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.records.limits import FS_HZ
from ecg_lib.signal_path.filtering import median, unit_rows
from ecg_lib.signal_path.kernels.library import run_kernel

WINDOW_SAMPLES = 360
"""Samples of a beat window: one second at 360 Hz, centred on the R-peak."""

CENTRE = WINDOW_SAMPLES // 2

_WIDTH_SAMPLES = 124
"""Least that the width of a QRS complex is measured on."""


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

    def __post_init__(self) -> None:
        # The kernels read these parts of a window without looking where it ends.
        for name in ("qrs_half_s", "beat_before_s", "beat_after_s"):
            length_s = getattr(self, name)
            if not 1 / FS_HZ <= length_s <= CENTRE / FS_HZ:
                msg = f"{name} must be within half a window, {CENTRE / FS_HZ:g} s, got {length_s}"
                raise ValueError(msg)
        if self.align_s < 0:
            msg = f"align_s must not be negative, got {self.align_s}"
            raise ValueError(msg)
        if self.block_beats < 4:
            msg = f"block_beats must be at least 4, got {self.block_beats}"
            raise ValueError(msg)


class ShapeBlock(NamedTuple):
    """How much some beats of a recording are of one shape with the beats around them."""

    rows: slice
    """The beats."""
    columns: slice
    """Those that they are compared with, which they are among."""
    sameness: NDArray[np.float32]
    """From 0 (other shape) to 1 (same), shape ``(n_rows, n_columns)``."""


def measure_qrs_width(
    windows: NDArray[np.floating], *, config: BeatConfig | None = None
) -> NDArray[np.float64]:
    """Measure the QRS width of beats from the slope of one lead.

    From the steepest point outwards, the complex ends where the slope stays below a share of its
    greatest value for 40 ms (a rounded peak is flat for less).

    Parameters
    ----------
    windows : ndarray of shape (n_beats, n_samples)
        Windows at 360 Hz with the R-peak in the middle, at least 124 samples.

    Returns
    -------
    ndarray of shape (n_beats,)
        Seconds, at most 0.3.

    Raises
    ------
    ValueError
        If the windows are shorter.

    """
    rows = np.ascontiguousarray(windows, dtype=np.float32)
    widths = np.empty(len(rows))
    n_rows, n_samples = rows.shape
    if n_samples < _WIDTH_SAMPLES:
        msg = f"windows must have at least {_WIDTH_SAMPLES} samples, got {n_samples}"
        raise ValueError(msg)
    floor = (config or BeatConfig()).slope_floor
    run_kernel("measure_widths", rows, n_rows, n_samples, n_samples // 2, floor, widths)
    return widths


def block_bounds(n_beats: int, config: BeatConfig) -> list[tuple[int, int]]:
    """Blocks of beats that overlap by half."""
    size = config.block_beats
    if n_beats <= size:
        return [(0, n_beats)]
    return [
        (start, min(start + size, n_beats)) for start in range(0, n_beats - size // 2, size // 2)
    ]


def kept_parts(n_beats: int, config: BeatConfig) -> list[slice]:
    """The middle of each block, so that together they cover each beat once."""
    bounds = block_bounds(n_beats, config)
    quarter = config.block_beats // 4
    last = len(bounds) - 1
    return [
        slice(
            0 if index == 0 else quarter,
            stop - start if index == last else 3 * quarter,
        )
        for index, (start, stop) in enumerate(bounds)
    ]


class FormBounds(NamedTuple):
    """The parts of a window that beats are compared by, in samples from its R-peak."""

    qrs_half: int
    beat_before: int
    beat_after: int

    @staticmethod
    def of(config: BeatConfig) -> FormBounds:
        """Turn the seconds of a configuration into samples."""
        seconds = (config.qrs_half_s, config.beat_before_s, config.beat_after_s)
        return FormBounds(*(round(length_s * FS_HZ) for length_s in seconds))

    @property
    def beat_points(self) -> int:
        """Samples of the whole beat at half the rate."""
        return (self.beat_before + self.beat_after + 1) // 2

    def parts_of_a_window(self) -> tuple[slice, slice]:
        """Columns of the QRS complex and of the whole beat."""
        return (
            slice(CENTRE - self.qrs_half, CENTRE + self.qrs_half),
            slice(CENTRE - self.beat_before, CENTRE + self.beat_after, 2),
        )


@lru_cache(maxsize=8)
def list_constants(config: BeatConfig) -> NDArray[np.float64]:
    """List the constants of a configuration in the order of the kernels."""
    return np.array(
        [
            *FormBounds.of(config),
            config.qrs_weight,
            config.same_shape_differences,
            *config.same_shape_limits,
            config.same_shape_sharpness,
            config.score_share,
            config.score_prematurity,
            config.score_pause,
            config.score_width_per_s,
            config.score_recording,
            config.slope_floor,
        ],
        dtype=np.float64,
    )


class Forms(NamedTuple):
    """The parts that beats are compared by, centred, of length one."""

    qrs: NDArray[np.float32]
    """QRS complexes, shape ``(n_beats, 108)``."""

    beat: NDArray[np.float32]
    """PR segment to T wave at half the rate, shape ``(n_beats, 115)``."""

    def part(self, rows: slice) -> Forms:
        """Take some of the rows."""
        return Forms(self.qrs[rows], self.beat[rows])

    def similarity(self, others: Forms, config: BeatConfig) -> NDArray[np.float32]:
        """Similarity of every beat to every one of the others, -1 to 1."""
        # Copies: of a matrix and itself BLAS makes a product that is rounded otherwise, and the
        # similarity of two beats must not depend on where the other one is from.
        qrs, beat = self.qrs @ others.qrs.copy().T, self.beat @ others.beat.copy().T
        return np.asarray(config.qrs_weight * qrs + (1 - config.qrs_weight) * beat)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beats:
    """All beats of the recording, with room to shift them."""

    wide: NDArray[np.float32]
    """Windows with `margin` samples more on both sides."""
    margin: int
    forms: Forms
    rr_prev: NDArray[np.float64]
    rr_next: NDArray[np.float64]
    width: NDArray[np.float64]
    config: BeatConfig

    @property
    def windows(self) -> NDArray[np.float32]:
        """Windows without the room to shift them, shape ``(n_beats, 360)``."""
        return self.wide[:, self.margin : self.margin + WINDOW_SAMPLES]

    @staticmethod
    def cut(
        signal: NDArray[np.float64],
        r_peaks: NDArray[np.int64],
        *,
        rr_prev: NDArray[np.float64],
        rr_next: NDArray[np.float64],
        config: BeatConfig,
    ) -> Beats:
        """Cut the beats of a signal; its ends go on with their values."""
        margin, n_beats, bounds = round(config.align_s * FS_HZ), len(r_peaks), FormBounds.of(config)
        half = CENTRE + margin
        wide = np.empty((n_beats, 2 * half), dtype=np.float32)
        forms = Forms(
            np.empty((n_beats, 2 * bounds.qrs_half), dtype=np.float32),
            np.empty((n_beats, bounds.beat_points), dtype=np.float32),
        )
        run_kernel("cut_beats", signal, len(signal), r_peaks, n_beats, half, *bounds, wide, *forms)
        return Beats(
            wide=wide,
            margin=margin,
            forms=forms,
            rr_prev=rr_prev,
            rr_next=rr_next,
            width=measure_qrs_width(wide, config=config),
            config=config,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Up to 240 neighbouring beats, their groups of one shape and the best template in them."""

    part: slice
    forms: Forms
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
    def survey(beats: Beats, start: int, stop: int) -> Block:
        """Compare the beats of a block with each other and choose its template."""
        config = beats.config
        part = slice(start, stop)
        forms = beats.forms.part(part)
        rr_prev, n = beats.rr_prev[part], stop - start
        known = rr_prev[np.isfinite(rr_prev)]
        median_rr = median(known) if len(known) else 0.8
        sameness = np.empty((n, n), dtype=np.float32)
        shape_features, score = np.empty((n, 5)), np.empty(n)
        template = np.empty(WINDOW_SAMPLES, dtype=np.float32)
        best = run_kernel(
            "survey",
            forms.similarity(forms, config),
            beats.wide[part],
            n,
            beats.margin,
            rr_prev,
            beats.rr_next[part],
            beats.width[part],
            median_rr,
            list_constants(config),
            sameness,
            shape_features,
            score,
            template,
        )
        return Block(
            part=part,
            forms=forms,
            sameness=sameness,
            shape_features=shape_features,
            score=score,
            median_rr_s=median_rr,
            template=template,
            weight=float(sameness[best].sum()),
        )

    def shapes(self, keep: slice) -> ShapeBlock:
        """Return the sameness of some of the block's beats with all of it."""
        start = self.part.start
        rows = slice(start + keep.start, start + keep.stop)
        return ShapeBlock(rows, self.part, self.sameness[keep])


def recording_template(blocks: list[Block], config: BeatConfig) -> NDArray[np.float32]:
    """Mean of the block templates that most beats of the recording agree with."""
    if len(blocks) == 1:
        return blocks[0].template
    templates = np.stack([block.template for block in blocks])
    weights = np.array([block.weight for block in blocks])
    qrs, beat = (
        unit_rows(templates[:, part]) for part in FormBounds.of(config).parts_of_a_window()
    )
    forms = Forms(qrs, beat)
    agrees = forms.similarity(forms, config) > 0.85
    np.fill_diagonal(agrees, val=True)  # a flat template resembles nothing, not even itself
    quality = np.array([block.score.max() for block in blocks])
    support = agrees @ weights / weights.sum() + 0.3 * quality
    agreed = weights * agrees[int(np.argmax(support))]
    return np.asarray((agreed / agreed.sum()) @ templates, dtype=np.float32)
