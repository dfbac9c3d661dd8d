"""Resolve the feedback to one prediction or recording to the marks that hold.

Feedback is never changed: later feedback overrides earlier one beat by beat, and feedback that
withdraws other feedback is stored beside it. The marks that hold are computed when they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ecg_lib.operations.prediction_rows import FeedbackRow
from ecg_lib.rhythm.strip_forms import FORMS, NO_FORM

_MARKS: Final = (
    "is_recording", "forms", "missed", "false_detections", "is_complete", "withdraws",
)  # fmt: skip
"""Fields of a row that earlier code does not know."""


def write_marks(row: FeedbackRow) -> dict[str, Any]:
    """Return the fields that are not as in feedback of earlier code, for JSON."""
    return {name: value for name in _MARKS if (value := getattr(row, name))}


def read_marks(written: Mapping[str, Any]) -> dict[str, Any]:
    """Read fields as :func:`write_marks` wrote them and JSON changed them."""
    read = dict(written)
    for name in ("forms", "missed"):
        if name in read:
            read[name] = {int(at): one for at, one in read[name].items()}
    if "false_detections" in read:
        read["false_detections"] = tuple(read["false_detections"])
    return read


class Marks(NamedTuple):
    """The marks that hold, of all feedback to one prediction or recording."""

    classes: dict[int, str]
    """``N`` or ``V`` by index of the beat."""
    false_detections: frozenset[int]
    """Indices of detections that are not beats."""
    missed: dict[int, str]
    """``N`` or ``V`` of each beat that was not detected, by its sample."""
    is_complete: bool
    """True when a reader looked at every beat, so that no beat is without a class."""

    @property
    def is_empty(self) -> bool:
        """True when nothing is marked."""
        return not (self.classes or self.false_detections or self.missed)


def list_valid(rows: Iterable[FeedbackRow]) -> list[FeedbackRow]:
    """Return the feedback that was not withdrawn, oldest first."""
    every = list(rows)
    withdrawn = {row.withdraws for row in every if row.withdraws is not None}
    kept = [row for row in every if row.withdraws is None and row.feedback_id not in withdrawn]
    return sorted(kept, key=lambda row: (row.created_at, row.feedback_id))


def count_samples(answer: Mapping[str, Any]) -> int | None:
    """Compute the length of the signal of an answer; None where earlier code did not state it."""
    if "duration_s" not in answer or "sampling_rate" not in answer:
        return None
    return round(float(answer["duration_s"]) * float(answer["sampling_rate"]))


def read_forms(answer: Mapping[str, Any]) -> list[int]:
    """Return the form of each beat of an answer, -1 without one; earlier code named none."""
    return [
        FORMS.index(name) if (name := beat.get("form")) else NO_FORM
        for beat in answer["beat_predictions"]
    ]


def resolve_marks(
    rows: Iterable[FeedbackRow],
    *,
    called: Sequence[str | None],
    forms: Sequence[int] = (),
    n_samples: int | None = None,
) -> Marks:
    """Compute the marks that hold.

    Parameters
    ----------
    rows : iterable of FeedbackRow
        All feedback to one prediction or recording, in any order.
    called : sequence of str or None
        Class of each beat as it was answered; None for a beat without one. A reader who looked at
        every beat confirms those that the feedback does not name.
    forms : sequence of int, optional
        Form of each beat, -1 without one; feedback to a form is feedback to each of its beats.
    n_samples : int, optional
        Length of the signal, where it is known.

    Returns
    -------
    Marks
        Those of beats that are not among `called`, or after the end of the signal, are left out:
        feedback is taken unchecked while its prediction cannot be read.

    """
    classes: dict[int, str] = {}
    false: set[int] = set()
    missed: dict[int, str] = {}
    is_complete = False
    for row in list_valid(rows):
        named = {
            index: row.forms[form] for index, form in enumerate(forms) if form in row.forms
        } | row.labels
        if row.is_complete:
            is_complete = True
            rest = {index: one for index, one in enumerate(called) if one is not None}
            left = set(rest) - set(named) - set(row.false_detections) - set(classes) - false
            named |= {index: rest[index] for index in left}
        classes |= named
        false = (false - set(named)) | set(row.false_detections)
        for index in row.false_detections:
            classes.pop(index, None)
        missed |= row.missed
    known = range(len(called))
    return Marks(
        classes={index: classes[index] for index in sorted(classes) if index in known},
        false_detections=frozenset(index for index in false if index in known),
        missed={
            sample: missed[sample]
            for sample in sorted(missed)
            if n_samples is None or sample < n_samples
        },
        is_complete=is_complete,
    )


def count_marked(called: Sequence[str | None], marks: Marks) -> dict[str, int]:
    """Count the N and V beats of a prediction as its marks correct them."""
    final = [
        None if index in marks.false_detections else marks.classes.get(index, one)
        for index, one in enumerate(called)
    ]
    missed = list(marks.missed.values())
    return {name: final.count(name) + missed.count(name) for name in ("N", "V")}
