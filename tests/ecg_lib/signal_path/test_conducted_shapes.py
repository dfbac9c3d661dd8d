"""A second shape of conducted beats is found by its rhythm, and ventricular beats are not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.signal_path.conducted_shapes import ConductedShape, assign_shapes
from ecg_lib.signal_path.features import FEATURE_NAMES, BeatFeatures, extract_beats
from flows.release.load_released import read_reference

FS = 360.0
NARROW, OTHER, WIDE, LOW, STEEP = "narrow", "other", "wide", "low", "steep"
BELOW, ABOVE = "just below the limit of width", "just above it"
_QRS = {
    NARROW: ((-0.028, 0.009, -0.2), (0.0, 0.010, 1.2), (0.028, 0.009, -0.3)),
    OTHER: ((-0.020, 0.010, 0.5), (0.005, 0.011, -1.1), (0.034, 0.010, 0.2)),
    LOW: ((-0.012, 0.009, 0.06), (0.012, 0.011, -0.2)),
    STEEP: ((-0.010, 0.010, -0.5), (0.020, 0.014, -1.6), (0.075, 0.035, 0.25)),
    BELOW: ((-0.020, 0.015, 0.3), (0.010, 0.0175, -1.2), (0.050, 0.020, 0.4)),
    ABOVE: ((-0.024, 0.018, 0.3), (0.012, 0.021, -1.2), (0.060, 0.024, 0.4)),
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
            middle_s = beat_s + offset_s
            near = slice(*np.searchsorted(time_s, (middle_s - 0.5, middle_s + 0.5)))
            signal[near] += height_mv * np.exp(
                -0.5 * ((time_s[near] - middle_s) / deviation_s) ** 2
            )
    return signal, np.round(at_s * FS).astype(np.int64)


def column(beats: BeatFeatures, name: str) -> NDArray[np.float32]:
    return beats.features[:, FEATURE_NAMES.index(name)]


def likeness(shapes: Sequence[str], of: str, *, rr_s: float | Sequence[float] = 0.8) -> float:
    """Median similarity of the beats of a shape to what they are compared with."""
    found = column(extract_beats(*draw(shapes, rr_s=rr_s)), "qrs_similarity")
    return float(np.median(found[np.array(shapes) == of]))


def alternate(stretch: int, *, times: int = 6, shape: str = OTHER) -> list[str]:
    """Stretches of two shapes, with more beats of the first."""
    return ([NARROW] * 20 + [shape] * stretch) * times


def stretches(
    *, beats: int, rr_s: float, sinus_rr_s: float = 0.8, shape: str = OTHER
) -> tuple[list[str], list[float]]:
    """Draw three stretches of a shape and another rate in a sinus rhythm."""
    one = [NARROW] * 40 + [shape] * beats
    return one * 3, ([sinus_rr_s] * 40 + [rr_s] * beats) * 3


def test_stretches_of_a_second_narrow_shape_are_compared_with_their_own() -> None:
    shapes = alternate(12)
    beats = extract_beats(*draw(shapes))
    is_other = np.array(shapes) == OTHER
    assert column(beats, "qrs_similarity").min() > 0.95
    assert np.abs(beats.windows[..., 1]).max() < 0.4  # the difference to the template
    assert beats.is_template_beat.all()
    assert column(beats, "rr_reference_s")[is_other] == pytest.approx(0.8, rel=0.05)


@pytest.mark.parametrize("first", [0, 3, 7, 11])
def test_columns_of_neighbours_hold_over_the_borders_of_blocks(first: int) -> None:
    """Over more than five blocks, of which some begin or end within a stretch."""
    shapes = alternate(12, times=24)[first:]
    assert len(shapes) > 3 * 240
    beats = extract_beats(*draw(shapes))
    own = column(beats, "qrs_similarity")
    assert own.min() > 0.95
    for name in ("qrs_similarity", "beat_similarity"):
        own = column(beats, name)
        assert column(beats, f"{name}_of_previous")[1:] == pytest.approx(own[:-1], abs=0.02)
        assert column(beats, f"{name}_of_next")[:-1] == pytest.approx(own[1:], abs=0.02)
    level = column(beats, "noise_level")
    assert column(beats, "noise_worst_around")[1:-1] == pytest.approx(
        np.maximum(np.maximum(level[:-2], level[2:]), level[1:-1]), abs=0.3
    )
    for name in ("noise_level", "noise_slope"):
        around = [np.median(part) for part in sliding_window_view(column(beats, name), 9)]
        assert column(beats, f"{name}_around")[4:-4] == pytest.approx(np.array(around), abs=0.3)


def test_a_low_shape_whose_beats_look_wide_in_noise_is_as_wide_as_its_average() -> None:
    shapes = alternate(30, shape=LOW)
    is_low = np.array(shapes) == LOW
    beats = extract_beats(*draw(shapes))
    assert np.median(beats.qrs_width_s[is_low]) > 0.2
    assert np.median(column(beats, "qrs_similarity")[is_low]) > 0.9


@pytest.mark.parametrize(
    ("shape", "width_s", "is_conducted"), [(BELOW, 0.144, True), (ABOVE, 0.171, False)]
)
def test_a_shape_is_narrow_up_to_150_ms(shape: str, width_s: float, *, is_conducted: bool) -> None:
    shapes = alternate(16, shape=shape)
    signal, peaks = draw(shapes)
    width = np.median(extract_beats(signal, peaks).qrs_width_s[np.array(shapes) == shape])
    assert width == pytest.approx(width_s, abs=0.006)
    assert (likeness(shapes, shape) > 0.9) == is_conducted


def test_premature_beats_before_a_beat_of_no_known_shape_count_too() -> None:
    """A ventricular shape, narrow at its start: a slow rhythm, and couplets with another shape."""
    shapes = [NARROW] * 30 + [STEEP] * 16 + [NARROW] * 12
    intervals = [0.8] * len(shapes)
    for _ in range(7):
        shapes += [*([NARROW] * 5), STEEP, WIDE]
        intervals += [1.1, *([0.8] * 4), 0.5, 0.45]
    assert likeness(shapes, STEEP, rr_s=intervals) < 0.6


def test_p_waves_taken_for_beats_do_not_break_the_rhythm_of_a_shape() -> None:
    shapes = alternate(30)
    signal, peaks = draw(shapes)
    of_other = peaks[np.array(shapes) == OTHER]
    p_waves = of_other.reshape(-1, 30)[:, 18:26].ravel() - round(0.16 * FS)
    both = np.sort(np.concatenate([peaks, p_waves]))
    found = column(extract_beats(signal, both), "qrs_similarity")
    assert np.median(found[np.isin(both, of_other)]) > 0.95


def test_a_shape_needs_eight_beats_in_a_row() -> None:
    assert likeness(alternate(8), OTHER) > 0.95
    assert likeness(alternate(7), OTHER) < 0.6


def test_seven_beats_are_not_enough_where_noise_makes_no_difference() -> None:
    shapes = [NARROW] * 40 + [OTHER] * 7 + [NARROW] * 40
    assert likeness(shapes, OTHER) < 0.6
    assert likeness([*shapes[:47], OTHER, *shapes[47:]], OTHER) > 0.95


def test_once_found_a_shape_holds_for_its_single_beats_too() -> None:
    shapes = [NARROW] * 30 + [OTHER] * 10 + [NARROW] * 30 + [OTHER] + [NARROW] * 30
    found = column(extract_beats(*draw(shapes)), "qrs_similarity")
    assert found[70] > 0.95


@pytest.mark.parametrize(("beats", "rr_s"), [(16, 0.8), (40, 0.8), (70, 0.8), (40, 0.55)])
def test_wide_beats_stay_unlike_however_many_there_are(beats: int, rr_s: float) -> None:
    """Accelerated idioventricular rhythms and tachycardias."""
    shapes, intervals = stretches(beats=beats, rr_s=rr_s, shape=WIDE)
    found = column(extract_beats(*draw(shapes, rr_s=intervals)), "qrs_similarity")
    of_wide, of_narrow = (found[np.array(shapes) == shape] for shape in (WIDE, NARROW))
    # Where wide beats are most of a block, the template may be of them, as before.
    assert (np.median(of_wide) < 0.6) != (np.median(of_narrow) < 0.6)


@pytest.mark.parametrize(
    ("rr_s", "is_conducted"),
    [(0.5, False), (0.62, False), (0.66, True), (0.94, True), (0.98, False), (1.2, False)],
)
def test_a_narrow_shape_of_another_rate_is_not_conducted(
    rr_s: float, *, is_conducted: bool
) -> None:
    """A fascicular tachycardia is narrow; a fifth of the interval is what the rate may differ."""
    shapes, intervals = stretches(beats=14, rr_s=rr_s)
    assert (likeness(shapes, OTHER, rr_s=intervals) > 0.95) == is_conducted


@pytest.mark.parametrize(("early", "is_conducted"), [(1, True), (3, False)])
def test_most_beats_of_a_shape_keep_the_rhythm(early: int, *, is_conducted: bool) -> None:
    """Of a stretch of ten and premature beats four in five must be on time."""
    shapes = [NARROW] * 30 + [OTHER] * 10
    intervals = [0.8] * 40
    for _ in range(early):
        shapes += [*([NARROW] * 12), OTHER]
        intervals += [0.98, *([0.8] * 11), 0.62]
    shapes += [NARROW] * 12
    intervals += [0.98, *([0.8] * 11)]
    assert (likeness(shapes, OTHER, rr_s=intervals) > 0.95) == is_conducted


def test_the_rhythm_is_that_of_the_beats_around() -> None:
    """A rate that changes slowly, by more than a fifth in all, keeps its beats on time."""
    shapes = [NARROW] * 60 + [OTHER] * 60
    intervals = [*np.linspace(0.7, 0.85, 60), *np.linspace(0.85, 1.0, 60)]
    assert likeness(shapes, OTHER, rr_s=intervals) > 0.95


def test_premature_beats_of_a_narrow_shape_stay_unlike() -> None:
    shapes = ([NARROW] * 2 + [OTHER]) * 60
    intervals = [1.1, 0.8, 0.5] * 60
    assert likeness(shapes, OTHER, rr_s=intervals) < 0.6


def test_a_bigeminy_has_one_template() -> None:
    shapes = [NARROW, WIDE] * 50
    beats = extract_beats(*draw(shapes, rr_s=[1.0, 0.5] * 50))
    is_wide = np.array(shapes) == WIDE
    assert not beats.is_template_beat[is_wide].any()
    assert beats.is_template_beat[~is_wide].all()


def test_an_interval_of_zero_gives_finite_rows() -> None:
    signal, peaks = draw(alternate(12))
    doubled = np.sort(np.concatenate([peaks, peaks[25:31]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beats = extract_beats(signal, doubled)
    assert np.isfinite(beats.features).all()


@pytest.mark.parametrize(
    ("template", "members", "expected"),
    [
        ([0, 1, 6], [[3, 5]], [0, 0, 0, 1, 1, 1, 0, 0]),  # one between two of its own
        ([3], [[0], [7]], [1, 0, 0, 0, 0, 0, 0, 2]),
        ([3], [[0, 2], [5, 7]], [1, 1, 1, 0, 0, 2, 2, 2]),
        ([0], [[4, 5]], [0, 0, 0, 0, 1, 1, 0, 0]),  # none after its last
        ([0], [], [0] * 8),
    ],
)
def test_other_beats_are_compared_with_the_shape_on_both_sides(
    template: list[int], members: list[list[int]], expected: list[int]
) -> None:
    def mask(at: list[int]) -> NDArray[np.bool_]:
        return np.isin(np.arange(8), at)

    shapes = [ConductedShape(at[0], mask(at)) for at in members]
    assert assign_shapes(mask(template), shapes).tolist() == expected


def classify(shapes: list[str], intervals: list[float]) -> NDArray[np.str_]:
    """Return the shapes of the beats that the reference calls V."""
    signal, peaks = draw(shapes, rr_s=intervals)
    classifier = BeatClassifier.load(read_reference())
    return np.array(shapes)[classifier.classify(signal, fs=FS, r_peaks=peaks).is_v]


def test_the_reference_calls_a_second_conducted_shape_n_and_a_wide_early_beat_v() -> None:
    shapes = [*alternate(12), WIDE, *([NARROW] * 10)]
    intervals = [0.8] * len(shapes)
    intervals[-11:-9] = [0.45, 1.15]
    assert classify(shapes, intervals).tolist() == [WIDE]


@pytest.mark.parametrize(
    ("sinus", "beats", "sinus_rr_s", "rr_s"),
    [
        (5, 8, 0.75, 0.75),  # an accelerated idioventricular rhythm, in a strip
        (25, 40, 0.75, 0.75),
        (40, 40, 0.6, 0.54),
        (40, 14, 0.6, 0.5),
        (40, 14, 0.51, 0.43),
    ],
)
def test_the_reference_calls_ventricular_rhythms_v(
    sinus: int, beats: int, sinus_rr_s: float, rr_s: float
) -> None:
    shapes = [NARROW] * sinus + [WIDE] * beats
    found = classify(shapes, [sinus_rr_s] * sinus + [rr_s] * beats)
    assert found.tolist() == [WIDE] * beats
