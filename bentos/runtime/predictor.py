"""Everything of the service that has a lifetime, and the prediction itself."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import orjson

from bentos.recordings.job_queue import RecordingJobs
from bentos.runtime.live_model import LiveModel, LoadedModel
from bentos.runtime.metrics import Metrics
from bentos.runtime.patient_key import hash_patient, read_patient_key
from bentos.runtime.rate_limit import open_rate_limit
from bentos.runtime.spool import Spool, encode_feedback, encode_prediction
from bentos.runtime.tracing import open_tracing
from bentos.wire.answers import build_answer
from bentos.wire.inputs import JSON, PredictionInput, read_input
from bentos.wire.problems import (
    NOT_READY,
    UNKNOWN_BEAT,
    UNKNOWN_PREDICTION,
    ProblemError,
    explain_signal_error,
)
from bentos.wire.schemas import FeedbackRequest
from ecg_lib.classifier.beat_classifier import ClassifiedBeats, decide, require_readable
from ecg_lib.errors import (
    ConfigurationError,
    InvalidSamplingRateError,
    InvalidSignalError,
    PredictionLogError,
)
from ecg_lib.operations.api_keys import read_api_keys
from ecg_lib.operations.drift.observation import observe_beats
from ecg_lib.operations.prediction_rows import FeedbackRow
from ecg_lib.operations.releases import hash_code
from ecg_lib.operations.settings import Settings
from ecg_lib.signal_path.preprocessing import PreparedBeats, prepare_beats

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


def _step_back() -> None:
    """Let the event loop have a processor first: it takes little, and everybody waits for it."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + 5)


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
        self._keys_changed_ns = 0
        self.rate_limit = open_rate_limit(settings.rate_limit_per_min)
        self.tracing = open_tracing()
        self.waiting = 0
        """Predictions that are computed, or wait for it."""
        self._patient_key = read_patient_key(settings.patient_key_path)
        self.live = LiveModel(settings, code_hash=hash_code(CODE_ROOT), has_host=has_host)
        self.spool = Spool(settings.serving_dir / "spool", lambda: self.log)
        self.metrics = Metrics(
            model_info=lambda: self.live.current.info if self.live.current else None,
            backlog=lambda: (len(self.spool), self.spool.lost),
        )
        self.compute = ThreadPoolExecutor(
            os.cpu_count() or 1, thread_name_prefix="compute", initializer=_step_back
        )
        # The log may be slow: those who wait for it must not keep predictions waiting.
        self.look_up = ThreadPoolExecutor(4, thread_name_prefix="look-up")
        self.files = ThreadPoolExecutor(4, thread_name_prefix="files")
        self.recordings = RecordingJobs(settings, model=lambda: self.live.current)

    @cached_property
    def log(self) -> PredictionLog:
        """The prediction log; what it is made with takes half a second to import."""
        from ecg_lib.operations.prediction_log import PredictionLog  # noqa: PLC0415  see above

        log = PredictionLog(self.settings.monitoring_database_url)
        # Who asks for a prediction before any is stored is to be told that there is none.
        with contextlib.suppress(PredictionLogError):
            log.create_tables()
        return log

    def start(self) -> None:
        """Begin to watch for releases and to write the log."""
        self.spool.start()
        self.live.start()
        self.recordings.start()

    def close(self) -> None:
        """End the threads; what waits in the spool and is not written now is written later."""
        self.live.close()
        self.recordings.close()
        for executor in (self.compute, self.look_up, self.files):
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
        with contextlib.suppress(OSError):
            if path is None or (changed_ns := path.stat().st_mtime_ns) == self._keys_changed_ns:
                return
            self._keys_changed_ns = changed_ns
            try:
                self.api_keys = read_api_keys(path)
            except ConfigurationError as error:
                _logger.error("%s; those before stay", error)  # noqa: TRY400  foreseen

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
        self, body: bytes, *, media_type: str = JSON, query: Sequence[tuple[str, str]] = ()
    ) -> Created:
        """Answer the body of a request, see :func:`bentos.wire.inputs.read_input`.

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
        classified = self._classify(model, asked)
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
                "model": model.info,
                "processing_time_ms": round((perf_counter() - start) * 1e3, 3),
            }
            response = orjson.dumps(answer)
        with self._stage("log"):
            line = encode_prediction(
                prediction_id=prediction_id,
                created_at=created_at,
                patient_key=self._hash_patient(parameters.patient_id),
                bundle_hash=model.bundle.hash,
                bento_tag=model.bento_tag,
                duration_s=classified.prepared.duration_s,
                response=response,
                observed=observe_beats(classified),
            )
            self.spool.append(prediction_id, line)
        self._count(answer, classified.prepared)
        return Created(prediction_id=prediction_id, body=response)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with (
            self.metrics.stage(name),
            self.tracing.stage(name) if self.tracing else contextlib.nullcontext(),
        ):
            yield

    def find_prediction(self, prediction_id: str) -> dict[str, Any]:
        """Find the answer of a prediction.

        Raises
        ------
        ProblemError
            If there is none.
        PredictionLogError
            If the log cannot be read.

        """
        waiting = self.spool.find_prediction(prediction_id)
        if waiting is not None:
            return waiting
        row = self.log.get_prediction(prediction_id)
        if row is None:
            raise ProblemError(UNKNOWN_PREDICTION, "no prediction has this prediction_id")
        return row.response

    def check_feedback(self, feedback: FeedbackRequest) -> None:
        """Check that there is the prediction, and that it has the beats.

        Raises
        ------
        ProblemError
            If it has not.
        PredictionLogError
            If the log cannot be read.

        """
        n_beats = self.find_prediction(feedback.prediction_id)["total_beats_detected"]
        errors = [
            (f"labels[{place}].beat_index", f"the prediction has {n_beats} beats")
            for place, label in enumerate(feedback.labels)
            if label.beat_index >= n_beats
        ]
        if errors:
            detail = f"beat_index must be less than {n_beats}, {len(errors)} of the labels are not"
            raise ProblemError(UNKNOWN_BEAT, detail, errors=errors)

    def take_feedback(self, feedback: FeedbackRequest, *, is_verified: bool) -> bytes:
        """Keep feedback and answer it; it waits for nothing but the spool."""
        row = FeedbackRow(
            feedback_id=str(uuid.uuid4()),
            created_at=datetime.now(UTC),
            prediction_id=feedback.prediction_id,
            annotator=feedback.annotator,
            labels={label.beat_index: label.arrhythmia_type for label in feedback.labels},
        )
        self.spool.append(row.feedback_id, encode_feedback(row))
        return orjson.dumps(
            {
                "feedback_id": row.feedback_id,
                "prediction_id": row.prediction_id,
                "timestamp": row.created_at,
                "verified": is_verified,
            }
        )

    def _classify(self, model: LoadedModel, asked: PredictionInput) -> ClassifiedBeats:
        """Classify as ``BeatClassifier`` does, timed by stage."""
        classifier, config, parameters = model.classifier, model.classifier.config, asked.parameters
        with self._stage("prepare"):
            try:
                prepared = prepare_beats(
                    asked.signal_mv, fs=parameters.sampling_rate, config=config.preprocessing
                )
                require_readable(prepared)
            except (InvalidSignalError, InvalidSamplingRateError) as error:
                raise explain_signal_error(error) from error
        with self._stage("network"):
            probability_v = classifier.predict_probabilities(prepared)
        with self._stage("rules"):
            return decide(
                prepared, probability_v, config=config, apply_rule_guard=parameters.apply_ruleguard
            )

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
