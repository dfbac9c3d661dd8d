"""The fit of the beat verifier: its equations, what it learns, and that it repeats."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.errors import BundleIntegrityError
from ecg_lib.evaluation.blind_verifiers import BLIND, load_blind_verifier
from ecg_lib.records.annotations import DS1, DS2, PACED, Annotations
from ecg_lib.signal_path.r_peaks.verifier import Perceptron, load_verifier
from ecg_lib.training.r_peak_verifier import fitting as beat_verifier_fitting
from ecg_lib.training.r_peak_verifier.fitting import fit_look
from ecg_lib.training.r_peak_verifier.samples import Samples, cut


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
    logits = fit_look(samples).logits(samples.features)
    assert np.mean((logits > 0) == samples.is_beat) > 0.99


def test_the_same_seed_gives_the_same_weights() -> None:
    samples = _samples()
    one, again = fit_look(samples, seed=4), fit_look(samples, seed=4)
    other = fit_look(samples, seed=5)
    np.testing.assert_array_equal(one.layers[0][0], again.layers[0][0])
    assert not np.array_equal(one.layers[0][0], other.layers[0][0])


def _fit_by_hand(samples: Samples, *, seed: int, epochs: int, batch_size: int) -> Perceptron:
    """Fit by the equations of Adam and backpropagation, written down independently of Keras."""
    rng = np.random.default_rng(seed)
    mean, scale = samples.features.mean(axis=0), samples.features.std(axis=0) + np.float32(1e-3)
    inputs = (samples.features - mean) / scale
    weight = samples.weight / samples.weight.mean()
    parameters: list[NDArray[np.float64]] = []
    for n_in, n_out in pairwise((inputs.shape[1], 48, 24, 1)):
        drawn = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)
        parameters += [drawn, np.zeros(n_out)]
    moments = [(np.zeros_like(each), np.zeros_like(each)) for each in parameters]
    n_batches = len(inputs) // batch_size
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(inputs))
        for batch in order[: n_batches * batch_size].reshape(n_batches, batch_size):
            step += 1
            rate = 3e-3 * 0.5 * (1 + np.cos(np.pi * step / (epochs * n_batches)))
            values = [inputs[batch]]
            for at in range(3):
                value = values[-1] @ parameters[2 * at] + parameters[2 * at + 1]
                values.append(np.maximum(value, 0) if at < 2 else value)
            probability = 1 / (1 + np.exp(-values.pop()[:, 0]))
            slope = ((probability - samples.is_beat[batch]) * weight[batch] / batch_size)[:, None]
            gradients: list[NDArray[np.float64]] = []
            for at in reversed(range(3)):
                decayed = values[at].T @ slope + 1e-3 * parameters[2 * at]
                gradients[:0] = [decayed, slope.sum(axis=0)]
                slope = (slope @ parameters[2 * at].T) * (values[at] > 0)
            for index, gradient in enumerate(gradients):
                first, second = moments[index]
                first += 0.1 * (gradient - first)
                second += 0.001 * (gradient**2 - second)
                unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
                parameters[index] -= rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-7)
    layers = tuple(
        (weights.astype(np.float32), offsets.astype(np.float32))
        for weights, offsets in zip(parameters[::2], parameters[1::2], strict=True)
    )
    return Perceptron(mean=mean, scale=scale, layers=layers)


def test_the_fit_is_that_of_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats weigh, weights decay and the rate falls as they did for the network that ships."""
    monkeypatch.setattr(beat_verifier_fitting, "_EPOCHS", 6)
    monkeypatch.setattr(beat_verifier_fitting, "_BATCH", 256)
    samples = _samples(2100)
    samples = samples._replace(weight=np.where(samples.is_beat, 5.0, 1.0))
    found = fit_look(samples, seed=3)
    expected = _fit_by_hand(samples, seed=3, epochs=6, batch_size=256)
    logits = found.logits(samples.features)
    np.testing.assert_allclose(logits, expected.logits(samples.features), atol=0.02)
    assert np.ptp(logits) > 1


def test_the_committed_blind_networks_have_not_seen_the_records_of_their_fold() -> None:
    folds = json.loads((BLIND / "folds.json").read_text())["fold_of"]
    assert set(DS1 + PACED) <= set(folds)
    assert {f"ludb:{number}" for number in range(1, 101)} <= set(folds)
    assert not set(DS2) & set(folds)
    for one, other in (("874", "875"), ("876", "877"), ("878", "879")):
        assert folds[one] == folds[other]  # of one person
    shipped = load_verifier()
    of_fold = {}
    for name, fold in folds.items():
        verifier = load_blind_verifier(name)
        assert verifier is not None
        for look, other in ((verifier.first, shipped.first), (verifier.second, shipped.second)):
            assert not np.array_equal(look.layers[0][0], other.layers[0][0])
        other_of_fold = of_fold.setdefault(fold, verifier)
        np.testing.assert_array_equal(verifier.first.mean, other_of_fold.first.mean)
        np.testing.assert_array_equal(verifier.second.mean, other_of_fold.second.mean)
    for look_of in ("first", "second"):
        means = {float(getattr(one, look_of).mean.sum()) for one in of_fold.values()}
        assert len(means) == 5
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
    stretch = cut(np.zeros(2000), annotations, 300, 1500, weight=0.5)
    assert stretch.annotations.beat_samples.tolist() == [600]
    assert stretch.annotations.is_in_flutter(np.array([0, 199, 201])).tolist() == [
        True,
        True,
        False,
    ]
    assert len(stretch.signal) == 1200
