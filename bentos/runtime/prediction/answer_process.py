"""Another process that answers questions over a connection."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any, Final

from bentos.runtime.logs import set_up_logging
from ecg_lib.operations.processes.limits import environment_with, lower_priority

_START_S: Final = 120.0


class AnswerProcess:
    """One other process, and the connection to it.

    Parameters
    ----------
    source : Path
        Directory of its code.
    module : str
        What it runs; it gets the descriptor of its end of the connection.

    """

    def __init__(self, source: Path, module: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment_with(source),
            )
        lower_priority(self._popen.pid)
        self._connection = Connection(ours.detach())
        self.used_at = monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def wait_until_ready(self) -> None:
        """Wait until it has started.

        Raises
        ------
        OSError, EOFError
            If it ends, or does not start in time.

        """
        with self._within(_START_S):
            self._connection.recv()

    def ask(self, task: object, *, within_s: float) -> Any:  # noqa: ANN401  what the module sends
        """Give it a task, and return its result.

        Raises
        ------
        OSError, EOFError
            If it has ended, or does not answer in time.

        """
        with self._within(within_s):
            self._connection.send(task)
            return self._connection.recv()

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Kill the process when the block takes longer: a stopped one does not even read."""
        timer = threading.Timer(seconds, self._popen.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def interrupt(self) -> None:
        """End it while another thread waits for it, which then finds its end."""
        self._popen.kill()

    def kill(self) -> None:
        """End it, and what it computes."""
        self._popen.kill()
        self._popen.wait()
        self._connection.close()


def serve(descriptor: int, perform: Callable[[Any], object]) -> None:
    """Be the other process: perform each task that comes until the connection is closed.

    Parameters
    ----------
    descriptor : int
        Of the connection.
    perform : callable
        Gets a task, and returns what is sent back.

    """
    set_up_logging()
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, BrokenPipeError):
        connection.send(True)
        while True:
            connection.send(perform(connection.recv()))
