"""Threads of the service that follow what other machines write to the store.

Releases and reports each have their own, so that large reports do not delay a release.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from ecg_lib.operations.releases import NOTES, ReleaseError
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.mirror import Mirror, mirror_reports
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


class _Poller:
    """Looks at the store from `start` until `close`, less often while that fails."""

    def __init__(self, name: str) -> None:
        self._problem = ""
        self._pause_s = _POLL_S
        self._stop = threading.Event()
        # A request to a store that does not answer must not keep the process alive.
        self._thread = threading.Thread(target=self._follow, name=name, daemon=True)

    def look(self) -> None:
        """Look once; log a new failure once."""
        raise NotImplementedError

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def close(self) -> None:
        """Stop polling."""
        self._stop.set()

    def _note(self, problem: str) -> None:
        if problem:
            self._pause_s = min(_LONGEST_POLL_S, 2 * self._pause_s)
        else:
            self._pause_s = _POLL_S
        if problem and problem != self._problem:
            _logger.error("%s: the store cannot be followed: %s", self._thread.name, problem)
        elif self._problem and not problem:
            _logger.info("%s: the store is followed again", self._thread.name)
        self._problem = problem

    def _follow(self) -> None:
        while not self._stop.wait(self._pause_s):
            try:
                self.look()
            except Exception as error:  # what comes later must still be taken
                self._note(f"{type(error).__name__}: {error}")
                _logger.exception("the store is looked at again in %g s", self._pause_s)


class Follower(_Poller):
    """Takes the releases of other machines; workers see a change of ``current.json``.

    Parameters
    ----------
    settings : Settings
        Must have the URL of a store.

    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("releases")
        self.refusal: ReleaseError | None = None
        """Why the release of the store was rejected; it is tried again."""
        self._settings = settings
        self._store: ObjectStore | None = None

    def look(self) -> None:
        """Take the release of another machine, if there is one; log a new failure once."""
        refusal, problem = None, ""
        try:
            with holding_releases(self._settings) as is_free:
                if is_free:  # otherwise this machine releases, or another process looks
                    self._take()
        except ReleaseError as error:
            refusal, problem = error, str(error)
        except (StoreError, OSError) as error:
            problem = str(error)
        self.refusal = refusal
        self._note(problem)

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


class ReportsFollower(_Poller):
    """Makes the reports of this home those of the store, which the service shows.

    Parameters
    ----------
    settings : Settings
        Must have the URL of a store.

    """

    def __init__(self, settings: Settings) -> None:
        super().__init__("reports")
        self._settings = settings
        self._mirror: Mirror | None = None

    def look(self) -> None:
        """Fetch new and damaged reports, and delete those that are gone."""
        try:
            if self._mirror is None:
                self._mirror = mirror_reports(self._settings)
            n_changed = self._mirror.pull()
        except (StoreError, OSError) as error:
            self._note(str(error))
            return
        if n_changed:
            _logger.info("%d reports changed in the store and are as they are there", n_changed)
        self._note("")
