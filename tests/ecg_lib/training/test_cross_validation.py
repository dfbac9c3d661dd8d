"""The rows that a network is trained on, their weights, and calls by thresholds of other folds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.records.simulation.training_patients import simulate_training_patient
from ecg_lib.training.cross_validation import Recipe, call_nested, training_rows
from ecg_lib.training.datasets import STRIPS_10_S, BeatDataset, build_beats, join_records
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


def _predictions(
    folds: list[list[tuple[float, str]]], *, threshold: float, **changes: list[object]
) -> pa.Table:
    """Make a table of whole records: probability and label of each beat, a person a fold."""
    rows = [(fold, *one) for fold, beats in enumerate(folds) for one in beats]
    columns: dict[str, list[object]] = {
        "subject": [f"s{fold}" for fold, *_ in rows],
        "view": [str(WHOLE)] * len(rows),
        "fold": [fold for fold, *_ in rows],
        "label": [label for *_, label in rows],
        "is_readable": [True] * len(rows),
        "probability_v": [probability for _, probability, _ in rows],
        "is_v": [probability >= threshold for _, probability, _ in rows],
        "rule": [""] * len(rows),
    }
    return pa.table(columns | changes)


EASY = [(0.1, "N"), (0.3, "N"), (0.5, "V"), (0.9, "V")]
HARD = [(0.1, "N"), (0.6, "N"), (0.7, "V"), (0.9, "V")]


def test_each_fold_is_called_by_the_threshold_of_the_others() -> None:
    # Of the easy fold alone the limit is 0.4, of the hard one alone 0.65: each gets the other's.
    table = _predictions([EASY, HARD], threshold=0.65)
    called = call_nested(table, v_beats={"s0": 2, "s1": 2})
    assert called.tolist() == [False, False, False, True, False, True, True, True]


def test_a_fold_keeps_its_calls_when_the_others_have_no_v() -> None:
    table = _predictions([EASY, [(0.8, "N"), (0.2, "S")]], threshold=0.65)
    called = call_nested(table, v_beats={"s0": 2, "s1": 0})
    assert called[:4].tolist() == [False, False, False, True]  # as the table says
    assert called[4:].tolist() == [True, False]  # 0.4, of the first fold


def test_what_a_rule_called_stays() -> None:
    table = _predictions(
        [EASY, HARD], threshold=0.65, rule=["", "wide", *[""] * 6],
        is_v=[False, True, False, True, False, False, True, True],
    )  # fmt: skip
    called = call_nested(table, v_beats={"s0": 2, "s1": 2})
    assert called.tolist() == [False, True, False, True, False, True, True, True]


@pytest.mark.parametrize(("n_missed", "is_called"), [(0, False), (12, True)])
def test_beats_that_no_threshold_finds_lower_the_threshold(
    n_missed: int, *, is_called: bool
) -> None:
    # With many V missed anyway, four true calls are worth the four false ones before them.
    others = [(0.9, "V")] * 4 + [(0.7, "N")] * 4 + [(0.6, "V")] * 2 + [(0.1, "N")]
    table = _predictions([[(0.65, "V")], others], threshold=0.8)
    called = call_nested(table, v_beats={"s0": 1, "s1": 6 + n_missed})
    assert bool(called[0]) is is_called


@pytest.mark.parametrize(
    "changes", [{"label": "F"}, {"is_readable": False}, {"view": str(STRIPS_10_S)}]
)
def test_what_is_not_scored_chooses_no_threshold(changes: dict[str, object]) -> None:
    extra = [(0.55, "N")] * 40
    plain = _predictions([EASY, HARD], threshold=0.65)
    more = _predictions([EASY, HARD + extra], threshold=0.65)
    for name, value in changes.items():
        column = more[name].to_pylist()
        column[8:] = [value] * len(extra)
        more = more.set_column(more.schema.get_field_index(name), name, pa.array(column))
    v_beats = {"s0": 2, "s1": 2}
    assert (call_nested(more, v_beats=v_beats)[:8] == call_nested(plain, v_beats=v_beats)).all()
