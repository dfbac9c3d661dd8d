"""Ask the other model too, after a request was answered or refused, and compare.

A request leaves its body in a queue that is short, in rows and bytes; when it is full the strip is
not compared, and counted. A thread takes one at a time and has another process of a low priority
compute it, so that neither requests nor the answers of the worker wait for it. The process starts
with the first strip and ends when none came for a minute.

Each model is asked by itself, so that an error counts against the one that made it. A process that
hangs or ends while the candidate is asked counts against the candidate too, when that process has
answered with the champion before: what ends every process says nothing about the candidate.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Final, Literal

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import Answer, Question
from bentos.runtime.prediction.answer_process import AnswerProcess
from bentos.runtime.prediction.long_strips import StoredModel, store_of
from bentos.runtime.prediction.rollout.candidate_model import OpenCandidate
from ecg_lib.operations.keys.signatures import SignatureError, prepare_code
from ecg_lib.operations.learning.rollout.candidate import Candidate
from ecg_lib.operations.learning.rollout.comparison import Comparison, ComparisonRow
from ecg_lib.operations.prediction_rows import RequestRow, name_group
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

Uncompared = Literal["dropped", "champion_failed"]
"""Why a strip was not compared: no room or process for it, or an error of the champion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowTask:
    """A question to one model, for the other process."""

    model: StoredModel
    is_candidate: bool
    question: Question | None = None
    """None to load the model alone."""
    answered: bytes | None = None
    """The body of the answer of the other model, to be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOutcome:
    """The result of the other process."""

    comparison: Comparison | None = None
    failure: str | None = None
    """Why the model gave no answer: ``refused: ...``, or ``failed: ...`` for an error."""
    unloadable: str | None = None
    """The error when the model cannot be loaded."""
    ms: float | None = None

    @property
    def has_failed(self) -> bool:
        """True for an error of the model."""
        return self.failure is not None and is_error(self.failure)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    opened: OpenCandidate
    champion: LoadedModel
    question: Question
    prediction_id: str
    created_at: datetime
    traffic_group: str
    duration_s: float
    answered: bytes | None
    """The body of the answer; None where the champion refused."""
    is_by_candidate: bool = False
    failure: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return len(self.question.body) + len(self.answered or b"")


def is_error(failure: str) -> bool:
    """Return whether a candidate failed, as opposed to refused a strip."""
    return failure.startswith("failed")


class _NotComparedError(Exception):
    """A strip that is not compared, for a reason that is not the candidate."""

    def __init__(self, reason: Uncompared) -> None:
        super().__init__(reason)
        self.reason: Uncompared = reason


class _ProcessEndedError(Exception):
    """The other process has ended, or did not answer in time."""


class Shadow:
    """The queue, its thread, and the other process.

    Parameters
    ----------
    settings : Settings
    note : callable
        Receives each comparison.
    note_failure : callable
        Receives the candidate and each error of it.
    count_uncompared : callable
        Receives for each strip that is not compared the reason.
    within_s : float, optional
        Time in which a model must answer.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        note: Callable[[ComparisonRow], object],
        note_failure: Callable[[Candidate, str], object],
        count_uncompared: Callable[[Uncompared], object],
        within_s: float = _WITHIN_S,
    ) -> None:
        self._settings = settings
        self._note = note
        self._note_failure = note_failure
        self._count_uncompared = count_uncompared
        self._within_s = within_s
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._condition = threading.Condition()
        self._is_closed = False
        self._process: AnswerProcess | None = None
        self._proved: tuple[str, str] | None = None
        """Champion and candidate that the process has loaded, the champion with an answer."""
        self._not_before = 0.0
        self._n_asked = 0
        self._thread: threading.Thread | None = None

    def offer(
        self, opened: OpenCandidate, champion: LoadedModel, question: Question, made: Answer
    ) -> None:
        """Compare an answer that was given, when there is room; returns at once."""
        self._add(
            _Waiting(
                opened=opened,
                champion=champion,
                question=question,
                prediction_id=made.prediction_id,
                created_at=made.created_at,
                traffic_group=made.traffic_group,
                duration_s=made.counts.readable_s + made.counts.unreadable_s,
                answered=made.body,
                is_by_candidate=made.is_by_candidate,
                failure=made.failure,
            )
        )

    def offer_refused(
        self,
        opened: OpenCandidate,
        champion: LoadedModel,
        question: Question,
        refused: RequestRow,
        *,
        failure: str | None = None,
    ) -> None:
        """Ask the candidate for a strip that the champion refused, when there is room.

        A candidate that was asked before, and gave no answer because of a failure, is not asked
        again.
        """
        self._add(
            _Waiting(
                opened=opened,
                champion=champion,
                question=question,
                prediction_id=refused.request_id,
                created_at=refused.created_at,
                traffic_group=name_group(refused.patient_key, refused.client),
                duration_s=refused.duration_s,
                answered=None,
                failure=failure,
            )
        )

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

    def _add(self, waiting: _Waiting) -> None:
        if _DRAW.random() >= self._settings.shadow_share:
            return
        with self._condition:
            if self._is_closed:
                return
            is_full = len(self._queue) >= _MAX_WAITING or self._bytes + waiting.size > _MAX_BYTES
            if not is_full:
                self._queue.append(waiting)
                self._bytes += waiting.size
                self._condition.notify()
            if self._thread is None:
                self._start_thread()
        if is_full:
            self._count_uncompared("dropped")

    def _start_thread(self) -> None:
        """Start the thread; what waits stays in the queue when the system has none left."""
        thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            _logger.error("no thread that compares models can be started: %s", error)  # noqa: TRY400  its text is whole
        else:
            self._thread = thread

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
                    self._bytes -= waiting.size
            if waiting is None:
                self._end_process()  # nothing came for a minute
                continue
            try:
                self._compare(waiting)
            except _NotComparedError as error:
                self._count_uncompared(error.reason)
            except Exception:  # whatever a strip raises, the next one is compared
                _logger.exception("a strip cannot be compared")
                self._count_uncompared("dropped")
                self._end_process()
        self._end_process()

    def _compare(self, waiting: _Waiting) -> None:
        """Ask the model that did not answer, and note what comes of it.

        Raises
        ------
        _NotComparedError
            If it is not compared.

        """
        row = ComparisonRow(
            prediction_id=waiting.prediction_id,
            created_at=waiting.created_at,
            candidate_id=waiting.opened.candidate.id,
            stage=waiting.opened.candidate.stage,
            answered_by="candidate" if waiting.is_by_candidate else "champion",
            traffic_group=waiting.traffic_group,
            duration_s=waiting.duration_s,
        )
        if waiting.failure is not None:  # the request has met it, and counted it
            self._note_failed(waiting, row, waiting.failure)
            return
        self._prove_process(waiting)
        asks_candidate = not waiting.is_by_candidate
        found = self._ask_model(waiting, is_candidate=asks_candidate, compares=True)
        if asks_candidate and waiting.answered is None and found.failure is None:
            self._note(replace(row, champion_refused=True))
        elif asks_candidate and found.failure is not None:
            self._note_failed(waiting, row, found.failure)
        elif found.has_failed:
            raise _NotComparedError("champion_failed")
        elif found.failure is not None:
            self._note(replace(row, champion_refused=True))
        else:
            self._note(self._time(waiting, replace(row, comparison=found.comparison), found.ms))

    def _note_failed(self, waiting: _Waiting, row: ComparisonRow, failure: str) -> None:
        """Note why the candidate gave no answer, but not of a strip that both models refuse."""
        if waiting.answered is not None or is_error(failure):
            self._note(replace(row, failure=failure))

    def _time(
        self, waiting: _Waiting, row: ComparisonRow, ms_of_other: float | None
    ) -> ComparisonRow:
        """Ask the model that answered again, of some strips, so that times are of one process."""
        self._n_asked += 1
        if self._n_asked % _TIMED_EACH:
            return row
        try:
            again = self._ask_model(waiting, is_candidate=waiting.is_by_candidate, compares=False)
        except _NotComparedError:  # it is compared already
            return row
        if waiting.is_by_candidate and again.has_failed:
            return replace(row, comparison=None, failure=again.failure)
        if again.ms is None:
            return row
        times = (again.ms, ms_of_other)
        champion, candidate = reversed(times) if waiting.is_by_candidate else times
        return replace(row, ms_champion=champion, ms_candidate=candidate)

    def _ask_model(self, waiting: _Waiting, *, is_candidate: bool, compares: bool) -> ShadowOutcome:
        """Ask one model in the process that was proved; an error of the candidate is noted.

        Raises
        ------
        _NotComparedError
            If the process fails while the champion is asked, or closing ends it.

        """
        model = waiting.opened.model if is_candidate else waiting.champion
        task = ShadowTask(
            model=store_of(model),
            is_candidate=is_candidate,
            question=replace(waiting.question, keeps_signal=False, audit_share=0.0),
            answered=waiting.answered if compares else None,
        )
        try:
            outcome = self._exchange(task)
        except _ProcessEndedError as error:
            if not is_candidate or self._is_closed:
                raise _NotComparedError("dropped") from error
            outcome = ShadowOutcome(failure=f"failed: {error}")
        if outcome.unloadable is not None:
            self._pause(f"{model.bento_tag} cannot be loaded: {outcome.unloadable}")
            raise _NotComparedError("dropped")
        if outcome.has_failed and is_candidate:
            self._note_failure(waiting.opened.candidate, outcome.failure or "")
        return outcome

    def _prove_process(self, waiting: _Waiting) -> None:
        """Have a process that answered with the champion and has loaded the candidate.

        Raises
        ------
        _NotComparedError
            If there is none.

        """
        champion, candidate = store_of(waiting.champion), store_of(waiting.opened.model)
        wanted = (champion.bundle_hash, candidate.bundle_hash)
        process = self._process
        if process is not None and not process.has_ended and self._proved == wanted:
            return
        if process is None or process.has_ended:
            self._end_process()
            self._start(waiting.champion)
        self._ask_model(waiting, is_candidate=False, compares=False)
        try:
            loaded = self._exchange(ShadowTask(model=candidate, is_candidate=True))
        except _ProcessEndedError as error:
            raise _NotComparedError("dropped") from error
        if loaded.unloadable is not None:
            tag = waiting.opened.model.bento_tag
            self._pause(f"{tag} cannot be loaded: {loaded.unloadable}")
            raise _NotComparedError("dropped")
        self._proved = wanted

    def _exchange(self, task: ShadowTask) -> ShadowOutcome:
        """Give the process a task, and return its result.

        Raises
        ------
        _ProcessEndedError
            If it has ended, or does not answer in time.

        """
        process, start_s = self._process, monotonic()
        if process is None:
            raise _ProcessEndedError("its process has ended")
        try:
            outcome: ShadowOutcome = process.ask(task, within_s=self._within_s)
        except (OSError, EOFError) as error:
            is_late = monotonic() - start_s >= self._within_s
            what = f"no answer within {self._within_s:g} s" if is_late else "its process has ended"
            self._pause(f"the process that compares models has failed: {what}, {error!r}")
            raise _ProcessEndedError(what) from error
        return outcome

    def _pause(self, problem: str) -> None:
        """End the process, and start none for a while."""
        if not self._is_closed:
            _logger.error("%s", problem)
        self._not_before = monotonic() + _PAUSE_S
        self._end_process()

    def _start(self, champion: LoadedModel) -> None:
        """Start the process.

        Raises
        ------
        _NotComparedError
            If it cannot be started, or another one has just failed.

        """
        if monotonic() < self._not_before:
            raise _NotComparedError("dropped")
        try:
            process = AnswerProcess(self._prepare_code(champion), _MODULE)
            with self._condition:
                self._process = process  # from here on close() ends it
                if self._is_closed:
                    raise _NotComparedError("dropped")
            process.wait_until_ready()
        except (SignatureError, OSError, EOFError, RuntimeError) as error:
            self._pause(f"no process that compares models can be started: {error!r}")
            raise _NotComparedError("dropped") from error

    def _prepare_code(self, champion: LoadedModel) -> Path:
        if champion.release is None:
            return _CODE_ROOT
        prepare_code(self._settings, champion.release)
        return bento_source(self._settings.bentoml_home, champion.release)

    def _end_process(self) -> None:
        with self._condition:
            process, self._process = self._process, None
            self._proved = None
        if process is not None:
            process.kill()
