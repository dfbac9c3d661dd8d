"""The served classifier around a network without training: rows, classes, refusals."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import (
    MIN_READABLE_S,
    BeatClassifier,
    ClassifiedBeats,
    decide,
    require_readable,
)
from ecg_lib.classifier.bundle import Bundle, ClassifierConfig
from ecg_lib.classifier.calibration import Calibration
from ecg_lib.classifier.shape_vote import vote
from ecg_lib.errors import BundleError, SignalTooShortError, UnreadableSignalError
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.preprocessing import PreparedBeats, prepare_beats

BEATING = [
    StripKind.NORMAL,
    StripKind.ISOLATED_PVC,
    StripKind.COUPLET,
    StripKind.BIGEMINY,
    StripKind.RUN,
    StripKind.NOISY,
]


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


def _classify(classifier: BeatClassifier, record: Record) -> ClassifiedBeats:
    return classifier.classify(record.signal_mv(), fs=record.fs)


def _half_noise() -> tuple[NDArray[np.float32], float]:
    record = simulate_strip(StripKind.BIGEMINY, seed=1, duration_s=40.0)
    signal = record.signal_mv().copy()
    signal[7200:] = np.random.default_rng(1).standard_normal(len(signal) - 7200)
    return signal, record.fs


@pytest.mark.parametrize("fs", [100.0, 250.0, 360.0, 1000.0])
@pytest.mark.parametrize("kind", BEATING)
def test_every_pvc_of_a_strip_is_v_and_nothing_else(
    classifier: BeatClassifier, kind: StripKind, fs: float
) -> None:
    for seed in range(3):
        record = simulate_strip(kind, seed=seed, fs=fs)
        assert record.annotations is not None
        beats = _classify(classifier, record)
        assert beats.is_v.tolist() == (record.annotations.beat_classes == "V").tolist()


@pytest.mark.parametrize("gain", [0.1, 10.0, -1.0, -0.3])
def test_gain_and_polarity_keep_the_classes(classifier: BeatClassifier, gain: float) -> None:
    record = simulate_strip(StripKind.COUPLET, seed=4, duration_s=20.0)
    reference = _classify(classifier, record)
    other = classifier.classify(gain * record.signal_mv(), fs=record.fs)
    np.testing.assert_array_equal(other.r_peaks, reference.r_peaks)
    np.testing.assert_array_equal(other.is_v, reference.is_v)
    np.testing.assert_allclose(other.probability_v, reference.probability_v, atol=1e-3)


def test_the_confidence_is_that_of_the_class_reported(classifier: BeatClassifier) -> None:
    beats = _classify(classifier, simulate_strip(StripKind.BIGEMINY, seed=1))
    expected = [
        p if is_v else 1 - p
        for p, is_v in zip(beats.probability_v.tolist(), beats.is_v.tolist(), strict=True)
    ]
    assert beats.is_v.any()
    assert not beats.is_v.all()
    np.testing.assert_array_equal(beats.confidence, expected)


def test_a_flat_line_has_no_beats_and_no_error(classifier: BeatClassifier) -> None:
    beats = _classify(classifier, simulate_strip(StripKind.FLAT))
    assert len(beats) == len(beats.r_peaks) == len(beats.confidence) == 0


def test_beats_that_cannot_be_read_are_listed_without_a_class(classifier: BeatClassifier) -> None:
    signal, fs = _half_noise()
    beats = classifier.classify(signal, fs=fs)
    assert not beats.is_readable.all()
    assert not beats.is_v[~beats.is_readable].any()
    assert (beats.rule[~beats.is_readable] == "").all()
    assert beats.is_v[beats.is_readable].any()
    assert len(beats.r_peaks) == len(beats.is_v)


def test_given_r_peaks_are_classified(classifier: BeatClassifier) -> None:
    record = simulate_strip(StripKind.BIGEMINY, seed=2)
    assert record.annotations is not None
    wanted = record.annotations.beat_samples
    beats = classifier.classify(record.signal_mv(), fs=record.fs, r_peaks=wanted)
    np.testing.assert_array_equal(beats.r_peaks, wanted)
    assert beats.is_v.tolist() == (record.annotations.beat_classes == "V").tolist()


def test_no_more_than_a_batch_goes_in_at_once_and_nothing_changes(
    classifier: BeatClassifier,
) -> None:
    rng = np.random.default_rng(0)
    windows = rng.standard_normal((2049, 360, 2)).astype(np.float32)
    features = rng.standard_normal((2049, len(FEATURE_NAMES))).astype(np.float32)
    logits = classifier.predict_logits(windows, features)
    assert logits.shape == (2049, 2)
    some = np.array([0, 1, 2047, 2048])
    np.testing.assert_allclose(
        classifier.predict_logits(windows[some], features[some]), logits[some], atol=1e-5
    )
    assert classifier.predict_logits(windows[:0], features[:0]).shape == (0, 2)


def test_several_threads_get_the_answers_of_one(classifier: BeatClassifier) -> None:
    strips = [simulate_strip(StripKind.BIGEMINY, seed=seed) for seed in range(6)]
    alone = [_classify(classifier, strip).probability_v for strip in strips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda s: _classify(classifier, s).probability_v, strips * 3))
    for one, other in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_calibration_of_the_bundle_is_applied(toy_bundle: Bundle) -> None:
    record = simulate_strip(StripKind.BIGEMINY, seed=2)
    config = replace(toy_bundle.config, calibration=Calibration(slope=0.5, intercept=1.0))
    plain = BeatClassifier.load(toy_bundle)
    other = BeatClassifier(toy_bundle.network.read_bytes(), config=config)
    prepared = prepare_beats(record.signal_mv(), fs=record.fs)
    logits = plain.predict_logits(prepared.windows, prepared.features)
    voted = vote(logits[:, 0], prepared.shapes, is_readable=prepared.is_readable)
    np.testing.assert_allclose(
        _classify(other, record).probability_v, 1 / (1 + np.exp(-(0.5 * voted + 1.0)))
    )


def test_the_network_of_a_fold_answers_with_everything_else_of_the_bundle(
    make_toy_bundle: Callable[..., Bundle],
) -> None:
    bundle = make_toy_bundle("folds", threshold=0.4, blind_fold=1)
    strip = simulate_strip(StripKind.BIGEMINY, seed=2)
    served, same, blind = (BeatClassifier.load(bundle, fold=fold) for fold in (None, 0, 1))
    assert blind.config == bundle.config
    expected = _classify(served, strip).probability_v
    np.testing.assert_array_equal(_classify(same, strip).probability_v, expected)
    assert _classify(served, strip).is_v.any()
    assert not _classify(blind, strip).is_v.any()
    with pytest.raises(BundleError, match="fold must be one of"):
        BeatClassifier.load(bundle, fold=2)


@pytest.fixture(scope="module")
def conducted() -> PreparedBeats:
    strip = simulate_strip(StripKind.NORMAL, seed=1)
    return prepare_beats(strip.signal_mv(), fs=strip.fs)


def test_rule_guard_speaks_only_when_it_is_asked() -> None:
    strip = simulate_strip(StripKind.ISOLATED_PVC, seed=1)
    beats = prepare_beats(strip.signal_mv(), fs=strip.fs)
    unsure = np.full(len(beats), 0.4)
    config = ClassifierConfig(threshold=0.5)
    guarded = decide(beats, unsure, config=config)
    plain = decide(beats, unsure, config=config, apply_rule_guard=False)
    assert not plain.is_v.any()
    assert set(plain.rule) == {""}
    assert 0 < guarded.is_v.sum() < len(beats) / 2
    assert set(guarded.rule[guarded.is_v]) == {"premature_and_wide"}
    assert set(guarded.rule[~guarded.is_v]) == {""}


@pytest.mark.parametrize(("threshold", "is_v"), [(0.59, True), (0.6, True), (0.61, False)])
def test_the_threshold_decides(conducted: PreparedBeats, threshold: float, *, is_v: bool) -> None:
    beats = decide(
        conducted,
        np.full(len(conducted), 0.6),
        config=ClassifierConfig(threshold=threshold),
        apply_rule_guard=False,
    )
    assert set(beats.is_v.tolist()) == {is_v}
    assert beats.threshold == threshold


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(BundleError, match="the network cannot be loaded"):
        BeatClassifier(b"not onnx", config=ClassifierConfig())


def _network(*, n_features: int, n_outputs: int) -> bytes:
    """Make a network of some size that sums up features."""
    make = onnx.helper
    weights = np.ones((n_features, n_outputs), dtype=np.float32)
    graph = make.make_graph(
        [
            make.make_node("ReduceMean", ["windows"], ["mean"], axes=[1], keepdims=0),
            make.make_node("MatMul", ["mean", "zeros"], ["nothing"]),
            make.make_node("MatMul", ["features", "weights"], ["sum"]),
            make.make_node("Add", ["sum", "nothing"], ["logits"]),
        ],
        "sum",
        [
            make.make_tensor_value_info("windows", onnx.TensorProto.FLOAT, ["n", 360, 2]),
            make.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["n", n_features]),
        ],
        [make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", n_outputs])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.zeros((2, n_outputs), dtype=np.float32), "zeros"),
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(("n_features", "n_outputs"), [(41, 1), (41, 2), (48, 1), (48, 3)])
def test_a_network_of_other_code_is_refused(n_features: int, n_outputs: int) -> None:
    """Before there were 41 features, and one output."""
    network = _network(n_features=n_features, n_outputs=n_outputs)
    words = rf"'features': \({n_features},\).*gives \[\({n_outputs},\)\]: .* made by other code"
    with pytest.raises(BundleError, match=words):
        BeatClassifier(network, config=ClassifierConfig())


def test_a_network_of_48_features_and_two_outputs_is_taken() -> None:
    network = _network(n_features=48, n_outputs=2)
    classifier = BeatClassifier(network, config=ClassifierConfig())
    logits = classifier.predict_logits(
        np.zeros((1, 360, 2), np.float32), np.ones((1, 48), np.float32)
    )
    assert logits.tolist() == [[48.0, 48.0]]


def test_what_cannot_be_prepared_is_refused(classifier: BeatClassifier) -> None:
    with pytest.raises(SignalTooShortError):
        classifier.classify(np.zeros(100), fs=360.0)


# Too little to answer.


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (StripKind.FLAT, r"^signal is flat or disconnected: .* got 0\.0 s of 10\.0 s \(flat\)"),
        (StripKind.NOISE_ONLY, r"^signal is noise in which no ECG can be found: "),
        (StripKind.SATURATED, r"clipped"),
    ],
)
def test_a_strip_without_ecg_is_refused_with_its_reason(kind: StripKind, words: str) -> None:
    strip = simulate_strip(kind, seed=1)
    with pytest.raises(UnreadableSignalError, match=words):
        require_readable(prepare_beats(strip.signal_mv(), fs=strip.fs))


def test_less_than_five_seconds_are_too_little(conducted: PreparedBeats) -> None:
    assert MIN_READABLE_S == 5.0
    with pytest.raises(UnreadableSignalError, match=r"at least 5 s .* got 4\.9 s of 10\.0 s"):
        require_readable(replace(conducted, unreadable_s=5.1))
    require_readable(replace(conducted, unreadable_s=5.0))


def test_a_readable_signal_without_a_beat_is_refused(conducted: PreparedBeats) -> None:
    none_readable = replace(conducted, beat_quality=np.full(len(conducted), "noise"))
    with pytest.raises(UnreadableSignalError, match="no beat was found"):
        require_readable(none_readable)
