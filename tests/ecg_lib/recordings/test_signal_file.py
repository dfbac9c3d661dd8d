"""A lead on disk and its envelopes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecg_lib.recordings.signal_file import (
    SampleKind,
    read_signal,
    read_stretch,
    release_memory,
    write_signal,
)

FS = 250.0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    directory = tmp_path_factory.mktemp("signal")
    signal = np.random.default_rng(1).standard_normal(2_100_123).astype(np.float32)
    signal[1000:1010] = np.nan
    assert write_signal(np.array_split(signal, 7), directory) == len(signal)
    return directory, signal


def test_samples_come_back(written: tuple[Path, np.ndarray]) -> None:
    directory, signal = written
    np.testing.assert_array_equal(read_signal(directory), signal)
    stretch = read_stretch(directory, fs=FS, start_s=10.0, duration_s=10.0, max_points=4000)
    assert (stretch.kind, stretch.start_s, stretch.step_s) == (SampleKind.SAMPLES, 10.0, 1 / FS)
    np.testing.assert_array_equal(stretch.values_mv, signal[2500:5000])


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    start_s=st.floats(0, 9000),
    duration_s=st.floats(0.01, 9000),
    max_points=st.integers(1, 20_000),
)
def test_a_stretch_shows_what_is_there(
    written: tuple[Path, np.ndarray], start_s: float, duration_s: float, max_points: int
) -> None:
    directory, signal = written
    stretch = read_stretch(
        directory, fs=FS, start_s=start_s, duration_s=duration_s, max_points=max_points
    )
    assert stretch.points <= max_points
    first = round(stretch.start_s * FS)
    step = round(stretch.step_s * FS)
    if stretch.kind is SampleKind.SAMPLES:
        np.testing.assert_array_equal(stretch.values_mv, signal[first : first + stretch.points])
        return
    pairs = stretch.values_mv.reshape(-1, 2)
    assert first <= start_s * FS
    stop = min(len(signal), (start_s + duration_s) * FS)
    assert first + step * len(pairs) >= stop - step
    for number in {0, len(pairs) // 2, len(pairs) - 1}:
        part = signal[first + number * step : first + (number + 1) * step]
        np.testing.assert_array_equal(pairs[number], [np.fmin.reduce(part), np.fmax.reduce(part)])


def test_a_stretch_beyond_the_end_is_empty(written: tuple[Path, np.ndarray]) -> None:
    stretch = read_stretch(written[0], fs=FS, start_s=1e6, duration_s=10.0, max_points=100)
    assert (stretch.points, stretch.kind) == (0, SampleKind.SAMPLES)


def test_a_day_is_read_in_milliseconds(tmp_path: Path) -> None:
    n_samples = 360 * 86_400
    write_signal((np.zeros(n_samples // 24, np.float32) for _ in range(24)), tmp_path)
    read_stretch(tmp_path, fs=360.0, start_s=0, duration_s=86_400, max_points=4000)
    for duration_s in (10.0, 600.0, 3600.0, 86_400.0):
        best_s = 1.0
        for _ in range(5):
            start = time.perf_counter()
            read_stretch(tmp_path, fs=360.0, start_s=0, duration_s=duration_s, max_points=20_000)
            best_s = min(best_s, time.perf_counter() - start)
        assert best_s < 0.02


def _resident_kib(path: Path) -> int:
    """Memory of this process that is mapped from a file."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    total, is_of_file = 0, False
    for line in lines:
        if line[:1].islower() or line[:1].isdigit():
            is_of_file = line.endswith(str(path))
        elif is_of_file and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's smaps")
def test_memory_of_a_signal_is_given_back_and_its_samples_are_still_there(tmp_path: Path) -> None:
    samples = np.arange(2**20, dtype=np.float32)
    write_signal([samples], tmp_path)
    signal_mv = read_signal(tmp_path)
    total = float(signal_mv.sum(dtype=np.float64))
    before = _resident_kib(tmp_path / "signal.f32")
    release_memory(signal_mv)
    after = _resident_kib(tmp_path / "signal.f32")
    assert before >= 4096
    assert after <= 256
    assert float(signal_mv.sum(dtype=np.float64)) == total


def test_memory_of_an_array_is_left_alone() -> None:
    samples = np.arange(10, dtype=np.float32)
    release_memory(samples[2:5])
    assert samples.tolist() == list(range(10))
