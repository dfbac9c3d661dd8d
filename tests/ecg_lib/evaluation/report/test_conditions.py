"""Strips, noise and errors on signals of which everything is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.classifier.abstention import AbstentionConfig
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.rule_guard import CATALOGUE
from ecg_lib.evaluation.prepared_views import ScoredView, prepare_scored_view
from ecg_lib.evaluation.report.conditions import (
    Calls,
    EvaluationError,
    add_noise,
    call_strips,
    calls_of,
    truth_of,
)
from ecg_lib.evaluation.report.mistakes import ERROR_SPAN_S, NO_CALL, find_errors
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.noise import muscle_noise
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.movement import simulate_movement
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

FS = 360.0


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


@pytest.fixture(scope="module")
def minute() -> Record:
    return simulate_strip(StripKind.BIGEMINY, seed=3, duration_s=60.0)


def _cut(record: Record, signal: NDArray[np.float32]) -> Record:
    return replace(record, leads=("MLII",), signals_mv=signal[:, None], annotations=None)


def _call_strips(classifier: BeatClassifier, record: Record) -> Calls:
    strips = prepare_scored_view(record, ScoredView(strip_s=10))
    return call_strips(classifier, strips, strip_s=10, fs=FS)


def test_strips_are_classified_each_alone(classifier: BeatClassifier, minute: Record) -> None:
    signal = minute.signal_mv()
    calls = _call_strips(classifier, minute)
    assert calls.stop_s == 60.0
    assert (np.diff(calls.detections) >= 0).all()
    alone = classifier.classify(signal[7200:10800], fs=FS)
    third = calls_of(alone, classifier.config.rule_guard, fs=FS)
    inside = (calls.detections >= 7200) & (calls.detections < 10800)
    np.testing.assert_array_equal(calls.detections[inside], third.detections + 7200)
    np.testing.assert_array_equal(calls.probability_v[inside], third.probability_v)


def test_what_is_left_over_is_not_classified(classifier: BeatClassifier, minute: Record) -> None:
    calls = _call_strips(classifier, _cut(minute, minute.signal_mv()[: 25 * 360]))
    assert calls.stop_s == 20.0
    assert calls.detections.max() < 20 * 360


def test_a_strip_that_the_service_would_refuse_abstains(
    classifier: BeatClassifier, minute: Record
) -> None:
    signal = minute.signal_mv().copy()
    signal[3600 : 3600 + 6 * 360] = 0.0  # six of ten seconds are flat
    calls = _call_strips(classifier, _cut(minute, signal))
    in_strip = (calls.detections >= 3600) & (calls.detections < 7200)
    assert in_strip.any()
    assert not calls.has_class[in_strip].any()
    assert calls.has_class[~in_strip].all()


def test_a_strip_that_abstention_leaves_too_little_of_is_refused_as_a_whole(
    make_toy_bundle: Callable[..., Bundle], classifier: BeatClassifier
) -> None:
    """In the second strip the electrodes move for eight seconds; in the third for three."""
    limits = AbstentionConfig(min_beat_logit=2.0)
    doubting = BeatClassifier.load(make_toy_bundle("doubting", abstention=limits))
    record = simulate_strip(StripKind.NORMAL, seed=3, duration_s=40.0)
    signal = record.signal_mv().astype(np.float64)
    size_mv = 0.6 * float(np.ptp(signal))
    moved = simulate_movement(len(signal), fs=FS, rms_mv=size_mv, rng=np.random.default_rng(1))
    for first_s, last_s in ((12, 20), (22, 25)):
        inside = slice(int(first_s * FS), int(last_s * FS))
        signal[inside] += moved[inside]
    shaken = _cut(record, signal.astype(np.float32))
    calls, guessed = (_call_strips(one, shaken) for one in (doubting, classifier))
    np.testing.assert_array_equal(calls.detections, guessed.detections)
    strip = calls.detections // 3600
    assert not calls.has_class[strip == 1].any()
    assert guessed.has_class[strip == 1].any()
    assert calls.has_class[strip == 0].all()
    assert 4 <= calls.has_class[strip == 2].sum() < (strip == 2).sum()
    assert calls.has_class[strip == 3].all()


def test_runs_are_scored_of_the_beats_that_the_answer_calls_credible(
    toy_bundle: Bundle, classifier: BeatClassifier
) -> None:
    signal = simulate_strip(StripKind.RUN, seed=3, duration_s=20.0).signal_mv()
    config = replace(classifier.config, run_threshold=0.999)
    strict = BeatClassifier(toy_bundle.network.read_bytes(), config=config)
    plain, doubted = (one.classify(signal, fs=FS) for one in (classifier, strict))
    doubted = replace(doubted, probability_v=np.minimum(doubted.probability_v, 0.89))
    of_one, of_other = (calls_of(one, config.rule_guard, fs=FS) for one in (plain, doubted))
    np.testing.assert_array_equal(of_one.is_v, of_other.is_v)
    np.testing.assert_array_equal(of_one.is_credible, of_one.is_v & of_one.is_v_unguarded)
    assert of_one.is_credible.sum() >= of_other.is_credible.sum() + 3


def test_a_signal_shorter_than_a_strip_is_refused(
    classifier: BeatClassifier, minute: Record
) -> None:
    with pytest.raises(EvaluationError, match="must last at least 10 s"):
        _call_strips(classifier, _cut(minute, minute.signal_mv()[: 10 * 360 - 1]))
    assert _call_strips(classifier, _cut(minute, minute.signal_mv()[: 10 * 360])).stop_s == 10.0


def test_noise_is_added_in_the_noisy_minutes_alone() -> None:
    n_samples = round(660 * FS)
    rng = np.random.default_rng(0)
    noise = muscle_noise(n_samples, fs=FS, rms_mv=0.2, rng=rng)
    beats = np.arange(400, n_samples - 400, 300)
    signal = np.zeros(n_samples, np.float32)
    signal[beats] = 1.0
    annotations = Annotations(samples=beats, symbols=np.full(len(beats), "N"))
    added = add_noise(signal, noise, annotations, snr_db=6, fs=FS) - signal
    minutes = added[: 10 * 21600].reshape(10, 21600)
    assert (np.ptp(minutes, axis=1) > 1e-6).tolist() == [False] * 5 + [True] * 2 + [False] * 2 + [
        True
    ]


def test_v_and_fusion_beats_do_not_measure_the_signal() -> None:
    n_samples = round(330 * FS)
    noise = muscle_noise(n_samples, fs=FS, rms_mv=0.2, rng=np.random.default_rng(0))
    beats = np.arange(400, n_samples - 400, 300)
    signal = np.zeros(n_samples, np.float32)
    signal[beats] = 1.0
    signal[beats[::5]] = 5.0
    symbols = np.full(len(beats), "N")
    plain = add_noise(
        np.where(signal > 0, np.float32(1), signal),
        noise,
        Annotations(samples=beats, symbols=symbols),
        snr_db=6,
        fs=FS,
    )
    symbols = symbols.copy()
    symbols[::10], symbols[5::10] = "V", "F"
    tall = add_noise(signal, noise, Annotations(samples=beats, symbols=symbols), snr_db=6, fs=FS)
    quiet = np.setdiff1d(np.arange(n_samples), beats)
    np.testing.assert_allclose(tall[quiet], plain[quiet], atol=1e-6)


def _calls(detections: list[int], is_v: list[bool], probability_v: list[float]) -> Calls:
    return Calls(
        detections=np.array(detections, dtype=np.int64),
        is_v=np.array(is_v),
        is_v_unguarded=np.array(is_v),
        rule=np.full(len(detections), ""),
        probability_v=np.array(probability_v),
        proposed=np.zeros((len(detections), len(CATALOGUE)), dtype=np.bool_),
        has_class=np.ones(len(detections), dtype=np.bool_),
        quality=np.ones(len(detections), dtype=np.float32),
        is_credible=np.array(is_v),
    )


def test_errors_are_the_missed_the_wrong_and_the_false(minute: Record) -> None:
    annotations = Annotations(
        samples=np.array([1000, 2000, 3000, 4000, 5000]), symbols=np.array(list("NVVVN"))
    )
    calls = _calls(
        [1000, 2000, 3000, 5000, 6000],
        [False, True, False, True, True],
        [0.1, 0.9, 0.2, 0.7, 0.8],
    )
    record = replace(minute, annotations=annotations)
    errors = find_errors(record, lead="MLII", annotations=annotations, calls=calls)
    found = {round(error.time_s * FS): (error.truth, error.call) for error in errors}
    assert found == {4000: ("V", NO_CALL), 3000: ("V", "N"), 5000: ("N", "V"), 6000: ("O", "V")}
    missed = next(error for error in errors if error.call == NO_CALL)
    assert missed.probability_v is None
    first = round(missed.strip_start_s * FS)
    np.testing.assert_array_equal(
        missed.strip_mv, minute.signal_mv()[first : first + round(ERROR_SPAN_S * FS)]
    )
    assert [(truth, call) for _, truth, call in missed.beats] == [
        ("V", "N"), ("V", NO_CALL), ("N", "V"),
    ]  # fmt: skip


def test_only_the_surest_errors_are_kept_and_none_in_flutter(minute: Record) -> None:
    annotations = Annotations(
        samples=np.array([9000, 12000, 15000]), symbols=np.array(["[", "V", "]"])
    )
    calls = _calls(
        [1000, 2000, 3000, 4000, 5000, 10000], [True] * 6, [0.6, 0.9, 0.7, 0.8, 0.65, 0.99]
    )
    assert truth_of(annotations, calls.detections, fs=FS).tolist() == ["O"] * 5 + ["!"]
    record = replace(minute, annotations=annotations)
    errors = find_errors(record, lead="MLII", annotations=annotations, calls=calls)
    assert [error.probability_v for error in errors] == [0.9, 0.8, 0.7]
