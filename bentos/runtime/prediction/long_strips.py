"""Answer long strips in another process.

A signal of half an hour is parsed and prepared for a second, and while Python code runs in one
thread of a process, no other thread of it does. So a worker has processes of a low priority for
long strips. They start with the first one and end when none came for a minute. A strip that comes
before a process is ready, or whose process fails, is computed in the worker.
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
from typing import Any, Final

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.answer import Answer, Observe, Question, answer
from bentos.wire.problems import ProblemError
from ecg_lib.operations.keys.signatures import SignatureError, prepare_code
from ecg_lib.operations.releases import bento_source
from ecg_lib.operations.settings import Settings
from ecg_lib.recordings.process_limits import environment_with

_MODULE: Final = "bentos.runtime.prediction.process"
_IDLE_S: Final = 60.0
_ANSWER_S: Final = 120.0
"""Far longer than the longest strip takes."""
_START_S: Final = 120.0
_PAUSE_S: Final = 30.0
"""Time after a failure in which no other process is started."""

_CODE_ROOT: Final = Path(__file__).parents[3]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a process is asked."""

    directory: Path
    """The model's bundle."""
    bundle_hash: str
    info: dict[str, str]
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a process answers."""

    made: Answer | None
    problem: dict[str, Any] | None
    """The arguments of the :class:`ProblemError`."""
    stages: list[tuple[str, float]]


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
        self._is_closed = False

    def answer(
        self,
        model: LoadedModel,
        question: Question,
        *,
        observe: Observe,
        note: Callable[[str, float], None],
    ) -> Answer:
        """Answer a request in another process, or in this one while none is ready.

        `note` receives the stages of another process and their seconds, and `observe` measures
        those of this one.

        Raises
        ------
        ProblemError
            If the request is not answered with a prediction.

        """
        process = self._take(model)
        if process is not None:
            try:
                outcome = process.ask(model, question)
            except (OSError, EOFError) as error:
                _logger.error("the process for long strips has failed: %r", error)  # noqa: TRY400  its own log says more
                self._not_before = monotonic() + _PAUSE_S
                process.kill()
            else:
                self._give_back(process)
                for name, seconds in outcome.stages:
                    note(name, seconds)
                if outcome.problem is not None:
                    raise ProblemError(**outcome.problem)
                if outcome.made is not None:
                    return outcome.made
        return answer(model, question, observe=observe)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._is_closed = True
            free, self._free = self._free, []
        for process in free:
            process.kill()

    def _take(self, model: LoadedModel) -> _Process | None:
        """Take a process that is ready; start one when there is none."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._is_closed or self._n_starting or monotonic() < self._not_before:
                return None
            self._n_starting += 1
        threading.Thread(target=self._start, args=(model,), daemon=True).start()
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
            is_kept = not self._is_closed
            if is_kept:
                self._free.append(process)
                process.used_at = monotonic()
        if not is_kept:
            process.kill()
            return
        timer = threading.Timer(self._idle_s, self._end_idle)
        timer.daemon = True
        timer.start()

    def _end_idle(self) -> None:
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

    def wait_until_ready(self) -> None:
        """Wait until it has started.

        Raises
        ------
        OSError, EOFError
            If it ends, or does not start in time.

        """
        with self._within(_START_S):
            self._connection.recv()

    def ask(self, model: LoadedModel, question: Question) -> Outcome:
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
        with self._within(_ANSWER_S):
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
