"""The memory of a drift check does not grow with the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

ROOT = Path(__file__).parents[4]


def _measure(n_rows: int, n_long: int) -> dict[str, Any]:
    """Run the benchmark, which makes a home and a log and runs the flow in a process."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("ECG_")}
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "bench_monitor.py")),
            *("--rows", str(n_rows), "--long", str(n_long)),
        ],
        cwd=ROOT,
        env=given | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_check_of_five_times_the_traffic_and_its_long_recordings_takes_no_more_memory(
    prefect_server: None,
) -> None:
    small, large = _measure(2000, 0), _measure(10_000, 100)
    sys.stdout.write(f"{small['peak_mib']} MiB of 2,000 rows, {large['peak_mib']} of 10,000\n")
    assert small["peak_mib"] < 600
    assert large["peak_mib"] < 600
    # Their 100 recordings of half an hour would take 700 MiB, and 8,000 rows more 100 MiB.
    assert large["peak_mib"] - small["peak_mib"] < 60
