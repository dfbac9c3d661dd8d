"""The one signal path: what it refuses, what it never loses, and what must not matter to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import (
    InvalidSamplingRateError,
    InvalidSignalError,
    NonFiniteSignalError,
    SignalTooShortError,
)
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.preprocessing import PreparedBeats, PreprocessingConfig, prepare_beats
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.r_peaks.matching import match_beats
from ecg_lib.signal_path.readability.quality import QualityConfig, UnreadableReason
from ecg_lib.training.cross_validation import vote_out_of_fold
from ecg_lib.training.datasets import STRIPS_10_S, build_beats
from ecg_lib.training.views import WHOLE

RATES = [100.0, 250.0, 360.0, 500.0, 1000.0]


def _strip(kind: StripKind = StripKind.ISOLATED_PVC, *, seed: int = 1, fs: float = 360.0) -> Record:
    return simulate_strip(kind, seed=seed, duration_s=20.0, fs=fs)


def _prepare(record: Record) -> PreparedBeats:
    return prepare_beats(record.signal_mv(), fs=record.fs)


def _truth(record: Record) -> NDArray[np.int64]:
    assert record.annotations is not None
    return record.annotations.beat_samples


@pytest.mark.parametrize("fs", RATES)
@pytest.mark.parametrize("kind", [StripKind.NORMAL, StripKind.BIGEMINY, StripKind.RUN])
def test_r_peaks_are_in_samples_of_the_given_signal(kind: StripKind, fs: float) -> None:
    for seed in range(3):
        record = _strip(kind, seed=seed, fs=fs)
        found = _prepare(record).r_peaks
        assert len(found) == len(_truth(record))
        assert np.abs(found - _truth(record)).max() <= max(1, 0.005 * fs)


@pytest.mark.parametrize("fs", RATES)
def test_the_sampling_rate_hardly_matters_to_the_features(fs: float) -> None:
    reference, other = _prepare(_strip()), _prepare(_strip(fs=fs))
    assert len(other) == len(reference)
    for name in ("qrs_similarity", "rr_prev_ratio", "rr_next_ratio"):
        column = FEATURE_NAMES.index(name)
        np.testing.assert_allclose(
            other.features[:, column], reference.features[:, column], atol=0.08
        )
    np.testing.assert_allclose(other.amplitude_mv, reference.amplitude_mv, rtol=0.05)
    np.testing.assert_allclose(other.rr_prev_s[1:], reference.rr_prev_s[1:], atol=0.012)
    assert other.duration_s == reference.duration_s == 20.0


@settings(max_examples=10, deadline=None)
@given(gain=st.floats(0.1, 10.0), sign=st.sampled_from([-1.0, 1.0]), offset=st.floats(-5, 5))
def test_gain_polarity_and_offset_do_not_matter(gain: float, sign: float, offset: float) -> None:
    record = _strip()
    signal = record.signal_mv().astype(np.float64)
    reference = prepare_beats(signal, fs=360.0)
    other = prepare_beats(sign * gain * signal + offset, fs=360.0)
    np.testing.assert_array_equal(other.r_peaks, reference.r_peaks)
    np.testing.assert_allclose(other.features, reference.features, atol=1e-4)
    np.testing.assert_allclose(sign * other.windows, reference.windows, atol=1e-4)
    np.testing.assert_allclose(other.amplitude_mv, gain * reference.amplitude_mv, rtol=1e-6)
    assert other.unreadable == reference.unreadable == ()


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(list(StripKind)),
    seed=st.integers(0, 50),
    fs=st.sampled_from([*RATES, 128.0, 257.0]),
)
def test_every_r_peak_gives_one_row(kind: StripKind, seed: int, fs: float) -> None:
    record = simulate_strip(kind, seed=seed, fs=fs)
    beats = _prepare(record)
    n_beats = len(beats)
    assert len(beats.r_peaks) == n_beats
    assert (np.diff(beats.r_peaks) > 0).all()
    assert ((beats.r_peaks >= 0) & (beats.r_peaks < len(record.signals_mv))).all()
    assert beats.windows.shape == (n_beats, 360, 2)
    assert beats.features.shape == (n_beats, len(FEATURE_NAMES))
    for column in (beats.rr_prev_s, beats.rr_next_s, beats.qrs_width_s, beats.amplitude_mv):
        assert column.shape == (n_beats,)
    assert beats.is_readable.shape == (n_beats,)
    assert np.isfinite(beats.features).all()
    assert np.isfinite(beats.windows).all()
    stops = [stop for _, stop, _ in beats.unreadable]
    assert all(stop <= len(record.signals_mv) for stop in stops)
    assert 0 <= beats.readable_s <= beats.duration_s


def test_given_r_peaks_are_used_as_they_are() -> None:
    record = _strip(fs=250.0)
    wanted = _truth(record)[::2]
    beats = prepare_beats(record.signal_mv(), fs=250.0, r_peaks=wanted)
    np.testing.assert_array_equal(beats.r_peaks, wanted)
    np.testing.assert_allclose(beats.rr_prev_s[1:], np.diff(wanted) / 250.0, atol=1 / 250)


def test_given_r_peaks_at_both_ends_are_kept() -> None:
    record = _strip(fs=1000.0)
    ends = np.array([0, len(record.signals_mv) - 1])
    beats = prepare_beats(record.signal_mv(), fs=1000.0, r_peaks=ends)
    assert beats.r_peaks.tolist() == ends.tolist()
    assert len(beats.features) == 2


def test_the_detectors_own_r_peaks_change_nothing() -> None:
    record = _strip()
    own = _prepare(record)
    again = prepare_beats(record.signal_mv(), fs=360.0, r_peaks=detect_r_peaks(record.signal_mv()))
    np.testing.assert_array_equal(again.features, own.features)
    np.testing.assert_array_equal(again.windows, own.windows)


def test_beats_in_an_unreadable_stretch_are_listed_and_marked() -> None:
    record = simulate_strip(StripKind.ISOLATED_PVC, seed=1, duration_s=60.0, fs=500.0)
    signal = record.signal_mv().copy()
    signal[10_000:20_000] = np.random.default_rng(1).standard_normal(10_000)
    beats = prepare_beats(signal, fs=500.0)
    assert {reason for _, _, reason in beats.unreadable} == {UnreadableReason.NOISE}
    inside = np.zeros(len(beats), dtype=np.bool_)
    for start, stop, _ in beats.unreadable:
        inside |= (beats.r_peaks >= start) & (beats.r_peaks < stop)
    assert inside.any()
    np.testing.assert_array_equal(beats.is_readable, ~inside)
    seconds = sum(stop - start for start, stop, _ in beats.unreadable) / 500
    assert beats.unreadable_s == pytest.approx(seconds, abs=0.01)
    assert beats.readable_s == pytest.approx(60 - seconds, abs=0.01)
    match = match_beats(_truth(record), beats.r_peaks, tolerance=75)
    outside = (_truth(record) < 8_000) | (_truth(record) > 22_000)
    assert (match.of_reference[outside] >= 0).all()


def test_the_limits_of_quality_come_from_the_configuration() -> None:
    signal = 0.004 * _strip().signal_mv()
    strict = PreprocessingConfig(quality=QualityConfig(flat_range_mv=0.5))
    lenient = PreprocessingConfig(quality=QualityConfig(flat_range_mv=0.0))
    assert prepare_beats(signal, fs=360.0, config=strict).readable_s == 0
    assert prepare_beats(signal, fs=360.0, config=lenient).unreadable == ()


@pytest.mark.parametrize("n_samples", [0, 1, 719])
def test_a_signal_below_two_seconds_is_refused(n_samples: int) -> None:
    with pytest.raises(SignalTooShortError, match=r"at least 2 s, got \d\.\d\d s"):
        prepare_beats(np.zeros(n_samples), fs=360.0)


def test_two_seconds_are_enough() -> None:
    beats = prepare_beats(_strip().signal_mv()[:720], fs=360.0)
    assert 1 <= len(beats) <= 4


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_a_signal_with_an_infinite_sample_is_refused(value: float) -> None:
    signal = _strip().signal_mv().copy()
    signal[100] = value
    with pytest.raises(NonFiniteSignalError, match="got 1 of 7200"):
        prepare_beats(signal, fs=360.0)


def test_missing_samples_are_a_stretch_and_no_beat_of_their_own() -> None:
    signal = _strip().signal_mv().copy()
    whole = prepare_beats(signal, fs=360.0)
    signal[2000:2720] = np.nan
    parted = prepare_beats(signal, fs=360.0)
    assert [tuple(stretch) for stretch in parted.unreadable] == [(2000, 2720, "missing")]
    assert (parted.missing_s, parted.unreadable_s) == (2.0, 2.0)
    assert not ((parted.r_peaks >= 2000) & (parted.r_peaks < 2720)).any()
    outside = whole.r_peaks[(whole.r_peaks < 1980) | (whole.r_peaks >= 2740)]
    assert set(outside.tolist()) <= set(parted.r_peaks.tolist())
    first = int(np.searchsorted(parted.r_peaks, 2720))
    assert np.isnan(parted.rr_prev_s[first])
    assert np.isnan(parted.rr_next_s[first - 1])
    assert parted.findings == ()


@pytest.mark.parametrize("seed", [1, 2, 4])
@pytest.mark.parametrize("after_s", [-0.04, 0.06, 0.12])
def test_waves_beside_a_gap_that_hides_their_qrs_complex_are_not_beats(
    seed: int, after_s: float
) -> None:
    record = simulate_strip(StripKind.NORMAL, seed=seed, duration_s=60.0, fs=250.0)
    peaks = _truth(record)
    signal = record.signal_mv().copy()
    for peak in peaks[5::6].tolist():  # each gap ends between the QRS complex and its T wave
        stop = peak + round(after_s * 250)
        signal[max(0, stop - 50) : stop] = np.nan
    for peak in peaks[8::6].tolist():  # each gap begins between the P wave and its QRS complex
        signal[peak - 10 : peak + 40] = np.nan
    found = prepare_beats(signal, fs=250.0).r_peaks
    far = [int(np.abs(peaks - one).min()) for one in found.tolist()]
    assert max(far) <= 13, "a detection is 0.05 s and more from every beat"
    hidden = np.isnan(signal[np.clip(peaks[:, None] + np.arange(-13, 14), 0, len(signal) - 1)])
    assert len(found) >= int((~hidden.any(axis=1)).sum())


def test_a_t_wave_after_four_seconds_that_are_missing_is_not_a_beat() -> None:
    record = simulate_strip(StripKind.NORMAL, seed=4, duration_s=60.0, fs=250.0)
    signal = record.signal_mv().copy()
    signal[11997:12997] = np.nan
    found = prepare_beats(signal, fs=250.0).r_peaks
    assert not ((found > 12997) & (found < 13100)).any(), "the T wave is at 13038"


@pytest.mark.parametrize(("count", "is_gap"), [(14, False), (15, True)])
def test_gaps_of_up_to_40_ms_are_read_across(count: int, *, is_gap: bool) -> None:
    signal = _strip().signal_mv().copy()
    signal[2000 : 2000 + count] = np.nan
    assert bool(prepare_beats(signal, fs=360.0).unreadable) == is_gap


def test_a_signal_that_is_missing_altogether_has_no_beats() -> None:
    prepared = prepare_beats(np.full(7200, np.nan), fs=360.0)
    assert len(prepared) == 0
    assert prepared.missing_s == 20.0


@pytest.mark.parametrize("fs", [0.0, 99.0, 1001.0, float("nan")])
def test_a_sampling_rate_out_of_range_is_refused(fs: float) -> None:
    with pytest.raises(InvalidSamplingRateError):
        prepare_beats(np.zeros(7200), fs=fs)


def test_a_signal_of_several_leads_is_refused() -> None:
    with pytest.raises(InvalidSignalError, match=r"one lead, got shape \(7200, 2\)"):
        prepare_beats(_strip().signals_mv, fs=360.0)


def test_beats_do_not_depend_on_the_measures_of_plausibility() -> None:
    record = _strip()
    measured = _prepare(record)
    alone = prepare_beats(record.signal_mv(), fs=record.fs, measures_plausibility=False)
    of_plausibility = ("amplitude_mv", "qrs_hz", "t_peak_s", "stray_line_hz", "deflection")
    for name in PreparedBeats.__dataclass_fields__:
        one, other = getattr(measured, name), getattr(alone, name)
        if name in of_plausibility:
            assert np.isnan(other).all()
            assert other.shape == one.shape
        elif name == "shapes":
            assert all((a.sameness == b.sameness).all() for a, b in zip(one, other, strict=True))
        else:
            np.testing.assert_array_equal(one, other)


def test_training_and_serving_see_the_same_arrays_and_probabilities(toy_bundle: Bundle) -> None:
    """The invariant of the signal path: from raw samples, by the dataset and by the classifier."""
    classifier = BeatClassifier.load(toy_bundle)
    record = simulate_strip(StripKind.COUPLET, seed=7, duration_s=30.0)
    length = round(10 * record.fs)
    dataset = build_beats(
        record, scoring_views=[WHOLE, STRIPS_10_S], training_views=[], conducted_share=1.0
    )
    served = [
        (start, classifier.classify(record.signal_mv()[start : start + length], fs=record.fs))
        for start in range(0, len(record.signals_mv), length)
    ]
    rows = dataset.rows_of(view=STRIPS_10_S)
    np.testing.assert_array_equal(
        dataset.position[rows], np.concatenate([start + beats.r_peaks for start, beats in served])
    )
    for name in ("windows", "features"):
        np.testing.assert_array_equal(
            getattr(dataset, name)[rows],
            np.concatenate([getattr(beats.prepared, name) for _, beats in served]),
        )
    logits = vote_out_of_fold(
        dataset,
        rows,
        classifier.predict_logits(dataset.windows[rows], dataset.features[rows])[:, 0],
    )
    np.testing.assert_allclose(
        classifier.config.calibration.probabilities(logits),
        np.concatenate([beats.probability_v for _, beats in served]),
        atol=1e-6,
    )
