"""From the body of a request to its answer and its row of the log.

Nothing here belongs to a process: a long strip is computed in another one, see
:mod:`bentos.runtime.prediction.long_strips`.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

import numpy as np
import orjson

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.prediction.rollout.pace import Asked
from bentos.runtime.spool import encode_prediction, encode_request
from bentos.wire.answers import build_answer
from bentos.wire.inputs import JSON, PredictionInput, read_input
from bentos.wire.problems import ProblemError, explain_signal_error
from bentos.wire.schemas import PredictionParameters
from ecg_lib.classifier.beat_classifier import require_readable
from ecg_lib.errors import InvalidSamplingRateError, InvalidSignalError
from ecg_lib.operations.drift.observation import observe_beats, observe_polarity
from ecg_lib.operations.keys.patient_key import hash_patient
from ecg_lib.operations.learning.kept_signals import KeptSignal
from ecg_lib.operations.learning.rollout.candidate import is_chosen
from ecg_lib.operations.prediction_rows import RequestRow, name_group

_DRAW: Final = random.SystemRandom()

_logger = logging.getLogger(__name__)

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
    client: str | None = None
    """Hash of the client, see :func:`ecg_lib.operations.keys.patient_key.hash_client`."""
    patient_key: bytes = field(repr=False)
    """Key of the hash of the patient's identifier."""
    audit_share: float = 0.0
    """Share of the answers that are drawn for review."""
    keeps_signal: bool = False
    """True when the signal of a patient is to be kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canary:
    """A candidate that answers a share of the people."""

    model: LoadedModel
    candidate_id: str
    share: float
    watch: Callable[[float], AbstractContextManager[Asked]]
    """Measures its answer to a strip of so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The numbers that a prediction adds to the metrics."""

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
    """Its lines of the spool: the prediction, and where it came from."""
    counts: Counts
    is_drawn: bool = False
    """True when it was drawn for review."""
    signal: KeptSignal | None = None
    """The signal, where it is to be kept."""
    created_at: datetime
    traffic_group: str
    """See :func:`ecg_lib.operations.prediction_rows.name_group`."""
    is_by_candidate: bool = False
    """True when a candidate answered."""
    failure: str | None = None
    """Why a candidate that was to answer did not: ``refused: ...`` or ``failed: ...``."""
    is_slow: bool = False
    """True when a candidate took too long for it, which was counted as an error."""
    seconds: float = 0.0
    """Time that the served model took for it; 0 where a candidate answered."""


class RefusedSignalError(ProblemError):
    """A signal that is refused, with its line of the spool.

    Parameters
    ----------
    problem : ProblemError
    row : bytes
    failure : str or None
        Why a candidate that was asked before gave no answer, see :attr:`Answer.failure`.
    is_slow : bool
        True when that candidate took too long for it, which was counted as an error.

    """

    def __init__(
        self,
        problem: ProblemError,
        *,
        row: bytes,
        failure: str | None = None,
        is_slow: bool = False,
    ) -> None:
        super().__init__(problem.kind, problem.detail, errors=problem.errors)
        self.row = row
        self.failure = failure
        self.is_slow = is_slow


def answer(
    model: LoadedModel, question: Question, *, observe: Observe, canary: Canary | None = None
) -> Answer:
    """Answer a request, see :func:`bentos.wire.inputs.read_input`.

    A candidate answers the people who are in its share. When it refuses a signal or fails, the
    model that is served answers, so that no request fails because of an error of a candidate. Such
    a request takes as long as both models together; how long the candidate takes is not limited,
    but counted, see :mod:`bentos.runtime.prediction.rollout.pace`.

    Raises
    ------
    RefusedSignalError
        If the signal cannot be read.
    ProblemError
        If the request is not answered with a prediction for another reason.

    """
    start_s = perf_counter()
    with observe("parse"):
        asked = read_input(question.body, media_type=question.media_type, query=question.query)
    request = _describe_request(model, asked, question)
    failure, is_slow = None, False
    if canary is not None and is_chosen(
        name_group(request.patient_key, request.client),
        share=canary.share,
        candidate_id=canary.candidate_id,
        key=question.patient_key,
    ):
        of_candidate = replace(
            request, bundle_hash=canary.model.bundle.hash, bento_tag=canary.model.bento_tag
        )
        made = None
        with canary.watch(request.duration_s) as watched:
            try:
                made = _classify(
                    canary.model, asked, question, of_candidate, observe=observe, start_s=start_s
                )
            except RefusedSignalError as error:
                failure = f"refused: {error.kind.name}"
            except Exception as error:  # whatever a candidate raises, the request is answered
                _logger.exception("the candidate %s failed", canary.model.bento_tag)
                failure = f"failed: {type(error).__name__}"
        is_slow = watched.is_slow
        if made is not None:
            return replace(made, is_by_candidate=True, is_slow=is_slow, seconds=0.0)
    try:
        made = _classify(model, asked, question, request, observe=observe, start_s=start_s)
    except RefusedSignalError as error:
        raise RefusedSignalError(error, row=error.row, failure=failure, is_slow=is_slow) from error
    if failure is None:
        return made
    return replace(made, failure=failure, is_slow=is_slow)


def _describe_request(model: LoadedModel, asked: PredictionInput, question: Question) -> RequestRow:
    parameters = asked.parameters
    patient_id = parameters.patient_id
    return RequestRow(
        request_id=str(uuid.uuid4()),
        created_at=datetime.now(UTC),
        bundle_hash=model.bundle.hash,
        bento_tag=model.bento_tag,
        duration_s=len(asked.signal_mv) / parameters.sampling_rate,
        patient_key=(
            None if patient_id is None else hash_patient(patient_id, key=question.patient_key)
        ),
        client=question.client,
        owner=question.owner,
        slices=_slices_of(parameters, question),
    )


def _classify(
    model: LoadedModel,
    asked: PredictionInput,
    question: Question,
    request: RequestRow,
    *,
    observe: Observe,
    start_s: float,
) -> Answer:
    """Classify the beats of a signal and write the answer.

    Raises
    ------
    RefusedSignalError
        If the signal cannot be read.

    """
    begun_s, parameters = perf_counter(), asked.parameters
    try:
        classified = model.classifier.classify(
            asked.signal_mv,
            others_mv=[] if asked.second_mv is None else [asked.second_mv],
            fs=parameters.sampling_rate,
            apply_rule_guard=parameters.apply_ruleguard,
            observe=observe,
        )
        require_readable(classified.prepared)
    except (InvalidSignalError, InvalidSamplingRateError) as error:
        problem = explain_signal_error(error)
        row = encode_request(replace(request, refused=problem.kind.name))
        raise RefusedSignalError(problem, row=row) from error
    prepared = classified.prepared
    with observe("answer"):
        described = {
            "prediction_id": request.request_id,
            "timestamp": request.created_at.isoformat(),
            **build_answer(
                classified,
                fs=parameters.sampling_rate,
                is_fs_assumed="sampling_rate" not in parameters.model_fields_set,
            ),
            "sampling_rate": parameters.sampling_rate,
            "derivation": parameters.derivation,
            "second_lead": asked.second_lead if classified.is_helped else None,
            "ruleguard_applied": parameters.apply_ruleguard,
            "drawn_for_review": _DRAW.random() < question.audit_share,
            "model": model.info,
            "processing_time_ms": round((perf_counter() - start_s) * 1e3, 3),
        }
        body = orjson.dumps(described)
        row = encode_prediction(
            prediction_id=request.request_id,
            created_at=request.created_at,
            patient_key=request.patient_key,
            bundle_hash=model.bundle.hash,
            bento_tag=model.bento_tag,
            duration_s=prepared.duration_s,
            response=body,
            observed=observe_beats(classified) | observe_polarity(classified),
            owner=question.owner,
        ) + encode_request(request)
    signal = None
    if question.keeps_signal and request.patient_key is not None:
        signal = KeptSignal(
            prediction_id=request.request_id,
            patient_key=request.patient_key,
            created_at=request.created_at,
            fs=parameters.sampling_rate,
            lead=parameters.derivation,
            signal_mv=np.asarray(asked.signal_mv, dtype=np.float32),
        )
    rules = (beat["rule"] for beat in described["beat_predictions"])
    return Answer(
        prediction_id=request.request_id,
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
        created_at=request.created_at,
        traffic_group=name_group(request.patient_key, request.client),
        seconds=perf_counter() - begun_s,
    )


def _slices_of(parameters: PredictionParameters, question: Question) -> dict[str, str]:
    """Return what monitoring cuts traffic by; what is not stated is not there."""
    stated = {
        "lead": parameters.derivation,
        "rate": f"{parameters.sampling_rate:g} Hz",
        "device": parameters.device,
        "site": parameters.site,
        "key": question.owner,
    }
    return {name: value for name, value in stated.items() if value}
