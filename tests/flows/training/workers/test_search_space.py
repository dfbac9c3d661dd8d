from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from ecg_lib.training.balancing import Balancing
from ecg_lib.training.cross_validation import Recipe
from ecg_lib.training.fitting import AugmentationConfig, TrainingConfig
from flows.training.workers.search_space import (
    KNOWN_GOOD,
    count_done,
    finalists,
    finished,
    measure_importances,
    open_study,
    replay_trial,
    suggest_recipe,
)
from flows.training.workers.trial_queue import TrialQueue

BASE = Recipe(training=TrainingConfig(epochs=2), max_beats=500)

KNOWN = AugmentationConfig(time_warp=0.1)
"""The changes of the known recipe to the configuration's own defaults."""


@pytest.fixture
def storage_url(database_url: str) -> str:
    return database_url


def _run(study: optuna.Study, n_trials: int) -> list[dict[str, object]]:
    def objective(trial: optuna.Trial) -> float:
        suggest_recipe(trial, BASE)
        return trial.params["learning_rate"]

    study.optimize(objective, n_trials=n_trials)
    return [trial.params for trial in study.trials]


def test_the_first_trial_is_the_known_recipe(storage_url: str) -> None:
    params = _run(open_study("s", storage_url=storage_url, seed=0), 1)
    assert params == [KNOWN_GOOD]
    known = suggest_recipe(optuna.trial.FixedTrial(KNOWN_GOOD), BASE)
    assert known == replace(BASE, training=replace(BASE.training, augmentation=KNOWN))


def test_balancing_focal_loss_network_and_optimiser_are_searched(storage_url: str) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    _run(study, 1)
    space = study.trials[0].distributions
    assert set(space) == set(KNOWN_GOOD)
    assert space["balancing"].choices == tuple(balancing.value for balancing in Balancing)
    assert space["focal_gamma"].choices == (0.0, 1.0, 2.0)
    assert space["width"].choices == ("narrow", "usual", "wide")


def test_the_same_seed_draws_the_same_trials(tmp_path: Path) -> None:
    runs = [
        _run(open_study("s", storage_url=f"sqlite:///{tmp_path / name}", seed=3), 8)
        for name in ("a.db", "b.db")
    ]
    assert runs[0] == runs[1]


def test_a_study_is_found_again_with_its_trials(storage_url: str) -> None:
    _run(open_study("s", storage_url=storage_url, seed=0), 3)
    again = open_study("s", storage_url=storage_url, seed=0)
    assert count_done(again) == 3


def test_the_best_and_the_known_recipe_are_confirmed_with_the_full_budget(
    storage_url: str,
) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    _run(study, 5)
    recipes = finalists(study, Recipe(training=TrainingConfig(epochs=9)))
    assert list(recipes) == [study.best_trial.number, 0]
    assert recipes[0] == Recipe(training=TrainingConfig(epochs=9, augmentation=KNOWN))
    best = recipes[study.best_trial.number]
    assert best.training.learning_rate == study.best_params["learning_rate"]
    assert best.training.epochs == 9


def test_a_trial_that_was_cut_off_is_not_confirmed_beside_its_repetition(storage_url: str) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    suggest_recipe(study.ask(), BASE)
    study.tell(0, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(KNOWN_GOOD)
    _run(study, 5)
    recipes = finalists(study, Recipe(training=TrainingConfig(epochs=9)))
    assert list(recipes) == [study.best_trial.number, 1]


def test_a_trial_that_was_cut_off_is_tried_again_first(storage_url: str) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)
    _run(study, 1)
    cut_off = study.ask()
    suggest_recipe(cut_off, BASE)
    again = open_study("s", storage_url=storage_url, seed=0)
    TrialQueue("s", storage_url=storage_url, worker="w").recover(lambda _: False)
    assert count_done(again) == 1
    assert _run(again, 1)[-1] == cut_off.params


@pytest.mark.parametrize(("n_complete", "is_measured"), [(4, False), (5, True)])
def test_the_importance_of_parameters_needs_five_complete_trials(
    n_complete: int,
    *,
    is_measured: bool,
) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0))
    for value in range(n_complete + 3):
        trial = study.ask()
        trial.suggest_float("dropout", 0.0, 0.5)
        if value < n_complete:
            study.tell(trial, 0.9 - trial.params["dropout"])
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    found = measure_importances(study)
    assert (set(found) == {"dropout"}) is is_measured


def test_a_trial_is_pruned_against_the_trials_it_is_given_and_no_others(storage_url: str) -> None:
    study = open_study("s", storage_url=storage_url, seed=0)

    def objective(trial: optuna.Trial) -> float:
        suggest_recipe(trial, BASE)
        trial.report(0.8, 0)
        return 0.8

    study.optimize(objective, n_trials=3)
    for earlier, score, is_pruned in (
        (finished(study), 0.7, True),
        (finished(study), 0.9, False),
        ([], 0.7, False),
    ):
        trial = replay_trial(KNOWN_GOOD, earlier)
        assert suggest_recipe(trial, BASE).training.augmentation == KNOWN
        trial.report(score, 0)
        assert trial.should_prune() == is_pruned
