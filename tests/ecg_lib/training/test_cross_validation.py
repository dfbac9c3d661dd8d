"""The rows that a network is trained on, and their weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.records.simulation.training_patients import simulate_training_patient
from ecg_lib.training.cross_validation import Recipe, training_rows
from ecg_lib.training.datasets import BeatDataset, build_beats, join_records
from ecg_lib.training.views import WHOLE, View

SITE = {"sim1": 5.0}


@pytest.fixture(scope="module")
def dataset() -> BeatDataset:
    return join_records(
        [
            build_beats(
                simulate_record(
                    f"sim{seed}", patient=draw_patient(seed), duration_s=90.0, seed=seed
                ),
                scoring_views=(WHOLE,),
                training_views=(),
                conducted_share=1.0,
            )
            for seed in range(3)
        ]
    )


def choose(
    dataset: BeatDataset, max_beats: int | None, weights: dict[str, float] | None
) -> tuple[int, int]:
    """Count the rows of the weighted record and of the others."""
    rows = training_rows(
        dataset,
        subjects=set(dataset.subjects),
        scoring_views=(WHOLE,),
        recipe=Recipe(conducted_share=1.0, max_beats=max_beats),
        seed=0,
        weights=weights,
    )
    assert (np.diff(rows) > 0).all()
    n_site = int((dataset.record[rows] == dataset.record_names.index("sim1")).sum())
    return n_site, len(rows) - n_site


def test_records_with_a_weight_are_taken_first_for_at_most_half_of_the_beats(
    dataset: BeatDataset,
) -> None:
    n_site, n_others = choose(dataset, None, SITE)
    n_all = n_site + n_others
    assert n_all > 210
    assert n_site > 60
    assert choose(dataset, n_all - 10, SITE) == (n_site, n_others - 10)
    assert choose(dataset, 100, SITE) == (50, 50)
    by_chance, rest = choose(dataset, n_all - 10, None)
    assert by_chance + rest == n_all - 10


def test_weights_change_nothing_where_no_record_has_one(dataset: BeatDataset) -> None:
    assert choose(dataset, 150, {}) == choose(dataset, 150, None)
    assert choose(dataset, 150, {"another": 5.0}) == choose(dataset, 150, None)


def test_simulated_patients_are_trained_on_in_every_fold() -> None:
    cut = partial(
        build_beats, scoring_views=(WHOLE,), training_views=(View(strip_s=20),), conducted_share=1.0
    )
    patients = [replace(simulate_training_patient(number), name=f"p{number}") for number in (0, 1)]
    dataset = join_records(
        [
            cut(simulate_record("sim1", patient=draw_patient(1), duration_s=90.0, seed=1)),
            cut(simulate_record("sim2", patient=draw_patient(2), duration_s=90.0, seed=2)),
            *(cut(patient) for patient in patients),
        ]
    )
    for subject, other in (("sim1", "sim2"), ("sim2", "sim1")):
        rows = training_rows(
            dataset,
            subjects={subject},
            scoring_views=(WHOLE,),
            recipe=Recipe(conducted_share=1.0),
            seed=0,
        )
        seen = {dataset.record_names[index] for index in dataset.record[rows]}
        assert seen == {subject, "p0", "p1"}, f"{other} was left out"
