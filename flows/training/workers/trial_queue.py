"""Queue of a study: one run draws trials, and each is taken by one of the runs that work on it.

Optuna's storage decides which worker has a trial. A worker on another machine, or one that hangs,
is found by its missing heartbeats; one that ended on this machine by its lock, at once.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ecg_lib.training.cross_validation import Recipe
from flows.training.fitting import TrialResult
from flows.training.sweep import SweepError
from flows.training.workers.retrying_storage import PASSING
from flows.training.workers.search_space import (
    FIRST_OF_ROUND,
    alone_in_sqlite,
    finished,
    open_storage,
    suggest_recipe,
)

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 10
GRACE_S: Final = 300
"""A trial without a heartbeat for so long is given to another worker.

On a machine with ten times more to do than cores, heartbeats of a healthy worker came after 66 s.
"""
_SLEEP_S: Final = 60
"""A lead that did nothing for so long slept, and perhaps the others with it."""

N_RETRIES: Final = 3
"""A trial that is cut off more often is not tried again: it ends the process that runs it."""

_WORKER: Final = "worker"
_RETRY_OF: Final = "retry_of"
_RETRIES: Final = "retries"
_ERROR: Final = "error"
_MAX_ERROR: Final = 500
_RUN: Final = "mlflow_run"
_LEAD: Final = "lead_seen_at"


class TakenTrial(NamedTuple):
    """A trial that this worker runs."""

    number: int
    params: dict[str, Any]
    earlier: list[FrozenTrial]
    """The finished trials of earlier rounds, which the pruner may compare with."""


class TrialQueue:
    """The trials of a study, as one worker sees them.

    Parameters
    ----------
    name : str
        Of a study that there is.
    storage_url : str
        Where it is.
    worker : str
        Name of this worker.

    """

    def __init__(self, name: str, *, storage_url: str, worker: str) -> None:
        self._url = storage_url
        self._worker = worker
        self._mine: set[int] = set()
        self._is_leading = False
        self._watched_since = self._recovered_at = time.time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._storage = open_storage(
                storage_url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S
            )
        # Trials are drawn elsewhere: this sampler is never asked.
        self.study = optuna.load_study(
            study_name=name, storage=self._storage, sampler=optuna.samplers.RandomSampler(seed=0)
        )
        self._study_id = self._storage.get_study_id_from_name(name)

    def take(self) -> TakenTrial | None:
        """Take the first trial that waits; None when none does."""
        with alone_in_sqlite(self._url):
            for waiting in self._list(TrialState.WAITING):
                if FIRST_OF_ROUND not in waiting.user_attrs:
                    continue  # its round is being drawn
                trial_id = self._id_of(waiting.number)
                try:
                    if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                        continue
                    # A trial that names a worker has a heartbeat, or it would never be stale.
                    self._storage.record_heartbeat(trial_id)
                    self._storage.set_trial_user_attr(trial_id, _WORKER, self._worker)
                except UpdateFinishedTrialError:
                    continue
                self._mine.add(waiting.number)
                first = waiting.user_attrs[FIRST_OF_ROUND]
                earlier = [one for one in finished(self.study) if one.number < first]
                return TakenTrial(waiting.number, waiting.params, earlier)
        return None

    def note_run(self, number: int, run_id: str) -> None:
        """Note the MLflow run of a trial."""
        self._storage.set_trial_user_attr(self._id_of(number), _RUN, run_id)

    def finish(self, number: int, result: TrialResult) -> bool:
        """Store the result of a trial; False when it was given to another worker meanwhile."""
        trial_id = self._id_of(number)
        self._mine.discard(number)
        with alone_in_sqlite(self._url):
            try:
                for fold, score in enumerate(result.scores):
                    self._storage.set_trial_intermediate_value(trial_id, fold, score)
                told = self.study.tell(
                    number,
                    None if result.is_pruned else result.scores[-1],
                    state=TrialState.PRUNED if result.is_pruned else None,
                    skip_if_finished=True,
                )
            except UpdateFinishedTrialError:
                return False
        return told.state is not TrialState.FAIL

    def fail(self, number: int, error: str) -> None:
        """Note that a trial has raised an error; the run that leads queues it again."""
        trial_id = self._id_of(number)
        self._mine.discard(number)
        with alone_in_sqlite(self._url):
            try:
                self._storage.set_trial_user_attr(trial_id, _ERROR, error[:_MAX_ERROR])
                self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            except UpdateFinishedTrialError:
                return  # it was given to another worker meanwhile

    def count_done(self) -> int:
        """Count the trials that are complete or pruned."""
        return len(finished(self.study))

    def draw(
        self, sampler: optuna.samplers.BaseSampler, n_together: int, n_trials: int, base: Recipe
    ) -> None:
        """Queue the next round of trials when all of the last one have ended.

        Args:
            sampler: Draws them; one of its own for the run that leads.
            n_together: Number of trials of a round.
            n_trials: Number of trials of the study.
            base: What is not searched.
        """
        trials = self.study.get_trials()
        is_open = any(
            not one.state.is_finished() and FIRST_OF_ROUND in one.user_attrs for one in trials
        )
        n_left = n_trials - self.count_done()
        if is_open or n_left <= 0 or _lost(trials):
            return  # a trial that is lost is run again before its round has ended
        # In a copy, as what is asked of the study itself would be running and not waiting.
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials(trials)
        drawn = [copy.ask() for _ in range(min(n_together, n_left))]
        attributes = {FIRST_OF_ROUND: drawn[0].number}
        for trial in drawn:
            suggest_recipe(trial, base)
            if trial.number < len(trials):
                trial_id = self._id_of(trial.number)
                self._storage.set_trial_user_attr(trial_id, FIRST_OF_ROUND, drawn[0].number)
            else:
                self._queue(trial, attributes)

    def recover(
        self, is_gone: Callable[[str], bool], *, is_resumed: bool = False
    ) -> list[FrozenTrial]:
        """Fail the trials whose workers are gone, and queue them and those that failed again.

        Only the run that leads does this. What is cut off between the two is queued by the next
        call.

        Args:
            is_gone: Tells whether a worker has ended, as far as this machine can tell.
            is_resumed: Whether someone has just started the sweep again. Then each trial has all
                its retries again.

        Returns:
            The trials that were queued again, as they were.

        Raises:
            SweepError: If a trial has no retry left.
        """
        self._is_leading = True
        with alone_in_sqlite(self._url):
            for trial in self._list(TrialState.RUNNING):
                worker = trial.user_attrs.get(_WORKER)
                if worker is None or is_gone(worker):
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            if self._has_watched():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    optuna.storages.fail_stale_trials(self.study)
            lost = _lost(self.study.get_trials(deepcopy=False))
            for trial in lost:
                first = trial.user_attrs.get(FIRST_OF_ROUND, trial.number)
                n_retries = 0 if is_resumed else trial.user_attrs.get(_RETRIES, 0)
                if n_retries >= N_RETRIES:
                    raise SweepError(_explain_end(trial))
                self._queue(
                    trial, {FIRST_OF_ROUND: first, _RETRY_OF: trial.number, _RETRIES: n_retries + 1}
                )
        return lost

    def hand_back(self, is_gone: Callable[[str], bool]) -> list[int]:
        """Fail the trials of workers that are gone, for the run that leads to queue them again.

        Returns:
            Their numbers.
        """
        lost = [
            trial.number
            for trial in self._list(TrialState.RUNNING)
            if (worker := trial.user_attrs.get(_WORKER)) is not None and is_gone(worker)
        ]
        for number in lost:
            # Another worker that starts, or the run that leads, may do the same.
            with suppress(UpdateFinishedTrialError):
                self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        return lost

    def _has_watched(self) -> bool:
        """Check whether heartbeats had time to come since this process, or the machine, slept."""
        now = time.time()
        if not 0 <= now - self._recovered_at <= _SLEEP_S:
            self._watched_since = now
        self._recovered_at = now
        return now - self._watched_since > GRACE_S

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Record heartbeats of the trials that this worker has taken, and of the lead."""
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(HEARTBEAT_S):
                try:
                    self._beat()
                except PASSING:
                    logger.warning("a heartbeat was not recorded", exc_info=True)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _beat(self) -> None:
        for number in list(self._mine):
            self._storage.record_heartbeat(self._id_of(number))
        if self._is_leading:
            self._storage.set_study_user_attr(self._study_id, _LEAD, time.time())

    def read_lead(self) -> float | None:
        """Read when the run that leads was last seen, by its own clock."""
        seen: float | None = self._storage.get_study_user_attrs(self._study_id).get(_LEAD)
        return seen

    def _queue(self, trial: FrozenTrial | optuna.Trial, attributes: dict[str, Any]) -> None:
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=attributes,
            )
        )

    def _list(self, state: TrialState) -> Sequence[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(state,))

    def _id_of(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def _lost(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """List the trials that failed and are not queued again yet."""
    retried = {trial.user_attrs.get(_RETRY_OF) for trial in trials}
    return [
        trial for trial in trials if trial.state is TrialState.FAIL and trial.number not in retried
    ]


def _explain_end(trial: FrozenTrial) -> str:
    """Say why a trial ends its sweep, and what to do."""
    why = trial.user_attrs.get(_ERROR, "its worker ended or gave no sign")
    return (
        f"trial {trial.number} must end with a result, it was cut off {N_RETRIES + 1} times "
        f"(the last time: {why}); mend this, then run train-sweep with the same parameters, "
        "which tries it again"
    )


def has_raised(trial: FrozenTrial) -> bool:
    """Check whether a trial failed with an error, and not with its worker."""
    return _ERROR in trial.user_attrs


def run_of(trial: FrozenTrial) -> str | None:
    """Return the MLflow run of a trial, once it has one."""
    run_id: str | None = trial.user_attrs.get(_RUN)
    return run_id
