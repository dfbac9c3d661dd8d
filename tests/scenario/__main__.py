"""The pipeline on PostgreSQL and S3 with workers and replicas that are killed: `make scenario`.

A machine with the flows, a second sweep worker and two replicas of the service, each with a home of
its own, share PostgreSQL, an S3 API and nothing else. While clients send predictions, the pipeline
trains and releases a champion. Meanwhile the worker and a replica are killed and start again,
PostgreSQL ends all connections, and the S3 server stops answering for some seconds. In the end the
champion must equal the one of an undisturbed run with the same seed on SQLite and files, both
replicas must serve it, and every answer must be in the log.

Prints the figures, writes ``benchmarks/results/scenario.json``, and ends with 1 if anything is not
as it must be.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.scenario.report import find_faults, write_result, write_table
from tests.scenario.world import NOWHERE, making_world

RESULTS: Final = Path(__file__).parents[2] / "benchmarks" / "results"


def main() -> int:
    """Run the scenario; 0 when everything is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8, help="of the sweep; four run together")
    parser.add_argument("--pace", type=float, default=4.0, help="predictions a second")
    parser.add_argument("--keep", action="store_true", help="keep the homes and logs")
    parser.add_argument("--out", type=Path, default=RESULTS / "scenario.json")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="ecg-scenario-"))
    started_s, is_kept = time.monotonic(), True
    about = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_at_start": round(os.getloadavg()[0], 1),
    }

    def say(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started_s), 60)
        sys.stdout.write(f"{minutes:02}:{seconds:02} {line}\n")
        sys.stdout.flush()

    for name in [name for name in os.environ if name.startswith(("ECG_", "AWS_"))]:
        del os.environ[name]
    try:
        with making_world(root) as world:
            say(f"PostgreSQL and the S3 server run; homes and logs in {root}")
            # Prefect reads its settings when it is imported: those of the scenario must be there.
            os.environ.update(
                world.settings, ECG_HOME=str(root / "flows"), ECG_PHYSIONET_URL=NOWHERE
            )
            from tests.scenario.steps import run_steps  # noqa: PLC0415

            outcome = run_steps(world, n_trials=arguments.trials, pace=arguments.pace, say=say)
        faults = find_faults(outcome)
        about["seconds"] = round(time.monotonic() - started_s)
        about["load_at_end"] = round(os.getloadavg()[0], 1)
        arguments.out.write_text(write_result(outcome, about=about, faults=faults))
        sys.stdout.write("\n" + "\n".join(write_table(outcome)) + "\n\n")
        for fault in faults:
            say(f"FAULT: {fault}")
        if not faults:
            say("same champion, served by both replicas, and no prediction lost")
        is_kept = arguments.keep or bool(faults)
        return int(bool(faults))
    finally:
        if is_kept:
            say(f"homes and logs are kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
