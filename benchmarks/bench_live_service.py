"""Stream simulated leads to one process of the service, and take its processor time and delays.

Leads begin at times of their own and send four times a second, as devices do. Each continues a
stream of a quarter of an hour, so that its final blocks come as often as later on. The processor
time is that of the process that serves, with all that it does: WebSockets, looks, final blocks,
JSON. A delay is from the time at which the R-peak of a beat was recorded, which is before the
piece that it is in is whole, to the time at which the client has the beat. Clients run on the same
machine, so the delays are those of a machine that has cores to spare.

Writes the part `service` of ``benchmarks/results/live.json``, or `few_leads`; :mod:`bench_live`
writes the others.

::

    make bench-live-service ARGS="--leads 100 --seconds 60"
"""

from __future__ import annotations

import argparse
import asyncio
import gc
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
from live_results import write_results
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
from ecg_lib.classifier.live.beats import Mark
from ecg_lib.classifier.live.live_lead import LiveConfig
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from flows.release.load_released import REFERENCE

_FS: Final = 250.0
_PIECE_S: Final = 0.25
_SIGNAL_S: Final = 120.0
_SENT_AT_ONCE: Final = 60_000
"""Samples in a message while the history is sent."""

_SETTLE_S: Final = 15.0
"""Of each lead, before anything is measured."""

_MARK: Final = Mark(5, round(5 * LiveConfig().block_s * _FS))
"""Each lead continues after these blocks, and sends the history that the next one needs."""


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
            ws_ping_interval=None,
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            lifespan="off",
        )
        # As in a worker of the host.
        sys.setswitchinterval(0.001)
        gc.collect()
        gc.freeze()
        uvicorn.Server(config).run([listener])


async def stream(
    url: str,
    signal_mv: NDArray[np.float32],
    number: int,
    seconds: float,
    delays_s: list[float],
    all_begin: asyncio.Barrier,
) -> None:
    """Send one lead in its own time, and note the delays of its beats."""
    rng = random.Random(number)  # noqa: S311  no secret
    piece, config = round(_PIECE_S * _FS), LiveConfig()
    # The next block of each lead is due at another time within the length of one.
    until_due_s = rng.random() * config.block_s
    known = _MARK.position + round((config.final_after_s - until_due_s) * _FS) // piece * piece
    sent_at: dict[int, float] = {}
    async with connect(url, compression=None, proxy=None, ping_interval=None) as socket_:
        start = {
            "type": "start",
            "session": f"bench-lead-{number:08d}",
            "sampling_rate": _FS,
            "mark": _MARK._asdict(),
        }
        await socket_.send(json.dumps(start))
        position = json.loads(await socket_.recv())["send_from"]
        while position < known:
            count = (known - position) % _SENT_AT_ONCE or _SENT_AT_ONCE
            await socket_.send(_pack(signal_mv, position, count))
            position += count
        while json.loads(await socket_.recv())["received_to"] < known:
            pass
        hearing = asyncio.create_task(_hear(socket_, known, sent_at, delays_s))
        await all_begin.wait()
        await asyncio.sleep(rng.random() * _PIECE_S * 4)
        begin = time.monotonic()
        for index in range(round((seconds + _SETTLE_S) / _PIECE_S)):
            await asyncio.sleep(max(0.0, begin + (index + 1) * _PIECE_S - time.monotonic()))
            sent_at[position // piece] = time.monotonic()
            await socket_.send(_pack(signal_mv, position, piece))
            position += piece
        await asyncio.sleep(2.0)
        if hearing.done():
            hearing.result()
        hearing.cancel()


def _pack(signal_mv: NDArray[np.float32], position: int, count: int) -> bytes:
    """Pack samples of a signal that begins again when it ends."""
    places = np.arange(position, position + count) % len(signal_mv)
    return struct.pack("<Q", position) + signal_mv[places].tobytes()


async def _hear(
    socket_: ClientConnection, known: int, sent_at: dict[int, float], delays_s: list[float]
) -> None:
    piece, reported_to = round(_PIECE_S * _FS), known + round(_SETTLE_S * _FS)
    async for text in socket_:
        message, now = json.loads(text), time.monotonic()
        for beat in message.get("beats", ()):
            position = beat["position_sample"]
            if position >= reported_to:
                # The sample itself was taken before its piece was whole.
                age_s = _PIECE_S - (position % piece) / _FS
                delays_s.append(now - sent_at[position // piece] + age_s)
        reported_to = max(reported_to, message.get("to", 0))


async def _measure(
    url: str, process: psutil.Process, n_leads: int, seconds: float
) -> dict[str, float]:
    patients = [draw_patient(seed) for seed in range(8)]
    signals = [
        simulate_record("bench", patient=patient, duration_s=_SIGNAL_S, seed=seed, fs=_FS)
        .signal_mv()
        .astype(np.float32)
        for seed, patient in enumerate(patients)
    ]
    delays_s: list[float] = []
    all_begin = asyncio.Barrier(n_leads + 1)
    leads = [
        asyncio.create_task(stream(url, signals[number % 8], number, seconds, delays_s, all_begin))
        for number in range(n_leads)
    ]
    await all_begin.wait()
    await asyncio.sleep(_SETTLE_S)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(seconds - 2.0)
    used_s, lasted_s = sum(process.cpu_times()[:2]) - before, time.monotonic() - began
    await asyncio.gather(*leads)
    of_a_second = used_s / lasted_s / n_leads
    measured = {
        "leads": n_leads,
        "seconds": round(lasted_s, 1),
        "ms_a_lead_second": round(1e3 * of_a_second, 2),
        "leads_a_core": round(1 / of_a_second),
        "delay_p50_s": round(float(np.median(delays_s)), 2),
        "delay_p99_s": round(float(np.quantile(delays_s, 0.99)), 2),
        "beats": len(delays_s),
        "memory_mib": round(process.memory_info().rss / 2**20),
    }
    sys.stdout.write(
        "{leads} leads: {ms_a_lead_second:.2f} ms of a processor for a second of a lead, "
        "{leads_a_core} leads a core; delay {delay_p50_s:.2f} s (median), {delay_p99_s:.2f} s "
        "(99 %) of {beats} beats; {memory_mib} MiB\n".format(**measured)
    )
    return measured


def main() -> None:
    """Start a process that serves, and stream to it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--leads", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument(
        "--part",
        choices=("service", "few_leads"),
        default="service",
        help="of the results; few leads show delays on a machine with other work",
    )
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
            measured = asyncio.run(
                _measure(url, psutil.Process(server.pid), arguments.leads, arguments.seconds)
            )
            write_results(**{arguments.part: measured})
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
