"""Measure what a candidate costs the requests of a service: in shadow, and in canary.

The candidate is the served model itself, so that what differs is the rollout alone. In every round
the service is started without a candidate, with one in shadow, and with one that answers 10 % and
50 % of the people, so that what else the machine does meets all of them; figures are medians over
rounds. Each person of the traffic sends one strip in turn.

    python benchmarks/bench_rollout.py --rounds 3

Prints a table in Markdown, and writes every round to ``benchmarks/results/rollout.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench_service import RESULTS, describe_run, home_of_checkout
from clients import (
    BenchmarkError,
    Connection,
    ask_one_by_one,
    ask_together,
    make_post,
    make_strips,
    percentile,
    serve_home,
)

STATES: Final = {"none": None, "shadow": 0.0, "canary 10 %": 0.1, "canary 50 %": 0.5}
"""Share of the people whom the candidate answers; None without a candidate."""

N_PEOPLE: Final = 60
N_STRIPS: Final = 16
CLIENTS: Final = 8
PACE_PER_S: Final = 20.0
WARM_UP: Final = 40
MOST_WAITS: Final = 60
N_SAME: Final = 5
"""Looks in a row that find no more: on a busy machine the comparing process waits for seconds."""
METRICS: Final = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

ROWS: Final = {
    "p50_ms": "one client without a pause, p50, ms",
    "p99_ms": "one client without a pause, p99, ms",
    "paced_p50_ms": f"{PACE_PER_S:g} requests/s of {CLIENTS} clients, p50, ms",
    "paced_p99_ms": f"{PACE_PER_S:g} requests/s of {CLIENTS} clients, p99, ms",
    "cpu_ms": "processor time of such a request with its comparison, ms",
    "per_s": f"{CLIENTS} clients without a pause, answers/s",
    "loaded_p99_ms": f"{CLIENTS} clients without a pause, p99, ms",
    "compared": f"share of {PACE_PER_S:g} requests/s that both models classified",
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300, help="of one client, a round")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load, a round")
    parser.add_argument("--out", type=Path, default=RESULTS / "rollout.json")
    arguments = parser.parse_args()
    home, source = home_of_checkout(None)
    posts = make_posts()
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.rounds):
        measured = {}
        for state, share in STATES.items():
            with opened(home, share):
                measured[state] = figures = measure(
                    home, source, posts, count=arguments.requests, seconds=arguments.seconds
                )
            shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            _say(f"round {number + 1}, {state}: {shown}")
        rounds.append(measured)
    table = write_table(rounds)
    _say(table)
    report = {"about": describe_run(), "rounds": rounds, "table": table.splitlines()}
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def make_posts() -> list[bytes]:
    """Make a request of each person."""
    strips = [body for body, _ in make_strips(N_STRIPS)]
    return [
        make_post(
            json.dumps(
                json.loads(strips[person % N_STRIPS]) | {"patient_id": f"p{person}"}
            ).encode()
        )
        for person in range(N_PEOPLE)
    ]


@contextmanager
def opened(home: Path, share: float | None) -> Iterator[None]:
    """Open a candidate that answers a share of the people, and remove it again."""
    from ecg_lib.operations.learning.rollout.candidate import (
        CANDIDATE,
        HALT,
        Candidate,
        Plan,
        Stage,
        write_candidate,
    )
    from ecg_lib.operations.releases import CURRENT, read_release

    served = read_release(home / "serving" / CURRENT)
    if served is None:
        msg = f"{home.name} must have a release"
        raise BenchmarkError(msg)
    now = datetime.now(UTC)
    files = [home / "serving" / name for name in (CANDIDATE, HALT)]
    if share is not None:
        stage = Stage(share=share, min_hours=1, min_strips=1, min_groups=1)
        candidate = Candidate(
            id=f"bench-{share}",
            release=served,
            champion=served,
            plan=Plan(stages=(stage,)),
            started_at=now,
            stage_since=now,
            who="a benchmark",
            why="a benchmark",
        )
        write_candidate(files[0], candidate)
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def measure(
    home: Path, source: Path, posts: Sequence[bytes], *, count: int, seconds: float
) -> dict[str, float]:
    """Start the service, and measure it alone, at a pace and under load."""
    with serve_home(home, source) as server:
        server.wait_for_answer(posts[0])
        ask_one_by_one(server.port, posts, count=WARM_UP)
        times_s = ask_one_by_one(server.port, posts, count=count)
        n_compared, cpu_s = settle(server.port), server.cpu_s()
        paced = ask_together(
            server.port, posts, clients=CLIENTS, seconds=seconds, pace_per_s=PACE_PER_S
        )
        n_compared = settle(server.port) - n_compared
        cpu_s = server.cpu_s() - cpu_s
        loaded = ask_together(server.port, posts, clients=CLIENTS, seconds=seconds)
        count_compared(server.port)
    return {
        "p50_ms": percentile(times_s, 0.5) * 1e3,
        "p99_ms": percentile(times_s, 0.99) * 1e3,
        "paced_p50_ms": percentile(paced.times_s, 0.5) * 1e3,
        "paced_p99_ms": percentile(paced.times_s, 0.99) * 1e3,
        "cpu_ms": cpu_s / paced.answers * 1e3,
        "per_s": loaded.per_second,
        "loaded_p99_ms": percentile(loaded.times_s, 0.99) * 1e3,
        "compared": n_compared / paced.answers,
        "load_1min": os.getloadavg()[0],
    }


def count_compared(port: int) -> float:
    """Read how many strips both models classified, and make sure that no candidate was ended."""
    with Connection(port) as connection:
        connection.ask(METRICS)
        text = connection.body.decode(errors="replace")
    if re.search(r"^ecg_rollout_halted(?:\{[^}]*\})? 1", text, re.MULTILINE):
        msg = "the candidate must be tried all the time, it was ended: the machine is too busy"
        raise BenchmarkError(msg)
    found = re.findall(r"^ecg_rollout_strips_total\{([^}]*)\} (\S+)", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if 'result="dropped"' not in labels)


def settle(port: int) -> float:
    """Wait until no more strips are compared, and return how many were."""
    found, n_same = count_compared(port), 0
    for _ in range(MOST_WAITS):
        time.sleep(1.0)
        now = count_compared(port)
        n_same = n_same + 1 if now == found else 0
        if n_same == N_SAME:
            break
        found = now
    return found


def write_table(rounds: Sequence[dict[str, dict[str, float]]]) -> str:
    """Write the medians over rounds."""
    lines = ["| | " + " | ".join(STATES) + " |", "|---" + "|---:" * len(STATES) + "|"]
    for key, text in ROWS.items():
        medians = [statistics.median(one[state][key] for one in rounds) for state in STATES]
        cells = [f"{one:.0%}" if key == "compared" else f"{one:.3g}" for one in medians]
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
