"""The live leads of a process: their number, and the thread that analyses them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bentos.runtime.limits.sessions import SESSIONS_VARIABLE, Sessions
from bentos.wire.problems import OVERLOADED, ProblemError


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
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="live")
        """Analyses one window at a time, to leave processor time for predictions."""
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
        """End the thread; cancel waiting work."""
        self.executor.shutdown(wait=False, cancel_futures=True)
