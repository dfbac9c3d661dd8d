"""R-peaks against known truth, and the matching of beats by hand-made cases."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal as sp

from ecg_lib.evaluation.beat_scoring import BeatCounts, score_beats
from ecg_lib.records.annotations import DS1, PACED
from ecg_lib.records.record import Record, read_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from ecg_lib.signal_path.r_peaks import detection
from ecg_lib.signal_path.r_peaks.detection import DetectionConfig, detect_r_peaks, find_candidates
from ecg_lib.signal_path.r_peaks.matching import MATCH_TOLERANCE_S, match_beats

TOLERANCE = round(MATCH_TOLERANCE_S * 360)
BEATING = [
    StripKind.NORMAL,
    StripKind.ISOLATED_PVC,
    StripKind.COUPLET,
    StripKind.BIGEMINY,
    StripKind.RUN,
    StripKind.NOISY,
]


def _truth(record: Record) -> NDArray[np.int64]:
    assert record.annotations is not None
    return record.annotations.beat_samples


def _score(record: Record, detections: NDArray[np.int64]) -> BeatCounts:
    assert record.annotations is not None
    nothing_v = np.zeros(len(detections), dtype=np.bool_)
    return score_beats(record.annotations, detections=detections, is_v=nothing_v, fs=record.fs)


@pytest.mark.parametrize("kind", BEATING)
def test_every_beat_of_a_strip_is_found_where_it_is(kind: StripKind) -> None:
    for seed in range(5):
        record = simulate_strip(kind, seed=seed, duration_s=20.0)
        found = detect_r_peaks(record.signal_mv())
        assert len(found) == len(_truth(record))
        assert np.abs(found - _truth(record)).max() <= 2


def test_virtual_patients_lose_few_beats_and_no_pvc() -> None:
    counts = BeatCounts()
    for seed in range(10):
        record = simulate_record(
            f"p{seed}", patient=draw_patient(seed), duration_s=120.0, seed=seed
        )
        counts += _score(record, detect_r_peaks(record.signal_mv()))
    assert counts.v_beats > 100
    assert counts.v_found == counts.v_beats
    assert counts.qrs_sensitivity >= 0.985
    assert counts.qrs_predictivity >= 0.998


@pytest.mark.data
def test_r_peaks_of_ds1_and_the_paced_records_stay_as_good_as_they_were(mitdb_dir: Path) -> None:
    """The committed network has seen these records: a ratchet, not a figure to publish."""
    counts = BeatCounts()
    errors = []
    for name in DS1 + PACED:
        record = read_wfdb(mitdb_dir / name, with_annotations=True)
        found = detect_r_peaks(record.signal_mv())
        counts += _score(record, found)
        match = match_beats(_truth(record), found, tolerance=TOLERANCE)
        is_found = match.of_reference >= 0
        errors.append(np.abs(found[match.of_reference[is_found]] - _truth(record)[is_found]))
    assert counts.v_beats == 4015
    assert counts.qrs_sensitivity >= 0.995
    assert counts.qrs_predictivity >= 0.995
    assert counts.v_beats - counts.v_found <= 60
    assert np.median(np.concatenate(errors)) <= 1


@settings(max_examples=15, deadline=None)
@given(
    gain=st.floats(0.1, 10.0),
    sign=st.sampled_from([-1.0, 1.0]),
    offset_mv=st.floats(-5.0, 5.0),
    kind=st.sampled_from(BEATING),
)
def test_gain_polarity_and_offset_do_not_move_an_r_peak(
    gain: float, sign: float, offset_mv: float, kind: StripKind
) -> None:
    signal = simulate_strip(kind, seed=2).signal_mv().astype(np.float64)
    changed = detect_r_peaks(sign * gain * signal + offset_mv)
    np.testing.assert_array_equal(changed, detect_r_peaks(signal))


@pytest.mark.parametrize("shift", [1, 100, 359, 720])
def test_r_peaks_move_with_the_signal(shift: int) -> None:
    signal = simulate_strip(StripKind.ISOLATED_PVC, seed=4, duration_s=30.0).signal_mv()
    whole, late = detect_r_peaks(signal), detect_r_peaks(signal[shift:])
    expected = whole[whole >= shift + 180] - shift
    found = late[late >= 180]
    assert len(found) == len(expected) > 20
    assert np.abs(found - expected).max() <= 1


def test_what_comes_twice_is_found_twice() -> None:
    signal = simulate_strip(StripKind.NORMAL, seed=5, duration_s=20.0).signal_mv()
    once = detect_r_peaks(signal)
    twice = detect_r_peaks(np.concatenate([signal, signal]))
    np.testing.assert_array_equal(twice, np.concatenate([once, once + len(signal)]))


@pytest.mark.parametrize(
    ("width_s", "height_mv"),
    [
        pytest.param(
            0.06,
            1.0,
            marks=pytest.mark.xfail(
                strict=True,
                reason="0.3 s wide and 1 mV tall: as smooth as a T wave, which it is taken for",
            ),
        ),
        (0.06, 1.2),
        (0.06, 2.0),
        (0.05, 1.5),
    ],
)
def test_a_slow_beat_between_steep_ones_is_found(width_s: float, height_mv: float) -> None:
    """Interpolated, so that no gap asks for it: only the slow scale sees it."""
    times = np.arange(60 * 360)
    steep = np.arange(180, len(times) - 200, 300)
    slow = steep[5::7] - 125
    signal = np.exp(-0.5 * ((times - steep[:, None]) / 4) ** 2).sum(axis=0)
    waves = np.exp(-0.5 * ((times - slow[:, None]) / (width_s * 360)) ** 2)
    signal -= height_mv * waves.sum(axis=0)
    match = match_beats(
        np.sort(np.concatenate([steep, slow])), detect_r_peaks(signal), tolerance=20
    )
    assert (match.of_reference >= 0).all()
    assert (match.of_detected >= 0).all()


def test_energies_of_a_still_line_are_not_negative() -> None:
    beating = simulate_strip(StripKind.NORMAL, seed=4, duration_s=20.0).signal_mv()
    signal = np.concatenate([beating, np.zeros(3600), beating]).astype(np.float64)
    _, envelopes = find_candidates(signal, config=DetectionConfig())
    assert 0.0 <= envelopes.steep.min() < 1e-12  # how a sum rounds differs between processors
    assert 0.0 <= envelopes.slow.min() < 1e-12


@pytest.mark.parametrize("n_samples", [360, 720, 3600])
def test_a_line_has_no_r_peaks(n_samples: int) -> None:
    assert detect_r_peaks(np.zeros(n_samples)).tolist() == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_samples=st.integers(360, 5000))
def test_r_peaks_ascend_within_the_signal_whatever_it_is(seed: int, n_samples: int) -> None:
    rng = np.random.default_rng(seed)
    found = detect_r_peaks(rng.standard_normal(n_samples).cumsum() * rng.choice([0.0, 1e-6, 1.0]))
    assert found.dtype == np.int64
    assert (np.diff(found) > 0).all()
    assert ((found >= 0) & (found < n_samples)).all()


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10_000), n_samples=st.integers(0, 2000), distance=st.integers(1, 100))
def test_maxima_are_those_of_scipy(seed: int, n_samples: int, distance: int) -> None:
    envelope = np.abs(np.random.default_rng(seed).standard_normal(n_samples))
    expected, _ = sp.find_peaks(envelope, distance=distance)
    found = detection._find_maxima(envelope, distance=distance)
    np.testing.assert_array_equal(found, expected)


def test_a_plateau_is_one_maximum_in_its_middle() -> None:
    envelope = np.array([9, 0, 1, 1, 1, 0, 2, 2, 1, 3, 3.0])
    assert detection._find_maxima(envelope, distance=1).tolist() == [3, 6]


def test_of_equal_maxima_within_reach_one_wins() -> None:
    envelope = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0.0])
    found = detection._find_maxima(envelope, distance=4)
    assert 1 <= len(found) <= 2
    assert (np.diff(found) >= 4).all()


# Matching.


def _match(reference: list[int], detected: list[int]) -> tuple[list[int], list[int]]:
    match = match_beats(np.array(reference, int), np.array(detected, int), tolerance=54)
    return match.of_reference.tolist(), match.of_detected.tolist()


@pytest.mark.parametrize(
    ("reference", "detected", "of_reference", "of_detected"),
    [
        ([1000], [1054], [0], [0]),  # 150 ms belong together
        ([1000], [1055], [-1], [-1]),  # 153 ms do not
        ([1000], [946], [0], [0]),
        ([1000], [945], [-1], [-1]),
        ([1000], [990, 1005], [1], [-1, 0]),  # a double detection: the nearer one
        ([1000], [995, 1010], [0], [0, -1]),
        ([1000, 1050], [1045], [-1, 0], [1]),  # two beats, one detection
        ([1000, 1050], [1010], [0, -1], [0]),
        ([1000, 1050], [990, 1040], [0, 1], [0, 1]),
        ([1000, 1300, 1600], [1010, 1590], [0, -1, 1], [0, 2]),
        ([0], [0], [0], [0]),
        ([], [5], [], [-1]),
        ([5], [], [-1], []),
        ([], [], [], []),
    ],
)
def test_beats_are_paired_by_hand(
    reference: list[int], detected: list[int], of_reference: list[int], of_detected: list[int]
) -> None:
    assert _match(reference, detected) == (of_reference, of_detected)


_SAMPLES = st.lists(st.integers(0, 3000), max_size=40, unique=True).map(sorted)


@settings(max_examples=200, deadline=None)
@given(reference=_SAMPLES, detected=_SAMPLES)
def test_pairs_are_mutual_near_and_in_order(reference: list[int], detected: list[int]) -> None:
    of_reference, of_detected = _match(reference, detected)
    pairs = [(i, j) for i, j in enumerate(of_reference) if j >= 0]
    assert pairs == [(i, j) for j, i in enumerate(of_detected) if i >= 0]
    assert all(abs(reference[i] - detected[j]) <= 54 for i, j in pairs)
    assert all(before[1] < after[1] for before, after in pairwise(pairs))


@settings(max_examples=100, deadline=None)
@given(reference=_SAMPLES)
def test_beats_match_themselves(reference: list[int]) -> None:
    every = list(range(len(reference)))
    assert _match(reference, reference) == (every, every)
