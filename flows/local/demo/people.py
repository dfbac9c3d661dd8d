"""The people of the demo: simulated, so that the class of every beat is known to the readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from ecg_lib.records.annotations import Annotations
from ecg_lib.records.simulation.patients import draw_aberrant_patient
from ecg_lib.records.simulation.simulator import simulate_record
from flows.monitoring.labels.feedback_import import Found, compare
from flows.monitoring.traffic import STRIP_S, Strip

_FIRST_SEED: Final = 7000
_READER: Final = "demo reader"


class KnownStrip(NamedTuple):
    """A strip with the classes of its beats."""

    strip: Strip
    truth: Annotations


def make_new_strips(*, n_people: int, n_strips: int, first: int = 0) -> Iterator[KnownStrip]:
    """Make strips of people with aberrant atrial premature beats, each person in turn.

    No patient of the simulated cohort is like that; the same numbers give the same strips.

    Args:
        n_people: Number of people.
        n_strips: Strips of each.
        first: Number of the first strip of a person, so that a later call gives other strips.
    """
    for place in range(first, first + n_strips):
        for number in range(n_people):
            seed = _FIRST_SEED + number
            record = simulate_record(
                f"new{number}_{place}",
                patient=draw_aberrant_patient(seed),
                duration_s=STRIP_S,
                seed=1000 * seed + place,
            )
            strip = Strip(record.name, f"new person {number}", record.signal_mv(), record.fs)
            yield KnownStrip(strip, record.annotations or _NO_BEATS)


_NO_BEATS: Final = Annotations(samples=np.zeros(0, np.int64), symbols=np.zeros(0, "U1"))


def mark(answer: dict[str, Any], truth: Annotations) -> dict[str, Any]:
    """Mark every beat of an answer as a reader would who knows the truth; the body of feedback."""
    positions = [beat["position_sample"] for beat in answer["beat_predictions"]]
    found = Found(np.array(positions, dtype=np.int64), answer["sampling_rate"])
    return {
        "prediction_id": answer["prediction_id"],
        **compare(truth, found, is_partial=False),
        "is_complete": True,
        "annotator": _READER,
    }
