"""The network's shape, and what it does to its inputs by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.template import WINDOW_SAMPLES
from ecg_lib.training.cnn import N_CONVOLUTIONS, Channels, CnnConfig, build_cnn
from ecg_lib.training.fitting import predict_logits

# Importing TensorFlow takes many seconds; test_training does it anyway.
pytestmark = pytest.mark.slow

N_FEATURES = len(FEATURE_NAMES)


def _build(config: CnnConfig | None = None, **scale: NDArray[np.floating]) -> Any:  # noqa: ANN401
    usual = {"feature_mean": np.zeros(N_FEATURES), "feature_deviation": np.ones(N_FEATURES)}
    return build_cnn(config or CnnConfig(), **(usual | scale))


def _inputs(n_beats: int = 5) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((n_beats, WINDOW_SAMPLES, 2)).astype(np.float32)
    return windows, rng.standard_normal((n_beats, N_FEATURES)).astype(np.float32)


@pytest.mark.parametrize("channels", list(Channels))
def test_seven_convolutions_take_beats_to_a_logit_of_v_and_one_of_being_a_beat(
    channels: Channels,
) -> None:
    model = _build(CnnConfig(channels=channels))
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv1D") == N_CONVOLUTIONS == 7
    assert [tensor.name for tensor in model.inputs] == ["windows", "features"]
    assert predict_logits(model, *_inputs()).shape == (5, 2)
    assert model.count_params() < 200_000


def test_the_difference_alone_is_seen_unless_both_are_asked_for() -> None:
    windows, features = _inputs()
    changed = windows.copy()
    changed[..., 0] += 1.0
    for channels, is_seen in ((Channels.DIFFERENCE, False), (Channels.BOTH, True)):
        model = _build(CnnConfig(channels=channels))
        one, other = (
            predict_logits(model, windows, features),
            predict_logits(model, changed, features),
        )
        assert bool(np.abs(one - other).max() > 1e-6) is is_seen


def test_artefacts_are_clipped() -> None:
    windows, features = _inputs()
    model = _build()
    giant, clipped = windows.copy(), windows.copy()
    giant[:, 100] = 1000.0
    clipped[:, 100] = 4.0
    np.testing.assert_array_equal(
        predict_logits(model, giant, features), predict_logits(model, clipped, features)
    )


def test_features_are_scaled_inside_the_network() -> None:
    windows, features = _inputs()
    mean, deviation = np.full(N_FEATURES, 3.0), np.full(N_FEATURES, 2.0)
    plain = _build()
    scaled = _build(feature_mean=mean, feature_deviation=deviation)
    _copy_trained_weights(plain, scaled)
    np.testing.assert_allclose(
        predict_logits(scaled, windows, (2 * features + 3).astype(np.float32)),
        predict_logits(plain, windows, features),
        atol=1e-4,
    )


def _copy_trained_weights(source: Any, target: Any) -> None:  # noqa: ANN401
    for one, other in zip(source.trainable_weights, target.trainable_weights, strict=True):
        other.assign(one)


def test_a_feature_that_never_varies_does_no_harm() -> None:
    deviation = np.ones(N_FEATURES)
    deviation[3] = 0.0
    assert np.isfinite(predict_logits(_build(feature_deviation=deviation), *_inputs())).all()


def test_no_beats_have_no_logits() -> None:
    assert predict_logits(_build(), *_inputs(0)).shape == (0, 2)


@pytest.mark.parametrize("name", ["filters", "kernels", "strides"])
def test_seven_layers_need_seven_values(name: str) -> None:
    with pytest.raises(ValueError, match="must have 7 values each"):
        CnnConfig(**{name: (1, 2, 3)})  # type: ignore[arg-type]


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        CnnConfig(dropout=dropout)
