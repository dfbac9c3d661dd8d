"""The prediction, and what a process holds for it: model, spool, metrics, limits, threads."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from bentos.runtime.limits.caller import SERVICE_ITSELF, Caller
from bentos.runtime.limits.memory import MemoryBudget
from bentos.runtime.limits.rate_limit import open_rate_limit
from bentos.runtime.limits.turns import Turns
from bentos.runtime.live_model import LiveModel, LoadedModel
from bentos.runtime.metrics import Metrics
from bentos.runtime.spool import Spool, encode_prediction
from bentos.runtime.tracing import open_tracing
from bentos.wire.answers import build_answer
from bentos.wire.inputs import JSON, read_input
from bentos.wire.problems import (
    NOT_READY,
    UNKNOWN_PREDICTION,
    ProblemError,
    explain_signal_error,
)
from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import (
    ConfigurationError,
    InvalidSamplingRateError,
    InvalidSignalError,
    PredictionLogError,
)
from ecg_lib.operations.drift.observation import observe_beats
from ecg_lib.operations.helper_states import FILE as HELPERS_FILE
from ecg_lib.operations.helper_states import read_helper_states
from ecg_lib.operations.keys.api_keys import read_api_keys, read_keys_file
from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
from ecg_lib.operations.learning.kept_signals import KeptSignal, SignalStore
from ecg_lib.operations.releases import hash_code
from ecg_lib.operations.settings import Settings
from ecg_lib.signal_path.preprocessing import PreparedBeats

if TYPE_CHECKING:
    from ecg_lib.operations.prediction_log import PredictionLog

CODE_ROOT: Final = Path(__file__).parents[2]
"""The directory whose ``bentos`` and ``ecg_lib`` this process runs."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A prediction that was made."""

    prediction_id: str
    body: bytes


def _state_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does; the same for every file that cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_size


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
        self._keys_state: tuple[int, ...] | None = None
        self.rate_limit = open_rate_limit(settings.rate_limit_per_min)
        self.tracing = open_tracing()
        self.memory = MemoryBudget()
        self._patient_key = read_patient_key(settings.patient_key_path)
        self._signals = SignalStore(settings.signals_dir, settings.signal_key_path)
        self._draw = random.SystemRandom()
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
        )
        self.turns = Turns(os.cpu_count() or 1)
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

    def close(self) -> None:
        """End the threads; what waits in the spool and is not written now is written later."""
        self.live.close()
        self.turns.close()
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
        if path is None or (state := _state_of(path)) == self._keys_state:
            return
        found = read_keys_file(path)
        self.api_keys, self._keys_state = found.keys, state
        if found.wrong_lines:
            _logger.error("ECG_API_KEYS_FILE: lines that are not keys: %s", found.wrong_lines)
        if not found.keys:
            _logger.warning("ECG_API_KEYS_FILE has no key, so that no request with one is accepted")

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
        owner: str | None = None,
    ) -> Created:
        """Answer the body of a request, see :func:`bentos.wire.inputs.read_input`.

        The prediction belongs to `owner`, the key that asked for it.

        Raises
        ------
        ProblemError
            If the request is not answered with a prediction.

        """
        start = perf_counter()
        model = self.require_model()
        with self._stage("parse"):
            asked = read_input(body, media_type=media_type, query=query)
            parameters = asked.parameters
        try:
            classified = model.classifier.classify(
                asked.signal_mv,
                fs=parameters.sampling_rate,
                apply_rule_guard=parameters.apply_ruleguard,
                observe=self._stage,
            )
            require_readable(classified.prepared)
        except (InvalidSignalError, InvalidSamplingRateError) as error:
            raise explain_signal_error(error) from error
        with self._stage("answer"):
            created_at, prediction_id = datetime.now(UTC), str(uuid.uuid4())
            answer = {
                "prediction_id": prediction_id,
                "timestamp": created_at.isoformat(),
                **build_answer(
                    classified,
                    fs=parameters.sampling_rate,
                    is_fs_assumed="sampling_rate" not in parameters.model_fields_set,
                ),
                "sampling_rate": parameters.sampling_rate,
                "derivation": parameters.derivation,
                "ruleguard_applied": parameters.apply_ruleguard,
                "drawn_for_review": self._draw.random() < self.settings.audit_share,
                "model": model.info,
                "processing_time_ms": round((perf_counter() - start) * 1e3, 3),
            }
            response = orjson.dumps(answer)
        patient_key = self._hash_patient(parameters.patient_id)
        with self._stage("log"):
            line = encode_prediction(
                prediction_id=prediction_id,
                created_at=created_at,
                patient_key=patient_key,
                bundle_hash=model.bundle.hash,
                bento_tag=model.bento_tag,
                duration_s=classified.prepared.duration_s,
                response=response,
                observed=observe_beats(classified),
                owner=owner,
            )
            self.spool.append(prediction_id, line)
            if self.settings.keep_signals and patient_key is not None:
                signal = KeptSignal(
                    prediction_id=prediction_id,
                    patient_key=patient_key,
                    created_at=created_at,
                    fs=parameters.sampling_rate,
                    lead=parameters.derivation,
                    signal_mv=np.asarray(asked.signal_mv, dtype=np.float32),
                )
                self._keep_signal(signal, is_waiting=not answer["drawn_for_review"])
        self._count(answer, classified.prepared)
        return Created(prediction_id=prediction_id, body=response)

    def _keep_signal(self, signal: KeptSignal, *, is_waiting: bool) -> None:
        """Keep a signal; the answer stands when it cannot be kept."""
        try:
            self._signals.add(signal, is_waiting=is_waiting)
        except (OSError, ConfigurationError):
            _logger.exception("the signal of prediction %s is not kept", signal.prediction_id)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with (
            self.metrics.stage(name),
            self.tracing.stage(name) if self.tracing else contextlib.nullcontext(),
        ):
            yield

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

    def _hash_patient(self, patient_id: str | None) -> str | None:
        return None if patient_id is None else hash_patient(patient_id, key=self._patient_key)

    def _count(self, answer: dict[str, Any], prepared: PreparedBeats) -> None:
        self.metrics.count_signal(
            readable_s=prepared.readable_s, unreadable_s=prepared.unreadable_s
        )
        self.metrics.count_beats(
            normal=answer["normal_beats"],
            ventricular=answer["ventricular_beats"],
            paced=answer["paced_beats"],
            unreadable=answer["unreadable_beats"],
        )
        self.metrics.count_rules(
            beat["rule"] for beat in answer["beat_predictions"] if beat["rule"] is not None
        )
