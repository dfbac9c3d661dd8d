"""A thread of the service that follows the releases of other machines in the store."""

from __future__ import annotations

import logging
import threading
from typing import Final

from ecg_lib.operations.releases import NOTES, ReleaseError
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.objects import (
    MOST_READ_BYTES,
    ObjectStore,
    StoreError,
    open_store,
)
from ecg_lib.operations.store.shared_releases import adopt_release, holding_releases

NOTES_KEY: Final = f"ledger/{NOTES}"
"""The latest events of the ledger, which the service shows."""

_POLL_S: Final = 2.0
_LONGEST_POLL_S: Final = 30.0

_logger = logging.getLogger(__name__)


class Follower:
    """Polls the store from `start` until `close`; workers see a change of ``current.json``.

    Parameters
    ----------
    settings : Settings
        Must have the URL of a store.

    """

    def __init__(self, settings: Settings) -> None:
        self.refusal: ReleaseError | None = None
        """Why the release of the store was rejected; it is tried again."""
        self._settings = settings
        self._store: ObjectStore | None = None
        self._problem = ""
        self._pause_s = _POLL_S
        self._stop = threading.Event()
        # A request to a store that does not answer must not keep the process alive.
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def look(self) -> None:
        """Take the release of another machine, if there is one; log a new failure once."""
        try:
            with holding_releases(self._settings) as is_free:
                if is_free:  # otherwise this machine releases, or another process looks
                    self._take()
            self._note("", None)
        except ReleaseError as error:
            self._note(str(error), error)
        except (StoreError, OSError) as error:
            self._note(str(error), None)

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()

    def _take(self) -> None:
        if self._store is None:
            self._store = open_store(str(self._settings.store_url))
        taken = adopt_release(self._settings, self._store)
        if taken is None:
            return
        _logger.info("took %s from the store", taken.bento_tag)
        directory = self._settings.ledger_dir
        if not (directory / ".git").exists():  # a home with a ledger writes them itself
            directory.mkdir(parents=True, exist_ok=True)
            self._store.download(NOTES_KEY, directory / NOTES, most_bytes=MOST_READ_BYTES)

    def _note(self, problem: str, refusal: ReleaseError | None) -> None:
        self.refusal = refusal
        if problem:
            self._pause_s = min(_LONGEST_POLL_S, 2 * self._pause_s)
        else:
            self._pause_s = _POLL_S
        if problem and problem != self._problem:
            _logger.error("the store cannot be followed: %s", problem)
        elif self._problem and not problem:
            _logger.info("the store is followed again")
        self._problem = problem

    def _follow(self) -> None:
        while not self._stop.wait(self._pause_s):
            try:
                self.look()
            except Exception as error:  # a later release must still be taken
                self._note(f"{type(error).__name__}: {error}", None)
                _logger.exception("the store is looked at again in %g s", self._pause_s)
