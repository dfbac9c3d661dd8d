"""Clients that cost little, so that what is measured is the service, and the servers they ask.

Requests are whole before the clock starts; an answer is read to its last byte before it stops.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import psutil

START_S: Final = 180.0
ANSWER_S: Final = 60.0
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_CHUNK: Final = 1 << 18


class BenchmarkError(Exception):
    """A server did not do what it is measured at."""


def make_post(
    body: bytes, *, media_type: str = "application/json", query: str = "", extra: bytes = b""
) -> bytes:
    """Make a request for a prediction."""
    head = (
        f"POST /api/v1/predictions/{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + extra + b"\r\n" + body


class Connection:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = bytearray()
        self._whole: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, request: bytes) -> int:
        """Send a request and give the status of its answer."""
        self.socket.sendall(request)
        while (status := self.read()) is None:
            pass
        return status

    def read(self) -> int | None:
        """Read what is there; the status when the answer is whole."""
        piece = self.socket.recv(_CHUNK)
        if not piece:
            msg = "the server must answer, it closed the connection"
            raise BenchmarkError(msg)
        self._answer += piece
        if self._whole is None:
            end = self._answer.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = _LENGTH.search(self._answer, 0, end)
            self._whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._answer) < self._whole:
            return None
        status = int(self._answer[9:12])
        self.body = bytes(self._answer[: self._whole])
        del self._answer[: self._whole]
        self._whole = None
        return status


class Server:
    """A server in processes of its own, from exec to its end.

    Parameters
    ----------
    command : sequence of str
        ``{port}`` in it is the port.
    environment : mapping
        In addition to that of this process, without its ``ECG_`` variables.
    log : Path
        Where its output goes.

    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, log: Path
    ) -> None:
        self.port = _free_port()
        self.started_s = time.perf_counter()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("ECG_")
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [part.format(port=self.port) for part in command],
                env={**inherited, **environment, "ECG_SERVICE_PORT": str(self.port)},
                cwd=log.parent,
                stdout=output,
                stderr=output,
            )
        self.log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        children = self._tree()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        for one in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()

    def wait_for_answer(self, request: bytes) -> float:
        """Ask until the first 201; give the seconds since the process was started."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with (
                contextlib.suppress(OSError, BenchmarkError),
                Connection(self.port) as connection,
            ):
                if connection.ask(request) == 201:
                    return time.perf_counter() - self.started_s
            time.sleep(0.01)
        tail = self.log.read_text(errors="replace")[-2000:]
        msg = f"a server must answer within {START_S:g} s of its start, it did not:\n{tail}"
        raise BenchmarkError(msg)

    def pss_mib(self) -> float:
        """Memory of all its processes; what they share counts once."""
        total = 0
        for one in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_full_info().pss
        return total / 2**20

    def cpu_s(self) -> float:
        """Processor time that its processes have used."""
        total = 0.0
        for one in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def n_processes(self) -> int:
        """How many processes it has."""
        return len(self._tree())

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self.process.pid)
            return [me, *me.children(recursive=True)]
        return []


def serve_home(
    home: Path,
    source: Path,
    *,
    workers: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start the service of a home that ``make_home.py`` made; `workers` None is its own choice."""
    given = {
        **(environment or {}),
        "ECG_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(source),
    }
    if workers is not None:
        given["ECG_SERVICE_WORKERS"] = str(workers)
    return Server([sys.executable, "-m", "bentos.host"], given, log=home / "service.log")


def ask_one_by_one(port: int, requests: Sequence[bytes], *, count: int) -> list[float]:
    """Ask over one connection; seconds from request to whole answer."""
    times_s = []
    with Connection(port) as connection:
        for number in range(count):
            started_s = time.perf_counter()
            status = connection.ask(requests[number % len(requests)])
            times_s.append(time.perf_counter() - started_s)
            _check(status, connection)
    return times_s


@dataclass(slots=True)
class LoadFigures:
    """The figures of a load of several clients."""

    seconds: float
    answers: int = 0
    times_s: list[float] = field(default_factory=list)
    health_times_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Answers in a second."""
        return self.answers / self.seconds


def ask_together(
    port: int,
    requests: Sequence[bytes],
    *,
    clients: int,
    seconds: float,
    pace_per_s: float | None = None,
    health_every_s: float = 0.1,
    any_status: bool = False,
) -> LoadFigures:
    """Ask over several connections at once, and ``/health`` over another now and then.

    Parameters
    ----------
    port : int
    requests : sequence of bytes
        Sent in turn.
    clients : int
        Connections; each sends its next request when it has its answer.
    seconds : float
        How long.
    pace_per_s : float, optional
        Requests a second of all together; without it as many as are answered.
    health_every_s : float
    any_status : bool
        Count answers other than 201 instead of refusing them.

    """
    figures = LoadFigures(seconds)
    start_s = time.perf_counter()
    end_s = start_s + seconds
    sent = 0
    idle: list[Connection] = []
    since: dict[Connection, float] = {}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        idle = [stack.enter_context(Connection(port)) for _ in range(clients)]
        health = stack.enter_context(Connection(port))
        for connection in (*idle, health):
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        next_health_s = start_s
        while (now_s := time.perf_counter()) < end_s or since:
            is_open = now_s < end_s
            if is_open and health not in since and now_s >= next_health_s:
                health.socket.sendall(HEALTH)
                since[health], next_health_s = time.perf_counter(), now_s + health_every_s
            while is_open and idle:
                if pace_per_s is not None and sent >= (now_s - start_s) * pace_per_s:
                    break
                connection = idle.pop()
                since[connection] = time.perf_counter()
                connection.socket.sendall(requests[sent % len(requests)])
                sent += 1
            ready = selector.select(timeout=0.002 if is_open and pace_per_s else 0.05)
            for key, _ in ready:
                connection = key.data
                status = connection.read()
                if status is None:
                    continue
                took_s = time.perf_counter() - since.pop(connection)
                if connection is health:
                    figures.health_times_s.append(took_s)
                    continue
                idle.append(connection)
                figures.answers += 1
                figures.times_s.append(took_s)
                figures.statuses[status] = figures.statuses.get(status, 0) + 1
                if not any_status:
                    _check(status, connection)
    figures.seconds = time.perf_counter() - start_s
    return figures


def _check(status: int, connection: Connection) -> None:
    if status != 201:
        msg = f"a prediction must be answered with 201, got {status}: {connection.body[-300:]!r}"
        raise BenchmarkError(msg)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def percentile(times_s: Sequence[float], share: float) -> float:
    """The value that a share of all does not exceed."""
    ranked = sorted(times_s)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def make_strips(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Make strips of 10 s at 360 Hz as JSON and as float32."""
    import numpy as np
    import orjson

    from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

    kinds = (
        StripKind.NORMAL,
        StripKind.ISOLATED_PVC,
        StripKind.BIGEMINY,
        StripKind.COUPLET,
    )
    for number in range(count):
        signal = simulate_strip(kinds[number % len(kinds)], seed=number).signal_mv()
        rounded = [round(sample, 4) for sample in signal.astype(float).tolist()]
        body = orjson.dumps({"signal_data": rounded, "sampling_rate": 360.0})
        yield body, np.array(rounded, dtype="<f4").tobytes()
