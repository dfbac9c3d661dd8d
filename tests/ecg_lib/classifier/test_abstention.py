"""Which detections have no class, and what that does to times, seconds and results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from ecg_lib.classifier.abstention import AbstentionConfig, abstain, are_credible
from ecg_lib.classifier.beat_classifier import BeatClassifier, require_readable
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import UnreadableSignalError
from ecg_lib.recordings.long_recordings import classify_recording
from ecg_lib.recordings.summary import describe_summary, summarize_recording
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.movement import simulate_movement
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.preprocessing import PreparedBeats, prepare_beats
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason

NO_LIMIT = AbstentionConfig()


def _credible(logits: list[float], **limits: float) -> list[bool]:
    return are_credible(np.array(logits), config=replace(NO_LIMIT, **limits)).tolist()


# The limits.


@pytest.mark.parametrize(("logit", "is_read"), [(-1.01, False), (-1.0, True), (-0.99, True)])
def test_a_detection_needs_the_least_logit(logit: float, *, is_read: bool) -> None:
    assert _credible([9.0, 9.0, logit, 9.0, 9.0], min_beat_logit=-1.0) == [
        True,
        True,
        is_read,
        True,
        True,
    ]


@pytest.mark.parametrize(("limit", "is_read"), [(2.4, True), (2.41, False)])
def test_five_detections_speak_for_the_one_in_the_middle(limit: float, *, is_read: bool) -> None:
    """Their mean is (0 + 4 + 4 + 4 + 0) / 5, as no logit counts for more than 4."""
    found = _credible([0.0, 50.0, 4.0, 50.0, 0.0, 0.0], min_neighbourhood_logit=limit)
    assert found[2] is is_read


def test_a_very_bad_neighbour_counts_as_minus_4_and_no_less() -> None:
    logits = [4.0, 4.0, 4.0, -900.0, 4.0]  # mean 2.4 in the middle
    assert _credible(logits, min_neighbourhood_logit=2.4)[2]
    assert not _credible(logits, min_neighbourhood_logit=2.41)[2]


def test_at_the_ends_the_outermost_stands_for_what_is_beyond() -> None:
    logits = [4.0, -1.0, -1.0, 9.0, 9.0, 9.0]  # (3 * 4 - 1 - 1) / 5 = 2 at the first
    assert _credible(logits, min_neighbourhood_logit=2.0)[0]
    assert not _credible(logits, min_neighbourhood_logit=2.01)[0]


def test_without_limits_everything_is_read() -> None:
    assert all(_credible([-19.9, -4.0, 3.0, -19.9]))
    assert _credible([]) == []
    assert (NO_LIMIT.min_beat_logit, NO_LIMIT.min_neighbourhood_logit) == (-20.0, -20.0)


# The effect on a signal.


@pytest.fixture(scope="module")
def record() -> Record:
    return simulate_strip(StripKind.NORMAL, seed=2, duration_s=20.0)


@pytest.fixture(scope="module")
def prepared(record: Record) -> PreparedBeats:
    return prepare_beats(record.signal_mv(), fs=record.fs)


def _doubt(prepared: PreparedBeats, *beats: int, reach_s: float = 0.5) -> PreparedBeats:
    logits = np.full(len(prepared), 5.0)
    logits[list(beats)] = -5.0
    config = AbstentionConfig(min_beat_logit=0.0, reach_s=reach_s)
    return abstain(prepared, logits, config=config)


def test_what_is_credible_stays_the_same_object(prepared: PreparedBeats) -> None:
    assert _doubt(prepared) is prepared


def test_a_doubted_detection_is_noise_half_way_to_its_neighbours(prepared: PreparedBeats) -> None:
    read = _doubt(prepared, 6)
    peaks = prepared.r_peaks
    assert read.beat_quality.tolist() == [
        "noise" if index == 6 else "ok" for index in range(len(prepared))
    ]
    (stretch,) = read.unreadable
    assert stretch.reason is UnreadableReason.NOISE
    assert stretch.start == pytest.approx((peaks[5] + peaks[6]) / 2, abs=1)
    assert stretch.stop == pytest.approx((peaks[6] + peaks[7]) / 2, abs=1)
    assert read.unreadable_s == pytest.approx((stretch.stop - stretch.start) / 360)
    assert read.readable_s == pytest.approx(20.0 - read.unreadable_s)
    assert prepared.unreadable == ()  # the given object is not changed
    assert set(prepared.beat_quality) == {"ok"}


@pytest.mark.parametrize("reach_s", [0.1, 0.25])
def test_it_makes_no_more_than_its_reach_unreadable(
    prepared: PreparedBeats, reach_s: float
) -> None:
    (stretch,) = _doubt(prepared, 6, reach_s=reach_s).unreadable
    assert stretch.start == pytest.approx(prepared.r_peaks[6] - 360 * reach_s, abs=1)
    assert stretch.stop == pytest.approx(prepared.r_peaks[6] + 360 * reach_s, abs=1)


def test_neighbours_in_doubt_are_one_stretch_and_others_two(prepared: PreparedBeats) -> None:
    assert len(_doubt(prepared, 5, 6, 7).unreadable) == 1
    assert len(_doubt(prepared, 5, 9).unreadable) == 2


def test_the_first_and_the_last_detection_reach_to_the_ends_at_most(
    prepared: PreparedBeats,
) -> None:
    read = _doubt(prepared, 0, len(prepared) - 1, reach_s=100.0)
    first, last = read.unreadable
    assert (first.start, last.stop) == (0, 7200)


def test_seconds_whose_middle_cannot_be_read_have_no_quality(prepared: PreparedBeats) -> None:
    read = _doubt(prepared, *range(5, 10))
    (stretch,) = read.unreadable
    middles = (np.arange(20) + 0.5) * 360
    lost = (middles >= stretch.start) & (middles < stretch.stop)
    assert 2 <= lost.sum() <= 6
    assert (read.quality_per_second[lost] == 0).all()
    np.testing.assert_array_equal(
        read.quality_per_second[~lost], prepared.quality_per_second[~lost]
    )
    assert (prepared.quality_per_second > 0).all()


def test_time_that_was_unreadable_before_is_not_counted_twice(prepared: PreparedBeats) -> None:
    peak = int(prepared.r_peaks[6])
    gap = Stretch(peak - 360, peak, UnreadableReason.FLAT)
    known = replace(prepared, unreadable=(gap,), unreadable_s=1.0)
    read = _doubt(known, 6, reach_s=0.25)
    assert read.unreadable == (gap, Stretch(peak, peak + 90, UnreadableReason.NOISE))
    assert read.unreadable_s == pytest.approx(1.0 + 90 / 360)


def test_noise_beside_noise_becomes_one_stretch(prepared: PreparedBeats) -> None:
    peak = int(prepared.r_peaks[6])
    known = replace(
        prepared,
        unreadable=(Stretch(peak - 360, peak, UnreadableReason.NOISE),),
        unreadable_s=1.0,
    )
    read = _doubt(known, 6, reach_s=0.25)
    assert read.unreadable == (Stretch(peak - 360, peak + 90, UnreadableReason.NOISE),)


def test_what_has_no_class_already_is_not_doubted(prepared: PreparedBeats) -> None:
    quality = prepared.beat_quality.copy()
    quality[6] = "paced"
    known = replace(prepared, beat_quality=quality)
    assert _doubt(known, 6) is known


# The classifier: the toy network doubts detections with noise of a quarter of a QRS complex around.


@pytest.fixture(scope="module")
def doubting(make_toy_bundle: Callable[..., Bundle]) -> BeatClassifier:
    bundle = make_toy_bundle("doubting", abstention=AbstentionConfig(min_beat_logit=2.0))
    return BeatClassifier.load(bundle)


@pytest.fixture(scope="module")
def trusting(toy_bundle: Bundle) -> BeatClassifier:
    return BeatClassifier.load(toy_bundle)


def _shaken(record: Record, *, first_s: float, last_s: float) -> NDArray[np.float64]:
    """Move the electrodes during a part of a strip."""
    signal = record.signal_mv().astype(np.float64)
    times = np.arange(len(signal)) / record.fs
    size_mv = 0.6 * float(np.ptp(signal))
    moved = simulate_movement(
        len(signal), fs=record.fs, rms_mv=size_mv, rng=np.random.default_rng(1)
    )
    return signal + np.where((times >= first_s) & (times < last_s), moved, 0.0)


def test_doubted_detections_have_no_class_and_the_others_keep_theirs(
    doubting: BeatClassifier, trusting: BeatClassifier
) -> None:
    strip = simulate_strip(StripKind.ISOLATED_PVC, seed=3, duration_s=30.0)
    signal = _shaken(strip, first_s=10.0, last_s=16.0)
    guessed, read = (one.classify(signal, fs=strip.fs) for one in (trusting, doubting))
    np.testing.assert_array_equal(read.r_peaks, guessed.r_peaks)
    times_s = read.r_peaks / strip.fs
    is_moved = (times_s > 10) & (times_s < 16)
    is_calm = (times_s < 9) | (times_s > 17)
    assert guessed.is_v[is_moved].sum() >= 8
    assert not read.is_v[is_moved].any()
    assert not read.has_class[is_moved].any()
    assert (read.rule[is_moved] == "").all()
    assert read.has_class[is_calm].all()
    np.testing.assert_array_equal(read.is_v[is_calm], guessed.is_v[is_calm])
    assert guessed.is_v[is_calm].sum() == 3
    assert 5 <= read.prepared.unreadable_s <= 8


def test_guesses_in_movement_count_in_no_burden_run_or_alarm(
    doubting: BeatClassifier, trusting: BeatClassifier
) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=3, duration_s=60.0)
    signal = _shaken(strip, first_s=20.0, last_s=30.0)
    guessed, read = (
        summarize_recording(
            classify_recording(signal, fs=strip.fs, classifier=one), lead="MLII", leads=("MLII",)
        )
        for one in (trusting, doubting)
    )
    assert guessed.rhythm.runs
    assert guessed.rhythm.burden > 0.1
    assert guessed.risk.level == "HIGH"
    assert (read.rhythm.v_beats, read.rhythm.burden, read.rhythm.couplets) == (0, 0.0, 0)
    assert (read.rhythm.runs, read.rhythm.r_on_t_s, read.rhythm.patterns) == ((), (), ())
    assert read.risk.level == "LOW"
    assert 8 <= read.beats.unreadable_s <= 13
    told = describe_summary(read, model={}, analysed_at="2026-01-01")
    assert told["signal_quality"]["usable_share"] == pytest.approx(1 - read.beats.unreadable_s / 60)
    assert told["unreadable_beats"] == int((~read.beats.is_readable).sum()) >= 15
    assert told["total_beats_detected"] == len(read.beats)


def test_little_that_is_left_to_read_is_refused(doubting: BeatClassifier) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=3, duration_s=10.0)
    calm, shaken = (_shaken(strip, first_s=2.0, last_s=last_s) for last_s in (2.0, 10.0))
    require_readable(doubting.classify(calm, fs=strip.fs).prepared)
    with pytest.raises(UnreadableSignalError, match="signal is noise in which no ECG can be found"):
        require_readable(doubting.classify(shaken, fs=strip.fs).prepared)


@pytest.mark.parametrize(("beat_logit", "logit"), [(-21.0, -4.0), (-19.0, 0.8)])
def test_doubted_detections_have_no_vote_on_the_others(
    toy_bundle: Bundle, record: Record, beat_logit: float, logit: float
) -> None:
    """Every second beat says V with a logit of 8, and all are of one shape.

    With a vote they draw the others to 0.2 * -4 + 0.8 * (8 - 4) / 2; the limit is -20.
    """

    class Alternating(BeatClassifier):
        def predict_logits(
            self, windows: NDArray[np.float32], features: NDArray[np.float32]
        ) -> NDArray[np.float64]:
            del features
            is_odd = np.arange(len(windows)) % 2 == 1
            return np.stack(
                [np.where(is_odd, 8.0, -4.0), np.where(is_odd, beat_logit, 5.0)], axis=1
            )

    found = Alternating.load(toy_bundle).classify(record.signal_mv(), fs=record.fs)
    assert found.is_readable[::2].all()
    assert set(found.is_readable[1::2]) == {beat_logit > -20}
    voted = np.log(found.probability_v / (1 - found.probability_v))[::2]
    np.testing.assert_allclose(voted, logit, atol=0.5 if logit > 0 else 1e-9)


@pytest.mark.parametrize("n_beats", [0, 1, 2, 4, 5, 30])
def test_the_neighbourhood_is_the_mean_of_five_detections_as_scipy_has_it(n_beats: int) -> None:
    logits = np.random.default_rng(n_beats).normal(0.0, 4.0, n_beats)
    around = ndimage.uniform_filter1d(logits.clip(-4, 4), 5, mode="nearest")
    for limit in (-2.0, -0.3, 0.4, 1.7):
        found = _credible(logits.tolist(), min_neighbourhood_logit=limit)
        assert found == ((logits >= -20) & (around >= limit)).tolist()
