"""Limits of the summary of a rhythm, each on both of its sides."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.rhythm.patterns import RhythmSummary, RunKind, summarize_rhythm


def _summarize(beats: str, rr_s: list[float] | None = None) -> RhythmSummary:
    """Sum up calls, of which ``?`` cannot be read; 0.8 s apart unless intervals are given."""
    times_s = np.cumsum([0.0, *([0.8] * (len(beats) - 1) if rr_s is None else rr_s)])
    return summarize_rhythm(
        np.rint(times_s[: len(beats)] * 1000).astype(np.int64),
        is_v=np.array([beat == "V" for beat in beats], dtype=np.bool_),
        is_readable=np.array([beat != "?" for beat in beats], dtype=np.bool_),
        fs=1000.0,
    )


@pytest.mark.parametrize(("n_intervals", "is_candidate"), [(61, False), (62, True)])
def test_above_61_intervals_the_usual_one_is_that_of_the_minute(
    n_intervals: int, *, is_candidate: bool
) -> None:
    """A V beat comes 0.3 s after a beat of a short slow rhythm, which becomes a long fast one.

    The limit, 0.85 of Bazett's QT, is 0.37 s for the slow rhythm and 0.24 s for the fast one, to
    which most intervals belong.
    """
    slow, fast = [1.2] * 5, [0.5] * (n_intervals - 11)
    rhythm = _summarize("NNNNNNV" + "N" * (n_intervals - 6), [*slow, 0.3, *slow, *fast])
    assert rhythm.r_on_t_s == ((6.3,) if is_candidate else ())


def test_two_beats_have_no_usual_interval_to_be_early_for() -> None:
    assert _summarize("NV", [0.1]).r_on_t_s == ()
    assert _summarize("NVN", [0.1, 0.8]).r_on_t_s == (0.1,)


def test_a_short_stretch_does_not_hide_an_r_on_t_candidate_after_it() -> None:
    rhythm = _summarize("NN?NNNVNN", [1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 1.7, 1.0])
    assert rhythm.r_on_t_s == (5.3,)


def test_the_runs_of_a_kind_are_those_of_that_kind_alone() -> None:
    rhythm = _summarize("NVVVNVVVVN", [0.8, 0.4, 0.4, 0.8, 0.8, 0.9, 0.9, 0.9, 0.8])
    assert [run.beats for run in rhythm.runs_of(RunKind.NSVT)] == [3]
    assert [run.beats for run in rhythm.runs_of(RunKind.AIVR)] == [4]
    assert rhythm.runs_of(RunKind.ESCAPE) == ()


def test_beats_are_conducted_unless_they_are_said_to_be_paced() -> None:
    rhythm = _summarize("NVNVNV", [0.5, 1.0, 0.5, 1.0, 0.5])
    assert rhythm.bigeminy_beats == 3
    assert rhythm.coupling == pytest.approx((0.5, 0.0, 0.5))


@pytest.mark.parametrize("beats", ["", "?", "N", "V", "??"])
def test_there_is_no_coupling_without_an_interval_that_can_be_read(beats: str) -> None:
    assert _summarize(beats).coupling is None
