"""The limits by which findings are laid over each other, each from both sides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.filtering import Bands
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.readability import findings
from ecg_lib.signal_path.readability.asystole import QuietStretches
from ecg_lib.signal_path.readability.findings import (
    Finding,
    FindingKind,
    Judgement,
    _find_straight,
    _lay_over,
    _part_quiet,
    judge_signal,
)
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason

Spans = tuple[tuple[int, int], ...]


def _restless(n_samples: int) -> NDArray[np.float64]:
    return np.resize([1.0, -1.0], n_samples)


@pytest.mark.parametrize(("curve_mv", "is_straight"), [(0.97e-6, True), (1.03e-6, False)])
def test_a_line_is_straight_that_curves_by_less_than_a_nanovolt(
    curve_mv: float, *, is_straight: bool
) -> None:
    bow = np.square(np.arange(-200.0, 200.0)) * (curve_mv / 2)
    for line in (bow, -bow):
        assert _find_straight(line) == (((0, 400),) if is_straight else ())


def test_a_bend_of_a_nanovolt_parts_two_straight_lines() -> None:
    bent = np.concatenate([np.zeros(200), 1e-6 * np.arange(1, 201)])
    assert _find_straight(bent) == ((0, 200), (199, 400))
    assert _find_straight(np.linspace(0, 5, 400)) == ((0, 400),)


@pytest.mark.parametrize(("n_straight", "n_spans"), [(181, 0), (182, 1)])
def test_a_straight_line_has_180_changes_without_a_bend(n_straight: int, n_spans: int) -> None:
    line = np.concatenate([_restless(1000), np.full(n_straight, 0.3), _restless(500)])
    assert _find_straight(line) == ((1000, 1182),) * n_spans


@pytest.mark.parametrize(("straight", "is_asystole"), [(1000, True), (1001, False)])
def test_straight_lines_elsewhere_do_not_count(straight: int, *, is_asystole: bool) -> None:
    quiet = ((1000, 3000),)
    for elsewhere in ((0, 1000), (5000, 9000)):
        flat = tuple(sorted([(1500, 1500 + straight), elsewhere]))
        parts = _part_quiet(quiet, flat=flat, missing=(), shortest=1044)
        assert parts == ((quiet, ()) if is_asystole else ((), quiet))


def test_stretches_are_laid_over_each_other_in_tenths_of_a_second() -> None:
    unreadable, asystole, flutter = _lay_over(
        (
            Stretch(3000, 3002, UnreadableReason.NOISE),
            Stretch(5040, 5041, UnreadableReason.FLAT),
            Stretch(7200, 7201, UnreadableReason.NOISE),
        ),
        noise=((100, 300), (7300, 7301)),
        asystole=((37, 359), (3001, 4000)),
        flutter=((3599, 3601), (5000, 6000)),
        dead=((9999, 10000),),
        n_samples=10001,
    )
    assert asystole == ((36, 360), (2988, 3564), (3636, 4032))
    assert flutter == ((3564, 3636), (4968, 5040), (5076, 6012))
    assert unreadable == (
        Stretch(3564, 3636, UnreadableReason.FLUTTER),
        Stretch(4968, 5040, UnreadableReason.FLUTTER),
        Stretch(5040, 5076, UnreadableReason.FLAT),
        Stretch(5076, 6012, UnreadableReason.FLUTTER),
        Stretch(7200, 7236, UnreadableReason.NOISE),
        Stretch(7272, 7308, UnreadableReason.NOISE),
        Stretch(9972, 10001, UnreadableReason.FLAT),
    )


def test_stretches_keep_their_samples_where_nothing_is_laid_over_them() -> None:
    unreadable = (Stretch(37, 359, UnreadableReason.NOISE),)
    kept = _lay_over(unreadable, noise=(), asystole=(), flutter=(), dead=(), n_samples=1000)
    assert kept == (unreadable, (), ())


class _Found:
    """Stands for the detectors: a strip of 40 s in which they find what is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        strip = simulate_strip(StripKind.NORMAL, seed=4, duration_s=40.0)
        self.signal = strip.signal_mv().astype(np.float64)
        self.r_peaks = detect_r_peaks(self.signal)
        self.patch = monkeypatch

    def judge(
        self,
        *,
        flutter: Spans = (),
        asystole: Spans = (),
        drifting: Spans = (),
        missing: Spans = (),
    ) -> Judgement:
        quiet = QuietStretches(asystole, drifting)
        self.patch.setattr(findings, "find_flutter", lambda *_, **__: flutter)
        self.patch.setattr(findings, "find_asystole", lambda *_, **__: quiet)
        return judge_signal(self.signal, self.r_peaks, missing=missing)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> _Found:
    return _Found(monkeypatch)


@pytest.mark.parametrize(
    ("gap", "n_found"),
    [((3960, 4000), 1), ((3959, 4000), 0), ((300, 720), 1), ((300, 721), 0)],
)
def test_flutter_is_a_second_away_from_a_gap(
    gap: tuple[int, int], n_found: int, found: _Found
) -> None:
    judged = found.judge(flutter=((1080, 3600),), missing=(gap,))
    assert judged.findings == (Finding(FindingKind.FLUTTER, 1080, 3600),) * n_found


@pytest.mark.parametrize(
    ("gap", "is_noise"),
    [((3601, 4000), True), ((3600, 4000), False), ((300, 1079), True), ((300, 1080), False)],
)
def test_a_line_that_drifts_up_to_a_gap_is_not_noise(
    gap: tuple[int, int], *, is_noise: bool, found: _Found
) -> None:
    judged = found.judge(drifting=((1080, 3600),), missing=(gap,))
    noise = (Stretch(1080, 3600, UnreadableReason.NOISE),)
    assert judged.unreadable == (noise if is_noise else ())


@pytest.mark.parametrize(("n_samples", "n_found"), [(1044, 0), (1080, 1)])
def test_a_standstill_that_is_left_lasts_more_than_2900_ms(
    n_samples: int, n_found: int, found: _Found
) -> None:
    """Flutter over its end leaves so much of it."""
    judged = found.judge(asystole=((1080, 3600),), flutter=((1080 + n_samples, 7200),))
    assert judged.findings == (
        *(Finding(FindingKind.ASYSTOLE, 1080, 1080 + n_samples),) * n_found,
        Finding(FindingKind.FLUTTER, 1080 + n_samples, 7200),
    )


@pytest.mark.parametrize(("n_samples", "n_dead"), [(1044, 0), (1045, 1)])
def test_a_quiet_line_before_a_gap_is_flat_when_it_lasts_more_than_2900_ms(
    n_samples: int, n_dead: int, found: _Found
) -> None:
    judged = found.judge(asystole=((1080, 3600),), missing=((1080 + n_samples, 3700),))
    assert judged.findings == ()
    assert judged.unreadable == (Stretch(1080, 2160, UnreadableReason.FLAT),) * n_dead


def test_seconds_and_beats_belong_to_a_standstill_from_its_start_to_before_its_end(
    found: _Found,
) -> None:
    found.r_peaks = np.union1d(found.r_peaks, [864, 899, 900, 2339, 2340])
    judged = found.judge(asystole=((900, 2340),))
    assert judged.findings == (Finding(FindingKind.ASYSTOLE, 900, 2340),)
    assert np.flatnonzero(np.isnan(judged.per_second)).tolist() == [2, 3, 4, 5]
    inside = found.r_peaks[judged.beat_quality == "asystole"]
    assert inside.min() == 900
    assert inside.max() == 2339


def test_seconds_are_bad_when_their_middle_is_missing(found: _Found) -> None:
    judged = found.judge(missing=((900, 2340), (3061, 3420), (3780, 3781)))
    assert np.flatnonzero(judged.per_second == 0).tolist() == [2, 3, 4, 5, 10]


def test_a_straight_line_that_climbs_is_flat_and_not_a_standstill(found: _Found) -> None:
    found.signal[1440:2880] = np.linspace(0.0, 2.0, 1440)
    judged = found.judge(asystole=((1440, 2880),))
    assert judged.findings == ()
    assert Stretch(1440, 2880, UnreadableReason.FLAT) in judged.unreadable
    found.signal[1440:2880:2] += 0.001
    judged = found.judge(asystole=((1440, 2880),))
    assert judged.findings == (Finding(FindingKind.ASYSTOLE, 1440, 2880),)


def test_bands_that_were_made_already_are_used(
    found: _Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Bands] = []

    def note_bands(*_: object, bands: Bands, **__: object) -> Spans:
        used.append(bands)
        return ()

    monkeypatch.setattr(findings, "find_flutter", note_bands)
    bands = Bands(found.signal)
    judge_signal(found.signal, found.r_peaks, bands=bands)
    judge_signal(found.signal, found.r_peaks)
    assert used[0] is bands
    assert isinstance(used[1], Bands)
