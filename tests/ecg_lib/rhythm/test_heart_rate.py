"""Hours, minutes and variability, against rhythms that are written down and simulated ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.rhythm.heart_rate import (
    Hour,
    describe_hours,
    heart_rate_by_minute,
    measure_variability,
)
from ecg_lib.rhythm.patterns import summarize_rhythm
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason

FS = 1000.0


def _beats(times_s: NDArray[np.float64], v_at: tuple[int, ...] = ()) -> dict[str, NDArray]:
    is_v = np.zeros(len(times_s), dtype=np.bool_)
    is_v[list(v_at)] = True
    return {
        "r_peaks": np.rint(times_s * FS).astype(np.int64),
        "is_v": is_v,
        "is_readable": np.ones(len(times_s), dtype=np.bool_),
    }


def _hours(beats: dict[str, NDArray], duration_s: float, *unreadable: Stretch) -> tuple[Hour, ...]:
    return describe_hours(
        **beats,
        fs=FS,
        duration_s=duration_s,
        rhythm=summarize_rhythm(**beats, fs=FS),
        unreadable=unreadable,
    )


def test_an_interval_across_what_cannot_be_read_is_none() -> None:
    times_s = np.delete(np.arange(0.5, 600.0, 0.9), 300)
    beats = _beats(times_s)
    gap = np.flatnonzero(np.diff(times_s) > 1)
    samples = beats["r_peaks"][gap[0] : gap[0] + 2]
    dark = (Stretch(int(samples[0]) + 300, int(samples[1]) - 300, UnreadableReason.NOISE),)
    (seen,), (hidden,) = _hours(beats, 600.0), _hours(beats, 600.0, *dark)
    assert seen.heart_rate_mean_bpm == pytest.approx(60 / 0.9 * 665 / 666)
    assert hidden.heart_rate_mean_bpm == pytest.approx(60 / 0.9)
    found = [measure_variability(**beats, fs=FS, unreadable=one) for one in ((), dark)]
    assert [one.nn_share for one in found] == [664 / 665, 1.0]
    few = {"r_peaks": beats["r_peaks"][:11], "is_readable": beats["is_readable"][:11]}
    for unreadable, is_known in (((), True), ((Stretch(600, 700, UnreadableReason.FLAT),), False)):
        (rate,) = heart_rate_by_minute(**few, fs=FS, duration_s=60.0, unreadable=unreadable)
        assert np.isfinite(rate) == is_known


def test_each_hour_counts_its_own_beats() -> None:
    times_s = np.arange(0.5, 5400.0, 1.0)
    beats = _beats(times_s, v_at=(10, 11, 4000))
    first, second = _hours(
        beats,
        5400.0,
        Stretch(100_000, 200_000, UnreadableReason.FLUTTER),
        Stretch(3_590_000, 3_620_000, UnreadableReason.FLAT),
    )
    assert (first.beats, first.v_beats, first.couplets, first.runs) == (3600, 2, 1, 0)
    assert (second.beats, second.v_beats, second.couplets) == (1800, 1, 0)
    assert (first.duration_s, second.duration_s) == (3600.0, 1800.0)
    assert (first.readable_s, second.readable_s) == (3590.0, 1780.0)
    assert first.burden == pytest.approx(2 / 3600)
    assert first.heart_rate_mean_bpm == pytest.approx(60.0)
    assert (second.heart_rate_min_bpm, second.heart_rate_max_bpm) == (60.0, 60.0)


def test_the_range_of_the_whole_is_the_range_of_its_hours() -> None:
    rng = np.random.default_rng(2)
    rr_s = np.concatenate(
        [
            rng.uniform(0.4, 1.5, 6000),
            np.full(9, 0.35),
            rng.uniform(0.6, 1.0, 4000),
            np.full(8, 1.9),
        ]
    )
    times_s = np.cumsum(rr_s)
    beats, duration_s = _beats(times_s), float(times_s[-1] + 1)
    gap = Stretch(2_000_000, 2_010_000, UnreadableReason.FLAT)
    whole = summarize_rhythm(**beats, fs=FS, unreadable=(gap,))
    hours = describe_hours(**beats, fs=FS, duration_s=duration_s, rhythm=whole, unreadable=(gap,))
    assert len(hours) == 3
    assert whole.heart_rate_max_bpm is not None
    assert whole.heart_rate_max_bpm > 60 / 0.4
    assert min(hour.heart_rate_min_bpm or 999 for hour in hours) == whole.heart_rate_min_bpm
    assert max(hour.heart_rate_max_bpm or 0 for hour in hours) == whole.heart_rate_max_bpm
    means = [hour.heart_rate_mean_bpm or 0 for hour in hours]
    assert whole.heart_rate_mean_bpm is not None
    assert min(means) <= whole.heart_rate_mean_bpm <= max(means)


def test_an_hour_without_beats_has_no_rate_and_no_burden() -> None:
    beats = _beats(np.arange(0.5, 100.0, 1.0))
    hours = _hours(beats, 7000.0)
    assert (hours[1].beats, hours[1].burden, hours[1].heart_rate_mean_bpm) == (0, None, None)


def test_the_heart_rate_follows_the_minutes() -> None:
    times_s = np.concatenate([np.arange(0, 60, 1.0), np.arange(60, 120, 0.5), [130.0]])
    beats = _beats(times_s)
    rates = heart_rate_by_minute(
        beats["r_peaks"], is_readable=beats["is_readable"], fs=FS, duration_s=180.0
    )
    assert rates[:2].tolist() == [60.0, 120.0]
    assert np.isnan(rates[2])


def _variability(times_s: NDArray[np.float64], v_at: tuple[int, ...] = ()) -> tuple[float, float]:
    found = measure_variability(**_beats(times_s, v_at), fs=FS)
    assert found.is_valid
    assert found.sdnn_ms is not None
    assert found.rmssd_ms is not None
    return found.sdnn_ms, found.rmssd_ms


def test_sdnn_and_rmssd_are_those_of_the_definition() -> None:
    rr_s = 0.8 + 0.05 * np.sin(np.arange(600) / 3.0)
    sdnn, rmssd = _variability(np.cumsum(rr_s))
    assert sdnn == pytest.approx(rr_s[1:].std(ddof=1) * 1e3, rel=0.02)
    assert rmssd == pytest.approx(np.sqrt(np.mean(np.diff(rr_s[1:]) ** 2)) * 1e3, rel=0.03)


def test_v_beats_and_their_pauses_do_not_count() -> None:
    rr_s = 0.8 + 0.02 * np.sin(np.arange(600) / 3.0)
    without = _variability(np.cumsum(rr_s))
    with_v = rr_s.copy()
    with_v[100::20] *= 0.6
    with_v[101::20] *= 1.4
    found = _variability(np.cumsum(with_v), v_at=tuple(range(100, 600, 20)))
    assert found == pytest.approx(without, rel=0.05)


def test_the_interval_after_the_pause_of_a_v_beat_does_not_count() -> None:
    times_s = np.arange(600) * 0.8
    found = measure_variability(**_beats(times_s, v_at=(100, 300, 301)), fs=FS)
    assert found.nn_intervals == 599 - 3 - 4
    rr_s = np.full(599, 0.8)
    rr_s[101] = 0.8 * 0.9  # turbulence after the pause, within 20 %
    found = measure_variability(**_beats(np.cumsum([0, *rr_s]), v_at=(100,)), fs=FS)
    assert found.sdnn_ms == pytest.approx(0.0, abs=1e-6)


def test_paced_beats_are_not_normal_beats() -> None:
    rr_s = 0.8 + 0.02 * np.sin(np.arange(900) / 3.0)
    beats = _beats(np.cumsum(rr_s))
    is_paced = np.arange(900) < 60
    found = measure_variability(**beats, fs=FS, is_paced=is_paced)
    assert found.nn_intervals == 899 - 60 - 1
    assert found.nn_share == pytest.approx(838 / 899)
    half = measure_variability(**beats, fs=FS, is_paced=np.arange(900) < 450)
    assert (half.is_valid, half.sdnn_ms) == (False, None)


def test_an_early_beat_that_is_called_n_does_not_count() -> None:
    rr_s = 0.8 + 0.02 * np.sin(np.arange(600) / 3.0)
    early = rr_s.copy()
    early[100::50] *= 0.7
    found = _variability(np.cumsum(early))
    assert found == pytest.approx(_variability(np.cumsum(rr_s)), rel=0.05)


@pytest.mark.parametrize(
    ("times_s", "v_at"),
    [
        (np.arange(0, 299.0, 1.0), ()),  # too short
        (np.arange(0, 500.0, 1.0), tuple(range(0, 500, 3))),  # too many V beats
        (np.zeros(0), ()),
        (np.array([1.0]), ()),
    ],
)
def test_too_little_gives_no_figure(times_s: NDArray[np.float64], v_at: tuple[int, ...]) -> None:
    found = measure_variability(**_beats(times_s, v_at), fs=FS)
    assert (found.is_valid, found.sdnn_ms, found.rmssd_ms) == (False, None, None)


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_a_simulated_patient_varies_as_the_truth_does(seed: int) -> None:
    record = simulate_record("sim", patient=draw_patient(seed), duration_s=900.0, seed=seed)
    assert record.annotations is not None
    samples, classes = record.annotations.beat_samples, record.annotations.beat_classes
    is_n = np.isin(classes, ["N"])
    rr_s = np.diff(samples / record.fs)
    is_nn = is_n[1:] & is_n[:-1]
    # The interval after an ectopic beat is a pause: it begins with that beat and is none of these.
    found = measure_variability(
        samples, is_v=classes == "V", is_readable=np.ones(len(samples), np.bool_), fs=record.fs
    )
    if found.is_valid:
        assert found.sdnn_ms == pytest.approx(rr_s[is_nn].std(ddof=1) * 1e3, rel=0.15)
    else:
        assert found.nn_share < 0.8


def _rates(times_s: NDArray[np.float64], duration_s: float) -> list[float]:
    beats = _beats(times_s)
    return heart_rate_by_minute(
        beats["r_peaks"], is_readable=beats["is_readable"], fs=FS, duration_s=duration_s
    ).tolist()


@pytest.mark.parametrize(("n_intervals", "is_known"), [(9, False), (10, True)])
def test_a_minute_needs_ten_intervals(n_intervals: int, *, is_known: bool) -> None:
    (rate,) = _rates(np.arange(n_intervals + 1) * 1.0, 60.0)
    assert np.isfinite(rate) == is_known


def test_a_minute_has_the_rate_of_its_median_interval() -> None:
    times_s = np.cumsum([0.0, *([0.5] * 6), *([1.0] * 5)])
    assert _rates(times_s, 60.0) == [pytest.approx(120.0)]


@pytest.mark.parametrize(
    ("duration_s", "n_minutes"), [(0.5, 1), (60.0, 1), (60.1, 2), (120.0, 2), (121.0, 3)]
)
def test_a_minute_begun_is_a_minute(duration_s: float, n_minutes: int) -> None:
    assert len(_rates(np.zeros(0), duration_s)) == n_minutes


def test_an_interval_counts_in_the_minute_in_which_it_ends() -> None:
    times_s = np.concatenate([np.arange(50.0, 59.5, 1.0), np.arange(60.0, 70.5, 1.0)])
    rates = _rates(times_s, 120.0)
    assert np.isnan(rates[0])
    assert rates[1] == 60.0
    to_the_end = _rates(np.arange(50.0, 61.0, 1.0), 60.0)
    assert to_the_end == [60.0]


@pytest.mark.parametrize(("gap_s", "is_counted"), [(3.0, True), (3.001, False)])
def test_an_interval_above_three_seconds_is_a_gap(gap_s: float, *, is_counted: bool) -> None:
    times_s = np.cumsum([0.5, *([1.0] * 20), gap_s, *([1.0] * 20)])
    (hour,) = _hours(_beats(times_s), 60.0)
    mean_s = (40 + gap_s) / 41 if is_counted else 1.0
    assert hour.heart_rate_mean_bpm == pytest.approx(60 / mean_s)


def test_the_first_and_the_last_intervals_belong_to_their_hour() -> None:
    """Each hour begins with eight fast intervals and ends with eight slow ones."""
    rr_s = np.array([*[0.3] * 8, *[60 / 70] * 3000, *[2.0] * 8])
    rr_s *= 3600.0 / rr_s.sum()
    beats = _beats(np.cumsum([0.001, *rr_s, *rr_s]))
    hours = describe_hours(
        **beats, fs=FS, duration_s=7200.0, rhythm=summarize_rhythm(**beats, fs=FS)
    )
    fastest, slowest = 60 / rr_s[0], 60 / rr_s[-1]
    for hour in hours:
        assert hour.heart_rate_max_bpm == pytest.approx(fastest, rel=0.01)
        assert hour.heart_rate_min_bpm == pytest.approx(slowest, rel=0.01)


def test_an_hour_has_the_range_of_its_own_rates() -> None:
    """A pause of 20 s parts an hour at 60/min and an hour at 120/min."""
    times_s = np.concatenate([np.arange(0.0, 3590.5, 1.0), np.arange(3610.0, 7200.0, 0.5)])
    first, second, empty = _hours(_beats(times_s), 7201.0)
    assert (first.heart_rate_min_bpm, first.heart_rate_max_bpm) == pytest.approx((60.0, 60.0))
    assert (second.heart_rate_min_bpm, second.heart_rate_max_bpm) == pytest.approx((120.0, 120.0))
    assert (empty.heart_rate_min_bpm, empty.heart_rate_max_bpm) == (None, None)


@pytest.mark.parametrize("times_s", [[], [0.5], [0.5, 4.0]])
def test_an_hour_without_two_beats_in_a_row_has_no_range(times_s: list[float]) -> None:
    (hour,) = _hours(_beats(np.array(times_s)), 10.0)
    assert (hour.heart_rate_min_bpm, hour.heart_rate_max_bpm) == (None, None)


def test_beats_couplets_and_runs_count_in_the_hour_in_which_they_begin() -> None:
    times_s = np.concatenate([np.arange(3590.0, 3600.0, 1.0), np.arange(3600.0, 3620.0, 1.0)])
    beats = _beats(times_s, v_at=(8, 9, 10, 12, 13))
    first, second = _hours(beats, 7200.0)
    assert (first.beats, first.v_beats, first.runs, first.couplets) == (10, 2, 1, 0)
    assert (second.beats, second.v_beats, second.runs, second.couplets) == (20, 3, 0, 1)
    assert (first.burden, second.burden) == (0.2, 0.15)
    assert (first.start_s, second.start_s) == (0.0, 3600.0)


def test_a_beat_at_the_very_end_counts_in_the_last_hour() -> None:
    beats = _beats(np.array([3598.0, 3599.0, 3600.0]), v_at=(1, 2))
    (hour,) = _hours(beats, 3600.0)
    assert (hour.beats, hour.v_beats, hour.couplets) == (3, 2, 1)
    late = _beats(np.array([3598.0, 3599.0, 3600.0, 3601.0]), v_at=(2, 3))
    (hour,) = _hours(late, 3600.0)
    assert (hour.beats, hour.couplets) == (4, 1)


def test_a_recording_without_length_has_one_hour() -> None:
    assert len(_hours(_beats(np.zeros(0)), 0.0)) == 1
    assert len(_hours(_beats(np.zeros(0)), 3600.0)) == 1
    assert len(_hours(_beats(np.zeros(0)), 3600.1)) == 2


def test_unreadable_beats_do_not_count_in_an_hour() -> None:
    beats = _beats(np.arange(0.5, 100.0, 1.0), v_at=(3, 50))
    beats["is_readable"][:20] = False
    (hour,) = _hours(beats, 100.0)
    assert (hour.beats, hour.v_beats) == (80, 1)
    assert hour.burden == 1 / 80


def test_what_is_lost_counts_in_each_hour_that_it_touches() -> None:
    lost = [
        Stretch(1_000_000, 1_010_000, UnreadableReason.NOISE),
        Stretch(3_590_000, 7_205_000, UnreadableReason.CLIPPED),
    ]
    hours = _hours(_beats(np.arange(0.5, 9000.0, 1.0)), 9000.0, *lost)
    assert [hour.readable_s for hour in hours] == [3580.0, 0.0, 1795.0]
    assert [hour.duration_s for hour in hours] == [3600.0, 3600.0, 1800.0]


def _regular(n: int, rr_s: float = 1.0) -> NDArray[np.float64]:
    """Intervals that alternate by 20 ms around one second, so that there is a variability."""
    return np.cumsum([0.0, *(rr_s + 0.01 * (-1.0) ** np.arange(n))])


@pytest.mark.parametrize(("n", "is_valid"), [(298, False), (300, True)])
def test_variability_needs_five_minutes_of_normal_intervals(n: int, *, is_valid: bool) -> None:
    found = measure_variability(**_beats(_regular(n)), fs=FS)
    assert found.nn_s == pytest.approx(n)
    assert found.nn_intervals == n
    assert found.is_valid is is_valid


@pytest.mark.parametrize(("n_paced", "is_valid"), [(200, True), (201, False)])
def test_variability_needs_four_fifths_of_the_intervals(n_paced: int, *, is_valid: bool) -> None:
    """The interval after those of the paced beats is left out too."""
    times_s = _regular(1000)
    found = measure_variability(**_beats(times_s), fs=FS, is_paced=np.arange(1001) < n_paced - 1)
    assert found.nn_intervals == 1000 - n_paced
    assert found.nn_share == pytest.approx(1 - n_paced / 1000)
    assert found.is_valid is is_valid


def test_sdnn_and_rmssd_have_the_values_of_the_definition() -> None:
    found = measure_variability(**_beats(_regular(400)), fs=FS)
    assert found.sdnn_ms == pytest.approx(10.0 * np.sqrt(400 / 399), rel=1e-6)
    assert found.rmssd_ms == pytest.approx(20.0, rel=1e-6)


@pytest.mark.parametrize(
    ("share", "is_normal"), [(1.199, True), (1.201, False), (0.801, True), (0.799, False)]
)
def test_an_interval_is_normal_within_a_fifth_of_its_neighbours(
    share: float, *, is_normal: bool
) -> None:
    rr_s = np.full(400, 1.0)
    rr_s[200] = share
    found = measure_variability(**_beats(np.cumsum([0.0, *rr_s])), fs=FS)
    assert found.nn_intervals == (400 if is_normal else 399)
    assert found.nn_share == pytest.approx(1.0 if is_normal else 399 / 400)


@pytest.mark.parametrize(("samples", "n_normal"), [(127, 399), (128, 400), (192, 400), (193, 399)])
def test_an_interval_that_differs_by_exactly_a_fifth_is_normal(samples: int, n_normal: int) -> None:
    """Beside 1.25 s, a fifth more is 1.5 s and a fifth less 1 s; at 128 Hz each is exact."""
    intervals = np.full(400, 160)
    intervals[200] = samples
    r_peaks = np.cumsum([0, *intervals])
    found = measure_variability(
        r_peaks, is_v=np.zeros(401, np.bool_), is_readable=np.ones(401, np.bool_), fs=128.0
    )
    assert found.nn_intervals == n_normal


@pytest.mark.parametrize(("n_slow", "n_normal"), [(5, 395), (6, 400)])
def test_the_usual_interval_is_the_median_of_eleven(n_slow: int, n_normal: int) -> None:
    """Five intervals of two seconds among those of one are unusual; six in a row are usual."""
    rr_s = np.full(400, 1.0)
    rr_s[200 : 200 + n_slow] = 2.0
    found = measure_variability(**_beats(np.cumsum([0.0, *rr_s])), fs=FS)
    assert found.nn_intervals == n_normal


def test_steps_are_taken_between_normal_intervals_in_a_row() -> None:
    rr_s = np.full(400, 1.0)
    rr_s[200] = 0.5
    rr_s[201:] = 1.1
    found = measure_variability(**_beats(np.cumsum([0.0, *rr_s])), fs=FS)
    assert found.nn_intervals == 399
    assert found.rmssd_ms == pytest.approx(0.0, abs=1e-6)


def test_a_recording_without_length_has_one_minute_and_no_share() -> None:
    assert np.isnan(_rates(np.zeros(0), 0.0)).tolist() == [True]
    assert measure_variability(**_beats(np.zeros(0)), fs=FS).nn_share == 0.0


@pytest.mark.parametrize(("n_in_a_row", "is_valid"), [(1, False), (2, True)])
def test_variability_needs_two_normal_intervals_in_a_row(
    n_in_a_row: int, *, is_valid: bool
) -> None:
    """Intervals of two seconds with gaps of four between them, and one pair at the end."""
    rr_s = [*([2.0, 4.0] * 200), *([2.0] * n_in_a_row)]
    found = measure_variability(**_beats(np.cumsum([0.0, *rr_s])), fs=FS)
    assert found.nn_intervals == 200 + n_in_a_row
    assert found.nn_share == 1.0
    assert found.is_valid is is_valid


def test_the_first_interval_has_only_itself_before_it() -> None:
    rr_s = np.full(400, 1.0)
    rr_s[0] = 2.0
    found = measure_variability(**_beats(np.cumsum([0.0, *rr_s])), fs=FS)
    assert found.nn_intervals == 400
