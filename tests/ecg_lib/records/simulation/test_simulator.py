"""The simulator: what it says of a record is true of its samples."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_lib.errors import InvalidSamplingRateError
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.limits import FS_HZ
from ecg_lib.records.record import Record, read_wfdb, write_wfdb
from ecg_lib.records.simulation.patients import (
    LEADS,
    NO_NOISE,
    Conduction,
    NoiseLevels,
    Patient,
    PvcPattern,
    draw_patient,
)
from ecg_lib.records.simulation.simulator import (
    ADC_LIMIT_MV,
    StripKind,
    simulate_cohort_member,
    simulate_record,
    simulate_strip,
)
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats
from ecg_lib.signal_path.template import measure_qrs_width

READABLE = [
    StripKind.NORMAL,
    StripKind.ISOLATED_PVC,
    StripKind.COUPLET,
    StripKind.BIGEMINY,
    StripKind.RUN,
    StripKind.NOISY,
]
UNREADABLE = [StripKind.FLAT, StripKind.NOISE_ONLY, StripKind.SATURATED]


def _annotations(record: Record) -> Annotations:
    assert record.annotations is not None
    return record.annotations


def _symbols(record: Record) -> str:
    return "".join(_annotations(record).symbols)


def _same(one: Record, other: Record) -> bool:
    return np.array_equal(one.signals_mv, other.signals_mv) and _symbols(one) == _symbols(other)


def _clean_patient(seed: int, **changes: object) -> Patient:
    return replace(draw_patient(seed), noise=NO_NOISE, **changes)


def _patient_of(pattern: PvcPattern, seed: int = 3, **changes: object) -> Patient:
    """A patient in normal conduction at a steady 70 a minute, with PVCs of one pattern."""
    weights = tuple(float(other is pattern) for other in PvcPattern)
    usual = {
        "heart_rate_bpm": 60.0,
        "respiratory_hrv": 0.005,
        "low_frequency_hrv": 0.005,
        "pvc_episodes_per_min": 4.0,
        "apbs_per_min": 0.0,
        "pattern_weights": weights,
        "coupling_s": 0.45,
        "run_interval_s": 0.4,
    }
    return _clean_patient(seed, **usual | changes)


def _runs_of_v(record: Record) -> list[int]:
    """Lengths of the groups of V in a row, without those at the ends of the record."""
    groups = [(symbol, len(list(group))) for symbol, group in groupby(_symbols(record))]
    return [length for symbol, length in groups[1:-1] if symbol == "V"]


def test_the_same_arguments_give_the_same_record() -> None:
    patient = draw_patient(5)
    first, again, other = (
        simulate_record("a", patient=patient, duration_s=20, seed=seed) for seed in (1, 1, 2)
    )
    assert draw_patient(5) == patient
    assert _same(first, again)
    assert not _same(first, other)


@pytest.mark.parametrize("kind", StripKind)
def test_the_same_seed_gives_the_same_strip(kind: StripKind) -> None:
    assert _same(simulate_strip(kind, seed=4), simulate_strip(kind, seed=4))


def test_patients_differ() -> None:
    patients = [draw_patient(seed) for seed in range(100)]
    assert len(set(patients)) == 100
    assert {patient.conduction for patient in patients} == set(Conduction)
    assert {patient.conducted.is_upright for patient in patients} == {True, False}
    assert {len(patient.pvcs) for patient in patients} == {1, 2}
    without_pvcs = sum(patient.pvc_episodes_per_min == 0 for patient in patients)
    assert 5 <= without_pvcs <= 25


def test_pvcs_are_wide_and_their_t_wave_goes_against_the_qrs() -> None:
    for seed in range(50):
        for pvc in draw_patient(seed).pvcs:
            assert 0.12 <= pvc.qrs_width_s <= 0.18
            assert (pvc.t[0].amplitudes_mv[0] > 0) != pvc.is_upright


def test_conducted_beats_are_narrow_without_bundle_branch_block() -> None:
    for seed in range(50):
        patient = draw_patient(seed)
        is_narrow = patient.conducted.qrs_width_s < 0.11
        assert is_narrow == (patient.conduction is Conduction.NORMAL)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    fs=st.floats(100, 1000),
    duration_s=st.floats(2, 40),
)
def test_annotations_are_at_the_extremum_of_the_clean_qrs(
    seed: int, fs: float, duration_s: float
) -> None:
    patient = _clean_patient(seed)
    record = simulate_record("a", patient=patient, duration_s=duration_s, seed=seed, fs=fs)
    assert record.signals_mv.shape == (round(duration_s * fs), 2)
    assert np.isfinite(record.signals_mv).all()
    mlii, annotations = record.signal_mv("MLII"), _annotations(record)
    assert (np.diff(annotations.samples) > 0.3 * fs).all()
    shapes = (patient.conducted, *patient.pvcs)
    for sample, symbol in zip(annotations.samples, annotations.symbols, strict=True):
        start = max(0, sample - int(0.04 * fs))
        around = mlii[start : sample + int(0.04 * fs) + 1]
        polarities = {shape.is_upright for shape in (shapes[1:] if symbol == "V" else shapes[:1])}
        assert mlii[sample] in {around.max() if up else around.min() for up in polarities}


def test_noise_does_not_move_the_beats() -> None:
    patient = draw_patient(8)
    noisy = replace(patient, noise=NoiseLevels(wander_mv=0.3, muscle_mv=0.1, hum_mv=0.05))
    clean = replace(patient, noise=NO_NOISE)
    records = [simulate_record("a", patient=p, duration_s=30, seed=1) for p in (noisy, clean)]
    first, second = (_annotations(record) for record in records)
    np.testing.assert_array_equal(first.samples, second.samples)
    added = (records[0].signals_mv - records[1].signals_mv) / patient.gain
    expected = np.sqrt(0.3**2 + 0.1**2 + 0.05**2)
    np.testing.assert_allclose(added.std(axis=0), expected, rtol=0.15)


def test_gain_scales_all_and_moves_nothing() -> None:
    patient = replace(draw_patient(9), gain=1.0)
    record = simulate_record("a", patient=patient, duration_s=10, seed=1)
    larger = simulate_record("a", patient=replace(patient, gain=2.0), duration_s=10, seed=1)
    np.testing.assert_allclose(larger.signals_mv, 2 * record.signals_mv, rtol=1e-6)
    assert _symbols(larger) == _symbols(record)


@pytest.mark.parametrize("fs", [100.0, 250.0, 999.5])
def test_another_sampling_rate_samples_the_same_heart(fs: float) -> None:
    patient = _clean_patient(11)
    at_360 = simulate_record("a", patient=patient, duration_s=30, seed=2)
    record = simulate_record("a", patient=patient, duration_s=30, seed=2, fs=fs)
    assert _symbols(record) == _symbols(at_360)
    times_s = _annotations(record).samples / fs
    np.testing.assert_allclose(times_s, _annotations(at_360).samples / 360.0, atol=1 / fs + 1 / 360)


@pytest.mark.parametrize("seed", range(10))
def test_no_qrs_lies_at_the_edge_of_a_record(seed: int) -> None:
    record = simulate_record("a", patient=draw_patient(seed), duration_s=10, seed=seed)
    samples = _annotations(record).samples
    assert samples[0] > 0.15 * record.fs
    assert samples[-1] < len(record.signals_mv) - 0.15 * record.fs


def test_conducted_beats_have_the_symbol_of_their_conduction() -> None:
    for conduction in Conduction:
        patient = next(p for p in map(draw_patient, range(200)) if p.conduction is conduction)
        patient = replace(patient, pvc_episodes_per_min=0.0, apbs_per_min=0.0)
        record = simulate_record("a", patient=patient, duration_s=30, seed=0)
        assert set(_symbols(record)) == {conduction.value}


def test_the_heart_rate_is_that_of_the_patient() -> None:
    for rate in (40.0, 75.0, 150.0):
        patient = _clean_patient(2, heart_rate_bpm=rate, pvc_episodes_per_min=0.0, apbs_per_min=0.0)
        record = simulate_record("a", patient=patient, duration_s=300, seed=0)
        assert len(_symbols(record)) / 5 == pytest.approx(rate, rel=0.03)


def test_the_rr_interval_varies_as_much_as_it_should() -> None:
    patient = _clean_patient(
        2,
        pvc_episodes_per_min=0.0,
        apbs_per_min=0.0,
        respiratory_hrv=0.06,
        low_frequency_hrv=0.0,
    )
    record = simulate_record("a", patient=patient, duration_s=300, seed=0)
    rr_s = np.diff(_annotations(record).samples) / record.fs
    # 0.02 of slow drift beside the breathing.
    assert rr_s.std() / rr_s.mean() == pytest.approx(np.hypot(0.06, 0.02), rel=0.1)


def test_an_isolated_pvc_is_early_and_has_a_compensatory_pause() -> None:
    record = simulate_record("a", patient=_patient_of(PvcPattern.ISOLATED), duration_s=300, seed=1)
    rr_s = np.diff(_annotations(record).samples) / record.fs
    pvcs = np.flatnonzero(_annotations(record).symbols == "V")[1:-1]
    assert len(pvcs) > 10
    assert set(_runs_of_v(record)) == {1}
    np.testing.assert_allclose(rr_s[pvcs - 1], 0.45, atol=0.05)
    np.testing.assert_allclose(rr_s[pvcs - 1] + rr_s[pvcs], 2.0, atol=0.2)


def test_an_interpolated_pvc_has_no_pause() -> None:
    patient = _patient_of(PvcPattern.INTERPOLATED)
    record = simulate_record("a", patient=patient, duration_s=300, seed=1)
    rr_s = np.diff(_annotations(record).samples) / record.fs
    pvcs = np.flatnonzero(_annotations(record).symbols == "V")[1:-1]
    assert len(pvcs) > 10
    np.testing.assert_allclose(rr_s[pvcs - 1] + rr_s[pvcs], 1.04, atol=0.1)


def test_bigeminy_and_trigeminy_alternate_for_some_cycles() -> None:
    for pattern, cycle in ((PvcPattern.BIGEMINY, "[NLR]V"), (PvcPattern.TRIGEMINY, "[NLR]{2}V")):
        patient = _patient_of(pattern, pvc_episodes_per_min=2.0)
        symbols = _symbols(simulate_record("a", patient=patient, duration_s=300, seed=1))
        assert re.search(f"(?:{cycle}){{3}}", symbols)
        assert "VV" not in symbols


def test_couplets_are_two_and_runs_three_to_eight() -> None:
    couplets = simulate_record("a", patient=_patient_of(PvcPattern.COUPLET), duration_s=300, seed=1)
    assert set(_runs_of_v(couplets)) == {2}
    runs = simulate_record("a", patient=_patient_of(PvcPattern.RUN), duration_s=600, seed=1)
    assert set(_runs_of_v(runs)) == set(range(3, 9))
    rr_s = np.diff(_annotations(runs).samples) / runs.fs
    is_v = _annotations(runs).symbols == "V"
    np.testing.assert_allclose(rr_s[is_v[1:] & is_v[:-1]], 0.4, atol=0.08)


def test_an_atrial_beat_is_early_narrow_and_has_no_compensatory_pause() -> None:
    patient = _patient_of(PvcPattern.ISOLATED, pvc_episodes_per_min=0.0, apbs_per_min=6.0)
    record = simulate_record("a", patient=patient, duration_s=300, seed=1)
    rr_s = np.diff(_annotations(record).samples) / record.fs
    early = np.flatnonzero(_annotations(record).symbols == "A")[1:-1]
    assert len(early) > 10
    assert "V" not in _symbols(record)
    assert (rr_s[early - 1] < 0.85).all()
    assert (rr_s[early - 1] + rr_s[early] < 1.95).all()


def test_pvcs_measure_wider_than_narrow_beats() -> None:
    record = simulate_record("a", patient=_patient_of(PvcPattern.ISOLATED), duration_s=120, seed=1)
    samples, symbols = _annotations(record).samples[1:-1], _annotations(record).symbols[1:-1]
    windows = record.signal_mv("MLII")[samples[:, None] + np.arange(-180, 180)]
    width_s = measure_qrs_width(windows)
    assert np.median(width_s[symbols == "V"]) > 1.3 * np.median(width_s[symbols == "N"])


def test_the_detector_finds_the_beats_of_a_clean_cohort() -> None:
    n_beats = n_found = n_detected = 0
    for seed in range(40):
        patient = _clean_patient(seed)
        record = simulate_record("a", patient=patient, duration_s=60, seed=seed)
        detected = detect_r_peaks(record.signal_mv("MLII"))
        reference = _annotations(record).samples
        match = match_beats(reference, detected, tolerance=int(MATCH_TOLERANCE_S * FS_HZ))
        n_beats += len(reference)
        n_detected += len(detected)
        n_found += int((match.of_reference >= 0).sum())
    assert n_found / n_beats >= 0.99
    assert n_found / n_detected >= 0.99


def test_a_cohort_has_names_subjects_and_beats_of_all_classes() -> None:
    records = [simulate_cohort_member(n, duration_s=60, seed=1) for n in range(1, 13)]
    assert [record.name for record in records] == [f"sim{number:03d}" for number in range(1, 13)]
    assert all(record.subject == record.name for record in records)
    assert all(record.leads == LEADS and record.fs == 360.0 for record in records)
    assert all("simulated" in record.comments[0] for record in records)
    symbols = "".join(_symbols(record) for record in records)
    assert set(symbols) <= set("NLRVA")
    assert 0.02 < symbols.count("V") / len(symbols) < 0.25


def test_number_and_seed_decide_the_record_of_a_cohort() -> None:
    one, again, other, seeded = (
        simulate_cohort_member(number, duration_s=10, seed=seed)
        for number, seed in ((2, 3), (2, 3), (3, 3), (2, 4))
    )
    assert _same(one, again)
    assert not _same(one, other)
    assert not _same(one, seeded)


def test_a_simulated_record_survives_wfdb(tmp_path: Path) -> None:
    record = simulate_cohort_member(1, duration_s=10, seed=0)
    read = read_wfdb(write_wfdb(record, tmp_path), with_annotations=True)
    assert read.leads == record.leads
    assert read.comments == record.comments
    np.testing.assert_allclose(read.signals_mv, record.signals_mv, atol=1 / 3000)
    np.testing.assert_array_equal(_annotations(read).samples, _annotations(record).samples)
    assert _symbols(read) == _symbols(record)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        (StripKind.NORMAL, "N{10,}"),
        (StripKind.NOISY, "N{10,}"),
        (StripKind.ISOLATED_PVC, "N{3,}VN{3,}"),
        (StripKind.COUPLET, "N{3,}VVN{3,}"),
        (StripKind.BIGEMINY, "V?(NV){4,}N?"),
        (StripKind.RUN, "N{3,}V{4,}N{3,}"),
    ],
)
def test_a_strip_shows_its_pattern(kind: StripKind, pattern: str, seed: int) -> None:
    record = simulate_strip(kind, seed=seed)
    assert re.fullmatch(pattern, _symbols(record))
    assert record.signals_mv.shape == (3600, 2)
    assert record.signals_mv.dtype == np.float32
    assert kind.value in record.name


@pytest.mark.parametrize(
    ("kind", "runs"),
    [(StripKind.ISOLATED_PVC, {1}), (StripKind.COUPLET, {2}), (StripKind.RUN, {5})],
)
def test_a_long_strip_repeats_whole_patterns(kind: StripKind, runs: set[int]) -> None:
    record = simulate_strip(kind, duration_s=60)
    assert set(_runs_of_v(record)) == runs
    assert len(_runs_of_v(record)) >= 5
    assert _symbols(record)[0] == _symbols(record)[-1] == "N"


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("seed", range(4))
def test_the_detector_finds_each_beat_of_a_readable_strip(kind: StripKind, seed: int) -> None:
    record = simulate_strip(kind, seed=seed)
    reference = _annotations(record).samples
    detected = detect_r_peaks(record.signal_mv("MLII"))
    match = match_beats(reference, detected, tolerance=int(MATCH_TOLERANCE_S * FS_HZ))
    assert (match.of_reference >= 0).all()
    assert (match.of_detected >= 0).all()


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_strip_has_no_annotated_beat(kind: StripKind) -> None:
    assert _symbols(simulate_strip(kind)) == ""


def test_a_flat_strip_is_flat() -> None:
    assert (simulate_strip(StripKind.FLAT).signals_mv == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_saturated_strip_is_at_the_rails_from_end_to_end(seed: int) -> None:
    signals = simulate_strip(StripKind.SATURATED, seed=seed).signals_mv
    is_at_rail = np.abs(signals) == ADC_LIMIT_MV
    assert is_at_rail.mean() > 0.9
    assert is_at_rail.reshape(10, 360, 2).any(axis=1).all()


def test_a_noisy_strip_is_the_normal_one_under_noise() -> None:
    clean, noisy = simulate_strip(StripKind.NORMAL), simulate_strip(StripKind.NOISY)
    np.testing.assert_array_equal(_annotations(clean).samples, _annotations(noisy).samples)
    assert 0.1 < (noisy.signals_mv - clean.signals_mv).std() < 0.5


@pytest.mark.parametrize("fs", [100.0, 500.0, 1000.0])
@pytest.mark.parametrize("kind", StripKind)
def test_strips_come_at_any_rate(kind: StripKind, fs: float) -> None:
    record = simulate_strip(kind, fs=fs)
    assert record.fs == fs
    assert len(record.signals_mv) == 10 * fs
    assert _symbols(record) == _symbols(simulate_strip(kind))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "a b"}, ValueError, "letters, digits and underscores, got name='a b'"),
        ({"name": ""}, ValueError, "letters, digits and underscores"),
        ({"duration_s": 1.0}, ValueError, r"at least 2 s, got duration_s=1\.0"),
        ({"duration_s": np.nan}, ValueError, "at least 2 s, got duration_s=nan"),
        ({"seed": -1}, ValueError, "seed must not be negative, got seed=-1"),
        ({"fs": 50.0}, InvalidSamplingRateError, r"between 100 and 1000 Hz, got fs=50\.0"),
    ],
)
def test_a_record_that_cannot_be_made_is_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    request = {"name": "a", "patient": draw_patient(0), "duration_s": 10.0, "seed": 0} | change
    with pytest.raises(error, match=message):
        simulate_record(request.pop("name"), **request)


def test_a_strip_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 10 s, got duration_s=9\.0"):
        simulate_strip(StripKind.NORMAL, duration_s=9.0)
    with pytest.raises(ValueError, match="'flutter' is not a valid StripKind"):
        simulate_strip("flutter")
    with pytest.raises(ValueError, match="seed must not be negative, got seed=-2"):
        simulate_strip(StripKind.NORMAL, seed=-2)
    with pytest.raises(InvalidSamplingRateError):
        simulate_strip(StripKind.NORMAL, fs=2000.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": -1}, "number must not be negative, got number=-1"),
        ({"duration_s": 0.0}, "at least 2 s"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_a_record_of_a_cohort_that_cannot_be_made_is_refused(
    change: dict[str, float], message: str
) -> None:
    request = {"number": 1, "duration_s": 10.0, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        simulate_cohort_member(request.pop("number"), **request)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heart_rate_bpm": 10.0}, r"between 30 and 250, got 10\.0"),
        ({"apbs_per_min": -1.0}, "must not be negative"),
        ({"pattern_weights": (1.0,)}, r"pattern_weights must be 6 numbers"),
        ({"pattern_weights": (0.0,) * 6}, r"pattern_weights must be 6 numbers"),
        ({"pvcs": (), "pvc_episodes_per_min": 1.0}, "must have a PVC morphology, got none"),
    ],
)
def test_an_impossible_patient_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(draw_patient(0), **change)


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise levels must not be negative"):
        NoiseLevels(hum_mv=-0.1)
