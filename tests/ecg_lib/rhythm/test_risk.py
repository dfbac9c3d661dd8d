"""The level of attention, one reason at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ecg_lib.rhythm.patterns import RhythmSummary, Run
from ecg_lib.rhythm.risk import Risk, RiskBasis, RiskLevel, assess_risk

QUIET = RhythmSummary(
    beats=1000,
    v_beats=0,
    burden=0.0,
    heart_rate_bpm=70.0,
    heart_rate_min_bpm=60.0,
    heart_rate_max_bpm=80.0,
    heart_rate_mean_bpm=70.0,
    longest_rr_s=1.0,
    isolated=0,
    couplet_starts_s=(),
    runs=(),
    doubtful_runs=(),
    r_on_t_s=(),
    patterns=(),
    pauses=(),
    coupling=None,
)
FEW = replace(QUIET, v_beats=20, burden=0.02, isolated=20)
MANY = replace(QUIET, v_beats=200, burden=0.2, isolated=200)
A_RUN = Run(first_beat=5, beats=4, start_s=4.0, rate_bpm=150.0, duration_s=1.2)


def _assess(rhythm: RhythmSummary, *, duration_s: float, readable_s: float | None = None) -> Risk:
    """Judge a rhythm of a recording that can be read from end to end, unless said otherwise."""
    return assess_risk(rhythm, duration_s=duration_s, readable_s=readable_s or duration_s)


def test_no_v_beats_are_low() -> None:
    risk = _assess(QUIET, duration_s=10.0)
    assert (risk.level, risk.basis, risk.reasons) == (
        RiskLevel.LOW,
        RiskBasis.STRIP,
        ("no V beats",),
    )


def test_isolated_v_beats_are_medium() -> None:
    risk = _assess(FEW, duration_s=10.0)
    assert (risk.level, risk.reasons) == (RiskLevel.MEDIUM, ("20 isolated V beats",))


@pytest.mark.parametrize(
    ("rhythm", "reason"),
    [
        (replace(FEW, couplet_starts_s=(3.0,)), "1 couplet of V"),
        (replace(FEW, couplet_starts_s=(3.0, 9.0)), "2 couplets of V"),
        (replace(FEW, runs=(A_RUN,)), "1 run of V, of 4 beats"),
        (
            replace(FEW, runs=(A_RUN, replace(A_RUN, beats=7), A_RUN)),
            "3 runs of V, the longest of 7 beats",
        ),
        (replace(FEW, r_on_t_s=(3.0,)), "1 V beat that may fall on a T wave"),
        (replace(FEW, r_on_t_s=(3.0, 9.0)), "2 V beats that may fall on a T wave"),
    ],
)
def test_couplets_runs_and_r_on_t_are_high(rhythm: RhythmSummary, reason: str) -> None:
    for duration_s in (10.0, 90_000.0):
        risk = _assess(rhythm, duration_s=duration_s)
        assert (risk.level, risk.reasons) == (RiskLevel.HIGH, (reason,))
        assert not risk.is_provisional


def test_a_doubtful_run_is_reported_and_does_not_raise_the_level() -> None:
    alone = replace(FEW, isolated=16, doubtful_runs=(A_RUN,))
    risk = _assess(alone, duration_s=10.0)
    assert (risk.level, risk.reasons) == (
        RiskLevel.MEDIUM,
        (
            "16 isolated V beats",
            "1 doubtful run of V, of 4 beats, too uncertain to count as a run",
        ),
    )
    nothing_else = replace(alone, isolated=0, doubtful_runs=(A_RUN, replace(A_RUN, beats=9)))
    assert _assess(nothing_else, duration_s=10.0).reasons == (
        "2 doubtful runs of V, the longest of 9 beats, too uncertain to count as a run",
    )
    beside_a_couplet = _assess(replace(alone, couplet_starts_s=(3.0,)), duration_s=10.0)
    assert beside_a_couplet.level is RiskLevel.HIGH
    assert len(beside_a_couplet.reasons) == 2


def test_all_reasons_are_given() -> None:
    rhythm = replace(MANY, couplet_starts_s=(3.0,), runs=(A_RUN,), r_on_t_s=(9.0,))
    assert len(_assess(rhythm, duration_s=90_000.0).reasons) == 4


@pytest.mark.parametrize(
    ("duration_s", "level", "basis", "is_provisional"),
    [
        (10.0, RiskLevel.MEDIUM, RiskBasis.STRIP, False),
        (3599.0, RiskLevel.MEDIUM, RiskBasis.STRIP, False),
        (3600.0, RiskLevel.HIGH, RiskBasis.RECORDING, True),
        (86_399.0, RiskLevel.HIGH, RiskBasis.RECORDING, True),
        (86_400.0, RiskLevel.HIGH, RiskBasis.RECORDING, False),
    ],
)
def test_burden_counts_from_an_hour_and_is_provisional_below_a_day(
    duration_s: float, level: RiskLevel, basis: RiskBasis, *, is_provisional: bool
) -> None:
    risk = _assess(MANY, duration_s=duration_s)
    assert (risk.level, risk.basis, risk.is_provisional) == (level, basis, is_provisional)


def test_a_burden_at_the_limit_is_not_above_it() -> None:
    at_limit = replace(MANY, burden=0.10)
    assert _assess(at_limit, duration_s=90_000.0).level is RiskLevel.MEDIUM
    above = _assess(replace(MANY, burden=0.1001), duration_s=90_000.0)
    assert (above.level, above.reasons) == (RiskLevel.HIGH, ("V burden of 10.0%, above 10%",))


def test_a_run_besides_a_burden_is_not_provisional() -> None:
    assert not _assess(replace(MANY, runs=(A_RUN,)), duration_s=7200.0).is_provisional


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (replace(A_RUN, rate_bpm=80.0), "accelerated idioventricular"),
        (replace(A_RUN, rate_bpm=40.0), "escape rhythm"),
        (replace(A_RUN, duration_s=31.0), "for 30 s or longer"),
    ],
)
def test_runs_other_than_short_tachycardias_are_named(run: Run, words: str) -> None:
    risk = _assess(replace(FEW, runs=(run,)), duration_s=10.0)
    assert risk.level is RiskLevel.HIGH
    assert risk.reasons[0] == "1 run of V, of 4 beats"
    assert risk.reasons[1].startswith("1 of them ")
    assert words in risk.reasons[1]
    assert len(risk.reasons) == 2


@pytest.mark.parametrize(
    ("burden", "reason"),
    [
        (0.2, "V burden of 20.0%, above 10%"),
        (0.24, "V burden of 24.0%, above 10%"),
        (0.2401, "V burden of 24.0%, above 24%"),
        (0.3, "V burden of 30.0%, above 24%"),
    ],
)
def test_a_burden_above_24_percent_names_that_limit(burden: float, reason: str) -> None:
    assert _assess(replace(MANY, burden=burden), duration_s=90_000.0).reasons == (reason,)


def test_frequent_v_beats_are_named_in_recordings_alone() -> None:
    frequent = replace(FEW, v_beats=60, isolated=60)
    assert _assess(frequent, duration_s=3600.0).reasons[1] == "60 V beats an hour, 30 or more"
    assert len(_assess(frequent, duration_s=600.0).reasons) == 1
    in_half = _assess(frequent, duration_s=3600.0, readable_s=1800.0)
    assert in_half.reasons[1] == "120 V beats an hour, 30 or more"
    at_limit = replace(FEW, v_beats=30, isolated=30)
    assert _assess(at_limit, duration_s=3600.0).reasons[1] == "30 V beats an hour, 30 or more"
    below = replace(FEW, v_beats=29, isolated=29)
    assert _assess(below, duration_s=3600.0).reasons == ("29 isolated V beats",)
    one = replace(FEW, v_beats=1, isolated=1)
    assert _assess(one, duration_s=3600.0).reasons == ("1 isolated V beat",)
