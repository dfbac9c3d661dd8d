"""Find processes that run but no longer answer.

Each process is asked in a thread of its own, so that a slow answer delays nothing else. The time
between two questions counts as silence when the second one got no answer, and only up to
`_LONGEST_ROUND_S`: a supervisor that was stopped itself, or a machine that was suspended, proves
nothing against the processes. Time in which nobody can tell whether a process answers counts
neither way; it extends the limit by as much, up to `_LONGEST_GRACE_S`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 5.0
_STARTING_INTERVAL_S: Final = 0.5
_LONGEST_ROUND_S: Final = 15.0
"""The time from one question to the next counts as silence up to this."""
_STOPPED_LIMIT_S: Final = 30.0
"""A process that a signal has stopped answers nobody, so no longer limit is needed."""
_LONGEST_GRACE_S: Final = 60.0
"""After an outage of what tells the answers, a healthy process may answer later by so much: a
worker whose heartbeats failed sends the next one after 312 s, and sent the last one up to 39 s
before the outage."""
_MOST_BEATS: Final = 65_536


class _Answer(Enum):
    ALIVE = auto()
    SILENT = auto()
    STOPPED = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class _Question:
    asked_s: float
    answer: _Answer | None = None
    """None as long as the thread waits for it."""
    is_ready: bool = False


class Liveness:
    """Asks whether a process answers, whether it is ready, and for how long it has been silent.

    Parameters
    ----------
    answers : callable
        Whether the process answers, None when that is unknown; must return in bounded time.
    is_ready : callable
        Whether a process that answers is ready; must return in bounded time.
    is_stopped : callable
        Whether a signal has stopped the process.
    limit_s : float
        A process that has answered before, and is silent for so long, hangs.
    start_limit_s : float
        A process that has not answered yet, and is silent for so long, hangs.

    """

    def __init__(
        self,
        answers: Callable[[], bool | None],
        *,
        is_ready: Callable[[], bool],
        is_stopped: Callable[[], bool],
        limit_s: float,
        start_limit_s: float,
    ) -> None:
        self._answers = answers
        self._asks_ready = is_ready
        self._is_stopped = is_stopped
        self._limit_s = limit_s
        self._start_limit_s = start_limit_s
        self.reset()

    def reset(self) -> None:
        """Forget what was; the process was started again."""
        self._asked_s = time.monotonic()
        self._question: _Question | None = None
        self._silent_s = self._stopped_s = self._unknown_s = 0.0
        self._first_answer_s: float | None = None
        self._ready_s: float | None = None
        self._last_answer_s = 0.0
        self.is_ready = False

    def note_ready(self) -> None:
        """Note that the process is ready already."""
        self._first_answer_s = self._ready_s = self._last_answer_s = time.monotonic()
        self.is_ready = True

    @property
    def has_answered(self) -> bool:
        """Whether the process has answered since it was started."""
        return self._first_answer_s is not None

    @property
    def ready_for_s(self) -> float:
        """Time from when the process was ready to its last answer; 0 when it never was."""
        return 0.0 if self._ready_s is None else self._last_answer_s - self._ready_s

    def is_hung(self) -> bool:
        """Return whether the process has been silent for too long, and ask again when due."""
        if self._question is not None and self._question.answer is not None:
            self._note(self._question, self._question.answer)
            self._question = None
        now_s = time.monotonic()
        interval_s = _INTERVAL_S if self.is_ready else min(_INTERVAL_S, _STARTING_INTERVAL_S)
        if self._question is None and now_s - self._asked_s >= interval_s:
            self._question = question = _Question(now_s)
            threading.Thread(
                target=lambda: self._ask(question), name="liveness", daemon=True
            ).start()
        limit_s = self._limit_s if self.has_answered else self._start_limit_s
        if self._stopped_s > min(limit_s, _STOPPED_LIMIT_S):
            return True
        return self._silent_s > limit_s + min(self._unknown_s, _LONGEST_GRACE_S)

    def _note(self, question: _Question, answer: _Answer) -> None:
        passed_s = min(question.asked_s - self._asked_s, _LONGEST_ROUND_S)
        self._asked_s = question.asked_s
        if answer is _Answer.UNKNOWN:
            self._unknown_s += passed_s
            return
        is_alive = answer is _Answer.ALIVE
        self._silent_s = 0.0 if is_alive else self._silent_s + passed_s
        self._stopped_s = self._stopped_s + passed_s if answer is _Answer.STOPPED else 0.0
        if not is_alive:
            return
        self._unknown_s = 0.0
        self._last_answer_s = question.asked_s
        if self._first_answer_s is None:
            self._first_answer_s = question.asked_s
        if question.is_ready and not self.is_ready:
            self._ready_s, self.is_ready = question.asked_s, True

    def _ask(self, question: _Question) -> None:
        answer = _Answer.UNKNOWN
        try:
            if self._is_stopped():
                answer = _Answer.STOPPED
            else:
                told = self._answers()
                if told is not None:
                    answer = _Answer.ALIVE if told else _Answer.SILENT
                question.is_ready = bool(told) and (self.is_ready or self._asks_ready())
        except Exception:
            # A fault of the question must not end a healthy process.
            logger.exception("a process cannot be asked whether it answers")
        question.answer = answer


class BeatPipe:
    """A pipe into which a process writes as long as its main loop runs."""

    def __init__(self) -> None:
        # Without blocking: a process that nobody listens to goes on.
        self._reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def has_beaten(self) -> bool:
        """Return whether the process has written since this was asked last."""
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._reader, _MOST_BEATS))
        return False

    def close(self) -> None:
        """Close both ends."""
        os.close(self._reader)
        os.close(self.writer)
