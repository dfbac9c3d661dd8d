"""Patients whose conducted beats mislead detectors of QRS complexes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import (
    NO_NOISE,
    PvcPattern,
    Unusual,
    draw_aberrant_patient,
    draw_patient,
    draw_unusual_patient,
)
from ecg_lib.records.simulation.simulator import simulate_record

SEEDS = range(8)
ONLY_SINGLE = (1.0, *(0.0,) * (len(PvcPattern) - 1))


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


def test_a_slow_pvc_is_wider_than_other_pvcs_and_bends_less() -> None:
    for seed in SEEDS:
        slow = draw_unusual_patient(seed, Unusual.SLOW_PVC)
        usual = draw_patient(seed)
        assert len(slow.pvcs) == 1
        assert 0.14 < slow.pvcs[0].qrs_width_s < 0.32
        bends = []
        for patient in (slow, replace(usual, pvcs=usual.pvcs[:1])):
            calm = replace(
                patient, noise=NO_NOISE, pvc_episodes_per_min=12.0, pattern_weights=ONLY_SINGLE
            )
            record = simulate_record("a", patient=calm, duration_s=60.0, seed=seed)
            assert record.annotations is not None
            peaks = record.annotations.beat_samples[record.annotations.beat_classes == "V"]
            peaks = peaks[(peaks > 30) & (peaks < len(record.signals_mv) - 30)]
            shape = np.median(
                record.signal_mv()[peaks[:, None] + np.arange(-30, 31)], axis=0
            ).astype(np.float64)
            curvature = np.abs(shape[10:] - 2 * shape[5:-5] + shape[:-10]).max()
            bends.append(curvature / np.ptp(shape))
        assert bends[0] < 0.75 * bends[1]


def test_a_patient_without_alternans_beats_as_before() -> None:
    patient = draw_patient(3)
    assert patient.alternans == 0.0
    with pytest.raises(ValueError, match="alternans must be at least 0 and below 1, got 1"):
        replace(patient, alternans=1.0)
    with pytest.raises(ValueError, match="heart_rate_bpm must be between 30 and 250, got 251"):
        replace(patient, heart_rate_bpm=251)


def test_aberrant_beats_start_as_the_others_and_end_late_and_wide() -> None:
    for seed in SEEDS:
        patient = replace(draw_aberrant_patient(seed), noise=NO_NOISE, pvc_episodes_per_min=0.0)
        assert patient.aberrant is not None
        assert patient.aberrant.qrs_width_s > patient.conducted.qrs_width_s + 0.02
        record = simulate_record("a", patient=patient, duration_s=60.0, seed=seed)
        assert record.annotations is not None
        symbols, peaks = record.annotations.symbols, record.annotations.samples
        assert {"N", "A"} == set(symbols)
        usual, aberrant = (
            np.median(
                [
                    record.signal_mv()[peak - 30 : peak + 60]
                    for peak, symbol in zip(peaks, symbols, strict=True)
                    if symbol == wanted and 30 <= peak < len(record.signals_mv) - 60
                ],
                axis=0,
            )
            for wanted in ("N", "A")
        )
        height = np.ptp(usual)
        assert np.abs(aberrant - usual)[:30].max() < 0.15 * height
        assert (usual - aberrant)[40:60].max() > 0.25 * height


def test_the_rhythm_of_a_patient_with_aberrant_beats_is_irregular() -> None:
    for seed in SEEDS:
        changes = []
        for patient in (draw_patient(seed), draw_aberrant_patient(seed)):
            calm = replace(patient, pvc_episodes_per_min=0.0, apbs_per_min=0.0)
            record = simulate_record("a", patient=calm, duration_s=60.0, seed=seed)
            rr_s = np.diff(_peaks_of(record)) / 360
            changes.append(np.median(np.abs(np.diff(rr_s))) / np.median(rr_s))
        assert changes[1] > 2 * changes[0]
        assert changes[1] > 0.05


def test_the_same_seed_gives_the_same_patient() -> None:
    assert draw_aberrant_patient(2) == draw_aberrant_patient(2)
    assert draw_aberrant_patient(2) != draw_aberrant_patient(3)
    for kind in Unusual:
        assert draw_unusual_patient(2, kind) == draw_unusual_patient(2, kind)
        assert draw_unusual_patient(2, kind) != draw_unusual_patient(3, kind)
