"""Doubts about the sampling rate, on real records that are read at wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import UnreadableSignalError
from ecg_lib.records.annotations import DS1
from ecg_lib.records.record import read_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.readability.plausibility import (
    explain_amplitude,
    explain_rate,
    measure_stray_line,
)

_ACCEPTED_AT_TWICE = {"108", "124", "203", "205", "207", "215"}
"""Records that may pass at twice their rate: theirs is then that of a fast rhythm."""


@pytest.mark.data
@pytest.mark.parametrize(
    ("factor", "passed"), [(0.36, set()), (0.5, set()), (2.0, _ACCEPTED_AT_TWICE), (2.77, set())]
)
def test_a_record_that_is_read_at_a_wrong_rate_is_doubted_or_refused(
    mitdb_dir: Path, factor: float, passed: set[str]
) -> None:
    fs = 360 * factor
    found = set()
    for name in DS1:
        signal = read_wfdb(mitdb_dir / name).signal_mv()[300 * 360 : 360 * 360]
        prepared = prepare_beats(signal, fs=fs)
        try:
            require_readable(prepared)
        except UnreadableSignalError:
            continue
        if explain_rate(prepared) is None:
            found.add(name)
    assert found <= passed


@pytest.mark.data
@pytest.mark.parametrize(("factor", "most"), [(0.69, 7), (1.39, 6)])
def test_most_records_are_doubted_at_rates_that_are_a_little_wrong(
    mitdb_dir: Path, factor: float, most: int
) -> None:
    fs = 360 * factor
    passed = [
        name
        for name in DS1
        if explain_rate(
            prepare_beats(read_wfdb(mitdb_dir / name).signal_mv()[300 * 360 : 360 * 360], fs=fs)
        )
        is None
    ]
    assert len(passed) <= most, passed


@pytest.mark.parametrize(
    ("mains_hz", "factor", "is_doubted"),
    [
        (60.0, 0.69, True),
        *((mains_hz, 1.39, True) for mains_hz in (50.0, 60.0)),
        *((mains_hz, factor, False) for mains_hz in (50.0, 60.0) for factor in (1.0, 1.02)),
    ],
)
def test_hum_where_the_mains_are_not_is_doubted(
    mains_hz: float, factor: float, *, is_doubted: bool
) -> None:
    strip = simulate_strip(StripKind.NORMAL, seed=3, duration_s=30.0, fs=500.0)
    times_s = np.arange(len(strip.signal_mv())) / 500.0
    signal = strip.signal_mv() + 0.02 * np.sin(2 * np.pi * mains_hz * times_s)
    line_hz = prepare_beats(signal, fs=500.0 * factor).stray_line_hz
    if is_doubted:
        np.testing.assert_allclose(line_hz, factor * mains_hz, atol=0.3)
    else:
        assert np.isnan(line_hz).all()


def test_a_steady_pulse_is_not_a_line_of_hum() -> None:
    one_s = simulate_strip(StripKind.NORMAL, seed=3, duration_s=30.0, fs=360.0).signal_mv()[:330]
    assert np.isnan(measure_stray_line(np.tile(one_s, 60).astype(np.float64), fs=360.0))


@pytest.mark.data
def test_no_record_is_doubted_at_its_own_rate(mitdb_dir: Path) -> None:
    for name in [*DS1, "102", "104", "107", "217"]:
        prepared = prepare_beats(read_wfdb(mitdb_dir / name).signal_mv(), fs=360.0)
        assert explain_rate(prepared) is None, name


@pytest.mark.parametrize(
    ("amplitude_mv", "is_usual"), [(0.099, False), (0.1, True), (20.0, True), (20.1, False)]
)
def test_an_amplitude_beyond_that_of_the_skin_is_doubted(
    amplitude_mv: float, *, is_usual: bool
) -> None:
    doubt = explain_amplitude(
        np.full(9, amplitude_mv), is_readable=np.ones(9, dtype=np.bool_), what="samples"
    )
    assert (doubt is None) == is_usual
