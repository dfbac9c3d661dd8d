"""Find processes that run and do not answer any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_INTERVAL_S: Final = 5.0
_PAUSE_S: Final = 10.0
"""A watcher that did not look for so long was stopped itself, and knows nothing."""


class Liveness:
    """Asks a process whether it answers, in a thread, so that a slow answer delays nothing else.

    Parameters
    ----------
    answers : callable
        Whether the process answers; must return in bounded time.
    limit_s : float
        A process that has not answered for so long hangs.

    """

    def __init__(self, answers: Callable[[], bool], *, limit_s: float) -> None:
        self._answers = answers
        self._limit_s = limit_s
        self._thread: threading.Thread | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was; the process was started again."""
        self._answered_s = self._asked_s = self._looked_s = time.monotonic()

    def is_hung(self) -> bool:
        """Return whether the process has not answered for too long, and ask again when due."""
        now_s = time.monotonic()
        if now_s - self._looked_s > _PAUSE_S:
            self.reset()
        self._looked_s = now_s
        is_asking = self._thread is not None and self._thread.is_alive()
        if not is_asking and now_s - self._asked_s >= _INTERVAL_S:
            self._asked_s = now_s
            self._thread = threading.Thread(target=self._ask, name="liveness", daemon=True)
            self._thread.start()
        return now_s - self._answered_s > self._limit_s

    def _ask(self) -> None:
        asked_s = time.monotonic()
        if self._answers():
            self._answered_s = max(self._answered_s, asked_s)
