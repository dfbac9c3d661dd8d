"""Patients that every network is trained on: runs of V, and fast rhythms that are conducted."""

from __future__ import annotations

import numpy as np
import pytest

from ecg_lib.evaluation.beat_scoring import label_beats
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.training_patients import (
    is_simulated_patient,
    simulate_training_patient,
)


def _longest_run(record: Record) -> int:
    longest = length = 0
    assert record.annotations is not None
    for symbol in record.annotations.symbols:
        length = length + 1 if symbol == "V" else 0
        longest = max(longest, length)
    return longest


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_most_have_runs_of_v(number: int) -> None:
    record = simulate_training_patient(number)
    assert _longest_run(record) >= 3
    assert record.subject == f"simulated_{number}"
    assert is_simulated_patient(record.subject)


@pytest.mark.parametrize("number", [3, 7])
def test_every_fourth_has_a_fast_rhythm_without_v(number: int) -> None:
    record = simulate_training_patient(number)
    assert record.annotations is not None
    rate = 60 * record.fs / np.median(np.diff(record.annotations.samples))
    assert 145 < rate < 255
    labels = label_beats(record.annotations, record.annotations.samples, fs=record.fs)
    assert set(labels) <= {"N", "S"}


def test_people_are_none_of_them() -> None:
    assert not any(is_simulated_patient(one) for one in ("101", "svdb:800", "sim1", "own:a"))


def test_a_number_gives_the_same_patient() -> None:
    one, again = simulate_training_patient(5), simulate_training_patient(5)
    np.testing.assert_array_equal(one.signals_mv, again.signals_mv)
