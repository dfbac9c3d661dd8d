"""Fit the networks that judge candidates of the R-peak detector.

``python -m flows.training.fit_verifier`` writes their weights, and those of five more pairs, each
blind to a fifth of the people, for figures out of fold
(:mod:`ecg_lib.evaluation.blind_verifiers`). Test parts are never read.

Deterministic: the same samples give the same weights on the same machine.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np

from ecg_lib.signal_path.r_peaks.verifier import Perceptron
from ecg_lib.training.r_peak_verifier.samples import Samples

_HIDDEN: Final = (48, 24)
_EPOCHS: Final = 4
_BATCH: Final = 1024
_RATE: Final = 3e-3
_DECAY: Final = 1e-3


def fit_look(samples: Samples, *, seed: int = 0) -> Perceptron:
    """Fit the network of one look by Adam on the weighted cross-entropy, with a cosine schedule.

    Parameters
    ----------
    samples : Samples
        Candidates to learn from, at least one batch of them.
    seed : int
        Seed of the first weights and of the order.

    """
    rng = np.random.default_rng(seed)
    mean = samples.features.mean(axis=0)
    scale = samples.features.std(axis=0) + np.float32(1e-3)
    inputs = (samples.features - mean) / scale
    truth = samples.is_beat.astype(np.float32)
    weight = (samples.weight / samples.weight.mean()).astype(np.float32)
    model = _build_network(inputs.shape[1], rng)
    n_batches = len(inputs) // _BATCH
    n_steps = _EPOCHS * n_batches
    step = 0
    for _ in range(_EPOCHS):
        order = rng.permutation(len(inputs))
        for batch in order[: n_batches * _BATCH].reshape(n_batches, _BATCH):
            step += 1
            rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / n_steps))
            model.optimizer.learning_rate.assign(rate)
            model.train_on_batch(inputs[batch], truth[batch][:, None], sample_weight=weight[batch])
    layers = tuple(
        (np.asarray(weights, np.float32), np.asarray(offsets, np.float32))
        for weights, offsets in (layer.get_weights() for layer in model.layers)
    )
    return Perceptron(mean=mean, scale=scale, layers=layers)


def _build_network(n_features: int, rng: np.random.Generator) -> Any:  # noqa: ANN401  keras has no types
    """Build the perceptron.

    The first weights are random, after He et al. 2015, DOI 10.1109/ICCV.2015.123.
    """
    import keras

    keras.backend.clear_session()
    # Half, because Keras adds the square and not half of it.
    decay = keras.regularizers.L2(_DECAY / 2)
    model = keras.Sequential([keras.Input((n_features,))])
    for n_out in _HIDDEN:
        model.add(keras.layers.Dense(n_out, activation="relu", kernel_regularizer=decay))
    model.add(keras.layers.Dense(1, kernel_regularizer=decay))
    for layer, (n_in, n_out) in zip(model.layers, pairwise((n_features, *_HIDDEN, 1)), strict=True):
        drawn = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)
        layer.set_weights([drawn.astype(np.float32), np.zeros(n_out, dtype=np.float32)])
    model.compile(
        optimizer=keras.optimizers.Adam(_RATE),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    return model
