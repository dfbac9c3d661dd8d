"""The candidate that is loaded beside the served model, and its end at once.

A thread looks at ``serving/candidate.json``. A candidate that was made against the served release,
with the code of this process and a valid signature, is loaded and asked its golden requests, as a
release is. One that cannot be loaded, or that makes too many errors, is ended in all workers by
``serving/candidate-halt.json``; the flow ``watch-rollout`` then closes it. An answer that takes too
long is an error too. Too many errors count as a broken bound, and a candidate that cannot be loaded
as stopped: its files or the memory of one worker may be the reason. A file that is torn or cannot
be read is reported, and no candidate is tried meanwhile; the latter is looked at again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from bentos.runtime.live_model import LiveModel, LoadedModel, load_model
from bentos.runtime.metrics import RolloutState
from bentos.runtime.prediction.rollout.pace import Pace
from ecg_lib.operations.keys.signatures import check_signature
from ecg_lib.operations.learning.rollout.candidate import (
    CANDIDATE,
    HALT,
    Candidate,
    CandidateError,
    EndKind,
    read_candidate,
    read_halt,
    write_halt,
)
from ecg_lib.operations.releases import ReleaseError, is_same_release, model_directory
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import state_of

_POLL_S: Final = 0.2
_MAX_REASON: Final = 500
_SLOW_COUNTS_S: Final = 3600.0
"""Time for which an answer that took too long counts."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenCandidate:
    """A candidate that is loaded."""

    candidate: Candidate
    model: LoadedModel


class CandidateModel:
    """Holds the candidate; one read of :attr:`current` serves one request.

    Parameters
    ----------
    settings : Settings
    live : LiveModel
        The model that is served.
    count_slow : callable, optional
        Called for each answer that takes too long.

    """

    def __init__(
        self,
        settings: Settings,
        live: LiveModel,
        *,
        count_slow: Callable[[], object] = lambda: None,
    ) -> None:
        self.pace = Pace(self._note_slow)
        """How long its answers may take."""
        self._count_slow = count_slow
        self.current: OpenCandidate | None = None
        self.problem: str | None = None
        """Why the candidate of the file is not tried."""
        self._settings = settings
        self._live = live
        self._path = settings.serving_dir / CANDIDATE
        self._halt_path = settings.serving_dir / HALT
        self._seen: tuple[object, ...] | None = None
        self._is_halted = False
        self._counted_id = ""
        self._n_failures = 0
        self._slow_at: list[float] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="candidate-watcher", daemon=True)

    def apply(self) -> None:
        """Take what the file says, when it or the served model has changed."""
        live = self._live.current
        state = (state_of(self._path), state_of(self._halt_path), live)
        if state == self._seen:
            return
        self._seen, self._is_halted = state, False
        try:
            candidate = read_candidate(self._path)
            problem = None if candidate is None else self._find_problem(candidate, live)
        except CandidateError as error:
            candidate, problem = None, str(error)
            self._seen = None  # it may be readable at the next look, with the same times
        self._note_problem(problem)
        if candidate is None or problem is not None:
            self.current = None
            return
        loaded = self.current
        if loaded is None or not is_same_release(loaded.candidate.release, candidate.release):
            self.current = None
            self._load(candidate)
        else:
            self.current = replace(loaded, candidate=candidate)

    @property
    def state(self) -> RolloutState:
        """The candidate as metrics show it."""
        opened = self.current
        if opened is None:
            return RolloutState(is_halted=self._is_halted)
        return RolloutState(share=opened.candidate.share, stage=opened.candidate.stage)

    def note_failure(self, candidate: Candidate, failure: str) -> None:
        """Count an error of the candidate, and end it when there are too many."""
        self._count_error(candidate, failure, is_slow=False)

    def _note_slow(self, candidate: Candidate, failure: str) -> None:
        """Count an answer that takes too long, for an hour: a busy machine delays some."""
        _logger.warning("the candidate %s is %s", candidate.release.bento_tag, failure)
        self._count_slow()
        self._count_error(candidate, failure, is_slow=True)

    def _count_error(self, candidate: Candidate, failure: str, *, is_slow: bool) -> None:
        opened, now = self.current, monotonic()
        if opened is not None and opened.candidate.id != candidate.id:
            return  # of one that has ended: it must not end its successor
        with self._lock:
            if self._counted_id != candidate.id:
                self._counted_id, self._n_failures, self._slow_at = candidate.id, 0, []
            self._slow_at = [at for at in self._slow_at if now - at < _SLOW_COUNTS_S]
            if is_slow:
                self._slow_at.append(now)
            else:
                self._n_failures += 1
            n = self._n_failures + len(self._slow_at)
        if n >= candidate.plan.bounds.max_failures:
            reason = f"{n} errors in one worker, the last: {failure}"
            self._halt(candidate, reason, kind=EndKind.TAKEN_BACK)

    def start(self) -> None:
        """Begin to look at the file."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _find_problem(self, candidate: Candidate, live: LoadedModel | None) -> str | None:
        halt = read_halt(self._halt_path)
        self._is_halted = halt is not None and halt.candidate_id == candidate.id
        if halt is not None and self._is_halted:
            return halt.reason
        if candidate.ending is not None:
            return candidate.ending.reason
        if candidate.release.code_hash != self._live.code_hash:
            return (
                f"it has other code ({candidate.release.code_hash[:12]}) than this process "
                f"({self._live.code_hash[:12]}), and can only be released at once"
            )
        served = None if live is None else live.release
        if not is_same_release(served, candidate.champion):
            tag = "nothing" if live is None else live.bento_tag
            return f"it was made against {candidate.champion.bento_tag}, {tag} is served"
        return None

    def _load(self, candidate: Candidate) -> None:
        release = candidate.release
        try:
            check_signature(self._settings, release)
            model = load_model(
                model_directory(self._settings.bentoml_home, release),
                bento_tag=release.bento_tag,
                version=release.model_version,
                bundle_hash=release.bundle_hash,
            )
        except ReleaseError as error:
            self._halt(candidate, f"it cannot be loaded: {error}", kind=EndKind.STOPPED)
            return
        self.current = OpenCandidate(candidate=candidate, model=replace(model, release=release))
        _logger.info("trying %s beside %s", release.bento_tag, candidate.champion.bento_tag)

    def _note_problem(self, problem: str | None) -> None:
        if problem != self.problem and problem is not None:
            _logger.error("the candidate is not tried: %s", problem)
        self.problem = problem

    def _halt(self, candidate: Candidate, reason: str, *, kind: EndKind) -> None:
        """End the candidate here at once, and in all workers as soon as they see the file."""
        self.current, self.problem, self._is_halted = None, reason[:_MAX_REASON], True
        _logger.error("the candidate %s is ended: %s", candidate.release.bento_tag, self.problem)
        try:
            write_halt(
                self._halt_path,
                candidate.id,
                reason=reason[:_MAX_REASON],
                at=datetime.now(UTC),
                kind=kind,
            )
        except OSError as error:
            _logger.error("the end of the candidate cannot be written: %s", error.strerror)  # noqa: TRY400  the disk's

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            try:
                self.pace.look()
                self.apply()
            except Exception as error:  # whatever a look raises, later ones must see the end
                # A candidate that cannot be followed is not tried, and is looked at again.
                self.current, self._seen = None, None
                problem = f"the look at it failed: {type(error).__name__}: {error}"
                if problem != self.problem:  # once, not for each look
                    _logger.exception("the candidate is not tried")
                self.problem = problem
