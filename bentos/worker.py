"""One process that serves: uvicorn on the socket of the host, running the bento's application.

BentoML stored the code that runs here and is not loaded: it would take a second to start, 40 MB,
and a millisecond of every request.

It talks with the host (:mod:`bentos.host`) over another socket, one JSON object a line. It says
``{"ready": {"code_hash": ..., "serves": ..., "beats": true}}`` or ``{"failed": reason}``, and later
``{"serves": ...}`` once a second and when it has switched to another model. It is told
``{"refused": {...}}`` (a release with other code that could not be started), ``{"slowest": ...}``
(what is still served by the last of the workers to switch; null when none has a model) and
``{"drain": true}``. When the host is gone it takes no new connection, answers those that are open,
and ends.

A worker without a model takes connections only when no other has one either, so that there is an
answer that says why; else it goes on trying to load, and joins when it has.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import socket
import sys
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_runner import JobRunner
from bentos.recordings.job_store import JobStore
from bentos.routes.app import make_app
from bentos.routes.edge import Edge
from bentos.runtime.limits.connections import (
    GuardedWebSocket,
    make_protocol,
    raise_descriptor_limit,
)
from bentos.runtime.logs import set_up_logging
from bentos.runtime.predictor import Runtime
from bentos.wire.live_messages import MAX_MESSAGE_BYTES
from ecg_lib.errors import EcgError
from ecg_lib.operations.releases import read_release
from ecg_lib.operations.settings import Settings, read_settings

DRAIN_S: Final = 15.0
"""How long connections that send nothing are kept open by a worker that was replaced."""

_KEEP_ALIVE_S: Final = 75
_SWITCH_INTERVAL_S: Final = 0.001
_PAUSE_S: Final = 1.0
_TURN_S: Final = 0.001
_MOST_TURNS: Final = 10
_SHARE_AT_ONCE: Final = 1 / 8
"""Of the connections that a worker has; it takes so many more before it pauses, at least one."""

_logger = logging.getLogger(__name__)


class Worker(uvicorn.Server):
    """A uvicorn server that the host directs.

    Parameters
    ----------
    config : uvicorn.Config
    listener : socket.socket
        Of the host; other workers accept from it too.
    control : socket.socket
        Connected to the host.
    runtime : Runtime
        What answers.
    recordings : JobRunner
        What analyses recordings.

    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        listener: socket.socket,
        control: socket.socket,
        runtime: Runtime,
        recordings: JobRunner,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._control = control
        self._runtime = runtime
        self._recordings = recordings
        self._to_host: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._has_heard = False
        """The host has said whether others serve."""
        self._may_accept = asyncio.Event()
        self._readable: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report the outcome to the host."""
        await super().startup(sockets)
        loop, live = asyncio.get_running_loop(), self._runtime.live
        # Kept: a writer that nobody holds closes its connection.
        reader, self._to_host = await asyncio.open_connection(sock=self._control)
        live.when_used = lambda: loop.call_soon_threadsafe(self._switch)
        serves = live.current.info if live.current else None
        self._tell({"ready": {"code_hash": live.code_hash, "serves": serves, "beats": True}})
        self._decide_accepting()
        self._tasks += [
            loop.create_task(self._accept()),
            loop.create_task(self._follow_host(reader)),
        ]

    async def on_tick(self, counter: int) -> bool:
        """Look once a second at what may have changed."""
        if counter % 10 == 0:
            self._runtime.refresh()
            self._tell_served()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections and the runtime; uvicorn gives itself the signal again after this."""
        self._stop_accepting()
        await super().shutdown(sockets)
        self._recordings.close()
        self._runtime.close()

    async def _accept(self) -> None:
        """Accept connections, those first who have fewer.

        Every worker hears of a new connection, and the first to accept gets it: without a pause
        the one that is awake takes all that come together, and another core has nothing to do.
        A worker with many connections takes several before it pauses, so that a new client does
        not wait behind all that another one opens.
        """
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        n_taken = 0
        while True:
            await self._may_accept.wait()
            await self._wait_readable()
            if not self._may_accept.is_set():
                continue
            try:
                # In one step with the look above: a connection that is accepted is served.
                connection, _ = self._listener.accept()
            except BlockingIOError:
                continue  # another worker was faster
            except OSError as error:
                _logger.error("no connection can be accepted: %s", error.strerror)  # noqa: TRY400  the cause is the machine's
                await asyncio.sleep(_PAUSE_S)
                continue
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(self._make_protocol, connection)
            n_open, n_taken = len(self.server_state.connections), n_taken + 1
            if n_taken >= n_open * _SHARE_AT_ONCE:
                await asyncio.sleep(_TURN_S * min(n_open, _MOST_TURNS))
                n_taken = 0

    async def _wait_readable(self) -> None:
        """Wait for a connection, or until no more may be accepted; takes none itself."""
        loop = asyncio.get_running_loop()
        self._readable = loop.create_future()
        loop.add_reader(self._listener, _resolve, self._readable)
        try:
            await self._readable
        finally:
            loop.remove_reader(self._listener)

    def _decide_accepting(self) -> None:
        """Accept with a model, or when the host has said that no worker has one."""
        live = self._runtime.live
        is_alone = self._has_heard and live.slowest is None
        if self._runtime.is_draining or not (live.current is not None or is_alone):
            self._stop_accepting()
        else:
            self._may_accept.set()

    def _stop_accepting(self) -> None:
        self._may_accept.clear()
        if self._readable is not None:
            _resolve(self._readable)

    def _make_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # uvicorn's own call
            config=self.config, server_state=self.server_state, app_state={}
        )
        return protocol

    async def _follow_host(self, reader: asyncio.StreamReader) -> None:
        """Do what the host says until it is gone, then end the open connections."""
        try:
            while line := await reader.readline():
                self._apply(json.loads(line))
        except ConnectionError:
            pass  # the host had ended before it could read
        _logger.warning("the host is gone")
        if not self._runtime.is_draining:
            await self._drain()

    def _apply(self, message: dict[str, Any]) -> None:
        live = self._runtime.live
        if "refused" in message:
            live.refuse(**message["refused"])
        elif "slowest" in message:
            live.slowest = message["slowest"]
            self._has_heard = True
            self._decide_accepting()
        elif "drain" in message:
            self._tasks.append(asyncio.create_task(self._drain()))

    async def _drain(self) -> None:
        """Take no new connection, answer those that are open, and end when they are closed."""
        self._runtime.is_draining = True
        self._stop_accepting()
        await asyncio.sleep(0)  # the wait for a connection ends
        self._listener.close()  # a next host may need the port
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while self.server_state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  uvicorn does not notify when one closes
            await asyncio.sleep(0.1)
        self.should_exit = True

    def _switch(self) -> None:
        self._decide_accepting()
        self._tell_served()

    def _tell_served(self) -> None:
        current = self._runtime.live.current
        self._tell({"serves": current.info if current else None})

    def _tell(self, message: dict[str, Any]) -> None:
        if self._to_host is not None and not self._to_host.is_closing():
            self._to_host.write(_line(message))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def main() -> int:
    """Serve until the host says otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--release", type=Path, help="file of the release to start with")
    arguments = parser.parse_args()
    set_up_logging()
    # Threads that compute must give the event loop its turn soon: it waits this long each time
    # that something happens, twice or more for each request.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    control = socket.socket(fileno=arguments.control_fd)
    try:
        runtime = _open_runtime(arguments.release)
    except EcgError as error:
        control.sendall(_line({"failed": str(error)}))
        return 1
    app = make_app()
    store = JobStore(runtime.settings.recordings_dir)
    runner = JobRunner(
        store,
        runtime.settings,
        model=lambda: runtime.live.current,
        note=runtime.note_request,
    )
    app.state.runtime = runtime
    app.state.recordings = JobQueue(store, runtime.settings, wake=runner.wake)
    config = make_config(Edge(app), runtime.settings)
    runtime.start()
    runner.start()
    # A full garbage collection takes 0.1 s, in which no request is answered; modules and the model
    # are exempt from it, as they stay anyway.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=arguments.listen_fd) as listener:
        server = Worker(
            config, listener=listener, control=control, runtime=runtime, recordings=runner
        )
        server.run(sockets=[])  # its own: it accepts itself
    return 0


def make_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Make uvicorn's configuration of a worker."""
    return uvicorn.Config(
        app,
        http=make_protocol(raise_descriptor_limit()),
        ws=GuardedWebSocket,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        # A pong waits behind samples that are not read yet, so pings would end the streams of a
        # busy service. Streams without a message end by the route's own limit.
        ws_ping_interval=None,
        log_config=None,
        access_log=False,
        server_header=False,
        # Else the address of a client is what it says itself.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        lifespan="off",
    )


def _open_runtime(path: Path | None) -> Runtime:
    """Make the runtime, with the release that a file names, which it must take.

    Raises
    ------
    EcgError
        If a setting or the release cannot be used.

    """
    runtime = Runtime(read_settings(), has_host=True)
    if path is not None and (release := read_release(path)) is not None:
        runtime.live.take(release)
    runtime.live.apply_current()
    return runtime


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(main())
