"""Keep the service at 80 % of what it can do for some minutes, and look whether it stays as it was.

First the greatest throughput of eight clients is measured, then as many clients ask at a pace below
it. The service must keep the pace and answer every request with 201, its memory (PSS of all its
processes) must not grow, and when the load is over every answer must be in the prediction log once.

Writes what it saw, minute by minute, and what was wrong with it, to
``benchmarks/results/soak.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from bench_service import CLIENTS, N_STRIPS, RESULTS, describe_run, home_of_checkout
from clients import (
    BenchmarkError,
    LoadFigures,
    Server,
    ask_together,
    make_post,
    make_strips,
    percentile,
    serve_home,
)

SHARE: Final = 0.8
WARM_UP_S: Final = 15.0
SETTLED_S: Final = 60.0
"""Memory is looked at from here on: pools and caches are full then."""
SAMPLE_EVERY_S: Final = 5.0
FEWEST_SAMPLES: Final = 10
FLAT_SHARE: Final = 0.05
"""Growth over the whole soak that counts as none, as a share of the memory."""
LOG_S: Final = 60.0
FEWEST_MINUTES: Final = 3.0
"""Two are looked at for growth."""
KEPT_SHARE: Final = 0.95
"""Of the requests of its pace a soak must have had answered, else it was a lighter one."""


def main() -> int:
    """Soak; 0 when the pace was kept, nothing failed and memory is flat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="directory of a bundle")
    parser.add_argument(
        "--minutes", type=read_minutes, default=10.0, help=f"at least {FEWEST_MINUTES:g}"
    )
    parser.add_argument("--share", type=float, default=SHARE, help="of the greatest throughput")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    arguments = parser.parse_args()
    home, source = home_of_checkout(arguments.bundle)
    requests = [make_post(body) for body, _ in make_strips(N_STRIPS)]
    about = describe_run()
    with serve_home(home, source) as server:
        server.wait_for_answer(requests[0])
        log_bytes = server.log.stat().st_size
        warm = ask_together(server.port, requests, clients=CLIENTS, seconds=WARM_UP_S / 3)
        greatest = ask_together(server.port, requests, clients=CLIENTS, seconds=WARM_UP_S)
        pace_per_s = arguments.share * greatest.per_second
        _say(f"greatest throughput {greatest.per_second:.1f} /s, soaking at {pace_per_s:.1f} /s")
        minutes, memory = _soak(server, requests, pace_per_s, seconds=60 * arguments.minutes)
        log_bytes = server.log.stat().st_size - log_bytes
        soaked = sum(minute["answered"] for minute in minutes)
        answered = 1 + sum(one.statuses.get(201, 0) for one in (warm, greatest)) + soaked
        caught_up_s = _wait_for_log(home, answered)
    stored = _count_stored(home)
    slope = measure_slope(memory)
    settled = [mib for second, mib in memory if second >= SETTLED_S]
    growth = slope * arguments.minutes / float(np.median(settled))
    failed = sum(minute["failed"] for minute in minutes)
    kept = soaked / (pace_per_s * 60 * arguments.minutes)
    faults = find_faults(
        kept_share=kept, failed=failed, answered=answered, stored=stored, growth_share=growth
    )
    report = {
        "about": about,
        "greatest_per_s": round(greatest.per_second, 1),
        "pace_per_s": round(pace_per_s, 1),
        "pace_kept_share": round(kept, 4),
        "faults": faults,
        "minutes": minutes,
        "answered": answered,
        "failed": failed,
        "stored_rows": stored,
        "log_caught_up_s": caught_up_s,
        "log_bytes_per_request": round(log_bytes / answered, 1),
        "pss_slope_mib_per_min": round(slope, 3),
        "pss_growth_share": round(growth, 4),
        "pss_mib": [[round(second), round(mib, 1)] for second, mib in memory],
        "load_average_at_end": [round(load, 2) for load in os.getloadavg()],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    _say(
        f"{answered} answers, {failed} failed, {stored} rows in the log; {kept:.0%} of the pace; "
        f"memory {settled[0]:.0f} to {settled[-1]:.0f} MiB, {slope:+.2f} MiB a minute"
    )
    for fault in faults:
        _say(f"fault: {fault}")
    return int(bool(faults))


def read_minutes(text: str) -> float:
    """Read how long to soak.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is too short to tell growth.

    """
    minutes = float(text)
    if not minutes >= FEWEST_MINUTES:
        msg = f"a soak must take at least {FEWEST_MINUTES:g} minutes, got {minutes:g}"
        raise argparse.ArgumentTypeError(msg)
    return minutes


def find_faults(
    *, kept_share: float, failed: int, answered: int, stored: int, growth_share: float
) -> list[str]:
    """List the faults of a soak.

    Parameters
    ----------
    kept_share : float
        Answers, as a share of the requests that the pace asks for.
    failed : int
        Answers other than 201.
    answered, stored : int
        Answers of the whole run, and rows of them in the prediction log.
    growth_share : float
        Of the memory, over the whole soak.

    """
    checks = (
        (kept_share >= KEPT_SHARE, f"only {kept_share:.0%} of the pace was kept"),
        (failed == 0, f"{failed} requests failed"),
        (stored == answered, f"the log has {stored} rows of {answered} answers"),
        (growth_share < FLAT_SHARE, f"memory grew by {growth_share:.1%}"),
    )
    return [fault for is_met, fault in checks if not is_met]


def _soak(
    server: Server, requests: list[bytes], pace_per_s: float, *, seconds: float
) -> tuple[list[dict[str, Any]], list[tuple[float, float]]]:
    """Ask at a pace; what each minute gave, and memory by second."""
    start_s, stop = time.perf_counter(), threading.Event()
    memory: list[tuple[float, float]] = []

    def watch() -> None:
        while not stop.wait(SAMPLE_EVERY_S):
            memory.append((time.perf_counter() - start_s, server.pss_mib()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    minutes = []
    try:
        while (left_s := seconds - (time.perf_counter() - start_s)) > 1:
            load = ask_together(
                server.port,
                requests,
                clients=CLIENTS,
                seconds=min(60.0, left_s),
                pace_per_s=pace_per_s,
                health_every_s=0.5,
                any_status=True,
            )
            minutes.append(_describe(load))
    finally:
        stop.set()
        watcher.join()
    return minutes, memory


def _describe(load: LoadFigures) -> dict[str, Any]:
    answered = load.statuses.get(201, 0)
    return {
        "answered": answered,
        "failed": load.answers - answered,
        "per_s": round(load.per_second, 1),
        "p50_ms": round(percentile(load.times_s, 0.5) * 1e3, 2),
        "p99_ms": round(percentile(load.times_s, 0.99) * 1e3, 2),
        "health_p50_ms": round(percentile(load.health_times_s, 0.5) * 1e3, 2),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def measure_slope(memory: list[tuple[float, float]]) -> float:
    """Slope of the memory after it has settled, in MiB a minute, by least squares.

    Raises
    ------
    BenchmarkError
        If it was measured too seldom to tell.

    """
    settled = [(second / 60, mib) for second, mib in memory if second >= SETTLED_S]
    if len(settled) < FEWEST_SAMPLES:
        msg = (
            f"memory must be measured {FEWEST_SAMPLES} times at least, it was {len(settled)} times"
        )
        raise BenchmarkError(msg)
    slope, _ = np.polyfit(*np.array(settled).T, deg=1)
    return float(slope)


def _wait_for_log(home: Path, answered: int) -> float:
    """Wait until the log has every answer, or for a minute; say how long that took."""
    start_s = time.perf_counter()
    while (took_s := time.perf_counter() - start_s) < LOG_S and _count_stored(home) < answered:
        time.sleep(0.2)
    return round(took_s, 1)


def _count_stored(home: Path) -> int:
    with contextlib.closing(sqlite3.connect(home / "monitoring.db", timeout=30)) as database:
        ((count,),) = database.execute("SELECT count(*) FROM predictions").fetchall()
    return int(count)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
