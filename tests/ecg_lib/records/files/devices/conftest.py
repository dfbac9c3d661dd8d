"""Writers of devices' exports, which `benchmarks` shares, and a strip whose beats are known."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from ecg_lib.records.files.lead import RecordingFile, choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

FS_HZ = 250.0
STEPS_PER_MV = 200.0

Counts = dict[str, NDArray[np.int64]]
Open = Callable[..., RecordingFile]
Read = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="session")
def writers() -> ModuleType:
    path = Path(__file__).parents[5] / "benchmarks" / "device_writers.py"
    spec = importlib.util.spec_from_file_location("device_writers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def strip() -> Record:
    """20 s with two runs of five V beats."""
    return simulate_strip(StripKind.RUN, seed=2, duration_s=20.0, fs=FS_HZ)


@pytest.fixture(scope="session")
def counts(strip: Record) -> Counts:
    """Leads I and II in steps of 5 µV; II is what the simulator calls MLII."""
    two, one = np.rint(strip.signals_mv.T * STEPS_PER_MV).astype(np.int64)
    return {"I": one, "II": two}


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Write a file and open it."""

    def open_content(
        content: bytes, name: str = "export.bin", **options: float | str
    ) -> RecordingFile:
        path = tmp_path / name
        path.write_bytes(content)
        return open_recording(path, **options)

    return open_content


@pytest.fixture
def read() -> Read:
    """Read a lead to its end."""

    def read_lead(recording: RecordingFile, name: str = "II") -> NDArray[np.float32]:
        return np.concatenate(list(recording.blocks(choose_lead(recording.leads, name))))

    return read_lead
