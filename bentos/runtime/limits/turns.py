"""Threads that compute, shared fairly between clients.

Start-time fair queueing (Goyal, Vin and Cheng 1996, DOI 10.1145/248156.248171): each piece of work
has a start tag, the later of the virtual time and of the end of the same client's work before it;
the least tag comes first. A client with one strip does not wait for the queue of another. A long
signal that has begun is not interrupted, so it has threads of its own, which wait for another
process. Short signals have one thread: it needs the interpreter nearly all of its time, so a second
one would make nothing faster, and the event loop would wait for both.
"""

from __future__ import annotations

import heapq
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from bentos.wire.problems import OVERLOADED, ProblemError

T = TypeVar("T")

SHORT: Final = 65_000
"""Samples of three minutes at 360 Hz; what takes at most some 10 ms."""

_MAX_WAITING: Final = 64
_OWN_WAITING: Final = 48
_OWN_COST: Final = 4 * 1_800_000
"""Samples of four signals of the greatest length and rate, or of eleven at 360 Hz."""

_LEAST_COST: Final = 1000
"""Least cost of a request, in samples."""


@dataclass(order=True, slots=True)
class _Work:
    start_tag: float
    number: int
    cost: int = field(compare=False)
    client: str = field(compare=False)
    run: Callable[[], Any] = field(compare=False)
    future: Future[Any] = field(compare=False)


@dataclass(slots=True, eq=False)
class _Thread:
    """A thread that takes work; it waits for its lock, which the one who wakes it releases."""

    queue: list[_Work]
    """The work that it takes, as a heap."""
    wake: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.wake.acquire()


@dataclass(slots=True)
class _Client:
    """Counts of a client that has work here."""

    waiting: int = 0
    cost: int = 0
    end_tag: float = 0.0


class Turns:
    """Threads that compute, and the work that waits for them.

    Parameters
    ----------
    n_for_long : int
        Threads that take long work; another one takes short work.

    """

    def __init__(self, n_for_long: int) -> None:
        self._short: list[_Work] = []
        self._long: list[_Work] = []
        self._clients: dict[str, _Client] = defaultdict(_Client)
        self._now = 0.0
        self._number = 0
        self.unfinished = 0
        """Pieces of work that wait or are done now."""
        self._is_closed = False
        self._lock = threading.Lock()
        self._idle: list[_Thread] = []
        """Threads without work, the last one to have some at the end."""
        for number, queue in enumerate([self._short, *[self._long] * n_for_long]):
            thread = _Thread(queue)
            threading.Thread(
                target=self._serve, args=(thread,), name=f"compute-{number}", daemon=True
            ).start()

    def submit(self, run: Callable[[], T], *, client: str, cost: int) -> Future[T]:
        """Queue work of a client, whose cost is the samples that it has.

        Raises
        ------
        ProblemError
            If too much waits already.

        """
        with self._lock:
            own = self._clients[client]
            if (
                self.unfinished >= _MAX_WAITING
                or own.waiting >= _OWN_WAITING
                or (own.waiting and own.cost + cost > _OWN_COST)
            ):
                raise ProblemError(
                    OVERLOADED,
                    f"{self.unfinished} requests wait already, {own.waiting} of them of this "
                    "client; send fewer at a time",
                    retry_after_s=1,
                )
            start_tag = max(self._now, own.end_tag)
            own.end_tag = start_tag + cost + _LEAST_COST
            own.waiting, own.cost = own.waiting + 1, own.cost + cost
            self.unfinished, self._number = self.unfinished + 1, self._number + 1
            future: Future[T] = Future()
            work = _Work(start_tag, self._number, cost, client, run, future)
            queue = self._short if cost <= SHORT else self._long
            heapq.heappush(queue, work)
            self._wake(queue)
        return future

    def close(self) -> None:
        """End the threads after what they do now; what waits is cancelled."""
        with self._lock:
            self._is_closed = True
            for work in [*self._short, *self._long]:
                work.future.cancel()
            for thread in self._idle:
                thread.wake.release()
            self._idle.clear()

    def _serve(self, thread: _Thread) -> None:
        while (work := self._next(thread)) is not None:
            if work.future.set_running_or_notify_cancel():
                try:
                    work.future.set_result(work.run())
                except BaseException as error:  # noqa: BLE001  the one who waits for it gets it
                    work.future.set_exception(error)
            self._note_end(work)
            del work  # with the body of its request

    def _next(self, thread: _Thread) -> _Work | None:
        while True:
            with self._lock:
                if self._is_closed:
                    return None
                if thread.queue:
                    work = heapq.heappop(thread.queue)
                    self._now = max(self._now, work.start_tag)
                    if thread.queue:
                        self._wake(thread.queue)
                    return work
                self._idle.append(thread)
            thread.wake.acquire()

    def _wake(self, queue: list[_Work]) -> None:
        """Wake one thread for a queue, and no more: each that wakes takes turns with others.

        It is the one that had work last, whose memory is in the caches. It wakes the next one if
        more waits.
        """
        for index in reversed(range(len(self._idle))):
            if self._idle[index].queue is queue:
                self._idle.pop(index).wake.release()
                return

    def _note_end(self, work: _Work) -> None:
        with self._lock:
            self.unfinished -= 1
            own = self._clients[work.client]
            own.waiting, own.cost = own.waiting - 1, own.cost - work.cost
            if not own.waiting:
                del self._clients[work.client]
