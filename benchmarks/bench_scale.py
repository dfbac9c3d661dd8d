"""Measure `analyze-recordings` with 1 and 2 processes, and model a million recordings from that.

Three parts, on the Prefect server at PREFECT_API_URL, or on one that is started for them:

- recordings of an hour, simulated, by the flow with each number of processes: hours of ECG in a
  second, and in a second of a processor, which other processes of the machine disturb little;
- strips of 10 s by the flow: the cost of a recording beside its analysis, and of a task;
- listing, rows and Parquet files by the thousand, which one process does for all the others.

The last lines put these figures into the model of `docs/explanation/scaling.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
FS_HZ: Final = 360.0
ROWS: Final = 4096
LISTED: Final = 20_000
DAY_H: Final = 24.0
MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of the flow."""

    processes: int
    recordings: int
    hours: float
    wall_s: float
    """Of the whole flow, with the start of the cluster."""
    busy_s: float
    """From the start of the first analysis to the end of the last."""
    cpu_s: float
    load: float
    """Load average of the machine at the end."""

    @property
    def hours_a_second(self) -> float:
        """Hours of ECG a second while the cluster is busy."""
        return self.hours / self.busy_s

    @property
    def hours_a_cpu_second(self) -> float:
        """Hours of ECG a second of a processor."""
        return self.hours / self.cpu_s


def main() -> None:
    """Measure, print, and write `benchmarks/results/scale.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--recordings", type=int, default=16, help="of an hour each")
    parser.add_argument("--strips", type=int, default=128, help="of 10 s each; 0 for none")
    arguments = parser.parse_args()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    with tempfile.TemporaryDirectory(prefix="ecg-scale-") as scratch:
        os.environ["ECG_HOME"] = f"{scratch}/home"
        holters, strips = Path(scratch) / "holters", Path(scratch) / "strips"
        _make(holters, arguments.recordings, duration_s=3600.0)
        _make(strips, arguments.strips, duration_s=10.0)
        with _prefect():
            runs = [_measure(holters, Path(scratch), n) for n in arguments.processes]
            short = (
                _measure(strips, Path(scratch), arguments.processes[-1])
                if arguments.strips
                else None
            )
        single = _measure_single(Path(scratch))
    _tell(runs, short, single)
    results = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs": [asdict(run) for run in runs],
        "strips": None if short is None else asdict(short),
        "one_process": single,
    }
    path = ROOT / "benchmarks" / "results" / "scale.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _prefect() -> Iterator[None]:
    """Use the Prefect server at PREFECT_API_URL, or start one with an empty database."""
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


def _make(directory: Path, count: int, *, duration_s: float) -> None:
    """Write one simulated record under many names; all have the same signal file."""
    from ecg_lib.records.record import write_wfdb
    from ecg_lib.records.simulation.patients import draw_patient
    from ecg_lib.records.simulation.simulator import simulate_record

    patient = replace(draw_patient(7), heart_rate_bpm=69.5)
    record = simulate_record("r", patient=patient, duration_s=duration_s, seed=1, fs=FS_HZ)
    write_wfdb(record, directory)
    header = (directory / "r.hea").read_text(encoding="utf-8")
    for number in range(1, count):
        named = header.replace("r ", f"r{number:05d} ", 1)
        (directory / f"r{number:05d}.hea").write_text(named, encoding="utf-8")


def _measure(directory: Path, scratch: Path, processes: int) -> Run:
    import pyarrow.dataset as ds

    from flows.recordings.analyze_recordings import analyze_recordings

    out = scratch / f"out-{directory.name}-{processes}"
    started_s = time.perf_counter()
    done = analyze_recordings(
        [str(directory)], output_dir=str(out), formats=[], processes=processes
    )
    wall_s = time.perf_counter() - started_s
    columns = ["duration_s", "cpu_s", "analysis_s", "analysed_at"]
    rows: list[dict[str, Any]] = ds.dataset(done["dataset"]).to_table(columns=columns).to_pylist()
    ends = [row["analysed_at"].timestamp() for row in rows]
    begin = min(end - row["analysis_s"] for end, row in zip(ends, rows, strict=True))
    return Run(
        processes=processes,
        recordings=len(rows),
        hours=sum(row["duration_s"] for row in rows) / 3600,
        wall_s=wall_s,
        busy_s=max(ends) - begin,
        cpu_s=sum(row["cpu_s"] for row in rows),
        load=os.getloadavg()[0],
    )


def _measure_single(scratch: Path) -> dict[str, float]:
    """Measure in CPU seconds what the process of the flow does alone, for each recording."""
    from flows.recordings.batches.batch import make_failed
    from flows.recordings.batches.found import find_recordings
    from flows.recordings.batches.places import open_place
    from flows.recordings.batches.results import Output

    many = scratch / "many"
    many.mkdir()
    for number in range(LISTED):
        (many / f"r{number:06d}.edf").touch()
    output = Output(open_place(str(scratch / "rows")))
    times = [time.process_time()]
    found = find_recordings([str(many)], output=output.place)
    times.append(time.process_time())
    model = {"version": "1", "bundle_hash": "0" * 64}
    rows = [make_failed(one, "", model=model) for one in found.recordings[:ROWS]]
    for row in rows:
        output.note(row)
    times.append(time.process_time())
    output.publish(rows)
    times.append(time.process_time())
    output.settle()
    times.append(time.process_time())
    listing, noting, publishing, settling = (after - before for before, after in pairwise(times))
    parquet = sum(path.stat().st_size for path in scratch.glob("rows/recordings/*/*.parquet"))
    shutil.rmtree(many)
    return {
        "list_us": 1e6 * listing / LISTED,
        "note_us": 1e6 * noting / ROWS,
        "publish_us": 1e6 * publishing / ROWS,
        "settle_us": 1e6 * settling / ROWS,
        "row_bytes": parquet / ROWS,
    }


def _tell(runs: list[Run], short: Run | None, single: dict[str, float]) -> None:
    for run in runs:
        _say(
            f"{run.processes} processes: {run.recordings} recordings, {run.hours:.1f} h of ECG, "
            f"flow {run.wall_s:.1f} s, busy {run.busy_s:.1f} s: {run.hours_a_second:.3f} h/s, "
            f"{run.hours_a_cpu_second:.3f} h per second of a processor (load {run.load:.0f})"
        )
    for few, more in pairwise(runs):
        _say(
            f"from {few.processes} to {more.processes} processes: {few.busy_s / more.busy_s:.2f} "
            f"times as fast, {more.cpu_s / few.cpu_s:.2f} times the processor"
        )
    if short is not None:
        _say(
            f"strips of 10 s: {short.recordings} in {short.busy_s:.1f} s with {short.processes} "
            f"processes, {1e3 * short.cpu_s / short.recordings:.0f} ms of a processor each"
        )
    _say(
        "the flow's process, for each recording: list {list_us:.0f} us, publish "
        "{publish_us:.0f} us, read again {settle_us:.0f} us; a worker notes a row in "
        "{note_us:.0f} us; a row takes {row_bytes:.0f} bytes of Parquet".format(**single)
    )
    rate = min(run.hours_a_cpu_second for run in runs)
    core_h = MILLION * DAY_H / rate / 3600
    alone_s = MILLION * (single["list_us"] + single["publish_us"] + single["settle_us"]) / 1e6
    _say(f"a million days of one lead: {core_h:,.0f} hours of a core")
    _say(f"  the flow's process is busy for {alone_s / 60:.0f} min of that run")
    _say(f"  so it limits beyond {core_h * 3600 / alone_s:,.0f} cores")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
