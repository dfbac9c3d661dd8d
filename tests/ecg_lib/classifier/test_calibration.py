"""Probabilities that mean what they say, by hand and on data with a known law."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from ecg_lib.classifier.calibration import (
    Calibration,
    expected_calibration_error,
    reliability_bins,
    sigmoid,
)


def test_without_calibration_a_logit_is_a_log_odds() -> None:
    found = Calibration().probabilities(np.array([-np.log(3), 0.0, np.log(3)], dtype=np.float32))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75], atol=1e-7)
    assert found.dtype == np.float64


def test_slope_and_intercept_act_on_the_logit() -> None:
    found = Calibration(slope=2.0, intercept=-1.0).probabilities(np.array([0.5, 1.0]))
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-1))])


def test_giant_logits_are_certain_and_not_nan() -> None:
    assert Calibration().probabilities(np.array([-1e6, 1e6])).tolist() == [0.0, 1.0]


def test_the_error_is_that_on_paper() -> None:
    """Ten beats stated 0.9 of which 5 are V, ten stated 0.1 of which none is."""
    probabilities = np.repeat([0.9, 0.1], 10)
    is_v = np.array([True] * 5 + [False] * 15)
    assert expected_calibration_error(probabilities, is_v) == pytest.approx(
        (10 * 0.4 + 10 * 0.1) / 20
    )


def test_probabilities_that_mean_what_they_say_have_no_error() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(200_000)
    is_v = rng.random(200_000) < probabilities
    assert expected_calibration_error(probabilities, is_v) < 0.005
    assert expected_calibration_error(np.sqrt(probabilities), is_v) > 0.1


def test_certainty_belongs_to_the_last_bin() -> None:
    assert expected_calibration_error(np.ones(4), np.ones(4, dtype=np.bool_)) == 0


def test_no_beats_have_no_error() -> None:
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, dtype=np.bool_)))


def test_bins_hold_each_beat_once_with_what_was_stated_and_observed() -> None:
    probabilities = np.array([0.0, 0.05, 0.5, 0.55, 0.95, 1.0])
    is_v = np.array([False, False, True, False, True, True])
    bins = reliability_bins(probabilities, is_v, n_bins=10)
    assert [one.beats for one in bins] == [2, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert bins[5].stated == pytest.approx(0.525)
    assert bins[5].observed == 0.5
    assert bins[9] == (0.9, 1.0, 2, 0.975, 1.0)
    assert np.isnan(bins[1].stated)
    assert np.isnan(bins[1].observed)


def test_the_sigmoid_is_that_of_scipy() -> None:
    logits = np.linspace(-800, 800, 4001)
    np.testing.assert_allclose(sigmoid(logits), special.expit(logits), rtol=1e-14, atol=1e-300)
    assert np.isnan(sigmoid(np.array([np.nan]))).all()
