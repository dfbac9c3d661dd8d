"""Measure two clients with 10 s strips while a third one, with a key of its own, attacks.

The attacker sends strips of half an hour on many connections, compressed bombs, heads without an
end, floods of wrong keys, small recordings, and holds idle connections. An attacker usually has a
machine of its own, so its processes run only while the service leaves a processor idle. Prints
JSON: percentiles of the two clients without and with the attack, and the answers that the attacker
got.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import multiprocessing
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Final

from bench_service import home_of_checkout
from clients import BenchmarkError, Connection, make_post, make_strips, percentile, serve_home

from ecg_lib.operations.keys.api_keys import add_api_key
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

VICTIMS: Final = ("alice", "bob")
ATTACKER: Final = "mallory"
INTERVAL_S: Final = 0.1
PER_MINUTE: Final = 1200
"""Limit of each key, twice what the two clients send; a service for others must have one."""
LONG_S: Final = 1800.0
LIMIT_MS: Final = 100.0
N_IDLE: Final = 200

_FORKS: Final = multiprocessing.get_context("fork")


def main() -> int:
    """Print what was measured; 1 when the 99th percentile is not below the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    arguments = parser.parse_args()
    home, source = home_of_checkout(None)
    keys = home / "keys"
    keys.unlink(missing_ok=True)
    for name in (*VICTIMS, ATTACKER):
        add_api_key(keys, name, name=name)
    environment = {"ECG_API_KEYS_FILE": str(keys), "ECG_RATE_LIMIT_PER_MIN": str(PER_MINUTE)}
    with serve_home(home, source, environment=environment) as server:
        strip = next(iter(make_strips(1)))[0]
        server.wait_for_answer(make_post(strip, extra=_key(VICTIMS[0])))
        _measure(server.port, strip, seconds=3.0)  # warm
        calm, _ = _measure(server.port, strip, seconds=arguments.seconds)
        attacked, answers = _measure(
            server.port, strip, seconds=arguments.seconds, attacks=_make_attacks()
        )
        memory_mib = round(server.pss_mib())
    load = os.getloadavg()[0]
    sys.stdout.write(
        json.dumps(
            {
                "calm": calm,
                "attacked": attacked,
                "attacker": answers,
                "memory_mib": memory_mib,
                "load": round(load, 1),
                "cores": os.cpu_count(),
            },
            indent=2,
        )
        + "\n"
    )
    return int(attacked["p99_ms"] >= LIMIT_MS or attacked["failed"] > 0)


def _measure(
    port: int,
    strip: bytes,
    *,
    seconds: float,
    attacks: Sequence[Callable[[int], str]] = (),
) -> tuple[dict[str, Any], dict[str, int]]:
    stop, times, answers = _FORKS.Event(), _FORKS.Queue(), _FORKS.Queue()
    attackers = [
        _FORKS.Process(target=_attack, args=(attack, port, stop, answers)) for attack in attacks
    ]
    victims = [
        _FORKS.Process(target=_ask, args=(port, make_post(strip, extra=_key(name)), seconds, times))
        for name in VICTIMS
    ]
    for process in attackers:
        process.start()
    time.sleep(2.0 if attackers else 0.0)  # until the queues are full
    for process in victims:
        process.start()
    measured = [times.get() for _ in victims]
    stop.set()
    got: Counter[str] = Counter()
    for _ in attackers:
        got.update(answers.get())
    for process in (*victims, *attackers):
        process.join()
    milliseconds = [1e3 * one for times_s, _ in measured for one in times_s]
    figures = {
        f"p{share:g}_ms": round(percentile(milliseconds, share / 100), 1) for share in (50, 95, 99)
    }
    failed = sum(n_failed for _, n_failed in measured)
    return {**figures, "requests": len(milliseconds), "failed": failed}, dict(got)


def _ask(port: int, request: bytes, seconds: float, times: Queue[Any]) -> None:
    """Ask at a steady rate; a request that is late is sent at once."""
    taken, n_failed = [], 0
    end_s = time.monotonic() + seconds
    with Connection(port) as connection:
        while time.monotonic() < end_s:
            due_s = time.perf_counter()
            n_failed += connection.ask(request) != 201
            taken.append(time.perf_counter() - due_s)
            time.sleep(max(0.0, INTERVAL_S - taken[-1]))
    times.put((taken, n_failed))


def _attack(attack: Callable[[int], str], port: int, stop: Event, answers: Queue[Any]) -> None:
    _yield_processor()
    got: Counter[str] = Counter()
    while not stop.is_set():
        try:
            got[attack(port)] += 1
        except (OSError, BenchmarkError):
            got["closed"] += 1
    answers.put(got)


def _yield_processor() -> None:
    """Run only while the service leaves a processor idle."""
    # Linux divides processors among sessions first, and applies priorities within each.
    os.setsid()
    group = Path("/proc/self/autogroup")
    while group.exists():
        try:
            group.write_text("19")
            break
        except BlockingIOError:  # Linux limits how often users change it
            time.sleep(0.1)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _make_attacks() -> list[Callable[[int], str]]:
    signal = simulate_strip(StripKind.ISOLATED_PVC, duration_s=LONG_S, fs=360.0, seed=1).signal_mv()
    long = json.dumps(
        {"signal_data": [round(float(one), 3) for one in signal], "sampling_rate": 360.0}
    ).encode()
    bomb = gzip.compress(b'{"signal_data": [' + b"0," * 2**26 + b"0]}", 9)
    rows = "\n".join(str(n % 7 / 10) for n in range(5000)).encode()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="r.csv"\r\n\r\nMLII\n'
        + rows
        + b'\r\n--x\r\nContent-Disposition: form-data; name="sampling_rate"\r\n\r\n250\r\n--x--\r\n'
    )
    upload = (
        b"POST /api/v1/recordings/ HTTP/1.1\r\nHost: 127.0.0.1\r\n" + _key(ATTACKER)
        + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n" % len(form)
        + form
    )  # fmt: skip
    wrong = make_post(b"{}", extra=_key("guess"))
    send_long = _sender(make_post(long, extra=_key(ATTACKER)), "long strip")
    packed = _key(ATTACKER) + b"Content-Encoding: gzip\r\n"
    return [
        *[send_long] * 6,
        *[_sender(make_post(bomb, extra=packed), "bomb")] * 2,
        _sender(wrong, "wrong key"),
        _sender(upload, "recording"),
        _flood_head,
        _hold_connections,
    ]


def _sender(request: bytes, name: str) -> Callable[[int], str]:
    def send(port: int) -> str:
        with Connection(port) as connection:
            return f"{name}: {connection.ask(request)}"

    return send


def _flood_head(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * 2**22)
        return f"endless head: {connection.recv(64)[9:12].decode()}"


def _hold_connections(port: int) -> str:
    """Hold many connections that send half a request, for a second."""
    with contextlib.ExitStack() as held:
        for _ in range(N_IDLE):
            connection = held.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=10)
            )
            connection.sendall(b"GET /hea")
        time.sleep(1.0)
    return f"{N_IDLE} half requests"


def _key(name: str) -> bytes:
    return f"X-API-Key: {name}\r\n".encode()


if __name__ == "__main__":
    sys.exit(main())
