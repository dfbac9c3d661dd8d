"""Run the trials of a sweep, alone or with other flow runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from ecg_lib.operations.settings import Settings
from flows.data.dataset_versions import DatasetVersion
from flows.data.progress import ProgressBar
from flows.doors.parallel import N_PROCESSES
from flows.doors.registry import Registry, RunEnd, RunKind
from flows.doors.ui.links import tag_origin
from flows.training.fitting import TrialResult, fit_processes, run_trial
from flows.training.sweep import Sweep, SweepPlan, describe_sweep, is_here, take_lead
from flows.training.workers.presence import forget_gone, is_gone, present

if TYPE_CHECKING:
    import optuna

    from ecg_lib.training.cross_validation import Recipe
    from flows.training.workers.trial_queue import TrialQueue

_POLL_S: Final = 1.0

_VISITS: Final = "visited-sweeps"
"""Folder of the locks of workers of sweeps that another machine leads."""

_LEAD_S: Final = 600
"""A worker of another machine waits so long for a sign of the run that leads."""


class Share(NamedTuple):
    """Part of this run in the trials of a sweep."""

    n_trials: int
    is_leading: bool
    """True when it must go on: confirm recipes and build the candidate."""


def announce(sweep: Sweep, settings: Settings, *, data: str | None = None) -> None:
    """Make the study of a sweep, so that other runs can join it.

    Args:
        sweep: The sweep.
        settings: Where the study is.
        data: Hash of its data in the store, if they are shared.
    """
    from flows.training.workers.search_space import open_study

    study = open_study(sweep.study, storage_url=settings.study_storage_url, seed=sweep.seed)
    study.set_user_attr("sweep", describe_sweep(sweep, data=data))


@task(cache_policy=NO_CACHE)
def take_trials(
    sweep: Sweep,
    version: DatasetVersion,
    data: Path,
    registry: Registry,
    settings: Settings,
    *,
    is_leading: bool,
) -> Share:
    """Take trials of the study until all have ended.

    The run that leads draws them: as many together as the plan's workers have processes, and the
    next when all of these have ended. So the recipes depend on the seed, the number of trials and
    the number of workers in the plan. They do not depend on timing, on how many workers there
    really are, or on one that was killed: its trial is run again with the same recipe and seed,
    and pruned against the same earlier rounds.

    Not deterministic: which worker runs a trial, the number that a repeated trial gets, and the
    draws after another run has taken the lead or has resumed the sweep: the sampler then starts
    with a seed made from that of the sweep and the number of trials so far.

    A trial that raises an error, or ends its process, is run again. After three retries the sweep
    ends with an error that names it.

    Raises:
        SweepError: If a trial has no retry left, or the sweep was given up.
    """
    from flows.training.workers.trial_queue import TrialQueue

    plan, n_done, n_here = sweep.plan, 0, 0
    fit = partial(
        run_trial,
        seed=sweep.seed,
        n_folds=plan.search_folds,
        base=_search_base(plan),
        version=version,
        data=data,
        settings=settings,
    )
    bar, lead = ProgressBar("Trials"), _Lead(sweep, registry, settings, is_held=is_leading)
    place = sweep.directory if is_here(sweep) else settings.home / _VISITS / sweep.study
    with present(place) as worker, ExitStack() as pools:
        queue = TrialQueue(sweep.study, storage_url=settings.study_storage_url, worker=worker)
        if not is_here(sweep):
            hand_back(queue, place)
        own = _OwnTrials(sweep, queue, registry, lambda: pools.enter_context(fit_processes()), fit)
        with queue.beating():
            while True:
                lead.advance(queue)
                if queue.count_done() != n_done:
                    n_done = queue.count_done()
                    bar.update(n_done, plan.n_trials)
                if n_done >= plan.n_trials or (own.are_over and lead.is_lost(queue)):
                    break
                own.fill()
                n_here += own.wait()
    return Share(n_here, lead.is_held)


def hand_back(queue: TrialQueue, place: Path) -> None:
    """Hand back the trials of earlier workers of this machine that were killed.

    Without this, the run that leads would wait for their heartbeats.
    """
    for number in queue.hand_back(partial(is_gone, place)):
        get_run_logger().warning("trial %d of a killed worker of this machine is free", number)
    forget_gone(place)


class _Lead:
    """The lead of a sweep, as far as this run knows of it."""

    def __init__(
        self, sweep: Sweep, registry: Registry, settings: Settings, *, is_held: bool
    ) -> None:
        self.is_held = is_held
        self._sweep, self._registry, self._settings = sweep, registry, settings
        self._sampler: optuna.samplers.BaseSampler | None = None
        self._is_resumed = is_held
        self._seen: tuple[float | None, float] = (None, time.monotonic())

    def advance(self, queue: TrialQueue) -> None:
        """Take the lead if it is free; with it, queue what is lost, and the next round."""
        from flows.training.workers.search_space import open_study
        from flows.training.workers.trial_queue import has_raised, run_of

        sweep = self._sweep
        self.is_held = self.is_held or take_lead(sweep, self._registry)
        if not self.is_held:
            return
        if self._sampler is None:
            url = self._settings.study_storage_url
            self._sampler = open_study(sweep.study, storage_url=url, seed=sweep.seed).sampler
        lost = queue.recover(partial(is_gone, sweep.directory), is_resumed=self._is_resumed)
        self._is_resumed = False
        for trial in lost:
            get_run_logger().warning("trial %d was cut off and is queued again", trial.number)
            if (run_id := run_of(trial)) is not None:
                end = RunEnd.FAILED if has_raised(trial) else RunEnd.KILLED
                self._registry.end_run(run_id, end)
        n_together = N_PROCESSES * sweep.plan.n_workers
        queue.draw(self._sampler, n_together, sweep.plan.n_trials, _search_base(sweep.plan))

    def is_lost(self, queue: TrialQueue) -> bool:
        """Check whether the lead is on another machine and no longer gives a sign."""
        if self.is_held or is_here(self._sweep):
            return False
        now, seen = time.monotonic(), queue.read_lead()
        if seen != self._seen[0]:
            self._seen = (seen, now)
        return now - self._seen[1] > _LEAD_S


class _OwnTrials:
    """The trials that this run works on, each in a process."""

    def __init__(
        self,
        sweep: Sweep,
        queue: TrialQueue,
        registry: Registry,
        open_pool: Callable[[], ProcessPoolExecutor],
        fit: Callable[..., TrialResult],
    ) -> None:
        self._sweep, self._queue, self._registry = sweep, queue, registry
        self._open_pool, self._pool, self._fit = open_pool, open_pool(), fit
        self._running: dict[Future[TrialResult], tuple[int, str]] = {}
        self._origin = tag_origin()

    @property
    def are_over(self) -> bool:
        """True when no trial runs here."""
        return not self._running

    def fill(self) -> None:
        """Take trials that wait, as many as there are processes for."""
        while len(self._running) < N_PROCESSES:
            trial = self._queue.take()
            if trial is None:
                return
            run_id = self._registry.start_run(
                f"trial {trial.number}",
                kind=RunKind.TRIAL,
                tags={**self._sweep.tags, "ecg.sweep": self._sweep.name, **self._origin},
                parent_run_id=self._sweep.run_id,
            )
            self._queue.note_run(trial.number, run_id)
            job = partial(self._fit, run_id=run_id, params=trial.params, earlier=trial.earlier)
            try:
                future = self._pool.submit(job)
            except BrokenProcessPool:
                self._pool = self._open_pool()
                future = self._pool.submit(job)
            self._running[future] = trial.number, run_id

    def wait(self) -> int:
        """Wait a moment, store the results that there are, and return how many count."""
        if not self._running:
            time.sleep(_POLL_S)
        n_counted = 0
        for future in wait(self._running, _POLL_S, return_when=FIRST_COMPLETED).done:
            number, run_id = self._running.pop(future)
            if (error := future.exception()) is not None:
                get_run_logger().error("trial %d failed", number, exc_info=error)
                self._queue.fail(number, f"{type(error).__name__}: {error}")
                self._registry.end_run(run_id, RunEnd.FAILED)
                continue
            scores, is_pruned = result = future.result()
            if self._queue.finish(number, result):
                n_counted += 1
                get_run_logger().info(
                    "trial %d: %s, V-F1 %s",
                    number,
                    "pruned" if is_pruned else "complete",
                    ", ".join(f"{score:.4f}" for score in scores),
                )
            else:
                get_run_logger().warning(
                    "trial %d was taken for cut off and is run by another worker", number
                )
                self._registry.end_run(run_id, RunEnd.KILLED)
        return n_counted


@task(cache_policy=NO_CACHE)
def choose_finalists(sweep: Sweep, registry: Registry, settings: Settings) -> dict[int, Recipe]:
    """Return the recipes to confirm, by trial, when all trials have ended."""
    from ecg_lib.training.fitting import TrainingConfig
    from flows.training.workers.search_space import count_done, finalists, open_study

    plan = sweep.plan
    study = open_study(sweep.study, storage_url=settings.study_storage_url, seed=sweep.seed)
    _show_trials(study, sweep)
    _draw_search(study, sweep, registry)
    get_run_logger().info("best: trial %d, V-F1 %.4f", study.best_trial.number, study.best_value)
    registry.log(
        sweep.run_id,
        metrics={"best_search_v_f1": study.best_value, "n_trials": count_done(study)},
        tags={"ecg.best_trial": str(study.best_trial.number)},
    )
    full = replace(
        _search_base(plan),
        training=TrainingConfig(epochs=plan.confirm_epochs),
        max_beats=plan.confirm_beats,
    )
    return finalists(study, full)


def _draw_search(study: optuna.Study, sweep: Sweep, registry: Registry) -> None:
    from flows.training.figures import draw_history, draw_importances
    from flows.training.workers.search_space import LEAST_TRIALS, finished, measure_importances

    values = [trial.value for trial in finished(study)]
    registry.log_text(sweep.run_id, draw_history(values), "sweep/history.svg")
    if importances := measure_importances(study):
        n_complete = sum(value is not None for value in values)
        drawn = draw_importances(importances, n_trials=n_complete)
        registry.log_text(sweep.run_id, drawn, "sweep/importances.svg")
    else:
        get_run_logger().info("the importance of parameters needs %d complete trials", LEAST_TRIALS)


def _search_base(plan: SweepPlan) -> Recipe:
    """Return what the trials of a plan have in common."""
    from ecg_lib.training.cross_validation import Recipe
    from ecg_lib.training.fitting import TrainingConfig

    return Recipe(training=TrainingConfig(epochs=plan.search_epochs), max_beats=plan.search_beats)


def _show_trials(study: optuna.Study, sweep: Sweep) -> None:
    create_table_artifact(
        key="sweep",
        description=f"Trials of sweep {sweep.name}",
        table=[
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "V-F1 after each fold": ", ".join(
                    f"{value:.4f}" for value in trial.intermediate_values.values()
                ),
                **{
                    name: f"{value:.3g}" if isinstance(value, float) else value
                    for name, value in trial.params.items()
                },
            }
            for trial in study.trials
        ],
    )
