"""Stream simulated leads to one process of the service, and take its processor time and delays.

Leads begin at times of their own and send four times a second, as devices do. The processor time is
that of the process that serves, with JSON and WebSockets; a delay is from the time at which the
R-peak of a beat was sent, with the piece that it is in, to the time at which the client has the
beat. A lead has no final beats in its first five minutes: in a shorter run their cost is not in it
(`make bench-live` has it). Clients run on the same machine, so the delays are those of a machine
that has cores to spare.

::

    make bench-live-service ARGS="--leads 100 --seconds 60"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import uvicorn
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect

from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_store import JobStore
from bentos.routes.app import make_app
from bentos.routes.edge import Edge
from bentos.runtime.limits.connections import GuardedWebSocket, make_protocol
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import read_bundle
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from flows.release.load_released import REFERENCE

_FS: Final = 250.0
_PIECE_S: Final = 0.25
_SIGNAL_S: Final = 120.0
_SETTLE_S: Final = 15.0
"""Of each lead, before anything is measured."""


def serve(listener: socket.socket, most: int) -> None:
    """Run one process of the service."""
    with tempfile.TemporaryDirectory() as home:
        runtime = Runtime(Settings(home=Path(home), live_leads=most), has_host=False)
        bundle = read_bundle(REFERENCE)
        names = ("name", "version", "bento_tag")
        runtime.live.use(
            LoadedModel(
                classifier=BeatClassifier.load(bundle),
                bundle=bundle,
                info=dict.fromkeys(names, "bench"),
            )
        )
        app = make_app()
        app.state.runtime = runtime
        store = JobStore(runtime.settings.recordings_dir)
        app.state.recordings = JobQueue(store, runtime.settings, wake=lambda: None)
        config = uvicorn.Config(
            Edge(app),
            http=make_protocol(8192),
            ws=GuardedWebSocket,
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            lifespan="off",
        )
        sys.setswitchinterval(0.001)
        uvicorn.Server(config).run([listener])


async def stream(
    url: str, signal_mv: NDArray[np.float32], number: int, seconds: float, delays_s: list[float]
) -> None:
    """Send one lead in its own time, and note the delays of its beats."""
    rng = random.Random(number)  # noqa: S311  no secret
    await asyncio.sleep(rng.random() * _PIECE_S * 4)
    piece, offset = round(_PIECE_S * _FS), rng.randrange(len(signal_mv))
    sent_at: dict[int, float] = {}
    async with connect(url, compression=None, proxy=None, ping_interval=None) as socket_:
        start = {"type": "start", "session": f"bench-lead-{number:08d}", "sampling_rate": _FS}
        await socket_.send(json.dumps(start))
        await socket_.recv()
        hearing = asyncio.create_task(_hear(socket_, sent_at, delays_s))
        begin = time.monotonic()
        for index in range(round((seconds + _SETTLE_S) / _PIECE_S)):
            await asyncio.sleep(max(0.0, begin + (index + 1) * _PIECE_S - time.monotonic()))
            first = (offset + index * piece) % (len(signal_mv) - piece)
            content = signal_mv[first : first + piece].tobytes()
            sent_at[index] = time.monotonic()
            await socket_.send(struct.pack("<Q", index * piece) + content)
        await asyncio.sleep(2.0)
        if hearing.done():
            hearing.result()
        hearing.cancel()


async def _hear(
    socket_: ClientConnection, sent_at: dict[int, float], delays_s: list[float]
) -> None:
    piece, reported_to = round(_PIECE_S * _FS), round(_SETTLE_S * _FS)
    async for text in socket_:
        message, now = json.loads(text), time.monotonic()
        for beat in message.get("beats", ()):
            position = beat["position_sample"]
            if position >= reported_to:
                # The sample itself was taken before its piece was whole.
                age_s = _PIECE_S - (position % piece) / _FS
                delays_s.append(now - sent_at[position // piece] + age_s)
        reported_to = max(reported_to, message.get("to", 0))


async def _measure(url: str, process: psutil.Process, n_leads: int, seconds: float) -> None:
    patients = [draw_patient(seed) for seed in range(8)]
    signals = [
        simulate_record("bench", patient=patient, duration_s=_SIGNAL_S, seed=seed, fs=_FS)
        .signal_mv()
        .astype(np.float32)
        for seed, patient in enumerate(patients)
    ]
    delays_s: list[float] = []
    leads = [
        asyncio.create_task(stream(url, signals[number % 8], number, seconds, delays_s))
        for number in range(n_leads)
    ]
    await asyncio.sleep(_SETTLE_S)
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(seconds - 2.0)
    used_s = sum(process.cpu_times()[:2]) - before
    await asyncio.gather(*leads)
    of_a_second = used_s / (seconds - 2.0) / n_leads
    memory = process.memory_info().rss / 2**20
    sys.stdout.write(
        f"{n_leads} leads: {1e3 * of_a_second:.2f} ms of a processor for a second of a lead, "
        f"{1 / of_a_second:.0f} leads a core; delay {np.median(delays_s):.2f} s (median), "
        f"{np.quantile(delays_s, 0.99):.2f} s (99 %) of {len(delays_s)} beats; {memory:.0f} MiB\n"
    )


def main() -> None:
    """Start a process that serves, and stream to it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--leads", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        server = multiprocessing.get_context("fork").Process(
            target=serve, args=(listener, arguments.leads)
        )
        server.start()
        try:
            time.sleep(5)  # connections wait in the backlog meanwhile
            url = f"ws://127.0.0.1:{port}/api/v1/live/"
            asyncio.run(
                _measure(url, psutil.Process(server.pid), arguments.leads, arguments.seconds)
            )
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
