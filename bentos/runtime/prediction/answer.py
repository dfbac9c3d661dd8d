"""From the body of a request to its answer and its row of the log.

Nothing here belongs to a process: a long strip is computed in another one, see
:mod:`bentos.runtime.prediction.long_strips`.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

import numpy as np
import orjson

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.spool import encode_prediction
from bentos.wire.answers import build_answer
from bentos.wire.inputs import JSON, read_input
from bentos.wire.problems import explain_signal_error
from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import InvalidSamplingRateError, InvalidSignalError
from ecg_lib.operations.drift.observation import observe_beats
from ecg_lib.operations.keys.patient_key import hash_patient
from ecg_lib.operations.learning.kept_signals import KeptSignal

_DRAW: Final = random.SystemRandom()

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
    audit_share: float = 0.0
    """Share of the answers that are drawn for review."""
    keeps_signal: bool = False
    """True when the signal of a patient is to be kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Figures that a prediction adds to the metrics."""

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
    is_drawn: bool = False
    """True when it was drawn for review."""
    signal: KeptSignal | None = None
    """The signal, where it is to be kept."""


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
            "drawn_for_review": _DRAW.random() < question.audit_share,
            "model": model.info,
            "processing_time_ms": round((perf_counter() - start) * 1e3, 3),
        }
        body = orjson.dumps(described)
        patient_id, patient_key = parameters.patient_id, None
        if patient_id is not None:
            patient_key = hash_patient(patient_id, key=question.patient_key)
        row = encode_prediction(
            prediction_id=prediction_id,
            created_at=created_at,
            patient_key=patient_key,
            bundle_hash=model.bundle.hash,
            bento_tag=model.bento_tag,
            duration_s=prepared.duration_s,
            response=body,
            observed=observe_beats(classified),
            owner=question.owner,
        )
    signal = None
    if question.keeps_signal and patient_key is not None:
        signal = KeptSignal(
            prediction_id=prediction_id,
            patient_key=patient_key,
            created_at=created_at,
            fs=parameters.sampling_rate,
            lead=parameters.derivation,
            signal_mv=np.asarray(asked.signal_mv, dtype=np.float32),
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
        is_drawn=described["drawn_for_review"],
        signal=signal,
    )
