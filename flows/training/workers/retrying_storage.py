"""Storage of studies on a database server that may drop connections, or be started again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, Final, TypeVar

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

T = TypeVar("T")

PASSING: Final = (StorageInternalError, OSError)
"""Errors of a connection; pg8000 lets some of the socket through as they are."""

logger = logging.getLogger(__name__)

OUTAGE_S: Final = 180.0
"""A server that does not answer for longer ends the run; PostgreSQL starts again in seconds."""

_POLL_S: Final = 1.0
_LASTING: Final = (sa.exc.DataError, sa.exc.NotSupportedError)
"""Errors that the same request would meet again."""

_REPEATABLE: Final = (
    *("set_study_user_attr", "get_study_id_from_name", "get_study_name_from_id"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"),
    *("get_trial_id_from_study_id_trial_number", "get_trial", "get_all_trials", "_get_trials"),
    *("get_best_trial", "record_heartbeat", "_get_stale_trial_ids"),
)
"""Requests that may be sent twice."""


def wait_out(ask: Callable[[], T], *, outage_s: float = OUTAGE_S) -> T:
    """Send a request again while the server does not answer.

    Args:
        ask: Sends it; must be repeatable.
        outage_s: How long the server may be gone.

    Raises:
        StorageInternalError: If it does not answer for so long, or rejects the request.
    """
    deadline_s, has_failed = time.monotonic() + outage_s, False
    while True:
        try:
            found = ask()
        except PASSING as error:
            if isinstance(error.__cause__, _LASTING) or time.monotonic() > deadline_s:
                raise
            if not has_failed:
                logger.warning(
                    "the storage of studies is asked again: %s", error.__cause__ or error
                )
            has_failed = True
            time.sleep(_POLL_S)
            continue
        if has_failed:
            logger.warning("the storage of studies answers again")
        return found


def _make_repeating(name: str) -> Callable[..., Any]:
    method = getattr(optuna.storages.RDBStorage, name)

    @wraps(method)
    def ask(self: optuna.storages.RDBStorage, *given: Any, **named: Any) -> Any:  # noqa: ANN401
        return wait_out(partial(method, self, *given, **named))

    return ask


class RetryingStorage(optuna.storages.RDBStorage):
    """A storage that sends a request again when its connection was lost.

    A commit may have been made though its answer was lost. So a trial is added only if it is not
    there yet, and a result that is stored already counts as stored. A trial that was taken in such
    a commit is taken by nobody: it has no worker, and the run that leads queues it again.
    """

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial once."""
        add = partial(super().create_new_trial, study_id, template_trial)
        try:
            return add()
        except PASSING as error:
            if template_trial is None or isinstance(error.__cause__, _LASTING):
                raise

        def add_if_missing() -> int:
            for trial in self.get_all_trials(study_id, deepcopy=False):
                if (trial.params, trial.user_attrs) == (
                    template_trial.params,
                    template_trial.user_attrs,
                ):
                    return trial._trial_id  # noqa: SLF001  what the method returns
            return add()

        return wait_out(add_if_missing)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Change the state of a trial, which may have been changed to it already."""
        change = partial(super().set_trial_state_values, trial_id, state, values)
        try:
            return change()
        except PASSING as error:
            if isinstance(error.__cause__, _LASTING):
                raise
        try:
            return wait_out(change)
        except UpdateFinishedTrialError:
            stored = self.get_trial(trial_id)
            if (stored.state, stored.values) != (state, None if values is None else list(values)):
                raise
            return True


for _name in _REPEATABLE:
    setattr(RetryingStorage, _name, _make_repeating(_name))
