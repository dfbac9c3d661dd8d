"""Measure the memory and time of ``monitor-drift`` on a log with many predictions.

Makes a home with the bundle that ships, fills its log with replayed strips and, among them,
recordings of half an hour, and runs the flow in a process of its own against the Prefect server at
PREFECT_API_URL, or one of its own where that is not set. Prints JSON with the greatest resident
size of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
TAG: Final = "ecg:bench"
LONG_S: Final = 1800.0
BATCH: Final = 1000

_RUN: Final = """
import contextlib, json, os, resource, sys, time
from prefect.testing.utilities import prefect_test_harness
from flows.monitoring.monitor_drift import monitor_drift
has_server = "PREFECT_API_URL" in os.environ
server = None if has_server else prefect_test_harness(server_startup_timeout=300)
with server or contextlib.nullcontext():
    started_s = time.monotonic()
    decision = monitor_drift(max_strips=int(sys.argv[1]))
    seconds = time.monotonic() - started_s
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"action": decision["action"], "seconds": round(seconds, 1),
                  "peak_mib": round(peak), "reason": decision["reasons"][0]}))
"""


def main() -> None:
    """Fill a log, run the flow, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--long", type=int, default=100, help="recordings of half an hour")
    parser.add_argument("--max-strips", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-monitor-") as directory:
        home = Path(directory)
        _make_home(home)
        started_s = time.monotonic()
        _fill_log(home, n_rows=arguments.rows, n_long=arguments.long)
        filled_s = time.monotonic() - started_s
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(arguments.max_strips)],
            cwd=ROOT,
            env={
                **os.environ,
                "ECG_HOME": str(home),
                "PYTHONPATH": str(ROOT),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        size_mib = (home / "monitoring.db").stat().st_size / 2**20
    measured = json.loads(done.stdout.splitlines()[-1])
    about = {"rows": arguments.rows, "long": arguments.long, "log_mib": round(size_mib)}
    sys.stdout.write(json.dumps({**about, "fill_seconds": round(filled_s), **measured}) + "\n")


def _make_home(home: Path) -> None:
    from ecg_lib.classifier.bundle import read_bundle
    from ecg_lib.operations.keys.signatures import make_key, sign_release
    from ecg_lib.operations.releases import (
        CURRENT,
        NOT_SERVING,
        Release,
        bento_source,
        hash_code,
        model_directory,
        write_release,
    )
    from ecg_lib.operations.settings import Settings
    from flows.release.load_released import REFERENCE

    release = Release(
        bento_tag=TAG,
        model_tag="ecg_bundle:bench",
        bundle_hash=read_bundle(REFERENCE).hash,
        code_hash=hash_code(ROOT),
        model_version="1",
        released_at=(datetime.now(UTC) - timedelta(days=2)).isoformat(),
    )
    source = bento_source(home / "bentoml", release)
    source.mkdir(parents=True)
    not_packaged = [Path(folder).name for folder in NOT_SERVING]
    for package in ("bentos", "ecg_lib"):
        shutil.copytree(
            ROOT / package,
            source / package,
            ignore=shutil.ignore_patterns("__pycache__", *not_packaged),
        )
    shutil.copytree(REFERENCE, model_directory(home / "bentoml", release) / "bundle")
    settings = Settings(home=home)
    make_key(settings)
    sign_release(settings, release, why="a benchmark")
    write_release(settings.serving_dir / CURRENT, release)


def _fill_log(home: Path, *, n_rows: int, n_long: int) -> None:
    from ecg_lib.classifier.bundle import read_bundle
    from ecg_lib.operations.drift.observation import OBSERVED_COLUMNS, read_reference
    from ecg_lib.operations.prediction_log import PredictionLog
    from ecg_lib.operations.prediction_rows import PredictionRow
    from flows.release.load_released import REFERENCE

    bundle = read_bundle(REFERENCE)
    reference = read_reference(bundle.read_drift_reference())
    strips = [
        {
            name: reference.columns[name][reference.strip == strip].tolist()
            for name in OBSERVED_COLUMNS
        }
        for strip in range(min(reference.n_strips, 500))
    ]
    every = n_rows // n_long if n_long else n_rows + 1
    begin = datetime.now(UTC) - timedelta(hours=20)

    def rows() -> Iterator[PredictionRow]:
        for index in range(n_rows):
            strip, is_long = index % len(strips), index % every == 0
            observed = strips[strip]
            if is_long:  # 40 beats a minute for half an hour
                observed = {name: (values * 1200)[:2400] for name, values in observed.items()}
                observed["stretch"] = [beat * 180 // 2400 for beat in range(2400)]
            beats = [
                {"beat_index": at, "arrhythmia_type": kind, "confidence": 0.99, "note": "x" * 800}
                for at, kind in enumerate(observed["arrhythmia_type"])
            ]
            yield PredictionRow(
                prediction_id=f"p{index:08d}",
                created_at=begin + index * timedelta(milliseconds=500),
                patient_key=f"patient-{index % 997}",
                bundle_hash=bundle.hash,
                bento_tag=TAG,
                duration_s=LONG_S if is_long else float(reference.strip_s[strip]),
                response={"beat_predictions": beats if is_long else beats[:1]},
                observed=observed,
            )

    log = PredictionLog(f"sqlite:///{home / 'monitoring.db'}")
    log.create_tables()
    batch: list[PredictionRow] = []
    for row in rows():
        batch.append(row)
        if len(batch) == BATCH:
            log.add_predictions(batch)
            batch = []
    log.add_predictions(batch)
    log.close()


if __name__ == "__main__":
    main()
