"""The prediction, and what a process holds for it: model, spool, metrics, limits, threads."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bentos.runtime.limits.caller import SERVICE_ITSELF, Caller
from bentos.runtime.limits.memory import MemoryBudget
from bentos.runtime.limits.rate_limit import open_rate_limit
from bentos.runtime.limits.streams import Streams
from bentos.runtime.limits.turns import Turns
from bentos.runtime.live_model import LiveModel, LoadedModel
from bentos.runtime.metrics import Metrics
from bentos.runtime.prediction.answer import (
    Answer,
    Counts,
    Question,
    RefusedSignalError,
    answer,
)
from bentos.runtime.prediction.long_strips import LongStrips, Stage
from bentos.runtime.prediction.rollout.trial import Trial
from bentos.runtime.spool import Spool, encode_comparison, encode_request
from bentos.runtime.tracing import open_tracing
from bentos.wire.inputs import JSON
from bentos.wire.problems import (
    NOT_READY,
    UNKNOWN_PREDICTION,
    ProblemError,
)
from ecg_lib.errors import ConfigurationError, PredictionLogError
from ecg_lib.operations.drift.last_check import FILE as LAST_CHECK
from ecg_lib.operations.drift.last_check import LastCheck, read_last_check
from ecg_lib.operations.keys.api_keys import read_api_keys, read_keys_file
from ecg_lib.operations.keys.patient_key import hash_client, read_patient_key
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.prediction_rows import RequestRow
from ecg_lib.operations.processes.helper_states import FILE as HELPERS_FILE
from ecg_lib.operations.processes.helper_states import read_helper_states
from ecg_lib.operations.releases import hash_code
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import state_of

if TYPE_CHECKING:
    from ecg_lib.operations.prediction_log import PredictionLog

CODE_ROOT: Final = Path(__file__).parents[2]
"""The directory whose ``bentos`` and ``ecg_lib`` this process runs."""

_logger = logging.getLogger(__name__)


class Runtime:
    """The live model, the spool, the metrics, and the threads that compute.

    Parameters
    ----------
    settings : Settings
    has_host : bool
        See :class:`bentos.runtime.live_model.LiveModel`.

    Raises
    ------
    ConfigurationError
        If the file of the patient key or of the API keys cannot be used.

    """

    def __init__(self, settings: Settings, *, has_host: bool) -> None:
        self.settings = settings
        self.is_draining = False
        self.api_keys = read_api_keys(settings.api_keys_file) if settings.api_keys_file else None
        """Keys that are accepted; None when no key is asked for."""
        self._keys_state: tuple[int, ...] | None = ()  # of no file, so that the first look reads it
        self.rate_limit = open_rate_limit(settings.rate_limit_per_min)
        self.tracing = open_tracing()
        self.memory = MemoryBudget()
        self.streams = Streams(settings.live_leads)
        self._patient_key = read_patient_key(settings.patient_key_path)
        self._signals = SignalStore(settings.signals_dir, settings.signal_key_path)
        self._signals_problem: str | None = None
        self.live = LiveModel(settings, code_hash=hash_code(CODE_ROOT), has_host=has_host)
        self.spool = Spool(
            settings.serving_dir / "spool",
            lambda: self.log,
            shares_disk=settings.monitoring_database_url.startswith("sqlite"),
        )
        self.helpers_path = settings.serving_dir / HELPERS_FILE
        self.metrics = Metrics(
            model_info=lambda: self.live.current.info if self.live.current else None,
            backlog=lambda: (len(self.spool), self.spool.lost),
            helpers=lambda: read_helper_states(self.helpers_path),
            drift=self._read_last_check,
            rollout=lambda: self.trial.candidate.state,
        )
        self.trial = Trial(
            settings,
            self.live,
            metrics=self.metrics,
            store=lambda row: self.spool.append(
                f"comparison {row.prediction_id}", encode_comparison(row)
            ),
        )
        self.turns = Turns(max(1, (os.cpu_count() or 1) // 2))
        self._long = LongStrips(settings)
        # The log may be slow: requests that wait for it must not keep predictions waiting.
        self.look_up = ThreadPoolExecutor(4, thread_name_prefix="look-up")
        self.files = ThreadPoolExecutor(4, thread_name_prefix="files")

    @cached_property
    def log(self) -> PredictionLog:
        """The prediction log; what it is made with takes half a second to import."""
        from ecg_lib.operations.prediction_log import PredictionLog  # noqa: PLC0415  see above

        log = PredictionLog(self.settings.monitoring_database_url)
        # Asked for a prediction before any is stored, the log answers that there is none.
        with contextlib.suppress(PredictionLogError):
            log.create_tables()
        return log

    def start(self) -> None:
        """Begin to watch for releases and to write the log."""
        self.spool.start()
        self.live.start()
        self.trial.start()

    def close(self) -> None:
        """End the threads; what waits in the spool and is not written now is written later."""
        self.live.close()
        self.turns.close()
        self.streams.close()
        self.trial.close()
        self._long.close()
        for executor in (self.look_up, self.files):
            executor.shutdown(wait=False, cancel_futures=True)
        if self.tracing is not None:
            self.tracing.close()
        self.spool.close()
        if "log" in self.__dict__:
            self.log.close()

    def refresh(self) -> None:
        """Look at what may have changed: the file of the API keys, and what metrics show."""
        self.metrics.refresh()
        path = self.settings.api_keys_file
        if path is None or (state := state_of(path)) == self._keys_state:
            return
        found = read_keys_file(path)
        self.api_keys, self._keys_state = found.keys, state
        if found.wrong_lines:
            _logger.error("ECG_API_KEYS_FILE: lines that are not keys: %s", found.wrong_lines)
        if not found.keys:
            _logger.warning("ECG_API_KEYS_FILE has no key, so that no request with one is accepted")

    @property
    def status(self) -> str:
        """ok, degraded (the log cannot be written), starting (without a model) or draining."""
        if self.is_draining:
            return "draining"
        if self.live.current is None:
            return "starting"
        return "ok" if self.spool.problem is None else "degraded"

    def require_model(self) -> LoadedModel:
        """Give the model that answers.

        Raises
        ------
        ProblemError
            If there is none yet.

        """
        model = self.live.current
        if model is None:
            raise ProblemError(NOT_READY, "no model is loaded yet")
        return model

    def predict(
        self,
        body: bytes,
        *,
        media_type: str = JSON,
        query: Sequence[tuple[str, str]] = (),
        caller: Caller = SERVICE_ITSELF,
        is_long: bool = False,
    ) -> Answer:
        """Answer the body of a request, see :func:`bentos.wire.inputs.read_input`.

        The prediction belongs to the key of the caller. While a candidate is tried, it answers the
        short strips of the people in its share, and the other model is asked after the answer was
        made. A long signal is computed in another process, so that short ones need not wait for it.
        A signal that is refused is noted too: monitoring counts them.

        Raises
        ------
        ProblemError
            If the request is not answered with a prediction.

        """
        question = Question(
            body=body,
            media_type=media_type,
            query=tuple(query),
            owner=caller.owner,
            client=hash_client(caller.name, key=self._patient_key) if caller.name else None,
            patient_key=self._patient_key,
            audit_share=self.settings.audit_share,
            keeps_signal=self.settings.keep_signals,
        )
        model = self.require_model()
        opened = self.trial.find(model)
        canary = None if opened is None or is_long else self.trial.find_canary(opened)
        try:
            if is_long:
                made = self._long.answer(
                    model, question, observe=self._stage, note=self._note_stage
                )
            else:
                made = answer(model, question, observe=self._stage, canary=canary)
                self.trial.note_time(made)
        except RefusedSignalError as refused:
            self.spool.append(f"request {uuid.uuid4()}", refused.row)
            if opened is not None and not is_long:
                self.trial.follow_refused(opened, model, question, refused)
            raise
        with self._stage("log"):
            self.spool.append(made.prediction_id, made.row)
            self._keep_signal(made)
        self._count(made.counts)
        if opened is not None:
            self.trial.follow(opened, model, question, made, is_long=is_long)
        return made

    def _read_last_check(self) -> LastCheck | None:
        # One that cannot be read is as old as the last one that could: an alert is on its age.
        with contextlib.suppress(OSError, ValueError):
            return read_last_check(self.settings.serving_dir / LAST_CHECK)
        return None

    def note_request(self, request: RequestRow) -> None:
        """Store where a recording came from, with the pieces that monitoring looks at."""
        self.spool.append(f"request {request.request_id}", encode_request(request))

    def _keep_signal(self, made: Answer) -> None:
        """Keep the signal of an answer that has one; the answer stands when that fails."""
        if made.signal is None:
            return
        problem = None
        try:
            self._signals.add(made.signal, is_waiting=not made.is_drawn)
        except ConfigurationError as error:
            problem = str(error)
        except OSError as error:
            problem = f"they cannot be written: {error.strerror}"
        if problem is not None and problem != self._signals_problem:
            _logger.error("signals are not kept: %s", problem)  # once, not for each request
        self._signals_problem = problem

    def _stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        measured = self.metrics.stage(name)
        return measured if self.tracing is None else _open_both(measured, self.tracing.stage(name))

    def _note_stage(self, stage: Stage) -> None:
        self.metrics.observe_stage(stage.name, stage.seconds)
        if self.tracing is not None:
            self.tracing.add_stage(stage.name, stage.started_at_s, stage.seconds)

    def find_prediction(
        self, prediction_id: str, caller: Caller = SERVICE_ITSELF
    ) -> dict[str, Any]:
        """Find the answer of a prediction.

        Raises
        ------
        ProblemError
            If there is none that the caller may see.
        PredictionLogError
            If the log cannot be read.

        """
        row = self.spool.find_prediction(prediction_id) or self.log.get_prediction(prediction_id)
        if row is None or not caller.sees(row.owner):
            raise ProblemError(UNKNOWN_PREDICTION, "no prediction has this prediction_id")
        return row.response

    def _count(self, counts: Counts) -> None:
        self.metrics.count_signal(readable_s=counts.readable_s, unreadable_s=counts.unreadable_s)
        self.metrics.count_beats(
            normal=counts.normal,
            ventricular=counts.ventricular,
            paced=counts.paced,
            unreadable=counts.unreadable,
        )
        self.metrics.count_rules(counts.rules)


@contextlib.contextmanager
def _open_both(
    one: contextlib.AbstractContextManager[object], other: contextlib.AbstractContextManager[object]
) -> Iterator[None]:
    with one, other:
        yield
