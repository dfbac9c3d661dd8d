"""Recordings for the tests of batches, and an output for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.recordings.analyzed_files import describe_model
from flows.recordings.batches.places import open_place
from flows.recordings.batches.results import Output


@pytest.fixture
def write_recordings() -> Callable[[Path, int], None]:
    """Write WFDB records of half a minute, named r00, r01 and so on."""

    def write(directory: Path, count: int) -> None:
        record = simulate_strip(StripKind.RUN, seed=11, duration_s=30.0)
        for number in range(count):
            write_wfdb(replace(record, name=f"r{number:02d}"), directory)

    return write


@pytest.fixture
def output(toy_bundle: Bundle, tmp_path: Path) -> Output:
    """An output with a model, where nothing is analysed yet."""
    made = Output(open_place(str(tmp_path / "out")))
    made.pin({"formats": []}, toy_bundle, describe_model(toy_bundle, version="3"))
    return made
