"""``python -m bentos.host``: keeps the service on its port while models and code change.

It owns the listening socket and starts a worker (:mod:`bentos.worker`) that serves on it, with
the code of the bento that ``serving/current.json`` names. A release with the same code is the
worker's affair. For one with other code a second worker is started; when it has loaded its bundle
and passed its golden requests it serves, and the first one ends its connections. When it cannot,
the first one goes on and reports why. A worker that dies is started again; connections wait for
it in the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ecg_lib.errors import ConfigurationError
from ecg_lib.releases import (
    CURRENT,
    LAST_GOOD,
    Release,
    ReleaseError,
    bento_source,
    read_release,
)
from ecg_lib.settings import Settings, read_settings

START_S: Final = 90.0
"""Longest start of a worker."""

_POLL_S: Final = 0.2
_STOP_S: Final = 6.0
_LONGEST_BACKOFF_S: Final = 30.0
_STABLE_S: Final = 60.0
_BACKLOG: Final = 2048
_OWN_CODE: Final = Path(__file__).parents[1]

_logger = logging.getLogger(__name__)


class WorkerError(Exception):
    """A worker did not start."""


@dataclass(eq=False, slots=True)
class _Worker:
    """A process that serves, or is about to."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    code_hash: str = ""
    started_at: float = 0.0

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    async def wait_until_ready(self) -> None:
        """Wait for the word of the worker.

        Raises
        ------
        WorkerError
            If it does not come, or is that it failed.

        """
        try:
            line = await asyncio.wait_for(self.reader.readline(), START_S)
        except TimeoutError as error:
            msg = f"the worker must be ready within {START_S:g} s, it was not"
            raise WorkerError(msg) from error
        except ConnectionError:
            line = b""
        if not line:
            msg = f"the worker ended with status {await self.process.wait()} before it was ready"
            raise WorkerError(msg)
        message = json.loads(line)
        if "failed" in message:
            raise WorkerError(message["failed"])
        self.code_hash = message["ready"]["code_hash"]
        self.started_at = asyncio.get_running_loop().time()

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; a worker that is dead does not get it."""
        if self.is_alive:
            self.writer.write(json.dumps(message).encode() + b"\n")

    def tell_refused(self, error: ReleaseError) -> None:
        """Let the worker report a release that could not be started."""
        self.tell({"refused": {"bento_tag": error.bento_tag, "reason": str(error)}})

    async def stop(self) -> None:
        """End the process."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), _STOP_S)
            except TimeoutError:
                _logger.warning("worker %d did not end and is killed", self.process.pid)
                self.process.kill()
                await self.process.wait()
        self.writer.close()


class Host:
    """Starts, replaces and ends workers on one socket.

    Parameters
    ----------
    settings : Settings
    listener : socket.socket
        Bound and listening.

    """

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._worker: _Worker | None = None
        self._replaced: list[_Worker] = []
        self._considered: Release | None = None
        self._stop = asyncio.Event()
        self._backoff_s = 0.0

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises
        ------
        WorkerError
            If no worker starts at all.

        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        stop = asyncio.create_task(self._stop.wait())
        serve = asyncio.create_task(self._serve())
        try:
            await asyncio.wait({stop, serve}, return_when=asyncio.FIRST_COMPLETED)
            if serve.done():
                serve.result()
        finally:
            for task in (stop, serve):
                task.cancel()
            await asyncio.gather(stop, serve, return_exceptions=True)
            workers = [*self._replaced, *([self._worker] if self._worker else [])]
            await asyncio.gather(*(worker.stop() for worker in workers))

    async def _serve(self) -> None:
        self._worker = await self._start_best()
        while True:
            await asyncio.sleep(_POLL_S)
            if not self._worker.is_alive:
                await self._restart()
            await self._follow()
            for worker in [worker for worker in self._replaced if not worker.is_alive]:
                await worker.stop()
                self._replaced.remove(worker)

    async def _restart(self) -> None:
        dead = self._worker
        if dead is not None:
            lived_s = asyncio.get_running_loop().time() - dead.started_at
            self._backoff_s = 0.0 if lived_s > _STABLE_S else self._backoff_s
            status = dead.process.returncode
            _logger.error("the worker ended with status %s after %.0f s", status, lived_s)
            await dead.stop()
        await asyncio.sleep(self._backoff_s)
        self._backoff_s = min(_LONGEST_BACKOFF_S, 2 * self._backoff_s or 0.5)
        try:
            self._worker = await self._start_best()
        except WorkerError as error:
            _logger.error("no worker starts: %s", error)  # noqa: TRY400  the worker's log has more

    async def _start_best(self) -> _Worker:
        """Start a worker with the current release, else the last good one, else with no model.

        Raises
        ------
        WorkerError
            If none starts.

        """
        try:
            if worker := await self._start_release(CURRENT):
                return worker
            refusal = None
        except ReleaseError as error:
            refusal = error
        try:
            worker = await self._start_release(LAST_GOOD)
        except ReleaseError:
            worker = None
        worker = worker or await self._start(_OWN_CODE, None)
        if refusal is not None:
            worker.tell_refused(refusal)
        return worker

    async def _start_release(self, name: str) -> _Worker | None:
        """Start a worker with the release that a file names; None when there is no file.

        Raises
        ------
        ReleaseError
            If it does not get ready.

        """
        path = self._settings.serving_dir / name
        release = read_release(path)
        if release is None:
            return None
        if name == CURRENT:
            self._considered = release
        try:
            return await self._start(bento_source(self._settings.bentoml_home, release), path)
        except WorkerError as error:
            _logger.error("refused %s: %s", release.bento_tag, error)  # noqa: TRY400  the worker's log has more
            raise ReleaseError(str(error), bento_tag=release.bento_tag) from error

    async def _follow(self) -> None:
        """Replace the worker when the current release has other code."""
        worker = self._worker
        try:
            release = read_release(self._settings.serving_dir / CURRENT)
        except ReleaseError:
            return  # the worker reports it
        if worker is None or release is None or release == self._considered:
            return
        self._considered = release
        if release.code_hash == worker.code_hash:
            return
        _logger.info("starting %s, which has other code", release.bento_tag)
        try:
            replacement = await self._start_release(CURRENT)
        except ReleaseError as error:
            worker.tell_refused(error)
            return
        if replacement is not None:
            worker.tell({"drain": True})
            self._replaced.append(worker)
            self._worker = replacement

    async def _start(self, source: Path, release: Path | None) -> _Worker:
        """Start a worker with the code below a directory.

        Raises
        ------
        WorkerError
            If it does not get ready.

        """
        _require_source(source)
        ours, theirs = socket.socketpair()
        command = [
            # -P: the code comes from PYTHONPATH, whatever lies in the working directory.
            *(sys.executable, "-P", "-m", "bentos.worker"),
            *("--listen-fd", str(self._listener.fileno()), "--control-fd", str(theirs.fileno())),
            *(("--release", str(release)) if release else ()),
        ]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=self._environment(source),
                pass_fds=(self._listener.fileno(), theirs.fileno()),
                # Ctrl-C reaches the host alone, which ends its workers in order.
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = _Worker(process, reader, writer)
        try:
            await worker.wait_until_ready()
        except BaseException:
            await worker.stop()
            raise
        _logger.info("worker %d serves", process.pid)
        return worker

    def _environment(self, source: Path) -> dict[str, str]:
        return {
            **os.environ,
            "BENTOML_HOME": str(self._settings.bentoml_home),
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONPATH": str(source),
        }


def _require_source(source: Path) -> None:
    if not source.is_dir():
        msg = f"the bento must be in the store, {source.parent.name} is not"
        raise WorkerError(msg)


def open_listener(settings: Settings) -> socket.socket:
    """Open the socket of the service.

    Raises
    ------
    ConfigurationError
        If the address is public and no API keys are asked for, cannot be used, or is taken.

    """
    host, port = settings.service_host, settings.service_port
    with _explained(host, port):
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if not ipaddress.ip_address(address[0]).is_loopback and settings.api_keys_file is None:
            msg = (
                "ECG_SERVICE_HOST must be a loopback address as long as ECG_API_KEYS_FILE is not "
                f"set, got {host}"
            )
            raise ConfigurationError(msg)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    return listener


@contextlib.contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"ECG_SERVICE_PORT: {host} port {port} cannot be used: {error.strerror}"
        raise ConfigurationError(msg) from error


def main() -> int:
    """Serve until SIGTERM or SIGINT; 0 at the end, 2 for settings that cannot be used."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = read_settings()
        listener = open_listener(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with listener:
        try:
            asyncio.run(Host(settings, listener).run())
        except WorkerError as error:
            sys.stderr.write(f"the service cannot start: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
