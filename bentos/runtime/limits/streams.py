"""The live leads of a process: their number, and the thread that analyses them in batches."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, TypeVar

from bentos.runtime.limits.sessions import SESSIONS_VARIABLE, Sessions
from bentos.wire.problems import OVERLOADED, ProblemError

GATHER_S: Final = 0.05
"""Time in which windows of other leads are gathered before a batch starts.

The first window of a batch takes half as long again as those after it, which find the code in the
caches of the processor (``make bench-live-service``)."""

_DELIVER_S: Final = 0.02
"""Results are delivered at least this often while a batch runs, and before a long window."""

_Result = TypeVar("_Result")


class _Work(NamedTuple):
    analyze: Callable[[], Any]
    future: asyncio.Future[Any]


class _Done(NamedTuple):
    future: asyncio.Future[Any]
    result: Any
    error: Exception | None

    def deliver(self) -> None:
        if self.future.done():  # its stream has ended
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Batches:
    """Analyses windows of many leads one after another, in a thread of its own.

    One window at a time leaves processor time for predictions. Short windows come before long
    ones. All methods must be called on the event loop, which gets the results of a batch together.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="live")
        self._short: deque[_Work] = deque()
        self._long: deque[_Work] = deque()
        self._is_running = False
        self._start: asyncio.TimerHandle | None = None

    async def run(
        self, analyze: Callable[[], _Result], *, is_long: bool = False, waits: bool = False
    ) -> _Result:
        """Analyse a window, and return the result.

        Parameters
        ----------
        analyze : callable
            Called in the thread.
        is_long : bool
            Whether short windows may go first.
        waits : bool
            Whether it may wait for windows of other leads for :data:`GATHER_S`.

        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Result] = loop.create_future()
        (self._long if is_long else self._short).append(_Work(analyze, future))
        if not waits:
            self._run_now(loop)
        elif not self._is_running and self._start is None:
            self._start = loop.call_later(GATHER_S, self._run_now, loop)
        return await future

    def close(self) -> None:
        """End the thread after the window that it analyses; the streams must have ended."""
        if self._start is not None:
            self._start.cancel()
            self._start = None
        self._short.clear()
        self._long.clear()
        self._executor.shutdown(wait=False)

    def _run_now(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._start is not None:
            self._start.cancel()
            self._start = None
        if not self._is_running:
            self._is_running = True
            self._executor.submit(self._work_off, loop)

    def _work_off(self, loop: asyncio.AbstractEventLoop) -> None:
        """Analyse all that waits, and what comes meanwhile."""
        done: list[_Done] = []
        delivered_at = monotonic()
        while (work := self._next()) is not None:
            done.append(_analyze(work))
            now = monotonic()
            is_long_next = bool(self._long) and not self._short
            if is_long_next or now - delivered_at > _DELIVER_S:
                loop.call_soon_threadsafe(_deliver, done)
                done, delivered_at = [], now
        loop.call_soon_threadsafe(self._end, loop, done)

    def _next(self) -> _Work | None:
        waiting = self._short or self._long
        return waiting.popleft() if waiting else None

    def _end(self, loop: asyncio.AbstractEventLoop, done: list[_Done]) -> None:
        _deliver(done)
        self._is_running = False
        if self._short or self._long:  # came when the thread had looked for the last time
            self._run_now(loop)


def _analyze(work: _Work) -> _Done:
    if work.future.cancelled():
        return _Done(work.future, None, None)
    try:
        return _Done(work.future, work.analyze(), None)
    except Exception as error:  # noqa: BLE001  the stream that waits for it raises it
        return _Done(work.future, None, error)


def _deliver(done: list[_Done]) -> None:
    for one in done:
        one.deliver()


class Streams:
    """The live leads of this process.

    Parameters
    ----------
    most : int
        Largest number of leads at a time.

    """

    def __init__(self, most: int) -> None:
        path = os.environ.get(SESSIONS_VARIABLE)
        self.sessions = Sessions(Path(path) if path else None)
        self.batches = Batches()
        self.n_open = 0
        self._most = most

    def enter(self) -> None:
        """Count a connection.

        Raises
        ------
        ProblemError
            If there are too many.

        """
        if self.n_open >= self._most:
            raise ProblemError(
                OVERLOADED,
                f"this process already has {self._most} live leads (ECG_LIVE_LEADS)",
                retry_after_s=5,
            )
        self.n_open += 1

    def leave(self) -> None:
        """Forget a connection."""
        self.n_open -= 1

    def close(self) -> None:
        """End the thread."""
        self.batches.close()
