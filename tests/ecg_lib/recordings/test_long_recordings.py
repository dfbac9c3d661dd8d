"""Hours in parts against the same hours as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import InvalidSignalError
from ecg_lib.recordings.long_recordings import RecordingBeats, _divide, classify_recording
from ecg_lib.records.simulation.patients import NoiseLevels, draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.r_peaks.matching import match_beats
from ecg_lib.signal_path.readability.quality import UnreadableReason


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


def _hours(seed: int, hours: float, fs: float = 360.0) -> NDArray[np.float32]:
    patient = replace(draw_patient(seed), noise=NoiseLevels(wander_mv=0.05, muscle_mv=0.01))
    return simulate_record(
        "long", patient=patient, duration_s=hours * 3600.0, seed=seed, fs=fs
    ).signal_mv()


@pytest.mark.parametrize(("seed", "fs"), [(1, 360.0), (6, 250.0)])
def test_parts_give_the_beats_and_classes_of_the_whole(
    classifier: BeatClassifier, seed: int, fs: float
) -> None:
    signal = _hours(seed, 1.7, fs)
    signal[round(1795 * fs) : round(1830 * fs)] = 0.0  # across the first seam
    whole = classifier.classify(signal, fs=fs)
    parts = classify_recording(signal, fs=fs, classifier=classifier, threads=2)
    match = match_beats(whole.r_peaks, parts.r_peaks, tolerance=1)
    assert (match.of_reference >= 0).mean() >= 0.9999
    assert (match.of_detected >= 0).mean() >= 0.9999
    found = match.of_reference[match.of_reference >= 0]
    is_same = (whole.is_v == parts.is_v[match.of_reference])[match.of_reference >= 0]
    assert is_same.mean() >= 0.999
    assert whole.is_v.sum() > 20
    np.testing.assert_allclose(
        whole.prepared.rr_prev_s[match.of_reference >= 0], parts.rr_prev_s[found], atol=2 / fs
    )
    assert parts.is_readable.tolist() == whole.is_readable.tolist()
    assert [tuple(stretch) for stretch in parts.unreadable] == [
        tuple(stretch) for stretch in whole.prepared.unreadable
    ]
    assert len(parts.v_shapes) == parts.is_v.sum()


def test_the_second_lead_is_heard_in_every_part(classifier: BeatClassifier) -> None:
    fs = 250.0
    signal = _hours(6, 1.0, fs)
    second = ndimage.gaussian_filter1d(signal, 4.0)
    whole = classifier.classify(signal, others_mv=[second], fs=fs)
    parts = classify_recording(signal, second_mv=second, fs=fs, classifier=classifier, threads=2)
    alone = classify_recording(signal, fs=fs, classifier=classifier, threads=2)
    match = match_beats(whole.r_peaks, parts.r_peaks, tolerance=1)
    found = match.of_reference >= 0
    mine, theirs = parts.probability_v[match.of_reference[found]], whole.probability_v[found]
    for half in (slice(0, len(mine) // 2), slice(len(mine) // 2, None)):
        # Parts have templates of their own, so a few beats differ.
        assert np.median(np.abs(mine[half] - theirs[half])) < 1e-3
        assert np.median(np.abs(parts.probability_v[half] - alone.probability_v[half])) > 0
    assert parts.is_helped
    assert not alone.is_helped


@pytest.mark.parametrize(
    ("minutes", "n_parts"), [(1, 1), (32, 1), (44.9, 1), (45, 2), (74.9, 2), (76, 3), (1440, 48)]
)
def test_parts_are_equal_and_as_near_to_half_an_hour_as_can_be(
    minutes: float, n_parts: int
) -> None:
    n_samples = round(minutes * 60 * 250)
    parts = _divide(n_samples, 250.0)
    lengths_s = [(part.last - part.first) / 250 for part in parts]
    assert len(parts) == n_parts
    assert np.ptp(lengths_s) <= 4
    assert (parts[0].start, parts[-1].stop) == (0, n_samples)
    if n_parts > 1:
        assert 22 * 60 <= min(lengths_s) <= max(lengths_s) <= 38 * 60


def test_half_an_hour_is_the_whole_path_itself(classifier: BeatClassifier) -> None:
    signal = _hours(2, 0.5)
    whole = classifier.classify(signal, fs=360.0)
    parts = classify_recording(signal, fs=360.0, classifier=classifier)
    np.testing.assert_array_equal(parts.probability_v, whole.probability_v)
    np.testing.assert_array_equal(parts.r_peaks, whole.r_peaks)


def test_every_beat_is_there_once(classifier: BeatClassifier) -> None:
    parts = classify_recording(_hours(3, 1.3), fs=360.0, classifier=classifier)
    assert np.diff(parts.r_peaks).min() > 0.2 * 360
    assert len(set(parts.r_peaks.tolist())) == len(parts)


def test_threads_change_nothing(classifier: BeatClassifier) -> None:
    signal = _hours(4, 1.2)
    one = classify_recording(signal, fs=360.0, classifier=classifier)
    two = classify_recording(signal, fs=360.0, classifier=classifier, threads=2)
    np.testing.assert_array_equal(one.probability_v, two.probability_v)


def test_progress_ends_at_one(classifier: BeatClassifier) -> None:
    told: list[float] = []
    classify_recording(_hours(5, 1.1), fs=360.0, classifier=classifier, report=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) == 2


def test_unreadable_beats_say_why(classifier: BeatClassifier) -> None:
    signal = _hours(1, 0.2)
    signal[72_000:144_000] = 0.0
    beats = classify_recording(signal, fs=360.0, classifier=classifier)
    assert {stretch.reason for stretch in beats.unreadable} == {UnreadableReason.FLAT}
    assert beats.unreadable_s == pytest.approx(200, abs=4)
    assert set(beats.quality[beats.is_readable]) == {"ok"}
    assert set(beats.quality[~beats.is_readable]) <= {"flat"}


def test_a_few_missing_samples_are_bridged_and_counted(classifier: BeatClassifier) -> None:
    signal = _hours(1, 0.2)
    expected = classify_recording(signal, fs=360.0, classifier=classifier)
    signal[5000:5003] = np.nan
    found: RecordingBeats = classify_recording(signal, fs=360.0, classifier=classifier)
    assert found.invalid_samples == 3
    assert len(found) == len(expected)
    signal[: len(signal) // 2 + 10] = np.nan
    with pytest.raises(InvalidSignalError, match="at most 50% of the samples"):
        classify_recording(signal, fs=360.0, classifier=classifier)
