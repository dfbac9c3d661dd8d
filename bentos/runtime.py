"""Everything of the service that has a lifetime, and the prediction itself."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, ValidationError

from bentos.answers import build_answer
from bentos.api_keys import read_api_keys
from bentos.live_model import LiveModel, LoadedModel
from bentos.metrics import Metrics
from bentos.patient_key import hash_patient, read_patient_key
from bentos.problems import (
    INVALID_REQUEST,
    NOT_READY,
    OUT_OF_RANGE,
    UNKNOWN_BEAT,
    UNKNOWN_PREDICTION,
    ProblemError,
    explain_signal_error,
    explain_validation_error,
)
from bentos.recording_jobs import RecordingJobs
from bentos.schemas import MAX_ABS_MV, MAX_LABELS, FeedbackRequest, PredictionRequest
from bentos.spool import Spool, encode_feedback, encode_prediction
from ecg_lib.classifier import ClassifiedBeats, require_readable
from ecg_lib.code_hash import hash_code
from ecg_lib.errors import InvalidSamplingRateError, InvalidSignalError, PredictionLogError
from ecg_lib.monitoring import observe_beats
from ecg_lib.prediction_log import FeedbackRow, PredictionLog
from ecg_lib.settings import Settings

CODE_ROOT: Final = Path(__file__).parents[1]
"""The directory whose ``bentos`` and ``ecg_lib`` this process runs."""

T = TypeVar("T", bound=BaseModel)

_MAX_MEMBERS: Final = 3 * MAX_LABELS


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A prediction that was made."""

    prediction_id: str
    body: bytes


class Runtime:
    """The live model, the spool, the metrics, and the threads that compute.

    Parameters
    ----------
    settings : Settings
    has_host : bool
        See :class:`bentos.live_model.LiveModel`.

    Raises
    ------
    ConfigurationError
        If the file of the patient key or of the API keys cannot be used.

    """

    def __init__(self, settings: Settings, *, has_host: bool) -> None:
        self.settings = settings
        self.is_draining = False
        self.api_keys = read_api_keys(settings.api_keys_file) if settings.api_keys_file else None
        self._patient_key = read_patient_key(settings.patient_key_path)
        self.live = LiveModel(settings, code_hash=hash_code(CODE_ROOT), has_host=has_host)
        self.log = PredictionLog(settings.monitoring_database_url)
        self.spool = Spool(settings.serving_dir / "spool", self.log)
        self.metrics = Metrics(
            model_info=lambda: model.info if (model := self.live.current) else None,
            backlog=lambda: (len(self.spool), self.spool.lost),
        )
        self.compute = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="compute")
        # The log may be slow: those who wait for it must not keep predictions waiting.
        self.look_up = ThreadPoolExecutor(4, thread_name_prefix="look-up")
        self.files = ThreadPoolExecutor(4, thread_name_prefix="files")
        self.recordings = RecordingJobs(settings, model=lambda: self.live.current)

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
        self.spool.close()
        self.log.close()

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

    def predict(self, body: bytes) -> Created:
        """Answer the body of a request.

        Raises
        ------
        ProblemError
            If the request is not answered with a prediction.

        """
        start = perf_counter()
        model = self.require_model()
        with self.metrics.stage("parse"):
            request = parse(PredictionRequest, body)
            signal_mv = np.array(request.signal_data, dtype=np.float64)
            _check_range(signal_mv)
        with self.metrics.stage("classify"):
            classified = _classify(model, signal_mv, request)
        with self.metrics.stage("answer"):
            created_at, prediction_id = datetime.now(UTC), str(uuid.uuid4())
            answer = {
                "prediction_id": prediction_id,
                "timestamp": created_at.isoformat(),
                **build_answer(classified, fs=request.sampling_rate),
                "sampling_rate": request.sampling_rate,
                "derivation": request.derivation,
                "ruleguard_applied": request.apply_ruleguard,
                "model": model.info,
                "processing_time_ms": round((perf_counter() - start) * 1e3, 3),
            }
            response = orjson.dumps(answer)
        with self.metrics.stage("spool"):
            line = encode_prediction(
                prediction_id=prediction_id,
                created_at=created_at,
                patient_key=self._hash_patient(request.patient_id),
                bundle_hash=model.bundle.hash,
                bento_tag=model.bento_tag,
                duration_s=classified.prepared.duration_s,
                response=response,
                observed=observe_beats(classified),
            )
            self.spool.append(prediction_id, line)
        self._count(answer)
        return Created(prediction_id=prediction_id, body=response)

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

    def take_feedback(self, body: bytes) -> bytes:
        """Answer feedback.

        Raises
        ------
        ProblemError
            If the feedback is not taken.

        """
        request = parse(FeedbackRequest, body)
        is_verified = self._verify(request)
        row = FeedbackRow(
            feedback_id=str(uuid.uuid4()),
            created_at=datetime.now(UTC),
            prediction_id=request.prediction_id,
            annotator=request.annotator,
            labels={label.beat_index: label.arrhythmia_type for label in request.labels},
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

    def _verify(self, request: FeedbackRequest) -> bool:
        """Check that the prediction has the beats; False when the log cannot be read."""
        try:
            prediction = self.find_prediction(request.prediction_id)
        except PredictionLogError:
            return False
        n_beats = prediction["total_beats_detected"]
        errors = [
            (f"labels[{place}].beat_index", f"the prediction has {n_beats} beats")
            for place, label in enumerate(request.labels)
            if label.beat_index >= n_beats
        ]
        if errors:
            detail = f"beat_index must be less than {n_beats}, {len(errors)} of the labels are not"
            raise ProblemError(UNKNOWN_BEAT, detail, errors=errors)
        return True

    def _hash_patient(self, patient_id: str | None) -> str | None:
        return None if patient_id is None else hash_patient(patient_id, key=self._patient_key)

    def _count(self, answer: dict[str, Any]) -> None:
        self.metrics.count_beats(
            normal=answer["normal_beats"],
            ventricular=answer["ventricular_beats"],
            unreadable=answer["unreadable_beats"],
        )
        self.metrics.count_rules(
            beat["rule"] for beat in answer["beat_predictions"] if beat["rule"] is not None
        )


def parse(model: type[T], body: bytes) -> T:
    """Validate the JSON text of a request.

    Raises
    ------
    ProblemError
        If it is no JSON, or not what the model wants.

    """
    # Each unknown field costs an error of its own: a million of them would cost seconds.
    members = body.count(b":")
    if members > _MAX_MEMBERS:
        raise ProblemError(
            INVALID_REQUEST, f"the body must have at most {_MAX_MEMBERS} members, got {members}"
        )
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise explain_validation_error(error) from None


def _check_range(signal_mv: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    greatest_mv = float(np.abs(signal_mv).max())
    if greatest_mv > MAX_ABS_MV:
        reason = f"samples must be in mV, between -{MAX_ABS_MV:g} and {MAX_ABS_MV:g}"
        raise ProblemError(OUT_OF_RANGE, reason, errors=[("signal_data", reason)])


def _classify(
    model: LoadedModel,
    signal_mv: np.ndarray[Any, np.dtype[np.float64]],
    request: PredictionRequest,
) -> ClassifiedBeats:
    try:
        classified = model.classifier.classify(
            signal_mv, fs=request.sampling_rate, apply_rule_guard=request.apply_ruleguard
        )
        require_readable(classified.prepared)
    except (InvalidSignalError, InvalidSamplingRateError) as error:
        raise explain_signal_error(error) from error
    return classified
