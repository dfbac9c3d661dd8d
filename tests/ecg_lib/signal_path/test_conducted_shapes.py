"""A second shape of conducted beats is found by its rhythm, and ventricular beats are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.signal_path.conducted_shapes import ConductedShape, assign_shapes
from ecg_lib.signal_path.features import FEATURE_NAMES, BeatFeatures, extract_beats
from flows.release.load_released import read_reference

FS = 360.0
NARROW, OTHER, WIDE = "narrow", "other", "wide"
_QRS = {
    NARROW: ((-0.028, 0.009, -0.2), (0.0, 0.010, 1.2), (0.028, 0.009, -0.3)),
    OTHER: ((-0.020, 0.010, 0.5), (0.005, 0.011, -1.1), (0.034, 0.010, 0.2)),
    WIDE: ((-0.040, 0.030, 0.3), (0.020, 0.035, -1.2), (0.100, 0.040, 0.4)),
}
"""Time, deviation in seconds and height in mV of each wave."""


def draw(
    shapes: Sequence[str], *, rr_s: float | Sequence[float] = 0.8
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw beats of given shapes and the intervals before them; only narrow ones have a P wave."""
    generator = np.random.default_rng(5)
    intervals = np.broadcast_to(np.asarray(rr_s, dtype=np.float64), len(shapes)).copy()
    at_s = 1.0 + np.cumsum(intervals * generator.normal(1.0, 0.02, len(shapes)))
    time_s = np.arange(round((at_s[-1] + 1.0) * FS)) / FS
    signal = 0.01 * generator.standard_normal(len(time_s))
    for shape, beat_s in zip(shapes, at_s, strict=True):
        p_wave = () if shape == WIDE else ((-0.16, 0.02, 0.12),)
        for offset_s, deviation_s, height_mv in (*p_wave, *_QRS[shape], (0.28, 0.05, 0.3)):
            away = (time_s - beat_s - offset_s) / deviation_s
            signal += height_mv * np.exp(-0.5 * away**2)
    return signal, np.round(at_s * FS).astype(np.int64)


def column(beats: BeatFeatures, name: str) -> NDArray[np.float32]:
    return beats.features[:, FEATURE_NAMES.index(name)]


def likeness(shapes: Sequence[str], of: str, *, rr_s: float | Sequence[float] = 0.8) -> float:
    """Median similarity of the beats of a shape to what they are compared with."""
    found = column(extract_beats(*draw(shapes, rr_s=rr_s)), "qrs_similarity")
    return float(np.median(found[np.array(shapes) == of]))


def alternate(stretch: int) -> list[str]:
    """Stretches of two conducted shapes, with more beats of the first."""
    return ([NARROW] * 20 + [OTHER] * stretch) * 6


def test_stretches_of_a_second_narrow_shape_are_compared_with_their_own() -> None:
    shapes = alternate(12)
    beats = extract_beats(*draw(shapes))
    is_other = np.array(shapes) == OTHER
    assert column(beats, "qrs_similarity").min() > 0.95
    assert np.abs(beats.windows[..., 1]).max() < 0.4  # the difference to the template
    assert beats.is_template_beat.all()
    assert column(beats, "qrs_similarity_of_previous")[1:] == pytest.approx(
        column(beats, "qrs_similarity")[:-1]
    )
    assert column(beats, "beat_similarity_of_next")[:-1] == pytest.approx(
        column(beats, "beat_similarity")[1:]
    )
    assert column(beats, "rr_reference_s")[is_other] == pytest.approx(0.8, rel=0.05)


def test_a_shape_needs_eight_beats_in_a_row() -> None:
    assert likeness(alternate(8), OTHER) > 0.95
    assert likeness(alternate(7), OTHER) < 0.6


def test_once_found_a_shape_holds_for_its_single_beats_too() -> None:
    shapes = [NARROW] * 30 + [OTHER] * 10 + [NARROW] * 30 + [OTHER] + [NARROW] * 30
    found = column(extract_beats(*draw(shapes)), "qrs_similarity")
    assert found[70] > 0.95


def test_wide_beats_in_stretches_stay_unlike() -> None:
    """An accelerated idioventricular rhythm has the rate of the sinus rhythm."""
    shapes = ([NARROW] * 40 + [WIDE] * 16) * 3
    assert likeness(shapes, WIDE) < 0.6


def test_wide_beats_that_the_template_is_hardly_among_are_conducted() -> None:
    """Noise and P waves can widen what is measured; most beats of a block are conducted."""
    shapes = [NARROW] * 40 + [OTHER] * 6 + [WIDE] * 70
    assert likeness(shapes, NARROW) > 0.95
    assert likeness(shapes, WIDE) > 0.95


def test_wide_beats_of_another_rate_are_never_conducted() -> None:
    shapes = [NARROW] * 40 + [WIDE] * 70
    intervals = [0.8] * 40 + [0.55] * 70
    assert likeness(shapes, WIDE, rr_s=intervals) < 0.6


def test_premature_beats_of_a_narrow_shape_stay_unlike() -> None:
    shapes = ([NARROW] * 2 + [OTHER]) * 60
    intervals = [1.1, 0.8, 0.5] * 60
    assert likeness(shapes, OTHER, rr_s=intervals) < 0.6


def test_a_bigeminy_has_the_same_rows_as_before() -> None:
    """The rows of a block without a second conducted shape are those of its template."""
    shapes = [NARROW, WIDE] * 50
    beats = extract_beats(*draw(shapes, rr_s=[1.0, 0.5] * 50))
    is_wide = np.array(shapes) == WIDE
    assert not beats.is_template_beat[is_wide].any()
    assert beats.is_template_beat[~is_wide].all()


@pytest.mark.parametrize(
    ("template", "members", "expected"),
    [
        ([0, 1, 6], [[3, 4]], [0, 0, 0, 1, 1, 1, 0, 0]),  # of equal distance: the earlier one
        ([3], [[0], [7]], [1, 1, 0, 0, 0, 0, 2, 2]),
        ([0], [], [0] * 8),
    ],
)
def test_each_beat_is_compared_with_the_nearest_conducted_one(
    template: list[int], members: list[list[int]], expected: list[int]
) -> None:
    def mask(at: list[int]) -> NDArray[np.bool_]:
        return np.isin(np.arange(8), at)

    shapes = [ConductedShape(at[0], mask(at)) for at in members]
    assert assign_shapes(mask(template), shapes).tolist() == expected


def test_the_reference_calls_a_second_conducted_shape_n_and_a_wide_early_beat_v() -> None:
    classifier = BeatClassifier.load(read_reference())
    shapes = [*alternate(12), WIDE, *([NARROW] * 10)]
    intervals = [0.8] * len(shapes)
    intervals[-11:-9] = [0.45, 1.15]
    signal, peaks = draw(shapes, rr_s=intervals)
    found = classifier.classify(signal, fs=FS, r_peaks=peaks)
    assert found.is_v.nonzero()[0].tolist() == [len(shapes) - 11]
