"""From the body of a request to its answer and its row of the log.

Nothing here belongs to a process: a long strip is computed in another one, see
:mod:`bentos.runtime.prediction.long_strips`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter

import orjson

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.patient_key import hash_patient
from bentos.runtime.spool import encode_prediction
from bentos.wire.answers import build_answer
from bentos.wire.inputs import JSON, read_input
from bentos.wire.problems import explain_signal_error
from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import InvalidSamplingRateError, InvalidSignalError
from ecg_lib.operations.drift.observation import observe_beats

Observe = Callable[[str], AbstractContextManager[object]]
"""Measures a stage, one of :data:`bentos.runtime.metrics.STAGES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request for a prediction."""

    body: bytes
    media_type: str = JSON
    query: tuple[tuple[str, str], ...] = ()
    owner: str | None = None
    """The key that asks, whose the prediction will be."""
    patient_key: bytes = field(repr=False)
    """Key of the hash of the patient's identifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a prediction adds to the metrics."""

    normal: int
    ventricular: int
    paced: int
    unreadable: int
    readable_s: float
    unreadable_s: float
    rules: tuple[str, ...]
    """The rule of each class that one changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A prediction that was made."""

    prediction_id: str
    body: bytes
    """The JSON of the answer."""
    row: bytes
    """Its line of the spool."""
    counts: Counts


def answer(model: LoadedModel, question: Question, *, observe: Observe) -> Answer:
    """Answer a request, see :func:`bentos.wire.inputs.read_input`.

    Raises
    ------
    ProblemError
        If the request is not answered with a prediction.

    """
    start = perf_counter()
    with observe("parse"):
        asked = read_input(question.body, media_type=question.media_type, query=question.query)
        parameters = asked.parameters
    try:
        classified = model.classifier.classify(
            asked.signal_mv,
            fs=parameters.sampling_rate,
            apply_rule_guard=parameters.apply_ruleguard,
            observe=observe,
        )
        require_readable(classified.prepared)
    except (InvalidSignalError, InvalidSamplingRateError) as error:
        raise explain_signal_error(error) from error
    prepared = classified.prepared
    with observe("answer"):
        created_at, prediction_id = datetime.now(UTC), str(uuid.uuid4())
        described = {
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
        body = orjson.dumps(described)
        patient_id = parameters.patient_id
        row = encode_prediction(
            prediction_id=prediction_id,
            created_at=created_at,
            patient_key=(
                None if patient_id is None else hash_patient(patient_id, key=question.patient_key)
            ),
            bundle_hash=model.bundle.hash,
            bento_tag=model.bento_tag,
            duration_s=prepared.duration_s,
            response=body,
            observed=observe_beats(classified),
            owner=question.owner,
        )
    rules = (beat["rule"] for beat in described["beat_predictions"])
    return Answer(
        prediction_id=prediction_id,
        body=body,
        row=row,
        counts=Counts(
            normal=described["normal_beats"],
            ventricular=described["ventricular_beats"],
            paced=described["paced_beats"],
            unreadable=described["unreadable_beats"],
            readable_s=prepared.readable_s,
            unreadable_s=prepared.unreadable_s,
            rules=tuple(rule for rule in rules if rule is not None),
        ),
    )
