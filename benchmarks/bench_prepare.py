"""Measure the processor time that a strip of 10 s takes to prepare, against an earlier commit.

Both run in turn, each in a process of its own with one thread, so that what else the machine does
meets both. Prints a table in Markdown: the least and the greatest of the rounds, and the ratio of
their medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Final

from bench_service import ROOT, unpack_commit

BEFORE_C: Final = "ab95e762"
"""The last commit whose signal path was NumPy."""

RATES_HZ: Final = (360.0, 250.0)
N_STRIPS: Final = 8
TIMES: Final = 50


def main() -> None:
    """Measure both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default=BEFORE_C, help="an earlier commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.this_process:
        sys.stdout.write(json.dumps([_measure(fs) for fs in RATES_HZ]))
        return
    roots = {"before": unpack_commit(arguments.against), "now": ROOT}
    rounds = [{name: _run(root) for name, root in roots.items()} for _ in range(arguments.rounds)]
    sys.stdout.write("| ms of a processor | before | now | ratio |\n| --- | ---: | ---: | ---: |\n")
    for place, fs in enumerate(RATES_HZ):
        before, now = ([one[name][place] for one in rounds] for name in roots)
        ratio = statistics.median(before) / statistics.median(now)
        sys.stdout.write(
            f"| 10 s at {fs:g} Hz | {min(before):.2f} to {max(before):.2f} "
            f"| {min(now):.2f} to {max(now):.2f} | {ratio:.1f} |\n"
        )


def _run(root: Path) -> list[float]:
    done = subprocess.run(
        [sys.executable, __file__, "--this-process"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    measured: list[float] = json.loads(done.stdout)
    return measured


def _measure(fs: float) -> float:
    """Prepare simulated strips; milliseconds of each."""
    import numpy as np

    from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
    from ecg_lib.signal_path.preprocessing import prepare_beats

    kinds = tuple(StripKind)
    strips = []
    for seed in range(N_STRIPS):
        signal = simulate_strip(kinds[seed % 4], seed=seed).signal_mv().astype(np.float64)
        times_s = np.arange(int(10 * fs)) / fs
        strips.append(np.interp(times_s, np.arange(len(signal)) / 360.0, signal))
    for strip in strips:
        prepare_beats(strip, fs=fs)
    started_s = process_time()
    for number in range(TIMES * N_STRIPS):
        prepare_beats(strips[number % N_STRIPS], fs=fs)
    return (process_time() - started_s) / (TIMES * N_STRIPS) * 1e3


if __name__ == "__main__":
    main()
