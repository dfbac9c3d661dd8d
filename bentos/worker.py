"""One process that serves: uvicorn on the socket of the host, running the bento's application.

It talks with the host (:mod:`bentos.host`) over another socket, one JSON object a line. It says
``{"ready": {"code_hash": ...}}`` or ``{"failed": reason}``; it is told ``{"refused": {...}}``
(a release with other code that could not be started) and ``{"drain": true}``. When the host is
gone it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import sys
from pathlib import Path
from typing import Any, Final

import uvicorn

from bentos.edge import ACCESS_LOGGER
from bentos.runtime import Runtime
from bentos.service import EcgService, app
from ecg_lib.releases import read_release

DRAIN_S: Final = 15.0
"""How long connections that send nothing are kept open by a worker that was replaced."""

_KEEP_ALIVE_S: Final = 75
_SWITCH_INTERVAL_S: Final = 0.001


class Worker(uvicorn.Server):
    """A uvicorn server that the host directs.

    Parameters
    ----------
    config : uvicorn.Config
    control : socket.socket
        Connected to the host.

    """

    def __init__(self, config: uvicorn.Config, control: socket.socket) -> None:
        super().__init__(config)
        self._control = control
        self._to_host: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell the host how it went."""
        await super().startup(sockets)
        if not self.started:
            return
        # Kept: a writer that nobody holds closes its connection.
        reader, self._to_host = await asyncio.open_connection(sock=self._control)
        runtime: Runtime = app.state.runtime
        self._to_host.write(_line({"ready": {"code_hash": runtime.live.code_hash}}))
        await self._to_host.drain()
        self._tasks.append(asyncio.create_task(self._obey(reader, runtime)))

    async def _obey(self, reader: asyncio.StreamReader, runtime: Runtime) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if "refused" in message:
                runtime.live.refuse(**message["refused"])
            elif "drain" in message:
                self._tasks.append(asyncio.create_task(self._drain(runtime)))
        self.should_exit = True

    async def _drain(self, runtime: Runtime) -> None:
        """Take no new connection, answer those that are open, and end when they are closed."""
        runtime.is_draining = True
        for server in self.servers:
            server.close()
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while self.server_state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  uvicorn tells nobody when one closes
            await asyncio.sleep(0.1)
        self.should_exit = True


def main() -> int:
    """Serve until the host says otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--release", type=Path, help="file of the release to start with")
    arguments = parser.parse_args()
    _set_up_logging()
    # Threads that compute must give the event loop its turn soon.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    app.state.has_host = True
    app.state.release = read_release(arguments.release) if arguments.release else None
    control = socket.socket(fileno=arguments.control_fd)
    service: Any = EcgService
    config = uvicorn.Config(
        service.to_asgi(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=3,
        lifespan="on",
    )
    server = Worker(config, control)
    server.run(sockets=[socket.socket(fileno=arguments.listen_fd)])
    if server.started:
        return 0
    reason = app.state.refusal_reason or "the service did not start; its log says why"
    control.sendall(_line({"failed": reason}))
    return 1


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _set_up_logging() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("bentoml", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(logging.Formatter("%(message)s"))
    access = logging.getLogger(ACCESS_LOGGER)
    access.addHandler(lines)
    access.propagate = False


if __name__ == "__main__":
    sys.exit(main())
