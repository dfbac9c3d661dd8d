"""Simulated patients in training: what the records of a few dozen people hold too little of.

Runs of ventricular beats are rare in the records that networks are trained on, and under simulated
movement a network learns that wide waves in a fast row are movement. So every network also sees
patients with runs, and others whose fast rhythm is conducted. They are in the training part of
every fold, and nothing is scored on them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import Unusual, draw_patient, draw_unusual_patient
from ecg_lib.records.simulation.simulator import simulate_record

_NAME: Final = "simulated_"
_DURATION_S: Final = 240.0
_FIRST_SEED: Final = 300
_EVERY_FAST: Final = 4
"""One of so many has a conducted fast rhythm, the others have runs."""
_PATTERNS: Final = (1.0, 0.5, 1.0, 0.5, 1.5, 3.0)
_EPISODES_PER_MIN: Final = 6.0


def simulate_training_patient(number: int) -> Record:
    """Simulate a patient; the same `number` gives the same one."""
    seed = _FIRST_SEED + number
    if number % _EVERY_FAST == _EVERY_FAST - 1:
        patient = draw_unusual_patient(seed, Unusual.FAST)
    else:
        patient = replace(
            draw_patient(seed),
            pvc_episodes_per_min=_EPISODES_PER_MIN,
            pattern_weights=_PATTERNS,
        )
    name = f"{_NAME}{number}"
    record = simulate_record(name, patient=patient, duration_s=_DURATION_S, seed=seed)
    return replace(record, person=name)


def is_simulated_patient(subject: str) -> bool:
    """Return whether a subject of training beats is one of these, of no fold."""
    return subject.startswith(_NAME)
