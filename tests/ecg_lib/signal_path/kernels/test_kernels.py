"""Each kernel gives what the NumPy code gave whose place it took."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import find_peaks

from ecg_lib.records.record import read_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from ecg_lib.signal_path.features import FEATURE_NAMES, extract_beats
from ecg_lib.signal_path.filtering import (
    Bands,
    band_pass,
    filter_rank,
    median,
    quantile,
    robust_scale,
)
from ecg_lib.signal_path.kernels.library import run_kernel
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.r_peaks import detection
from ecg_lib.signal_path.r_peaks.candidate_features import measure_candidates
from ecg_lib.signal_path.r_peaks.detection import (
    DetectionConfig,
    accept_by_rules,
    detect_r_peaks,
    find_candidates,
)
from ecg_lib.signal_path.readability import flutter, pacing, plausibility
from ecg_lib.signal_path.readability.flutter import FlutterConfig
from ecg_lib.signal_path.readability.pacing import PacingConfig
from ecg_lib.signal_path.readability.plausibility import measure_deflections, measure_qrs_hz
from ecg_lib.signal_path.template import BeatConfig, measure_qrs_width
from tests.ecg_lib.signal_path.kernels import (
    oracle_candidates,
    oracle_detection,
    oracle_features,
    oracle_quality,
)

CONFIG = DetectionConfig()

GUARD_S = 120.0
"""Seconds of a processor that nothing here takes, and that the square of an input's length does."""

SINGLE = 1e-4
"""The oracle is that uncertain where it sums in single precision, after logarithms and logistic
functions of likenesses near 1; the kernels sum in double precision."""


class Case(NamedTuple):
    signal: NDArray[np.float64]
    r_peaks: NDArray[np.int64]


def _strip(kind: StripKind) -> NDArray[np.float64]:
    return simulate_strip(kind, seed=3).signal_mv().astype(np.float64)


def _flutter() -> NDArray[np.float64]:
    time_s = np.arange(7200) / 360.0
    waves = 0.6 * np.sin(2 * np.pi * 4.5 * time_s + np.sin(time_s))
    # Not quite at rest: where nothing is, both find maxima in their own rounding.
    rest = 0.2 + 1e-4 * np.random.default_rng(0).standard_normal(1500)
    return np.concatenate([_strip(StripKind.NORMAL), waves, rest])


def _paced() -> NDArray[np.float64]:
    signal = _strip(StripKind.ISOLATED_PVC)
    for peak in detect_r_peaks(signal)[2:].tolist():
        signal[peak - 30 : peak - 28] += 2.5
    return signal


SIGNALS: dict[str, Callable[[], NDArray[np.float64]]] = {
    "ten seconds": lambda: _strip(StripKind.ISOLATED_PVC),
    "noise": lambda: _strip(StripKind.NOISY),
    "flutter": _flutter,
    "paced": _paced,
    "walk": lambda: np.random.default_rng(4).standard_normal(7200).cumsum() * 0.02,
    "ten minutes": lambda: (
        simulate_record("r", patient=draw_patient(5), duration_s=600.0, seed=5)
        .signal_mv()
        .astype(np.float64)
    ),
}


def _case(name: str) -> Case:
    signal = np.asarray(SIGNALS[name](), dtype=np.float64)
    return Case(signal, detect_r_peaks(signal))


@pytest.fixture(scope="module", params=SIGNALS)
def case(request: pytest.FixtureRequest) -> Case:
    return _case(request.param)


@pytest.mark.parametrize("n_samples", [2, 5, 50, 700, 5000])
@pytest.mark.parametrize("order", [1, 2, 3, 8])
def test_bands_are_those_of_scipy_alone_and_together(n_samples: int, order: int) -> None:
    signal = np.random.default_rng(n_samples).standard_normal(n_samples) + 3.0
    asked = ((5.0, 18.0, order), (3.0, 30.0, order), (1.0, 30.0, order), (4.0, 9.0, order))
    bands = Bands(signal, expected=(*asked, (0.5, 40.0, 2)))
    for low_hz, high_hz, _ in asked:
        expected = oracle_detection.band_pass(signal, low_hz, high_hz, order)
        alone = band_pass(signal, low_hz=low_hz, high_hz=high_hz, order=order)
        np.testing.assert_allclose(alone, expected, atol=1e-6)
        # The same bits, whatever else is filtered with it.
        np.testing.assert_array_equal(bands.band(low_hz, high_hz, order=order), alone)


def test_more_bands_than_lanes_are_filtered() -> None:
    signal = np.random.default_rng(0).standard_normal(1000)
    asked = tuple((float(low), 30.0, 2) for low in range(1, 8))
    bands = Bands(signal, expected=asked)
    for low_hz, high_hz, _ in asked:
        expected = band_pass(signal, low_hz=low_hz, high_hz=high_hz)
        np.testing.assert_array_equal(bands.band(low_hz, high_hz), expected)


def test_what_is_shared_cannot_be_written_to() -> None:
    bands = Bands(np.random.default_rng(0).standard_normal(1000))
    for shared in (bands.band(1.0, 30.0), *bands.slope(5.0, 18.0, window=36)):
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = 1.0


def test_an_order_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="order must be 1 to 8, got 9"):
        band_pass(np.zeros(1000), low_hz=1.0, high_hz=30.0, order=9)


def test_a_line_that_rests_for_long_ends_at_nothing() -> None:
    signal = np.concatenate([np.random.default_rng(0).standard_normal(720), np.zeros(360_000)])
    rest = band_pass(signal, low_hz=0.5, high_hz=40.0)[-1000:]
    assert np.abs(rest).max() < 1e-200


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 60), size=st.integers(1, 20))
def test_ranks_are_those_of_scipy(seed: int, n: int, size: int) -> None:
    values = np.random.default_rng(seed).integers(0, 9, n).astype(np.float64)
    expected = ndimage.median_filter(values, size=size, mode="nearest")
    np.testing.assert_array_equal(filter_rank(values, size=size), expected)
    expected = ndimage.percentile_filter(values, 80, size=size, mode="nearest")
    found = filter_rank(values, size=size, rank=int(0.8 * size))
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 200), kinds=st.integers(1, 400))
def test_medians_are_those_of_numpy(seed: int, n: int, kinds: int) -> None:
    values = np.random.default_rng(seed).integers(0, kinds, n).astype(np.float64)
    assert median(values) == np.median(values)
    assert np.isnan(median(np.append(values, np.nan)))
    for share in (0.0, 0.25, 0.9, 1.0):
        assert quantile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-12)
    centred = values - np.median(values)
    deviation = 1.4826 * np.median(np.abs(centred))
    expected = centred / deviation if deviation > 0 else centred
    np.testing.assert_allclose(robust_scale(values), expected, rtol=1e-12)
    for n_rows in (1, 3, 4, 48, 49, 50):
        rows = np.random.default_rng(seed).permuted(values.reshape(1, -1).repeat(n_rows, axis=0))
        columns = rows.astype(np.float32)
        found = plausibility._median_of_columns(columns)
        np.testing.assert_array_equal(found, np.median(columns, axis=0))


def test_candidates_their_features_and_rules_are_those_of_numpy(case: Case) -> None:
    expected, expected_envelopes = oracle_detection.find_candidates(case.signal, CONFIG)
    found, envelopes = find_candidates(case.signal, config=CONFIG)
    np.testing.assert_array_equal(found.position, expected.position)
    for one, other in zip((*found, *envelopes), (*expected, *expected_envelopes), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    by_rules = accept_by_rules(found, config=CONFIG)
    np.testing.assert_array_equal(
        by_rules, oracle_detection.accept_by_rules(expected, config=CONFIG)
    )
    generator = np.random.default_rng(0)
    for is_beat in (by_rules, by_rules & False, generator.random(len(by_rules)) < 0.5):
        np.testing.assert_allclose(
            measure_candidates(found, envelopes, is_beat).features,
            oracle_candidates.measure_candidates(expected, expected_envelopes, is_beat),
            atol=1e-6,
        )


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 400), distance=st.integers(1, 60))
def test_maxima_are_those_of_scipy(seed: int, n: int, distance: int) -> None:
    envelope = np.random.default_rng(seed).permutation(n).astype(np.float64)
    expected, _ = find_peaks(envelope, distance=distance)
    assert detection._find_maxima(envelope, distance=distance).tolist() == expected.tolist()


@pytest.mark.parametrize("direction", [1, -1])
def test_heights_that_rise_or_fall_for_hours_take_no_longer(direction: int) -> None:
    waves = np.tile(np.abs(np.sin(2 * np.pi * 9 * np.arange(40) / 360.0)), 360_000)
    envelope = (waves * np.linspace(1, 40_000, len(waves)))[::direction].copy()
    started_s = process_time()
    position = detection._find_maxima(envelope, distance=93)
    assert process_time() - started_s < GUARD_S  # the square of their number takes 300
    assert len(position) == 144_000


def test_nan_among_heights_ends_and_leaves_the_distance() -> None:
    envelope = np.tile([1.0, 2.0, np.nan, 3.0, 1.0], 200)
    position = detection._find_maxima(envelope, distance=93)
    assert len(position) > 0
    assert (np.diff(position) >= 93).all()


def test_values_that_rise_and_fall_have_their_median_soon() -> None:
    values = np.minimum(np.arange(1_200_000.0), np.arange(1_200_000.0, 0, -1))
    started_s = process_time()
    scaled = robust_scale(values)
    assert process_time() - started_s < GUARD_S  # the square of their number takes 360
    assert np.median(scaled) == pytest.approx(0.0)


def test_signals_without_enough_samples_are_refused() -> None:
    for n_samples in (0, 1):
        with pytest.raises(ValueError, match=f"at least 2 samples, got {n_samples}"):
            detect_r_peaks(np.zeros(n_samples))
    with pytest.raises(ValueError, match="at least one sample"):
        robust_scale(np.zeros(0))
    assert band_pass(np.zeros(0), low_hz=0.5, high_hz=40.0).shape == (0,)


@pytest.mark.parametrize(("size", "rank"), [(0, None), (3, 3), (3, -1)])
def test_a_rank_outside_its_window_is_refused(size: int, rank: int | None) -> None:
    with pytest.raises(ValueError, match="rank must be 0 to"):
        filter_rank(np.zeros(10), size=size, rank=rank)


@pytest.mark.parametrize("n_samples", range(24, 40))
def test_a_signal_too_short_for_a_neighbourhood_has_no_line(n_samples: int) -> None:
    signal = np.random.default_rng(n_samples).standard_normal(n_samples)
    with np.errstate(all="raise"):
        assert np.isnan(plausibility.measure_stray_line(signal, fs=360.0)) or n_samples >= 30


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (BeatConfig, {"qrs_half_s": 0.51}),
        (BeatConfig, {"beat_before_s": 0.0}),
        (BeatConfig, {"beat_after_s": float("nan")}),
        (BeatConfig, {"align_s": -0.1}),
        (BeatConfig, {"block_beats": 3}),
        (DetectionConfig, {"level_bin_s": 0.002}),
        (DetectionConfig, {"refractory_s": 0.0}),
        (DetectionConfig, {"level_bins": 0}),
    ],
)
def test_constants_that_kernels_have_no_room_for_are_refused(
    config: type[BeatConfig | DetectionConfig], values: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match="must"):
        config(**values)  # type: ignore[arg-type]  # of either class


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 80))
def test_rules_on_any_candidates_are_those_of_numpy(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    position = np.cumsum(generator.integers(90, 400, n)).astype(np.int64)
    height, slope = generator.random(n), generator.random(n)
    candidates = detection.Candidates(position, height, slope)
    expected = oracle_detection.accept_by_rules(candidates, config=CONFIG)
    np.testing.assert_array_equal(accept_by_rules(candidates, config=CONFIG), expected)


def test_extrema_are_those_of_numpy(case: Case) -> None:
    smooth = band_pass(case.signal, low_hz=1.0, high_hz=30.0)
    position = np.clip(case.r_peaks + 5, 0, len(smooth) - 1)
    found = detection._find_extrema(smooth, position, CONFIG)
    expected = oracle_detection.find_extrema(smooth, position, CONFIG)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n_beats", [1, 2, 3, 12, 700])
def test_beats_are_those_of_numpy(n_beats: int) -> None:
    case = _case("ten minutes")
    signal = robust_scale(band_pass(case.signal, low_hz=0.5, high_hz=40.0))
    _compare_beats(signal, case.r_peaks[:n_beats])


def _compare_beats(signal: NDArray[np.float64], r_peaks: NDArray[np.int64]) -> None:
    breaks = np.zeros(max(0, len(r_peaks) - 1), dtype=np.bool_)
    breaks[5:6] = True
    found = extract_beats(signal, r_peaks, breaks=breaks)
    expected = oracle_features.extract_beats(signal, r_peaks, breaks=breaks)
    np.testing.assert_array_equal(found.qrs_width_s, expected.qrs_width_s)
    np.testing.assert_array_equal(found.is_template_beat, expected.is_template_beat)
    np.testing.assert_allclose(found.windows, expected.windows, atol=1e-5)
    exact = [
        FEATURE_NAMES.index(name)
        for name in ("rr_prev_ratio", "rr_next_ratio", "rr_variability", "qrs_width_s")
    ]
    np.testing.assert_allclose(found.features[:, exact], expected.features[:, exact], atol=1e-6)
    np.testing.assert_allclose(found.features, expected.features, atol=SINGLE)
    for one, other in zip(found.shapes, expected.shapes, strict=True):
        assert (one.rows, one.columns) == (other.rows, other.columns)
        np.testing.assert_allclose(one.sameness, other.sameness, atol=SINGLE)


def test_a_part_of_a_window_that_is_constant_resembles_nothing() -> None:
    """Sums in single precision left noise there, of which the oracle made a shape."""
    generator = np.random.default_rng(0)
    r_peaks = np.array([0, 300, 600], dtype=np.int64)
    beats = extract_beats(generator.standard_normal(900), r_peaks)
    assert beats.features[0, FEATURE_NAMES.index("p_similarity")] == 0.0


def test_quiet_lines_flutter_and_spikes_are_those_of_numpy(case: Case) -> None:
    signal, r_peaks = case
    energy = Bands(signal).slope(5.0, 18.0, window=36).average
    for share in (0.02, 0.1, 0.3):
        limit = share * float(energy.max())
        gaps = np.empty((len(energy), 2), dtype=np.int64)
        count = run_kernel("find_quiet", energy, len(energy), limit, 100.0, gaps)
        expected = oracle_quality.find_quiet(energy, limit, 100.0)
        assert [tuple(gap) for gap in gaps[:count].tolist()] == expected
    waves = band_pass(signal, low_hz=1.0, high_hz=30.0)
    decimated = waves[: len(waves) // 4 * 4].reshape(-1, 4).mean(axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(decimated, 270)[::45]
    found = np.empty(len(windows), dtype=np.bool_)
    limits = flutter._list_limits(FlutterConfig())
    run_kernel("find_flutter", waves, len(waves), 270, 45, limits, found)
    expected = oracle_quality.look_like_flutter(windows, FlutterConfig())
    np.testing.assert_array_equal(found, expected)
    asked = (r_peaks >= 101) & (r_peaks < len(signal) - 147)
    has_spike, limits = np.empty(len(r_peaks), np.bool_), pacing._list_limits(PacingConfig())
    run_kernel("find_spikes", signal, r_peaks, len(r_peaks), asked, limits, has_spike)
    assert not has_spike[~asked].any()
    np.testing.assert_array_equal(
        has_spike[asked], oracle_quality.have_spikes(signal, r_peaks[asked], PacingConfig())
    )


def test_likeness_deflections_and_frequencies_are_those_of_numpy(case: Case) -> None:
    signal, r_peaks = case
    if len(r_peaks) < 4:
        pytest.skip("this signal has fewer than four detections")
    band, likeness = band_pass(signal, low_hz=0.5, high_hz=40.0), np.empty(len(r_peaks))
    run_kernel("likeness_of_beats", band, len(band), r_peaks, len(r_peaks), 54, 10, likeness)
    expected = oracle_quality.likeness_of_beats(band, r_peaks)
    np.testing.assert_allclose(likeness, expected, atol=1e-6)
    energy = Bands(signal).slope(5.0, 18.0, window=36).average
    np.testing.assert_allclose(
        measure_deflections(energy, r_peaks),
        oracle_quality.measure_deflections(energy, r_peaks),
        rtol=1e-6,
    )
    windows = extract_beats(robust_scale(band), r_peaks).windows
    for channel in (0, 1):
        np.testing.assert_allclose(
            measure_qrs_hz(windows[:, :, channel]),
            oracle_quality.measure_qrs_hz(windows[:, :, channel]),
            rtol=1e-6,
        )


def test_kernels_keep_nothing_that_threads_could_share() -> None:
    signals = [_case(name).signal for name in ("ten seconds", "noise", "paced", "walk")] * 8
    alone = [prepare_beats(signal, fs=360.0) for signal in signals]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda signal: prepare_beats(signal, fs=360.0), signals))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.r_peaks, other.r_peaks)
        np.testing.assert_array_equal(one.windows, other.windows)
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.beat_quality, other.beat_quality)


def test_windows_that_are_too_short_to_measure_are_refused() -> None:
    assert measure_qrs_hz(np.ones((1, 72))).tolist() == [0.0]
    with pytest.raises(ValueError, match="at least 72 samples, got 71"):
        measure_qrs_hz(np.ones((1, 71)))
    assert measure_qrs_width(np.ones((1, 124))).shape == (1,)
    with pytest.raises(ValueError, match="at least 124 samples, got 123"):
        measure_qrs_width(np.ones((1, 123)))


@pytest.mark.parametrize("n_spectra", [1, 4, 9, 48, 49])
def test_lines_are_those_of_numpy(n_spectra: int) -> None:
    n_samples = 720 * (n_spectra + 1)
    hum = np.sin(2 * np.pi * 71.0 * np.arange(n_samples) / 360.0)
    signal, window = np.random.default_rng(0).standard_normal(n_samples) + hum, np.hanning(1440)
    starts, parts = 720 * np.arange(n_spectra), np.empty((n_spectra, 1440))
    run_kernel("cut_parts", signal, starts, n_spectra, window, 1440, parts)
    cut = np.lib.stride_tricks.sliding_window_view(signal, 1440)[starts]
    np.testing.assert_allclose(parts, (cut - cut.mean(axis=1, keepdims=True)) * window, atol=1e-12)
    spectra = np.fft.rfft(parts)
    power = np.median(np.abs(spectra) ** 2, axis=0)
    places, ratios = np.empty(300, dtype=np.int64), np.empty(300)
    shape, bounds = spectra.shape, (140, 440, 4, 24)
    count = run_kernel("find_lines", spectra.view(np.float64), *shape, *bounds, 0.9, places, ratios)
    expected = oracle_quality.find_lines(power, *bounds)
    assert places[:count].tolist() == list(expected)
    np.testing.assert_allclose(ratios[:count], list(expected.values()), rtol=1e-6)


@pytest.mark.data
@pytest.mark.parametrize("name", ["106", "119", "207", "208", "223"])
def test_beats_of_records_are_those_of_numpy(mitdb_dir: Path, name: str) -> None:
    signal = read_wfdb(mitdb_dir / name).signal_mv()[: 360 * 300].astype(np.float64)
    candidates, envelopes = find_candidates(signal, config=CONFIG)
    expected, expected_envelopes = oracle_detection.find_candidates(signal, CONFIG)
    np.testing.assert_array_equal(candidates.position, expected.position)
    by_rules = oracle_detection.accept_by_rules(expected, config=CONFIG)
    np.testing.assert_array_equal(accept_by_rules(candidates, config=CONFIG), by_rules)
    np.testing.assert_allclose(
        measure_candidates(candidates, envelopes, by_rules).features,
        oracle_candidates.measure_candidates(expected, expected_envelopes, by_rules),
        atol=1e-6,
    )
    band = band_pass(signal, low_hz=0.5, high_hz=40.0)
    _compare_beats(robust_scale(band), detect_r_peaks(signal))
