"""Measure the service against a plain Keras endpoint and against an earlier commit of its own.

In every round each of them is started, measured and ended in turn, so that what else the machine
does meets all of them; figures are medians over rounds, ratios are medians of the rounds' ratios.
The earlier commit runs with the libraries of this environment, its own code and a bundle that its
own code made. Times are those of a client in another process on the same machine. What a request
costs in processor time is given too: it says what a busy machine hides.

Prints a table in Markdown, and writes every round to ``benchmarks/results/service.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from clients import (
    BenchmarkError,
    Server,
    ask_one_by_one,
    ask_together,
    make_post,
    make_strips,
    percentile,
    serve_home,
)
from make_home import KERAS_NETWORK

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
WORK: Final = ROOT / "var" / "bench"
EARLIER: Final = "e6210750"
CLIENTS: Final = 8
N_STRIPS: Final = 16
WARM_UP: Final = 20
IN_TURN: Final = 100
"""Requests with one kind of body before the next kind has its turn."""
LOG_S: Final = 2.0
"""The log of predictions is written that long after an answer at most."""
MEMORY_AFTER: Final = 100
HEALTH_EVERY_S: Final = 0.02
"""Up to five hundred in the ten seconds of a round: of a hundred, the 99th percentile is the
greatest."""

OURS: Final = "this commit"
KERAS: Final = "FastAPI + Keras"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something that is measured."""

    name: str
    start: Callable[[int | None], Server]
    """Start it, with so many workers."""
    takes_float32: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table."""

    key: str
    text: str
    unit: str
    limit: float | None = None
    """The most that is good, or the least."""
    more_is_better: bool = False

    def judge(self, value: float) -> str:
        """Say the limit and whether the value keeps it."""
        if self.limit is None:
            return ""
        is_met = value >= self.limit if self.more_is_better else value <= self.limit
        sign = ">=" if self.more_is_better else "<="
        return f"{sign} {self.limit:g}: {'met' if is_met else 'missed'}"


ROWS: Final = (
    Row(key="start_s", text="exec to first 201", unit="s", limit=3),
    Row(key="start_one_s", text="exec to first 201, 1 worker", unit="s"),
    Row(
        key="pss_mib",
        text="memory (PSS), 1 worker, after 100 requests",
        unit="MiB",
        limit=200,
    ),
    Row(key="json_p50_ms", text="JSON, 1 client, p50", unit="ms", limit=4),
    Row(key="json_p99_ms", text="JSON, 1 client, p99", unit="ms", limit=9),
    Row(key="float32_p50_ms", text="float32, 1 client, p50", unit="ms", limit=3),
    Row(key="float32_p99_ms", text="float32, 1 client, p99", unit="ms"),
    Row(key="json_cpu_ms", text="processor time of a JSON request", unit="ms"),
    Row(key="float32_cpu_ms", text="processor time of a float32 request", unit="ms"),
    Row(
        key="per_s",
        text=f"throughput, {CLIENTS} clients, JSON",
        unit="/s",
        limit=450,
        more_is_better=True,
    ),
    Row(key="health_p50_ms", text="/health meanwhile, p50", unit="ms"),
    Row(key="health_p99_ms", text="/health meanwhile, p99", unit="ms", limit=15),
)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bundle", type=Path, help="directory of a bundle; else the released, else the shipped"
    )
    parser.add_argument("--against", default=EARLIER, help="an earlier commit; 'none' for none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=400, help="of one client, a body a round")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load, a round")
    parser.add_argument("--out", type=Path, default=RESULTS / "service.json")
    arguments = parser.parse_args()
    candidates = _find_candidates(arguments.bundle, arguments.against)
    strips = list(make_strips(N_STRIPS))
    bodies = {
        "json": [make_post(body) for body, _ in strips],
        "float32": [
            make_post(body, media_type="application/octet-stream", query="?sampling_rate=360")
            for _, body in strips
        ],
    }
    rounds = []
    for number in range(arguments.rounds):
        measured = {}
        for candidate in candidates:
            measured[candidate.name] = figures = _measure(
                candidate, bodies, count=arguments.requests, seconds=arguments.seconds
            )
            shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            _say(f"round {number + 1}, {candidate.name}: {shown}")
        rounds.append(measured)
    names = [candidate.name for candidate in candidates]
    table = _write_table(rounds, names)
    _say(table)
    report = {"about": describe_run(), "rounds": rounds, "table": table.splitlines()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def describe_run() -> dict[str, Any]:
    """Describe the measurement: the code, the time and the machine."""
    return {
        "commit": _git("rev-parse", "HEAD").decode().strip(),
        "has_changes": bool(_git("status", "--porcelain", "--", "bentos", "ecg_lib", "flows")),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "niceness": os.nice(0),
    }


def _find_released() -> Path | None:
    from ecg_lib.errors import BundleError
    from ecg_lib.operations.settings import read_settings
    from flows.release.load_released import load_released_bundle

    try:
        directory: Path = load_released_bundle(read_settings())[1].directory
    except BundleError:
        return None
    return directory


def find_home(root: Path, bundle: Path | None, *, name: str) -> tuple[Path, Path]:
    """Make or find the home of a checkout; give it and the source of its bento."""
    home = WORK / name
    command = [sys.executable, str(Path(__file__).with_name("make_home.py")), str(home)]
    command += ["--root", str(root), *(["--bundle", str(bundle)] if bundle else [])]
    _say(f"making {home.name}, if it is not there")
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        msg = f"{root.name} must be able to make a release, it is not:\n{done.stderr[-3000:]}"
        raise BenchmarkError(msg)
    # Benchmarks start with the same log of predictions: none.
    for left in (*home.glob("monitoring.db*"), home / "recordings"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)
    return home, Path(json.loads(done.stdout)["source"])


def home_of_checkout(bundle: Path | None) -> tuple[Path, Path]:
    """Make or find the home of this checkout; without a bundle the released one or its own."""
    from ecg_lib.classifier.bundle import read_bundle
    from ecg_lib.operations.releases import hash_code

    bundle = bundle or _find_released()
    code = hash_code(ROOT)[:12]
    of = "shipped" if bundle is None else read_bundle(bundle).hash[:12]
    return find_home(ROOT, bundle, name=f"home-{code}-{of}")


def _find_candidates(bundle: Path | None, against: str) -> list[Candidate]:
    home, source = home_of_checkout(bundle)
    candidates = [
        Candidate(
            name=OURS,
            start=lambda workers: serve_home(home, source, workers=workers),
            takes_float32=True,
        ),
        _find_baseline(home),
    ]
    if against != "none":
        candidates.append(_find_earlier(against))
    return candidates


def _find_baseline(home: Path) -> Candidate:
    network = home / KERAS_NETWORK
    if not network.exists():
        _write_network(network)
    environment = {
        "ECG_BENCH_NETWORK": str(network),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    command = [sys.executable, "-m", "uvicorn", "keras_service:app", "--port", "{port}"]
    command += ["--log-level", "warning"]
    return Candidate(
        name=KERAS,
        start=lambda _: Server(command, environment, log=home / "keras.log"),
        takes_float32=False,
    )


def _write_network(path: Path) -> None:
    """Write a network of the usual size; a bundle has its own as ONNX alone."""
    import numpy as np

    from ecg_lib.signal_path.features import FEATURE_NAMES
    from ecg_lib.training.cnn import CnnConfig, build_cnn

    n_features = len(FEATURE_NAMES)
    build_cnn(
        CnnConfig(), feature_mean=np.zeros(n_features), feature_deviation=np.ones(n_features)
    ).save(path)


def _find_earlier(commit: str) -> Candidate:
    root = unpack_commit(commit)
    short = root.name.removeprefix("code-")
    home, source = find_home(root, None, name=f"home-{short}")
    return Candidate(
        name=f"commit {short[:7]}",
        start=lambda workers: serve_home(home, source, workers=workers),
        takes_float32=False,
    )


def unpack_commit(commit: str) -> Path:
    """Unpack the code of a commit into a directory that is named by it, once."""
    full = _git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    root = WORK / f"code-{full[:12]}"
    if not root.exists():
        with tarfile.open(fileobj=BytesIO(_git("archive", full))) as archive:
            archive.extractall(root, filter="data")
    return root


def _measure(
    candidate: Candidate, bodies: dict[str, list[bytes]], *, count: int, seconds: float
) -> dict[str, float]:
    first = bodies["json"][0]
    figures: dict[str, float] = {}
    with candidate.start(1) as server:
        figures["start_one_s"] = server.wait_for_answer(first)
        ask_one_by_one(server.port, bodies["json"], count=MEMORY_AFTER - 1)
        figures["pss_mib"] = server.pss_mib()
        names = ("json", "float32") if candidate.takes_float32 else ("json",)
        figures |= _measure_in_turn(server, {name: bodies[name] for name in names}, count=count)
    with candidate.start(None) as server:
        figures["start_s"] = server.wait_for_answer(first)
        ask_together(server.port, bodies["json"], clients=CLIENTS, seconds=min(seconds, 2.0))
        load = ask_together(
            server.port,
            bodies["json"],
            clients=CLIENTS,
            seconds=seconds,
            health_every_s=HEALTH_EVERY_S,
        )
    figures["per_s"] = load.per_second
    figures["health_p50_ms"] = percentile(load.health_times_s, 0.5) * 1e3
    figures["health_p99_ms"] = percentile(load.health_times_s, 0.99) * 1e3
    figures["load_1min"] = os.getloadavg()[0]
    return figures


def _measure_in_turn(
    server: Server, bodies: dict[str, list[bytes]], *, count: int
) -> dict[str, float]:
    """Ask with each kind of body in turn, so that what else the machine does meets all of them.

    Answers are written into the log a second later. That is waited for: else the time that it takes
    is counted with the next kind.
    """
    times_s: dict[str, list[float]] = {name: [] for name in bodies}
    cpu_s = dict.fromkeys(bodies, 0.0)
    for requests in bodies.values():
        ask_one_by_one(server.port, requests, count=WARM_UP)
    time.sleep(LOG_S)
    for start in range(0, count, IN_TURN):
        for name, requests in bodies.items():
            before_s = server.cpu_s()
            asked = min(IN_TURN, count - start)
            times_s[name] += ask_one_by_one(server.port, requests, count=asked)
            time.sleep(LOG_S)
            cpu_s[name] += server.cpu_s() - before_s
    figures = {}
    for name in bodies:
        figures[f"{name}_cpu_ms"] = cpu_s[name] / count * 1e3
        figures[f"{name}_p50_ms"] = percentile(times_s[name], 0.5) * 1e3
        figures[f"{name}_p99_ms"] = percentile(times_s[name], 0.99) * 1e3
    return figures


def _write_table(rounds: Sequence[dict[str, dict[str, float]]], names: Sequence[str]) -> str:
    others = names[1:]
    head = ["", *names, *(f"ratio to {name}" for name in others), "limit"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 2), "---"])]
    for row in ROWS:
        cells = [f"{row.text}, {row.unit}"]
        medians = {
            name: statistics.median(one[name][row.key] for one in rounds)
            for name in names
            if row.key in rounds[0][name]
        }
        cells += [f"{medians[name]:.3g}" if name in medians else "-" for name in names]
        for name in others:
            if name not in medians:
                cells.append("-")
                continue
            ratio = statistics.median(one[name][row.key] / one[OURS][row.key] for one in rounds)
            cells.append(f"{1 / ratio if row.more_is_better else ratio:.3g}")
        lines.append(_line([*cells, row.judge(medians[OURS])]))
    return "\n".join([*lines, "", "Ratios say how many times better this commit is."])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout  # noqa: S607  a benchmark of commits needs git


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
