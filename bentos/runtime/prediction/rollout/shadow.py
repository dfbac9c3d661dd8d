"""Ask the other model too, after a request was answered, and compare both answers.

A request leaves its body in a queue that is short, in rows and bytes; when it is full the strip is
not compared, and counted. A thread takes one at a time and has another process of a low priority
compute it, so that neither requests nor the answers of the worker wait for it. The process starts
with the first strip and ends when there is no candidate any more.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import Answer, Question
from bentos.runtime.prediction.answer_process import AnswerProcess
from bentos.runtime.prediction.long_strips import StoredModel, store_of
from bentos.runtime.prediction.rollout.candidate_model import OpenCandidate
from ecg_lib.operations.keys.signatures import SignatureError, prepare_code
from ecg_lib.operations.learning.rollout.candidate import Candidate
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.releases import bento_source
from ecg_lib.operations.settings import Settings

_MODULE: Final = "bentos.runtime.prediction.rollout.shadow_process"
_MAX_WAITING: Final = 64
_MAX_BYTES: Final = 32 * 2**20
_TIMED_EACH: Final = 4
"""Of so many strips one is computed by both models, for their times."""
_WITHIN_S: Final = 60.0
_PAUSE_S: Final = 30.0
"""Time after a failure in which no other process is started."""
_IDLE_S: Final = 60.0

_CODE_ROOT: Final = Path(__file__).parents[4]
_DRAW: Final = random.SystemRandom()

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowTask:
    """A strip for the other process."""

    champion: StoredModel
    candidate: StoredModel
    question: Question
    answered: bytes
    """The body of the answer that was given."""
    is_by_candidate: bool
    is_timed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOutcome:
    """The result of the other process."""

    comparison: Comparison | None = None
    failure: str | None = None
    """Why the candidate gave no answer."""
    ms_champion: float | None = None
    ms_candidate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    opened: OpenCandidate
    champion: LoadedModel
    question: Question
    made: Answer


class Shadow:
    """The queue, its thread, and the other process.

    Parameters
    ----------
    settings : Settings
    note : callable
        Receives each comparison.
    note_failure : callable
        Receives the candidate and each error of it.
    count_dropped : callable
        Called for each strip that is not compared because too many wait.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        note: Callable[[ComparisonRow], object],
        note_failure: Callable[[Candidate, str], object],
        count_dropped: Callable[[], object],
    ) -> None:
        self._settings = settings
        self._note = note
        self._note_failure = note_failure
        self._count_dropped = count_dropped
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._condition = threading.Condition()
        self._is_closed = False
        self._process: AnswerProcess | None = None
        self._not_before = 0.0
        self._n_asked = 0
        self._thread: threading.Thread | None = None

    def offer(
        self, opened: OpenCandidate, champion: LoadedModel, question: Question, made: Answer
    ) -> None:
        """Compare an answer that was given, when there is room; returns at once."""
        if _DRAW.random() >= self._settings.shadow_share:
            return
        size = len(question.body) + len(made.body)
        with self._condition:
            is_full = len(self._queue) >= _MAX_WAITING or self._bytes + size > _MAX_BYTES
            if not is_full and not self._is_closed:
                self._queue.append(
                    _Waiting(opened=opened, champion=champion, question=question, made=made)
                )
                self._bytes += size
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                    self._thread.start()
                self._condition.notify()
        if is_full:
            self._count_dropped()

    def close(self) -> None:
        """End the thread and the other process; what waits is not compared."""
        with self._condition:
            self._is_closed = True
            self._queue.clear()
            self._condition.notify()
            process, thread = self._process, self._thread
        if process is not None:
            process.interrupt()
        if thread is not None:
            thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._is_closed:
                    if not self._condition.wait(_IDLE_S):
                        break
                if self._is_closed:
                    break
                waiting = self._queue.popleft() if self._queue else None
                if waiting is not None:
                    self._bytes -= len(waiting.question.body) + len(waiting.made.body)
            if waiting is None:
                self._end_process()  # nothing came for a minute
                continue
            self._compare(waiting)
        self._end_process()

    def _compare(self, waiting: _Waiting) -> None:
        candidate, made = waiting.opened.candidate, waiting.made
        if made.failure is not None:
            outcome: ShadowOutcome | None = ShadowOutcome(failure=made.failure)
        else:
            outcome = self._ask(waiting)
        if outcome is None:
            self._count_dropped()
            return
        if outcome.comparison is None and outcome.failure is None:
            return  # the champion refuses what the candidate answered
        if made.failure is None and (outcome.failure or "").startswith("failed"):
            self._note_failure(candidate, outcome.failure or "")
        self._note(
            ComparisonRow(
                prediction_id=made.prediction_id,
                created_at=made.created_at,
                candidate_id=candidate.id,
                stage=candidate.stage,
                answered_by="candidate" if made.is_by_candidate else "champion",
                traffic_group=made.traffic_group,
                duration_s=made.counts.readable_s + made.counts.unreadable_s,
                comparison=outcome.comparison,
                failure=outcome.failure,
                ms_champion=outcome.ms_champion,
                ms_candidate=outcome.ms_candidate,
            )
        )

    def _ask(self, waiting: _Waiting) -> ShadowOutcome | None:
        """Ask the other process; None when there is none."""
        process = self._process
        if process is None or process.has_ended:
            process = self._start(waiting.champion)
        if process is None:
            return None
        self._n_asked += 1
        task = ShadowTask(
            champion=store_of(waiting.champion),
            candidate=store_of(waiting.opened.model),
            question=replace(waiting.question, keeps_signal=False, audit_share=0.0),
            answered=waiting.made.body,
            is_by_candidate=waiting.made.is_by_candidate,
            is_timed=self._n_asked % _TIMED_EACH == 0,
        )
        try:
            outcome: ShadowOutcome = process.ask(task, within_s=_WITHIN_S)
        except (OSError, EOFError) as error:
            if not self._is_closed:
                _logger.error("the process that compares models has failed: %r", error)  # noqa: TRY400  its own log says more
            self._not_before = monotonic() + _PAUSE_S
            self._end_process()
            return None
        return outcome

    def _start(self, champion: LoadedModel) -> AnswerProcess | None:
        if monotonic() < self._not_before:
            return None
        process: AnswerProcess | None = None
        try:
            process = AnswerProcess(self._prepare_code(champion), _MODULE)
            with self._condition:
                self._process = process  # from here on close() ends it
                if self._is_closed:
                    return None
            process.wait_until_ready()
        except (SignatureError, OSError, EOFError) as error:
            if not self._is_closed:
                _logger.error("no process that compares models can be started: %r", error)  # noqa: TRY400  its text is whole
            self._not_before = monotonic() + _PAUSE_S
            self._end_process()
            return None
        return process

    def _prepare_code(self, champion: LoadedModel) -> Path:
        if champion.release is None:
            return _CODE_ROOT
        prepare_code(self._settings, champion.release)
        return bento_source(self._settings.bentoml_home, champion.release)

    def _end_process(self) -> None:
        with self._condition:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
