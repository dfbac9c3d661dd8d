"""The cohort whose beats are easy to tell apart."""

from __future__ import annotations

import numpy as np

from ecg_lib.records.simulation.cohorts import simulate_textbook_member


def test_number_and_seed_decide_the_record() -> None:
    one = simulate_textbook_member(3, duration_s=20.0, seed=1)
    assert one.name == "sim003"
    np.testing.assert_array_equal(
        one.signals_mv, simulate_textbook_member(3, duration_s=20.0, seed=1).signals_mv
    )
    for other in (
        simulate_textbook_member(4, duration_s=20.0, seed=1),
        simulate_textbook_member(3, duration_s=20.0, seed=2),
    ):
        assert not np.array_equal(one.signals_mv, other.signals_mv)


def test_ventricular_beats_point_down_and_the_others_up() -> None:
    for number in range(4):
        record = simulate_textbook_member(number, duration_s=120.0, seed=1)
        assert record.annotations is not None
        at_peak = record.signal_mv()[record.annotations.samples]
        is_v = record.annotations.symbols == "V"
        assert is_v.sum() >= 3
        assert np.median(at_peak[is_v]) < -0.4
        assert np.median(at_peak[~is_v]) > 0.4
