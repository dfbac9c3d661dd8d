"""Storage of studies on a database server that may drop connections, or be started again."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, Final, TypeVar
from uuid import uuid4

import optuna
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

T = TypeVar("T")

PASSING: Final = (StorageInternalError, OSError)
"""Errors of a connection; pg8000 lets some of the socket through as they are."""

logger = logging.getLogger(__name__)

OUTAGE_S: Final = 180.0
"""A server that does not answer for longer ends the run; PostgreSQL starts again in seconds."""

_POLL_S: Final = 1.0

_TRANSIENT_STATES: Final = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE that pass: connection, conflict with other transactions, resources, locks,
shutdown of the server, its disk. Appendix A of the manual of PostgreSQL."""

_TRANSIENT: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError, OSError)
"""Errors without a SQLSTATE that pass: the server was not reached."""

_ADDED_AS: Final = "ecg:added_as"
"""System attribute of a trial: names the request that added it."""

_REPEATABLE: Final = (
    *("set_study_user_attr", "get_study_id_from_name", "get_study_name_from_id"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"),
    *("get_trial_id_from_study_id_trial_number", "get_trial", "get_all_trials", "_get_trials"),
    *("get_best_trial", "_get_best_trial_id", "record_heartbeat", "_get_stale_trial_ids"),
)
"""Requests that may be sent twice."""


def wait_out(ask: Callable[[], T], *, outage_s: float = OUTAGE_S) -> T:
    """Send a request again while the server does not answer, or asks to try later.

    An error that the same request would meet again is raised at once: a table that is missing, SQL
    that the server rejects, a password that is wrong.

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
            if not is_transient(error) or time.monotonic() > deadline_s:
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


def is_transient(error: BaseException) -> bool:
    """Return whether a request may succeed when it is sent again.

    The server's own code decides where there is one: drivers name the classes of errors
    differently, and pg8000 has a general one for most.
    """
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if cause is None:
        return True
    state = _read_state(cause)
    if state is not None:
        return state.startswith(_TRANSIENT_STATES)
    if isinstance(cause, sa.exc.DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(cause, _TRANSIENT)


def _read_state(error: BaseException) -> str | None:
    """Read the SQLSTATE of an error, as pg8000 and other drivers give it."""
    orig = getattr(error, "orig", None)
    given = orig.args[0] if orig is not None and orig.args else None
    if isinstance(given, dict):
        return given.get("C")
    for name in ("sqlstate", "pgcode"):
        if isinstance(state := getattr(orig, name, None), str):
            return state
    return None


def _make_repeating(name: str) -> Callable[..., Any]:
    method = getattr(optuna.storages.RDBStorage, name)

    @wraps(method)
    def ask(self: optuna.storages.RDBStorage, *given: Any, **named: Any) -> Any:  # noqa: ANN401
        return wait_out(partial(method, self, *given, **named))

    return ask


class RetryingStorage(optuna.storages.RDBStorage):
    """A storage that sends a request again when its connection was lost.

    A commit may have been made though its answer was lost. So each trial names the request that
    adds it, which is looked for under the lock of the study before the trial is added. A result
    that is stored already counts as stored. A trial that was taken in such a commit is taken by
    nobody: it has no worker, and the run that leads queues it again.
    """

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        """Add a trial once; studies call this method through their cache."""
        if template_trial is None:
            return super()._create_new_trial(study_id)
        token = uuid4().hex
        named = copy.deepcopy(template_trial)
        named.system_attrs = {**template_trial.system_attrs, _ADDED_AS: token}
        return self.get_trial(wait_out(partial(self._add_once, study_id, named, token)))

    def _add_once(self, study_id: int, trial: FrozenTrial, token: str) -> int:
        """Add a trial in one transaction, unless an earlier one has; return its id.

        Not by the method of the base class, which sends the request again by itself. The lock waits
        for an earlier transaction whose answer was lost.
        """
        with _create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            attribute = models.TrialSystemAttributeModel
            found = (
                session.query(attribute.trial_id)
                .join(models.TrialModel, models.TrialModel.trial_id == attribute.trial_id)
                .filter(models.TrialModel.study_id == study_id)
                .filter(attribute.key == _ADDED_AS)
                .filter(attribute.value_json == json.dumps(token))
                .one_or_none()
            )
            if found is not None:
                return int(found[0])
            return int(self._get_prepared_new_trial(study_id, trial, session).trial_id)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Change the state of a trial, which may have been changed to it already."""
        change = partial(super().set_trial_state_values, trial_id, state, values)
        try:
            return change()
        except PASSING as error:
            if not is_transient(error):
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
