"""One record in every condition: which there are, and over which minutes alarms are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.evaluation.report.record_scores import SNRS_DB, Extent, RecordScores, score_record
from ecg_lib.evaluation.report.scoring import Part
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record

DURATION_S = 330.0  # five minutes clean, half a minute noisy


@pytest.fixture(scope="module")
def scores(
    make_toy_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> RecordScores:
    """A record at the rate of a Holter recorder, where recorded noise is not read."""
    bundle = make_toy_bundle("scored")
    record = simulate_record("a", patient=draw_patient(4), duration_s=DURATION_S, seed=1, fs=128.0)
    nowhere = tmp_path_factory.mktemp("no-noise")
    return score_record(record, bundle=bundle, fold=None, extent=Extent.FULL, nstdb_dir=nowhere)


def test_a_record_of_another_rate_has_simulated_noise_alone(scores: RecordScores) -> None:
    noisy = {name for name in scores.counts if name.startswith("noise_")}
    assert noisy == {f"noise_simulated_movement_{snr_db}_db" for snr_db in SNRS_DB}


def test_noise_costs_more_the_stronger_it_is(scores: RecordScores) -> None:
    found = [
        scores.counts[f"noise_simulated_movement_{snr_db}_db"][Part.NOISY_MINUTES]
        for snr_db in (24, 0)
    ]
    quiet, loud = (one.qrs_sensitivity + one.qrs_predictivity for one in found)
    assert quiet > loud


def test_the_second_lead_and_both_leads_are_conditions_of_their_own(
    make_toy_bundle: Callable[..., Bundle],
) -> None:
    """V1 is a wider picture of the same beats, so that it has another opinion."""
    bundle = make_toy_bundle("pair")
    first = simulate_record("a", patient=draw_patient(4), duration_s=300.0, seed=1)
    mlii = first.signals_mv[:, 0].astype(np.float64)
    v1 = ndimage.gaussian_filter1d(mlii, 5.0)
    pair = replace(
        first, leads=("MLII", "V1"), signals_mv=np.stack([mlii, v1], axis=1).astype(np.float32)
    )
    scores = score_record(pair, bundle=bundle, fold=None, extent=Extent.FULL, nstdb_dir=None)
    classifier = BeatClassifier.load(bundle, verifier=load_blind_verifier("a"))
    alone = classifier.classify(v1.astype(np.float32), fs=first.fs)
    both = classifier.classify(
        pair.signal_mv("MLII"), others_mv=[pair.signal_mv("V1")], fs=first.fs
    )
    assert scores.second_lead == "V1"
    for condition, expected in (("second_lead", alone), ("two_leads", both)):
        counts = scores.counts[condition][Part.WHOLE]
        assert counts.found + counts.extra == len(expected)
        assert counts.v_true + counts.v_false + counts.v_false_fq == int(expected.is_v.sum())
    assert both.is_helped


def test_alarms_are_counted_over_the_seconds_that_are_scored(scores: RecordScores) -> None:
    seconds = {part: one.seconds for part, one in scores.alarms["own_r_peaks"].items()}
    assert seconds == {
        Part.WHOLE: pytest.approx(DURATION_S),
        Part.AFTER_5_MIN: pytest.approx(DURATION_S - 300),
    }
    noisy = scores.alarms["noise_simulated_movement_6_db"][Part.NOISY_MINUTES]
    assert noisy.seconds == pytest.approx(DURATION_S - 300)


def test_abstention_knows_every_detection_and_every_v(scores: RecordScores) -> None:
    counts = scores.counts["own_r_peaks"][Part.WHOLE]
    beats = scores.selection["own_r_peaks"]
    assert len(beats.quality) + beats.n_without_class == counts.found + counts.extra
    assert int(beats.is_v.sum()) + beats.n_missed == counts.v_beats
    assert int((beats.is_v & beats.called_v).sum()) == counts.v_true
    assert int((beats.counts_false & beats.called_v).sum()) == counts.v_false
    assert np.all((beats.quality >= 0) & (beats.quality <= 1))
