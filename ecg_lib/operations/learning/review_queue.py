"""How much a prediction is worth a look: doubt from 0 to 1, and the reasons for it.

Predictions that were drawn at random come first whatever their doubt, because performance is
measured on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

WORTH_A_LOOK: Final = 0.5
"""Doubt that is worth a reason, and a look by a reader."""
_RULE_DOUBT: Final = 0.75
"""Doubt where the network and a rule disagree."""
_ALIKE: Final = 0.8
"""Similarity to the conducted beats from which on a beat called N has the shape of one."""


class Doubt(NamedTuple):
    """How doubtful the classes of a prediction are."""

    score: float
    """0 to 1."""
    reasons: tuple[str, ...]


def weigh_doubt(response: Mapping[str, Any], observed: Mapping[str, Sequence[Any]]) -> Doubt:
    """Measure how doubtful the classes of a prediction are.

    Parameters
    ----------
    response : mapping
        The answer, with ``beat_predictions``.
    observed : mapping
        Columns of :func:`ecg_lib.operations.drift.observation.observe_beats`.

    Returns
    -------
    Doubt
        The greatest of three: the probability of the other class, twice; a class that a rule
        changed; and a beat called N whose shape is not that of the conducted beats.

    """
    classed = [one for one in response.get("beat_predictions", ()) if one["arrhythmia_type"]]
    weighed: list[tuple[float, str]] = []
    # Rows of other versions of the service may lack fields.
    rated = [beat for beat in classed if beat.get("confidence") is not None]
    if rated:
        least = min(rated, key=lambda beat: float(beat["confidence"]))
        called, confidence = least["arrhythmia_type"], least["confidence"]
        reason = f"beat {least['beat_index']} is {called} with a probability of {confidence:.2f}"
        weighed.append((min(1.0, 2 * (1 - confidence)), reason))
    changed = [beat["beat_index"] for beat in classed if beat.get("rule") is not None]
    if changed:
        reason = f"a rule changed the class of {len(changed)} beats, first of beat {changed[0]}"
        weighed.append((_RULE_DOUBT, reason))
    similarity = observed.get("template_correlation", ())
    if len(similarity) == len(classed):
        unlike = [
            (1 - float(alike) / _ALIKE, beat.get("beat_index", 0))
            for beat, alike in zip(classed, similarity, strict=True)
            if beat["arrhythmia_type"] == "N" and alike is not None and alike < _ALIKE
        ]
        if unlike:
            score, index = max(unlike)
            weighed.append((min(1.0, score), f"beat {index} is N in a shape unlike the others"))
    weighed.sort(reverse=True)
    return Doubt(
        score=weighed[0][0] if weighed else 0.0,
        reasons=tuple(reason for score, reason in weighed if score >= WORTH_A_LOOK),
    )
