"""Search of a sweep: balancing, loss, network, optimiser and augmentation, in an Optuna study.

The first trial is the best recipe that was known when this was written, so that a sweep never
ends below it for lack of trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import TrialState

from ecg_lib.training.balancing import Balancing
from ecg_lib.training.cnn import CnnConfig
from ecg_lib.training.cross_validation import Recipe
from ecg_lib.training.fitting import AugmentationConfig
from flows.doors.parallel import one_at_a_time
from flows.training.workers.retrying_storage import RetryingStorage

_BASE_FILTERS: Final = CnnConfig().filters
_WIDTHS: Final = {"narrow": 0.67, "usual": 1.0, "wide": 1.5}

KNOWN_GOOD: Final[dict[str, Any]] = {
    "balancing": Balancing.NONE.value,
    "focal_gamma": 0.0,
    "width": "usual",
    "dropout": 0.2,
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "batch_size": 256,
    "label_smoothing": 0.05,
    "gain_deviation": 0.2,
    "noise": 0.04,
    "feature_noise": 0.1,
    "time_warp": 0.1,
}
"""Chosen on DS1 out of fold."""

LEAST_TRIALS: Final = 5
"""Complete trials from which on the importance of parameters is measured."""

FIRST_OF_ROUND: Final = "first_of_round"
"""Attribute of a trial that has been drawn: the first trial of its round."""


def suggest_recipe(trial: optuna.trial.BaseTrial, base: Recipe) -> Recipe:
    """Draw the recipe of a trial; `base` says what is not searched (epochs, number of beats)."""
    width = _WIDTHS[trial.suggest_categorical("width", list(_WIDTHS))]
    cnn = CnnConfig(
        filters=tuple(8 * max(1, round(count * width / 8)) for count in _BASE_FILTERS),
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
    )
    training = replace(
        base.training,
        balancing=Balancing(
            trial.suggest_categorical("balancing", [balancing.value for balancing in Balancing])
        ),
        focal_gamma=trial.suggest_categorical("focal_gamma", [0.0, 1.0, 2.0]),
        learning_rate=trial.suggest_float("learning_rate", 5e-4, 5e-3, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 5e-2, log=True),
        batch_size=trial.suggest_categorical("batch_size", [128, 256, 512]),
        label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.1),
        augmentation=AugmentationConfig(
            gain_deviation=trial.suggest_float("gain_deviation", 0.0, 0.4),
            noise=trial.suggest_float("noise", 0.0, 0.1),
            feature_noise=trial.suggest_float("feature_noise", 0.0, 0.3),
            time_warp=trial.suggest_float("time_warp", 0.0, 0.2),
        ),
    )
    return replace(base, cnn=cnn, training=training)


@contextmanager
def alone_in_sqlite(storage_url: str) -> Iterator[None]:
    """Let one process at a time do in SQLite what Optuna does not do in one step.

    That is to make its tables and to take a trial. Database servers lock the rows themselves.
    """
    path = storage_url.removeprefix("sqlite:///")
    if path == storage_url:
        yield
        return
    with one_at_a_time(Path(f"{path}.lock")):
        yield


def open_storage(
    storage_url: str, *, heartbeat_interval: int | None = None, grace_period: int | None = None
) -> optuna.storages.RDBStorage:
    """Open the storage of studies, or make it; seconds of heartbeats are those of Optuna."""
    if not storage_url.startswith("sqlite"):
        return RetryingStorage(
            storage_url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=heartbeat_interval,
            grace_period=grace_period,
        )
    with alone_in_sqlite(storage_url):
        return optuna.storages.RDBStorage(
            storage_url,
            engine_kwargs={"connect_args": {"timeout": 60}},
            heartbeat_interval=heartbeat_interval,
            grace_period=grace_period,
        )


def open_study(name: str, *, storage_url: str, seed: int) -> optuna.Study:
    """Open the study of a sweep, or make it with the known recipe as its first trial."""
    _log_warnings_only()
    study = optuna.create_study(
        study_name=name,
        storage=open_storage(storage_url),
        load_if_exists=True,
        direction="maximize",
    )
    # The next draw depends on the seed and on the earlier ones, however often it is opened. The
    # known recipe counts once its round is drawn.
    trials = study.get_trials(deepcopy=False)
    n_drawn = sum(
        trial.state is not TrialState.WAITING or FIRST_OF_ROUND in trial.user_attrs
        for trial in trials
    )
    study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + n_drawn, n_startup_trials=5)
    if not trials:
        study.add_trial(_known_trial())
    return study


def _known_trial() -> optuna.trial.FrozenTrial:
    """Make the first trial; it has all its parameters, so that no kill can lose some."""
    known = optuna.trial.FixedTrial(KNOWN_GOOD)
    suggest_recipe(known, Recipe())
    return optuna.create_trial(
        state=TrialState.WAITING, params=known.params, distributions=known.distributions
    )


def replay_trial(
    params: Mapping[str, Any], earlier: Sequence[optuna.trial.FrozenTrial]
) -> optuna.Trial:
    """Make a trial of its own with given parameters; it is pruned against earlier ones."""
    _log_warnings_only()
    study = optuna.create_study(
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0),
    )
    study.add_trials(earlier)
    study.enqueue_trial(dict(params))
    return study.ask()


def _log_warnings_only() -> None:
    """Flows log each trial in a line of their own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def count_done(study: optuna.Study) -> int:
    """Count the trials that are complete or pruned."""
    return len(finished(study))


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """List the trials that are complete or pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def measure_importances(study: optuna.Study) -> dict[str, float]:
    """Measure the share of each parameter in how complete trials differ; none of too few trials.

    By PED-ANOVA (Watanabe et al. 2023, doi:10.24963/ijcai.2023/488), Optuna's default.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < LEAST_TRIALS:
        return {}
    with warnings.catch_warnings():  # it warns of few trials, and the figure says how many
        warnings.simplefilter("ignore", UserWarning)
        return optuna.importance.get_param_importances(study)


def finalists(study: optuna.Study, base: Recipe) -> dict[int, Recipe]:
    """Choose the recipes to confirm, by trial: the best one, and the known one.

    Few beats and epochs favour recipes that learn fast, so the known one, which was chosen with
    the full budget, is confirmed beside the best of the search.
    """
    chosen = [study.best_trial] + [trial for trial in finished(study) if trial.params == KNOWN_GOOD]
    return {
        trial.number: suggest_recipe(optuna.trial.FixedTrial(trial.params), base)
        for trial in chosen
    }
