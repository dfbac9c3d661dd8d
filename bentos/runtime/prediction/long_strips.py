"""Answer long strips in another process.

A signal of half an hour is parsed and prepared for a second, and while Python code runs in one
thread of a process, no other thread of it does. So a worker has processes of a low priority for
long strips. They start with the first one and end when none came for a minute. A strip that comes
before a process is ready is computed in the worker. One whose process fails is not: what exhausted
the memory of a process must not do the same to the worker, which answers everybody.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import Answer, Observe, Question, RefusedSignalError, answer
from bentos.wire.problems import OVERLOADED, ProblemError
from ecg_lib.operations.keys.signatures import SignatureError, prepare_code
from ecg_lib.operations.releases import bento_source
from ecg_lib.operations.settings import Settings
from ecg_lib.recordings.process_limits import environment_with

_MODULE: Final = "bentos.runtime.prediction.process"
_IDLE_S: Final = 60.0
_START_S: Final = 120.0
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
class Task:
    """A request for another process."""

    directory: Path
    """The model's bundle."""
    bundle_hash: str
    info: dict[str, str]
    question: Question


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
        self._free: list[_Process] = []
        self._n_starting = 0
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
        """Answer a request in another process, or in this one while none is ready.

        `note` receives the stages of another process, and `observe` measures those of this one.

        Raises
        ------
        ProblemError
            If the request is not answered with a prediction.

        """
        process = self._take(model)
        if process is None:
            return answer(model, question, observe=observe)
        try:
            outcome = process.ask(model, question, within_s=self._settings.answer_limit_s)
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

    def _take(self, model: LoadedModel) -> _Process | None:
        """Take a process that is ready; start one when there is none."""
        with self._lock:
            while self._free:
                process = self._free.pop()
                if not process.has_ended:
                    return process
                process.kill()
            if self._closed.is_set() or self._n_starting or monotonic() < self._not_before:
                return None
            self._n_starting += 1
        try:
            threading.Thread(target=self._start, args=(model,), daemon=True).start()
        except RuntimeError as error:  # the system has no thread left
            _logger.error("no process for long strips can be started: %s", error)  # noqa: TRY400  its text is whole
            with self._lock:
                self._n_starting -= 1
        return None

    def _start(self, model: LoadedModel) -> None:
        process = None
        try:
            process = _Process(self._prepare_code(model))
            process.wait_until_ready()
        except (SignatureError, OSError, EOFError) as error:
            _logger.error("no process for long strips can be started: %r", error)  # noqa: TRY400  its text is whole
            self._not_before = monotonic() + _PAUSE_S
            if process is not None:
                process.kill()
        else:
            self._give_back(process)
        finally:
            with self._lock:
                self._n_starting -= 1

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

    def _give_back(self, process: _Process) -> None:
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


class _Process:
    """One other process, and the connection to it."""

    def __init__(self, source: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment_with(source),
            )
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

    def ask(self, model: LoadedModel, question: Question, *, within_s: float) -> Outcome:
        """Answer a request.

        Raises
        ------
        OSError, EOFError
            If it has ended, or does not answer in time.

        """
        task = Task(
            directory=model.bundle.directory,
            bundle_hash=model.bundle.hash,
            info=model.info,
            question=question,
        )
        with self._within(within_s):
            self._connection.send(task)
            outcome: Outcome = self._connection.recv()
        return outcome

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

    def kill(self) -> None:
        """End it, and what it computes."""
        self._popen.kill()
        self._popen.wait()
        self._connection.close()
