"""The fit of the beat verifier: its gradient, what it learns, and that it repeats."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ecg_lib.errors import BundleIntegrityError
from ecg_lib.evaluation.blind_verifiers import BLIND, load_blind_verifier
from ecg_lib.records.annotations import DS1, DS2, PACED, Annotations
from ecg_lib.signal_path.r_peaks.verifier import load_verifier
from ecg_lib.training import verifier_fitting as beat_verifier_fitting
from ecg_lib.training.verifier_fitting import Samples, assign_folds, fit_verifier


def _samples(n: int = 4096) -> Samples:
    """A ring inside another: no line parts them."""
    rng = np.random.default_rng(1)
    is_beat = rng.random(n) < 0.5
    angle, radius = rng.uniform(0, 2 * np.pi, n), np.where(is_beat, 1.0, 3.0)
    features = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    features += 0.2 * rng.standard_normal((n, 2))
    return Samples(features.astype(np.float32), is_beat, np.ones(n))


def test_what_no_line_parts_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat_verifier_fitting, "_EPOCHS", 40)
    monkeypatch.setattr(beat_verifier_fitting, "_BATCH", 256)
    samples = _samples()
    logits = fit_verifier(samples).logits(samples.features)
    assert np.mean((logits > 0) == samples.is_beat) > 0.99


def test_the_same_seed_gives_the_same_weights() -> None:
    samples = _samples()
    one, again = fit_verifier(samples, seed=4), fit_verifier(samples, seed=4)
    other = fit_verifier(samples, seed=5)
    np.testing.assert_array_equal(one.layers[0][0], again.layers[0][0])
    assert not np.array_equal(one.layers[0][0], other.layers[0][0])


def test_the_gradient_is_that_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat_verifier_fitting, "_DECAY", 0.0)
    rng = np.random.default_rng(0)
    shapes = [(3, 5), (5,), (5, 4), (4,), (4, 1), (1,)]
    parameters = [rng.standard_normal(shape) for shape in shapes]
    inputs, truth = rng.standard_normal((6, 3)), rng.integers(0, 2, 6).astype(float)
    weight = rng.uniform(0.5, 2, 6)

    def loss() -> float:
        values = inputs
        for layer in range(3):
            values = values @ parameters[2 * layer] + parameters[2 * layer + 1]
            values = np.maximum(values, 0) if layer < 2 else values
        logit = values[:, 0]
        return float(np.mean(weight * (np.log1p(np.exp(logit)) - truth * logit)))

    gradients = beat_verifier_fitting._differentiate(parameters, inputs, truth, weight)
    for values, gradient in zip(parameters, gradients, strict=True):
        index = np.unravel_index(values.size // 2, values.shape)
        values[index] += 1e-6
        above = loss()
        values[index] -= 2e-6
        slope = (above - loss()) / 2e-6
        values[index] += 1e-6
        assert gradient[index] == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_every_record_is_in_one_fold() -> None:
    folds = assign_folds(DS1 + PACED)
    assert set(folds) == set(DS1 + PACED)
    assert set(folds.values()) == set(range(beat_verifier_fitting.N_FOLDS))


def test_the_committed_blind_networks_are_those_of_these_folds() -> None:
    folds = assign_folds(DS1 + PACED)
    shipped = load_verifier()
    of_fold = {}
    for name, fold in folds.items():
        verifier = load_blind_verifier(name)
        assert verifier is not None
        assert not np.array_equal(verifier.layers[0][0], shipped.layers[0][0])
        other = of_fold.setdefault(fold, verifier)
        np.testing.assert_array_equal(verifier.mean, other.mean)
    assert len({float(verifier.mean.sum()) for verifier in of_fold.values()}) == len(of_fold)
    assert load_blind_verifier(DS2[0]) is None
    assert load_blind_verifier("sim1") is None


def test_blind_networks_that_changed_places_are_noticed(tmp_path: Path) -> None:
    shutil.copytree(BLIND, tmp_path / "blind")
    one, other = tmp_path / "blind" / "0.npz", tmp_path / "blind" / "1.npz"
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    assert load_blind_verifier("104", tmp_path / "blind") is not None
    for name in ("101", "102"):
        with pytest.raises(BundleIntegrityError, match="must have the SHA-256"):
            load_blind_verifier(name, tmp_path / "blind")


def test_a_stretch_that_begins_in_flutter_knows_it() -> None:
    annotations = Annotations(
        samples=np.array([10, 100, 500, 900]), symbols=np.array(["N", "[", "]", "V"])
    )
    stretch = beat_verifier_fitting._cut(np.zeros(2000), annotations, 300, 1500, weight=0.5)
    assert stretch.annotations.beat_samples.tolist() == [600]
    assert stretch.annotations.is_in_flutter(np.array([0, 199, 201])).tolist() == [
        True,
        True,
        False,
    ]
    assert len(stretch.signal) == 1200
