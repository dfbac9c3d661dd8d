"""Fit the network, calibrate its probabilities and choose its threshold.

This module knows neither folds nor files: the sweep passes beats and keeps the results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from ecg_lib.classifier.calibration import Calibration
from ecg_lib.training.balancing import Balancing, TrainingBeats, balance
from ecg_lib.training.cnn import CnnConfig, build_cnn

_PREDICT_BATCH = 4096
ONNX_OPSET = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """Random changes to the beats of a batch."""

    gain_deviation: float = 0.2
    """Standard deviation of the logarithm of a factor on the window."""
    flip: bool = True
    """Turn half of the windows upside down: another lead, the same beat."""
    noise: float = 0.04
    """Greatest standard deviation of white noise, in QRS amplitudes of the template."""
    feature_noise: float = 0.1
    """Standard deviation of noise on the features, in theirs."""
    time_warp: float = 0.0
    """Standard deviation of the logarithm of a stretch of the window about the R-peak; features
    stay as they were measured. Recipes that do not name it have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Constants of the fit."""

    epochs: int = 4
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    focal_gamma: float = 0.0
    """Focusing exponent of Lin et al. 2017, DOI 10.1109/ICCV.2017.324; 0 is cross-entropy."""
    averaging: float = 0.99
    """Momentum of the moving average of the weights; less in a fit of few steps, so that the
    average never reaches back further than its last tenth."""
    balancing: Balancing = Balancing.NONE
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


class FittedCnn(NamedTuple):
    """A trained network and its losses."""

    model: Any
    """A keras model, see :func:`ecg_lib.training.cnn.build_cnn`."""

    loss: tuple[float, ...]
    """Mean training loss of each epoch."""


def fit_cnn(
    beats: TrainingBeats,
    *,
    cnn: CnnConfig,
    training: TrainingConfig,
    seed: int,
    on_epoch_end: Callable[[int, float], None] | None = None,
) -> FittedCnn:
    """Fit a network to beats.

    Parameters
    ----------
    beats : TrainingBeats
        Training beats, not yet balanced.
    cnn : CnnConfig
        The network.
    training : TrainingConfig
        The fit.
    seed : int
        Seed of weights, order, balancing and augmentation.
    on_epoch_end : callable, optional
        Called with the epoch (from 0) and its loss; may raise to stop.

    Returns
    -------
    FittedCnn

    """
    import keras

    # Otherwise the graphs of earlier fits stay in memory.
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    balanced = balance(beats, strategy=training.balancing, seed=seed)
    deviation = balanced.features.std(axis=0)
    model = build_cnn(
        cnn, feature_mean=balanced.features.mean(axis=0), feature_deviation=deviation, seed=seed
    )
    batches = _Batches(balanced, deviation, training, seed)
    n_steps = max(1, training.epochs * len(batches))
    schedule = keras.optimizers.schedules.CosineDecay(training.learning_rate, n_steps)
    model.compile(
        optimizer=keras.optimizers.AdamW(
            schedule,
            weight_decay=training.weight_decay,
            use_ema=True,
            ema_momentum=min(training.averaging, max(0.0, 1 - 10 / n_steps)),
        ),
        loss=_loss(training),
    )
    # In the first step, Keras would make its variables while it traces, and trace all again.
    model.optimizer.build(model.trainable_variables)
    losses: list[float] = []

    def note_epoch(epoch: int, logs: dict[str, float]) -> None:
        losses.append(float(logs["loss"]))
        if on_epoch_end is not None:
            on_epoch_end(epoch, losses[-1])

    model.fit(
        _dataset_of(batches),
        epochs=training.epochs,
        # Keras would draw the order from Python's global generator, which other threads use too;
        # the batches are shuffled already.
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=note_epoch)],
    )
    return FittedCnn(model, tuple(losses))


def _loss(training: TrainingConfig) -> Any:  # noqa: ANN401  keras has no types
    import keras

    if training.focal_gamma > 0:
        return keras.losses.BinaryFocalCrossentropy(
            gamma=training.focal_gamma,
            from_logits=True,
            label_smoothing=training.label_smoothing,
        )
    return keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=training.label_smoothing
    )


class _Batches:
    """Shuffled, augmented batches; every epoch sees every beat once, except the last few."""

    def __init__(
        self,
        beats: TrainingBeats,
        feature_deviation: NDArray[np.float32],
        training: TrainingConfig,
        seed: int,
    ) -> None:
        self._beats = beats
        self._feature_deviation = feature_deviation
        self._config = training.augmentation
        self._size = min(training.batch_size, len(beats.is_v))
        self._rng = np.random.default_rng(seed)
        self._order = self._rng.permutation(len(beats.is_v))

    def __len__(self) -> int:
        return len(self._order) // self._size

    def __getitem__(self, index: int) -> tuple[tuple[Any, Any], Any, Any]:
        rows = np.sort(self._order[index * self._size : (index + 1) * self._size])
        windows = self._augment(self._beats.windows[rows])
        features = self._beats.features[rows]
        noise = self._rng.standard_normal(features.shape, dtype=np.float32)
        features = features + noise * (self._config.feature_noise * self._feature_deviation)
        labels = np.stack([self._beats.is_v[rows], self._beats.is_beat[rows]], axis=1)
        return (windows, features), labels.astype(np.float32), self._beats.weights[rows]

    def on_epoch_end(self) -> None:
        self._order = self._rng.permutation(len(self._order))

    def _augment(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._config.time_warp > 0:
            deviation = self._rng.normal(0.0, self._config.time_warp, len(windows))
            windows = stretch_windows(windows, np.exp(deviation))
        shape = (len(windows), 1, 1)
        factor = np.exp(self._rng.normal(0.0, self._config.gain_deviation, shape))
        if self._config.flip:
            factor *= self._rng.choice([-1.0, 1.0], shape)
        level = self._rng.uniform(0.0, self._config.noise, shape).astype(np.float32)
        noise = self._rng.standard_normal(windows.shape, dtype=np.float32)
        return np.asarray(windows * factor.astype(np.float32) + noise * level)


def _dataset_of(batches: _Batches) -> Any:  # noqa: ANN401  keras has no types
    """Give batches as Keras wants them, whose base class is imported where it is used."""
    import keras

    class Dataset(keras.utils.PyDataset):  # type: ignore[misc]  # keras has no types
        __len__ = staticmethod(batches.__len__)
        on_epoch_end = staticmethod(batches.on_epoch_end)
        __getitem__ = staticmethod(batches.__getitem__)

    return Dataset()


def stretch_windows(
    windows: NDArray[np.float32], factors: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Play windows slower (factor above 1) or faster about their middle, by interpolation.

    Parameters
    ----------
    windows : ndarray of float32, shape (n_beats, n_samples, n_channels)
    factors : ndarray of shape (n_beats,)

    Returns
    -------
    ndarray of the shape of `windows`
        What lies beyond a window is its end value.

    """
    n_samples = windows.shape[1]
    middle = n_samples // 2
    at = middle + (np.arange(n_samples) - middle) / factors[:, None]
    at = np.clip(at, 0, n_samples - 1)
    before = np.minimum(at.astype(np.int64), n_samples - 2)
    share = (at - before).astype(np.float32)[:, :, None]
    rows = np.arange(len(windows))[:, None]
    return np.asarray(windows[rows, before] * (1 - share) + windows[rows, before + 1] * share)


def predict_logits(
    model: Any,  # noqa: ANN401  keras has no types
    windows: NDArray[np.float32],
    features: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Compute the logits of V and of being a beat, shape ``(n_beats, 2)``."""
    if len(windows) == 0:
        return np.zeros((0, 2))
    outputs = [
        np.asarray(
            model(
                [windows[start : start + _PREDICT_BATCH], features[start : start + _PREDICT_BATCH]],
                training=False,
            )
        )
        for start in range(0, len(windows), _PREDICT_BATCH)
    ]
    return np.concatenate(outputs).astype(np.float64)


def fit_calibration(logits: NDArray[np.float64], is_v: NDArray[np.bool_]) -> Calibration:
    """Fit slope and intercept of the logits by maximum likelihood.

    Platt 1999 (Advances in Large Margin Classifiers, 61-74). The intercept also puts back the
    share of V beats, which training sets change.

    Parameters
    ----------
    logits : ndarray of shape (n_beats,)
        Out-of-fold logits of beats in their natural proportion.
    is_v : ndarray of bool, shape (n_beats,)

    Returns
    -------
    Calibration

    """
    targets = is_v.astype(np.float64)

    def negative_log_likelihood(parameters: NDArray[np.float64]) -> float:
        scores = parameters[0] * logits + parameters[1]
        return float(np.mean(np.logaddexp(0.0, scores) - targets * scores))

    result = optimize.minimize(negative_log_likelihood, x0=np.array([1.0, 0.0]))
    return Calibration(slope=float(result.x[0]), intercept=float(result.x[1]))


class ThresholdChoice(NamedTuple):
    """A point of the precision-recall curve."""

    threshold: float
    f1: float


def choose_threshold(
    probabilities: NDArray[np.float64], is_v: NDArray[np.bool_], *, n_missed: int = 0
) -> ThresholdChoice:
    """Choose the probability from which on a beat is called V, at the greatest F1.

    Parameters
    ----------
    probabilities : ndarray of shape (n_beats,)
        Calibrated out-of-fold probabilities of V.
    is_v : ndarray of bool, shape (n_beats,)
        Truth; beats of class F and Q left out.
    n_missed : int
        V beats without a detection, which no threshold can find.

    Returns
    -------
    ThresholdChoice
        Between two neighbouring probabilities, so that rounding does not decide.

    Raises
    ------
    ValueError
        If there is no V beat.

    """
    n_v = int(is_v.sum())
    if n_v == 0:
        msg = "there must be V beats to choose a threshold, got none"
        raise ValueError(msg)
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    true = np.cumsum(is_v[order])
    called = np.arange(1, len(ranked) + 1)
    f1 = 2 * true / (called + n_v + n_missed)
    is_cut = np.append(ranked[1:] < ranked[:-1], True)
    best = int(np.argmax(np.where(is_cut, f1, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return ThresholdChoice(float((ranked[best] + below) / 2), float(f1[best]))


def export_onnx(model: Any, path: Path) -> None:  # noqa: ANN401  keras has no types
    """Write a keras model as an ONNX graph with a free batch size, simplified."""
    # tf2onnx asks numpy for an attribute that numpy warns about.
    import warnings

    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.export(str(path), format="onnx", opset_version=ONNX_OPSET, verbose=False)
    network = onnx.load(str(path))
    simplify_network(network)
    name_by_place(network)
    onnx.checker.check_model(network)
    onnx.save(network, str(path))


def name_by_place(network: Any) -> None:  # noqa: ANN401  onnx has no types
    """Name values, nodes and the free size by their place in the graph (in place).

    The export names them by a counter of its process. Equal weights then give an equal file,
    whatever the process exported before. Inputs and outputs keep their names.

    Parameters
    ----------
    network : onnx.ModelProto

    """
    graph = network.graph
    names = {one.name: one.name for one in (*graph.input, *graph.output)} | {"": ""}
    for number, constant in enumerate(graph.initializer):
        names.setdefault(constant.name, f"constant_{number}")
        constant.name = names[constant.name]
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        for place, value in enumerate(node.output):
            names.setdefault(value, f"{node.name}_{place}")
    for node in graph.node:
        node.input[:] = [names[value] for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    for one in (*graph.input, *graph.output):
        for size in one.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = "n_beats"
    graph.ClearField("doc_string")
    del graph.value_info[:]


def simplify_network(network: Any) -> None:  # noqa: ANN401  onnx has no types
    """Rewrite what the export of keras makes slow (in place); the answers stay.

    Scales and offsets become part of the convolutions before them, ``Min, Max`` become ``Clip``,
    and the pools at the end take what the last convolution gives. From the first convolution to the
    pools no layout changes. Together the answers take less than half of the time.

    Parameters
    ----------
    network : onnx.ModelProto

    """
    fold_convolutions(network)
    clip_at_once(network)
    pool_in_place(network)


def fold_convolutions(network: Any) -> int:  # noqa: ANN401  onnx has no types
    """Fold the scale and offset that follow a convolution into its weights (in place).

    The export leaves ``Squeeze, Mul, Add, Relu, Unsqueeze`` between two convolutions of a signal,
    where nothing is fused when the network is loaded: its answers take 1.4 times as long.

    Parameters
    ----------
    network : onnx.ModelProto

    Returns
    -------
    int
        How many convolutions were folded.

    """
    from onnx import helper, numpy_helper

    graph = network.graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    kept, n_folded = [], 0
    renamed: dict[str, str] = {}
    dropped: set[str] = set()
    for node in graph.node:
        if node.output[0] in dropped:
            continue
        node.input[:] = [renamed.get(name, name) for name in node.input]
        chain = _find_scaled(graph, node, constants)
        kept.append(node)
        if chain is None:
            continue
        squeeze, scale, offset, relu = chain
        weights, bias = f"{node.output[0]}/weights", f"{node.output[0]}/bias"
        factor = _constant_of(scale, constants).reshape(-1, 1, 1, 1)
        added = _constant_of(offset, constants).ravel()
        if len(node.input) > 2:
            added = added + constants[node.input[2]] * factor.ravel()
        for name, values in ((weights, constants[node.input[1]] * factor), (bias, added)):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        node.input[:] = [node.input[0], weights, bias]
        dropped.update(each.output[0] for each in chain)
        active = f"{node.output[0]}/active"
        kept.append(helper.make_node("Relu", [node.output[0]], [active]))
        after = _consumers(graph, relu.output[0])
        if len(after) == 1 and _undoes(after[0], squeeze, constants):
            dropped.add(after[0].output[0])
            renamed[after[0].output[0]] = active
        else:
            kept.append(helper.make_node("Squeeze", [active, squeeze.input[1]], relu.output))
        n_folded += 1
    _keep_nodes(graph, kept)
    return n_folded


def clip_at_once(network: Any) -> int:  # noqa: ANN401  onnx has no types
    """Replace each ``Max`` of a ``Min``, both with a number, by one ``Clip`` (in place).

    Each of the two takes ten times as long as the ``Clip``.

    Parameters
    ----------
    network : onnx.ModelProto

    Returns
    -------
    int
        How many were replaced.

    """
    graph = network.graph
    numbers = {each.name for each in graph.initializer if not each.dims}
    dropped: set[str] = set()
    n_clips = 0
    for node in graph.node:
        if node.op_type != "Min" or len(node.input) != 2 or node.input[1] not in numbers:
            continue
        following = _consumers(graph, node.output[0])
        if [each.op_type for each in following] != ["Max"]:
            continue
        (greater,) = following
        if list(greater.input[:1]) != list(node.output) or greater.input[1] not in numbers:
            continue
        greater.op_type = "Clip"
        greater.input[:] = [node.input[0], greater.input[1], node.input[1]]
        dropped.add(node.output[0])
        n_clips += 1
    _keep_nodes(graph, [node for node in graph.node if node.output[0] not in dropped])
    return n_clips


def pool_in_place(network: Any) -> bool:  # noqa: ANN401  onnx has no types
    """Let the pools take what the last convolution gives, with its layout (in place).

    The export leaves ``Squeeze, Transpose`` before a mean and a maximum, which are joined.

    Parameters
    ----------
    network : onnx.ModelProto
        Its convolutions are folded, see :func:`fold_convolutions`.

    Returns
    -------
    bool
        Whether the pools were found.

    """
    from onnx import helper

    graph = network.graph
    made = {node.output[0]: node for node in graph.node}
    kinds = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
    pools = [node for node in graph.node if node.op_type in kinds]
    turned = made.get(pools[0].input[0]) if pools else None
    squeezed = made.get(turned.input[0]) if turned is not None else None
    joined = _consumers(graph, pools[0].output[0]) if pools else []
    if turned is None or squeezed is None:
        return False
    kinds_before = (squeezed.op_type, turned.op_type)
    if kinds_before != ("Squeeze", "Transpose") or [each.op_type for each in joined] != ["Concat"]:
        return False
    if any(pool.input[0] != pools[0].input[0] for pool in pools):
        return False
    for pool in pools:
        pool.op_type = kinds[pool.op_type]
        pool.input[:] = [squeezed.input[0]]
        del pool.attribute[:]
    (concat,) = joined
    flat, pooled = concat.output[0], f"{concat.output[0]}/pooled"
    concat.output[:] = [pooled]
    kept = []
    for node in graph.node:
        if node not in (turned, squeezed):
            kept.append(node)
        if node == concat:
            kept.append(helper.make_node("Flatten", [pooled], [flat], axis=1))
    _keep_nodes(graph, kept)
    return True


def _keep_nodes(graph: Any, nodes: list[Any]) -> None:  # noqa: ANN401  onnx has no types
    """Keep these nodes, in their order, and the constants that they need."""
    used = {name for node in nodes for name in node.input}
    initializers = [each for each in graph.initializer if each.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)


def _consumers(graph: Any, name: str) -> list[Any]:  # noqa: ANN401  onnx has no types
    return [node for node in graph.node if name in node.input]


def _constant_of(node: Any, constants: dict[str, Any]) -> NDArray[np.float32]:  # noqa: ANN401
    (name,) = (each for each in node.input if each in constants)
    return np.asarray(constants[name])


def _undoes(node: Any, squeeze: Any, constants: dict[str, Any]) -> bool:  # noqa: ANN401
    """Return True for the ``Unsqueeze`` of the axes that a ``Squeeze`` took away."""
    if node.op_type != "Unsqueeze":
        return False
    return np.array_equal(constants[node.input[1]], constants[squeeze.input[1]])


def _find_scaled(graph: Any, node: Any, constants: dict[str, Any]) -> list[Any] | None:  # noqa: ANN401
    """Find what follows a convolution, if it is a scale, an offset and a rectifier alone."""
    if node.op_type != "Conv" or node.input[1] not in constants:
        return None
    chain: list[Any] = []
    for kind in ("Squeeze", "Mul", "Add", "Relu"):
        following = _consumers(graph, (chain or [node])[-1].output[0])
        if len(following) != 1 or following[0].op_type != kind:
            return None
        if kind in {"Mul", "Add"}:
            sizes = [constants[name].size for name in following[0].input if name in constants]
            if sizes != [len(constants[node.input[1]])]:
                return None
        chain.append(following[0])
    return chain
