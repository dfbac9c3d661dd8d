"""Training: a small fit learns, repeats with its seed, and leaves as an equal ONNX graph."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import ClassifierConfig
from ecg_lib.classifier.calibration import Calibration
from ecg_lib.evaluation.beat_scoring import NO_BEAT, score_beats
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.training.balancing import Balancing, TrainingBeats
from ecg_lib.training.cnn import CnnConfig
from ecg_lib.training.datasets import BeatDataset, build_beats, join_records
from ecg_lib.training.fitting import (
    ONNX_OPSET,
    AugmentationConfig,
    FittedCnn,
    TrainingConfig,
    choose_threshold,
    clip_at_once,
    export_onnx,
    fit_calibration,
    fit_cnn,
    fold_convolutions,
    pool_in_place,
    predict_logits,
    simplify_network,
    stretch_windows,
)
from ecg_lib.training.views import WHOLE
from flows.release.load_released import read_reference

pytestmark = pytest.mark.slow

SMALL = CnnConfig(filters=(8, 8, 8, 8, 8, 8, 8), window_units=8, feature_units=16, joint_units=16)
TINY_FIT = TrainingConfig(epochs=2, batch_size=32, learning_rate=1e-2, averaging=0.9)


def _record(seed: int) -> Record:
    patient = replace(draw_patient(seed), pvc_episodes_per_min=8.0)
    return simulate_record(f"sim{seed}", patient=patient, duration_s=60.0, seed=seed)


def _dataset(seeds: range) -> BeatDataset:
    return join_records(
        [
            build_beats(
                _record(seed), scoring_views=[WHOLE], training_views=[], conducted_share=1.0
            )
            for seed in seeds
        ]
    )


@pytest.fixture(scope="module")
def train_set() -> BeatDataset:
    return _dataset(range(12))


@pytest.fixture(scope="module")
def test_set() -> BeatDataset:
    return _dataset(range(100, 106))


def _training_beats(dataset: BeatDataset) -> TrainingBeats:
    return _beats_of(dataset, np.flatnonzero(dataset.is_trainable))


def _beats_of(dataset: BeatDataset, rows: NDArray[np.int64]) -> TrainingBeats:
    return TrainingBeats(
        windows=dataset.windows[rows],
        features=dataset.features[rows],
        is_v=dataset.is_v[rows],
        is_beat=dataset.label[rows] != NO_BEAT,
        weights=np.ones(len(rows), dtype=np.float32),
    )


@pytest.fixture(scope="module")
def fitted(train_set: BeatDataset) -> FittedCnn:
    return fit_cnn(_training_beats(train_set), cnn=SMALL, training=TINY_FIT, seed=1)


def _f1(is_v: NDArray[np.bool_], called: NDArray[np.bool_]) -> float:
    return float(2 * (is_v & called).sum() / (is_v.sum() + called.sum()))


def test_two_epochs_on_virtual_patients_find_the_pvcs_of_others(
    fitted: FittedCnn, test_set: BeatDataset
) -> None:
    assert len(fitted.loss) == 2
    assert fitted.loss[1] < fitted.loss[0]
    logits = predict_logits(fitted.model, test_set.windows, test_set.features)[:, 0]
    assert test_set.is_v.sum() > 30
    assert _f1(test_set.is_v, logits > 0) > 0.9


def test_the_network_learns_what_is_a_beat_apart_from_what_is_v(
    train_set: BeatDataset, test_set: BeatDataset
) -> None:
    """Detections between the beats do not count as beats; V beats are beats like the others."""
    train, others = _training_beats(train_set), _training_beats(test_set)
    given, unseen = _with_false_detections(train), _with_false_detections(others)
    model = fit_cnn(given, cnn=SMALL, training=TINY_FIT, seed=1).model
    of_v, of_beat = predict_logits(model, unseen.windows, unseen.features).T
    false, is_v = of_beat[~unseen.is_beat], unseen.is_v
    for true in (of_beat[is_v], of_beat[unseen.is_beat & ~is_v]):
        assert (true[:, None] > false).mean() > 0.95
    assert (of_v[is_v][:, None] > of_v[~is_v]).mean() > 0.95


def _with_false_detections(beats: TrainingBeats) -> TrainingBeats:
    """Add detections half way to the next beat: half of a window, and noise."""
    rng = np.random.default_rng(5)
    some = np.arange(0, len(beats.is_v), 2)
    some = some[~beats.is_v[some]]
    windows = np.roll(beats.windows[some], 140, axis=1)
    windows += rng.standard_normal(windows.shape, dtype=np.float32)
    none = np.zeros(len(some), dtype=np.bool_)
    return TrainingBeats(
        windows=np.concatenate([beats.windows, windows]),
        features=np.concatenate([beats.features, beats.features[some]]),
        is_v=np.append(beats.is_v, none),
        is_beat=np.append(beats.is_beat, none),
        weights=np.append(beats.weights, np.ones(len(some), dtype=np.float32)),
    )


def test_the_same_seed_gives_the_same_weights_whatever_other_threads_draw(
    fitted: FittedCnn, train_set: BeatDataset
) -> None:
    has_ended = threading.Event()

    def draw() -> None:  # as clients of servers do, which wait for a random time
        while not has_ended.wait(0.001):
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        again = fit_cnn(_training_beats(train_set), cnn=SMALL, training=TINY_FIT, seed=1)
    finally:
        has_ended.set()
        thread.join()
    assert again.loss == fitted.loss
    for one, other in zip(fitted.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_onnx_graph_answers_as_keras_does(
    fitted: FittedCnn, test_set: BeatDataset, tmp_path: Path
) -> None:
    export_onnx(fitted.model, tmp_path / "network.onnx")
    network = (tmp_path / "network.onnx").read_bytes()
    kinds = [node.op_type for node in onnx.load_from_string(network).graph.node]
    assert not {"Squeeze", "Min", "Max", "Transpose"} & set(kinds)
    session = ort.InferenceSession(network, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [
        ("windows", [360, 2]),
        ("features", [test_set.features.shape[1]]),
    ]
    assert [output.shape[1:] for output in session.get_outputs()] == [[2]]
    classifier = BeatClassifier(network, config=ClassifierConfig())
    for n_beats in (1, 7, len(test_set)):
        windows, features = test_set.windows[:n_beats], test_set.features[:n_beats]
        logits = predict_logits(fitted.model, windows, features)
        served = classifier.predict_logits(windows, features)
        assert served.shape == (n_beats, 2)
        np.testing.assert_allclose(
            Calibration().probabilities(served), Calibration().probabilities(logits), atol=1e-5
        )
        np.testing.assert_allclose(served, logits, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def exported(fitted: FittedCnn, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The graph as keras writes it."""
    path = tmp_path_factory.mktemp("exported") / "network.onnx"
    fitted.model.export(str(path), format="onnx", opset_version=ONNX_OPSET, verbose=False)
    return path.read_bytes()


def test_equal_weights_give_an_equal_file(fitted: FittedCnn, tmp_path: Path) -> None:
    """Whatever the process exported before; the export counts its names on."""
    for name in ("one", "other"):
        export_onnx(fitted.model, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_convolutions_are_folded(exported: bytes) -> None:
    network = onnx.load_from_string(exported)
    assert fold_convolutions(network) == 7
    _check_answers(network, exported)
    kinds = [node.op_type for node in network.graph.node]
    assert kinds.count("Conv") == 7
    assert kinds.count("Squeeze") == 1
    assert fold_convolutions(network) == 0


def test_inputs_are_clipped_at_once(exported: bytes) -> None:
    network = onnx.load_from_string(exported)
    assert clip_at_once(network) == 2
    _check_answers(network, exported)
    assert not {"Min", "Max"} & {node.op_type for node in network.graph.node}
    assert clip_at_once(network) == 0


def test_pools_take_what_the_last_convolution_gives(exported: bytes) -> None:
    network = onnx.load_from_string(exported)
    fold_convolutions(network)
    assert pool_in_place(network)
    _check_answers(network, exported)
    assert not {"ReduceMean", "ReduceMax", "Transpose"} & {
        node.op_type for node in network.graph.node
    }
    assert not pool_in_place(network)


def test_between_the_first_convolution_and_the_pools_no_layout_changes(exported: bytes) -> None:
    network = onnx.load_from_string(exported)
    simplify_network(network)
    _check_answers(network, exported)
    kinds = [node.op_type for node in network.graph.node]
    first, last = kinds.index("Conv"), kinds.index("Concat")
    assert set(kinds[first:last]) == {"Conv", "Relu", "GlobalAveragePool", "GlobalMaxPool"}


def test_the_networks_that_ship_are_simplified() -> None:
    bundle = read_reference()
    for path in (
        bundle.network,
        *(bundle.fold_network(fold) for fold in set(bundle.folds.values())),
    ):
        network = onnx.load_from_string(path.read_bytes())
        simplify_network(network)
        assert network.SerializeToString() == path.read_bytes()


def _check_answers(network: onnx.ModelProto, before: bytes) -> None:
    onnx.checker.check_model(network)
    used = {name for node in network.graph.node for name in node.input}
    assert {each.name for each in network.graph.initializer} <= used
    generator = np.random.default_rng(0)
    # Beyond the limits of the clips too.
    windows = 4 * generator.standard_normal((300, 360, 2)).astype(np.float32)
    features = 4 * generator.standard_normal((300, len(FEATURE_NAMES))).astype(np.float32)
    expected, found = (
        BeatClassifier(graph, config=ClassifierConfig()).predict_logits(windows, features)
        for graph in (before, network.SerializeToString())
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_trained_classifier_works_from_raw_samples(fitted: FittedCnn, tmp_path: Path) -> None:
    export_onnx(fitted.model, tmp_path / "network.onnx")
    network = (tmp_path / "network.onnx").read_bytes()
    classifier = BeatClassifier(network, config=ClassifierConfig())
    record = _record(200)
    assert record.annotations is not None
    beats = classifier.classify(record.signal_mv(), fs=record.fs)
    counts = score_beats(
        record.annotations,
        detections=beats.r_peaks,
        is_v=beats.is_v,
        is_readable=beats.is_readable,
        fs=record.fs,
    )
    assert counts.v_beats > 3
    assert counts.v_f1 > 0.8


@pytest.mark.parametrize(
    "changes",
    [
        {"focal_gamma": 2.0, "balancing": Balancing.SMOTE},
        {"balancing": Balancing.RANDOM_OVERSAMPLER},
        {"balancing": Balancing.CLASS_WEIGHTS},
        {"augmentation": AugmentationConfig(time_warp=0.1)},
    ],
)
def test_every_kind_of_training_learns(
    changes: dict[str, object], train_set: BeatDataset, test_set: BeatDataset
) -> None:
    training = replace(TINY_FIT, epochs=1, **changes)  # type: ignore[arg-type]
    beats = _training_beats(train_set)
    before = [part.copy() for part in beats]
    model = fit_cnn(beats, cnn=SMALL, training=training, seed=2).model
    for part, expected in zip(beats, before, strict=True):
        np.testing.assert_array_equal(part, expected)
    logits = predict_logits(model, test_set.windows, test_set.features)[:, 0]
    in_v, in_others = logits[test_set.is_v], logits[~test_set.is_v]
    assert (in_v[:, None] > in_others).mean() > 0.95  # area under the ROC curve


def test_each_epoch_is_told_and_may_stop_the_fit(train_set: BeatDataset) -> None:
    """Fewer beats than a batch are one batch."""
    told: list[tuple[int, float]] = []

    class StopError(Exception):
        pass

    def stop(epoch: int, loss: float) -> None:
        told.append((epoch, loss))
        if epoch == 1:
            raise StopError

    few = _beats_of(train_set, np.flatnonzero(train_set.is_trainable)[:64])
    training = replace(TINY_FIT, epochs=5, batch_size=256)
    with pytest.raises(StopError):
        fit_cnn(few, cnn=SMALL, training=training, seed=1, on_epoch_end=stop)
    assert [epoch for epoch, _ in told] == [0, 1]
    assert all(np.isfinite(loss) and loss > 0 for _, loss in told)


def test_one_class_alone_is_refused(train_set: BeatDataset) -> None:
    only_n = _beats_of(train_set, np.flatnonzero(train_set.label == "N"))
    with pytest.raises(ValueError, match="got 0 V beats"):
        fit_cnn(only_n, cnn=SMALL, training=TINY_FIT, seed=1)


# Calibration and threshold.


def test_a_stretch_moves_what_is_beside_the_middle_and_nothing_else() -> None:
    at = np.arange(360) - 180
    bumps = np.exp(-0.5 * ((at[:, None] - np.array([0, 60])) / 5) ** 2)
    windows = np.stack([bumps] * 3).astype(np.float32)
    same, slow, fast = stretch_windows(windows, np.array([1.0, 1.25, 0.8]))
    np.testing.assert_array_equal(same, windows[0])
    assert (slow[:, 0].argmax(), fast[:, 0].argmax()) == (180, 180)
    assert (slow[:, 1].argmax(), fast[:, 1].argmax()) == (180 + 75, 180 + 48)
    np.testing.assert_allclose(
        [slow.sum(), fast.sum()], [1.25 * same.sum(), 0.8 * same.sum()], rtol=0.01
    )


def test_what_lies_beyond_a_stretched_window_is_its_end() -> None:
    ramp = np.linspace(1.0, 2.0, 360, dtype=np.float32)[None, :, None]
    fast = stretch_windows(ramp, np.array([0.5]))[0, :, 0]
    assert (fast[:90] == 1.0).all()
    assert (fast[-90:] == 2.0).all()
    assert (np.diff(fast) >= 0).all()
    assert stretch_windows(ramp[:0], np.zeros(0)).shape == (0, 360, 1)


def test_the_calibration_finds_the_law_of_the_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 3, 50_000)
    law = Calibration(slope=0.6, intercept=-1.2)
    found = fit_calibration(logits, rng.random(50_000) < law.probabilities(logits))
    assert found.slope == pytest.approx(0.6, abs=0.03)
    assert found.intercept == pytest.approx(-1.2, abs=0.05)


def test_calibrated_logits_need_no_calibration() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 50_000)
    found = fit_calibration(logits, rng.random(50_000) < Calibration().probabilities(logits))
    assert found.slope == pytest.approx(1.0, abs=0.05)
    assert found.intercept == pytest.approx(0.0, abs=0.05)


def test_the_threshold_lies_between_the_classes() -> None:
    choice = choose_threshold(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, True, False, False]))
    assert choice.threshold == pytest.approx(0.55)
    assert choice.f1 == 1.0


@pytest.mark.parametrize(
    ("probabilities", "is_v", "n_missed", "threshold", "f1"),
    [
        ([0.9, 0.8, 0.7, 0.1], "VNVN", 0, 0.4, 0.8),  # one false V is worth the second V
        ([0.9, 0.5, 0.4, 0.3, 0.2], "VNNNV", 0, 0.7, 2 / 3),
        ([0.9, 0.1], "VN", 1, 0.5, 2 / 3),  # a beat that was not found
        ([0.9, 0.9, 0.1], "VNN", 0, 0.5, 2 / 3),  # equal probabilities cannot be parted
        ([0.6], "V", 0, 0.3, 1.0),
    ],
)
def test_the_threshold_of_greatest_f1_is_that_on_paper(
    probabilities: list[float], is_v: str, n_missed: int, threshold: float, f1: float
) -> None:
    choice = choose_threshold(
        np.array(probabilities), np.array([c == "V" for c in is_v]), n_missed=n_missed
    )
    assert choice.threshold == pytest.approx(threshold)
    assert choice.f1 == pytest.approx(f1)


@settings(max_examples=200, deadline=None)
@given(
    beats=st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=40).filter(
        lambda beats: any(is_v for _, is_v in beats)
    ),
    n_missed=st.integers(0, 5),
)
def test_no_other_threshold_has_a_greater_f1(beats: list[tuple[int, bool]], n_missed: int) -> None:
    probabilities = np.array([p / 100 for p, _ in beats])
    is_v = np.array([v for _, v in beats])

    def f1(threshold: float) -> float:
        called = probabilities >= threshold
        return float(2 * (called & is_v).sum() / (called.sum() + is_v.sum() + n_missed))

    choice = choose_threshold(probabilities, is_v, n_missed=n_missed)
    assert f1(choice.threshold) == pytest.approx(choice.f1)
    assert choice.f1 >= max(f1(t) for t in np.linspace(0.005, 0.995, 100)) - 1e-12


def test_without_v_beats_there_is_no_threshold() -> None:
    with pytest.raises(ValueError, match="there must be V beats"):
        choose_threshold(np.array([0.5]), np.array([False]))
