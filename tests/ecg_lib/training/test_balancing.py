"""Balancing: a synthetic beat is one beat, in all of its inputs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.training.balancing import Balancing, TrainingBeats, balance

OVERSAMPLING = [Balancing.RANDOM_OVERSAMPLER, Balancing.SMOTE]
N_FEATURES = 5


def _beats(n_v: int = 12, n_other: int = 100, *, seed: int = 0) -> TrainingBeats:
    """Beats whose every input tells which beat it is: ``x`` in the window, ``-x`` beside it."""
    mark = np.random.default_rng(seed).permutation(np.arange(n_v + n_other)).astype(np.float32)
    is_v = np.zeros(n_v + n_other, dtype=np.bool_)
    is_v[np.random.default_rng(seed + 1).permutation(len(mark))[:n_v]] = True
    return TrainingBeats(
        windows=np.broadcast_to(mark[:, None, None], (len(mark), 8, 2)).copy(),
        features=np.broadcast_to(-mark[:, None], (len(mark), N_FEATURES)).copy(),
        is_v=is_v,
        is_beat=is_v | (mark % 3 != 0),
        weights=np.ones(len(mark), dtype=np.float32),
    )


def _rows(beats: TrainingBeats) -> NDArray[np.float32]:
    return np.concatenate([beats.windows.reshape(len(beats.is_v), -1), beats.features], axis=1)


@pytest.mark.parametrize("strategy", OVERSAMPLING)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_there_are_as_many_v_beats_as_the_ratio_asks_for(strategy: Balancing, ratio: float) -> None:
    balanced = balance(_beats(), strategy=strategy, ratio=ratio)
    assert int(balanced.is_v.sum()) == 100 * ratio
    assert int((~balanced.is_v).sum()) == 100
    lengths = {len(part) for part in balanced}
    assert lengths == {round(100 * (1 + ratio))}


@pytest.mark.parametrize("strategy", OVERSAMPLING)
def test_window_and_features_of_a_beat_stay_together(strategy: Balancing) -> None:
    """Each input of a beat is one number; an interpolated beat has one number in all of them."""
    balanced = balance(_beats(), strategy=strategy, ratio=1.0)
    marks = balanced.windows[:, :1, :1]
    np.testing.assert_allclose(balanced.windows, np.broadcast_to(marks, balanced.windows.shape))
    np.testing.assert_allclose(
        balanced.features, -np.broadcast_to(marks[:, 0], balanced.features.shape), rtol=1e-5
    )
    assert balanced.windows.shape[1:] == (8, 2)
    assert balanced.features.shape[1:] == (N_FEATURES,)


def test_a_synthetic_beat_lies_between_two_v_beats_in_windows_and_features_alike() -> None:
    """With noise as inputs, only beats of the same pair and the same share lie on one line."""
    rng = np.random.default_rng(3)
    beats = _beats(n_v=4, n_other=20)._replace(
        windows=rng.standard_normal((24, 8, 2)).astype(np.float32),
        features=rng.standard_normal((24, N_FEATURES)).astype(np.float32),
    )
    balanced = balance(beats, strategy=Balancing.SMOTE, ratio=1.0)
    parents = _rows(beats)[beats.is_v]
    for row in _rows(balanced)[balanced.is_v]:
        gaps = []
        for one in parents:
            for other in parents:
                line = other - one
                share = np.clip((row - one) @ line / max(line @ line, 1e-9), 0, 1)
                gaps.append(np.abs(one + share * line - row).max())
        assert min(gaps) < 1e-5


@pytest.mark.parametrize("strategy", OVERSAMPLING)
def test_every_beat_given_is_still_there(strategy: Balancing) -> None:
    beats = _beats()
    balanced = balance(beats, strategy=strategy, ratio=1.0)
    n_given = len(beats.is_v)
    np.testing.assert_array_equal(_rows(balanced)[:n_given], _rows(beats))
    np.testing.assert_array_equal(balanced.is_v[:n_given], beats.is_v)
    np.testing.assert_array_equal(balanced.is_beat[:n_given], beats.is_beat)
    assert balanced.is_v[n_given:].all()
    assert balanced.is_beat[n_given:].all()
    assert (~balanced.is_beat).sum() == (~beats.is_beat).sum() > 20
    assert balanced.windows.dtype == balanced.features.dtype == np.float32
    assert balanced.is_v.dtype == balanced.is_beat.dtype == np.bool_


def test_random_oversampling_only_repeats() -> None:
    beats = _beats()
    balanced = balance(beats, strategy=Balancing.RANDOM_OVERSAMPLER, ratio=1.0)
    given = {float(row[0]) for row in _rows(beats)[beats.is_v]}
    assert {float(row[0]) for row in _rows(balanced)[balanced.is_v]} == given


@pytest.mark.parametrize("strategy", list(Balancing))
def test_the_beats_given_are_not_changed(strategy: Balancing) -> None:
    """Validation beats may share memory with the beats that are balanced."""
    beats = _beats()
    before = [part.copy() for part in beats]
    balance(beats, strategy=strategy, ratio=1.0)
    for part, expected in zip(beats, before, strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("strategy", OVERSAMPLING)
def test_the_seed_decides(strategy: Balancing) -> None:
    first, again, other = (
        _rows(balance(_beats(), strategy=strategy, seed=seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_none_changes_nothing() -> None:
    beats = _beats()
    assert balance(beats, strategy=Balancing.NONE) is beats


@pytest.mark.parametrize("strategy", OVERSAMPLING)
def test_a_fold_with_enough_v_beats_is_left_as_it_is(strategy: Balancing) -> None:
    beats = _beats(n_v=60, n_other=100)
    assert balance(beats, strategy=strategy, ratio=0.5) is beats


def test_class_weights_are_the_root_of_the_imbalance_with_a_mean_of_one() -> None:
    beats = _beats(n_v=25, n_other=100)
    weighted = balance(beats, strategy=Balancing.CLASS_WEIGHTS)
    assert weighted.windows is beats.windows
    ratio = weighted.weights[beats.is_v][0] / weighted.weights[~beats.is_v][0]
    assert ratio == pytest.approx(2.0)
    assert weighted.weights.mean() == pytest.approx(1.0)
    assert len(set(weighted.weights.tolist())) == 2


def test_smote_works_with_two_v_beats_and_says_so_with_one() -> None:
    assert balance(_beats(n_v=2), strategy=Balancing.SMOTE, ratio=0.5).is_v.sum() == 50
    with pytest.raises(ValueError, match="SMOTE needs at least 2 V beats, got 1"):
        balance(_beats(n_v=1), strategy=Balancing.SMOTE)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.01, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be above 0 and at most 1"):
        balance(_beats(), strategy=Balancing.NONE, ratio=ratio)


@pytest.mark.parametrize("strategy", list(Balancing))
@pytest.mark.parametrize(("n_v", "n_other"), [(0, 5), (5, 0), (0, 0)])
def test_a_missing_class_is_refused(strategy: Balancing, n_v: int, n_other: int) -> None:
    with pytest.raises(ValueError, match=f"got {n_v} V beats and {n_other} others"):
        balance(_beats(n_v=n_v, n_other=n_other), strategy=strategy)


def test_the_weight_of_a_beat_stays_with_it() -> None:
    beats = _beats(n_v=25, n_other=100)
    given = np.where(np.arange(125) < 10, 5.0, 1.0).astype(np.float32)
    weighted = balance(beats._replace(weights=given), strategy=Balancing.CLASS_WEIGHTS).weights
    plain = balance(beats, strategy=Balancing.CLASS_WEIGHTS).weights
    ratio = weighted / plain
    np.testing.assert_allclose(ratio[:10] / ratio[10], 5.0, rtol=1e-5)
    made = balance(beats._replace(weights=given), strategy=Balancing.SMOTE, ratio=1.0)
    np.testing.assert_array_equal(made.weights[:125], given)
    assert set(made.weights[125:].tolist()) == {1.0}
