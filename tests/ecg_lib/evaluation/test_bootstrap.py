"""Intervals over subjects: known spreads, pairing, and how much hangs on one person."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.evaluation.beat_scoring import BeatCounts, add_up
from ecg_lib.evaluation.bootstrap import (
    bootstrap_interval,
    bootstrap_intervals,
    leave_one_out,
    paired_bootstrap,
)


def _subjects(n: int, *, right: int = 90, wrong: int = 10) -> list[BeatCounts]:
    rng = np.random.default_rng(0)
    moves = rng.integers(-wrong, wrong + 1, n).tolist()
    return [BeatCounts(v_beats=right + wrong, v_true=right + move) for move in moves]


def test_the_interval_holds_the_estimate_and_repeats_with_its_seed() -> None:
    subjects = _subjects(20)
    interval = bootstrap_interval(subjects, lambda c: c.v_sensitivity, seed=1)
    assert interval.estimate == add_up(subjects).v_sensitivity
    assert interval.low < interval.estimate < interval.high
    assert interval == bootstrap_interval(subjects, lambda c: c.v_sensitivity, seed=1)
    assert interval != bootstrap_interval(subjects, lambda c: c.v_sensitivity, seed=2)


def test_the_interval_is_that_of_a_mean_over_subjects() -> None:
    """With subjects of one size the gross figure is a mean, whose spread is known."""
    subjects = _subjects(100)
    shares = np.array([subject.v_true / 100 for subject in subjects])
    expected = 1.96 * shares.std() / np.sqrt(100)
    interval = bootstrap_interval(subjects, lambda c: c.v_sensitivity, n_resamples=4000)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.1)


def test_alike_subjects_have_an_interval_of_no_width() -> None:
    interval = bootstrap_interval([BeatCounts(v_beats=4, v_true=3)] * 5, lambda c: c.v_sensitivity)
    assert interval == (0.75, 0.75, 0.75)


def test_subjects_without_v_beats_do_not_spoil_the_interval() -> None:
    subjects = [*_subjects(3), BeatCounts(n_beats=100, n_true=100)]
    interval = bootstrap_interval(subjects, lambda c: c.v_f1)
    assert np.isfinite(interval).all()


def test_the_same_classifier_does_not_differ_from_itself() -> None:
    subjects = _subjects(12)
    assert paired_bootstrap(subjects, subjects, lambda c: c.v_f1) == (0, 0, 0)


def test_pairing_by_subject_sees_what_spread_between_subjects_hides() -> None:
    theirs = _subjects(12)
    ours = [subject + BeatCounts(v_true=1) for subject in theirs]
    difference = paired_bootstrap(ours, theirs, lambda c: c.v_sensitivity)
    assert difference.low == pytest.approx(0.01)
    assert difference.high == pytest.approx(0.01)
    turned = paired_bootstrap(theirs, ours, lambda c: c.v_sensitivity)
    assert turned.estimate == pytest.approx(-difference.estimate)
    alone = bootstrap_interval(theirs, lambda c: c.v_sensitivity)
    assert alone.high - alone.low > 0.02


def test_a_comparison_of_other_subjects_is_refused() -> None:
    with pytest.raises(ValueError, match="same subjects, got 3 and 2"):
        paired_bootstrap(_subjects(3), _subjects(2), lambda c: c.v_f1)


def test_the_figure_without_one_subject_names_who_matters_most() -> None:
    subjects = {
        "good": BeatCounts(v_beats=10, v_true=10),
        "usual": BeatCounts(v_beats=10, v_true=8),
        "bad": BeatCounts(v_beats=20, v_true=8),
    }
    left_out = leave_one_out(subjects, lambda c: c.v_sensitivity)
    assert left_out == (16 / 30, 18 / 20, "good", "bad")


def test_a_figure_that_hangs_on_one_subject_alone_has_the_range_of_the_others() -> None:
    subjects = {"all V": BeatCounts(v_beats=4, v_true=3), "none": BeatCounts(n_beats=5)}
    left_out = leave_one_out(subjects, lambda c: c.v_sensitivity)
    assert left_out == (0.75, 0.75, "none", "none")


def test_without_any_v_beat_the_range_is_nan() -> None:
    subjects = {"a": BeatCounts(n_beats=4), "b": BeatCounts(n_beats=5)}
    left_out = leave_one_out(subjects, lambda c: c.v_sensitivity)
    assert np.isnan(left_out.low)
    assert np.isnan(left_out.high)


def test_one_subject_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="at least two subjects, got 1"):
        leave_one_out({"a": BeatCounts()}, lambda c: c.v_f1)


def test_figures_that_are_never_defined_have_no_interval() -> None:
    subjects = [BeatCounts(n_beats=3), BeatCounts(n_beats=4)]
    assert np.isnan(bootstrap_interval(subjects, lambda c: c.v_sensitivity)).all()
    assert np.isnan(paired_bootstrap(subjects, subjects, lambda c: c.v_sensitivity)).all()


def test_figures_of_the_same_resamples_are_those_of_each_alone() -> None:
    subjects = _subjects(12)
    statistics = {"se": lambda c: c.v_sensitivity, "f1": lambda c: c.v_f1}
    both = bootstrap_intervals(subjects, statistics)
    for name, statistic in statistics.items():
        assert both[name] == bootstrap_interval(subjects, statistic)


def test_a_spread_that_is_not_of_the_subjects_widens_the_interval_alone() -> None:
    subjects = _subjects(8)
    narrow = paired_bootstrap(subjects, subjects, lambda c: c.v_f1)
    wide = paired_bootstrap(subjects, subjects, lambda c: c.v_f1, spread=0.1, n_resamples=20_000)
    assert narrow == (0, 0, 0)
    assert wide.estimate == 0
    # 5 and 95 % of a normal distribution.
    assert wide.low == pytest.approx(-0.16449, abs=0.003)
    assert wide.high == pytest.approx(0.16449, abs=0.003)


@pytest.mark.parametrize(("n_people", "confidence"), [(5, 0.90), (8, 0.80)])
def test_a_gain_by_chance_is_as_rare_as_stated_with_few_people(
    n_people: int, confidence: float
) -> None:
    rng = np.random.default_rng(0)
    n_trials, n_gains = 400, 0
    for _ in range(n_trials):
        ours, theirs = (
            [
                BeatCounts(v_beats=100, v_true=v_true)
                for v_true in rng.binomial(100, rng.beta(8, 2, n_people)).tolist()
            ]
            for _ in range(2)
        )
        difference = paired_bootstrap(
            ours, theirs, lambda c: c.v_sensitivity, confidence=confidence, n_resamples=300
        )
        n_gains += difference.low > 0
    stated = (1 - confidence) / 2
    # Two standard deviations of chance; percentiles alone give twice the stated rate with five.
    assert n_gains / n_trials <= stated + 2 * (stated * (1 - stated) / n_trials) ** 0.5


def test_many_people_need_no_wider_interval() -> None:
    subjects = _subjects(400)
    others = [subject + BeatCounts(v_true=n % 3) for n, subject in enumerate(subjects)]
    rng = np.random.default_rng(0)
    table = np.array(
        [[a.v_true - b.v_true, a.v_beats] for a, b in zip(others, subjects, strict=True)]
    )
    drawn = table[rng.integers(400, size=(2000, 400))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.05, 0.95])
    difference = paired_bootstrap(others, subjects, lambda c: c.v_sensitivity)
    assert difference.high - difference.low == pytest.approx(high - low, rel=0.02)


@pytest.mark.parametrize("spread", [-0.001, float("nan")])
def test_a_spread_below_zero_is_refused(spread: float) -> None:
    subjects = _subjects(3)
    with pytest.raises(ValueError, match="spread must be at least 0, got"):
        paired_bootstrap(subjects, subjects, lambda c: c.v_f1, spread=spread)
