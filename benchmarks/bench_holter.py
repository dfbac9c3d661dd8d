"""Analyse 24 h of one lead at 360 Hz, from file to results, and say what it costs.

The day is that of one simulated patient at 70 beats a minute, every hour another: 31 million
samples, about 100,000 beats. It is made once and kept. The peer is ``wfdb``'s ``xqrs``, which
finds R-peaks alone; it is run on a part of the first hour and its time is scaled to the day.
Figures are wall and CPU seconds of a fresh process, with its start, and its greatest memory.
``--days 14`` runs ``ecg analyze`` once on a WFDB record of 14 days at 250 Hz instead: 24 hours of
seven patients in turn, of another gain and noise each day.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.operations.processes.limits import ONE_THREAD

ROOT: Final = Path(__file__).parents[1]
FS_HZ: Final = 360.0
HOURS: Final = 24
PEER_S: Final = 600.0
PATCH_FS_HZ: Final = 250.0
PATIENTS: Final = 7
GAIN: Final = 200
"""Of the record of days, in counts per mV."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bundle", type=Path, help="directory of a bundle; else the released, else the shipped"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--days", type=int, help="days of a WFDB record for `ecg analyze`")
    parser.add_argument("--one", nargs=3, metavar=("DAY", "BUNDLE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _analyze_one(*map(Path, arguments.one))
        return
    if arguments.days:
        _analyze_days(arguments.days)
        return
    day = _find_day(ROOT / "var" / "bench" / f"day-{HOURS}h.npy")
    bundle = arguments.bundle or _released()
    rounds = []
    for number in range(arguments.rounds):
        ours = _measure(day, bundle)
        ours["peer_s"] = _measure_peer(day)
        rounds.append(ours)
        _say(
            f"round {number + 1}: wall {ours['wall_s']:.1f} s, CPU {ours['cpu_s']:.1f} s, "
            f"read {ours['read_s']:.1f} s, classify {ours['classify_s']:.1f} s, results "
            f"{ours['results_s']:.1f} s, peak {ours['peak_mib']:.0f} MiB; "
            f"xqrs {ours['peer_s']:.0f} s"
        )
    middle = sorted(rounds, key=lambda one: one["wall_s"])[len(rounds) // 2]
    ratios = sorted(one["peer_s"] / one["wall_s"] for one in rounds)
    _say(f"24 h of one lead at 360 Hz, {middle['beats']:.0f} beats, median of {len(rounds)}:")
    _say(f"  file to every result      {middle['wall_s']:6.1f} s   (limit 5 s)")
    _say(f"  CPU, {os.cpu_count()} cores              {middle['cpu_s']:6.1f} s   (limit 8 s)")
    _say(f"  peak memory               {middle['peak_mib']:6.0f} MiB (limit 500 MiB)")
    _say(f"  wfdb xqrs, R-peaks alone  {middle['peer_s']:6.0f} s   scaled from {PEER_S:g} s")
    _say(f"  ratio, paired             {ratios[len(ratios) // 2]:6.1f}")


def _find_day(path: Path) -> Path:
    if not path.exists():
        _say(f"making {path.name}, once")
        path.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            hours = list(pool.map(_make_hour, range(HOURS)))
        draft = path.with_name(f".{path.name}")
        np.save(draft, np.concatenate(hours))
        draft.rename(path)
    return path


def _make_hour(hour: int) -> NDArray[np.float32]:
    from ecg_lib.records.simulation.patients import draw_patient
    from ecg_lib.records.simulation.simulator import simulate_record

    patient = replace(draw_patient(7), heart_rate_bpm=69.5)
    return simulate_record("day", patient=patient, duration_s=3600.0, seed=hour).signal_mv()


def _analyze_days(days: int) -> None:
    header = _find_days(ROOT / "var" / "bench", days)
    with tempfile.TemporaryDirectory() as out:
        command = [Path(sys.executable).with_name("ecg"), "analyze", header, "--output-dir", out]
        started_s = time.perf_counter()
        with subprocess.Popen(command) as process:
            private_mib = 0.0
            while process.poll() is None:
                private_mib = max(private_mib, _read_private_mib(process.pid))
                time.sleep(0.1)
        wall_s = time.perf_counter() - started_s
        results = sum(path.stat().st_size for path in Path(out).iterdir())
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    _say(f"{days} days of one lead at {PATCH_FS_HZ:g} Hz, `ecg analyze` with every result:")
    _say(f"  wall                      {wall_s:6.0f} s   on {os.cpu_count()} cores")
    _say(f"  CPU                       {usage.ru_utime + usage.ru_stime:6.0f} s")
    _say(f"  peak memory               {private_mib:6.0f} MiB")
    _say(
        f"  with mapped files         {usage.ru_maxrss / 1024:6.0f} MiB, which the system may drop"
    )
    _say(f"  results                   {results / 2**20:6.0f} MiB")


def _read_private_mib(pid: int) -> float:
    """Read the memory of a process that is not that of files (Linux)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def _find_days(directory: Path, days: int) -> Path:
    """Make a record of several days, once; memory holds an hour of it."""
    header = directory / f"days{days}.hea"
    if header.exists():
        return header
    _say(f"making {header.stem}, once")
    directory.mkdir(parents=True, exist_ok=True)
    hours = directory / "hours.dat"
    hours.unlink(missing_ok=True)
    with ProcessPoolExecutor() as pool, hours.open("wb") as file:
        for hour in pool.map(_make_hour_of_patch, range(HOURS)):
            hour.tofile(file)
    n_hour = round(3600 * PATCH_FS_HZ)
    stored = np.memmap(hours, dtype=np.int16, mode="r").reshape(HOURS, n_hour)
    checksum, first = 0, int(stored[0, 0])
    with header.with_suffix(".dat").open("wb") as file:
        for day in range(days):
            rng = np.random.default_rng(day)
            gain = 1.0 if day == 0 else rng.uniform(0.7, 1.3)
            for hour in stored:
                noise = rng.normal(0.0, 0.01 * GAIN, n_hour)
                samples = np.rint(hour * gain + noise).astype("<i2")
                first = int(samples[0]) if file.tell() == 0 else first
                checksum += int(samples.sum(dtype=np.int64))
                samples.tofile(file)
    hours.unlink()
    signed = (checksum + 2**15) % 2**16 - 2**15
    header.write_text(
        f"{header.stem} 1 {PATCH_FS_HZ:g} {days * HOURS * n_hour}\n"
        f"{header.stem}.dat 16 {GAIN}/mV 16 0 {first} {signed} 0 II\n"
    )
    return header


def _make_hour_of_patch(hour: int) -> NDArray[np.int16]:
    from ecg_lib.records.simulation.patients import draw_patient
    from ecg_lib.records.simulation.simulator import simulate_record

    patient = draw_patient(100 + hour % PATIENTS)
    record = simulate_record("hour", patient=patient, duration_s=3600.0, seed=hour, fs=PATCH_FS_HZ)
    return np.rint(record.signal_mv() * GAIN).astype(np.int16)


def _released() -> Path:
    from ecg_lib.operations.settings import read_settings
    from flows.release.load_released import load_bundle_to_use

    directory: Path = load_bundle_to_use(read_settings())[1].directory
    return directory


def _measure(day: Path, bundle: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        started_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(day), str(bundle), out],
            env={**os.environ, **ONE_THREAD},
            check=True,
            capture_output=True,
        )
        wall_s = time.perf_counter() - started_s
    figures: dict[str, float] = json.loads(done.stdout)
    return {"wall_s": wall_s, **figures}


def _analyze_one(day: Path, bundle: Path, out: Path) -> None:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.bundle import read_bundle
    from ecg_lib.recordings.analysis import READ_SHARE, analyze_recording, write_result
    from ecg_lib.recordings.beat_file import write_beats
    from ecg_lib.recordings.summary import ResultFormat
    from ecg_lib.records.files.opening import open_recording

    classifier = BeatClassifier.load(read_bundle(bundle))
    started_s = time.perf_counter()
    read_at_s = started_s

    def report(share: float) -> None:
        # Progress counts blocks that were read first, then parts that were classified.
        nonlocal read_at_s
        if share <= READ_SHARE + 1e-9:
            read_at_s = time.perf_counter()

    analysis = analyze_recording(
        open_recording(day, fs=FS_HZ),
        classifier=classifier,
        model={},
        directory=out,
        threads=min(2, os.cpu_count() or 1),
        report=report,
    )
    analysed_at_s = time.perf_counter()
    for kind in ResultFormat:
        write_result(analysis, out / kind.file_name, kind=kind, recording_id="bench")
    write_beats(analysis.summary, out)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "read_s": read_at_s - started_s,
        "classify_s": analysed_at_s - read_at_s,
        "results_s": time.perf_counter() - analysed_at_s,
        "peak_mib": usage.ru_maxrss / 1024,
        "beats": len(analysis.summary.beats),
    }
    sys.stdout.write(json.dumps(figures))


def _measure_peer(day: Path) -> float:
    import wfdb.processing

    signal = np.load(day, mmap_mode="r")[: round(PEER_S * FS_HZ)].astype(np.float64)
    started_s = time.perf_counter()
    wfdb.processing.xqrs_detect(signal, fs=FS_HZ, verbose=False)
    return (time.perf_counter() - started_s) * HOURS * 3600 / PEER_S


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
