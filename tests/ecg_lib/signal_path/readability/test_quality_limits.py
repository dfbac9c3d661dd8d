"""Limits of the quality that records do not meet to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.r_peaks.detection import detect_r_peaks
from ecg_lib.signal_path.readability.quality import UnreadableReason, assess_quality


@pytest.mark.parametrize(("range_mv", "is_flat"), [(0.00999, True), (0.01, False)])
def test_a_bin_is_flat_that_spans_less_than_ten_microvolt(
    range_mv: float, *, is_flat: bool
) -> None:
    signal = np.resize([0.0, range_mv], 10 * 360)
    found = assess_quality(signal, np.zeros(0, dtype=np.int64))
    reasons = {stretch.reason for stretch in found.unreadable}
    assert (UnreadableReason.FLAT in reasons) == is_flat


def test_the_two_seconds_of_a_flat_bin_have_the_quality_zero() -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=4, duration_s=30.0)
    signal = strip.signal_mv().astype(np.float64)
    signal[6 * 360 : 8 * 360] = 0.0
    per_second = assess_quality(signal, detect_r_peaks(signal)).per_second
    assert np.flatnonzero(per_second == 0).tolist() == [6, 7]
