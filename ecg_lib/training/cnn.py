"""The network: seven 1-D convolutions over the beat, joined by its RR and template features.

Scaling and clipping of the inputs are layers, so the exported graph takes what
:func:`ecg_lib.signal_path.preprocessing.prepare_beats` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.template import WINDOW_SAMPLES

N_CONVOLUTIONS = 7


class Channels(StrEnum):
    """Channels of the window that the convolutions use.

    The beat itself carries the patient's identity, of which a training set of 22 subjects has
    too little; its difference to the patient's template carries what is unusual about it.
    """

    DIFFERENCE = "difference"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class CnnConfig:
    """Size and shape of the network."""

    channels: Channels = Channels.DIFFERENCE
    filters: tuple[int, ...] = (16, 24, 24, 32, 32, 48, 48)
    kernels: tuple[int, ...] = (9, 5, 5, 3, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 1, 2, 1, 1, 1)
    window_units: int = 16
    feature_units: int = 32
    joint_units: int = 32
    dropout: float = 0.2

    def __post_init__(self) -> None:
        sizes = (len(self.filters), len(self.kernels), len(self.strides))
        if sizes != (N_CONVOLUTIONS,) * 3:
            msg = (
                f"filters, kernels and strides must have {N_CONVOLUTIONS} values each, got {sizes}"
            )
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout must be at least 0 and below 1, got {self.dropout!r}"
            raise ValueError(msg)


def build_cnn(
    config: CnnConfig,
    *,
    feature_mean: NDArray[np.floating],
    feature_deviation: NDArray[np.floating],
    seed: int = 0,
) -> Any:  # noqa: ANN401  keras has no types
    """Build the untrained network.

    Parameters
    ----------
    config : CnnConfig
        Size and shape.
    feature_mean, feature_deviation : ndarray of shape (n_features,)
        Mean and standard deviation of the features in the training beats.
    seed : int
        Seed of the first weights and of what is dropped out.

    Returns
    -------
    keras.Model
        Inputs ``windows`` ``(n, 360, 2)`` and ``features`` ``(n, n_features)``, output the
        logits of V and of being a beat at all, ``(n, 2)``.

    """
    import keras

    layers = keras.layers
    # Keras would draw these from Python's global generator, which other threads use too.
    seeds = iter(np.random.default_rng(seed).integers(1, 10**9, size=64).tolist())

    def start() -> Any:  # noqa: ANN401  keras has no types
        return keras.initializers.GlorotUniform(seed=next(seeds))

    windows = keras.Input((WINDOW_SAMPLES, 2), name="windows")
    features = keras.Input((len(FEATURE_NAMES),), name="features")

    seen = windows[:, :, 1:] if config.channels is Channels.DIFFERENCE else windows
    x = keras.ops.clip(seen, -4.0, 4.0)
    shapes = zip(config.filters, config.kernels, config.strides, strict=True)
    for n_filters, kernel, stride in shapes:
        x = layers.Conv1D(
            n_filters,
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=start(),
        )(x)
        x = layers.BatchNormalization()(x)
        x = layers.Activation("relu")(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])
    x = layers.Dropout(config.dropout, seed=next(seeds))(x)
    x = layers.Dense(config.window_units, activation="relu", kernel_initializer=start())(x)

    # Not layers.Normalization: its constants become inputs of the exported ONNX graph.
    scale = 1 / np.maximum(feature_deviation, 1e-6)
    y = layers.Rescaling(scale.tolist(), offset=(-feature_mean * scale).tolist())(features)
    y = keras.ops.clip(y, -5.0, 5.0)
    y = layers.Dense(config.feature_units, activation="relu", kernel_initializer=start())(y)
    y = layers.Dropout(config.dropout, seed=next(seeds))(y)

    z = layers.Concatenate()([x, y])
    z = layers.Dense(config.joint_units, activation="relu", kernel_initializer=start())(z)
    z = layers.Dropout(config.dropout, seed=next(seeds))(z)
    logits = layers.Dense(2, name="logits", kernel_initializer=start())(z)
    return keras.Model([windows, features], logits, name="ecg_cnn")
