"""Flutter, standstill and pacing: made by hand, and counted in the MIT-BIH records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.records.annotations import DS1, PACED
from ecg_lib.records.record import read_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.readability.asystole import AsystoleConfig, find_asystole
from ecg_lib.signal_path.readability.findings import (
    BEAT_QUALITIES,
    Finding,
    FindingKind,
    FindingsConfig,
    Judgement,
    _part_quiet,
    are_paced,
    are_readable,
    have_class,
    judge_signal,
    list_alarms,
)
from ecg_lib.signal_path.readability.pacing import PacingConfig
from ecg_lib.signal_path.readability.plausibility import list_doubts
from ecg_lib.signal_path.readability.quality import (
    QualityConfig,
    UnreadableReason,
    assess_quality,
    measure_rail_share,
    measure_slope_energy,
)

FS = 360
PacedMaker = Callable[[float], NDArray[np.float64]]


def _judge(signal: NDArray[np.float64]) -> Judgement:
    return judge_signal(signal, detect_r_peaks(signal))


def _clean(duration_s: float = 40.0, kind: StripKind = StripKind.NORMAL) -> NDArray[np.float64]:
    return simulate_strip(kind, seed=4, duration_s=duration_s).signal_mv().astype(np.float64)


def _flutter(duration_s: float, rate_hz: float = 4.5, seed: int = 0) -> NDArray[np.float64]:
    """Waves whose rate and height wander."""
    rng = np.random.default_rng(seed)
    n = round(duration_s * FS)
    wander = np.convolve(rng.standard_normal(n + 2 * FS), np.ones(2 * FS) / (2 * FS), "valid")[:n]
    phase = 2 * np.pi * np.cumsum(rate_hz * (1 + wander)) / FS
    return np.asarray((1 + 4 * wander) * np.sin(phase) + 0.01 * rng.standard_normal(n))


def _pulse_waves(
    rate: float, *, width_s: float = 0.07, duration_s: float = 30.0
) -> NDArray[np.float64]:
    """Pulse waves with a second, lower one 0.3 s later, as of a pleth or of arterial pressure."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(duration_s * FS)) / FS
    beats_s = np.cumsum(60 / rate * (1 + 0.03 * rng.standard_normal(round(duration_s * rate / 60))))
    signal = 0.003 * rng.standard_normal(len(time_s))
    for beat_s in beats_s:
        signal += np.exp(-(((time_s - beat_s) / width_s) ** 2) / 2)
        signal += 0.45 * np.exp(-(((time_s - beat_s - 0.3) / (1.3 * width_s)) ** 2) / 2)
    return signal


@pytest.mark.parametrize("rate", [75, 80, 90, 100, 110, 130])
@pytest.mark.parametrize("width_s", [0.05, 0.06, 0.07])
def test_pulse_waves_are_not_flutter(rate: float, width_s: float) -> None:
    findings = _judge(_pulse_waves(rate, width_s=width_s)).findings
    assert FindingKind.FLUTTER not in {finding.kind for finding in findings}


@pytest.mark.parametrize(("rate", "width_s"), [(55, 0.08), (75, 0.05)])
def test_pulse_waves_that_have_beats_may_not_be_an_ecg(rate: float, width_s: float) -> None:
    prepared = prepare_beats(_pulse_waves(rate, width_s=width_s), fs=FS)
    (doubt,) = list_doubts(prepared, what="samples")
    assert doubt.endswith("check the rate of the recording, and that the signal is an ECG")


def _still(duration_s: float, *, start_mv: float, stop_mv: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    n = round(duration_s * FS)
    return np.asarray(np.linspace(start_mv, stop_mv, n) + 0.01 * rng.standard_normal(n))


@pytest.mark.parametrize("kind", [kind for kind in StripKind if kind not in {
    StripKind.FLAT, StripKind.NOISE_ONLY, StripKind.SATURATED
}])  # fmt: skip
def test_nothing_is_suspected_where_there_are_beats(kind: StripKind) -> None:
    for seed in range(5):
        strip = simulate_strip(kind, seed=seed)
        prepared = prepare_beats(strip.signal_mv(), fs=strip.fs)
        assert prepared.findings == ()


@pytest.mark.parametrize("rate_hz", [3.5, 4.5, 6.0])
def test_flutter_is_found_where_it_is_and_its_waves_have_no_class(rate_hz: float) -> None:
    signal = _clean()
    signal[15 * FS : 25 * FS] = _flutter(10.0, rate_hz)
    judged = _judge(signal)
    (finding,) = (f for f in judged.findings if f.kind is FindingKind.FLUTTER)
    assert abs(finding.start - 15 * FS) <= 1.6 * FS
    assert abs(finding.stop - 25 * FS) <= 1.6 * FS
    assert [s.reason for s in judged.unreadable].count(UnreadableReason.FLUTTER) == 1
    r_peaks = detect_r_peaks(signal)
    inside = (r_peaks > finding.start) & (r_peaks < finding.stop)
    assert inside.any()
    assert set(judged.beat_quality[inside]) == {"flutter"}
    assert set(judged.beat_quality[~inside]) <= {"ok", "noise"}


def test_a_strip_of_nothing_but_flutter_is_flutter_and_not_noise() -> None:
    judged = _judge(_flutter(10.0))
    assert {stretch.reason for stretch in judged.unreadable} == {UnreadableReason.FLUTTER}


@pytest.mark.parametrize("gain", [0.2, 5.0, -1.0])
def test_gain_and_polarity_change_no_finding(gain: float, make_paced: PacedMaker) -> None:
    for signal in (_flutter(12.0), make_paced(30.0)):
        kinds = [finding.kind for finding in _judge(signal).findings]
        assert [finding.kind for finding in _judge(gain * signal).findings] == kinds
        assert len(kinds) == 1


@pytest.mark.parametrize("seconds", [5, 10, 25])
def test_a_quiet_line_is_a_standstill_whose_detections_have_no_class(seconds: int) -> None:
    signal = _clean(duration_s=60.0)
    part = slice(20 * FS, (20 + seconds) * FS)
    signal[part] = _still(seconds, start_mv=signal[part][0], stop_mv=signal[part][-1])
    judged = _judge(signal)
    (finding,) = judged.findings
    assert finding.kind is FindingKind.ASYSTOLE
    assert finding.start <= 20.5 * FS
    assert finding.stop >= (19.5 + seconds) * FS
    r_peaks = detect_r_peaks(signal)
    inside = (r_peaks > 20.5 * FS) & (r_peaks < (19.5 + seconds) * FS)
    assert not (judged.beat_quality[inside] == "ok").any()
    assert not any(s.start < 24 * FS and s.stop > 21 * FS for s in judged.unreadable)


def test_a_line_that_does_not_move_is_an_electrode_and_no_standstill() -> None:
    signal = _clean(duration_s=60.0)
    signal[20 * FS : 30 * FS] = signal[20 * FS]
    judged = _judge(signal)
    assert not any(finding.kind is FindingKind.ASYSTOLE for finding in judged.findings)
    assert UnreadableReason.FLAT in {stretch.reason for stretch in judged.unreadable}


def test_a_line_that_drifts_far_is_an_electrode_and_no_standstill() -> None:
    signal = _clean(duration_s=60.0)
    settling = 5.0 * np.exp(-np.arange(6 * FS) / (2 * FS))
    signal[20 * FS : 26 * FS] = settling + _still(6, start_mv=0, stop_mv=0)
    judged = _judge(signal)
    assert not any(finding.kind is FindingKind.ASYSTOLE for finding in judged.findings)
    assert any(s.start < 25 * FS and s.stop > 21 * FS for s in judged.unreadable)


def test_paced_beats_have_no_class_and_are_readable(make_paced: PacedMaker) -> None:
    prepared = prepare_beats(make_paced(30.0), fs=FS)
    (finding,) = prepared.findings
    assert finding.kind is FindingKind.PACING
    assert prepared.is_paced.mean() > 0.8
    assert prepared.is_readable[prepared.is_paced].all()


def test_the_same_wide_complexes_without_spikes_are_not_paced(make_paced: PacedMaker) -> None:
    signal = make_paced(30.0)
    smooth = np.convolve(signal, np.hanning(31) / np.hanning(31).sum(), "same")
    assert not prepare_beats(smooth, fs=FS).is_paced.any()


def test_findings_are_given_in_samples_of_the_signal() -> None:
    signal = _flutter(10.0)
    halved = signal[::2]
    prepared = prepare_beats(halved, fs=FS / 2)
    (finding,) = prepared.findings
    assert finding.stop <= len(halved)
    assert finding.stop - finding.start > 0.8 * len(halved)
    assert prepared.flutter_s == pytest.approx(10.0, abs=1.5)
    assert prepared.unreadable_s < 2.0
    assert set(prepared.beat_quality) <= set(BEAT_QUALITIES)


def test_alarms_sum_up_flutter_and_asystole_but_not_pacing() -> None:
    findings = (
        Finding(FindingKind.FLUTTER, 0, 3600),
        Finding(FindingKind.PACING, 0, 3600),
        Finding(FindingKind.FLUTTER, 7200, 9000),
    )
    (alarm,) = list_alarms(findings, fs=360.0)
    assert alarm.startswith("ventricular flutter or fibrillation suspected")
    assert alarm.endswith("(15.0 s in 2 stretches)")


def test_every_second_has_a_quality_that_falls_with_noise() -> None:
    clean = _clean(duration_s=30.5)
    noise = np.random.default_rng(0).standard_normal(len(clean))
    grades = []
    for level_mv in (0.0, 0.1, 0.3):
        signal = clean + level_mv * noise
        per_second = assess_quality(signal, detect_r_peaks(signal)).per_second
        assert per_second.shape == (31,)
        assert per_second.min() >= 0
        assert per_second.max() <= 1
        grades.append(per_second.mean())
    assert grades == sorted(grades, reverse=True)
    assert grades[0] > grades[-1] + 0.1


def test_seconds_that_cannot_be_read_are_0_and_those_without_beats_unknown() -> None:
    signal = _clean(duration_s=40.0)
    signal[10 * FS : 16 * FS] = 0.0
    signal[24 * FS : 34 * FS] = _flutter(10.0)
    per_second = _judge(signal).per_second
    assert (per_second[10:16] == 0).all()
    assert np.isnan(per_second[26:32]).all()
    assert (per_second[1:9] > 0.3).all()


@pytest.mark.data
def test_flutter_of_207_is_found_and_nothing_of_the_other_v_beats_is_lost(mitdb_dir: Path) -> None:
    """At writing 96.9 % of 143 s, 4.5 s more at their edges, and no V beat of 3,788."""
    record = read_wfdb(mitdb_dir / "207", with_annotations=True)
    annotations = record.annotations
    assert annotations is not None
    symbols = np.array(annotations.symbols)
    is_flutter = np.zeros(len(record.signals_mv), dtype=np.bool_)
    for start, stop in zip(
        annotations.samples[symbols == "["], annotations.samples[symbols == "]"], strict=True
    ):
        is_flutter[start:stop] = True
    is_found = np.zeros_like(is_flutter)
    judged = _judge(record.signal_mv().astype(np.float64))
    for kind, start, stop in judged.findings:
        assert kind is FindingKind.FLUTTER
        is_found[start:stop] = True
    assert (is_found & is_flutter).sum() / is_flutter.sum() > 0.93
    assert (is_found & ~is_flutter).sum() / FS < 8
    v_beats = annotations.samples[np.isin(symbols, ["V", "E"])]
    assert not is_found[v_beats].any()


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in DS1 if name != "207"])
def test_no_flutter_and_no_pacemaker_is_found_in_other_records(name: str, mitdb_dir: Path) -> None:
    signal = read_wfdb(mitdb_dir / name).signal_mv().astype(np.float64)
    for part in (signal, signal[: 10 * FS], signal[600 * FS : 610 * FS]):
        kinds = {finding.kind for finding in _judge(part).findings}
        assert kinds <= ({FindingKind.ASYSTOLE} if name in {"116", "201"} else set())


@pytest.mark.data
@pytest.mark.parametrize("name", PACED)
def test_pacemakers_are_found_and_no_v_beat_is_called_paced(name: str, mitdb_dir: Path) -> None:
    record = read_wfdb(mitdb_dir / name, with_annotations=True)
    signal = record.signal_mv().astype(np.float64)
    r_peaks = detect_r_peaks(signal)
    judged = judge_signal(signal, r_peaks)
    seconds = sum(f.stop - f.start for f in judged.findings if f.kind is FindingKind.PACING) / FS
    assert seconds > 1400
    paced = r_peaks[judged.beat_quality == "paced"]
    assert record.annotations is not None
    symbols = np.array(record.annotations.symbols)
    for v_beat in record.annotations.samples[np.isin(symbols, ["V", "E"])]:
        assert np.abs(paced - v_beat).min() > 54


def test_a_standstill_to_the_very_end_is_found_to_its_last_sample() -> None:
    signal = _clean(duration_s=20.0)
    signal[14 * FS :] = _still(6.0, start_mv=signal[14 * FS], stop_mv=signal[14 * FS])
    judged = _judge(signal)
    (finding,) = judged.findings
    assert finding.kind is FindingKind.ASYSTOLE
    assert 13.5 * FS <= finding.start <= 14.5 * FS
    assert finding.stop == len(signal)
    assert judged.unreadable == ()
    assert np.isnan(judged.per_second[15:]).all()
    assert np.isfinite(judged.per_second[:13]).all()


def test_a_standstill_from_the_very_beginning_is_found_from_its_first_sample() -> None:
    signal = _clean(duration_s=20.0)
    signal[: 6 * FS] = _still(6.0, start_mv=signal[6 * FS], stop_mv=signal[6 * FS])
    (finding,) = _judge(signal).findings
    assert (finding.kind, finding.start) == (FindingKind.ASYSTOLE, 0)
    assert 5.5 * FS <= finding.stop <= 6.5 * FS


def test_a_standstill_of_a_part_of_a_cell_ends_with_the_signal() -> None:
    signal = _clean(duration_s=20.0)[: 20 * FS - 7]
    signal[14 * FS :] = _still(6.0, start_mv=signal[14 * FS], stop_mv=signal[14 * FS])[:-7]
    (finding,) = _judge(signal).findings
    assert finding.stop == 20 * FS - 7


@pytest.mark.parametrize(("n_beats", "n_findings"), [(2, 0), (3, 1)])
def test_a_standstill_needs_three_beats_to_be_measured_by(n_beats: int, n_findings: int) -> None:
    signal = _clean(duration_s=20.0)
    r_peaks = detect_r_peaks(signal)
    end = int(r_peaks[n_beats - 1]) + FS // 2
    signal[end:] = _still((len(signal) - end) / FS, start_mv=signal[end], stop_mv=signal[end])
    energy = measure_slope_energy(signal)
    quiet = find_asystole(
        signal, r_peaks[:n_beats], energy=energy, is_readable=np.ones(n_beats, dtype=np.bool_)
    )
    assert len(quiet.asystole) == n_findings


@pytest.mark.parametrize(("seconds", "n_found"), [(2.9, 0), (3.1, 1)])
def test_a_standstill_lasts_three_seconds(seconds: float, n_found: int) -> None:
    """Bursts of slope energy around a line at rest of a length that is known to the sample."""
    n_quiet = round(seconds * FS)
    energy = np.concatenate([np.ones(5 * FS), np.zeros(n_quiet), np.ones(5 * FS)])
    signal = np.tile([0.0, 1.0], len(energy))[: len(energy)]
    signal[5 * FS : 5 * FS + n_quiet] = 0.0
    r_peaks = np.array([FS, 2 * FS, 3 * FS, 4 * FS])
    quiet = find_asystole(signal, r_peaks, energy=energy, is_readable=np.ones(4, dtype=np.bool_))
    assert len(quiet.asystole) == n_found
    if n_found:
        assert quiet.asystole == ((5 * FS, 5 * FS + n_quiet),)
        assert quiet.drifting == ()


@pytest.mark.parametrize(("span_mv", "is_at_rest"), [(0.74, True), (0.76, False)])
def test_a_line_at_rest_spans_at_most_three_quarters_of_a_complex(
    span_mv: float, *, is_at_rest: bool
) -> None:
    energy = np.concatenate([np.ones(5 * FS), np.zeros(4 * FS), np.ones(5 * FS)])
    signal = np.zeros(len(energy))
    r_peaks = np.array([FS, 2 * FS, 3 * FS, 4 * FS])
    signal[r_peaks] = 1.0
    signal[6 * FS] = span_mv
    quiet = find_asystole(signal, r_peaks, energy=energy, is_readable=np.ones(4, dtype=np.bool_))
    assert (len(quiet.asystole), len(quiet.drifting)) == ((1, 0) if is_at_rest else (0, 1))


@pytest.mark.parametrize(("share", "n_found"), [(0.119, 1), (0.121, 0)])
def test_a_line_is_quiet_below_an_eighth_of_the_energy_of_a_beat(
    share: float, n_found: int
) -> None:
    energy = np.concatenate([np.ones(5 * FS), np.full(4 * FS, share), np.ones(5 * FS)])
    r_peaks = np.array([FS, 2 * FS, 3 * FS, 4 * FS])
    signal = np.zeros(len(energy))
    signal[r_peaks] = 1.0
    quiet = find_asystole(signal, r_peaks, energy=energy, is_readable=np.ones(4, dtype=np.bool_))
    assert len(quiet.asystole) == n_found


def test_two_paced_stretches_are_two_findings(make_paced: PacedMaker) -> None:
    signal = np.concatenate([make_paced(20.0), _clean(duration_s=30.0), make_paced(20.0)])
    r_peaks = detect_r_peaks(signal)
    judged = judge_signal(signal, r_peaks)
    found = [finding for finding in judged.findings if finding.kind is FindingKind.PACING]
    assert len(found) == 2
    first, second = found
    assert first.stop <= 21 * FS
    assert second.start >= 49 * FS
    is_paced = judged.beat_quality == "paced"
    assert {first.start, first.stop - 1, second.start, second.stop - 1} <= set(r_peaks[is_paced])
    assert not is_paced[(r_peaks > 21 * FS) & (r_peaks < 49 * FS)].any()


def test_beats_of_each_quality_are_readable_paced_or_have_a_class() -> None:
    assert (
        *("ok", "flat", "clipped", "noise", "flutter"),
        *("missing", "asystole", "paced"),
    ) == BEAT_QUALITIES
    qualities = np.array(BEAT_QUALITIES)
    assert are_readable(qualities).tolist() == [True, *[False] * 6, True]
    assert are_paced(qualities).tolist() == [False] * 7 + [True]
    assert have_class(qualities).tolist() == [True, *[False] * 7]


def test_alarms_are_worded_with_their_seconds() -> None:
    assert list_alarms((), fs=100.0) == ()
    findings = (
        Finding(FindingKind.ASYSTOLE, 100, 450),
        Finding(FindingKind.FLUTTER, 500, 1750),
        Finding(FindingKind.ASYSTOLE, 2000, 2400),
    )
    assert list_alarms(findings, fs=100.0) == (
        "ventricular flutter or fibrillation suspected (12.5 s)",
        "no beat: asystole suspected, or an electrode that leads nothing (7.5 s in 2 stretches)",
    )


def _with_standstill(seconds: float = 6.0) -> NDArray[np.float64]:
    signal = _clean(duration_s=40.0)
    part = slice(20 * FS, round((20 + seconds) * FS))
    signal[part] = _still(seconds, start_mv=signal[part][0], stop_mv=signal[part][-1])
    return signal


def test_detections_in_a_standstill_have_its_quality_and_their_neighbours_do_not() -> None:
    signal = _with_standstill()
    (found,) = _judge(signal).findings
    # Detections on the grid of 0.1 s around both edges of the standstill.
    steps = 36 * np.arange(-3, 4)
    around = np.concatenate([found.start + steps, found.stop + steps])
    r_peaks = np.union1d(detect_r_peaks(signal), around)
    judged = judge_signal(signal, r_peaks)
    (finding,) = judged.findings
    assert {finding.start, finding.start - 36, finding.stop, finding.stop - 36} <= set(around)
    inside = (r_peaks >= finding.start) & (r_peaks < finding.stop)
    assert set(judged.beat_quality[inside]) == {"asystole"}
    assert set(judged.beat_quality[~inside]) == {"ok"}


def test_seconds_are_unknown_when_their_middle_is_in_a_standstill() -> None:
    judged = _judge(_with_standstill())
    (finding,) = judged.findings
    middles = np.arange(len(judged.per_second)) * 360 + 180
    inside = (middles >= finding.start) & (middles < finding.stop)
    assert inside.sum() >= 5
    np.testing.assert_array_equal(np.isnan(judged.per_second), inside)


def test_a_standstill_of_which_a_flat_line_leaves_too_little_is_none() -> None:
    signal = _with_standstill()
    signal[round(22.0 * FS) : 26 * FS] = signal[22 * FS]
    judged = _judge(signal)
    assert FindingKind.ASYSTOLE not in {finding.kind for finding in judged.findings}
    longer = _with_standstill(12.0)
    longer[round(26.0 * FS) : 32 * FS] = longer[26 * FS]
    kinds = [finding.kind for finding in _judge(longer).findings]
    assert kinds == [FindingKind.ASYSTOLE]


def test_findings_come_in_the_order_of_their_beginnings(make_paced: PacedMaker) -> None:
    signal = np.concatenate([make_paced(20.0), _clean(duration_s=20.0), _flutter(12.0)])
    kinds = [finding.kind for finding in _judge(signal).findings]
    assert kinds == [FindingKind.PACING, FindingKind.FLUTTER]


def test_the_limits_of_each_detector_are_those_of_the_configuration(
    make_paced: PacedMaker,
) -> None:
    def kinds(signal: NDArray[np.float64], config: FindingsConfig) -> set[FindingKind]:
        judged = judge_signal(signal, detect_r_peaks(signal), config=config)
        return {finding.kind for finding in judged.findings}

    usual = FindingsConfig()
    still, paced = _with_standstill(), make_paced(30.0)
    patient = FindingsConfig(asystole=AsystoleConfig(min_s=8.0))
    assert kinds(still, usual) == {FindingKind.ASYSTOLE}
    assert kinds(still, patient) == set()
    strict = FindingsConfig(pacing=PacingConfig(min_beats=1000))
    assert kinds(paced, usual) == {FindingKind.PACING}
    assert kinds(paced, strict) == set()


def test_the_limits_of_quality_and_the_rails_are_used() -> None:
    signal = _clean(duration_s=20.0)
    r_peaks = detect_r_peaks(signal)
    rails = np.ones_like(measure_rail_share(signal, fs=FS))
    clipped = judge_signal(signal, r_peaks, rail_share=rails)
    assert {stretch.reason for stretch in clipped.unreadable} == {UnreadableReason.CLIPPED}
    assert judge_signal(signal, r_peaks).unreadable == ()
    lenient = QualityConfig(clipped_share=1.0)
    assert judge_signal(signal, r_peaks, rail_share=rails, quality=lenient).unreadable == ()


def test_a_quiet_line_is_asystole_unless_half_of_it_is_straight() -> None:
    quiet = ((1000, 3000),)

    def parts(*flat: tuple[int, int]) -> tuple[int, int]:
        asystole, dead = _part_quiet(quiet, flat=flat, missing=(), shortest=720)
        assert {*asystole, *dead} == {*quiet}
        return len(asystole), len(dead)

    assert parts((0, 2000)) == parts((2000, 9000)) == parts((500, 1500), (2500, 9000)) == (1, 0)
    assert parts((0, 2001)) == parts((1999, 9000)) == parts((500, 1501), (2500, 9000)) == (0, 1)
    assert parts((0, 900), (3100, 9000)) == (1, 0)


def test_a_quiet_line_that_ends_in_a_gap_is_not_asystole_and_its_rest_must_last() -> None:
    quiet = ((1000, 3000),)
    for missing in ((3000, 4000), (0, 1000)):
        assert _part_quiet(quiet, flat=(), missing=(missing,), shortest=720) == ((), quiet)
    for missing in ((3001, 4000), (0, 999)):
        assert _part_quiet(quiet, flat=(), missing=(missing,), shortest=720) == (quiet, ())
    cut = ((1700, 2279),)
    left = ((1000, 1700), (2279, 3000))
    assert _part_quiet(quiet, flat=(), missing=cut, shortest=699) == ((), left)
    assert _part_quiet(quiet, flat=(), missing=cut, shortest=720) == ((), left[1:])
    assert _part_quiet(quiet, flat=(), missing=cut, shortest=721) == ((), ())
