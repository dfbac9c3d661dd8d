"""A second lead is used in the classification if it can be read and has the same beats."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.classifier.lead_fusion import OtherLead, fuse_leads
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

FS = 360.0


@pytest.fixture(scope="module")
def classifier(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


def _fuse(logits: list[float], peaks: list[int], *others: OtherLead) -> NDArray[np.float64]:
    fused = fuse_leads(np.array(logits), r_peaks=np.array(peaks), others=others, fs=FS)
    is_alone = ~fused.is_helped
    np.testing.assert_array_equal(fused.logits[is_alone], np.array(logits)[is_alone])
    return fused.logits


def _lead(peaks: list[int], logits: list[float], readable: list[bool] | None = None) -> OtherLead:
    return OtherLead(
        r_peaks=np.array(peaks, dtype=np.int64),
        logits=np.array(logits),
        is_readable=np.array([True] * len(peaks) if readable is None else readable, dtype=np.bool_),
    )


def test_another_lead_counts_a_third_of_the_first() -> None:
    fused = _fuse([3.0, -3.0], [100, 400], _lead([110, 395], [-3.0, 6.0]))
    assert fused == pytest.approx([(3.0 - 1.0) / (4 / 3), (-3.0 + 2.0) / (4 / 3)])


def test_every_other_lead_has_a_say() -> None:
    fused = _fuse([3.0], [100], _lead([100], [-3.0]), _lead([100], [1.0]))
    assert fused == pytest.approx([(3.0 - 1.0 + 1 / 3) / (5 / 3)])


def test_a_beat_that_the_other_lead_cannot_read_keeps_its_logit() -> None:
    other = _lead([100, 400], [-9.0, -9.0], [False, True])
    assert _fuse([3.0, 3.0], [100, 400], other) == pytest.approx([3.0, 0.0])


def test_a_beat_that_the_other_lead_does_not_have_keeps_its_logit() -> None:
    assert _fuse([3.0, 2.0], [100, 400], _lead([400], [2.0])) == pytest.approx([3.0, 2.0])
    assert _fuse([3.0], [100], _lead([], [])) == pytest.approx([3.0])
    assert len(_fuse([], [], _lead([100], [1.0]))) == 0


def test_beats_of_two_leads_are_one_up_to_150_ms_apart() -> None:
    assert _fuse([3.0], [100], _lead([154], [-3.0])) == pytest.approx([1.5])
    assert _fuse([3.0], [100], _lead([155], [-3.0])) == pytest.approx([3.0])


def test_a_lead_beside_itself_changes_nothing(classifier: BeatClassifier) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, fs=FS, seed=1).signal_mv()
    alone = classifier.classify(signal, fs=FS)
    both = classifier.classify(signal, others_mv=[signal], fs=FS)
    np.testing.assert_allclose(both.probability_v, alone.probability_v, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(both.r_peaks, alone.r_peaks)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_dead_lead_changes_nothing(classifier: BeatClassifier, value: float) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, fs=FS, seed=1).signal_mv()
    alone = classifier.classify(signal, fs=FS)
    both = classifier.classify(signal, others_mv=[np.full_like(signal, value)], fs=FS)
    np.testing.assert_array_equal(both.probability_v, alone.probability_v)
    assert not both.is_helped


def test_the_other_lead_is_heard(classifier: BeatClassifier) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, fs=FS, seed=1).signal_mv()
    other = ndimage.gaussian_filter1d(signal, 5.0)
    alone = classifier.classify(signal, fs=FS)
    both = classifier.classify(signal, others_mv=[other], fs=FS)
    assert np.abs(both.probability_v - alone.probability_v).max() > 1e-6
    assert both.is_helped
    np.testing.assert_array_equal(both.of_one_lead.probability_v, alone.probability_v)


def test_leads_of_two_lengths_are_refused(classifier: BeatClassifier) -> None:
    signal = simulate_strip(StripKind.BIGEMINY, fs=FS, seed=1).signal_mv()
    with pytest.raises(ValueError, match="same number of samples"):
        classifier.classify(signal, others_mv=[signal[:-1]], fs=FS)
