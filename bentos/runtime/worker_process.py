"""A worker as the host sees it: a process, what it said, and how to talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ecg_lib.operations.releases import ReleaseError

START_S: Final = 90.0
"""Longest start of a worker."""

_STOP_S: Final = 6.0
_HUNG_S: Final = 20.0
"""A worker that reports every second and was not heard for so long hangs."""
_LOOKS: Final = 5
"""A host that was stopped itself reads first what came meanwhile."""

_logger = logging.getLogger(__name__)


class WorkerError(Exception):
    """A worker did not start."""


class WorkerProcess:
    """A process that serves, or is about to; made by :func:`start_worker`.

    Parameters
    ----------
    process : asyncio.subprocess.Process
    source : Path
        Directory of its code.
    reader, writer : asyncio.StreamReader, asyncio.StreamWriter
        The other end of its control socket.

    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        source: Path,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self.source = source
        self.code_hash = ""
        self.serves: dict[str, str] | None = None
        """The ``model`` object of its answers, None as long as it has no model."""
        self.serves_since = 0.0
        self.started_at = 0.0
        self._beats = False
        self._heard_at = 0.0
        self._silent_looks = 0
        self._reader = reader
        self._writer = writer
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """True until the process has ended."""
        return self.process.returncode is None

    async def wait_until_ready(self) -> None:
        """Wait for the word of the worker.

        Raises
        ------
        WorkerError
            If it does not come, or is that it failed.

        """
        try:
            line = await asyncio.wait_for(self._reader.readline(), START_S)
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
        self.serves = message["ready"].get("serves")
        self._beats = message["ready"].get("beats", False)  # workers of earlier code do not
        self.started_at = self.serves_since = asyncio.get_running_loop().time()
        self._heard_at = self.started_at

    def look(self) -> bool:
        """Return whether the worker hangs; to be called again and again."""
        silent_s = asyncio.get_running_loop().time() - self._heard_at
        is_silent = self._beats and self.is_alive and silent_s > _HUNG_S
        self._silent_looks = self._silent_looks + 1 if is_silent else 0
        return self._silent_looks >= _LOOKS

    def kill(self) -> None:
        """Kill the process, which hangs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def listen(self, when_switched: Callable[[], None]) -> None:
        """Note from now on which model it serves, and call back when that changes."""
        self._listening = asyncio.create_task(self._listen(when_switched))

    async def _listen(self, when_switched: Callable[[], None]) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await self._reader.readline():
                self._heard_at = asyncio.get_running_loop().time()
                serves = json.loads(line)["serves"]
                if serves != self.serves:
                    self.serves, self.serves_since = serves, self._heard_at
                    when_switched()

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; a worker that is dead does not get it."""
        if self.is_alive:
            self._writer.write(json.dumps(message).encode() + b"\n")

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
        if self._listening is not None:
            self._listening.cancel()
        self._writer.close()


async def start_worker(
    source: Path,
    release: Path | None,
    *,
    listener: socket.socket,
    kept: Sequence[int],
    environment: dict[str, str],
) -> WorkerProcess:
    """Start a worker with the code below a directory, and wait until it is ready.

    Parameters
    ----------
    source : Path
        Directory of ``bentos`` and ``ecg_lib``.
    release : Path, optional
        File of the release that it must take.
    listener : socket.socket
        The socket that it accepts connections from.
    kept : sequence of int
        Descriptors that it keeps open as long as it lives.
    environment : dict
        Its environment.

    Raises
    ------
    WorkerError
        If it does not get ready.

    """
    if not source.is_dir():  # noqa: ASYNC240  one look, once a worker
        msg = f"the bento must be in the store, {source.parent.name} is not"
        raise WorkerError(msg)
    ours, theirs = socket.socketpair()
    command = [
        # -P: the code comes from PYTHONPATH, whatever lies in the working directory.
        *(sys.executable, "-P", "-m", "bentos.worker"),
        *("--listen-fd", str(listener.fileno()), "--control-fd", str(theirs.fileno())),
        *(("--release", str(release)) if release else ()),
    ]
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**environment, "PYTHONPATH": str(source)},
            pass_fds=(listener.fileno(), theirs.fileno(), *kept),
            # Ctrl-C reaches the host alone, which ends its workers in order.
            process_group=0,
        )
    reader, writer = await asyncio.open_connection(sock=ours)
    worker = WorkerProcess(process, source, reader, writer)
    try:
        await worker.wait_until_ready()
    except BaseException:
        await worker.stop()
        raise
    _logger.info("worker %d serves", process.pid)
    return worker
