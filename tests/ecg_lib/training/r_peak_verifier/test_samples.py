"""Samples for the R-peak network: movement, weights and marks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.records.noise import measure_noise_rms, measure_qrs_amplitude
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.signal_path.r_peaks.candidate_features import CANDIDATE_FEATURES, VERDICT_FEATURES
from ecg_lib.signal_path.r_peaks.verifier import load_verifier
from ecg_lib.training.r_peak_verifier.samples import (
    join,
    measure_ambulatory,
    measure_marked,
    move,
)


@pytest.fixture(scope="module")
def record() -> Record:
    return simulate_record("a", patient=draw_patient(8), duration_s=300.0, seed=8)


@pytest.fixture(scope="module")
def lead(record: Record) -> NDArray[np.float64]:
    return record.signal_mv().astype(np.float64)


def test_every_second_part_moves_between_0_and_18_db(
    record: Record, lead: NDArray[np.float64]
) -> None:
    assert record.annotations is not None
    is_v = record.annotations.beat_classes == "V"
    amplitude = measure_qrs_amplitude(
        lead, r_peaks=record.annotations.beat_samples[~is_v], fs=record.fs
    )
    added = move(lead, record.annotations, seed=(1,)) - lead
    ratios_db = []
    for part in range(7):
        inside = added[part * 14_400 + 60 : (part + 1) * 14_400 - 60]  # edges are rounded
        if part % 2 == 0:
            assert (inside == 0).all()
        else:
            rms = measure_noise_rms(inside, fs=record.fs)
            ratios_db.append(10 * np.log10(amplitude**2 / 8 / rms**2))
    # Parts of one movement are louder or less loud by themselves, by some decibel.
    assert all(-6 < ratio_db < 24 for ratio_db in ratios_db)
    assert len({round(ratio_db) for ratio_db in ratios_db}) > 1


def test_movement_repeats_with_its_seed(record: Record, lead: NDArray[np.float64]) -> None:
    assert record.annotations is not None
    one, again, other = (
        move(lead, record.annotations, seed=seed) for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_flat_lead_teaches_nothing(record: Record, lead: NDArray[np.float64]) -> None:
    assert record.annotations is not None
    flat = np.zeros_like(lead)
    with_flat = measure_ambulatory([lead, flat], record.annotations, seed=1)
    both = measure_ambulatory([lead, lead], record.annotations, seed=1)
    assert len(with_flat.weight) < len(both.weight)
    np.testing.assert_array_equal(both.features[: len(with_flat.weight)], with_flat.features)


def test_a_v_beat_weighs_ten_times_as_much_as_another(
    record: Record, lead: NDArray[np.float64]
) -> None:
    """Easy candidates are a fifth of what there is, and weigh five times as much for it."""
    assert record.annotations is not None
    samples = measure_ambulatory([lead, np.zeros_like(lead)], record.annotations, seed=1)
    stretches = np.array([0.5, 0.4 * 0.5, 0.6 * 0.5])
    of_others = {*stretches, *(5 * stretches)}
    of_v = {*(10 * stretches), *(50 * stretches)}
    found = {round(float(weight), 9) for weight in samples.weight}
    assert found <= {round(weight, 9) for weight in of_others | of_v}
    assert round(50 * 0.5, 9) in found
    no_beats = {round(float(weight), 9) for weight in samples.weight[~samples.is_beat]}
    assert no_beats <= {round(float(weight), 9) for weight in of_others}


def test_only_what_lies_between_the_first_and_the_last_mark_is_learned(
    record: Record, lead: NDArray[np.float64]
) -> None:
    """Beats outside may have been left unmarked."""
    assert record.annotations is not None
    beats = record.annotations.beat_samples[20:40]
    samples = measure_marked(lead, beats)
    assert samples.is_beat.sum() == 20
    assert set(samples.weight.tolist()) == {0.5}
    wider = measure_marked(lead, record.annotations.beat_samples[15:45])
    assert wider.is_beat.sum() == 30
    assert len(wider.weight) > len(samples.weight)


def test_samples_are_put_together_in_order(record: Record, lead: NDArray[np.float64]) -> None:
    assert record.annotations is not None
    one = measure_marked(lead, record.annotations.beat_samples[20:30])
    other = measure_marked(lead, record.annotations.beat_samples[40:50])
    both = join([one, other])
    np.testing.assert_array_equal(both.features, np.concatenate([one.features, other.features]))
    assert len(both.is_beat) == len(both.weight) == len(one.weight) + len(other.weight)


def test_a_second_look_is_measured_after_each_first_one(
    record: Record, lead: NDArray[np.float64]
) -> None:
    assert record.annotations is not None
    shipped, blind = load_verifier(), load_blind_verifier("101")
    assert blind is not None
    firsts = (shipped.first, blind.first)
    leads = [lead, np.zeros_like(lead)]
    once = measure_ambulatory(leads, record.annotations, seed=1)
    again = measure_ambulatory(leads, record.annotations, seed=1, firsts=firsts)
    width = len(CANDIDATE_FEATURES) + len(VERDICT_FEATURES)
    assert again.features.shape == (len(once.weight), 2, width)
    np.testing.assert_array_equal(again.weight, once.weight)
    np.testing.assert_array_equal(again.is_beat, once.is_beat)
    for index, first in enumerate(firsts):
        features = again.after(index).features
        verdict = np.clip(first.logits(once.features), -10, 10)
        np.testing.assert_allclose(features[:, len(CANDIDATE_FEATURES)], verdict, atol=1e-5)


def test_nothing_joined_has_no_samples() -> None:
    assert len(join([]).weight) == 0
