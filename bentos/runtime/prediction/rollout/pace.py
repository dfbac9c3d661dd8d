"""The time that a candidate may take for an answer, by what the champion takes in this worker.

The candidate answers in the thread of the request, which cannot be stopped. So a slow answer is
counted as an error of the candidate, also while it still computes: what is promised is that its
third one ends the candidate, not that a request is never slow.
"""

from __future__ import annotations

import logging
import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from ecg_lib.operations.learning.rollout.candidate import Candidate

_TIMES_USUAL: Final = 4.0
_LEAST_S: Final = 0.25
_UNKNOWN_S: Final = 1.0
"""Limit as long as the champion has not answered in this worker."""

_N_USUAL: Final = 64
"""Latest answers of the champion whose median is its usual time."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Asked:
    """A strip that the candidate is asked for."""

    candidate: Candidate
    limit_s: float
    start_s: float
    is_slow: bool = False
    """True when it took too long, and was counted."""


class Pace:
    """The usual time of the champion, and the strips that the candidate computes now.

    Parameters
    ----------
    note_slow : callable
        Receives the candidate and the text of each answer that takes too long.

    """

    def __init__(self, note_slow: Callable[[Candidate, str], object]) -> None:
        self._note_slow = note_slow
        self._usual: deque[float] = deque(maxlen=_N_USUAL)
        self._running: set[Asked] = set()
        self._lock = threading.Lock()

    def note_champion(self, seconds: float, *, duration_s: float) -> None:
        """Note the time of an answer of the champion to a strip."""
        with self._lock:
            self._usual.append(seconds / duration_s)

    def find_limit_s(self, duration_s: float) -> float:
        """Return the time that the candidate may take: the usual one grows with the strip."""
        with self._lock:
            if not self._usual:
                return _UNKNOWN_S
            usual = statistics.median(self._usual) * duration_s
        return max(_LEAST_S, _TIMES_USUAL * usual)

    @contextmanager
    def watch(self, candidate: Candidate, duration_s: float) -> Iterator[Asked]:
        """Measure an answer of the candidate, and count it once when it takes too long."""
        asked = Asked(candidate, self.find_limit_s(duration_s), monotonic())
        with self._lock:
            self._running.add(asked)
        try:
            yield asked
        finally:
            with self._lock:
                self._running.discard(asked)
            self._check(asked)

    def look(self) -> None:
        """Count the answers that are under way and take too long already."""
        with self._lock:
            running = list(self._running)
        for asked in running:
            self._check(asked)

    def _check(self, asked: Asked) -> None:
        took_s = monotonic() - asked.start_s
        with self._lock:
            if asked.is_slow or took_s <= asked.limit_s:
                return
            asked.is_slow = True
        text = f"slow: {took_s:.2f} s for an answer, at most {asked.limit_s:.2f} s"
        try:
            self._note_slow(asked.candidate, text)
        except Exception:  # the request of this thread must be answered
            _logger.exception("a slow answer cannot be counted")
