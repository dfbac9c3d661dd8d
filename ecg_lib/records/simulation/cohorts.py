"""Cohorts of simulated patients that are recorded for a purpose of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import Patient, draw_textbook_patient
from ecg_lib.records.simulation.simulator import simulate_cohort_member


def simulate_textbook_member(number: int, *, duration_s: float, seed: int) -> Record:
    """Simulate the record of one of many patients with beats that are easy to tell apart.

    A model that is trained on them alone knows little else. Number and seed decide the record, at
    360 Hz, however many others there are; it is called ``sim001``, ``sim002`` and so on.

    Parameters
    ----------
    number : int
        Not negative.
    duration_s : float
        Length in seconds, at least 2.
    seed : int
        Not negative.

    Raises
    ------
    ValueError
        If a number is out of these bounds.

    """
    return simulate_cohort_member(number, duration_s=duration_s, seed=seed, draw=_draw_textbook)


def _draw_textbook(seed: int) -> Patient:
    rng = np.random.default_rng(seed)
    return replace(
        draw_textbook_patient(rng, is_noisy=False),
        pvc_episodes_per_min=rng.uniform(3.0, 8.0),
        apbs_per_min=rng.uniform(0.0, 2.0),
    )
