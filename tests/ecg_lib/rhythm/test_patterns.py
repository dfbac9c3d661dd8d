"""Rhythm of sequences that are written down, and of simulated patients."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from ecg_lib.rhythm.description import describe_beat_counts, describe_pattern, describe_run
from ecg_lib.rhythm.patterns import PatternKind, RhythmSummary, RunKind, summarize_rhythm
from ecg_lib.rhythm.risk import assess_risk
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason


def _summarize(
    beats: str, *, rr_s: float = 0.8, times_s: list[float] | None = None
) -> RhythmSummary:
    """Sum up calls.

    ``?`` is an unreadable detection, ``P`` a paced beat, ``v`` a V beat that only a rule calls V.
    """
    times = np.array(times_s) if times_s is not None else np.arange(len(beats)) * rr_s
    return summarize_rhythm(
        np.rint(times * 1000).astype(np.int64),
        is_v=np.array([beat in "Vv" for beat in beats], dtype=np.bool_),
        is_readable=np.array([beat != "?" for beat in beats], dtype=np.bool_),
        fs=1000.0,
        is_paced=np.array([beat == "P" for beat in beats], dtype=np.bool_),
        is_credible=np.array([beat == "V" for beat in beats], dtype=np.bool_),
    )


@pytest.mark.parametrize(
    ("beats", "isolated", "couplets", "runs"),
    [
        ("NNNN", 0, 0, []),
        ("NVNN", 1, 0, []),
        ("NVVN", 0, 1, []),
        ("NVVVN", 0, 0, [3]),
        ("VVVVV", 0, 0, [5]),
        ("VNVVNVVVNV", 2, 1, [3]),
        ("NV?VN", 2, 0, []),  # what cannot be read parts what is beside it
        ("VV?VV", 0, 2, []),
        # A run of three needs three credible beats, a couplet two.
        ("NvN", 1, 0, []),
        ("NVvN", 2, 0, []),
        ("NvvvN", 0, 0, []),
        ("NVVvN", 1, 1, []),
        ("NvVVN", 1, 1, []),
        ("NVvVN", 0, 0, []),
        ("NVVVvN", 1, 0, [3]),
        ("NVVVvVVVVN", 1, 0, [3, 4]),
    ],
)
def test_v_beats_are_grouped(beats: str, isolated: int, couplets: int, runs: list[int]) -> None:
    rhythm = _summarize(beats)
    assert (rhythm.isolated, rhythm.couplets) == (isolated, couplets)
    assert [run.beats for run in rhythm.runs] == runs


@pytest.mark.parametrize(
    ("beats", "doubtful"),
    [
        ("NvvN", []),
        ("NvvvN", [3]),
        ("NVvVvN", [4]),
        ("NVVvN", []),  # its couplet is reported
        ("NVVVN", []),
        ("NVVvvvN", [3]),  # what is left of the row
        ("NVVVvVvvN", [4]),
        ("Nvv?vvvvN", [4]),
        ("NvvNvN", []),
    ],
)
def test_other_rows_of_v_beats_are_doubtful_runs(beats: str, doubtful: list[int]) -> None:
    rhythm = _summarize(beats)
    assert [run.beats for run in rhythm.doubtful_runs] == doubtful


@pytest.mark.parametrize(
    ("beats", "v_beats", "level"),
    [
        ("NNvNN", 1, "MEDIUM"),
        ("NNvvN", 2, "MEDIUM"),
        ("NVvvN", 3, "MEDIUM"),
        ("NVVvN", 3, "HIGH"),
        ("NV?VN", 2, "MEDIUM"),
        ("N?VVN", 2, "HIGH"),
    ],
)
def test_only_credible_beats_alarm_but_all_count_in_the_burden(
    beats: str, v_beats: int, level: str
) -> None:
    rhythm = _summarize(beats)
    assert rhythm.v_beats == v_beats
    assert rhythm.burden == v_beats / (len(beats) - beats.count("?"))
    assert assess_risk(rhythm, duration_s=10.0, readable_s=10.0).level == level


@pytest.mark.parametrize(("call", "candidates"), [("V", (2.3,)), ("v", ())])
def test_only_a_credible_beat_is_an_r_on_t_candidate(
    call: str, candidates: tuple[float, ...]
) -> None:
    rhythm = _summarize(f"NNN{call}NN", times_s=[0, 1, 2, 2.3, 3.3, 4.3])
    assert rhythm.r_on_t_s == candidates
    assert rhythm.v_beats == 1


@settings(max_examples=60, deadline=None)
@given(beats=st.text(alphabet="NVv?P", min_size=1, max_size=40))
def test_each_v_beat_is_isolated_or_in_one_couplet_or_run(beats: str) -> None:
    rhythm = _summarize(beats)
    in_runs = sum(run.beats for run in [*rhythm.runs, *rhythm.doubtful_runs])
    assert rhythm.isolated + 2 * rhythm.couplets + in_runs == rhythm.v_beats


def test_without_a_word_on_it_every_beat_is_credible() -> None:
    rhythm = summarize_rhythm(
        np.arange(5) * 800,
        is_v=np.array([False, True, True, True, False]),
        is_readable=np.ones(5, dtype=np.bool_),
        fs=1000.0,
    )
    assert [run.beats for run in rhythm.runs] == [3]


@pytest.mark.parametrize(
    ("beats", "bigeminy", "trigeminy"),
    [
        ("NVNVNV", 3, 0),
        ("NVNV", 0, 0),
        ("NNVNVNVN", 3, 0),
        ("NNVNNVNNV", 0, 3),
        ("NNVNNV", 0, 0),
        ("NVNVNVNVNVNNVNNVNNV", 5, 3),
        ("NV?NVNV", 0, 0),
        ("NNNN", 0, 0),
    ],
)
def test_patterns_need_three_cycles(beats: str, bigeminy: int, trigeminy: int) -> None:
    rhythm = _summarize(beats)
    assert (rhythm.bigeminy_beats, rhythm.trigeminy_beats) == (bigeminy, trigeminy)


def test_the_burden_is_the_share_of_readable_beats() -> None:
    rhythm = _summarize("NNVN??N???")
    assert (rhythm.beats, rhythm.v_beats, rhythm.burden) == (5, 1, 0.2)


def test_a_v_beat_that_cannot_be_read_does_not_count() -> None:
    rhythm = summarize_rhythm(
        np.array([0, 800]),
        is_v=np.array([True, False]),
        is_readable=np.array([False, True]),
        fs=1000.0,
    )
    assert (rhythm.beats, rhythm.v_beats, rhythm.burden, rhythm.isolated) == (1, 0, 0.0, 0)


@pytest.mark.parametrize("rr_s", [0.5, 1.0, 1.5])
def test_a_steady_rhythm_has_one_rate(rr_s: float) -> None:
    rhythm = _summarize("N" * 20, rr_s=rr_s)
    for rate in (rhythm.heart_rate_bpm, rhythm.heart_rate_min_bpm, rhythm.heart_rate_max_bpm):
        assert rate == pytest.approx(60 / rr_s)
    assert rhythm.longest_rr_s == pytest.approx(rr_s)


def test_one_early_beat_does_not_make_a_heart_rate() -> None:
    times = [*np.arange(10) * 1.0, *(9.4 + np.arange(10) * 1.0)]
    rhythm = _summarize("N" * 20, times_s=times)
    assert rhythm.heart_rate_bpm == pytest.approx(60)
    assert rhythm.heart_rate_max_bpm == pytest.approx(60 / (7.4 / 8))


def test_slow_and_fast_stretches_are_minimum_and_maximum() -> None:
    times = np.cumsum([1.2] * 12 + [0.5] * 12).tolist()
    rhythm = _summarize("N" * 24, times_s=times)
    assert rhythm.heart_rate_min_bpm == pytest.approx(50)
    assert rhythm.heart_rate_max_bpm == pytest.approx(120)


@pytest.mark.parametrize("beats", ["", "N", "?", "??"])
def test_there_is_no_rate_without_two_readable_beats(beats: str) -> None:
    rhythm = _summarize(beats)
    assert rhythm.heart_rate_bpm is None
    assert rhythm.heart_rate_min_bpm is None
    assert rhythm.heart_rate_max_bpm is None
    assert rhythm.longest_rr_s is None
    assert rhythm.burden == 0


def test_a_run_has_its_start_and_its_rate() -> None:
    rhythm = _summarize("NNVVVVN", times_s=[0, 1, 1.5, 1.9, 2.3, 2.7, 4])
    (run,) = rhythm.runs
    assert (run.first_beat, run.beats, run.start_s) == (2, 4, 1.5)
    assert run.rate_bpm == pytest.approx(150)


def test_a_gap_of_more_than_three_seconds_parts_beats() -> None:
    rhythm = _summarize("NVVN", times_s=[0.0, 1.0, 4.1, 5.0])
    assert (rhythm.isolated, rhythm.couplets) == (2, 0)
    assert rhythm.longest_rr_s == pytest.approx(3.1)
    assert rhythm.longest_rr_s == rhythm.pauses[0].duration_s
    near = _summarize("NVVN", times_s=[0.0, 1.0, 4.0, 5.0])
    assert (near.isolated, near.couplets) == (0, 1)


@pytest.mark.parametrize(("coupling_s", "r_on_t"), [(0.30, 1), (0.33, 1), (0.35, 0), (0.6, 0)])
def test_a_v_beat_on_the_t_wave_is_a_candidate(coupling_s: float, r_on_t: int) -> None:
    """At one beat a second Bazett's QT is 0.4 s, and the limit 0.34 s."""
    times = [0.0, 1.0, 2.0, 2.0 + coupling_s, 4.0, 5.0, 6.0]
    assert _summarize("NNNVNNN", times_s=times).r_on_t == r_on_t
    assert _summarize("NNVVNNN", times_s=times).r_on_t == 0  # after another V beat it is a couplet


@pytest.mark.parametrize(("coupling_s", "r_on_t"), [(0.339, 1), (0.34, 0)])
def test_a_v_beat_at_the_limit_of_the_t_wave_is_not_on_it(coupling_s: float, r_on_t: int) -> None:
    assert _summarize("NVNNNN", times_s=[0.0, coupling_s, 2.0, 3.0, 4.0, 5.0]).r_on_t == r_on_t


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (StripKind.NORMAL, (0, 0, [])),
        (StripKind.COUPLET, (0, 1, [])),
        (StripKind.RUN, (0, 0, [5])),
        (StripKind.ISOLATED_PVC, (1, 0, [])),
    ],
)
def test_strips_have_the_rhythm_that_they_show(
    kind: StripKind, expected: tuple[int, int, list[int]]
) -> None:
    for seed in range(5):
        record = simulate_strip(kind, seed=seed)
        assert record.annotations is not None
        rhythm = summarize_rhythm(
            record.annotations.beat_samples,
            is_v=record.annotations.beat_classes == "V",
            is_readable=np.ones(len(record.annotations.beat_samples), dtype=np.bool_),
            fs=record.fs,
        )
        runs = [run.beats for run in rhythm.runs]
        assert (rhythm.isolated, rhythm.couplets, runs) == expected
        assert rhythm.heart_rate_bpm is not None
        assert 55 <= rhythm.heart_rate_bpm <= 90


@settings(max_examples=200, deadline=None)
@given(beats=st.text("NV?", max_size=60))
def test_every_readable_v_beat_is_in_one_group(beats: str) -> None:
    rhythm = _summarize(beats)
    in_runs = sum(run.beats for run in rhythm.runs)
    assert rhythm.isolated + 2 * rhythm.couplets + in_runs == rhythm.v_beats == beats.count("V")
    assert rhythm.beats == len(beats.replace("?", ""))
    assert rhythm.bigeminy_beats + rhythm.trigeminy_beats <= rhythm.v_beats


@pytest.mark.parametrize(
    ("rr_s", "n_beats", "kind"),
    [
        (0.4, 5, RunKind.NSVT),
        (0.6, 3, RunKind.NSVT),
        (0.61, 3, RunKind.AIVR),
        (1.2, 4, RunKind.AIVR),
        (1.25, 4, RunKind.ESCAPE),
        (0.4, 76, RunKind.SUSTAINED_VT),
        (0.4, 75, RunKind.NSVT),
    ],
)
def test_a_run_is_named_by_its_rate_and_length(rr_s: float, n_beats: int, kind: RunKind) -> None:
    (run,) = _summarize("NN" + "V" * n_beats + "NN", rr_s=rr_s).runs
    assert run.kind is kind
    assert run.duration_s == pytest.approx((n_beats - 1) * rr_s)


def test_couplets_and_patterns_have_their_times() -> None:
    rhythm = _summarize("NVVNNNVNVNVNNNVNNVNNVN", rr_s=1.0)
    assert rhythm.couplet_starts_s == (1.0,)
    bigeminy, trigeminy = rhythm.patterns
    assert (bigeminy.kind, bigeminy.start_s, bigeminy.stop_s) == (PatternKind.BIGEMINY, 6, 10)
    assert (trigeminy.kind, trigeminy.start_s, trigeminy.v_beats) == (PatternKind.TRIGEMINY, 14, 3)


def test_pauses_are_found_unless_something_in_them_cannot_be_read() -> None:
    times_s = [0, 1, 3.5, 4.5, 8, 9]
    rhythm = _summarize("NVNNNN", times_s=times_s)
    assert [(p.start_s, p.duration_s, p.follows_v) for p in rhythm.pauses] == [
        (1.0, 2.5, True),
        (4.5, 3.5, False),
    ]
    assert rhythm.long_pauses == 1
    assert rhythm.longest_rr_s == 3.5
    dark = summarize_rhythm(
        np.rint(np.array(times_s) * 1000).astype(np.int64),
        is_v=np.zeros(6, dtype=np.bool_),
        is_readable=np.ones(6, dtype=np.bool_),
        fs=1000.0,
        unreadable=[Stretch(5000, 7000, UnreadableReason.FLAT)],
    )
    assert [pause.start_s for pause in dark.pauses] == [1.0]
    assert dark.longest_rr_s == 2.5
    assert _summarize("NN?N", times_s=[0, 1, 3.5, 6]).pauses == ()
    assert _summarize("NN", times_s=[0, 2.0]).pauses == ()


@pytest.mark.parametrize(
    ("rr_s", "pauses", "long_pauses"),
    [(2.0, 0, 0), (2.001, 1, 0), (3.0, 1, 0), (3.001, 1, 1)],
)
def test_an_interval_above_two_seconds_is_a_pause_and_above_three_a_long_one(
    rr_s: float, pauses: int, long_pauses: int
) -> None:
    rhythm = _summarize("NNNN", times_s=[0, 1, 1 + rr_s, 2 + rr_s])
    assert (len(rhythm.pauses), rhythm.long_pauses) == (pauses, long_pauses)
    assert rhythm.longest_rr_s == pytest.approx(rr_s)


def test_a_pause_after_an_unreadable_stretch_is_found() -> None:
    rhythm = summarize_rhythm(
        np.array([0, 800, 1600, 5000, 7500, 8300]),
        is_v=np.zeros(6, dtype=np.bool_),
        is_readable=np.ones(6, dtype=np.bool_),
        fs=1000.0,
        unreadable=[Stretch(2000, 4800, UnreadableReason.NOISE)],
    )
    assert [(pause.start_s, pause.duration_s) for pause in rhythm.pauses] == [(5.0, 2.5)]
    assert rhythm.longest_rr_s == 2.5


def test_the_mean_rate_is_that_of_the_mean_interval_and_the_usual_rate_of_the_median() -> None:
    rhythm = _summarize("NNNNN", times_s=[0, 0.5, 1.5, 2.5, 4.5])
    assert rhythm.heart_rate_mean_bpm == pytest.approx(60 / 1.125)
    assert rhythm.heart_rate_bpm == pytest.approx(60.0)


def test_the_range_of_rates_holds_the_mean_rate() -> None:
    """Nine intervals of bigeminy: eight in a row average 0.675 s, all nine 0.65 s."""
    times_s = np.cumsum([0, *([0.45, 0.9] * 4), 0.45]).tolist()
    rhythm = _summarize("NVNVNVNVNV", times_s=times_s)
    assert rhythm.heart_rate_mean_bpm == pytest.approx(60 / 0.65)
    assert rhythm.heart_rate_max_bpm == pytest.approx(60 / 0.65)
    assert rhythm.heart_rate_min_bpm == pytest.approx(60 / 0.675)


def test_the_coupling_of_three_v_beats_is_their_median_and_quartiles() -> None:
    rhythm = _summarize("NVNVNV", times_s=[0, 0.4, 2, 2.5, 4, 4.8])
    assert rhythm.coupling is not None
    assert rhythm.coupling == pytest.approx((0.5, 0.2, 0.4))


def test_v_beats_are_counted_by_the_readable_hour() -> None:
    rhythm = _summarize("NVVN")
    assert rhythm.v_per_hour(1800.0) == 4.0
    assert rhythm.v_per_hour(7200.0) == 1.0
    assert rhythm.v_per_hour(0.5) == 14_400.0
    assert rhythm.v_per_hour(0.0) == 0.0


def test_a_stretch_that_cannot_be_read_parts_beats_as_a_beat_does() -> None:
    times_s = np.array([0, 0.8, 1.6, 2.1, 5.0, 5.9, 6.7, 7.5])
    is_v = np.array([False, False, False, True, True, False, False, False])

    def summarize(*unreadable_ms: tuple[int, int]) -> RhythmSummary:
        return summarize_rhythm(
            np.rint(times_s * 1000).astype(np.int64),
            is_v=is_v,
            is_readable=np.ones(8, dtype=np.bool_),
            fs=1000.0,
            unreadable=[
                Stretch(start, stop, UnreadableReason.NOISE) for start, stop in unreadable_ms
            ],
        )

    whole = summarize()
    assert (whole.couplets, whole.longest_rr_s) == (1, pytest.approx(2.9))
    for stretch in ((2400, 4800), (2100, 2101), (4999, 5000), (1800, 5400)):
        dark = summarize((50, 100), stretch)
        assert (dark.couplets, dark.isolated, dark.pauses) == (0, 2, ())
        assert dark.longest_rr_s == pytest.approx(0.9, abs=0.11)
    assert summarize((2050, 2100), (5001, 5002)).couplets == 1


def test_coupling_is_measured_from_conducted_beats_alone() -> None:
    rhythm = _summarize("NVNVVNV", times_s=[0, 0.5, 2, 2.6, 3, 5, 5.7])
    assert rhythm.coupling is not None
    assert rhythm.coupling.median_s == pytest.approx(0.6)
    assert rhythm.coupling.shortest_s == pytest.approx(0.5)
    assert _summarize("NNNVVV").coupling is not None
    assert _summarize("VVV").coupling is None


def test_paced_beats_are_beats_but_not_conducted_ones() -> None:
    times_s = [0, 0.8, 1.6, 2.1, 3.0, 3.7]
    paced = _summarize("PPPVNV", times_s=times_s)
    assert (paced.beats, paced.v_beats, paced.burden) == (6, 2, 2 / 6)
    assert paced.heart_rate_bpm == _summarize("NNNVNV", times_s=times_s).heart_rate_bpm
    assert paced.coupling is not None
    assert paced.coupling.shortest_s == pytest.approx(0.7)
    assert _summarize("PVPV").coupling is None
    assert _summarize("PVPVPV").patterns == _summarize("PPVPPVPPV").patterns == ()
    assert _summarize("NVNVNV").bigeminy_beats == 3


def test_three_beats_are_enough_for_an_r_on_t_candidate() -> None:
    # The usual interval is the middle of 0.3 s and 1.9 s: 1.1 s, with a QT of 0.42 s.
    assert _summarize("NVN", times_s=[0.0, 0.3, 2.2]).r_on_t == 1
    assert _summarize("NV", times_s=[0.0, 0.3]).r_on_t == 0


def test_two_beats_alone_have_a_heart_rate() -> None:
    assert _summarize("NN", times_s=[0.0, 0.8]).heart_rate_bpm == pytest.approx(75)
    assert _summarize("N", times_s=[0.0]).heart_rate_bpm is None


def test_the_usual_interval_of_r_on_t_is_that_of_its_minute() -> None:
    """Of a fast and a slow hour, only the V beat of the slow one is early for its rate."""
    slow, fast = [1.2] * 200, [0.5] * 800
    times = np.cumsum([*slow, 0.34, 2.0, *slow, *fast, 0.34, 0.66, *fast])
    beats = "N" * 200 + "V" + "N" * 1001 + "V" + "N" * 801
    rhythm = _summarize(beats, times_s=times.tolist())
    assert rhythm.r_on_t_s == pytest.approx((times[200],), abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_simulated_patient_has_the_couplets_and_runs_of_the_truth(seed: int) -> None:
    record = simulate_record("sim", patient=draw_patient(seed), duration_s=600.0, seed=seed)
    assert record.annotations is not None
    classes = "".join(record.annotations.beat_classes)
    groups = [len(group) for group in re.findall("V+", classes)]
    rhythm = summarize_rhythm(
        record.annotations.beat_samples,
        is_v=record.annotations.beat_classes == "V",
        is_readable=np.ones(len(classes), dtype=np.bool_),
        fs=record.fs,
    )
    assert rhythm.couplets == groups.count(2) == len(rhythm.couplet_starts_s)
    assert [run.beats for run in rhythm.runs] == [size for size in groups if size > 2]


def test_a_couplet_and_a_pattern_are_described_for_json() -> None:
    rhythm = _summarize("NVVVNVNVNVN", rr_s=0.5)
    (run,) = rhythm.runs
    assert describe_run(run) == {
        "first_beat": 1,
        "beats": 3,
        "start_s": 0.5,
        "rate_bpm": 120.0,
        "duration_s": 1.0,
        "kind": "nsvt",
    }
    assert [describe_pattern(pattern) for pattern in rhythm.patterns] == [
        {"kind": "bigeminy", "start_s": 2.5, "stop_s": 4.5, "v_beats": 3}
    ]
    assert describe_beat_counts(rhythm, detected=14, paced=2) == {
        "total_beats_detected": 14,
        "normal_beats": 3,
        "ventricular_beats": 6,
        "paced_beats": 2,
        "unreadable_beats": 3,
    }
