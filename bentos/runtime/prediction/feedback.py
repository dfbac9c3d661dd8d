"""Feedback of readers: check it against what it marks, store it, withdraw it, and read it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bentos.runtime.limits.caller import SERVICE_ITSELF, Caller
from bentos.runtime.predictor import Runtime
from bentos.runtime.spool import encode_feedback
from bentos.wire.problems import UNKNOWN_BEAT, UNKNOWN_FEEDBACK, ProblemError
from bentos.wire.schemas import FeedbackRequest
from ecg_lib.operations.learning.labels import (
    count_marked,
    count_samples,
    list_valid,
    read_forms,
    resolve_marks,
)
from ecg_lib.operations.learning.review_queue import weigh_doubt
from ecg_lib.operations.prediction_rows import FeedbackRow
from ecg_lib.recordings.beat_file import read_called
from ecg_lib.rhythm.strip_forms import FORMS, NO_FORM

FindResults = Callable[[str, Caller], Path]
"""Finds the results of a recording that the caller may see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """The beats that feedback is about."""

    called: list[str | None]
    """Class of each beat; None without one."""
    forms: list[int]
    """Form of each beat, -1 without one."""
    n_samples: int | None
    """Length of the signal; None where it is not known."""


def find_marked(
    runtime: Runtime, feedback: FeedbackRequest, caller: Caller, find_results: FindResults
) -> Marked:
    """Find the beats that feedback is about.

    Raises
    ------
    ProblemError
        If there is no such prediction or recording of the caller, or it has no result.
    PredictionLogError
        If the log cannot be read.

    """
    if feedback.recording_id is not None:
        return _of_recording(find_results(feedback.recording_id, caller))
    return _of_prediction(runtime.find_prediction(feedback.subject_id, caller))


def _of_prediction(answer: dict[str, Any]) -> Marked:
    called = [beat["arrhythmia_type"] for beat in answer["beat_predictions"]]
    return Marked(called=called, forms=read_forms(answer), n_samples=count_samples(answer))


def _of_recording(results: Path) -> Marked:
    called, forms = read_called(results)
    return Marked(called=called, forms=forms, n_samples=None)


def check_feedback(feedback: FeedbackRequest, marked: Marked) -> None:
    """Check that what feedback names exists.

    Raises
    ------
    ProblemError
        If it does not.

    """
    n_beats, n_samples = len(marked.called), marked.n_samples
    beat = f"must be less than {n_beats}, the number of beats"
    known = sorted({FORMS[form] for form in marked.forms if form != NO_FORM})
    form = f"must be one of {', '.join(known)}" if known else "has no beats: label them by index"
    errors = [
        *(
            (f"{name}[{place}].beat_index", beat)
            for name in ("labels", "false_detections")
            for place, label in enumerate(getattr(feedback, name))
            if label.beat_index >= n_beats
        ),
        *(
            (f"forms[{place}].form", form)
            for place, label in enumerate(feedback.forms)
            if label.form not in known
        ),
        *(
            (f"missed_beats[{place}].position_sample", f"must be less than {n_samples}")
            for place, missed in enumerate(feedback.missed_beats)
            if n_samples is not None and missed.position_sample >= n_samples
        ),
    ]
    if errors:
        detail = f"marks must be of beats that exist, {len(errors)} are not: {': '.join(errors[0])}"
        raise ProblemError(UNKNOWN_BEAT, detail, errors=errors)


def take_feedback(
    runtime: Runtime, feedback: FeedbackRequest, *, is_verified: bool, owner: str | None = None
) -> bytes:
    """Store feedback and answer it; this waits for nothing but the spool."""
    row = FeedbackRow(
        feedback_id=str(uuid.uuid4()),
        created_at=datetime.now(UTC),
        prediction_id=feedback.subject_id,
        annotator=feedback.annotator,
        labels={label.beat_index: label.arrhythmia_type for label in feedback.labels},
        owner=owner,
        is_recording=feedback.recording_id is not None,
        forms={FORMS.index(label.form): label.arrhythmia_type for label in feedback.forms},
        missed={beat.position_sample: beat.arrhythmia_type for beat in feedback.missed_beats},
        false_detections=tuple(found.beat_index for found in feedback.false_detections),
        is_complete=feedback.is_complete,
    )
    runtime.spool.append(row.feedback_id, encode_feedback(row))
    return orjson.dumps(
        {
            "feedback_id": row.feedback_id,
            "prediction_id": feedback.prediction_id,
            "recording_id": feedback.recording_id,
            "timestamp": row.created_at,
            "verified": is_verified,
        }
    )


def withdraw_feedback(runtime: Runtime, feedback_id: str, caller: Caller) -> None:
    """Take feedback of the caller back; it stays stored, and counts no longer.

    Raises
    ------
    ProblemError
        If the caller gave no such feedback, or took it back already.
    PredictionLogError
        If the log cannot be read.

    """
    waiting = [row for row in runtime.spool.find_feedback(feedback_id) if not row.withdraws]
    row = waiting[0] if waiting else runtime.log.get_feedback(feedback_id)
    if row is None or row.withdraws is not None or not caller.sees(row.owner):
        raise ProblemError(UNKNOWN_FEEDBACK, "no feedback has this feedback_id")
    given = read_feedback(runtime, row.prediction_id)
    if feedback_id not in {one.feedback_id for one in list_valid(given)}:
        raise ProblemError(UNKNOWN_FEEDBACK, "the feedback was withdrawn before")
    withdrawal = FeedbackRow(
        feedback_id=str(uuid.uuid4()),
        created_at=datetime.now(UTC),
        prediction_id=row.prediction_id,
        annotator=None,
        labels={},
        owner=caller.owner,
        is_recording=row.is_recording,
        withdraws=feedback_id,
    )
    runtime.spool.append(withdrawal.feedback_id, encode_feedback(withdrawal))


def read_feedback(runtime: Runtime, subject_id: str) -> list[FeedbackRow]:
    """Read all feedback to a prediction or recording, what waits to be stored too.

    Raises
    ------
    PredictionLogError
        If the log cannot be read.

    """
    waiting = runtime.spool.find_feedback(subject_id)
    # Read after what waits: a row that moves between both must not be missed.
    stored = runtime.log.read_feedback([subject_id])
    return list({row.feedback_id: row for row in (*waiting, *stored)}.values())


def describe_marks_of_prediction(
    runtime: Runtime, prediction_id: str, caller: Caller = SERVICE_ITSELF
) -> bytes:
    """Describe the marks on a prediction of the caller; raises as :func:`find_marked`."""
    marked = _of_prediction(runtime.find_prediction(prediction_id, caller))
    return _describe(read_feedback(runtime, prediction_id), marked)


def describe_marks_of_recording(runtime: Runtime, job_id: str, results: Path) -> bytes:
    """Describe the marks on a recording; raises as :func:`read_feedback`."""
    return _describe(read_feedback(runtime, job_id), _of_recording(results))


def describe_queue(
    runtime: Runtime, caller: Caller, *, since: datetime, limit: int
) -> list[dict[str, object]]:
    """Describe the predictions that are most worth a look by a reader.

    Raises
    ------
    PredictionLogError
        If the log cannot be read.

    """
    sees_all = caller.sees(None)
    owner = None if sees_all else caller.owner
    return [
        {
            "prediction_id": row.prediction_id,
            "timestamp": row.created_at,
            "drawn_for_review": row.is_drawn,
            "doubt": round(row.doubt, 4),
            "reasons": weigh_doubt(row.response, row.observed).reasons,
            "derivation": row.response.get("derivation"),
            "duration_s": row.response.get("duration_s"),
            "overall_arrhythmia_type": row.response.get("overall_arrhythmia_type"),
        }
        for row in runtime.log.read_queue(since=since, owner=owner, limit=limit)
    ]


def _describe(rows: list[FeedbackRow], marked: Marked) -> bytes:
    marks = resolve_marks(
        rows, called=marked.called, forms=marked.forms, n_samples=marked.n_samples
    )
    counts = count_marked(marked.called, marks)
    valid = {row.feedback_id for row in list_valid(rows)}
    given = sorted((row for row in rows if row.withdraws is None), key=lambda row: row.created_at)
    return orjson.dumps(
        {
            "labels": _beats(marks.classes),
            "missed_beats": _missed(marks.missed),
            "false_detections": _false(marks.false_detections),
            "is_complete": marks.is_complete,
            "counts": {"normal_beats": counts["N"], "ventricular_beats": counts["V"]},
            "feedback": [
                {
                    "feedback_id": row.feedback_id,
                    "timestamp": row.created_at,
                    "annotator": row.annotator,
                    "owner": row.owner,
                    "labels": _beats(row.labels),
                    "forms": [
                        {"form": FORMS[form], "arrhythmia_type": one}
                        for form, one in row.forms.items()
                    ],
                    "missed_beats": _missed(row.missed),
                    "false_detections": _false(row.false_detections),
                    "is_complete": row.is_complete,
                    "is_withdrawn": row.feedback_id not in valid,
                }
                for row in given
            ],
        }
    )


def _beats(classes: dict[int, str]) -> list[dict[str, object]]:
    return [{"beat_index": at, "arrhythmia_type": one} for at, one in classes.items()]


def _missed(missed: dict[int, str]) -> list[dict[str, object]]:
    return [{"position_sample": at, "arrhythmia_type": one} for at, one in missed.items()]


def _false(indices: frozenset[int] | tuple[int, ...]) -> list[dict[str, int]]:
    return [{"beat_index": at} for at in sorted(indices)]
