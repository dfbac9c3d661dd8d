"""Patients whose conducted beats mislead detectors of QRS complexes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import (
    NO_NOISE,
    Unusual,
    draw_patient,
    draw_unusual_patient,
)
from ecg_lib.records.simulation.simulator import simulate_record

SEEDS = range(8)


def _record(seed: int, kind: Unusual | None) -> Record:
    patient = draw_patient(seed) if kind is None else draw_unusual_patient(seed, kind)
    quiet = replace(patient, noise=NO_NOISE, pvc_episodes_per_min=0.0, apbs_per_min=0.0)
    return simulate_record("a", patient=quiet, duration_s=20.0, seed=seed)


def _peaks_of(record: Record) -> np.ndarray:
    assert record.annotations is not None
    return record.annotations.beat_samples[1:-1]


def _spans(record: Record, first_s: float, last_s: float) -> np.ndarray:
    part = np.arange(round(first_s * 360), round(last_s * 360))
    return np.ptp(record.signal_mv()[_peaks_of(record)[:, None] + part], axis=1)


@pytest.mark.parametrize("kind", [Unusual.TALL_T, Unusual.ST_ELEVATION])
def test_the_t_wave_is_about_as_tall_as_the_qrs_complex(kind: Unusual) -> None:
    def ratio(seed: int, kind: Unusual | None) -> float:
        record = _record(seed, kind)
        t_wave, qrs = _spans(record, 0.12, 0.42), _spans(record, -0.06, 0.06)
        return float(np.median(t_wave / qrs))

    assert np.median([ratio(seed, kind) for seed in SEEDS]) > 0.6
    assert np.median([ratio(seed, None) for seed in SEEDS]) < 0.45


def test_every_second_qrs_complex_is_small() -> None:
    for seed in SEEDS:
        share = draw_unusual_patient(seed, Unusual.ALTERNANS).alternans
        spans = _spans(_record(seed, Unusual.ALTERNANS), -0.06, 0.06)
        ratio = sorted([np.median(spans[::2]), np.median(spans[1::2])])
        assert 0.3 <= share <= 0.7
        assert ratio[0] < 0.85 * ratio[1]


def test_a_fast_heart_beats_150_to_250_times_a_minute() -> None:
    for seed in SEEDS:
        rate = 60 * 360 / np.median(np.diff(_peaks_of(_record(seed, Unusual.FAST))))
        assert 145 < rate < 260


def test_a_patient_without_alternans_beats_as_before() -> None:
    patient = draw_patient(3)
    assert patient.alternans == 0.0
    with pytest.raises(ValueError, match="alternans must be at least 0 and below 1, got 1"):
        replace(patient, alternans=1.0)
    with pytest.raises(ValueError, match="heart_rate_bpm must be between 30 and 250, got 251"):
        replace(patient, heart_rate_bpm=251)


def test_the_same_seed_gives_the_same_patient() -> None:
    for kind in Unusual:
        assert draw_unusual_patient(2, kind) == draw_unusual_patient(2, kind)
        assert draw_unusual_patient(2, kind) != draw_unusual_patient(3, kind)
