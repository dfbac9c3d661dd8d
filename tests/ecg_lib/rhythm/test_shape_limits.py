"""The limits of the grouping by shape, each from both sides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.rhythm.morphology import (
    MorphologyConfig,
    _fit,
    _found_forms,
    _join_alike,
    cut_shapes,
    group_shapes,
)

Shapes = NDArray[np.float32]


def _noise(seed: int, n_samples: int = 144) -> Shapes:
    """A trace that is like no other, nor like itself at another shift."""
    return np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)


def _signs(n_turned: int = 0) -> Shapes:
    """A beat of 32 ones, 32 minus ones and zeros: its correlations are exact in binary.

    Some of both are turned over; the beat keeps its mean, and a length of 8.
    """
    rng = np.random.default_rng(5)
    beat = np.zeros(144, dtype=np.float32)
    places = 12 + rng.permutation(120)[:64]
    beat[places[:32]], beat[places[32:]] = 1, -1
    half = n_turned // 2
    for turned in (places[:half], places[32 : 32 + half]):
        beat[turned] *= -1
    return beat


def _likeness(one: Shapes, two: Shapes) -> float:
    return float(np.corrcoef(one, two)[0, 1])


def test_58_samples_before_the_r_peak_and_86_from_it_are_compared() -> None:
    windows = np.arange(2 * 361, dtype=np.float32).reshape(2, 361)
    np.testing.assert_array_equal(cut_shapes(windows), windows[:, 122:266])
    np.testing.assert_array_equal(cut_shapes(windows[:, :360]), windows[:, 122:266])


def test_beats_are_compared_at_seven_shifts() -> None:
    trace = _noise(0, 200)
    offsets = np.arange(-20, 21)
    shapes = np.stack([trace[28 - offset : 172 - offset] for offset in offsets])
    fit = _fit(shapes, trace[None, 40:160])[:, 0]
    assert offsets[fit > 0.999].tolist() == [-12, -8, -4, 0, 4, 8, 12]
    assert np.sort(fit)[:-7].max() < 0.6


def test_beats_without_a_form_have_the_label_minus_one() -> None:
    shapes = np.stack([_noise(0)] * 8 + [_noise(1)] * 4)
    assert group_shapes(shapes).labels.tolist() == [0] * 8 + [-1] * 4
    assert group_shapes(shapes[-4:]).labels.tolist() == [-1] * 4


@pytest.mark.parametrize(("n_beats", "n_forms"), [(2000, 2), (2001, 1)])
def test_every_beat_of_2000_is_surveyed_and_every_other_one_of_more(
    n_beats: int, n_forms: int
) -> None:
    shapes = np.resize(np.stack([_noise(0), _noise(1)]), (n_beats, 144))
    assert group_shapes(shapes).n_forms == n_forms


@pytest.mark.parametrize(("n_beats", "first"), [(600, 1), (601, 0)])
def test_every_beat_of_600_may_start_a_form_and_every_other_one_of_more(
    n_beats: int, first: int
) -> None:
    """The second form has all odd places, the first one only some of the even ones."""
    shapes = np.resize(np.stack([_noise(0), _noise(1)]), (n_beats, 144))
    shapes[:200:2] = np.stack([_noise(100 + one) for one in range(100)])
    forms = _found_forms(shapes, MorphologyConfig())
    assert _likeness(forms[0], _noise(first)[12:132]) > 0.99


@pytest.mark.parametrize(("n_drawn", "n_found"), [(11, 11), (12, 12), (13, 12)])
def test_twelve_forms_are_found_at_most(n_drawn: int, n_found: int) -> None:
    shapes = np.repeat(np.stack([_noise(one) for one in range(n_drawn)]), 6, axis=0)
    found = group_shapes(shapes)
    assert found.n_forms == n_found
    assert (found.labels == -1).sum() == 6 * (n_drawn - n_found)


@pytest.mark.parametrize(("n_single", "n_forms"), [(39, 1), (40, 0)])
def test_forms_are_looked_for_forty_times(n_single: int, n_forms: int) -> None:
    """Beats of one form that are cut 4 samples off start it after those that look like no other."""
    trace = _noise(0, 200)
    form = [trace[28 + shift : 172 + shift] for shift in (0, 4, -4)]
    single = [_noise(1 + one) for one in range(n_single)]
    assert len(_found_forms(np.stack([*single, *form]), MorphologyConfig())) == n_forms


@pytest.mark.parametrize(("n_beats", "n_forms"), [(2, 0), (3, 1)])
def test_three_beats_start_a_form(n_beats: int, n_forms: int) -> None:
    assert len(_found_forms(np.stack([_noise(0)] * n_beats), MorphologyConfig())) == n_forms


def test_beats_and_forms_that_just_meet_a_limit_are_alike() -> None:
    exact = MorphologyConfig(same_form=1.0, one_form=1.0)
    shapes = np.stack([_signs()] * 4)
    (form,) = _found_forms(shapes, exact)
    np.testing.assert_array_equal(form, _signs()[12:132])
    assert len(_join_alike(np.stack([form, form]), exact)) == 1


def test_a_beat_has_the_form_to_which_it_correlates_by_three_quarters() -> None:
    beats = [_signs()] * 20
    assert _likeness(_signs(), _signs(8)) == pytest.approx(0.75)
    assert group_shapes(np.stack([*beats, _signs(8)])).labels.tolist() == [0] * 21
    # Noise in the free samples lowers the correlation a little.
    lower = _signs(8)
    free = np.flatnonzero(_signs()[12:132] == 0) + 12
    lower[free[:2]] = 0.5, -0.5
    assert 0.746 < _likeness(_signs()[12:132], lower[12:132]) < 0.749
    assert group_shapes(np.stack([*beats, lower])).labels.tolist() == [0] * 20 + [-1]


def test_a_form_is_the_mean_of_all_its_beats_where_they_fit_best() -> None:
    """Three beats at each of seven shifts, and some of another form."""
    trace, rng = _noise(0, 200), np.random.default_rng(3)
    cut = [trace[28 + shift : 172 + shift] for shift in (0, -4, 4, -8, 8, -12, 12)]
    beats = np.repeat(cut, 3, axis=0)
    beats += 0.3 * rng.standard_normal(beats.shape).astype(np.float32)
    forms = _found_forms(np.concatenate([beats, [_noise(1)] * 2]), MorphologyConfig())
    assert len(forms) == 1
    assert _likeness(forms[0], trace[40:160]) > 0.995


def test_a_form_is_refined_twice() -> None:
    """Beats at angles to each other, whose cosines are their correlations.

    The mean of those within 32 degrees moves: to 70.3 degrees at first, then 73.4, then 87.3.
    """
    across, upward = np.zeros((2, 144))
    across[12:132] = np.resize([1, 1, -1, -1], 120)
    upward[12:132] = np.resize([1, -1], 120)
    angles = np.deg2rad(np.repeat([30, 40, 60, 90, 100], [2, 3, 1, 5, 1]))[:, None]
    shapes = (np.cos(angles) * across + np.sin(angles) * upward).astype(np.float32)
    (form,) = _found_forms(shapes, MorphologyConfig())
    angle = np.arctan2(form @ upward[12:132], form @ across[12:132])
    assert np.rad2deg(angle) == pytest.approx(73.4, abs=0.3)
