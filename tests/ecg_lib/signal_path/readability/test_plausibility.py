"""Doubts about the sampling rate, on real records that are read at wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import UnreadableSignalError
from ecg_lib.records.annotations import DS1
from ecg_lib.records.record import read_wfdb
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.readability.plausibility import explain_amplitude, explain_rate

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
