"""Windows and features: shapes, edges, invariances, and a template without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import NO_NOISE, PvcPattern, draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from ecg_lib.signal_path.features import FEATURE_NAMES, BeatFeatures, extract_beats
from ecg_lib.signal_path.filtering import band_pass
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.template import WINDOW_SAMPLES, measure_qrs_width


def _extract(record: Record) -> tuple[BeatFeatures, NDArray[np.bool_]]:
    """The beats at their true R-peaks, and which of them are PVCs."""
    assert record.annotations is not None
    filtered = band_pass(record.signal_mv(), low_hz=0.5, high_hz=40.0)
    beats = extract_beats(filtered, record.annotations.beat_samples)
    return beats, np.asarray(record.annotations.beat_classes == "V")


def _column(beats: BeatFeatures, name: str) -> NDArray[np.float32]:
    return beats.features[:, FEATURE_NAMES.index(name)]


def _bigeminy(duration_s: float) -> Record:
    patient = replace(
        draw_patient(3),
        noise=NO_NOISE,
        heart_rate_bpm=60.0,
        pvc_episodes_per_min=30.0,
        apbs_per_min=0.0,
        pattern_weights=tuple(float(kind is PvcPattern.BIGEMINY) for kind in PvcPattern),
    )
    return simulate_record("bigeminy", patient=patient, duration_s=duration_s, seed=1)


@pytest.mark.parametrize("duration_s", [10.0, 30.0])
@pytest.mark.parametrize(
    "kind", [StripKind.ISOLATED_PVC, StripKind.COUPLET, StripKind.BIGEMINY, StripKind.RUN]
)
def test_the_template_is_made_of_conducted_beats(kind: StripKind, duration_s: float) -> None:
    for seed in range(5):
        beats, is_v = _extract(simulate_strip(kind, seed=seed, duration_s=duration_s))
        assert is_v.any()
        assert not (beats.is_template_beat & is_v).any()
        assert beats.is_template_beat.sum() >= 0.8 * (~is_v).sum()
        assert _column(beats, "qrs_similarity")[~is_v].min() > 0.9
        assert _column(beats, "qrs_similarity")[is_v].max() < 0.7


def test_the_template_holds_in_a_recording_of_many_blocks() -> None:
    beats, is_v = _extract(_bigeminy(900.0))
    assert len(is_v) > 720  # more than six overlapping blocks
    assert is_v.mean() > 0.4
    assert not (beats.is_template_beat & is_v).any()


@pytest.mark.parametrize("n_beats", [1, 2, 3, 239, 240, 241, 359, 360, 361, 480, 481, 600])
def test_every_r_peak_gives_one_row_in_its_place(n_beats: int) -> None:
    positions = np.arange(n_beats) * 100 + 50
    signal = np.random.default_rng(0).standard_normal(n_beats * 100)
    beats = extract_beats(signal, positions)
    assert beats.windows.shape == (n_beats, WINDOW_SAMPLES, 2)
    assert beats.features.shape == (n_beats, len(FEATURE_NAMES))
    for column in (beats.rr_prev_s, beats.rr_next_s, beats.qrs_width_s, beats.is_template_beat):
        assert column.shape == (n_beats,)
    assert np.isfinite(beats.windows).all()
    assert np.isfinite(beats.features).all()


def test_rows_keep_the_order_of_the_beats_over_the_borders_of_blocks() -> None:
    """The QRS width in the features is that of the beat itself, whatever block it came from."""
    beats, _ = _extract(_bigeminy(600.0))
    assert len(beats.qrs_width_s) > 480
    np.testing.assert_allclose(_column(beats, "qrs_width_s"), beats.qrs_width_s, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positions=st.lists(st.integers(0, 1999), min_size=1, max_size=30, unique=True),
)
def test_beats_anywhere_have_finite_features(seed: int, positions: list[int]) -> None:
    signal = np.random.default_rng(seed).standard_normal(2000)
    beats = extract_beats(signal, np.array(sorted(positions)))
    assert len(beats.features) == len(positions)
    assert np.isfinite(beats.features).all()
    assert np.abs(beats.windows).max() <= 8


def test_no_r_peaks_give_no_rows() -> None:
    beats = extract_beats(np.zeros(3600), np.zeros(0, np.int64))
    assert beats.windows.shape == (0, WINDOW_SAMPLES, 2)
    assert beats.features.shape == (0, len(FEATURE_NAMES))
    assert len(beats.rr_prev_s) == len(beats.is_template_beat) == 0


def test_a_flat_signal_gives_finite_rows() -> None:
    beats = extract_beats(np.zeros(3600), np.array([500, 1000, 1500]))
    assert np.isfinite(beats.features).all()
    assert (beats.windows == 0).all()


def test_rr_intervals_are_seconds_and_unknown_at_the_ends() -> None:
    beats = extract_beats(np.zeros(3600), np.array([360, 720, 1260]))
    np.testing.assert_array_equal(beats.rr_prev_s, [np.nan, 1.0, 1.5])
    np.testing.assert_array_equal(beats.rr_next_s, [1.0, 1.5, np.nan])


def test_first_and_last_beat_count_as_usual_ones() -> None:
    beats, _ = _extract(simulate_strip(StripKind.NORMAL, seed=1))
    assert _column(beats, "rr_prev_ratio")[0] == 0
    assert _column(beats, "rr_next_ratio")[-1] == 0
    assert _column(beats, "rr_prev_over_next")[[0, -1]].tolist() == [0, 0]


def test_a_pvc_is_early_and_a_pause_follows() -> None:
    beats, is_v = _extract(simulate_strip(StripKind.ISOLATED_PVC, seed=1, duration_s=30.0))
    assert (_column(beats, "rr_prev_ratio")[is_v] < -0.2).all()
    assert (_column(beats, "rr_next_ratio")[is_v] > 0.1).all()
    after_v = np.flatnonzero(is_v) + 1
    np.testing.assert_array_equal(
        _column(beats, "rr_prev_ratio_of_previous")[after_v],
        _column(beats, "rr_prev_ratio")[is_v],
    )
    np.testing.assert_array_equal(
        _column(beats, "rr_next_ratio_of_next")[np.flatnonzero(is_v) - 1],
        _column(beats, "rr_next_ratio")[is_v],
    )


@settings(max_examples=10, deadline=None)
@given(gain=st.floats(0.1, 10.0), sign=st.sampled_from([-1.0, 1.0]))
def test_gain_drops_out_and_polarity_only_flips_the_window(gain: float, sign: float) -> None:
    record = simulate_strip(StripKind.ISOLATED_PVC, seed=2)
    changed = replace(record, signals_mv=(sign * gain * record.signals_mv).astype(np.float32))
    beats, _ = _extract(record)
    other, _ = _extract(changed)
    np.testing.assert_allclose(other.features, beats.features, atol=1e-3)
    np.testing.assert_allclose(sign * other.windows, beats.windows, atol=1e-3)


def test_the_second_channel_is_the_beat_without_its_template() -> None:
    beats, is_v = _extract(simulate_strip(StripKind.ISOLATED_PVC, seed=2, duration_s=30.0))
    template = beats.windows[..., 0] - beats.windows[..., 1]
    np.testing.assert_allclose(template, np.broadcast_to(template[:1], template.shape), atol=1e-5)
    qrs = beats.windows[:, 126:234]
    assert np.abs(qrs[~is_v, :, 1]).max() < 0.35
    assert np.abs(qrs[is_v, :, 1]).max(axis=1).min() > 0.5
    assert np.ptp(template[0, 126:234]) == pytest.approx(1.0, abs=1e-5)


def test_pvcs_are_wider_than_conducted_beats() -> None:
    for seed in range(5):
        beats, is_v = _extract(simulate_strip(StripKind.BIGEMINY, seed=seed))
        assert beats.qrs_width_s[is_v].min() > 1.2 * beats.qrs_width_s[~is_v].max()


@pytest.mark.parametrize("width_ms", [60, 100, 140, 180])
def test_the_width_of_a_triangle_is_its_base(width_ms: int) -> None:
    half = width_ms / 1000 * 360 / 2
    times = np.arange(WINDOW_SAMPLES) - WINDOW_SAMPLES // 2
    window = np.maximum(0, 1 - np.abs(times) / half)
    found_ms = 1000 * measure_qrs_width(window[None])[0]
    assert found_ms == pytest.approx(width_ms, abs=20)
    assert 1000 * measure_qrs_width(-5 * window[None])[0] == pytest.approx(found_ms)


# Noise: the rest of a beat outside its QRS complex.

NOISE = (
    "noise_level",
    "noise_peak",
    "noise_slope",
    "noise_level_around",
    "noise_slope_around",
    "noise_worst_around",
    "noise_drift",
)


def _beating(n_beats: int = 40) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Make equal complexes of height 1 a second apart, in a line that is still."""
    peaks = 360 * np.arange(1, n_beats + 1)
    times = np.arange(360 * (n_beats + 2))
    return np.exp(-0.5 * ((times - peaks[:, None]) / 6) ** 2).sum(axis=0), peaks


def test_there_are_48_features_and_the_last_seven_are_of_noise() -> None:
    assert len(FEATURE_NAMES) == 48
    assert FEATURE_NAMES[-7:] == NOISE


def test_without_noise_the_noise_features_are_at_their_floor() -> None:
    beats = extract_beats(*_beating())
    floors = np.log([0.01, 0.02, 0.001, 0.01, 0.001, 0.01, 0.01])
    for name, floor in zip(NOISE, floors.tolist(), strict=True):
        np.testing.assert_allclose(_column(beats, name), floor, atol=0.02)


def test_noise_is_measured_in_qrs_amplitudes_beside_the_complex() -> None:
    """A wave of a tenth of a QRS complex, 0.3 s behind one beat of forty."""
    signal, peaks = _beating()
    wave = 0.1 * np.sin(2 * np.pi * 10 * np.arange(36) / 360)
    at = int(peaks[20]) + 90
    signal[at : at + 36] += wave
    beats = extract_beats(signal, peaks)
    # 36 of the 266 samples that are looked at hold a sine of 0.1: 0.1 / sqrt(2) * sqrt(36 / 266).
    assert _column(beats, "noise_level")[20] == pytest.approx(np.log(0.026 + 0.01), abs=0.06)
    assert _column(beats, "noise_peak")[20] == pytest.approx(np.log(0.1 + 0.02), abs=0.03)
    assert _column(beats, "noise_level")[19] == pytest.approx(np.log(0.01), abs=0.08)
    worst = _column(beats, "noise_worst_around")
    for near in (19, 20, 21):
        assert worst[near] == pytest.approx(_column(beats, "noise_level")[20])
    for far in (18, 22):
        assert worst[far] == pytest.approx(np.log(0.01), abs=0.08)
    # One noisy beat of nine is not noise around.
    np.testing.assert_allclose(_column(beats, "noise_level_around"), np.log(0.01), atol=0.08)


def test_noise_around_is_that_of_most_of_nine_beats() -> None:
    signal, peaks = _beating()
    rng = np.random.default_rng(1)
    first, last = int(peaks[10]) - 180, int(peaks[20]) - 180
    signal[first:last] += 0.1 * rng.standard_normal(last - first)
    beats = extract_beats(signal, peaks)
    for name in ("noise_level_around", "noise_slope_around"):
        around = _column(beats, name)
        single = _column(beats, name.removesuffix("_around"))
        assert around[14] > around[2] + 1
        for middle in (4, 14, 30):
            assert around[middle] == pytest.approx(
                np.median(single[middle - 4 : middle + 5]), abs=1e-6
            )


def test_drift_is_the_step_from_before_a_beat_to_behind_it() -> None:
    signal, peaks = _beating()
    signal[int(peaks[20]) :] += 0.2
    beats = extract_beats(signal, peaks)
    drift = _column(beats, "noise_drift")
    assert drift[20] == pytest.approx(np.log(0.2 + 0.01), abs=0.02)
    assert drift[10] == pytest.approx(np.log(0.01), abs=0.1)


@pytest.mark.parametrize("gain", [0.01, -1.0, 30.0])
def test_gain_and_polarity_do_not_change_the_noise(gain: float) -> None:
    strip = simulate_strip(StripKind.NOISY, seed=2, duration_s=20.0)
    signal = strip.signal_mv().astype(np.float64)
    peaks = detect_r_peaks(signal)
    one, other = extract_beats(signal, peaks), extract_beats(gain * signal, peaks)
    for name in NOISE:
        np.testing.assert_allclose(_column(one, name), _column(other, name), atol=1e-3)
