"""Answer long strips in another process.

A signal of half an hour is parsed and prepared for a second, and while Python code runs in one
thread of a process, no other thread of it does. So a worker has processes of a low priority for
long strips. They start with the first one, which waits for it, and end when none came for a minute.
Where none can be started, a strip is computed in the worker. One whose process fails is not: what
exhausted the memory of a process must not do the same to the worker, which answers everybody. The
served model answers all of them, also while a candidate is tried: both in one process would share
its memory and its time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import (
    Answer,
    Observe,
    Question,
    RefusedSignalError,
    answer,
)
from bentos.runtime.prediction.answer_process import AnswerProcess
from bentos.wire.problems import OVERLOADED, ProblemError
from ecg_lib.operations.keys.signatures import SignatureError, prepare_code
from ecg_lib.operations.releases import bento_source
from ecg_lib.operations.settings import Settings

_MODULE: Final = "bentos.runtime.prediction.process"
_IDLE_S: Final = 60.0
_PAUSE_S: Final = 30.0
"""Time after a failure in which no other process is started."""

_CODE_ROOT: Final = Path(__file__).parents[3]

_logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """The time of one of :data:`bentos.runtime.metrics.STAGES`."""

    name: str
    started_at_s: float
    """Seconds since 1970."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model that another process loads by itself."""

    directory: Path
    """Its bundle."""
    bundle_hash: str
    info: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request for another process."""

    model: StoredModel
    question: Question


def store_of(model: LoadedModel) -> StoredModel:
    """Return what another process needs to load a model."""
    return StoredModel(
        directory=model.bundle.directory, bundle_hash=model.bundle.hash, info=model.info
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of another process."""

    made: Answer | dict[str, Any]
    """The answer, or the arguments of the :class:`ProblemError`."""
    refused_row: bytes | None
    """Of a signal that was refused, its line of the spool."""
    stages: list[Stage]


class LongStrips:
    """The processes of a worker that answer long strips.

    Parameters
    ----------
    settings : Settings
    idle_s : float, optional
        Time without a strip after which a process ends.

    """

    def __init__(self, settings: Settings, *, idle_s: float = _IDLE_S) -> None:
        self._settings = settings
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._free: list[AnswerProcess] = []
        self._not_before = 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._end_idle, name="long-strips", daemon=True).start()

    def answer(
        self,
        model: LoadedModel,
        question: Question,
        *,
        observe: Observe,
        note: Callable[[Stage], None],
    ) -> Answer:
        """Answer a request in another process, or in this one when none can be started.

        `note` receives the stages of another process, and `observe` measures those of this one.

        Raises
        ------
        ProblemError
            If the request is not answered with a prediction.

        """
        process = self._take(model)
        if process is None:
            return answer(model, question, observe=observe)
        task = Task(model=store_of(model), question=question)
        try:
            outcome: Outcome = process.ask(task, within_s=self._settings.answer_limit_s)
        except (OSError, EOFError) as error:
            _logger.error("the process for long strips has failed: %r", error)  # noqa: TRY400  its own log says more
            self._not_before = monotonic() + _PAUSE_S
            process.kill()
            raise ProblemError(
                OVERLOADED,
                "the process that computed the answer has ended; send the request again",
                retry_after_s=1,
            ) from error
        self._give_back(process)
        for stage in outcome.stages:
            note(stage)
        if isinstance(outcome.made, Answer):
            return outcome.made
        problem = ProblemError(**outcome.made)
        if outcome.refused_row is not None:
            raise RefusedSignalError(problem, row=outcome.refused_row)
        raise problem

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed.set()
            free, self._free = self._free, []
        for process in free:
            process.kill()

    def _take(self, model: LoadedModel) -> AnswerProcess | None:
        """Take a process that is ready, or start one; None where that fails."""
        with self._lock:
            while self._free:
                process = self._free.pop()
                if not process.has_ended:
                    return process
                process.kill()
            if self._closed.is_set() or monotonic() < self._not_before:
                return None
        return self._start(model)

    def _start(self, model: LoadedModel) -> AnswerProcess | None:
        process = None
        try:
            process = AnswerProcess(self._prepare_code(model), _MODULE)
            process.wait_until_ready()
        except (SignatureError, OSError, EOFError, RuntimeError) as error:
            # RuntimeError: the system has no thread left.
            _logger.error("no process for long strips can be started: %r", error)  # noqa: TRY400  its text is whole
            self._not_before = monotonic() + _PAUSE_S
            if process is not None:
                process.kill()
            return None
        return process

    def _prepare_code(self, model: LoadedModel) -> Path:
        """Check the code of the model's release, which may have changed since this process started.

        Raises
        ------
        SignatureError
            If it is not the code that was signed.

        """
        if model.release is None:
            return _CODE_ROOT
        prepare_code(self._settings, model.release)
        return bento_source(self._settings.bentoml_home, model.release)

    def _give_back(self, process: AnswerProcess) -> None:
        with self._lock:
            is_kept = not self._closed.is_set()
            if is_kept:
                self._free.append(process)
                process.used_at = monotonic()
        if not is_kept:
            process.kill()

    def _end_idle(self) -> None:
        """End processes that no strip has come for, as long as this is open."""
        while not self._closed.wait(self._idle_s / 4):
            with self._lock:
                now = monotonic()
                idle = [one for one in self._free if now - one.used_at >= self._idle_s]
                self._free = [one for one in self._free if one not in idle]
            for process in idle:
                process.kill()
